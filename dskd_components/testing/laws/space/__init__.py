"""Laws of spaces. Each takes a `Space` and `ComparedRows`, or a batch for the loss around it."""

from dskd_components.testing.laws.space.comparing import (
    a_gradient_reaches_a_model,
    finite_gradients,
    no_rows_no_values,
    rows_are_independent,
    rows_are_not_changed,
    terms_are_one_finite_number_a_row,
    the_same_rows_give_the_same_terms,
    the_student_learns_in_the_loss,
)
from dskd_components.testing.laws.space.rows import compared_rows

__all__ = [
    "a_gradient_reaches_a_model",
    "compared_rows",
    "finite_gradients",
    "no_rows_no_values",
    "rows_are_independent",
    "rows_are_not_changed",
    "terms_are_one_finite_number_a_row",
    "the_same_rows_give_the_same_terms",
    "the_student_learns_in_the_loss",
]
