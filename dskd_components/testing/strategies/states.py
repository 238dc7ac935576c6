"""Targets with ignored positions and the states of one model, padded, packed, spoilt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from dskd_components.models.head import Head
from dskd_components.models.states import IGNORE_INDEX, LMStates
from dskd_components.models.token_groups import TokenGroups
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


def make_states(
    generator: torch.Generator, *, targets: Tensor, hidden: int, vocabulary: int, dtype: torch.dtype = torch.float64
) -> LMStates:
    """Return random states of one model with the given targets.

    Args:
        generator: where the randomness comes from.
        targets: ``[B, T]``, int64.
        hidden: width of hidden states and embedding.
        vocabulary: rows of head and embedding.
        dtype: of hidden states, head and embedding.
    """

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return LMStates(
        hidden_states=random(*targets.shape, hidden),
        targets=targets,
        head=Head(random(vocabulary, hidden)),
        input_ids=torch.randint(0, vocabulary, tuple(targets.shape), generator=generator),
        embedding=random(vocabulary, hidden),
    )


def random_groups(generator: torch.Generator, batch: int, student_length: int, teacher_length: int) -> TokenGroups:
    """Return monotone groups of several tokens to several, some on one side only, some tokens in none.

    Args:
        generator: where the randomness comes from.
        batch: B.
        student_length: Ts.
        teacher_length: Tt.
    """

    def side(length: int) -> Tensor:
        numbers = torch.randint(0, 3, (batch, length), generator=generator).cumsum(1)
        return numbers.masked_fill(torch.rand(batch, length, generator=generator) < 0.2, -1)

    return TokenGroups(side(student_length), side(teacher_length))


def packed(states: LMStates) -> LMStates:
    """Return the samples of a batch in one row."""
    samples, length = states.targets.shape
    assert states.input_ids is not None
    return replace(
        states,
        hidden_states=states.hidden_states.reshape(1, samples * length, -1),
        targets=states.targets.reshape(1, -1),
        input_ids=states.input_ids.reshape(1, -1),
        segment_ids=torch.arange(samples).repeat_interleave(length)[None],
        columns={name: column.flatten(0, 1)[None] for name, column in states.columns.items()},
    )


def padded(states: LMStates, left: int, right: int, *, garbage: float) -> LMStates:
    """Return the same samples with unscored positions around them that hold garbage."""
    assert states.input_ids is not None
    segments = states.segment_ids
    return replace(
        states,
        hidden_states=F.pad(states.hidden_states, (0, 0, left, right), value=garbage),
        targets=F.pad(states.targets, (left, right), value=IGNORE_INDEX),
        input_ids=F.pad(states.input_ids, (left, right), value=-1),
        segment_ids=None if segments is None else F.pad(segments, (left, right), value=-1),
        columns={name: _widened(column, left, right) for name, column in states.columns.items()},
    )


def _widened(column: Tensor, left: int, right: int) -> Tensor:
    """Return a column with something else at both ends, as it may stand at padding."""
    ends = [torch.full_like(column[:, :1], 77).expand(-1, count, *column.shape[2:]) for count in (left, right)]
    return torch.cat([ends[0], column, ends[1]], 1)


def spoilt(states: LMStates) -> LMStates:
    """Return the same states with NaN and impossible ids wherever nothing is scored."""
    assert states.input_ids is not None
    return replace(
        states,
        hidden_states=states.hidden_states.masked_fill(~states.scored[..., None], float("nan")),
        input_ids=states.input_ids.masked_fill(~states.scored, 10**6),
        columns={name: _spoilt(column, states.scored) for name, column in states.columns.items()},
    )


def _spoilt(column: Tensor, scored: Tensor) -> Tensor:
    garbage = float("nan") if column.is_floating_point() else True if column.dtype == torch.bool else 77
    return column.masked_fill(~scored.view(*scored.shape, *[1] * (column.ndim - 2)), garbage)
