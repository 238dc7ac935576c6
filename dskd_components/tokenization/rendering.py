"""A `Drawing` as text, in colour and as HTML: the same columns, marks and notes."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final, NamedTuple

from dskd_components.tokenization.drawing import ALONE, JOINED, Column, columns, display_width

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.text import Text

    from dskd_components.tokenization.drawing import Drawing, DrawnToken


class Segment(NamedTuple):
    """A part of a line, and how it is meant: ``scored``, ``unscored``, ``joined``, ``lone``, ``mark`` or nothing."""

    text: str
    meaning: str = ""


Line = list[Segment]

STYLES: Final = {
    "title": "bold",
    "name": "dim",
    "scored": "bold green",
    "mark": "green",
    "unscored": "",
    "joined": "green",
    "lone": "bold red",
    "note": "dim",
}
"""Colours of meanings on a terminal."""

LEAST_ROOM: Final = 24
"""However narrow the terminal is, tokens get as many columns."""


def _lines(drawing: Drawing, width: int) -> list[Line]:
    """Everything that is drawn, line by line, within a width as far as the title and the notes are."""
    indent = max(map(display_width, ("scored", "pairs", *drawing.names))) + 2 if drawing.names else 0
    room = max(width - indent, LEAST_ROOM)
    blocks: list[list[Line]] = []
    used = 0
    for cell in _cells(drawing, room):
        size = max(1, *(display_width("".join(part.text for part in row)) for row in cell))
        if not blocks or used + size + 2 > room:
            blocks.append([[] for _ in cell])
            used = 0
        for row, parts in zip(blocks[-1], cell, strict=True):
            filling = size - display_width("".join(part.text for part in parts)) + 2
            row += [*parts, Segment(" " * filling)]
        used += size + 2
    lines: list[Line] = [[Segment(title, "title")] for title in drawing.title.splitlines()]
    for number, block in enumerate(blocks):
        lines += [[]] * bool(number) + _named(drawing, block, indent)
    if not blocks:
        lines += [[], [], []]
    return lines + [[Segment(note, "note")] for note in drawing.notes]


def _named(drawing: Drawing, rows: list[Line], indent: int) -> list[Line]:
    """The rows of a block behind their names."""
    if drawing.names is None:
        return rows
    student, teacher = drawing.names
    names = ("scored", student, "pairs" if drawing.can_join else "", teacher, "scored")
    return [
        [Segment(name + " " * (indent - display_width(name)), "name"), *row]
        for name, row in zip(names, rows, strict=True)
        if name in drawing.names or any(segment.text.strip() for segment in row)
    ]


def _cells(drawing: Drawing, room: int) -> Iterator[list[Line]]:
    """For each column its rows; one that is wider than the room is cut into several."""
    for column in columns(drawing):
        for part in _narrowed(drawing, column, room):
            student = [drawing.student[index] for index in part.student]
            teacher = [drawing.teacher[index] for index in part.teacher]
            rows = [_tokens(student, room), _mark(drawing, part), _tokens(teacher, room)]
            yield [_underline(student, room), *rows, _underline(teacher, room)] if drawing.marks_scored else rows


def _narrowed(drawing: Drawing, column: Column, room: int) -> Iterator[Column]:
    """A column, or parts of it next to one another if its tokens take more than the room."""
    student, teacher = (
        list(_fitting(tokens, indices, room))
        for tokens, indices in ((drawing.student, column.student), (drawing.teacher, column.teacher))
    )
    for number in range(max(len(student), len(teacher), 1)):
        upper = student[number] if number < len(student) else range(0)
        lower = teacher[number] if number < len(teacher) else range(0)
        yield Column(upper, lower, column.joined)


def _fitting(tokens: Sequence[DrawnToken], indices: range, room: int) -> Iterator[range]:
    """Stretches of tokens that take no more than the room each."""
    start, used = indices.start, 0
    for index in indices:
        size = display_width(_shortened(tokens[index].text, room)) + 1
        if used and used + size > room:
            yield range(start, index)
            start, used = index, 0
        used += size
    if start < indices.stop:
        yield range(start, indices.stop)


def _shortened(text: str, room: int) -> str:
    """A token's text, without its middle if it is wider than the room."""
    if display_width(text) < room:
        return text
    from rich.cells import set_cell_size

    half = (room - 2) // 2
    end = text[-half:]
    while display_width(end) > half:
        end = end[1:]
    return f"{set_cell_size(text, half).rstrip()}…{end}"


