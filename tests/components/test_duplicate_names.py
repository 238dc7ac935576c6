"""A name that two distributions take is an error that names both; every other name works."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import ValidationError

from dskd_components import (
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    PluginError,
    __version__,
    get_aligner,
    get_distance,
    list_components,
)
from dskd_components.aligners import Identity
from dskd_components.components import default_registry
from dskd_components.distances import KL
from dskd_components.projectors import Linear
from dskd_components.spaces import StudentSpace
from dskd_components.spec import CosineSchedule
from dskd_components.spec.presets import PRESETS
from tests.helpers.fake_distributions import FakeDistribution, offering

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def schema_names(kind: str) -> list[str]:
    names: list[str] = DSKDSpec.model_json_schema()["properties"][kind]["anyOf"][0]["enum"]
    return names


def test_two_distributions(install: Callable[..., None]) -> None:
    install(offering("first-plugin", "taken", "first"), offering("second-plugin", "taken", "second", version="2.3"))
    with pytest.raises(PluginError, match="distance 'taken' is taken twice") as error:
        get_distance("taken")
    for taker in (
        "plugin 'first-plugin-entry' of distribution first-plugin 1.0",
        "plugin 'second-plugin-entry' of distribution second-plugin 2.3",
    ):
        assert taker in str(error.value)
    with pytest.raises(ValidationError, match=r"first-plugin 1\.0 and by .* second-plugin 2\.3") as invalid:
        DSKDSpec(distance={"name": "taken"})
    assert invalid.value.errors()[0]["loc"] == ("distance", "name")

    assert [get_distance(name).name for name in ("first", "second", "kl", "tvd")] == ["first", "second", "kl", "tvd"]
    assert not default_registry().broken
    takers = [info.distribution for info in list_components("distance") if info.name == "taken"]
    assert takers == ["first-plugin", "second-plugin"]


def test_the_name_of_a_built_in(install: Callable[..., None]) -> None:
    install(offering("bold-plugin", "kl", "modest"))
    with pytest.raises(PluginError, match="'kl' is taken twice") as error:
        get_distance("kl")
    assert f"distribution dskd-components {__version__}" in str(error.value)
    assert "distribution bold-plugin 1.0" in str(error.value)

    assert get_distance("modest").name == "modest"
    assert get_distance("js").name == "js"
    # Only the name is contested, not the class.
    assert DSKDSpec().distance == DSKDSpec(distance=KL()).distance == KL()
    for preset in PRESETS:
        DSKDSpec.preset(preset)


def test_the_schema_offers_no_name_that_cannot_be_used(install: Callable[..., None]) -> None:
    install(offering("bold-plugin", "kl", "modest"))
    assert "kl" not in schema_names("distance")
    assert {"modest", "reverse_kl"} <= set(schema_names("distance"))
    assert '"const": "kl"' not in json.dumps(DSKDSpec.model_json_schema())


def test_one_distribution_with_itself(install: Callable[..., None]) -> None:
    install(offering("confused-plugin", "twice", "twice", "once"))
    with pytest.raises(PluginError, match=r"'twice' is taken twice.*confused-plugin 1\.0"):
        get_distance("twice")
    assert get_distance("once").name == "once"


def test_one_name_for_two_kinds(install: Callable[..., None]) -> None:
    install(offering("other-kind", "cma"))
    assert get_distance("cma").kind == "distance"
    assert get_aligner("cma").kind == "aligner"


def test_one_class_through_two_plugins(install: Callable[..., None]) -> None:
    source = """
    from dskd_components.distances import KL
    @hookimpl
    def dskd_distances():
        return [KL]
    """
    install(FakeDistribution("reexporting-plugin", source))
    assert get_distance("kl") == KL()
    [info] = [info for info in list_components("distance") if info.name == "kl"]
    assert info.distribution in {"dskd-components", "reexporting-plugin"}


class Louder(KL):
    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return 100 * super().__call__(student_log_probs, teacher_log_probs)


class Halfway(CosineSchedule):
    def at(self, step: int) -> float:
        return super().at(step) / 2


UNNAMED: dict[str, dict[str, Any]] = {
    "distance": {"distance": Louder()},
    "a space's distance": {"spaces": [{"name": "student", "distance": Louder()}]},
    "space": {"spaces": [type("Own", (StudentSpace,), {"__module__": __name__})()]},
    "aligner": {"aligner": type("Own", (Identity,), {"__module__": __name__})()},
    "projector": {"t2s_projector": type("Own", (Linear,), {"__module__": __name__})()},
    "schedule": {"kd_rate": Halfway(start=0, end=1, steps=10)},
}


@pytest.mark.parametrize("fields", UNNAMED.values(), ids=UNNAMED)
def test_a_class_that_has_the_name_of_another_is_refused_before_training(fields: dict[str, Any]) -> None:
    """A checkpoint holds names and options: it would be read as what it derives from, without a word."""
    spec = DSKDSpec(**{"t2s_projector": "linear", "s2t_projector": "linear"} | fields)
    message = r"^The (distance|space|aligner|projector|schedule) '\w+' \(tests\..*\) has the name of dskd_components\."
    with pytest.raises(ConfigurationError, match=message) as error:
        DSKDLoss(spec, student_hidden_size=2, teacher_hidden_size=3)
    assert 'name: Literal["my_' in str(error.value)


def test_so_is_one_of_a_plugin_unless_it_is_that_one(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(offering("first-plugin", "first"))
    cls: Any = default_registry().component_class("distance", "first")

    def build(distance: Any) -> None:
        spec = DSKDSpec(distance=distance, t2s_projector="linear", s2t_projector="linear")
        DSKDLoss(spec, student_hidden_size=2, teacher_hidden_size=3)

    build(cls())
    heir = type("Heir", (cls,), {"__module__": __name__})
    with pytest.raises(ConfigurationError, match=r"^The distance 'first' \(.*Heir\) has the name of "):
        build(heir())
    named = {"__module__": __name__, "__annotations__": {"name": Literal["named"]}, "name": "named"}
    build(type("Heir", (cls,), named)())
    # A script in the plugin's own package, or `dskd check` of its file, has the same class once more.
    for module in (cls.__module__, "run_alone"):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(__file__="first.py"))
    build(type(cls.__name__, (cls,), {"__module__": "run_alone", "__qualname__": cls.__qualname__})())
