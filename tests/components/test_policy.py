"""Plugins that are not allowed are never imported, are named where they might be missed, and nothing else changes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dskd_components import (
    ConfigurationError,
    DSKDSpec,
    UnknownComponentError,
    get_distance,
    list_components,
    use_plugins,
)
from dskd_components.components import PluginPolicy, default_registry
from tests.helpers.fake_distributions import FakeDistribution, offering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORBIDDEN = FakeDistribution("forbidden-plugin", "raise RuntimeError('its code was run')", "3.1")
WELCOME = offering("welcome-plugin", "welcome")
ENVIRONMENTS = {
    "all": {"DSKD_DISABLE_PLUGINS": "all"},
    "1": {"DSKD_DISABLE_PLUGINS": "1"},
    "one": {"DSKD_DISABLE_PLUGINS": "forbidden-plugin"},
    "one of some, spelt as the module": {"DSKD_DISABLE_PLUGINS": "another, Forbidden_Plugin"},
    "allow-list": {"DSKD_ALLOW_PLUGINS": "welcome_plugin"},
    "empty allow-list": {"DSKD_ALLOW_PLUGINS": ""},
    "both lists": {"DSKD_ALLOW_PLUGINS": "forbidden-plugin,welcome-plugin", "DSKD_DISABLE_PLUGINS": "forbidden-plugin"},
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in ("DSKD_DISABLE_PLUGINS", "DSKD_ALLOW_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    yield
    use_plugins()


def set_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_environment_keeps_code_from_being_imported(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    set_environment(monkeypatch, environment)
    install(FORBIDDEN, WELCOME)
    assert get_distance("kl").name == "kl"
    assert "forbidden_plugin" not in sys.modules
    registry = default_registry()
    assert not registry.broken
    [disabled] = [found for found in registry.disabled if found.origin.distribution == "forbidden-plugin"]
    assert disabled.origin.version == "3.1"
    assert disabled.rule.author in {f"{variable}={value}" for variable, value in environment.items()}


def test_one_that_is_not_forbidden_works(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, ENVIRONMENTS["allow-list"])
    install(FORBIDDEN, WELCOME)
    assert DSKDSpec(distance="welcome").distance == get_distance("welcome")
    with pytest.raises(UnknownComponentError, match=r"distribution dskd-divergences .* by DSKD_ALLOW_PLUGINS"):
        get_distance("tvd")


@pytest.mark.parametrize("value", ["", "0", "no", "False", "none", " "])
def test_nothing_is_disabled_by_a_variable_that_says_no(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("DSKD_DISABLE_PLUGINS", value)
    install(WELCOME)
    assert get_distance("welcome").name == "welcome"
    assert not default_registry().disabled


def test_built_in_components_cannot_be_disabled(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    before = [info.name for info in list_components() if info.distribution == "dskd-components"]
    set_environment(monkeypatch, {"DSKD_DISABLE_PLUGINS": "all,dskd-components", "DSKD_ALLOW_PLUGINS": ""})
    install()
    use_plugins(disable=["dskd-components"], allow=[])
    assert [info.name for info in list_components()] == before
    for preset in ("dskd", "dskd-cma", "dskd-v2"):
        DSKDSpec.preset(preset)


def test_a_name_that_is_that_of_a_disabled_plugin_says_so(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSKD_DISABLE_PLUGINS", "all")
    install(FORBIDDEN)
    with pytest.raises(ValidationError, match="unknown distance") as invalid:
        DSKDSpec(distance=FORBIDDEN.plugin)
    assert (
        "plugin 'forbidden-plugin-entry' of distribution forbidden-plugin 3.1 may have it, but is disabled by "
        "DSKD_DISABLE_PLUGINS=all." in str(invalid.value)
    )


def test_any_other_unknown_name_lists_the_disabled_plugins(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSKD_DISABLE_PLUGINS", "all")
    install(FORBIDDEN)
    with pytest.raises(UnknownComponentError) as unknown:
        get_distance("tvd")
    assert "These plugins are disabled, and what they offer is not known: " in str(unknown.value)
    for origin in ("distribution forbidden-plugin 3.1 by", "distribution dskd-divergences 0.1.0 by"):
        assert origin in str(unknown.value)


# From Python


def test_a_program_can_allow_and_disable(install: Callable[..., None]) -> None:
    install(FORBIDDEN, WELCOME)
    use_plugins(allow=["Welcome.Plugin"])
    assert get_distance("welcome").name == "welcome"
    assert {found.origin.distribution for found in default_registry().disabled} >= {"forbidden-plugin"}
    use_plugins(disable=("welcome-plugin", "forbidden-plugin"))
    assert get_distance("tvd").name == "tvd"
    with pytest.raises(UnknownComponentError, match=r"use_plugins\(disable=\['welcome-plugin', 'forbidden-plugin'\]\)"):
        get_distance("welcome")
    assert "forbidden_plugin" not in sys.modules


def test_a_program_cannot_lift_what_the_environment_forbids(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSKD_DISABLE_PLUGINS", "forbidden-plugin")
    install(FORBIDDEN, WELCOME)
    use_plugins(allow=["forbidden-plugin", "welcome-plugin"])
    assert get_distance("welcome").name == "welcome"
    assert "forbidden_plugin" not in sys.modules


@pytest.mark.parametrize("argument", ["allow", "disable"])
@pytest.mark.parametrize("value", ["welcome-plugin", b"x", 3, [3], [None]], ids=repr)
def test_what_is_no_list_of_names_is_refused(argument: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"use_plugins: expected {argument} to be a list of names"):
        use_plugins(**{argument: value})


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,3}(-[a-z0-9]{1,3})?", fullmatch=True)


@given(rules=st.lists(st.tuples(st.booleans(), st.lists(NAMES, max_size=4)), max_size=4), distribution=NAMES)
def test_rules_only_take_away(rules: list[tuple[bool, list[str]]], distribution: str) -> None:
    policy = PluginPolicy()
    allowed = True
    for only, names in rules:
        policy += PluginPolicy.of_arguments(allow=names if only else None, disable=() if only else names)
        allowed = allowed and ((distribution in names) if only else (distribution not in names))
        assert (policy.rule_against(distribution) is None) == allowed
