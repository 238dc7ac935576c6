"""Laws of projectors. Each takes a `Projector`, `Ends` (hidden states and heads) and a seed for the parameters."""

from dskd_components.testing.laws.projector.mapping import (
    an_affine_projection_is_what_it_says,
    any_number_of_shared_tokens_will_do,
    everything_is_made_where_the_states_are,
    float32_is_near_float64,
    no_positions_no_states,
    positions_know_nothing_of_one_another,
    results_repeat,
    the_order_of_shared_tokens_does_not_matter,
    the_width_is_the_targets,
    token_numbers_do_not_matter,
    what_comes_in_decides_what_goes_out,
)
from dskd_components.testing.laws.projector.module import (
    a_checkpoint_restores_it,
    arguments_are_not_changed,
    every_parameter_learns,
    gradients_never_reach_the_heads,
    options_have_an_effect,
)
from dskd_components.testing.laws.projector.setting import Ends, ends, make_ends

__all__ = [
    "Ends",
    "a_checkpoint_restores_it",
    "an_affine_projection_is_what_it_says",
    "any_number_of_shared_tokens_will_do",
    "arguments_are_not_changed",
    "ends",
    "every_parameter_learns",
    "everything_is_made_where_the_states_are",
    "float32_is_near_float64",
    "gradients_never_reach_the_heads",
    "make_ends",
    "no_positions_no_states",
    "options_have_an_effect",
    "positions_know_nothing_of_one_another",
    "results_repeat",
    "the_order_of_shared_tokens_does_not_matter",
    "the_width_is_the_targets",
    "token_numbers_do_not_matter",
    "what_comes_in_decides_what_goes_out",
]
