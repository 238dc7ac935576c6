"""The dynamic time warping path between two token sequences, exactly, in little more than linear time.

A path runs from the first pair of tokens to the last, one step at a time: on in both sequences, in the teacher's, or
in the student's. It costs the sum of its cells' token distances, and of the cheapest paths the one is taken that, read
backwards, steps back in both while it can, else in the teacher, else in the student. That is the order of the DSKD
release, and the whole table of costs would give it.

Most of the table is never needed. Two tokenizers agree on most of a text, and `dskd_components.tokenization.cuts`
proves for most of the equal tokens that *every* cheapest path goes through them. Between two such cells the path
depends on nothing outside, so only the small blocks between them are filled in.
"""

import numpy as np

from dskd_components.tokenization.cuts import blocks_between, certain_cells
from dskd_components.tokenization.token_distances import token_distances
from dskd_components.tokenization.warping_blocks import Block, narrow_tables, trace, wide_path


def warping_path(student: list[str], teacher: list[str]) -> list[list[int]]:
    """For each student token, the teacher tokens that the cheapest warping path joins it to.

    Args:
        student: The student's tokens, at least one.
        teacher: The teacher's tokens, at least one.
    """
    distances = token_distances(student, teacher)
    rows, columns, tables = certain_cells(distances)
    joined: list[list[int]] = [[] for _ in student]
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        joined[row] = [column]
    if not joined[0] or columns[0]:
        joined[0] = [0]
    blocks = blocks_between(distances, rows, columns)
    # One step from cell to cell can only be the step in both sequences, which ties prefer.
    blocks = blocks[(blocks[:, 1] - blocks[:, 0] != 1) | (blocks[:, 3] - blocks[:, 2] != 1)]
    if not joined[-1]:
        joined[-1] = [len(teacher) - 1]
    open_blocks = [Block(*block) for block in blocks.tolist()]
    fresh = [block for block in open_blocks if block not in tables]
    tables.update(zip(fresh, narrow_tables(distances, np.array(fresh, dtype=np.int64).reshape(-1, 4)), strict=True))
    for block in open_blocks:
        table = tables[block]
        cells = wide_path(distances, block) if table is None else trace(table)
        if block.bottom != block.top:
            joined[block.bottom] = []
        for row, column in cells:
            joined[block.top + row].append(block.left + column)
    return joined
