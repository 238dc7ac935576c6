"""Laws of spaces. Each takes a `Space` and `ComparedRows`, or a batch for the loss around it."""

from dskd_components.testing.laws.space.claims import (
    everything_is_made_where_the_rows_are,
    metrics_add_up_over_rows,
    options_have_an_effect,
    temperatures_divide_logits,
    the_scale_is_applied_once,
    token_numbers_do_not_matter,
    tokens_that_cannot_occur_count_for_nothing,
    zero_at_equality,
)
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
    "everything_is_made_where_the_rows_are",
    "finite_gradients",
    "metrics_add_up_over_rows",
    "no_rows_no_values",
    "options_have_an_effect",
    "rows_are_independent",
    "rows_are_not_changed",
    "temperatures_divide_logits",
    "terms_are_one_finite_number_a_row",
    "the_same_rows_give_the_same_terms",
    "the_scale_is_applied_once",
    "the_student_learns_in_the_loss",
    "token_numbers_do_not_matter",
    "tokens_that_cannot_occur_count_for_nothing",
    "zero_at_equality",
]
