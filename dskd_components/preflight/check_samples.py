"""Whether the samples to train on can be used, how many of which kind there are, and what of them is learned."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from dskd_components.collation.encoded import SIDES
from dskd_components.collation.problems import SampleError
from dskd_components.collation.unread_arguments import argument_key, unread_advice, unread_text
from dskd_components.errors import DSKDError
from dskd_components.models.positions import has_position_table, position_limit
from dskd_components.models.vocabulary_subset import VocabularySubset
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
    yield from _arguments(survey)
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


def check_kept_tokens(pair: Pair) -> Iterator[Finding]:
    """Hold the labels to the tokens that heads are narrowed to."""
    for side, model, tokenizer in pair.models():
        given = pair.kept_tokens[side]
        if given is None:
            continue
        rows = len(model.get_output_embeddings().weight)
        size = rows if tokenizer is None else min(rows, max(tokenizer.get_vocab().values()) + 1)
        if pair.other_tokens is None:
            advice = "say it: other_tokens='one_outcome' (exact, and slower) or other_tokens='left_out' (fast)"
            yield Finding("error", f"{side} tokens", "nobody says what becomes of all other tokens", advice)
            continue
        try:
            subset = VocabularySubset(given, size, others=pair.other_tokens)
        except DSKDError as error:
            yield Finding("error", f"{side} tokens", str(error).removeprefix("token_ids: ").rstrip("."))
        else:
            yield _kept(pair, side, subset, tokenizer)


def _kept(pair: Pair, side: Side, subset: VocabularySubset, tokenizer: Any) -> Finding:
    """Say how many tokens and labels are kept; with the others left out, a label among these stops training."""
    labels = _labels(pair, side)
    kept = set(subset.token_ids.tolist())
    others = [token for token, _ in labels.most_common() if token not in kept]
    count = sum(labels[token] for token in others)
    left_out = subset.others == "left_out"
    found = (
        f"its head is narrowed to {len(subset):,} of {subset.vocabulary_size:,} tokens, and the others are "
        f"{'left out' if left_out else 'one outcome'}"
    )
    if not others or not left_out:
        share = f"; {1 - count / labels.total():.1%} of {labels.total():,} labels are kept" if labels else ""
        return Finding("ok", f"{side} tokens", found + share)
    named = ", ".join(_named(token, tokenizer) for token in others[:NAMED])
    advice = f"add them to {side}_tokens, or have the others as one outcome: other_tokens='one_outcome'"
    if not pair.has_own_samples and pair.batch is None:
        advice += "; these are the library's own texts: give what you train on"
    return Finding(
        "error",
        f"{side} tokens",
        f"{found}, but {count:,} of {labels.total():,} labels are among these ({len(others):,} different tokens, such "
        f"as {named}), and a batch with one of them is refused",
        advice,
    )


def _labels(pair: Pair, side: Side) -> Counter[int]:
    """How often each token is a label, in what there is to train on; nothing where that is not known."""
    if pair.batch is not None:
        labels = pair.batch.get(f"{side}_labels", pair.batch.get("labels"))
        return Counter() if labels is None else Counter(labels[labels >= 0].tolist())
    return pair.survey.lengths[side].labels if pair.has_both_tokenizers else Counter()


def _named(token: int, tokenizer: Any) -> str:
    return f"{token}" if tokenizer is None else f"{token} {tokenizer.decode([token])!r}"


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


def _arguments(survey: SampleSurvey) -> Iterator[Finding]:
    """Which side reads what its chat template is told beside the messages."""
    for name, places in survey.arguments.items():
        key, total = argument_key(name, survey.columns), sum(map(len, places.values()))
        for unread, found in places.items():
            if not unread:
                continue
            readers = [f"the {side}" for side in SIDES if side not in unread]
            text = unread_text(key, [f"the {side}" for side in unread], readers)
            more = [f"and {len(found) - NAMED:,} more"] if len(found) > NAMED else []
            yield Finding(
                "warning",
                "template arguments",
                f"{text} in {len(found):,} of the {total:,} chats with it ({'; '.join([*found[:NAMED], *more])})",
                unread_advice(name, survey.columns, readers),
            )
        if places.keys() == {()}:
            count = f"{total:,} chat{'s' if total > 1 else ''}"
            yield Finding("ok", "template arguments", f"both chat templates read {key}, in {count}")


def _reason(error: InputError) -> str:
    """What is wrong, without the number of the sample and its excerpt: its place is known."""
    return str(error).removeprefix("Sample 0: ").partition(" The sample: ")[0].rstrip(".")
