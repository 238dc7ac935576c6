"""Hypothesis strategies: logits of every temper, targets, ragged batches, two tokenizations of a text."""

from dskd_components.testing.strategies.batches import Batch, batches, make_batch
from dskd_components.testing.strategies.logits import (
    FINITE,
    SEEDS,
    Temper,
    log_probabilities,
    logits,
    normal,
    one_hot,
    pairs_of_log_probabilities,
    pairs_of_logits,
    sets_of_logits,
)
from dskd_components.testing.strategies.states import (
    make_states,
    packed,
    padded,
    ragged_targets,
    random_groups,
    spoilt,
    targets,
)
from dskd_components.testing.strategies.tokenizations import TwoTokenizations, two_tokenizations
from dskd_components.testing.strategies.tokenized_texts import (
    SMALL_TOKENIZERS,
    TRICKY_TEXTS,
    TextPair,
    pairs_of,
    small_tokenizer,
    text_pairs,
)

__all__ = [
    "FINITE",
    "SEEDS",
    "SMALL_TOKENIZERS",
    "TRICKY_TEXTS",
    "Batch",
    "Temper",
    "TextPair",
    "TwoTokenizations",
    "batches",
    "log_probabilities",
    "logits",
    "make_batch",
    "make_states",
    "normal",
    "one_hot",
    "packed",
    "padded",
    "pairs_of",
    "pairs_of_log_probabilities",
    "pairs_of_logits",
    "ragged_targets",
    "random_groups",
    "sets_of_logits",
    "small_tokenizer",
    "spoilt",
    "targets",
    "text_pairs",
    "two_tokenizations",
]
