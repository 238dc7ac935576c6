"""Laws of aligners. Each takes an `Aligner`, a `Batch` and a seed for the parameters.

Examples:
    >>> from dskd_components.aligners import Span
    >>> from dskd_components.testing import laws, strategies
    >>> batch = strategies.make_batch(0, same_tokenizer=False)
    >>> laws.aligner.pairs_do_not_cross(Span(), batch, seed=0)
"""

from dskd_components.testing.laws.aligner.coverage import (
    a_hard_alignment_is_settled,
    groups_of_several_do_not_count,
    only_scored_positions_are_covered,
    pairs_of_single_positions_are_covered,
)
from dskd_components.testing.laws.aligner.layout import (
    packed_rows_equal_separate_samples,
    padding_changes_nothing,
    samples_know_nothing_of_one_another,
    unscored_positions_do_not_matter,
)
from dskd_components.testing.laws.aligner.module import (
    a_checkpoint_restores_it,
    arguments_are_not_changed,
    every_parameter_learns,
    every_term_teaches,
    everything_is_made_where_the_states_are,
    finite_gradients,
    options_have_an_effect,
    parameters_of_another_dtype_will_do,
    terms_are_finite_numbers,
    the_dtype_is_kept,
    the_same_seed_gives_the_same_alignment,
    values_fit_the_states,
)
from dskd_components.testing.laws.aligner.texts import (
    a_copy_in_a_worker_makes_the_same_groups,
    every_token_has_a_group,
    groups_of_tokens_are_in_order,
    groups_stand_for_the_same_text,
    one_tokenization_belongs_to_itself,
    some_text_is_aligned,
    texts_are_not_changed,
    texts_know_nothing_of_one_another,
    what_is_recorded_tells_groups_apart,
)
from dskd_components.testing.laws.aligner.weights import (
    a_constant_is_brought_over_unchanged,
    bringing_over_is_linear,
    groups_are_followed,
    pairs_do_not_cross,
    positions_belong_to_themselves,
    the_index_stays_within_the_sample,
    weights_stay_within_the_sample,
)

__all__ = [
    "a_checkpoint_restores_it",
    "a_constant_is_brought_over_unchanged",
    "a_copy_in_a_worker_makes_the_same_groups",
    "a_hard_alignment_is_settled",
    "arguments_are_not_changed",
    "bringing_over_is_linear",
    "every_parameter_learns",
    "every_term_teaches",
    "every_token_has_a_group",
    "everything_is_made_where_the_states_are",
    "finite_gradients",
    "groups_are_followed",
    "groups_of_several_do_not_count",
    "groups_of_tokens_are_in_order",
    "groups_stand_for_the_same_text",
    "one_tokenization_belongs_to_itself",
    "only_scored_positions_are_covered",
    "options_have_an_effect",
    "packed_rows_equal_separate_samples",
    "padding_changes_nothing",
    "pairs_do_not_cross",
    "pairs_of_single_positions_are_covered",
    "parameters_of_another_dtype_will_do",
    "positions_belong_to_themselves",
    "samples_know_nothing_of_one_another",
    "some_text_is_aligned",
    "terms_are_finite_numbers",
    "texts_are_not_changed",
    "texts_know_nothing_of_one_another",
    "the_dtype_is_kept",
    "the_index_stays_within_the_sample",
    "the_same_seed_gives_the_same_alignment",
    "unscored_positions_do_not_matter",
    "values_fit_the_states",
    "weights_stay_within_the_sample",
    "what_is_recorded_tells_groups_apart",
]
