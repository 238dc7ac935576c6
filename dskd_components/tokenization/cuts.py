"""Cells of a warping table that every cheapest path goes through, proven without filling in the table.

Take a chain of cells whose tokens are equal (distance 0), ascending in both sequences, and some path that joins one
such cell to the next through the gap between them. A path that misses some of these cells leaves the chain at one and
comes back to it at another. In between it still visits every row: the row of a missed cell in some other column, the
rows of a gap in some column. So it pays at least the smallest distance in each of those rows. Where that sum exceeds
what the chain pays over the same stretch, leaving the chain there is dearer than staying, and no cheapest path does
it. A cell that lies in no other stretch is on every cheapest path. The same holds with columns for rows.

The smallest distances are first taken over whole rows. The certain cells found so confine the path to blocks, which
makes the smallest distances larger and, in a second pass, most of the remaining cells certain.
"""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from dskd_components.tokenization.token_distances import TokenDistances
from dskd_components.tokenization.warping_blocks import Block, Table, narrow_tables

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

FAR = np.int64(1) << 40
"""More than any path costs."""

PASSES = 2
"""How often the smallest distances are taken anew over what is left open."""

WINDOW = 64
"""The widest block in which the smallest distances are taken over the block's columns alone."""


def certain_cells(distances: TokenDistances) -> tuple[IntArray, IntArray, dict[Block, Table | None]]:
    """Cells with equal tokens that are on every cheapest warping path.

    Args:
        distances: The distances between the tokens of both sequences.

    Returns:
        Their rows and columns, both strictly ascending, and the filled blocks of gaps, by their corners.
    """
    rows, columns = _chain(distances)
    if len(rows) == 0:
        return rows, columns, {}
    swapped = distances.transposed()
    paid, tables = _gap_costs(distances, rows, columns)
    by_rows, by_columns = _row_minima(distances), _row_minima(swapped)
    certain = _unavoidable(rows, by_rows, paid, None) | _unavoidable(columns, by_columns, paid, None)
    for _ in range(PASSES):
        if certain.all():
            break
        by_rows = _block_minima(distances, by_rows, rows, columns, certain)
        by_columns = _block_minima(swapped, by_columns, columns, rows, certain)
        certain |= _unavoidable(rows, by_rows, paid, certain) | _unavoidable(columns, by_columns, paid, certain)
    return rows[certain], columns[certain], tables


def _chain(distances: TokenDistances) -> tuple[IntArray, IntArray]:
    """A chain of cells with equal tokens, ascending in both sequences.

    Tokens that occur once in both sequences tie the sequences together. Between two ties, tokens are equal and stand at
    the same distance in characters from the tie before or after. Which cells are found decides how fast the path is
    found, never which.
    """
    student, teacher = distances.same[distances.student_ids], distances.teacher_ids
    size = distances.table.shape[1]
    place = np.zeros(size, dtype=np.int64)
    place[teacher] = np.arange(len(teacher))
    once = (np.bincount(teacher, minlength=size) == 1) & (np.bincount(student[student >= 0], minlength=size) == 1)
    tied_rows = np.flatnonzero((student >= 0) & once[student])
    tied_rows, tied_columns = _ascending(tied_rows, place[student[tied_rows]])
    starts = np.cumsum(distances.student_lengths) - distances.student_lengths
    teacher_starts = np.cumsum(distances.teacher_lengths) - distances.teacher_lengths
    stretch = np.searchsorted(tied_rows, np.arange(len(student)), side="right")
    after = _framed(tied_columns, last=len(teacher))[stretch]
    before = _framed(tied_columns, first=-1)[stretch]
    found = np.full(len(student), -1, dtype=np.int64)
    for row_ties, column_ties in (
        (_framed(tied_rows, last=len(student) - 1), _framed(tied_columns, last=len(teacher) - 1)),
        (_framed(tied_rows, first=0), _framed(tied_columns, first=0)),
    ):
        target = starts - starts[row_ties][stretch] + teacher_starts[column_ties][stretch]
        column = np.maximum(np.searchsorted(teacher_starts, target, side="right") - 1, 0)
        equal = (teacher[column] == student) & (teacher_starts[column] == target)
        found = np.where(equal & (column > before) & (column < after), column, found)
    found[tied_rows] = tied_columns
    rows = np.flatnonzero(found >= 0)
    return _ascending(rows, found[rows])


def _ascending(rows: IntArray, columns: IntArray) -> tuple[IntArray, IntArray]:
    """The longest part of a chain with ascending rows whose columns ascend as well."""
    if np.all(columns[1:] > columns[:-1]):
        return rows, columns
    ends: list[int] = []  # the smallest last column of an ascending part of each length
    at: list[int] = []
    before: list[int] = []
    for index, column in enumerate(columns.tolist()):
        length = bisect_left(ends, column)
        if length == len(ends):
            ends.append(column)
            at.append(index)
        else:
            ends[length], at[length] = column, index
        before.append(at[length - 1] if length else -1)
    kept = [at[-1]]
    while before[kept[-1]] >= 0:
        kept.append(before[kept[-1]])
    return rows[kept[::-1]], columns[kept[::-1]]


