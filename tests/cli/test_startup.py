"""The command line starts with what it needs; `benchmarks/startup.py` has the seconds."""

from __future__ import annotations

import json

import pytest

from tests.helpers.programs import run_program

PROGRAM = """
import json, sys
from dskd_components.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    print("\\n" + json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("command", [["list"], ["show", "kl"], ["schema"], ["--help"]], ids=" ".join)
def test_nothing_heavy_is_loaded_besides_torch(command: list[str]) -> None:
    found = run_program(PROGRAM, *command)
    assert found.returncode == 0, found.stderr
    loaded = {name.partition(".")[0] for name in json.loads(found.stdout.splitlines()[-1])}
    assert not loaded & {"transformers", "tokenizers", "hypothesis", "pytest", "matplotlib", "scipy", "pandas"}


WITHOUT = """
import sys
sys.modules[{missing!r}] = None
from dskd_components.cli import main
main(["list"])
"""


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_what_it_is_written_with_it_says_a_sentence(missing: str) -> None:
    found = run_program(WITHOUT.format(missing=missing))
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"dskd: the command line needs '{missing}")
    assert found.stderr.count("\n") == 1
