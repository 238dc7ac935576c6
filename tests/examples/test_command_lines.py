"""Every example says what it is when it is asked for help, and takes no argument that it does not read."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

import examples

FOLDER = Path(examples.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


def ended(module: str, argument: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run an example as `python -m` does; return the exit code."""
    monkeypatch.setattr(sys, "argv", [module, argument])
    # Another test may have imported it, of which runpy warns.
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return stopped.value.code


@pytest.mark.parametrize("module", MODULES)
def test_help_says_what_it_is_and_runs_nothing(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(module, "--help", monkeypatch) in (0, None)
    printed = capsys.readouterr().out
    assert "usage:" in printed
    assert "step 1:" not in printed
    if "command_line(__doc__)" in (FOLDER.parent / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"):
        documented = importlib.import_module(module).__doc__ or ""
        assert f"usage: python -m {module} [-h]" in printed
        assert documented.strip() in printed


@pytest.mark.parametrize("module", MODULES)
def test_what_it_has_no_option_for_is_an_error(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(module, "--no-such-option", monkeypatch) == 2
    printed = capsys.readouterr()
    assert "no-such-option" in printed.err or "error: " in printed.err
    assert "step 1:" not in printed.out