def _gap_costs(
    distances: TokenDistances, rows: IntArray, columns: IntArray
) -> tuple[IntArray, dict[Block, Table | None]]:
    """What the chain pays in each gap: before the first cell, between two, and after the last ``[C + 1]``.

    A narrow gap is filled in and its cheapest path taken, a wide one crossed on the straight line from corner to
    corner.
    """
    blocks = blocks_between(distances, rows, columns)
    steps = np.maximum(blocks[:, 1] - blocks[:, 0], blocks[:, 3] - blocks[:, 2])
    is_gap = (steps > 1) | (blocks[:, 1] - blocks[:, 0] != blocks[:, 3] - blocks[:, 2])
    is_gap[[0, -1]] = True
    paid = np.zeros(len(blocks), dtype=np.int64)
    tables: dict[Block, Table | None] = {}
    gaps = np.flatnonzero(is_gap)
    for gap, table in zip(gaps.tolist(), narrow_tables(distances, blocks[gaps]), strict=True):
        if table is not None:
            paid[gap] = table[-1][-1]
            tables[Block(*blocks[gap].tolist())] = table
        else:
            line = np.arange(steps[gap] + 1)
            height, width = blocks[gap, 1] - blocks[gap, 0], blocks[gap, 3] - blocks[gap, 2]
            row, column = line * height // steps[gap], line * width // steps[gap]
            paid[gap] = distances.of(blocks[gap, 0] + row, blocks[gap, 2] + column).sum()
    return paid, tables


def blocks_between(distances: TokenDistances, rows: IntArray, columns: IntArray) -> IntArray:
    """The blocks from one cell to the next, both included, and from and to the corners of the table ``[C + 1, 4]``."""
    row_borders = _framed(rows, first=0, last=len(distances.student_ids) - 1)
    column_borders = _framed(columns, first=0, last=len(distances.teacher_ids) - 1)
    return np.stack([row_borders[:-1], row_borders[1:], column_borders[:-1], column_borders[1:]], axis=1)


def _framed(values: IntArray, *, first: int | None = None, last: int | None = None) -> IntArray:
    """The values with one more in front, or behind, or both."""
    front, back = first is not None, last is not None
    framed = np.empty(len(values) + front + back, dtype=np.int64)
    framed[int(front) : len(framed) - back] = values
    if first is not None:
        framed[0] = first
    if last is not None:
        framed[-1] = last
    return framed


def _row_minima(distances: TokenDistances) -> tuple[IntArray, IntArray]:
    """The smallest distance in each row, over all columns, and over all but one column with an equal token ``[S]``."""
    table = distances.table
    nearest = table.min(axis=1).astype(np.int64)
    equal = np.flatnonzero(distances.same >= 0)
    part = table[equal].astype(np.int64)
    part[np.arange(len(equal)), distances.same[equal]] = FAR
    often = np.bincount(distances.teacher_ids, minlength=table.shape[1])[distances.same[equal]] > 1
    others = nearest.copy()
    others[equal] = np.where(often, 0, part.min(axis=1))
    return nearest[distances.student_ids], others[distances.student_ids]


def _unavoidable(
    rows: IntArray, minima: tuple[IntArray, IntArray], paid: IntArray, certain: BoolArray | None
) -> BoolArray:
    """Which cells of a chain lie in no stretch that a path might profit from leaving the chain for."""
    nearest, others = minima
    missed = others[rows] if certain is None else np.where(certain, FAR, others[rows])
    total = _framed(np.cumsum(nearest), first=0)
    in_gap = total[_framed(rows, last=len(nearest))] - total[_framed(rows, first=-1) + 1]
    # Leaving at cell q and coming back at cell r costs `back[r] - leave[q]` more than staying, or rather at least that.
    gained = _framed(np.cumsum(missed), first=0)
    spent = _framed(np.cumsum(paid - in_gap), first=0)
    leave = gained - spent[:-1]
    back = gained - spent[1:]
    dearest = np.maximum.accumulate(leave)[:-1]
    cheapest = np.minimum.accumulate(back[::-1])[::-1][1:]
    return cheapest > dearest


def _block_minima(
    distances: TokenDistances,
    minima: tuple[IntArray, IntArray],
    rows: IntArray,
    columns: IntArray,
    certain: BoolArray,
) -> tuple[IntArray, IntArray]:
    """`_row_minima` over the columns that certain cells leave open, for rows that have few enough of them."""
    count = len(distances.student_ids)
    fixed_rows, fixed_columns = rows[certain], columns[certain]
    is_open = np.ones(count, dtype=np.bool_)
    is_open[fixed_rows] = False
    open_rows = np.flatnonzero(is_open)
    block = np.searchsorted(fixed_rows, open_rows)
    first = _framed(fixed_columns, first=0)[block]
    last = _framed(fixed_columns, last=len(distances.teacher_ids) - 1)[block]
    few = last - first < WINDOW
    narrow, first, last = open_rows[few], first[few], last[few]
    if len(narrow) == 0:
        return minima
    own = np.full(count, -1, dtype=np.int64)
    own[rows] = columns
    window = first[:, None] + np.arange(int((last - first).max()) + 1)
    costs = distances.of(narrow[:, None], np.minimum(window, last[:, None]))
    costs[window > last[:, None]] = FAR
    nearest, others = minima[0].copy(), minima[1].copy()
    nearest[narrow] = costs.min(axis=1)
    costs[window == own[narrow, None]] = FAR
    others[narrow] = costs.min(axis=1)
    return nearest, others
