"""Hypothesis strategies: logits of every temper, targets, ragged batches, two tokenizations of one text."""

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

__all__ = [
    "FINITE",
    "SEEDS",
    "Batch",
    "Temper",
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
    "pairs_of_log_probabilities",
    "pairs_of_logits",
    "ragged_targets",
    "random_groups",
    "sets_of_logits",
    "spoilt",
    "targets",
    "two_tokenizations",
]
