"""How the command line writes: with colour and within the width on a terminal, plain and unbroken into a pipe."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
from typing import IO, TYPE_CHECKING, Any, Final, TextIO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

PIPE_WIDTH: Final = 10_000
"""Into a pipe a row of a table is a line, however long, so that grep finds it whole."""

STYLES: Final = {"error": "bold red", "warning": "bold yellow"}


def console(*, stderr: bool = False) -> Console:
    """Return a console for one of the two streams; ``NO_COLOR`` and ``COLUMNS`` are respected.

    Args:
        stderr: whether it is the stream for errors.
    """
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(file=stream, highlight=False, markup=False, emoji=False)
    width = None if os.environ.get("COLUMNS") else PIPE_WIDTH
    unpadded = cast("IO[str]", _Unpadded(stream))
    return Console(file=unpadded, highlight=False, markup=False, emoji=False, width=width)


class _Unpadded:
    """A stream that gets lines without the blanks that fill a table's cells up to the width."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(re.sub(r" +(?=\n)", "", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def plain(text: str) -> None:
    """Write a text for programs: no colour, no wrapping.

    Args:
        text: what to write.
    """
    console().print(Text(text), soft_wrap=True)


def plain_json(data: object, *, indent: int | None = 2) -> None:
    """Write data for programs; a stream that is not UTF-8 gets escapes, so that the data is the same.

    Args:
        data: what JSON can hold.
        indent: of each level; None: all in one line.
    """
    plain(json.dumps(data, indent=indent, ensure_ascii=not _writes_utf_8()))


def plain_html(text: str) -> None:
    """Write a page, or a part of one; a stream that is not UTF-8 gets references of characters.

    Args:
        text: the markup.
    """
    plain(text if _writes_utf_8() else text.encode("ascii", "xmlcharrefreplace").decode())


def _writes_utf_8() -> bool:
    return codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name == "utf-8"


def replace_what_cannot_be_written() -> None:
    """Have both streams write ``?`` for characters that their encoding lacks, where it would be an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace"):
            stream.reconfigure(errors="replace")


def standard_input() -> bytes:
    """Return what comes in, as it is: text is UTF-8 in files, whatever the locale."""
    buffer = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read().encode() if buffer is None else bytes(buffer.read())


def complain(kind: str, text: str) -> None:
    """Write one error or warning to the stream for errors.

    Args:
        kind: ``"error"`` or ``"warning"``.
        text: what is wrong and what to do.
    """
    console(stderr=True).print(Text.assemble((f"{kind}: ", STYLES[kind]), text), soft_wrap=not sys.stderr.isatty())


def code_text(text: str) -> Text:
    """Return a docstring's text with what it marks as code in colour, without the marks.

    Args:
        text: words, and ``code`` between backticks.
    """
    parts = text.replace("``", "`").split("`")
    return Text.assemble(*((part, "cyan" if number % 2 else "") for number, part in enumerate(parts)))


def table(*columns: str | dict[str, Any]) -> Table:
    """Return an empty table without a frame.

    Args:
        *columns: their headers, or arguments of `rich.table.Table.add_column`.
    """
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(**({"header": column} if isinstance(column, str) else column))
    return made


def row(into: Table, cells: Sequence[RenderableType], *, style: str = "") -> None:
    """Add a row; strings are taken literally.

    Args:
        into: the table.
        cells: one for each column.
        style: of the whole row.
    """
    into.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)
