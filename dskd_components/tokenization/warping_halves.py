"""The warping path from both ends of the table at once: half as many steps, each on two rows.

The upper half is filled in from the first cell, the lower half from the last cell backwards. In the lower
half that gives what it costs to go *on* from a cell, while ties are settled by what it costs to *come* there.
For cells on cheapest paths the latter is known: it is what is left of the cheapest cost. So the lower half is
walked through once more, forwards, over such cells only. There are hardly more of them than rows, unless most
tokens are equal.
"""

import numpy as np
import numpy.typing as npt

from dskd_components.tokenization.token_distances import TokenDistances

CostArray = npt.NDArray[np.int64]
Cells = list[tuple[int, int]]

DEAR = np.int64(1) << 40
"""More than any path costs."""

FAR = np.int64(1) << 42
"""Far more than that."""

TIES = 8
"""Up to how many cells on cheapest paths a row may have on average."""


def path_by_halves(distances: TokenDistances, *, columns_first: bool) -> Cells | None:
    """The cells of the path, from the last to the first.

    Args:
        distances: The token distances.
        columns_first: Whether a tie between single steps back goes to the one along the columns.

    Returns:
        The cells, or None if too many paths are equally cheap for this to be quick.
    """
    height, width = len(distances.row_ids), len(distances.column_ids)
    filled = _fill_halves(distances)
    half = len(filled) - 1
    come = _view(filled[:, : width + 1])
    onward = _view(filled[height - half :: -1, :width:-1])
    cells: Cells = []
    row, column = height - 1, width - 1
    if half < height:
        least, entries = _crossings(come, onward)
        on_path = _cells_on_cheapest_paths(onward, entries)
        if on_path is None:
            return None
        while row >= half:
            cells.append((row, column))
            here = row - half
            price = onward[here, column]
            both, up = (
                (on_path[here - 1].get(column - 1) == price, on_path[here - 1].get(column) == price)
                if here
                else (come[half, column] == least - price, come[half, column + 1] == least - price)
            )
            left = on_path[here].get(column - 1) == price
            if both:
                row, column = row - 1, column - 1
            elif left and (columns_first or not up):
                column -= 1
            else:
                row -= 1
    while row >= 0 and column >= 0:
        cells.append((row, column))
        diagonal, above, before = come[row, column], come[row, column + 1], come[row + 1, column]
        if diagonal <= above and diagonal <= before:
            row, column = row - 1, column - 1
        elif before < above or (before == above and columns_first):
            column -= 1
        else:
            row -= 1
    return cells


def _view(costs: CostArray) -> memoryview:
    """The same numbers, quicker to read one by one."""
    view: memoryview = costs.data
    return view


def _fill_halves(distances: TokenDistances) -> CostArray:
    """Path costs of the upper half from the first cell, and beside it of the reversed table from the last.

    Both are filled in together, side by side in one array ``[rows + 1, 2 * (columns + 1)]``, so that each
    operation runs over one stretch of memory. In front of either is a dear column, and above it a dear row,
    but for the corner that paths start from. The second half starts from ``-FAR``: then nothing of the first
    is ever smaller, and the running minimum need not stop between them.
    """
    rows, columns = distances.row_ids, distances.column_ids
    half, width = (len(rows) + 1) // 2, len(columns)
    costs = distances.table[:, columns]
    running = np.zeros((half, 2 * width + 2), dtype=np.int64)
    running[:, 1 : width + 1] = np.cumsum(costs, axis=1, dtype=np.int64)[rows[:half]]
    running[:, width + 2 :] = np.cumsum(costs[:, ::-1], axis=1, dtype=np.int64)[rows[::-1][:half]]
    filled = np.full((half + 1, 2 * width + 2), DEAR, dtype=np.int64)
    filled[0, 0], filled[0, width + 1] = 0, -FAR
    gain = np.empty(2 * width + 1, dtype=np.int64)
    straight, slanted = list(filled[:, 1:]), list(filled[:, :-1])
    minimum, subtract, add, running_minimum = np.minimum, np.subtract, np.add, np.minimum.accumulate
    for row, (before, total) in enumerate(zip(running[:, :-1], running[:, 1:], strict=True)):
        minimum(straight[row], slanted[row], out=gain)
        subtract(gain, before, out=gain)
        running_minimum(gain, out=gain)
        below = straight[row + 1]
        add(gain, total, out=below)
        below[width] = DEAR
    return filled


def _crossings(come: memoryview, onward: memoryview) -> tuple[int, list[int]]:
    """The cheapest cost of all, less `FAR`, and the columns at which cheapest paths enter the lower half."""
    last, first = np.asarray(come)[-1], np.asarray(onward)[0, :-1]
    through = np.minimum(last[1:], last[:-1]) + first
    least = int(through.min())
    return least, np.flatnonzero(through == least).tolist()


def _cells_on_cheapest_paths(onward: memoryview, entries: list[int]) -> list[dict[int, int]] | None:
    """For each row of the lower half the columns on cheapest paths, with what it costs to go on after.

    A cell's cheapest continuations are those of its three neighbours that cost least; they are on a path too.
    """
    rows: list[dict[int, int]] = []
    height = len(onward) - 1
    budget = TIES * height
    open_columns = entries
    for row in range(height):
        found: dict[int, int] = {}
        below: dict[int, None] = {}
        for start in open_columns:
            column = start
            while column not in found:
                down, right, both = (
                    onward[row + 1, column],
                    onward[row, column + 1],
                    onward[row + 1, column + 1],
                )
                least = min(down, right, both)
                found[column] = least
                if down == least:
                    below[column] = None
                if both == least:
                    below[column + 1] = None
                if right != least:
                    break
                column += 1
        budget -= len(found)
        if budget < 0:
            return None
        rows.append(found)
        open_columns = list(below)
    return rows
