"""Rows that the same masks cover lie together, and each mask's rows keep their order."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components.engines._tiling.coverage import Coverage


@given(
    seed=st.integers(0, 2**32 - 1),
    positions=st.integers(0, 30),
    count=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    cuts=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_coverage(seed: int, positions: int, count: int, share: float, cuts: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Rows are ordered on the host.
    wanted = torch.rand(positions, generator=generator, device="cpu") < 0.8
    masks = [wanted & (torch.rand(positions, generator=generator, device="cpu") < share) for _ in range(count)]
    coverage = Coverage.of(wanted, masks, wanted.device)
    rows = len(coverage.positions)
    assert sorted(coverage.positions.tolist()) == wanted.nonzero().squeeze(1).tolist()
    assert [row for section in coverage.sections for row in range(rows)[section.rows]] == list(range(rows))
    start, stop = sorted(min(cut, rows) for cut in cuts)
    assert [row for part in coverage.cut(slice(start, stop)) for row in range(rows)[part]] == list(range(start, stop))
    some_mask = torch.stack(masks).any(0)[coverage.positions]
    assert some_mask.tolist() == [True] * coverage.covered + [False] * (rows - coverage.covered)
    for number, mask in enumerate(masks):
        own = mask.nonzero().squeeze(1) if coverage.reordered[number] is None else coverage.reordered[number]
        some = coverage.positions[start:stop]
        assert own is not None
        assert torch.equal(own[coverage.covered_by(number, slice(start, stop))], some[mask[some]])
        for section in coverage.sections:
            assert set(mask[coverage.positions[section.rows]].tolist()) == {section.covering[number]}
