"""Warping paths of several pairs of token sequences at once, each within a band of its table.

Two tokenizers cut the same text, so the path stays near where both are equally far into it, and far from
there a path is soon dearer than the cheapest. So only a band of each table is filled in: for every `BLOCK`
rows one window of columns. That it was enough is checked. A path that leaves the band does so at a cell on its
edge, and costs at least what it cost to come there and the smallest distances in the rows, or columns, that
are left. If that is more than the path within the band costs, wherever it leaves, no path outside is as cheap:
the path found, and every path that ties with it, is that of the whole table.

The rows of all tables are filled in together, side by side in one array, so that an operation's overhead is
shared. Along a row a path comes from the row above at some column and walks on from there. So a cell costs the
row's running distance plus the smallest difference so far between what comes from above and the running
distance before: four array operations a row, no loop over cells. Each table's costs are `FAR` below those of
the one before, so that nothing of the one before is ever smaller, and the running minimum need not stop
between them.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from dskd_components.tokenization.arrays import BoolArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, eq=False)
class TokenDistances:
    """Edit distances between the tokens of two sequences.

    Attributes:
        row_ids: Which distinct token each token of the one sequence is ``[R]``.
        column_ids: Which distinct token each token of the other sequence is ``[C]``.
        row_lengths: How many characters each token of the one sequence has ``[R]``.
        column_lengths: The same for the other sequence ``[C]``.
        table: Distances between distinct tokens ``[distinct row tokens, distinct column tokens]``.
    """

    row_ids: IntArray
    column_ids: IntArray
    row_lengths: IntArray
    column_lengths: IntArray
    table: npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True, eq=False)
class NumberedTokens:
    """A sequence of tokens, each distinct one once.

    Attributes:
        ids: Which of the distinct tokens each one is ``[T]``.
        distinct: The distinct tokens.
    """

    ids: IntArray
    distinct: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def numbered_tokens(tokens: Sequence[str], marker: str) -> NumberedTokens:
    """Number the distinct tokens of a sequence, from which a marker is removed.

    Examples:
        >>> numbered_tokens(["Ġa", "b", "a"], "Ġ")
        NumberedTokens(ids=array([0, 1, 0]), distinct=['a', 'b'])
    """
    numbers: dict[str, int] = {}
    ids = dict.fromkeys(tokens, 0)
    for token in ids:
        ids[token] = numbers.setdefault(token.replace(marker, ""), len(numbers))
    return NumberedTokens(np.array(list(map(ids.__getitem__, tokens)), dtype=np.int64), list(numbers))


def token_distances(rows: NumberedTokens, columns: NumberedTokens) -> TokenDistances:
    """Levenshtein distances between the tokens of two sequences, neither of them empty.

    Memory: one byte for each pair of distinct tokens, four if a token is longer than 255 characters.

    Examples:
        >>> token_distances(numbered_tokens(["a", "b", "a"], "Ġ"), numbered_tokens(["ab"], "▁")).table.tolist()
        [[1], [1]]
    """
    row_lengths, column_lengths = (np.array(list(map(len, side.distinct))) for side in (rows, columns))
    dtype = np.uint8 if max(row_lengths.max(), column_lengths.max()) < 256 else np.uint32
    table = cdist(rows.distinct, columns.distinct, scorer=Levenshtein.distance, dtype=dtype)
    return TokenDistances(rows.ids, columns.ids, row_lengths[rows.ids], column_lengths[columns.ids], table)


Cells = IntArray

FAR: Final = 1 << 42
"""More than any path costs, many times over."""

BLOCK: Final = 32
"""For how many rows the band keeps to the same columns."""


SCRATCH_BYTES: Final = 1 << 22
"""Up to what size memory is kept for the next call."""


class _Scratch(threading.local):
    """Memory of each thread that one call leaves to the next: new memory costs more than what is done in it."""

    def __init__(self) -> None:
        self.kept: dict[str, npt.NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of any content, valid until the next of its name."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = self.kept.get(name)
        if memory is None or len(memory) < size:
            memory = np.empty(size, dtype=np.uint8)
            if size <= SCRATCH_BYTES:
                self.kept[name] = memory
        return memory[:size].view(dtype).reshape(shape)


_scratch = _Scratch()


@dataclass(frozen=True, eq=False)
class Band:
    """The part of several tables that is filled in; those with most rows first.

    Attributes:
        width: How many columns a window has.
        heights: How many rows each table has ``[N]``.
        widths: How many columns each table has ``[N]``.
        windows: The first column of each window ``[blocks, N]``; in and after a table's last block, the last there is.
        open_tables: How many tables have rows in each block ``[blocks]``.
        distances: What stands in a window and before it at each place in all tables' rows of distances, one row after
            the other ``[places, width + 1]``. The entry before a window, and those past the end of a row, mean nothing.
        row_starts: The place where each row starts ``[rows, N]``.
        row_rest: What a path costs at least in the rows after each one ``[rows, N]``; `FAR` past the end.
        column_rest: What it costs at least in the columns after each one ``[N, columns + width]``; `FAR` from a table's
            last column on.
    """

    width: int
    heights: IntArray
    widths: IntArray
    windows: IntArray
    open_tables: list[int]
    distances: npt.NDArray[np.unsignedinteger]
    row_starts: IntArray
    row_rest: IntArray
    column_rest: IntArray


def band_paths(tables: Sequence[TokenDistances], width: int, *, columns_first: bool) -> list[Cells | None]:
    """The cells of each table's path from the last to the first ``[cells, 2]``; None where the band may miss it.

    Args:
        tables: The token distances of each table, those with most rows first.
        width: How many columns of a row are filled in, and no fewer than a table of up to `BLOCK` rows has; whole
            tables if they have no more.
        columns_first: Whether a tie between single steps back goes to the one along the columns.
    """
    band = _band(tables, min(width, max(len(table.column_ids) for table in tables)))
    steps, is_sure = _fill(band, columns_first=columns_first)
    return [_walk_back(steps, band, number) if sure else None for number, sure in enumerate(is_sure.tolist())]


def _band(tables: Sequence[TokenDistances], width: int) -> Band:
    number = len(tables)
    heights = np.array([len(table.row_ids) for table in tables])
    widths = np.array([len(table.column_ids) for table in tables])
    blocks = -(-int(heights[0]) // BLOCK)
    down, across = (blocks * BLOCK, number), (number, int(widths.max()) + width)
    row_starts, row_rest = np.zeros(down, dtype=np.int64), np.full(down, FAR)
    column_rest = np.full(across, FAR)
    windows = np.zeros((blocks, number), dtype=np.int64)
    start, edge = 0, np.zeros(width + 1, dtype=np.uint8)
    tables_in_columns: list[npt.NDArray[np.unsignedinteger]] = []
    for index, table in enumerate(tables):
        rows, columns = table.row_ids, table.column_ids
        row_starts[: len(rows), index] = rows * len(columns) + start
        tables_in_columns.append(table.table[:, columns].ravel())
        row_rest[: len(rows), index] = _rest(table.table.min(axis=1)[rows])
        column_rest[index, : len(columns) - 1] = _rest(table.table.min(axis=0)[columns])[:-1]
        windows[:, index] = _windows(table, width, blocks)
        start += tables_in_columns[-1].size
    return Band(
        width=width,
        heights=heights,
        widths=widths,
        windows=windows,
        open_tables=[int((heights > first).sum()) for first in range(0, down[0], BLOCK)],
        distances=sliding_window_view(np.concatenate([edge[:1], *tables_in_columns, edge]), width + 1),
        row_starts=row_starts,
        row_rest=row_rest,
        column_rest=column_rest,
    )


def _rest(least: npt.NDArray[np.unsignedinteger]) -> IntArray:
    """The sum of all later entries, for each."""
    total = np.cumsum(least, dtype=np.int64)
    rest: IntArray = total[-1] - total
    return rest


def _windows(table: TokenDistances, width: int, blocks: int) -> IntArray:
    """The first column of each block's window: around the columns that are as far into the text as its rows."""
    height, last = len(table.row_ids), len(table.column_ids) - width
    if last <= 0:
        return np.zeros(blocks, dtype=np.int64)
    rows, columns = np.cumsum(table.row_lengths), np.cumsum(table.column_lengths)
    edges = np.minimum(np.arange(blocks + 1) * BLOCK, height) - 1
    reached = rows[edges] * (columns[-1] / max(int(rows[-1]), 1))
    reached[0] = 0
    middles = np.searchsorted(columns, reached)
    windows: IntArray = np.clip((middles[1:] + middles[:-1] - width) // 2, 0, last)
    windows[0] = 0
    windows[(height - 1) // BLOCK :] = last
    return windows


def _fill(band: Band, *, columns_first: bool) -> tuple[npt.NDArray[np.uint8], BoolArray]:
    """The step back from each cell ``[rows, N * (width + 1)]``, and for each table whether its path is sure ``[N]``.

    In front of each window is one column more, which holds what is left of it in the row above a block, and is dear in
    every other row.
    """
    number, width, blocks = len(band.heights), band.width, len(band.windows)
    steps = _scratch.array("steps", (blocks * BLOCK, number * (width + 1)), np.uint8)
    shifts = np.diff(band.windows, axis=0, append=band.windows[-1:])
    reach = min(int(shifts.max()), width)  # only so far from the left is a window left downwards
    edges = np.zeros((blocks * BLOCK, number), dtype=np.int64)
    ends = np.zeros((blocks, number, reach), dtype=np.int64)
    filled = _scratch.array("filled", (BLOCK + 1, number, width + 1), np.int64)
    filled[:, 0, 0] = FAR
    running = _scratch.array("running", (BLOCK, number * (width + 1)), np.int64)
    level, cost = -FAR * np.arange(number), np.zeros(number, dtype=np.int64)
    filled[0] = level[:, None] + FAR // 2
    filled[0, :, 0] = level  # the first cell is reached from nowhere
    rows: list[tuple[IntArray, ...]] = []
    for block, count in enumerate(band.open_tables):
        span, stop = slice(block * BLOCK, (block + 1) * BLOCK), count * (width + 1)
        flat = filled.reshape(BLOCK + 1, -1)[:, :stop]
        if not rows or count < band.open_tables[block - 1]:
            rows = _row_views(flat, running[:, :stop])
        distances = band.distances[band.row_starts[span, :count] + band.windows[block, :count]]
        np.cumsum(distances.reshape(BLOCK, -1), axis=1, dtype=np.int64, out=running[:, :stop])
        _fill_rows(rows, width)
        _step_back(flat, steps[span, 1:stop], columns_first=columns_first)
        edges[span, :count] = filled[1:, :count, -1]
        ends[block, :count] = filled[-1, :count, 1 : reach + 1]
        going_on = band.open_tables[block + 1] if block + 1 < blocks else 0
        for table in range(going_on, count):
            last = filled[band.heights[table] - span.start, table]
            cost[table] = last[band.widths[table] - band.windows[block, table]] - level[table]
        for table, shift in enumerate(shifts[block, :going_on].tolist()):
            overlap = max(width + 1 - shift, 0)
            filled[0, table, :overlap] = filled[-1, table, shift:]
            filled[0, table, overlap:] = level[table] + FAR // 2  # not filled in above
    return steps, _least_exit(band, shifts, edges - level, ends - level[:, None]) > cost


def _least_exit(band: Band, shifts: IntArray, edges: IntArray, ends: IntArray) -> IntArray:
    """What a path costs at least that leaves the band, for each table ``[N]``.

    Args:
        band: The band.
        shifts: How far each window is from the next ``[blocks, N]``.
        edges: The costs in the last column of each row's window ``[rows, N]``.
        ends: The costs in the last row of each block, as far to the right as any window shifts ``[blocks, N, reach]``.
    """
    tables, reached = np.arange(len(band.heights)), np.arange(ends.shape[2])
    column_rest = np.repeat(band.column_rest[tables, band.windows + band.width - 1], BLOCK, axis=0)
    right = (edges + np.maximum(band.row_rest, column_rest)).min(axis=0)
    column_rest = band.column_rest[tables[:, None], band.windows[:, :, None] + reached]
    rest = np.maximum(band.row_rest[BLOCK - 1 :: BLOCK, :, None], column_rest)
    left = np.where(reached < shifts[:, :, None], ends + rest, FAR).min(axis=(0, 2), initial=FAR)
    least: IntArray = np.minimum(right, left)
    return least


def _row_views(filled: IntArray, running: IntArray) -> list[tuple[IntArray, ...]]:
    """For each row what is needed to fill it in: above, above and before, distance before, distance, and the row."""
    return list(zip(filled[:-1, 1:], filled[:-1, :-1], running[:, :-1], running[:, 1:], filled[1:, 1:], strict=True))


def _fill_rows(rows: list[tuple[IntArray, ...]], width: int) -> None:
    """Fill in the rows of a block, all tables at once."""
    minimum, subtract, add, running_minimum = np.minimum, np.subtract, np.add, np.minimum.accumulate
    gain = np.minimum(rows[0][0], rows[0][1])
    gain[width :: width + 1] = FAR  # what is left of a window in the first row leads on to the row below alone
    for number, (above, slanted, before, total, row) in enumerate(rows):
        if number:
            minimum(above, slanted, out=gain)
        subtract(gain, before, out=gain)
        running_minimum(gain, out=gain)
        add(gain, total, out=row)


def _step_back(costs: IntArray, steps: npt.NDArray[np.uint8], *, columns_first: bool) -> None:
    """Write the step back from each cell: 2 or 3 in both, 1 along the columns, 0 along the rows."""
    both, up, left = costs[:-1, :-1], costs[:-1, 1:], costs[1:, :-1]
    (np.less_equal if columns_first else np.less)(left, up, out=steps.view(np.bool_))
    is_both = both <= up
    is_both &= both <= left
    steps += is_both
    steps += is_both


def _walk_back(steps: npt.NDArray[np.uint8], band: Band, number: int) -> Cells:
    """The cells of a table's path from the last to the first ``[cells, 2]``."""
    across, first = steps.shape[1], number * (band.width + 1) + 1
    taken: memoryview = steps.reshape(-1).data
    back = (across, 1, across + 1, across + 1)
    height, windows = int(band.heights[number]), band.windows[:, number]
    block, starts = (height - 1) // BLOCK, windows.tolist()
    position = (height - 1) * across + first + int(band.widths[number]) - 1 - starts[block]
    positions: list[int] = []
    for current in range(block, -1, -1):
        stop = current * BLOCK * across + first
        while position >= stop:
            positions.append(position)
            position -= back[taken[position]]
        if current:
            position += starts[current] - starts[current - 1]
    rows, columns = np.divmod(np.array(positions) - first, across)
    return np.stack([rows, columns + windows[rows // BLOCK]], axis=1)
