"""The dynamic time warping path between two token sequences, filled in by whole rows of the table.

A path runs from the first pair of tokens to the last, one step at a time: on in both sequences, in the
teacher's, or in the student's. It costs the sum of its cells' token distances. Of the cheapest paths the one
is taken that, read backwards, steps back in both while that is as cheap as any, else in the teacher, else in
the student. That is the order of the DSKD release.

Along a row a path comes from the row above at some column and walks on from there. So a cell costs the row's
running distance plus the smallest difference so far between what comes from above and the running distance
before: four array operations a row, no loop over cells. Texts of ordinary length are filled in from both ends
at once, in `dskd_components.tokenization.warping_halves`; longer ones here, a panel of rows at a time.
"""

import numpy as np
import numpy.typing as npt

from dskd_components.tokenization.token_distances import TokenDistances, token_distances
from dskd_components.tokenization.warping_halves import DEAR, Cells, path_by_halves

CostArray = npt.NDArray[np.int64]

PANEL_CELLS = 1 << 22
"""How many cells of the table are held at a time."""


def warping_path(student: list[str], teacher: list[str]) -> list[list[int]]:
    """For each student token, the teacher tokens that the path joins it to.

    Args:
        student: The student's tokens, at least one.
        teacher: The teacher's tokens, at least one.
    """
    joined: list[list[int]] = [[] for _ in student]
    # Rows are filled in one by one, so the shorter sequence gives the rows.
    if len(teacher) < len(student):
        for column, row in reversed(_path(token_distances(teacher, student), columns_first=False)):
            joined[row].append(column)
    else:
        for row, column in reversed(_path(token_distances(student, teacher), columns_first=True)):
            joined[row].append(column)
    return joined


def _path(distances: TokenDistances, *, columns_first: bool) -> Cells:
    """The cells of the path from the last to the first; a tie of single steps goes to columns or to rows."""
    cells = None
    if len(distances.row_ids) * len(distances.column_ids) <= PANEL_CELLS:
        cells = path_by_halves(distances, columns_first=columns_first)
    return _path_by_panels(distances, columns_first=columns_first) if cells is None else cells


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
    cells: Cells = []
    row, column = height - 1, width - 1
    for start, entry in zip(reversed(starts), reversed(entries), strict=True):
        filled = _fill(distances, start, min(start + panel, height), column + 1, entry)
        while row >= start and column >= 0:
            cells.append((row, column))
            window = filled[row - start : row - start + 2, column : column + 2]
            both, up, left = int(window[0, 0]), int(window[0, 1]), int(window[1, 0])
            row_step, column_step = step_back(both, up, left, columns_first=columns_first)
            row, column = row - row_step, column - column_step
    return cells


def step_back(both: int, up: int, left: int, *, columns_first: bool) -> tuple[int, int]:
    """How many rows and columns the path steps back, given what the three cells before cost."""
    if both <= up and both <= left:
        return 1, 1
    if columns_first:
        return (0, 1) if left <= up else (1, 0)
    return (1, 0) if up <= left else (0, 1)


def _fill(distances: TokenDistances, start: int, stop: int, width: int, entry: CostArray | None) -> CostArray:
    """Rows of path costs, with the row above them in front and a column of dear cells on the left."""
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
