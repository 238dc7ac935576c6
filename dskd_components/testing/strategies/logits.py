"""Rows of logits and log-probabilities, from equal ones to extreme ones."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, get_args

import torch
from hypothesis import strategies as st

if TYPE_CHECKING:
    from torch import Tensor


Temper = Literal["ordinary", "generic", "peaked", "tied", "huge", "flat", "one_hot", "ruled_out"]
"""What a row is like: some tenths apart; different to the last digit; ten times that; with many equal
entries; plus or minus ten thousand; nearly uniform; all but one token at no probability; with entries of -inf."""

FINITE: Final[tuple[Temper, ...]] = tuple(temper for temper in get_args(Temper) if temper != "ruled_out")
"""The tempers in which every logit is finite."""

SEEDS: Final = st.integers(0, 2**31 - 1)
"""Seeds for `torch.Generator`."""


@st.composite
def logits(
    draw: st.DrawFn, rows: int | None = None, vocabulary: int | None = None, *, tempers: tuple[Temper, ...] = FINITE
) -> Tensor:
    """Rows of logits, each of a temper of its own; they shrink towards few small round numbers.

    Args:
        draw: given by hypothesis.
        rows: N; None: 1 to 3.
        vocabulary: V; None: 2 to 7.
        tempers: what the rows may be like; with ``"ruled_out"`` some entries are ``-inf``, never all of a row.

    Returns:
        ``[N, V]``, float64.

    Examples:
        >>> from hypothesis import given
        >>> @given(logits(2, 5))
        ... def test_probabilities_add_up(rows):
        ...     assert rows.softmax(-1).sum(-1).allclose(torch.ones(2).double())
        >>> test_probabilities_add_up()
    """
    rows = draw(st.integers(1, 3)) if rows is None else rows
    vocabulary = draw(st.integers(2, 7)) if vocabulary is None else vocabulary
    return torch.stack([draw(_row(vocabulary, draw(st.sampled_from(tempers)))) for _ in range(rows)])


def pairs_of_logits(
    rows: int | None = None, vocabulary: int | None = None, *, tempers: tuple[Temper, ...] = FINITE
) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Student and teacher logits of one shape; some of their rows are equal or close.

    Args:
        rows: as in `logits`.
        vocabulary: as in `logits`.
        tempers: as in `logits`.

    Returns:
        A strategy of two tensors ``[N, V]``, float64.
    """
    return sets_of_logits(2, rows, vocabulary, tempers=tempers).map(lambda drawn: (drawn[0], drawn[1]))


@st.composite
def sets_of_logits(
    draw: st.DrawFn,
    count: int,
    rows: int | None = None,
    vocabulary: int | None = None,
    *,
    tempers: tuple[Temper, ...] = FINITE,
) -> list[Tensor]:
    """Several tensors of logits of one shape, as for the triangle inequality.

    Args:
        draw: given by hypothesis.
        count: how many.
        rows: as in `logits`.
        vocabulary: as in `logits`.
        tempers: as in `logits`.

    Returns:
        ``count`` tensors ``[N, V]``, float64.
    """
    rows = draw(st.integers(1, 3)) if rows is None else rows
    vocabulary = draw(st.integers(2, 7)) if vocabulary is None else vocabulary
    first = draw(logits(rows, vocabulary, tempers=tempers))
    others = []
    for _ in range(count - 1):
        # Near one another: where rounding decides about the sign of a difference.
        near = draw(st.sampled_from([None, None, None, 1e-3, 1e-7]))
        moved = draw(logits(rows, vocabulary, tempers=tempers if near is None else FINITE[:2]))
        others.append(moved if near is None else first + near * moved)
    return [first, *others]


@cache  # a strategy that is built anew for each draw is checked anew
def _row(vocabulary: int, temper: Temper) -> st.SearchStrategy[Tensor]:
    if temper in ("generic", "peaked", "flat"):
        factor = {"generic": 1.0, "peaked": 10.0, "flat": 1e-4}[temper]
        return _entries(st.integers(-(2**40), 2**40), vocabulary).map(lambda row: factor * _tensor(row) / 2**38)
    if temper == "huge":
        return _entries(st.sampled_from([0.0, 1e4, -1e4]), vocabulary).map(_tensor)
    if temper == "one_hot":
        return _entries(st.integers(0, 9), vocabulary).map(lambda row: one_hot(row.index(max(row)), vocabulary))
    if temper == "ruled_out":
        entries = _entries(st.sampled_from([0.0, -math.inf, 1.0]), vocabulary)
        return entries.filter(lambda row: max(row) > -math.inf).map(_tensor)
    tenths = st.integers(-60, 60) if temper == "ordinary" else st.sampled_from([0, 10, -10])
    return _entries(tenths.map(lambda tenth: tenth / 10), vocabulary).map(_tensor)


def _entries(entry: st.SearchStrategy[float], vocabulary: int) -> st.SearchStrategy[list[float]]:
    return st.lists(entry, min_size=vocabulary, max_size=vocabulary)


def one_hot(token: int, vocabulary: int) -> Tensor:
    """Return ``[V]``, float64: logits of 80 for one token and -80 for all others.

    Examples:
        >>> one_hot(1, 3)
        tensor([-80.,  80., -80.], dtype=torch.float64)
    """
    row = torch.full((vocabulary,), -80.0, dtype=torch.float64)
    row[token] = 80.0
    return row


def normal(seed: int, *shape: int) -> Tensor:
    """Return a float64 tensor of independent normal numbers, the same for the same seed.

    Examples:
        >>> normal(0, 2)
        tensor([ 1.5410, -0.2934], dtype=torch.float64)
    """
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _tensor(row: list[float]) -> Tensor:
    return torch.tensor(row, dtype=torch.float64)


def log_probabilities(
    rows: int | None = None, vocabulary: int | None = None, *, tempers: tuple[Temper, ...] = FINITE
) -> st.SearchStrategy[Tensor]:
    """Normalised log-probabilities ``[N, V]``, float64; arguments as in `logits`."""
    return logits(rows, vocabulary, tempers=tempers).map(lambda row: row.log_softmax(-1))


def pairs_of_log_probabilities(
    rows: int | None = None, vocabulary: int | None = None, *, tempers: tuple[Temper, ...] = FINITE
) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Student and teacher log-probabilities of one shape ``[N, V]``, float64; arguments as in `logits`.

    Examples:
        >>> from hypothesis import given
        >>> @given(pairs_of_log_probabilities())
        ... def test_total_variation_is_at_most_1(pair):
        ...     student, teacher = pair
        ...     assert (0.5 * (student.exp() - teacher.exp()).abs().sum(-1) <= 1 + 1e-9).all()
        >>> test_total_variation_is_at_most_1()
    """
    return pairs_of_logits(rows, vocabulary, tempers=tempers).map(
        lambda pair: (pair[0].log_softmax(-1), pair[1].log_softmax(-1))
    )
