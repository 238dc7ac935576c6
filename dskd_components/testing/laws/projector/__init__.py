"""Laws of projectors. Each takes a `Projector`, `Ends` (hidden states and heads) and a seed for the parameters."""

from dskd_components.testing.laws.projector.mapping import (
    any_number_of_shared_tokens_will_do,
    float32_is_near_float64,
    no_positions_no_states,
    positions_know_nothing_of_one_another,
    results_repeat,
    the_width_is_the_targets,
    what_comes_in_decides_what_goes_out,
)
from dskd_components.testing.laws.projector.module import (
    a_checkpoint_restores_it,
    arguments_are_not_changed,
    every_parameter_learns,
    gradients_never_reach_the_heads,
)
from dskd_components.testing.laws.projector.setting import Ends, ends

__all__ = [
    "Ends",
    "a_checkpoint_restores_it",
    "any_number_of_shared_tokens_will_do",
    "arguments_are_not_changed",
    "ends",
    "every_parameter_learns",
    "float32_is_near_float64",
    "gradients_never_reach_the_heads",
    "no_positions_no_states",
    "positions_know_nothing_of_one_another",
    "results_repeat",
    "the_width_is_the_targets",
    "what_comes_in_decides_what_goes_out",
]
