"""The dynamic time warping paths between pairs of token sequences.

A path runs from the first pair of tokens to the last, one step at a time: on in both sequences, in the
teacher's, or in the student's. It costs the sum of its cells' token distances. Of the cheapest paths the one
is taken that, read backwards, steps back in both while that is as cheap as any, else in the teacher, else in
the student. That is the order of the DSKD release.

Several tables are filled in together, a band of each, in `dskd_components.tokenization.warping_band`. Where a
band may miss the path a wider one is tried, and at last the whole table, here, a panel of rows at a time.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from dskd_components.tokenization.arrays import IntArray
from dskd_components.tokenization.warping_band import Cells, NumberedTokens, TokenDistances, band_paths, token_distances

CostArray = IntArray
TokenPair = tuple[NumberedTokens, NumberedTokens]

DEAR = np.int64(1) << 40
"""More than any path costs."""

PANEL_CELLS = 1 << 22
"""How many cells of a whole table are held at a time."""

BAND_WIDTHS = (160, 640)
"""How many columns of each row are filled in at first, and if that was not enough."""

BAND_CELLS = 1 << 22
"""How many cells of bands, or distances of tokens, are held at a time."""

BAND_TABLES = 8
"""How many tables are filled in together; with more, their rows outgrow the caches."""


def warping_paths(pairs: Sequence[TokenPair]) -> list[list[list[int]]]:
    """For each pair and each student token, the teacher tokens that the path joins it to.

    Args:
        pairs: The student's and the teacher's tokens, at least one of each.
    """
    paths: list[list[list[int]]] = [[] for _ in pairs]
    # The student gives the rows, if the teacher is not much longer: a band's windows should not have to move fast.
    has_student_rows = [4 * len(teacher) <= 5 * len(student) for student, teacher in pairs]
    for by_student in (True, False):
        chosen = [number for number, has in enumerate(has_student_rows) if has == by_student]
        sides = {number: pairs[number] if by_student else pairs[number][::-1] for number in chosen}
        for numbers in _batches(sides):
            tables = [token_distances(*sides[number]) for number in numbers]
            for number, cells in zip(numbers, _cells(tables, columns_first=by_student), strict=True):
                paths[number] = _joined(cells[::-1] if by_student else cells[::-1, ::-1])
    return paths


def _batches(sides: dict[int, TokenPair]) -> Iterator[list[int]]:
    """The pairs in batches of like height, highest first, each within the bounds on cells and tables."""
    batch: list[int] = []
    cells = 0
    for number in sorted(sides, key=lambda number: -len(sides[number][0])):
        rows, columns = map(len, sides[number])
        size = rows * max(columns, BAND_WIDTHS[0])
        if batch and (cells + size > BAND_CELLS or len(batch) == BAND_TABLES):
            yield batch
            batch, cells = [], 0
        batch.append(number)
        cells += size
    if batch:
        yield batch


def _joined(cells: Cells) -> list[list[int]]:
    """For each student token the teacher tokens, from a path's cells in their order."""
    students, teachers = cells[:, 0], cells[:, 1].tolist()
    starts = [0, *(np.flatnonzero(np.diff(students)) + 1).tolist(), len(teachers)]
    return [teachers[start:stop] for start, stop in pairwise(starts)]


def _cells(tables: list[TokenDistances], *, columns_first: bool) -> list[Cells]:
    """The cells of each table's path from the last to the first; a tie of single steps goes to columns or to rows."""
    found: dict[int, Cells] = {}
    for width in BAND_WIDTHS:
        left = [number for number in range(len(tables)) if number not in found]
        if left:
            cells = band_paths([tables[number] for number in left], width, columns_first=columns_first)
            found |= {number: path for number, path in zip(left, cells, strict=True) if path is not None}
    return [
        found[number] if number in found else _path_by_panels(table, columns_first=columns_first)
        for number, table in enumerate(tables)
    ]


def _path_by_panels(distances: TokenDistances, *, columns_first: bool) -> Cells:
    """The path with no more than one panel of rows held at a time.

    The rows at which panels meet are kept on the way down; on the way back each panel is filled in again, as
    far to the right as the path has come.
    """
    height, width = len(distances.row_ids), len(distances.column_ids)
    panel = max(1, PANEL_CELLS // width)
    starts = list(range(0, height, panel))
    entries: list[CostArray | None] = [None]  # the row above each panel
    for start in starts[:-1]:
        entries.append(
            _fill(distances, start, start + panel, width, entries[-1])[-1].copy()
        )  # a view would keep the panel
    cells: list[tuple[int, int]] = []
    row, column = height - 1, width - 1
    for start, entry in zip(reversed(starts), reversed(entries), strict=True):
        filled = _fill(distances, start, min(start + panel, height), column + 1, entry)
        while row >= start and column >= 0:
            cells.append((row, column))
            window = filled[row - start : row - start + 2, column : column + 2]
            both, up, left = int(window[0, 0]), int(window[0, 1]), int(window[1, 0])
            row_step, column_step = _step_back(both, up, left, columns_first=columns_first)
            row, column = row - row_step, column - column_step
    return np.array(cells)


def _step_back(both: int, up: int, left: int, *, columns_first: bool) -> tuple[int, int]:
    """How many rows and columns the path steps back, given what the three cells before cost."""
    if both <= up and both <= left:
        return 1, 1
    if columns_first:
        return (0, 1) if left <= up else (1, 0)
    return (1, 0) if up <= left else (0, 1)


def _fill(distances: TokenDistances, start: int, stop: int, width: int, entry: CostArray | None) -> CostArray:
    """Rows of path costs, with the row above them in front and a column of dear cells on the left.

    Each row at once, as in a band; see there.
    """
    distinct, number = np.unique(distances.row_ids[start:stop], return_inverse=True)
    running = np.zeros((len(distinct), width + 1), dtype=np.int64)
    np.cumsum(distances.table[distinct[:, None], distances.column_ids[:width]], axis=1, out=running[:, 1:])
    filled = np.full((stop - start + 1, width + 1), DEAR, dtype=np.int64)
    if entry is None:
        filled[0, 0] = 0  # the first cell is reached from nowhere
    else:
        filled[0] = entry[: width + 1]
    gain = np.empty(width, dtype=np.int64)
    for above, token in enumerate(number.tolist()):
        np.minimum(filled[above, 1:], filled[above, :-1], out=gain)
        gain -= running[token, :-1]
        np.minimum.accumulate(gain, out=gain)
        np.add(gain, running[token, 1:], out=filled[above + 1, 1:])
    return filled
