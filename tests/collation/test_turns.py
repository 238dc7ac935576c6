"""What is scored of a chat: all that the turns of the assistant render, their ends included, and nothing else.

Each template is written with marks around what it renders of a turn after its header. Rendered with the marks, a chat
says what is to be scored; the tokenizers get the template without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from dskd_components import DualTokenizerCollator, DualTokenizerPreprocessor, InputError
from dskd_components.collation import SampleError, SkipReason
from dskd_components.tokenization.byte_spans import tokenize_with_spans
from tests.helpers.collating import TEXTS, byte_level, core, metaspace, row_of, unigram

OPEN, CLOSE = "\ue000", "\ue001"
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|sep|>", "<|eos|>", "<s>", "</s>"]

# Templates drop a newline after a statement.
NEWLINE = "{{ '\\n' }}"
CALLS = (
    "{% for c in (m.tool_calls or []) %}"
    + NEWLINE
    + "<tool_call>{{ c.function.name }} {{ c.function.arguments | tojson }}"
    "</tool_call>{% endfor %}"
)
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
OTHERS = "{% if m.role != 'assistant' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% else %}"


def each(turn: str, others: str = OTHERS, prompt: str = PROMPT, start: str = "") -> str:
    return f"{start}{{% for m in messages %}}{others}{turn}{{% endif %}}{{% endfor %}}{prompt}"


@dataclass(frozen=True)
class Template:
    """A template, what it has a place for, and whether all turns end with a special token."""

    text: str
    calls: bool = False
    thoughts: bool = False
    has_end: bool = True


TEMPLATES = {
    "ChatML": Template(each(f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}<|im_end|>{CLOSE}\n")),
    "calls": Template(each(f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}{CALLS}<|im_end|>{CLOSE}\n"), calls=True),
    "a newline before the end": Template(
        each(f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}{CALLS}{NEWLINE}<|im_end|>{CLOSE}\n"), calls=True
    ),
    "whitespace before the end": Template(
        each(f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}{CALLS} \n\n\t\u3000 <|im_end|>{CLOSE}"), calls=True
    ),
    # As Llama 2's: no generation prompt, and no header either.
    "no generation prompt": Template(
        each(
            f"{OPEN} {{{{ m.content | trim }}}} </s>{CLOSE}",
            "{% if m.role != 'assistant' %}[INST] {{ m.content | trim }} [/INST]{% else %}",
            "",
            "<s>",
        )
    ),
    "a header without generation prompt": Template(
        each(f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}{CALLS}{NEWLINE}\n<|im_end|>{CLOSE}\n", prompt=""),
        calls=True,
    ),
    # As Vicuna's: the generation prompt stops before a space.
    "a header of text": Template(
        each(
            f"ASSISTANT:{OPEN} {{{{ m.content | trim }}}}</s>{CLOSE}\n",
            "{% if m.role != 'assistant' %}USER: {{ m.content | trim }}\n{% else %}",
            "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        )
    ),
    # As Qwen 3's: thoughts, empty ones too, after the last question only.
    "thoughts": Template(
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        + each(
            f"<|im_start|>assistant\n{OPEN}{{% if loop.index0 > ns.last %}}<think>\n"
            f"{{{{ m.reasoning_content or '' }}}}\n</think>\n\n"
            f"{{% endif %}}{{{{ m.content }}}}{CALLS}<|im_end|>{CLOSE}\n"
        ),
        calls=True,
        thoughts=True,
    ),
    "thoughts without generation prompt": Template(
        each(
            f"<|im_start|>assistant\n{OPEN}{{% if m.reasoning_content %}}<think>{{{{ m.reasoning_content }}}}</think>"
            f"{{% endif %}}{{{{ m.content }}}}{CALLS}<|im_end|>{CLOSE}\n",
            prompt="",
        ),
        calls=True,
        thoughts=True,
    ),
    # As Nemotron's: the prompt makes a model think, turns without thoughts depart from it.
    "a prompt to think": Template(
        each(
            f"<|im_start|>assistant\n{{% if m.reasoning_content %}}<think>\n{OPEN}{{{{ m.reasoning_content }}}}</think>"
            f"{{% else %}}{OPEN}<think></think>{{% endif %}}{{{{ m.content }}}}{CALLS}<|im_end|>{CLOSE}\n",
            prompt="{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        ),
        calls=True,
        thoughts=True,
    ),
    # As gpt-oss': channels, and ends that tell the last turn, a call, and the others.
    "ends that differ": Template(
        each(
            f"<|im_start|>assistant{OPEN}{{% if m.reasoning_content and loop.last %}}<|sep|>analysis\n"
            f"{{{{ m.reasoning_content }}}}<|end|><|im_start|>assistant{{% endif %}}<|sep|>final\n"
            f"{{{{ m.content }}}}{CALLS}"
            f"{{% if m.tool_calls %}}<|call|>{{% elif loop.last %}}{NEWLINE}<|return|>{{% else %}}<|end|>"
            f""
            f"{{% endif %}}{CLOSE}",
            prompt="{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
        ),
        calls=True,
        thoughts=True,
    ),
    # As DeepSeek's: special tokens close calls.
    "special tokens inside": Template(
        each(
            f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}{{% for c in (m.tool_calls or []) %}}<|sep|>"
            f"{{{{ c.function.name }}}}<|call|>{{% endfor %}}<|end|><|im_end|>{CLOSE}\n"
        ),
        calls=True,
    ),
    # As Phi 3's: an EOS of the whole chat.
    "an end of the chat": Template(
        each(f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}<|end|>{CLOSE}\n")
        + "{% if not add_generation_prompt %}<|eos|>{% endif %}"
    ),
    # Turns of the assistant in a row become one, as in Gemma's.
    "continuing turns": Template(
        each(
            "{% if loop.index0 == 0 or messages[loop.index0 - 1].role != 'assistant' %}<|im_start|>assistant\n"
            f"{{% endif %}}{OPEN}{{{{ m.content }}}}{{% if loop.last or "
            f"messages[loop.index0 + 1].role != 'assistant' %}}"
            f"{NEWLINE}<|im_end|>{CLOSE}\n{{% else %}}{CLOSE}{{% endif %}}"
        ),
        has_end=False,
    ),
    "an end of text": Template(
        each(f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}\n### End{CLOSE}\n\n"), has_end=False
    ),
    "an end between turns only": Template(
        each(
            f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}{{% if not loop.last %}}{NEWLINE}"
            f"<|im_end|>{{% endif %}}{CLOSE}"
        ),
        has_end=False,
    ),
    # Where marks do not come through, contents are looked for.
    "a look at contents": Template(
        each(f"<|im_start|>assistant\n{OPEN}{{{{ m.content }}}}{{{{ m.content | length }}}}{CALLS}<|im_end|>{CLOSE}\n"),
        calls=True,
    ),
    "a look at contents and thoughts": Template(
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        + each(
            f"<|im_start|>assistant\n{OPEN}{{% if m.reasoning_content and loop.index0 > ns.last %}}"
            f"<think>{{{{ m.reasoning_content }}}}</think>{{% endif %}}"
            f"{{{{ m.content }}}}{{{{ m.content | length }}}}{CALLS}<|im_end|>{CLOSE}\n"
        ),
        calls=True,
        thoughts=True,
    ),
}

ASK = {"role": "user", "content": "What is the statement, s?"}
AGAIN = {"role": "user", "content": "\n And its value?  "}
TOOL = {"role": "tool", "content": "the value is 3"}
CALL = {"tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": {"name": "the é value"}}}]}
SAY = {"role": "assistant", "content": "The statement is\n the value é."}
SHORT = {"role": "assistant", "content": "  No value. "}
THINK = {"reasoning_content": "The user wants a statement."}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one turn": [ASK, SAY],
    "two turns": [ASK, SAY, AGAIN, SHORT],
    "a system's message": [{"role": "system", "content": "Be brief."}, ASK, SHORT],
    "no question": [SAY, ASK, SHORT],
    "in a row": [ASK, SAY, SHORT],
    "an empty turn": [ASK, {"role": "assistant", "content": ""}, AGAIN, SAY],
    "nothing but whitespace": [ASK, SAY, AGAIN, {"role": "assistant", "content": " \n"}],
    "weights": [ASK, SAY | {"weight": 0}, AGAIN, SHORT | {"weight": 1}, ASK | {"weight": None}, SAY | {"weight": 0.0}],
    "a call at the end": [ASK, {"role": "assistant", **CALL}],
    "a call and its outcome": [ASK, {"role": "assistant", "content": None, **CALL}, TOOL, SAY],
    "a call after words": [ASK, SAY | CALL, TOOL, SHORT, AGAIN, SAY],
    "a call of no weight": [ASK, SHORT | CALL | {"weight": 0}, TOOL, SAY],
    "thoughts": [ASK, SAY | THINK],
    "thoughts in two turns": [ASK, SAY | THINK, AGAIN, SHORT | THINK],
    "thoughts and an echo": [ASK | {"content": SAY["content"]}, SAY | THINK, AGAIN, SHORT | THINK],
    "thoughts before a call": [ASK, {"role": "assistant", **THINK, **CALL}, TOOL, SAY | THINK, AGAIN, SHORT],
}
KINDS = {"byte_level": byte_level, "metaspace": metaspace, "unigram": unigram}


@cache
def tokenizer(kind: str, name: str) -> PreTrainedTokenizerFast:
    return with_template(kind, TEMPLATES[name].text.replace(OPEN, "").replace(CLOSE, ""))


def with_template(kind: str, template: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(KINDS[kind]().backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    names = {"bos_token": "<s>", "unk_token": KINDS[kind]().unk_token}
    given = {name: token for name, token in names.items() if token}
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>", chat_template=template, **given)


def collator(student: str, teacher: str, name: str) -> DualTokenizerCollator:
    return DualTokenizerCollator(tokenizer(student, name), tokenizer(teacher, name))


@cache
def marked(name: str) -> PreTrainedTokenizerFast:
    backend = byte_level().backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATES[name].text)


def is_empty(message: dict[str, Any], stripped: bool) -> bool:
    content = message.get("content") or ""
    return not (content.strip() if stripped else content) and not (message.keys() & {*CALL, *THINK})


def expected(name: str, chat: list[dict[str, Any]]) -> tuple[str, list[tuple[int, int] | None]]:
    """The chat as it is rendered, and from which byte to which each turn of the assistant is to be scored."""
    text, found = "", []
    for piece in marked(name).apply_chat_template(chat, tokenize=False).split(CLOSE):
        before, opened, turn = piece.partition(OPEN)
        text += before
        if opened:
            found.append((len(text.encode()), len((text + turn).encode())))
        text += turn
    turns = [message for message in chat if message["role"] == "assistant"]
    stripped = "trim" in TEMPLATES[name].text
    return text, [
        None if is_empty(message, stripped) or message.get("weight") == 0 else place
        for message, place in zip(turns, found, strict=True)
    ]


def scored_bytes(kind: str, name: str, text: str, row: dict[str, list[int]]) -> list[tuple[int, int]]:
    """What is scored of a text, in bytes: spans of tokens, joined where they touch."""
    tokens = tokenize_with_spans(tokenizer(kind, name), text)
    assert row["input_ids"] == tokens.token_ids.tolist()
    joined: list[tuple[int, int]] = []
    for span, label in zip(tokens.spans, row["labels"], strict=True):
        if label >= 0 and span is not None and span[0] < span[1]:
            if joined and joined[-1][1] >= span[0]:
                joined[-1] = joined[-1][0], span[1]
            else:
                joined.append(span)
    return joined


def joined_turns(turns: list[tuple[int, int] | None]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in filter(None, turns):
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def check(name: str, chat: list[dict[str, Any]], student: str, teacher: str) -> None:
    """Collate a chat, and compare what is scored on both sides, and the pairs of ends, with what is to be."""
    text, turns = expected(name, chat)
    batch = collator(student, teacher, name)([{"messages": chat}])
    wanted = [turn for turn in turns if turn]
    ends = []
    for side, kind in (("student", student), ("teacher", teacher)):
        row, found = row_of(batch, side), tokenizer(kind, name)
        spans = [span or (0, 0) for span in tokenize_with_spans(found, text).spans]
        if kind == "byte_level":
            # Tokens of this tokenizer do not lie across the borders of turns.
            assert scored_bytes(kind, name, text, row) == joined_turns(turns)
        for token, span in enumerate(spans):
            start = core(text.encode(), span)[0]
            inside = any(first <= start < last for first, last in wanted)
            if token and row["input_ids"][token] != found.unk_token_id and start < span[1]:
                assert (row["labels"][token] >= 0) == inside
        specials = found.convert_tokens_to_ids(SPECIALS)
        closings = [
            [row["groups"][token] for token, span in enumerate(spans) if first <= span[0] < span[1] == last]
            for first, last in wanted
            if row["input_ids"][max(token for token, span in enumerate(spans) if span[0] < last)] in specials
        ]
        ends.append([groups[-1] for groups in closings if groups])
    if TEMPLATES[name].has_end:
        assert len(ends[0]) == len(wanted)
    assert ends[0] == ends[1]
    assert -1 not in ends[0]
    assert len(set(ends[0])) == len(ends[0])


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_scored_is_what_the_turns_render(name: str, chat: str) -> None:
    calls = [message for message in CHATS[chat] if "tool_calls" in message and message.get("weight") != 0]
    if calls and not TEMPLATES[name].calls:
        with pytest.raises(SampleError, match=r"leaves out 'tool_calls' of message 1") as caught:
            DualTokenizerCollator(tokenizer("byte_level", name), byte_level())([{"messages": CHATS[chat]}])
        assert caught.value.reason is SkipReason.CONTENT_ALTERED
        return
    check(name, CHATS[chat], "byte_level", "metaspace")
    check(name, CHATS[chat], "unigram", "byte_level")


def until_content_stops(text: str, turn: tuple[int, int], content: str) -> tuple[int, int]:
    """A turn up to the last byte of its content, which may be stripped."""
    region = text.encode()[slice(*turn)]
    own = next(form for form in (content.encode(), content.strip().encode()) if form in region)
    return turn[0], turn[0] + region.rindex(own) + len(own)


@pytest.mark.parametrize("chat", [name for name, chat in CHATS.items() if not any("tool_calls" in one for one in chat)])
@pytest.mark.parametrize("name", TEMPLATES)
def test_of_turns_that_break_off_nothing_after_the_content_is_scored(name: str, chat: str) -> None:
    text, turns = expected(name, CHATS[chat])
    cut = [
        message | {"finish_reason": "length"} if message["role"] == "assistant" else message for message in CHATS[chat]
    ]
    said = [message["content"] for message in cut if message["role"] == "assistant"]
    wanted = [until_content_stops(text, turn, content) for turn, content in zip(turns, said, strict=True) if turn]
    batch = collator("byte_level", "metaspace", name)([{"messages": cut}])
    found, data = scored_bytes("byte_level", name, text, row_of(batch, "student")), text.encode()
    # Whitespace at the end of a content may be in one token with what the template puts after it.
    left, right = (
        [(first, data[first:last].rstrip()) for first, last in places if data[first:last].strip()]
        for places in (found, joined_turns([*wanted]))
    )
    assert left == right
    row, spans = row_of(batch, "teacher"), tokenize_with_spans(tokenizer("metaspace", name), text).spans
    for span, label in zip(spans, row["labels"], strict=True):
        assert label < 0 or any(first - 1 <= span[0] and span[1] <= last for first, last in wanted if span)


ANYTHING = st.sampled_from(["assistant", "<|im_start|>", "<|im_end|>\n", "</s>", "<think>", " ### End", "7"]) | TEXTS


@st.composite
def answers(draw: st.DrawFn, template: Template) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": draw(ANYTHING)}
    if template.thoughts and draw(st.booleans()):
        message["reasoning_content"] = "So: " + draw(TEXTS)
    if template.calls and draw(st.booleans()):
        message["tool_calls"] = [{"function": {"name": "look_up", "arguments": {"name": draw(TEXTS)}}}]
    return message | {"weight": draw(st.sampled_from([1, None, 1.0, 0]))}


@settings(max_examples=60)
@given(st.data())
def test_what_is_scored_is_what_the_turns_render_whatever_they_say(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(TEMPLATES)))
    others = st.builds(lambda content: {"role": "user", "content": content}, ANYTHING)
    turns = answers(TEMPLATES[name])
    chat = [data.draw(others), *data.draw(st.lists(others | turns, max_size=3)), data.draw(turns)]
    # An empty turn that continues another is its end, and nothing of its own.
    assume(name != "continuing turns" or all(message["content"] for message in chat))
    counting = DualTokenizerPreprocessor(tokenizer("byte_level", name), tokenizer("byte_level", name), on_error="skip")
    counting({"messages": [chat]})
    if not counting.skipped:
        check(name, chat, "byte_level", "byte_level")
    for reason in counting.skipped:
        event(reason)
        unscored = {SkipReason.EMPTY_RESPONSE, SkipReason.NOTHING_SCORED}
        assert reason in {SkipReason.CONTENT_ALTERED, *unscored}
        said = [message for message in chat if message["role"] == "assistant" and message["weight"] != 0]
        assert reason not in unscored or all(is_empty(message, stripped=True) for message in said)


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}], ids=str)
@pytest.mark.parametrize("between", ["", "\n", " \n"])
def test_an_end_may_swallow_the_whitespace_around_it(flags: dict[str, bool], between: str) -> None:
    backend = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False, **flags)])
    template = each(f"<|im_start|>assistant\n{{{{ m.content }}}}{between}<|end|>\n")
    swallowing = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template)
    chat = [ASK, SAY | {"content": "The value. "}, AGAIN, SAY]
    rows = [
        row_of(DualTokenizerCollator(swallowing, tokenizer("metaspace", "ChatML"))([{"messages": chat}]), side)
        for side in ("student", "teacher")
    ]
    groups = [row["groups"][place] for row in rows[:1] for place in ends_of(row, swallowing, "<|end|>")]
    assert groups == [
        rows[1]["groups"][place] for place in ends_of(rows[1], tokenizer("metaspace", "ChatML"), "<|im_end|>")
    ]
    assert len(groups) == 2
    assert min(groups) >= 0


def ends_of(row: dict[str, list[int]], found: PreTrainedTokenizerFast, end: str) -> list[int]:
    """Where tokens that end turns are scored."""
    return [place for place, label in enumerate(row["labels"]) if label == found.convert_tokens_to_ids(end)]


@pytest.mark.parametrize("weight", [0.5, 2, -1, "0", float("nan"), [0]])
def test_a_message_is_scored_or_not(weight: Any) -> None:
    collate = DualTokenizerCollator(tokenizer("byte_level", "ChatML"), byte_level(), on_error="skip")
    with pytest.raises(InputError, match=r"Sample 0: messages\[1\]: expected 'weight' to be 0 .*1 or absent"):
        collate([{"messages": [ASK, SAY | {"weight": weight}]}])


def test_weights_and_roles_agree() -> None:
    collate = DualTokenizerCollator(byte_level(), byte_level())
    with pytest.raises(SampleError, match="'weight' 0") as caught:
        collate([{"messages": [ASK, SAY | {"weight": 0}]}])
    assert caught.value.reason is SkipReason.NOTHING_SCORED
    chat = [ASK | {"weight": 1}, SAY]
    with pytest.raises(InputError, match=r"Sample 0: Message 0 of the role 'user' has 'weight' 1.*train_on_prompt"):
        collate([{"messages": chat}])
    everything = DualTokenizerCollator(byte_level(), byte_level(), train_on_prompt=True)
    whole, part = (
        row_of(everything([{"messages": [ASK | {"weight": weight}, SAY]}]), "student")["labels"] for weight in (1, 0)
    )
    assert whole[-10:] == part[-10:]
    assert sum(label >= 0 for label in whole) > sum(label >= 0 for label in part)


@pytest.mark.parametrize(
    ("turn", "prompt", "message", "words"),
    [
        # Thoughts before the header, which stands where the generation prompt would end.
        ("{{ m.thinking }}<|im_start|>assistant\n{{ m.content }}<|im_end|>", PROMPT, {"thinking": "Hm."}, "'thinking'"),
        ("{{ m.thinking }}<|im_start|>assistant\n{{ m.content }}<|im_end|>", "", {"thinking": "Hm."}, "'thinking'"),
        # A name in the header.
        ("<|im_start|>assistant {{ m.name }}\n{{ m.content }}<|im_end|>", PROMPT, {"name": "Bo"}, "'name'"),
        # Nothing tells thoughts from what every turn begins with.
        (
            "<|im_start|>assistant\n{{ m.thinking or 'none' }}{{ m.content }}<|im_end|>",
            "",
            {"thinking": "Hm."},
            "'thinking'",
        ),
    ],
)
def test_a_field_whose_turn_is_in_doubt_is_refused_by_name(
    turn: str, prompt: str, message: dict[str, str], words: str
) -> None:
    refusing = with_template("byte_level", each(turn, prompt=prompt))
    collate = DualTokenizerCollator(byte_level(), refusing)
    with pytest.raises(
        SampleError, match=rf"Sample 0: The teacher's chat template .* message 1 starts.*{words}"
    ) as caught:
        collate([{"messages": [ASK, SAY | message]}])
    assert caught.value.reason is SkipReason.CONTENT_ALTERED
    collate([{"messages": [ASK, SAY]}])


def test_a_doubt_about_a_turn_of_no_weight_is_no_error() -> None:
    named = with_template("byte_level", each("<|im_start|>assistant {{ m.name }}\n{{ m.content }}<|im_end|>"))
    chat = [ASK, SAY | {"name": "Bo", "weight": 0}, AGAIN, SAY | {"name": ""}]
    assert said(named, row_of(DualTokenizerCollator(named, named)([{"messages": chat}]), "student")) == (
        SAY["content"] + "<|im_end|>"
    )


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_where_renderings_differ_a_special_token_after_the_content_ends_a_turn(prompt: str) -> None:
    """The template counts all messages, so that no other chat is rendered alike."""
    counting = with_template(
        "byte_level",
        each(
            f"<|im_start|>assistant\n{{{{ m.content }}}}{{{{ m.name }}}}{NEWLINE}<|im_end|>({{{{ loop.length }}}})\n",
            prompt=prompt,
        ),
    )
    row = row_of(DualTokenizerCollator(counting, counting)([{"messages": [ASK, SAY, AGAIN, SHORT]}]), "student")
    assert said(counting, row) == "The statement is\n the value é.\n<|im_end|>  No value. \n<|im_end|>"
    with pytest.raises(
        SampleError, match=r"where the turn of message 1 ends, which has 'name' beside its content.*remove 'name'"
    ):
        DualTokenizerCollator(counting, counting)([{"messages": [ASK, SAY | {"name": "Bo"}, AGAIN, SHORT]}])


def test_a_turn_whose_end_is_in_doubt_is_refused() -> None:
    counting = with_template("byte_level", each("<|im_start|>assistant\n{{ m.content }} ({{ loop.length }})<|im_end|>"))
    with pytest.raises(
        SampleError, match=r"in doubt where the turn of message 1 ends\. .*or pass prompt/response"
    ) as caught:
        DualTokenizerCollator(counting, counting)([{"messages": [ASK, SAY, AGAIN, SHORT]}])
    assert caught.value.reason is SkipReason.CONTENT_ALTERED


@pytest.mark.parametrize(
    "field",
    [
        {"function_call": {"name": "look_up", "arguments": "{}"}},
        {"tool_calls": {"name": "look_up"}},
        {"tool_calls": ["look_up"]},
        {"tool_calls": [{"function": "look_up"}]},
        {"tool_calls": [{"function": {"name": 3}}, {"function": {"arguments": {1: "a", "b": 2}}}]},
    ],
    ids=str,
)
def test_calls_of_any_form_are_rendered_or_refused(field: dict[str, Any]) -> None:
    (name,) = field
    turn = f"<|im_start|>assistant\n{{{{ m.content }}}}{{{{ m.{name} or '' }}}}<|im_end|>"
    plain, calling = tokenizer("byte_level", "ChatML"), with_template("byte_level", each(turn))
    chat = [ASK, SAY | field]
    row = row_of(DualTokenizerCollator(calling, calling)([{"messages": chat}]), "student")
    assert said(calling, row) == SAY["content"] + str(field[name]) + "<|im_end|>"
    with pytest.raises(SampleError, match=rf"The teacher's .* leaves out '{name}' of message 1"):
        DualTokenizerCollator(calling, plain)([{"messages": chat}])


def test_thoughts_alone_that_are_not_rendered_are_refused() -> None:
    collate = DualTokenizerCollator(tokenizer("byte_level", "ChatML"), tokenizer("byte_level", "ChatML"))
    with pytest.raises(SampleError, match="leaves out 'reasoning_content' of message 1"):
        collate([{"messages": [ASK, {"role": "assistant", **THINK}]}])


def test_a_turn_may_be_cut_after_its_end_and_within_its_content() -> None:
    student, teacher = tokenizer("byte_level", "a newline before the end"), tokenizer("metaspace", "calls")
    chat = [ASK, SAY | CALL, TOOL, SHORT]
    whole = row_of(DualTokenizerCollator(student, teacher)([{"messages": chat}]), "student")
    end = ends_of(whole, student, "<|im_end|>")[0] + 1
    for limit in (end, end - 1):
        batch = DualTokenizerCollator(student, teacher, student_max_length=limit)([{"messages": chat}])
        cut, other = row_of(batch, "student"), row_of(batch, "teacher")
        assert cut["labels"] == whole["labels"][: len(cut["labels"])]
        last = teacher.decode(other["input_ids"])
        assert last.endswith("<|im_end|>" if limit == end else "value é.")
        assert (len(cut["labels"]) == limit) == (limit == end)


def test_texts_in_calls_are_checked_as_contents_are() -> None:
    collate = DualTokenizerCollator(tokenizer("byte_level", "calls"), tokenizer("metaspace", "calls"))
    call = {"tool_calls": [{"function": {"name": "look_up", "arguments": {"name": "\ud800"}}}]}
    with pytest.raises(SampleError, match="lone surrogate") as caught:
        collate([{"messages": [ASK, SAY | call]}])
    assert caught.value.reason is SkipReason.INVALID_UNICODE


@pytest.mark.parametrize("end", ["\n<|im_end|>\n", "\n### End"])
def test_a_template_for_one_question(end: str) -> None:
    refuses_more = "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}"
    template = refuses_more + each(f"<|im_start|>assistant\n{{{{ m.content }}}}{end}", prompt="")
    asking = with_template("byte_level", template)
    labels = row_of(DualTokenizerCollator(asking, asking)([{"messages": [ASK, SAY]}]), "student")["labels"]
    assert asking.decode([label for label in labels if label >= 0]) == SAY["content"] + end.rstrip()


def said(found: PreTrainedTokenizerFast, row: dict[str, list[int]]) -> str:
    return found.decode([label for label in row["labels"] if label >= 0])


def test_a_prompt_of_the_teachers_own_and_options_of_templates() -> None:
    template = each(f"<|im_start|>assistant\n{{{{ mood }}}}{{{{ m.content }}}}{CALLS}{NEWLINE}<|im_end|>\n")
    asking = with_template("byte_level", template)
    collate = DualTokenizerCollator(asking, with_template("metaspace", template))
    sample = {
        "prompt": [ASK, SAY | CALL, TOOL],
        "completion": [{"role": "assistant", **CALL}, TOOL, SHORT, AGAIN, SAY | {"weight": 0}],
        "teacher_prompt": [{"role": "system", "content": "The value is 3."}, ASK],
        "chat_template_kwargs": {"mood": "(calm) "},
    }
    batch = collate([sample])
    rows = [row_of(batch, side) for side in ("student", "teacher")]
    call = '(calm) \n<tool_call>look_up {"name": "the é value"}</tool_call>\n<|im_end|>'
    assert said(asking, rows[0]) == call + "(calm)   No value. \n<|im_end|>"
    assert said(asking, row_of(DualTokenizerCollator(asking, asking)([sample]), "teacher")) == said(asking, rows[0])
    ends = [
        [row["groups"][place] for place in ends_of(row, tokenizer(kind, "ChatML"), "<|im_end|>")]
        for row, kind in zip(rows, ("byte_level", "metaspace"), strict=True)
    ]
    assert ends[0] == ends[1]
    assert len(ends[0]) == 2
    assert min(ends[0]) >= 0


def test_answers_of_no_weight_are_context() -> None:
    student, teacher = tokenizer("byte_level", "calls"), tokenizer("metaspace", "a newline before the end")
    collate = DualTokenizerCollator(student, teacher)
    chats = [[ASK, SAY | CALL | weight, TOOL, SHORT] for weight in ({}, {"weight": 0})]
    whole, part = (collate([{"messages": chat}]) for chat in chats)
    for side in ("student", "teacher"):
        ours, theirs = row_of(part, side), row_of(whole, side)
        assert ours["input_ids"] == theirs["input_ids"]
        assert ours["groups"] == theirs["groups"]
        first = next(place for place, label in enumerate(ours["labels"]) if label >= 0)
        assert ours["labels"][first:] == theirs["labels"][first:]


def test_an_empty_answer_whose_turn_is_in_doubt_is_no_error() -> None:
    named = with_template("byte_level", each("<|im_start|>assistant {{ m.name }}\n{{ m.content }}<|im_end|>"))
    empty = {"role": "assistant", "content": ""}
    labels = row_of(DualTokenizerCollator(named, named)([{"messages": [ASK, empty, AGAIN, SAY]}]), "student")
    assert said(named, labels) == SAY["content"] + "<|im_end|>"
