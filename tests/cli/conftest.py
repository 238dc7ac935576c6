"""Runs the command line in this process, as if from a terminal of a given width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from installing import install

from dskd_components.cli import main
from dskd_components.components import default_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["install"]


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """The output without line breaks."""
        return " ".join(self.out.split())


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
