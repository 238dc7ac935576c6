"""Whether the samples to train on can be used, how many of which kind there are, and what of them is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dskd_components.collation.problems import SampleError
from dskd_components.models.positions import has_position_table, position_limit
from dskd_components.preflight.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.errors import InputError
    from dskd_components.models.states import Side
    from dskd_components.preflight.pair import Pair
    from dskd_components.preflight.samples import SampleSurvey

NAMED: Final = 3
"""How many samples of one fault a finding names."""


def check_samples(pair: Pair) -> Iterator[Finding]:
    """Say what the collator makes of the user's samples."""
    if not (pair.has_own_samples and pair.has_both_tokenizers):
        return
    survey = pair.survey
    yield from _faults(survey)
    if not survey.usable:
        return
    kinds = " and ".join(f"{count:,} {names[count > 1]}" for names, count in survey.kinds.items())
    sides = [
        f"{sum(lengths.tokens):,} tokens of the {side}, {lengths.share_scored:.0%} of them scored "
        f"({sum(lengths.scored):,})"
        for side, lengths in survey.lengths.items()
    ]
    yield Finding("ok", "samples", f"{kinds}: {', and '.join(sides)}")
    paired = {side: lengths.share_paired for side, lengths in survey.lengths.items()}
    if None not in paired.values():
        shares = " and ".join(f"{share:.1%} of the {side}'s" for side, share in paired.items())
        yield Finding("ok", "scored tokens", f"{survey.aligner_name!r} finds a partner for {shares}")


def check_positions(pair: Pair) -> Iterator[Finding]:
    """Compare the lengths of the user's samples with the positions that each model has."""
    if not pair.has_own_samples:
        return
    for side, model, _ in pair.models():
        limit, lengths = position_limit(model), _lengths(pair, side)
        if limit is None or not lengths:
            continue
        beyond = sum(length > limit for length in lengths)
        if not beyond:
            yield Finding("ok", f"{side} positions", f"{limit:,}, and the longest sample has {max(lengths):,} tokens")
            continue
        refused = has_position_table(model)
        yield Finding(
            "warning",
            f"{side} positions",
            f"{limit:,}, but {beyond:,} of {len(lengths):,} samples have more tokens, up to {max(lengths):,}"
            + (", so they will be refused" if refused else ": beyond its positions it may predict badly"),
            f"cut samples: DualTokenizerCollator({side}_max_length={limit})",
        )


def _lengths(pair: Pair, side: Side) -> list[int]:
    """Tokens of each sample; of plain texts only, where one tokenizer is not known."""
    if pair.has_both_tokenizers:
        return pair.survey.lengths[side].tokens
    tokenizer = pair.student_tokenizer if side == "student" else pair.teacher_tokenizer
    return [] if tokenizer is None else [len(tokenizer(text)["input_ids"]) for text in pair.texts]


def _faults(survey: SampleSurvey) -> Iterator[Finding]:
    """One finding for each fault, with the first of the samples that have it."""
    by_fault: dict[str, list[tuple[str, InputError]]] = {}
    for place, error in survey.problems:
        fault = str(error.reason) if isinstance(error, SampleError) else "not understood"
        by_fault.setdefault(fault, []).append((place, error))
    total = len(survey.usable) + len(survey.problems)
    for fault, found in by_fault.items():
        reasons = [f"{place}: {_reason(error)}" for place, error in found[:NAMED]]
        more = [f"and {len(found) - NAMED:,} more"] if len(found) > NAMED else []
        can_be_skipped = bool(survey.usable) and isinstance(found[0][1], SampleError)
        yield Finding(
            "warning" if can_be_skipped else "error",
            "samples",
            f"{len(found):,} of {total:,} cannot be used ({fault}): {'; '.join([*reasons, *more])}",
            'mend them, or leave them out with DualTokenizerCollator(on_error="skip"); else training stops there'
            if can_be_skipped
            else "mend them, or leave them out",
        )


def _reason(error: InputError) -> str:
    """What is wrong, without the number of the sample and its excerpt: its place is known."""
    return str(error).removeprefix("Sample 0: ").partition(" The sample: ")[0].rstrip(".")
