"""Chat templates: whether both sides have one, and whether contents come through both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dskd_components.collation.chat_templates import ChatRenderer
from dskd_components.collation.problems import SampleError
from dskd_components.preflight.report import Finding
from dskd_components.tokenization.byte_spans import tokenize_with_spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.preflight.pair import Pair

CHAT: Final = (
    {"role": "user", "content": "Which river is the longest?"},
    {"role": "assistant", "content": "That depends on where one starts to measure."},
)
SYSTEM: Final = {"role": "system", "content": "You answer in one sentence."}


def check_chat_templates(pair: Pair) -> Iterator[Finding]:
    """Render a chat with both templates."""
    if not pair.has_both_tokenizers:
        return
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
        renderer = ChatRenderer(tokenizer, side)
        try:
            added[side] = _added(renderer)
        except SampleError as error:
            advice = "use a template that keeps contents, or prompt/response pairs"
            yield Finding("error", f"{side} chat template", str(error).rstrip("."), advice)
            continue
        try:
            renderer.render([SYSTEM, *CHAT])
        except SampleError as error:
            yield Finding(
                "warning",
                f"{side} chat template",
                f"it has no place for a system message: {str(error).rstrip('.')}",
                "put the system message into the first message of the user on both sides",
            )
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


def _added(renderer: ChatRenderer) -> int:
    rendered = renderer.render(CHAT)
    return len(rendered.text.encode()) - sum(place.last - place.first for place in rendered.places)


def _doubled(side: str, tokenizer: Any, renderer: ChatRenderer) -> Iterator[Finding]:
    """Tell whether a rendered chat gets a second BOS from a tokenizer that adds one itself."""
    tokens = tokenize_with_spans(tokenizer, renderer.render(CHAT).text, add_special_tokens=True)
    if tokens.bos_count and len(tokens) > tokens.bos_count and tokens.tokens[0] == tokens.tokens[tokens.bos_count]:
        yield Finding(
            "warning",
            f"{side} chat template",
            f"it writes {tokens.tokens[0]}, and the tokenizer adds another: rendered chats begin with two",
            "tokenize rendered chats with add_special_tokens=False, as DualTokenizerCollator does",
        )
