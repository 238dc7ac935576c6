"""Targets of ragged batches: prompts and padding are not scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dskd_components.models.states import IGNORE_INDEX
from dskd_components.testing.strategies.logits import SEEDS

if TYPE_CHECKING:
    from hypothesis import strategies as st


def ragged_targets(
    generator: torch.Generator, batch: int, length: int, vocabulary: int, *, at_least: int = 1
) -> Tensor:
    """Return targets in which one stretch of every row is scored, of random place and length.

    Args:
        generator: where the randomness comes from.
        batch: B.
        length: T.
        vocabulary: targets run from 0 to one less than this.
        at_least: how many positions of each row are scored at least.

    Returns:
        ``[B, T]``, int64, -100 where no token is scored.

    Examples:
        >>> ragged_targets(torch.Generator(torch.get_default_device()).manual_seed(3), 1, 6, 9)
        tensor([[-100, -100, -100, -100, -100,    3]])
    """
    targets = torch.randint(0, vocabulary, (batch, length), generator=generator)
    for row in targets:
        scored = int(torch.randint(at_least, length + 1, (), generator=generator))
        start = int(torch.randint(0, length - scored + 1, (), generator=generator))
        row[:start] = IGNORE_INDEX
        row[start + scored :] = IGNORE_INDEX
    return targets


def targets(batch: int, length: int, vocabulary: int, *, at_least: int = 0) -> st.SearchStrategy[Tensor]:
    """Targets ``[B, T]``, int64, with ignored positions; arguments as in `ragged_targets`.

    Examples:
        >>> from hypothesis import given
        >>> @given(targets(2, 4, 9))
        ... def test_shape(drawn):
        ...     assert drawn.shape == (2, 4) and drawn.max() < 9
        >>> test_shape()
    """
    return SEEDS.map(
        lambda seed: ragged_targets(
            torch.Generator(torch.get_default_device()).manual_seed(seed), batch, length, vocabulary, at_least=at_least
        )
    )
