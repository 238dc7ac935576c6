"""The most likely token is the one that argmax would find, the first of equals."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components.engines._tiling.logit_block import RUN, blocked_argmax


@given(st.integers(1, 3 * RUN + 1), st.sampled_from([1, 2, 5, 10**6]), st.integers(0, 2**32 - 1), st.booleans())
def test_it_is_the_first_of_the_largest(vocabulary: int, levels: int, seed: int, excludes: bool) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    logits = torch.randint(levels, (4, vocabulary), generator=generator).float() - levels / 2
    if excludes:
        logits[:, 1::2] = -torch.inf
    largest = logits == logits.amax(-1, keepdim=True)
    assert torch.equal(blocked_argmax(logits), largest.int().cumsum(-1).eq(0).sum(-1))
