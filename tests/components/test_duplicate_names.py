"""A name that two distributions take is an error that names both; every other name works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from dskd_components import DSKDSpec, PluginError, __version__, get_aligner, get_distance, list_components
from dskd_components.components import default_registry
from dskd_components.distances import KL
from dskd_components.spec.presets import PRESETS
from tests.helpers.fake_distributions import FakeDistribution, offering

if TYPE_CHECKING:
    from collections.abc import Callable


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
