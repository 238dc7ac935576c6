"""The recommended presets are what was measured; one whose plugin is not there says which distribution to install."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.evidence.arms import arms_of
from dskd_components import DSKDSpec, SpecFileError, TeacherSpec, UnknownComponentError, use_plugins
from dskd_components.components import default_registry, registry
from dskd_components.spec import parse_spec
from dskd_components.spec.presets import OF_PLUGINS, PRESETS, usable_presets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ONE, TWO = "recommended-one-vocabulary", "recommended-two-vocabularies"
NEEDS = rf"the preset '{TWO}' needs the space 'uld_hybrid' of the distribution dskd-uld, which is "


def test_they_are_the_arms_that_gained_most() -> None:
    assert arms_of("one")["dskd-vanilla"].spec == DSKDSpec.preset(ONE)
    assert arms_of("two")["strict-T-4"].spec == DSKDSpec.preset(TWO)


def test_a_teacher_of_several_has_no_share_of_its_own() -> None:
    whole = DSKDSpec.preset(TWO)
    of_teacher = TeacherSpec.preset(TWO)
    assert (of_teacher.spaces, of_teacher.aligner) == (whole.spaces, whole.aligner)
    read = parse_spec(f"teachers: {{a: {{preset: {TWO}}}}}\nkd_rate: 0.4", None)
    assert read.pair("a") == whole.replace(kd_rate=0.4)  # type: ignore[union-attr, arg-type]


def kept_out() -> str:
    use_plugins(disable=["dskd-uld"])
    return "installed, but left out .*disabled"


def uninstalled(monkeypatch: pytest.MonkeyPatch) -> str:
    others = [each for each in entry_points(group="dskd_components") if each.dist and each.dist.name != "dskd-uld"]
    monkeypatch.setattr(registry, "entry_points", lambda group: others)
    default_registry.cache_clear()
    return "not installed: install it"


@pytest.fixture(params=["kept out", "uninstalled"])
def why(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield kept_out() if request.param == "kept out" else uninstalled(monkeypatch)
    use_plugins()


def test_without_its_plugin_nothing_else_is_looked_at(why: str) -> None:
    assert set(PRESETS) - set(usable_presets()) == set(OF_PLUGINS)
    asked: list[Callable[[], Any]] = [
        lambda: DSKDSpec.preset(TWO),
        lambda: TeacherSpec.preset(TWO),
        lambda: DSKDSpec.preset(TWO, spaces=["nowhere"], temprature=0),
    ]
    for ask in asked:
        with pytest.raises(UnknownComponentError, match=f"^{NEEDS}{why}"):
            ask()
    files = {"preset": f"kd_rate: 1\npreset: {TWO}", "teachers.a.preset": f"teachers:\n  a: {{preset: {TWO}}}"}
    for path, text in files.items():
        with pytest.raises(SpecFileError, match=f"^f:2: {path}: {NEEDS}{why}"):
            parse_spec(text, None, source="f")