def _meaning(token: DrawnToken) -> str:
    return "" if token.scored is None else "scored" if token.scored else "unscored"


def _tokens(tokens: Sequence[DrawnToken], room: int) -> Line:
    parts: Line = []
    for token in tokens:
        parts += [Segment("|", "name")] * bool(parts) + [Segment(_shortened(token.text, room), _meaning(token))]
    return parts


def _underline(tokens: Sequence[DrawnToken], room: int) -> Line:
    """A line of the tokens' widths, drawn where they are scored."""
    sizes = [display_width(_shortened(token.text, room)) for token in tokens]
    text = " ".join(("━" if token.scored else " ") * size for token, size in zip(tokens, sizes, strict=True))
    return [Segment(text.rstrip(), "mark")]


def _mark(drawing: Drawing, column: Column) -> Line:
    if column.joined:
        return [Segment("┃" if len(column.student) == len(column.teacher) == 1 else "╂", "joined")]
    return [Segment("✗", "lone")] if drawing.can_join and drawing.matters(column) else []


def render_text(drawing: Drawing, *, width: int = 100) -> str:
    """The student's tokens above the teacher's, a bar between joined ones, and the notes.

    Args:
        drawing: What is drawn.
        width: After how many columns the rows are broken.
    """
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in _lines(drawing, width))


def render_rich(drawing: Drawing, *, width: int = 100) -> Text:
    """The same in colour, for `rich.print` and consoles of ``rich``.

    Args:
        drawing: What is drawn.
        width: After how many columns the rows are broken.
    """
    from rich.text import Text

    lines = [
        Text.assemble(*((segment.text, STYLES.get(segment.meaning, "")) for segment in line))
        for line in _lines(drawing, width)
    ]
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


SCORED: Final = "rgba(42,127,98,.25)"


def render_html(drawing: Drawing) -> str:
    """The same for notebooks; hints show where the pointer is. Whatever tokens spell is escaped."""
    cells = "".join(_html_cell(drawing, column) for column in columns(drawing))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in drawing.notes)
    below = f"<details><summary>Why not</summary><ul>{notes}</ul></details>" if notes else ""
    names = " above, ".join(map(html.escape, drawing.names or ("student", "teacher"))) + " below"
    return (
        '<div style="font-family:monospace">'
        f'<div style="white-space:pre-line"><b>{html.escape(drawing.title)}</b> ({names})</div>'
        f'<div style="display:flex;flex-wrap:wrap">{cells}</div>{below}</div>'
    )


def _html_cell(drawing: Drawing, column: Column) -> str:
    upper = [drawing.student[index] for index in column.student]
    lower = [drawing.teacher[index] for index in column.teacher]
    is_lone = any(part.meaning == "lone" for part in _mark(drawing, column))
    color = JOINED if column.joined else ALONE if is_lone else "transparent"
    return (
        '<div style="display:flex;flex-direction:column;margin:4px 3px;min-width:1ch">'
        f'<div style="min-height:1.3em">{_html_tokens(upper)}</div>'
        f'<div style="border-top:2px {"solid" if column.joined else "dotted"} {color};margin:1px 0"></div>'
        f'<div style="min-height:1.3em">{_html_tokens(lower)}</div></div>'
    )


def _html_tokens(tokens: Sequence[DrawnToken]) -> str:
    shown = []
    for token in tokens:
        style = f"background:{SCORED}" if token.scored else "opacity:.6" if token.scored is False else ""
        hint = f' title="{html.escape(token.hint)}"' if token.hint else ""
        shown.append(
            f'<bdi style="white-space:pre;border:1px solid rgba(128,128,128,.35);{style}"{hint}>'
            f"{html.escape(token.text)}</bdi>"
        )
    return "".join(shown)
