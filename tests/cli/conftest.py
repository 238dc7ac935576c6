"""Runs the command line in this process, as if from a terminal of a given width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dskd_components.cli import main
from dskd_components.components import default_registry
from tests.helpers.commands import Ran
from tests.helpers.installing import install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["install"]


@pytest.fixture
def dskd(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run one command; no exception but the end of the program may come out."""

    def run(*arguments: object, columns: int | None = None) -> Ran:
        if columns is None:
            monkeypatch.delenv("COLUMNS", raising=False)
        else:
            monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        assert not [line for line in captured.out.splitlines() if line.endswith(" ")], "rows end where their text ends"
        code = left.value.code
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True)
def _no_rules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in ("DSKD_DISABLE_PLUGINS", "DSKD_ALLOW_PLUGINS", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    default_registry.cache_clear()
    yield
    default_registry.cache_clear()
