"""Each tokenizer beside its model, and both beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dskd_components.errors import InputError
from dskd_components.models.run_model import input_embedding
from dskd_components.preflight.report import Finding
from dskd_components.tokenization.byte_spans import tokenize_with_spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.preflight.pair import Pair

ROLES: Final = ("bos", "eos", "pad")


def check_vocabularies(pair: Pair) -> Iterator[Finding]:
    """Compare the rows of each model's head and embedding with the ids of its tokenizer."""
    for side, model, tokenizer in pair.models():
        rows = min(len(model.get_output_embeddings().weight), len(input_embedding(model)))
        if tokenizer is None:
            yield Finding(
                "warning",
                f"{side} vocabulary",
                f"no tokenizer was given, so all {rows} rows of the head count as tokens",
                "give the tokenizer, so that padding rows are left out and batches of other tokenizers are refused",
            )
            continue
        size = max(tokenizer.get_vocab().values()) + 1
        if size > rows:
            yield Finding(
                "error",
                f"{side} vocabulary",
                f"the tokenizer has ids up to {size - 1}, the model only {rows} rows",
                "give the model's own tokenizer, or call model.resize_token_embeddings",
            )
        elif size < rows:
            found = f"{rows} rows for {size} tokens: the {rows - size} padding rows never take part"
            yield Finding("ok", f"{side} vocabulary", found)
        else:
            yield Finding("ok", f"{side} vocabulary", f"{rows} rows, each a token")


def check_special_tokens(pair: Pair) -> Iterator[Finding]:
    """Compare special tokens with those of the models' configurations, and what both sides put around a text."""
    around = {}
    for side, model, tokenizer in pair.models():
        if tokenizer is None:
            continue
        yield from _roles(side, model, tokenizer)
        try:
            text = tokenize_with_spans(tokenizer, "a", add_special_tokens=True)
        except InputError as error:
            yield Finding("error", f"{side} tokenizer", str(error).rstrip("."))
            continue
        around[side] = (text.tokens[: text.bos_count], text.tokens[len(text) - text.eos_count :])
    if len(around) < 2 or pair.one_tokenizer:
        return
    for index, word in ((0, "before"), (1, "after")):
        student, teacher = around["student"][index], around["teacher"][index]
        if bool(student) != bool(teacher):
            side, other = ("student", "teacher") if student else ("teacher", "student")
            yield Finding(
                "warning",
                ("BOS", "EOS")[index],
                f"one-sided: the {side}'s tokenizer puts {' '.join(student or teacher)} {word} a text, the {other}'s "
                "puts nothing, so positions are shifted against each other",
                "align by text, never by position: DualTokenizerCollator, or the aligner 'cma'",
            )
    if all(bool(around["student"][index]) == bool(around["teacher"][index]) for index in (0, 1)):
        yield Finding("ok", "BOS and EOS", "both tokenizers put something on the same sides of a text, or neither does")


def _roles(side: str, model: Any, tokenizer: Any) -> Iterator[Finding]:
    missing = []
    for role in ROLES:
        own = getattr(tokenizer, f"{role}_token_id", None)
        configured = getattr(model.config, f"{role}_token_id", None)
        accepted = configured if isinstance(configured, list) else [configured]
        if own is None:
            missing += [role.upper()] if role != "bos" or configured is not None else []
        elif configured is not None and own not in accepted and role != "pad":
            yield Finding(
                "warning",
                f"{side} {role.upper()}",
                f"the tokenizer's is {own} ({getattr(tokenizer, f'{role}_token', '')}), the model's configuration has "
                f"{configured}",
                "make sure that the tokenizer is the model's own; generation stops at the configuration's"
                if role == "eos"
                else "make sure that the tokenizer is the model's own",
            )
    if "EOS" in missing:
        yield Finding(
            "warning",
            f"{side} EOS",
            "the tokenizer has no EOS token, so texts end without one and the model does not learn to stop",
            "set tokenizer.eos_token",
        )
    if missing == ["PAD"]:
        yield Finding("ok", f"{side} padding", "no padding token; DualTokenizerCollator pads with EOS, never scored")
