"""Blocks of a warping table: filled in from the top left corner, traced back from the bottom right one.

Of several cheapest ways a path is traced, backwards, along the one that steps back in both sequences where that is as
cheap as any, else in the teacher, else in the student: the order of the DSKD release.
"""

from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dskd_components.tokenization.token_distances import TokenDistances

IntArray = npt.NDArray[np.int64]
Cells = list[tuple[int, int]]
Table = list[list[int]]

NARROW = 24
"""Blocks with at most this many columns are filled in cell by cell, wider ones row by row."""

PANEL_CELLS = 1 << 22
"""How many cells of a wide block are held at a time."""


class Block(NamedTuple):
    """A block of the table, its corners included."""

    top: int
    bottom: int
    left: int
    right: int


def narrow_tables(distances: TokenDistances, blocks: IntArray) -> list[Table | None]:
    """The path costs of every narrow block, None for wide ones.

    The distances are looked up for all blocks together, since most blocks are tiny.

    Args:
        distances: The distances between the tokens.
        blocks: Rows ``top, bottom, left, right`` ``[N, 4]``.
    """
    heights, widths = blocks[:, 1] - blocks[:, 0] + 1, blocks[:, 3] - blocks[:, 2] + 1
    areas = np.where(widths <= NARROW, heights * widths, 0)
    stops = np.cumsum(areas)
    block = np.repeat(np.arange(len(blocks)), areas)
    within_row, within_column = np.divmod(np.arange(len(block)) - (stops - areas)[block], widths[block])
    costs: list[int] = distances.of(blocks[block, 0] + within_row, blocks[block, 2] + within_column).tolist()
    sizes = zip((stops - areas).tolist(), stops.tolist(), widths.tolist(), strict=True)
    return [_fill_narrow(costs[start:stop], width) if stop > start else None for start, stop, width in sizes]


def _fill_narrow(costs: list[int], width: int) -> Table:
    above = list(accumulate(costs[:width]))
    table = [above]
    for start in range(width, len(costs), width):
        diagonal = above[0]
        left = diagonal + costs[start]
        line = [left]
        for up, cost in zip(above[1:], costs[start + 1 : start + width], strict=True):
            best = diagonal if diagonal < left else left
            left = (best if best < up else up) + cost
            line.append(left)
            diagonal = up
        table.append(line)
        above = line
    return table


def trace(table: Table) -> Cells:
    """The path through a filled block, without its first cell."""
    cells = []
    row, column = len(table) - 1, len(table[0]) - 1
    while row or column:
        cells.append((row, column))
        if row == 0 or column == 0:
            row, column = (row, column - 1) if row == 0 else (row - 1, column)
        else:
            row, column = step_back(table[row - 1], table[row], row, column)
    cells.reverse()
    return cells


def step_back(above: list[int], line: list[int], row: int, column: int) -> tuple[int, int]:
    """The cell before one inside a block: back in both where that is as cheap as any, else in the teacher."""
    both, teacher, student = above[column - 1], line[column - 1], above[column]
    if both <= teacher and both <= student:
        return row - 1, column - 1
    return (row, column - 1) if teacher <= student else (row - 1, column)


def wide_path(distances: TokenDistances, block: Block) -> Cells:
    """The path through a block without its first cell, holding no more than a panel of rows at a time.

    The rows at which panels meet are kept on the way down; on the way back each panel is filled in again.
    """
    columns = np.arange(block.left, block.right + 1)
    panel = max(1, PANEL_CELLS // len(columns))
    starts = list(range(block.top, block.bottom + 1, panel))
    entries: list[IntArray | None] = [None]  # the row above each panel
    for start in starts[:-1]:
        entries.append(_fill_wide(distances, start, start + panel, columns, entries[-1])[-1])
    cells: Cells = []
    row, column = block.bottom - block.top, block.right - block.left
    for start, entry in zip(reversed(starts), reversed(entries), strict=True):
        stop = min(start + panel, block.bottom + 1)
        filled = _fill_wide(distances, start, stop, columns[: column + 1], entry)
        first = start - block.top
        if entry is not None:
            filled = np.concatenate([entry[None, : column + 1], filled])
            first -= 1
        while row > first or (row == 0 and column > 0):
            cells.append((row, column))
            if row == 0 or column == 0:
                row, column = (row, column - 1) if row == 0 else (row - 1, column)
            else:
                window = filled[row - 1 - first : row + 1 - first, column - 1 : column + 1].tolist()
                step = step_back(window[0], window[1], 1, 1)
                row, column = row - 1 + step[0], column - 1 + step[1]
    cells.reverse()
    return cells


def _fill_wide(distances: TokenDistances, start: int, stop: int, columns: IntArray, entry: IntArray | None) -> IntArray:
    """Rows of path costs.

    Along a row a path comes from the row above at some column and walks on from there. So a cell costs the row's
    running distance plus the smallest difference so far between what comes from above and the running distance before.
    """
    distinct, number = np.unique(distances.student_ids[start:stop], return_inverse=True)
    table = distances.table[distinct[:, None], distances.teacher_ids[columns]]
    running = list(np.cumsum(table, axis=1, dtype=np.int64))
    totals = [running[row] for row in number.tolist()]
    filled = np.empty((stop - start, len(columns)), dtype=np.int64)
    lines = list(filled)
    if entry is None:
        lines[0][:] = totals[0]
        entry = lines.pop(0)
        totals.pop(0)
    above = entry[: len(columns)]
    gain = np.empty(len(columns), dtype=np.int64)
    inner = gain[1:]
    for line, total in zip(lines, totals, strict=True):
        gain[0] = above[0]
        np.minimum(above[1:], above[:-1], out=inner)
        np.subtract(inner, total[:-1], out=inner)
        np.minimum.accumulate(gain, out=gain)
        np.add(gain, total, out=line)
        above = line
    return filled
