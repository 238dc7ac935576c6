"""`dskd show`: one component, whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dskd_components import list_components
from dskd_components.cli.options import options_of
from tests.helpers.fake_distributions import FakeDistribution, offering

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.commands import Ran


@pytest.mark.parametrize("info", list_components(), ids=lambda info: f"{info.kind} {info.name}")
@pytest.mark.parametrize("columns", [60, 80, None])
def test_everything_that_is_registered(dskd: Callable[..., Ran], info: object, columns: int | None) -> None:
    ran = dskd("show", info.name, "--kind", info.kind, columns=columns)  # type: ignore[attr-defined]
    assert (ran.code, ran.err) == (0, "")
    component = info.component  # type: ignore[attr-defined]
    for option in options_of(component):
        assert f"{option.name}: {option.type}" in ran.words
    assert " ".join(component.source.split()) in ran.words
    assert "Examples" not in ran.out
    assert "``" not in ran.out
    if columns:
        assert max(map(len, ran.out.splitlines())) <= columns


def test_what_it_says(dskd: Callable[..., Ran]) -> None:
    ran = dskd("show", "skew_kl", columns=80)
    assert "Formula KL(teacher || alpha teacher + (1 - alpha) student)" in ran.words
    assert "alpha: float (above 0, below 1), default 0.1 The share of the teacher that is mixed" in ran.words
    assert "Claims ≤ 2.303" in ran.words
    assert "In a spec file distance: skew_kl" in ran.words
    assert "In a spec file spaces: [teacher]" in dskd("show", "teacher").words
    assert "In a spec file t2s_projector: mlp" in dskd("show", "mlp").words


def test_options_of_every_sort(dskd: Callable[..., Ran], install: Callable[..., None]) -> None:
    source = """
    from collections.abc import Mapping
    from typing import Annotated
    from pydantic import Field
    from dskd_components.components import AnyDistance
    class Odd(distance_class("odd")):
        '''Odd.'''
        order: Annotated[int, Field(ge=1, le=3)]
        one: float = 1.0
        flag: bool = False
        parts: tuple[AnyDistance, ...] = ()
        by_name: Mapping[str, float] = Field(default_factory=dict)
        inner: AnyDistance = "js"
        maybe: Annotated[float, Field(gt=0)] | None = None
    class Undescribed(distance_class("undescribed")):
        pass
    @hookimpl
    def dskd_distances():
        return [Odd, Undescribed]
    """
    install(FakeDistribution("odd-plugin", source))
    words = dskd("show", "odd").words
    for line in (
        "order: int (at least 1, at most 3), required",
        "one: float, default 1.0",
        "flag: yes or no, default no",
        "parts: tuple of distance, default ()",
        "by_name: Mapping of str, float, default made anew",
        "inner: distance, default js",
        "maybe: float (above 0) or none, default none",
        "Claims depend on required options",
        "In a spec file distance: {name: odd, order: ...}",
    ):
        assert line in words
    ran = dskd("show", "undescribed")
    assert ran.code == 0
    assert ran.out.startswith("distance undescribed  odd-plugin 1.0")
    assert "A divergence between two distributions" not in ran.out


def test_a_name_of_two_kinds(dskd: Callable[..., Ran], install: Callable[..., None]) -> None:
    install(offering("other-kind", "cma"))
    ran = dskd("show", "cma")
    assert ran.code == 1
    assert ran.err == (
        "error: 'cma' is the name of the distance and of the aligner; "
        "say which with --kind distance or --kind aligner.\n"
    )
    assert dskd("show", "cma", "--kind", "distance").out.startswith("distance cma  other-kind 1.0")
    assert dskd("show", "cma", "--kind", "aligner").out.startswith("aligner cma  dskd-components")


def test_a_name_taken_twice_shows_both(dskd: Callable[..., Ran], install: Callable[..., None]) -> None:
    install(offering("bold-plugin", "kl"))
    ran = dskd("show", "kl")
    assert ran.out.count("cannot be used by name") == 2
    assert "distance kl  bold-plugin 1.0" in ran.out
    assert "distance kl  dskd-components" in ran.out


def test_an_unknown_name(dskd: Callable[..., Ran], install: Callable[..., None]) -> None:
    ran = dskd("show", "reverse_lk")
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("error: unknown component 'reverse_lk' (did you mean 'reverse_kl'")
    assert dskd("show", "kl", "--kind", "aligner").err.startswith("error: unknown aligner 'kl'")
    assert "did you mean 'distance'" in dskd("show", "kl", "--kind", "distanc").err

    install(FakeDistribution("broken-plugin", "raise RuntimeError('boom')", "2.7.1"))
    ran = dskd("show", "broken")
    assert ran.err.count("broken-plugin 2.7.1 cannot be imported") == 2  # the warning, and the reason in the error
    assert ran.err.startswith("warning: plugin 'broken-plugin-entry' of distribution broken-plugin 2.7.1")
