"""Log-probabilities and pairs of them: what a distance itself is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd_components.testing.strategies.logits import FINITE, Temper, logits, pairs_of_logits

if TYPE_CHECKING:
    from hypothesis import strategies as st
    from torch import Tensor


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
