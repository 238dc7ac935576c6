"""Laws of distances. Each takes a `Distance`, or any function of that shape, and logits of both sides.

Examples:
    >>> import torch
    >>> from dskd_components.testing import laws
    >>> def forward_kl(student_log_probs, teacher_log_probs):
    ...     return (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(-1)
    >>> laws.distance.zero_at_equality(forward_kl, torch.randn(2, 5), torch.float32)
"""

from dskd_components.testing.laws.distance.calls import (
    arguments_are_not_changed,
    float32_is_near_float64,
    precision_is_kept_inside,
    rows_are_independent,
    the_same_arguments_give_the_same_value,
)
from dskd_components.testing.laws.distance.claims import (
    bounded,
    metric,
    no_temperature_inside,
    options_have_an_effect,
    symmetric,
    the_bound_is_reached,
)
from dskd_components.testing.laws.distance.closed_form import (
    closed_form_is_the_gradient,
    closed_form_leaves_its_arguments_alone,
    parts_of_the_vocabulary_add_up,
)
from dskd_components.testing.laws.distance.evaluation import DistanceFunction, values_and_gradients, values_at
from dskd_components.testing.laws.distance.gradients import (
    finite_gradients,
    gradient_is_the_derivative,
    the_student_learns,
    zero_gradient_at_equality,
)
from dskd_components.testing.laws.distance.values import (
    finite,
    no_rows_no_values,
    non_negative,
    one_number_a_row,
    positive_where_different,
    zero_at_equality,
)
from dskd_components.testing.laws.distance.vocabulary import (
    a_constant_added_to_logits_changes_nothing,
    refinement_invariance,
    token_numbers_do_not_matter,
    tokens_ruled_out_on_both_sides_count_for_nothing,
)

__all__ = [
    "DistanceFunction",
    "a_constant_added_to_logits_changes_nothing",
    "arguments_are_not_changed",
    "bounded",
    "closed_form_is_the_gradient",
    "closed_form_leaves_its_arguments_alone",
    "finite",
    "finite_gradients",
    "float32_is_near_float64",
    "gradient_is_the_derivative",
    "metric",
    "no_rows_no_values",
    "no_temperature_inside",
    "non_negative",
    "one_number_a_row",
    "options_have_an_effect",
    "parts_of_the_vocabulary_add_up",
    "positive_where_different",
    "precision_is_kept_inside",
    "refinement_invariance",
    "rows_are_independent",
    "symmetric",
    "the_bound_is_reached",
    "the_same_arguments_give_the_same_value",
    "the_student_learns",
    "token_numbers_do_not_matter",
    "tokens_ruled_out_on_both_sides_count_for_nothing",
    "values_and_gradients",
    "values_at",
    "zero_at_equality",
    "zero_gradient_at_equality",
]
