"""A plugin may be broken in any way: it is reported by name, once, and everything else works."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from dskd_components import (
    DSKDSpec,
    PluginError,
    PluginWarning,
    UnknownComponentError,
    __version__,
    get_distance,
    list_components,
)
from dskd_components.components import default_registry
from tests.helpers.broken_plugins import BROKEN
from tests.helpers.fake_distributions import FakeDistribution, offering
from tests.helpers.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEALTHY = offering("healthy-plugin", "healthy")


@pytest.mark.parametrize(("distribution", "fragments"), BROKEN.values(), ids=BROKEN)
def test_it_is_reported_once_by_name_and_the_others_work(
    install: Callable[..., None], distribution: FakeDistribution, fragments: list[str]
) -> None:
    install(distribution, HEALTHY)
    with pytest.warns(PluginWarning) as caught:
        registry = default_registry()
    message = str(caught.pop(PluginWarning).message)
    assert not caught.list
    report = f"plugin 'broken-plugin-entry' of distribution broken-plugin {distribution.version}"
    for fragment in [report, *fragments]:
        assert fragment in message
    assert message.endswith(". It is left out; other plugins are not affected.")
    assert ".." not in message

    [broken] = registry.broken
    assert (broken.origin.plugin, broken.origin.distribution, broken.origin.version) == (
        distribution.plugin,
        distribution.name,
        distribution.version,
    )
    assert all(fragment in broken.reason for fragment in fragments)

    # From here on nothing warns, or the test would fail.
    assert {"kl", "tvd", "healthy"} <= {info.name for info in list_components("distance")}
    assert DSKDSpec(distance="healthy").distance == get_distance("healthy")
    assert "healthy" in json.dumps(DSKDSpec.model_json_schema())
    with pytest.raises(UnknownComponentError, match="unknown distance 'broken'") as unknown:
        get_distance("broken")
    assert report in str(unknown.value)
    with pytest.raises(ValidationError, match=report) as invalid:
        DSKDSpec(distance="broken")
    assert invalid.value.errors()[0]["loc"] == ("distance",)


@pytest.mark.parametrize("metadata", ["", "Metadata-Version: 2.4\n"], ids=["missing", "nameless"])
def test_an_installation_without_metadata_is_not_an_error(install: Callable[..., None], metadata: str) -> None:
    with warnings.catch_warnings():
        # Newer Pythons announce that a missing key will raise.
        warnings.simplefilter("error")
        install(FakeDistribution("half-removed", HEALTHY.source.replace("healthy", "half"), metadata=metadata))
        [half] = [info for info in list_components("distance") if info.name == "half"]
    assert (half.distribution, half.version) == ("unknown", "unknown")
    assert get_distance("kl").name == "kl"


@pytest.mark.parametrize(
    "requirement",
    [
        f"dskd-components>={__version__}",
        "dskd-components",
        "dskd-components>=99; extra == 'test'",
        "another-distribution>=99",
        "dskd-components or so",
    ],
)
def test_a_requirement_that_is_met_or_is_none_of_ours_is_no_reason(
    install: Callable[..., None], requirement: str
) -> None:
    metadata = f"Metadata-Version: 2.4\nName: healthy-plugin\nVersion: 1.0\nRequires-Dist: {requirement}\n"
    install(FakeDistribution("healthy-plugin", HEALTHY.source, metadata=metadata))
    assert get_distance("healthy").name == "healthy"


def test_a_requirement_is_checked_before_anything_is_imported(install: Callable[..., None]) -> None:
    distribution, _ = BROKEN["wants a newer library"]
    install(distribution)
    with pytest.warns(PluginWarning, match=r"needs dskd-components>=99, and .* fits the other\. It is left out"):
        get_distance("kl")
    assert distribution.module not in sys.modules


def test_a_validator_that_fails_is_an_error_of_its_field(install: Callable[..., None]) -> None:
    source = """
    from pydantic import model_validator
    class Fragile(distance_class("fragile")):
        alpha: float = 0.5
        @model_validator(mode="after")
        def fail(self):
            raise ZeroDivisionError("alpha")
    @hookimpl
    def dskd_distances():
        return [Fragile]
    """
    install(FakeDistribution("fragile-plugin", source))
    for distance in ("fragile", {"name": "fragile", "alpha": 0.1}):
        with pytest.raises(
            ValidationError, match=r"'fragile' \(fragile_plugin.Fragile\) failed.*ZeroDivisionError: alpha"
        ) as e:
            DSKDSpec(distance=distance)
        assert e.value.errors()[0]["loc"] == ("distance",)


def test_a_user_may_still_interrupt(install: Callable[..., None]) -> None:
    install(FakeDistribution("slow-plugin", "raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        get_distance("kl")


def test_a_plugin_that_is_an_object(install: Callable[..., None]) -> None:
    source = """
    class Plugin:
        @hookimpl
        def dskd_distances(self):
            return (distance_class(name) for name in ["from_an_object"])
    plugin = Plugin()
    """
    install(FakeDistribution("object-plugin", source, value="object_plugin:plugin"))
    assert get_distance("from_an_object").name == "from_an_object"
    assert not default_registry().broken


def test_all_at_once_in_a_program_of_their_own(tmp_path: Path) -> None:
    """Nothing that the test runner does can make the difference: a program finds them all installed."""
    for number, (distribution, _) in enumerate(BROKEN.values()):
        value = distribution.value and distribution.value.replace("broken_plugin", f"broken_{number}")
        metadata = distribution.metadata and distribution.metadata.replace("broken-plugin", f"broken-{number}")
        replace(distribution, name=f"broken-{number}", value=value, metadata=metadata).install(tmp_path)
    HEALTHY.install(tmp_path)
    program = """
import json, warnings
from dskd_components import DSKDSpec, get_distance, list_components
from dskd_components.components import default_registry
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        names = [get_distance(name).name for name in ("kl", "tvd", "healthy")]
print(json.dumps({
    "names": names,
    "warned": [str(w.message) for w in caught if w.category.__name__ == "PluginWarning"],
    "broken": [b.origin.distribution for b in default_registry().broken],
    "spec": DSKDSpec(distance="healthy").distance.name,
}))
"""
    found = run_program(program, path=tmp_path)
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    everyone = sorted(f"broken-{number}" for number in range(len(BROKEN)))
    assert result["names"] == ["kl", "tvd", "healthy"]
    assert result["spec"] == "healthy"
    assert sorted(result["broken"]) == everyone
    assert sorted(message.split("of distribution ")[1].split()[0] for message in result["warned"]) == everyone


def test_every_error_is_one_of_ours() -> None:
    assert issubclass(PluginError, ValueError)
    assert issubclass(UnknownComponentError, LookupError)
