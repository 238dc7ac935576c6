"""Importing the library is light: no model library, no test library, no plugin."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import dskd_components
from tests.helpers.programs import run_program

PROGRAM = """
import json, sys
import dskd_components
imported = sorted(sys.modules)
assert dskd_components.DSKDSpec.preset("dskd-cma").kd_rate == 0.5
without_look_up = sorted(sys.modules)
assert dskd_components.get_distance("kl").name == "kl"
print(json.dumps([imported, without_look_up, sorted(sys.modules)]))
"""


def test_what_is_loaded() -> None:
    found = run_program(PROGRAM)
    assert found.returncode == 0, found.stderr
    imported, without_look_up, after_look_up = (set(modules) for modules in json.loads(found.stdout))
    heavy = {
        "transformers",
        "tokenizers",
        "hypothesis",
        "matplotlib",
        "pytest",
        "rich",
        "accelerate",
        "lightning",
        "trl",
        "sympy",
        "torch.distributed.tensor",
    }
    assert not heavy & after_look_up
    assert not any(module.startswith("dskd_components.integrations") for module in after_look_up)

    plugins = {entry_point.module for entry_point in entry_points(group="dskd_components")}
    assert {"dskd_components.builtin", "dskd_divergences.plugin"} <= plugins
    assert not plugins & imported
    assert not plugins & without_look_up
    assert plugins <= after_look_up


def test_every_public_name_exists() -> None:
    names = dskd_components.__all__
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(dskd_components, name)] == []
