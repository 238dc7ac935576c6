"""`dskd list`: everything installed, everything that is not used, and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dskd_components import __version__, list_components
from tests.helpers.fake_distributions import FakeDistribution, offering

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.commands import Ran

Run = "Callable[..., Ran]"
BROKEN = FakeDistribution("broken-plugin", "raise RuntimeError('[red]boom[/red]')", "2.7.1")
NEWER = FakeDistribution(
    "newer-plugin",
    "",
    metadata="Metadata-Version: 2.4\nName: newer-plugin\nVersion: 1.0\nRequires-Dist: dskd-components>=99\n",
)


def test_into_a_pipe_each_component_is_one_line_with_everything(dskd: Callable[..., Ran]) -> None:
    ran = dskd("list")
    assert (ran.code, ran.err) == (0, "")
    header, *rows = ran.out.splitlines()
    assert header.split() == ["kind", "name", "distribution", "version", "claims", "source"]
    for info, row in zip(list_components(), rows, strict=True):
        assert row.split()[:4] == [info.kind, info.name, info.distribution, info.version]
        assert row.rstrip().endswith(info.component.source)
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_on_a_terminal_it_fits_and_nothing_is_cut(dskd: Callable[..., Ran], columns: int) -> None:
    ran = dskd("list", columns=columns)
    assert max(map(len, ran.out.splitlines())) <= columns
    assert "…" not in ran.out
    for info in list_components():
        assert info.name in ran.out
    assert f"Versions: dskd-components {__version__}, dskd-divergences" in ran.words


def test_one_kind(dskd: Callable[..., Ran]) -> None:
    ran = dskd("list", "aligner")
    assert [line.split()[1] for line in ran.out.splitlines()[1:]] == [info.name for info in list_components("aligner")]


def test_an_unknown_kind(dskd: Callable[..., Ran]) -> None:
    ran = dskd("list", "aligners")
    assert ran.code == 1
    assert ran.err.startswith("error: unknown kind of component 'aligners' (did you mean 'aligner'?)")


def test_claims(dskd: Callable[..., Ran]) -> None:
    claims = {info["name"]: info["claims"] for info in json.loads(dskd("list", "--json").out)["components"]}
    assert claims["js"] == ["symmetric", "≤ log 2", "closed form"]
    assert "gradient is not the derivative" in claims["adaptive_kl"]
    assert claims["identity"] == ["one tokenizer"]
    assert claims["cma"] == ["two tokenizers"]
    assert claims["student"] == ["student rows", "t2s"]


def test_json_has_everything(
    dskd: Callable[..., Ran], install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(BROKEN, offering("bold-plugin", "kl", "modest"), offering("forbidden-plugin", "lost"))
    monkeypatch.setenv("DSKD_DISABLE_PLUGINS", "forbidden-plugin,dskd-divergance")
    ran = dskd("list", "--json", columns=20)
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert {(info["kind"], info["name"], info["distribution"]) for info in found["components"]} >= {
        ("distance", "kl", "dskd-components"),
        ("distance", "kl", "bold-plugin"),
        ("distance", "modest", "bold-plugin"),
    }
    [kl] = [c for c in found["components"] if (c["name"], c["distribution"]) == ("kl", "dskd-components")]
    assert kl["source"] == "Hinton et al. 2015, arXiv 1503.02531"
    assert (kl["version"], kl["class"]) == (__version__, "dskd_components.distances.kl.KL")
    [broken] = found["broken"]
    assert (broken["plugin"], broken["distribution"]) == ("broken-plugin-entry", "broken-plugin")
    assert "[red]boom[/red]" in broken["reason"]
    assert [disabled["distribution"] for disabled in found["disabled"]] == ["forbidden-plugin"]
    assert [taken["name"] for taken in found["taken_twice"]] == ["kl"]
    assert found["not_installed"] == ["dskd-divergance"]


@pytest.mark.parametrize("columns", [None, 80, 120])
def test_what_is_not_used_comes_last_with_its_reason(
    dskd: Callable[..., Ran],
    install: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    columns: int | None,
) -> None:
    install(BROKEN, NEWER, offering("bold-plugin", "kl"), offering("forbidden-plugin", "lost"))
    monkeypatch.setenv("DSKD_DISABLE_PLUGINS", "forbidden-plugin,dskd-divergance")
    ran = dskd("list", columns=columns)
    assert (ran.code, ran.err) == (0, "")
    for note in (
        f"taken twice: distance 'kl' by bold-plugin 1.0 and dskd-components {__version__}; it cannot be used by name",
        "broken: plugin 'broken-plugin-entry' of distribution broken-plugin 2.7.1 cannot be imported from "
        "'broken_plugin': RuntimeError: [red]boom[/red]",
        f"broken: plugin 'newer-plugin-entry' of distribution newer-plugin 1.0 needs dskd-components>=99, and "
        f"dskd-components {__version__} is installed",
        "disabled: plugin 'forbidden-plugin-entry' of distribution forbidden-plugin 1.0, by "
        "DSKD_DISABLE_PLUGINS=forbidden-plugin,dskd-divergance",
        "not installed: dskd-divergance, which DSKD_DISABLE_PLUGINS=forbidden-plugin,dskd-divergance names "
        "(did you mean 'dskd-divergences'",
    ):
        assert note in ran.words
    assert "lost" not in ran.words.partition("taken twice")[0]


def test_a_component_that_fails_when_it_is_made_does_not_take_the_list_down(
    dskd: Callable[..., Ran], install: Callable[..., None]
) -> None:
    source = """
    class Fragile(distance_class("fragile")):
        def model_post_init(self, context):
            raise ZeroDivisionError("alpha")
    class Needy(distance_class("needy")):
        order: float
    @hookimpl
    def dskd_distances():
        return [Fragile, Needy]
    """
    install(FakeDistribution("fragile-plugin", source))
    claims = {info["name"]: info["claims"] for info in json.loads(dskd("list", "--json").out)["components"]}
    assert claims["fragile"] == ["not known: ZeroDivisionError: alpha"]
    assert claims["needy"] == ["depend on required options"]
    assert "kl" in claims


def test_no_colour_and_colour(dskd: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in dskd("list", columns=80).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in dskd("list", columns=80).out
