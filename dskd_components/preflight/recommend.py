"""Which published method is for a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dskd_components.errors import InputError
from dskd_components.preflight.check_alignment import exact_coverage

if TYPE_CHECKING:
    from dskd_components.preflight.pair import Pair

ENOUGH: Final = 0.8
"""From this share of both sides' tokens on, exact matching leaves little of the text unused."""


def recommended_preset(pair: Pair) -> str:
    """Return the name of a preset that fits both tokenizers.

    Args:
        pair: the models.
    """
    return "dskd" if pair.one_tokenizer else "dskd-cma"


def recommendation(pair: Pair) -> str:
    """Return a sentence that names the preset, and why.

    Args:
        pair: the models.
    """
    if not pair.has_both_tokenizers:
        return "Give both tokenizers for a recommendation."
    if pair.one_tokenizer:
        return "One tokenizer: DSKDSpec.preset('dskd'), or 'dskd-v2'."
    try:
        found = exact_coverage(pair)
    except InputError:
        return "Two tokenizers: DSKDSpec.preset('dskd-cma'), whose aligner is told nothing."
    shares = (
        f"exact matching covers {found.student:.0%} of the student's and {found.teacher:.0%} of the teacher's tokens"
    )
    if min(found) >= ENOUGH:
        return f"Two tokenizers, and {shares}: DSKDSpec.preset('dskd-v2-eta'), or 'dskd-cma'."
    return f"Two tokenizers, and {shares} only: DSKDSpec.preset('dskd-cma'), or the aligner 'span'."
