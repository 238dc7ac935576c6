"""Whether two tokenizers belong to their models, can be aligned, and render chats in a way that is understood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from dskd_components.collation.chat_templates import ChatRenderer
from dskd_components.collation.problems import SampleError
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
                "ok",
                ("BOS", "EOS")[index],
                f"one-sided: the {side}'s tokenizer puts {' '.join(student or teacher)} {word} a text, the {other}'s "
                "puts nothing; DualTokenizerCollator aligns by text, so it makes no difference",
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


CHAT: Final = (
    {"role": "user", "content": "Which river is the longest?"},
    {"role": "assistant", "content": "That depends on where one starts to measure."},
)
SYSTEM: Final = {"role": "system", "content": "You answer in one sentence."}


def check_chat_templates(pair: Pair) -> Iterator[Finding]:
    """Render a chat with both templates, unless it is known that there are none."""
    if not pair.has_both_tokenizers:
        return
    if pair.has_chats:
        yield from _templates(pair)
    else:
        yield Finding("ok", "chat templates", "none of the samples is a chat, so none is needed")


def _templates(pair: Pair) -> Iterator[Finding]:
    templates = {side: getattr(tokenizer, "chat_template", None) for side, _, tokenizer in pair.models()}
    missing = [side for side, template in templates.items() if not template]
    if len(missing) == 2:
        yield Finding("ok", "chat templates", "neither tokenizer has one: train on texts or prompt/response pairs")
        return
    if missing:
        yield Finding(
            "warning",
            "chat templates",
            f"the {missing[0]}'s tokenizer has none, the other has one: chats cannot be rendered for both",
            f"set the {missing[0]}'s tokenizer.chat_template, or train on prompt/response pairs",
        )
    added = {}
    for side, _, tokenizer in pair.models():
        if not templates[side]:
            continue
        if _has_no_default(templates[side]):
            yield _no_default(side, templates[side])
            continue
        renderer = ChatRenderer(tokenizer, side)
        try:
            added[side] = _added(renderer)
        except SampleError as error:
            advice = "use a template that keeps contents, or prompt/response pairs"
            yield Finding("error", f"{side} chat template", str(error).rstrip("."), advice)
            continue
        if pair.has_system_messages:
            yield from _without_system_message(side, renderer)
        yield from _doubled(side, tokenizer, renderer)
    if len(added) == 2 and templates["student"] != templates["teacher"]:
        yield Finding(
            "ok",
            "chat templates",
            f"they differ: around two messages the student's adds {added['student']} characters, the teacher's "
            f"{added['teacher']}; DualTokenizerCollator renders each side by its own and aligns the contents",
        )
    elif len(added) == 2:
        yield Finding("ok", "chat templates", "both tokenizers have the same")


def _has_no_default(template: object) -> bool:
    return isinstance(template, Mapping) and bool(template) and "default" not in template


def _no_default(side: str, templates: Any) -> Finding:
    tokenizer = f"{side}_tokenizer.chat_template"
    return Finding(
        "warning",
        f"{side} chat template",
        f"its templates are called {', '.join(map(repr, templates))}, and none 'default', so it is not known which one "
        "renders a chat",
        f"choose one: {tokenizer} = {tokenizer}[{next(iter(templates))!r}]",
    )


def _without_system_message(side: str, renderer: ChatRenderer) -> Iterator[Finding]:
    try:
        renderer.render([SYSTEM, *CHAT])
    except SampleError as error:
        yield Finding(
            "warning",
            f"{side} chat template",
            f"it has no place for a system message: {str(error).rstrip('.')}",
            "put the system message into the first message of the user on both sides",
        )


def _added(renderer: ChatRenderer) -> int:
    rendered = renderer.render(CHAT)
    return len(rendered.text.encode()) - sum(place.last - place.first for place in rendered.places)


def _doubled(side: str, tokenizer: Any, renderer: ChatRenderer) -> Iterator[Finding]:
    """Tell whether a rendered chat gets a second BOS from a tokenizer that adds one itself."""
    tokens = tokenize_with_spans(tokenizer, renderer.render(CHAT).text, add_special_tokens=True)
    if tokens.bos_count and len(tokens) > tokens.bos_count and tokens.tokens[0] == tokens.tokens[tokens.bos_count]:
        yield Finding(
            "ok",
            f"{side} chat template",
            f"it writes {tokens.tokens[0]}, which the tokenizer adds, too; DualTokenizerCollator takes rendered chats "
            "as they are, so that there is one",
        )
