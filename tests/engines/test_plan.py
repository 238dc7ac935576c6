"""Tiles and blocks keep to the budget and leave no row out."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from dskd_components.engines._tiling.plan import BLOCK_TENSORS, COMPILED_TENSORS, Plan


@given(
    budget=st.integers(1, 2**30),
    rows=st.integers(0, 5000),
    vocabularies=st.lists(st.integers(1, 300_000), min_size=1, max_size=3),
    widened=st.integers(0, 2**26),
    has_cache=st.booleans(),
    teachers=st.integers(1, 4),
    compiled=st.booleans(),
    reads=st.booleans(),
)
@example(
    budget=2**28,
    rows=5000,
    vocabularies=[150_000, 150_000],
    widened=2**26,
    has_cache=True,
    teachers=1,
    compiled=False,
    reads=False,
)
@example(
    budget=2**30, rows=500, vocabularies=[30_000], widened=0, has_cache=False, teachers=1, compiled=True, reads=False
)
def test_a_plan(
    budget: int,
    rows: int,
    vocabularies: list[int],
    widened: int,
    has_cache: bool,
    teachers: int,
    compiled: bool,
    reads: bool,
) -> None:
    plan = Plan.of(
        budget=budget,
        rows=rows,
        vocabularies=vocabularies,
        itemsize=4,
        widened=widened,
        has_cache=has_cache,
        teachers=teachers,
        compiled=compiled,
        reads_logits=reads,
        even=8,
    )
    tiles = list(plan.tiles(0, rows))
    assert [row for tile in tiles for row in range(tile.start, tile.stop)] == list(range(rows))
    for tile in tiles[:2]:
        blocks = list(plan.blocks(tile))
        assert [row for block in blocks for row in range(block.start, block.stop)] == list(
            range(tile.stop - tile.start)
        )
    assert all(tile.stop - tile.start <= plan.tile_rows for tile in tiles)
    if len(tiles) > 1:
        # One tile fewer would not have fitted into the half that is for tiles at least.
        assert -(-rows // (len(tiles) - 1)) * sum(vocabularies) * 4 > budget // 2
    # A row at a time may be more than there is room for.
    buffer = plan.tile_rows * sum(vocabularies) * 4
    assert plan.part_bytes <= widened
    # Compiled operations make nothing of a block's size; a space that reads logits has others. Its rows lie together.
    tensors = COMPILED_TENSORS if compiled and not reads else BLOCK_TENSORS
    assert plan.alignment == (1 if reads else 8)
    blocks = plan.block_rows * max(vocabularies) * 4 * tensors * teachers
    # Where large blocks are fast, they have what the tile leaves.
    assert plan.block_rows == 1 or blocks <= (budget // 4 if has_cache else budget - buffer - plan.part_bytes)
    assert plan.tile_rows == 1 or plan.block_rows == 1 or buffer + blocks + plan.part_bytes <= budget
    assert plan.tile_rows == 1 or buffer + plan.part_bytes <= budget


def test_large_blocks_take_what_a_small_batch_leaves() -> None:
    options = {"budget": 2**30, "vocabularies": [32_000], "itemsize": 4, "widened": 0}
    plan = Plan.of(rows=1000, has_cache=False, **options)
    assert (plan.tile_rows, plan.block_rows) == (1000, 500)  # about as many in each; a fourth of the budget has 262
    assert Plan.of(rows=1000, has_cache=False, beside_all=200_000, **options).block_rows < 500
    tight = Plan.of(rows=100_000, has_cache=False, **options)
    assert tight.block_rows <= 262
