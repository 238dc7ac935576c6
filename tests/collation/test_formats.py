"""TRL's data formats: each gives the very batch of the chat or the pair that it writes down in another way."""

from __future__ import annotations

import copy
import json
from collections import UserDict
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from dskd_components import DualTokenizerCollator, DualTokenizerPreprocessor, InputError, MultiTeacherCollator
from dskd_components.aligners import Identity
from dskd_components.collation import Columns, SampleError, SkipReason
from tests.helpers.collating import byte_level, metaspace, row_of, unigram, wordpiece

if TYPE_CHECKING:
    from collections.abc import Callable

Messages = list[dict[str, Any]]

CHAT: Messages = [
    {"role": "system", "content": "Be brief, s."},
    {"role": "user", "content": "\n user: what is the statement?  "},
    {"role": "assistant", "content": " The statement is the value."},
]
ASTRAL: Messages = [{"role": "user", "content": "the ½ 😀"}, {"role": "assistant", "content": "é é s 12345 😀"}]
LONG: Messages = [
    {"role": "user", "content": "the statement"},
    {"role": "assistant", "content": "the value of the statement is new " * 4},
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}},
    }
]

# Reads tools and an option, as many templates do; rejects what is no option of a template.
TOOL_TEMPLATE = (
    "{% if tools is not none %}You have tools. {% endif %}"
    "{% if tools %}<<{% for tool in tools %}{{ tool | tojson }}{% endfor %}>>{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}(no thinking){% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
# Reads contents as lists of parts and nothing else, as templates of vision models do.
PARTS_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}"
)


def with_template(tokenizer: Any, template: str) -> Any:
    specials = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    given = {name: value for name, value in specials.items() if value is not None}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, chat_template=template, **given)


def as_parts(text: str) -> list[dict[str, Any]]:
    """A text in two parts, the border in the middle of a word; keys that Arrow fills up are None."""
    middle = len(text) // 2
    return [{"type": "text", "text": text[:middle], "image": None}, {"type": "text", "text": text[middle:]}]


def in_parts(messages: Messages) -> Messages:
    return [{**message, "content": as_parts(message["content"])} for message in messages]


def objects(values: list[Any]) -> Any:
    """As data sets in NumPy's format, and tables of pandas, hold lists of mappings."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


FORMATS: dict[str, Any] = {
    "prompt, completion": lambda chat: {"prompt": chat[:-1], "completion": chat[-1:]},
    "prompt, response": lambda chat: {"prompt": chat[:-1], "response": tuple(chat[-1:])},
    "empty prompt": lambda chat: {"prompt": [], "completion": chat},
    "parts": lambda chat: {"messages": in_parts(chat)},
    "prompt, completion in parts": lambda chat: {"prompt": in_parts(chat[:-1]), "completion": chat[-1:]},
    "arrays": lambda chat: {"messages": objects([{**m, "content": objects(as_parts(m["content"]))} for m in chat])},
    "arrays of prompt, completion": lambda chat: {"prompt": objects(chat[:-1]), "completion": objects(chat[-1:])},
    "strings of NumPy": lambda chat: {"messages": [{k: np.str_(v) for k, v in m.items()} for m in chat]},
    "filled up": lambda chat: {
        "messages": [{**m, "tool_calls": None, "name": None} for m in chat],
        **dict.fromkeys(["text", "prompt", "completion", "tools", "chat_template_kwargs", "teacher_prompt", "id"]),
    },
    "other mappings": lambda chat: UserDict(messages=[MappingProxyType(m) for m in chat]),
    "conversations": lambda chat: {"conversations": [{"from": m["role"], "value": m["content"]} for m in chat]},
    "no tools, no options": lambda chat: {"messages": chat, "tools": [], "chat_template_kwargs": {"x": None}},
    "equal prompt of the teacher": lambda chat: {
        "prompt": chat[:-1], "teacher_prompt": in_parts(chat[:-1]), "completion": chat[-1:]
    },
}  # fmt: skip

SETTINGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "exact_match": (byte_level, metaspace, {}),
    "span, cut": (
        byte_level,
        unigram,
        {"aligner": "span", "student_max_length": 48, "teacher_max_length": 110},
    ),
    "min_edit, packed": (metaspace, wordpiece, {"aligner": "min_edit", "packing": True}),
    "no groups, prompts scored": (wordpiece, byte_level, {"aligner": None, "train_on_prompt": True}),
}


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_format_gives_the_batch_of_its_messages(setting: str, name: str) -> None:
    student, teacher, options = SETTINGS[setting]
    chats = [CHAT, ASTRAL, LONG]
    samples = [FORMATS[name](copy.deepcopy(chat)) for chat in chats]
    before = copy.deepcopy([str(sample) for sample in samples])
    collate = DualTokenizerCollator(student(), teacher(), **options)
    expected = collate([{"messages": chat} for chat in chats])
    assert same(collate(samples), expected)

    preprocessing = {option: value for option, value in options.items() if option != "packing"}
    preprocess = DualTokenizerPreprocessor(student(), teacher(), **preprocessing)
    assert same(collate([preprocess(sample) for sample in samples]), expected)
    columns = preprocess({key: [sample[key] for sample in samples] for key in samples[0]})
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert same(collate(rows), expected)
    assert [str(sample) for sample in samples] == before, "inputs are never changed"


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gives_several_teachers_the_batch_of_its_messages(name: str) -> None:
    teachers = {"large": metaspace(), "code": wordpiece()}
    collate = MultiTeacherCollator(byte_level(), teachers, aligners={"code": "span"}, student_max_length=48)
    samples = [FORMATS[name](chat) for chat in (CHAT, LONG)]
    assert same(collate(samples), collate([{"messages": CHAT}, {"messages": LONG}]))


def test_texts_as_prompt_and_completion_are_a_pair() -> None:
    collate = DualTokenizerCollator(byte_level(), metaspace())
    pair = {"prompt": "the statement", "response": " is new"}
    expected = collate([pair])
    assert same(collate([{"prompt": "the statement", "completion": " is new"}]), expected)
    assert same(collate([{"prompt": np.str_("the statement"), "completion": np.str_(" is new")}]), expected)
    named = DualTokenizerCollator(byte_level(), metaspace(), columns=Columns(response="answer"))
    assert same(named([{"prompt": "the statement", "answer": " is new"}]), expected)
    assert same(named([{"prompt": "the statement", "completion": " is new"}]), expected)
    # A column of one's own may have any of these names.
    swapped = DualTokenizerCollator(byte_level(), metaspace(), columns=Columns(prompt="completion", response="prompt"))
    assert same(swapped([{"completion": "the statement", "prompt": " is new"}]), expected)
    mixed = [pair, {"messages": CHAT}, {"prompt": CHAT[:-1], "completion": CHAT[-1:]}, {"text": "the value"}]
    assert collate(mixed)["student_input_ids"].shape[0] == 4


def test_data_sets_of_each_format_are_read(tmp_path: Any) -> None:
    """As `datasets` and pandas hand samples out, whatever they are told to format them as."""
    datasets = pytest.importorskip("datasets")
    samples = [FORMATS["prompt, completion in parts"](chat) for chat in (CHAT, ASTRAL)]
    preprocess = DualTokenizerPreprocessor(byte_level(), metaspace())
    collate = DualTokenizerCollator(byte_level(), metaspace())
    expected = collate([{"messages": chat} for chat in (CHAT, ASTRAL)])
    plain = datasets.Dataset.from_list(samples)
    for form in (None, "numpy", "torch"):
        data = plain.with_format(form)
        assert same(collate([data[0], data[1]]), expected)
        for batched in (True, False):
            mapped = data.map(preprocess, batched=batched, remove_columns=data.column_names)
            assert same(collate([mapped[0], mapped[1]]), expected)
    assert same(collate(plain.to_pandas().to_dict("records")), expected)


# ---- what is scored of a prompt and a completion


def test_answers_in_a_prompt_are_context() -> None:
    prompt = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "value"}, *CHAT[1:2]]
    collate = DualTokenizerCollator(byte_level(), metaspace())
    batch = collate([{"prompt": prompt, "completion": CHAT[-1:]}])
    whole = collate([{"messages": [*prompt, CHAT[-1]]}])
    for side in ("student", "teacher"):
        ours, theirs = row_of(batch, side), row_of(whole, side)
        assert ours["input_ids"] == theirs["input_ids"]
        first = [label >= 0 for label in theirs["labels"]].index(True)
        scored = [position for position, label in enumerate(ours["labels"]) if label >= 0]
        assert scored[0] > first
        assert ours["labels"][scored[0] :] == theirs["labels"][scored[0] :]
        assert ours["groups"] == theirs["groups"]
    everything = DualTokenizerCollator(byte_level(), metaspace(), train_on_prompt=True)
    assert same(
        everything([{"prompt": prompt, "completion": CHAT[-1:]}]), everything([{"messages": [*prompt, CHAT[-1]]}])
    )
    with pytest.raises(SampleError, match="its completion has no message of the role 'assistant'") as caught:
        collate([{"prompt": prompt, "completion": [{"role": "user", "content": "What?"}]}])
    assert caught.value.reason is SkipReason.NO_ASSISTANT_TURN


# ---- tools and options of the template


def rendered(tokenizer: Any, batch: Any, side: str) -> str:
    return str(tokenizer.decode(row_of(batch, side)["input_ids"]))


@pytest.mark.parametrize("name", ["prompt, completion", "parts", "arrays"])
def test_tools_and_options_reach_both_templates(name: str) -> None:
    student, teacher = with_template(byte_level(), TOOL_TEMPLATE), with_template(unigram(), TOOL_TEMPLATE)
    collate = DualTokenizerCollator(student, teacher)
    plain = {"messages": CHAT, "tools": TOOLS, "chat_template_kwargs": {"enable_thinking": False}}
    expected = collate([plain])
    text = student.apply_chat_template(CHAT, tools=TOOLS, enable_thinking=False, tokenize=False)
    assert row_of(expected, "student")["input_ids"] == student(text, add_special_tokens=False)["input_ids"]
    assert '"look_up"' in text
    assert "(no thinking)" in text
    # What is scored and aligned is what it is without them.
    bare = collate([{"messages": CHAT}])
    for side in ("student", "teacher"):
        scored = [[label for label in row_of(batch, side)["labels"] if label >= 0] for batch in (bare, expected)]
        assert scored[0] == scored[1]
    for tools in (TOOLS, json.dumps(TOOLS), tuple(TOOLS), objects(TOOLS)):
        sample = FORMATS[name](CHAT) | {
            "tools": tools,
            "chat_template_kwargs": MappingProxyType({"enable_thinking": False}),
        }
        assert same(collate([sample]), expected)
        assert same(collate([DualTokenizerPreprocessor(student, teacher)(sample)]), expected)
    samples = [plain, {"messages": CHAT}, plain | {"tools": None}]
    together = collate(samples)
    assert all(
        row_of(together, "student", n)["labels"] == row_of(collate([s]), "student")["labels"]
        for n, s in enumerate(samples)
    )
    columns = DualTokenizerPreprocessor(student, teacher)(
        {key: [sample.get(key) for sample in samples] for key in plain}
    )
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert same(collate(rows), together)


def look_up(word: str) -> str:
    """Look up a word.

    Args:
        word: The word.
    """
    return word


# Contents that stand in the template's own words, so that nothing but the marks' rendering tells where they are.
AMBIGUOUS: Messages = [{"role": "user", "content": "assistant"}, {"role": "assistant", "content": "s"}]


def test_what_a_template_writes_is_known_for_each_set_of_tools_and_options() -> None:
    student, teacher = with_template(byte_level(), TOOL_TEMPLATE), with_template(unigram(), TOOL_TEMPLATE)
    samples: list[dict[str, Any]] = [{"messages": AMBIGUOUS, "tools": tools} for tools in (None, TOOLS, [])]
    samples += [sample | {"chat_template_kwargs": {"enable_thinking": False}} for sample in samples]
    collate = DualTokenizerCollator(student, teacher)
    together = [row_of(collate(samples), "student", number) for number in range(len(samples))]
    fresh = [row_of(DualTokenizerCollator(student, teacher)([sample]), "student") for sample in samples]
    scored = [[label for label in row["labels"] if label >= 0] for row in (*together, *fresh)]
    assert scored == [scored[0]] * 12
    assert student.decode(scored[0]) == "s<|im_end|>"
    assert fresh[0] == fresh[2]


def test_tools_may_be_functions() -> None:
    student, teacher = with_template(byte_level(), TOOL_TEMPLATE), with_template(unigram(), TOOL_TEMPLATE)
    from transformers.utils import get_json_schema

    collate = DualTokenizerCollator(student, teacher)
    tool = FunctionType(look_up.__code__, {})
    tool.__annotations__ = {"word": str}
    for description in (str(look_up.__doc__), str(look_up.__doc__).replace("Look up", "Read up on")):
        tool.__doc__ = description
        as_function = collate([{"messages": AMBIGUOUS, "tools": [tool]}])
        assert same(as_function, collate([{"messages": AMBIGUOUS, "tools": [get_json_schema(tool)]}]))


def test_a_template_that_reads_parts_alone_reads_texts_as_well() -> None:
    student, teacher = with_template(byte_level(), PARTS_TEMPLATE), metaspace()
    collate = DualTokenizerCollator(student, teacher)
    expected = DualTokenizerCollator(byte_level(), metaspace())([{"messages": CHAT}])
    for sample in ({"messages": CHAT}, FORMATS["parts"](CHAT), FORMATS["prompt, completion"](CHAT)):
        batch = collate([sample])
        assert row_of(batch, "student") == row_of(expected, "student")
        assert row_of(batch, "teacher") == row_of(expected, "teacher")


def test_a_template_that_alters_texts_is_not_taken_for_one_that_reads_parts() -> None:
    for words in (
        "{{ m.content | replace('x', 'y') }}",
        "{% if m.content is string %}{{ m.content | replace('x', 'y') }}{% else %}{{ m.content }}{% endif %}",
        "{% if m.content is string %}{{ m.content | upper }}{% else %}{{ m.content | tojson }}{% endif %}",
    ):
        altering = with_template(byte_level(), "{% for m in messages %}" + words + "\n{% endfor %}")
        with pytest.raises(SampleError, match="alters the messages"):
            DualTokenizerCollator(altering, metaspace())([{"messages": [{"role": "assistant", "content": "an axe"}]}])


# ---- the teacher's own prompt


PRIVILEGED: Messages = [
    {"role": "system", "content": "The statement is the value, they say."},
    {"role": "user", "content": "what is it?"},
]
OWN_PROMPTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "texts": (
        {"prompt": "thé statement", "completion": " is new é 😀 s", "teacher_prompt": "they säy the value: 12345"},
        {"prompt": "thé statement", "completion": " is new é 😀 s"},
        {"prompt": "they säy the value: 12345", "completion": " is new é 😀 s"},
    ),
    "an empty one": (
        {"prompt": "the statement", "completion": " is new", "teacher_prompt": ""},
        {"prompt": "the statement", "completion": " is new"},
        {"prompt": "", "completion": " is new"},
    ),
    "messages": (
        {"prompt": CHAT[:2], "completion": CHAT[2:], "teacher_prompt": PRIVILEGED},
        {"messages": CHAT},
        {"messages": [*PRIVILEGED, CHAT[2]]},
    ),
    "messages in parts, several turns": (
        {"prompt": in_parts(CHAT[:1]), "completion": CHAT[1:], "teacher_prompt": in_parts(PRIVILEGED[:1])},
        {"messages": CHAT},
        {"messages": [*PRIVILEGED[:1], *CHAT[1:]]},
    ),
}


def scored_pairs(batch: Any, student: Any, teacher: Any) -> list[tuple[str, str]]:
    """The texts of scored tokens that belong together."""
    texts = []
    for side, tokenizer in (("student", student), ("teacher", teacher)):
        row = row_of(batch, side)
        by_group: dict[int, list[int]] = {}
        for token, label, group in zip(row["input_ids"], row["labels"], row["groups"], strict=True):
            if label >= 0 and group >= 0:
                by_group.setdefault(group, []).append(token)
        texts.append({group: tokenizer.decode(tokens).strip() for group, tokens in by_group.items()})
    assert texts[0].keys() == texts[1].keys()
    return [(texts[0][group], texts[1][group]) for group in sorted(texts[0])]


@pytest.mark.parametrize("case", OWN_PROMPTS)
@pytest.mark.parametrize("aligner", ["exact_match", "span", "min_edit", None])
@pytest.mark.parametrize("pair", [(byte_level, byte_level), (byte_level, metaspace), (unigram, byte_level)])
def test_each_side_has_its_prompt_and_the_completion_is_aligned(pair: Any, aligner: Any, case: str) -> None:
    sample, of_student, of_teacher = OWN_PROMPTS[case]
    student, teacher = pair[0](), pair[1]()
    collate = DualTokenizerCollator(student, teacher, aligner=aligner)
    batch = collate([sample])
    for side, alone in (("student", of_student), ("teacher", of_teacher)):
        ours, theirs = row_of(batch, side), row_of(collate([alone]), side)
        assert ours["input_ids"] == theirs["input_ids"]
        assert ours["labels"] == theirs["labels"]
        if aligner is not None and case != "an empty one":
            prompt = [group for group, label in zip(ours["groups"], ours["labels"], strict=True) if label < 0]
            assert "several" in case or set(prompt) == {-1}, "prompts belong to nothing"
    # Without a prompt the first token of the completion is the row's, which nothing predicts.
    if aligner in ("exact_match", "span") and case != "an empty one":
        pairs = scored_pairs(batch, student, teacher)
        assert pairs == scored_pairs(collate([of_student]), student, teacher)
        assert pairs == scored_pairs(collate([of_teacher]), student, teacher)
        if student is teacher:
            labels = row_of(batch, "student")["labels"], row_of(batch, "teacher")["labels"]
            scored = [sum(label >= 0 for label in side) for side in labels]
            assert scored[0] == scored[1] == len(pairs)
    assert same(collate([DualTokenizerPreprocessor(student, teacher, aligner=aligner)(sample)]), batch)


def test_prompts_of_the_teacher_come_in_columns_and_in_part() -> None:
    samples = [OWN_PROMPTS["texts"][0], OWN_PROMPTS["texts"][0] | {"teacher_prompt": None}]
    collate = DualTokenizerCollator(byte_level(), metaspace())
    columns = DualTokenizerPreprocessor(byte_level(), metaspace())(
        {key: [s[key] for s in samples] for key in samples[0]}
    )
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert same(collate(rows), collate(samples))
    chats = [OWN_PROMPTS["messages"][0], OWN_PROMPTS["messages"][0] | {"teacher_prompt": None}]
    columns = DualTokenizerPreprocessor(byte_level(), metaspace())({key: [s[key] for s in chats] for key in chats[0]})
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert same(collate(rows), collate(chats))
    renamed = DualTokenizerCollator(byte_level(), metaspace(), columns=Columns(teacher_prompt="privileged"))
    sample = OWN_PROMPTS["texts"][0]
    assert same(
        renamed(
            [{**{k: v for k, v in sample.items() if k != "teacher_prompt"}, "privileged": sample["teacher_prompt"]}]
        ),
        collate([sample]),
    )


@pytest.mark.parametrize("case", OWN_PROMPTS)
def test_both_sides_are_cut_at_one_place_of_the_completion(case: str) -> None:
    sample = OWN_PROMPTS[case][0]
    student, teacher = byte_level(), metaspace()
    whole = DualTokenizerCollator(student, teacher)([sample])
    longest = whole["student_input_ids"].shape[1]
    for limit in range(longest, 0, -1):
        collate = DualTokenizerCollator(student, teacher, student_max_length=limit, on_error="skip")
        try:
            batch = collate([sample])
        except InputError:
            assert set(collate.skipped) == {SkipReason.PROMPT_TOO_LONG}
            break
        rows = [row_of(batch, side) for side in ("student", "teacher")]
        assert len(rows[0]["input_ids"]) <= limit
        for side, row in zip(("student", "teacher"), rows, strict=True):
            complete = row_of(whole, side)
            assert row["labels"] == complete["labels"][: len(row["labels"])]
        ends = [
            tokenizer.decode([label for label in row["labels"] if label >= 0]).strip(" \ufffd")
            for tokenizer, row in zip((student, teacher), rows, strict=True)
        ]
        if limit < longest:
            assert ends[0].removesuffix("<|im_end|>") == ends[1].removesuffix("</s>").rstrip()
            assert ends[0]
    else:
        pytest.fail("no limit was too small")


def test_several_teachers_have_one_prompt_or_each_its_own() -> None:
    teachers = {"large": metaspace(), "code": unigram()}
    collate = MultiTeacherCollator(byte_level(), teachers)
    for case in ("texts", "messages"):
        sample, of_student, _ = OWN_PROMPTS[case]
        own = sample["teacher_prompt"]
        batch = collate([sample])
        assert same(collate([sample | {"teacher_prompt": {"large": own, "code": own}}]), batch)
        apart = collate([sample | {"teacher_prompt": {"large": own, "code": None}}])
        assert same(collate([sample | {"teacher_prompt": {"large": own}}]), apart)
        assert same(collate([sample | {"teacher_prompt": {}}]), collate([of_student]))
        for name, tokenizer in teachers.items():
            alone = DualTokenizerCollator(byte_level(), tokenizer)
            prompted, plain = alone([sample]), alone([of_student])
            assert torch.equal(batch[f"{name}_input_ids"], prompted["teacher_input_ids"])
            assert torch.equal(batch[f"student_groups_{name}"], prompted["student_groups"])
            expected = prompted if name == "large" else plain
            assert torch.equal(apart[f"{name}_labels"], expected["teacher_labels"])
            assert torch.equal(apart[f"{name}_groups"], expected["teacher_groups"])
    with pytest.raises(InputError, match=r"Sample 1: teacher_prompt: unknown teacher 'lage' \(did you mean 'large'"):
        collate([{"text": "the"}, OWN_PROMPTS["texts"][0] | {"teacher_prompt": {"lage": "a"}}])


def test_a_prompt_of_the_teacher_and_scored_prompts_exclude_one_another() -> None:
    collate = DualTokenizerCollator(byte_level(), metaspace(), train_on_prompt=True, on_error="skip")
    for case in ("texts", "messages"):
        with pytest.raises(InputError, match=r"Sample 0: .*'teacher_prompt'.*train_on_prompt=False"):
            collate([OWN_PROMPTS[case][0]])


@pytest.mark.parametrize("case", ["texts", "messages"])
def test_a_prompt_of_the_teacher_that_is_no_unicode_is_a_sample_error(case: str) -> None:
    broken = "What\ud800?" if case == "texts" else [{"role": "user", "content": "What\ud800?"}]
    with pytest.raises(SampleError, match="lone surrogate") as caught:
        DualTokenizerCollator(byte_level(), metaspace())([OWN_PROMPTS[case][0] | {"teacher_prompt": broken}])
    assert caught.value.reason is SkipReason.INVALID_UNICODE


# ---- arrays of token ids


def test_preprocessed_tokens_may_be_arrays() -> None:
    collate = DualTokenizerCollator(byte_level(), metaspace())
    row = DualTokenizerPreprocessor(byte_level(), metaspace())({"messages": CHAT})
    expected = collate([row])
    kinds: dict[str, Callable[[Any], Any]] = {
        "numpy": np.array,
        "torch": torch.tensor,
        "tuple": lambda value: tuple(value) if isinstance(value, list) else np.int64(value),
        "int32": lambda value: np.array(value, dtype=np.int32) if isinstance(value, list) else value,
        "uint16": lambda value: (
            [np.uint16(x) if x >= 0 else np.int16(x) for x in value] if isinstance(value, list) else value
        ),
        "torch int32": lambda value: torch.tensor(value, dtype=torch.int32) if isinstance(value, list) else value,
        "one number": lambda value: np.array([value]) if isinstance(value, int) else value,
    }
    for name, kind in kinds.items():
        assert same(collate([{key: kind(value) for key, value in row.items()}]), expected), name


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("student_input_ids", [1.5, 2.0], r"'student_input_ids'.*integers, but got.*float"),
        ("student_input_ids", torch.ones(3), r"'student_input_ids'.*integers, but got.*float"),
        ("teacher_labels", np.array([True, False]), r"'teacher_labels'.*bool"),
        ("teacher_groups", [[1, 2], [3, 4]], r"'teacher_groups'.*\[T\].*\(2, 2\)"),
        ("teacher_groups", [[1, 2], [3]], r"'teacher_groups'.*integers"),
        ("student_labels", "abc", r"'student_labels'.*str"),
        ("student_labels", [1, None], r"'student_labels'.*integers"),
        ("groups_method", 9, r"'groups_method'.*9"),
        ("groups_method", -1, r"'groups_method'.*-1"),
        ("groups_method", "span", r"'groups_method'.*'span'"),
        ("student_fingerprint", 1.5, r"'student_fingerprint'.*1\.5"),
        ("teacher_fingerprint", [1, 2], r"'teacher_fingerprint'.*\[1, 2\]"),
    ],
)
def test_what_are_no_tokens_is_refused_by_name(column: str, value: Any, message: str) -> None:
    row = DualTokenizerPreprocessor(byte_level(), metaspace())({"messages": CHAT})
    with pytest.raises(InputError, match=message):
        DualTokenizerCollator(byte_level(), metaspace())([row | {column: value}])


# ---- what cannot be understood


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, r"messages\[0\].content\[0\].*'image'"),
        ({"prompt": [USER | {"content": [{"type": "audio", "audio": 1}]}], "completion": [ANSWER]},
         r"prompt\[0\].content\[0\].*'audio'.*[Oo]nly texts"),
        ({"messages": [USER | {"content": [{"type": "text", "text": "a", "image": 3}]}]}, r"content\[0\].*'image'"),
        ({"messages": [USER | {"content": [{"type": "text"}]}]}, r"content\[0\].*'text'"),
        ({"messages": [USER | {"content": [{"type": "text", "text": 3}]}]}, r"content\[0\].*int"),
        ({"messages": [USER | {"content": ["a"]}]}, r"messages\[0\].content\[0\].*str"),
        ({"messages": [USER | {"content": 3}]}, r"messages\[0\].*int"),
        ({"messages": [USER | {"content": {"type": "text", "text": "a"}}]}, r"messages\[0\].*dict"),
        ({"prompt": "a", "completion": [ANSWER]}, "'prompt' and 'completion'.*one kind.*text.*messages"),
        ({"prompt": [USER], "response": "b"}, "'prompt' and 'response'.*one kind.*messages.*text"),
        ({"prompt": [USER], "completion": [ANSWER], "teacher_prompt": "a"}, "'teacher_prompt'.*one kind"),
        ({"prompt": "a", "completion": "b", "teacher_prompt": [USER]}, "'teacher_prompt'.*one kind"),
        ({"prompt": "a", "completion": "b", "teacher_prompt": 3}, "'teacher_prompt'.*text.*messages.*int"),
        ({"prompt": "a", "completion": "b", "teacher_prompt": {"large": "c"}}, "'teacher_prompt'.*MultiTeacher"),
        ({"prompt": "a", "completion": 3}, "'completion'.*text.*messages.*int"),
        ({"prompt": b"a", "completion": "b"}, "'prompt'.*text.*bytes"),
        ({"prompt": ["a"], "completion": ["b"]}, r"'prompt'.*text.*messages.*list \['a'\].*several samples"),
        ({"prompt": "a", "completion": "b", "response": "c"}, "'completion' and 'response'.*same"),
        ({"messages": [USER, ANSWER], "conversations": [USER]}, "'messages' and 'conversations'.*same"),
        ({"text": "a", "teacher_prompt": "b"}, "'teacher_prompt'.*'prompt' and 'response'"),
        ({"messages": [USER, ANSWER], "teacher_prompt": [USER]}, "'teacher_prompt'.*'prompt' and 'response'"),
        ({"text": "a", "tools": TOOLS}, "'tools'.*chats"),
        ({"prompt": "a", "completion": "b", "chat_template_kwargs": {"x": 1}}, "'chat_template_kwargs'.*chats"),
        ({"messages": [USER, ANSWER], "tools": "{"}, "'tools'.*JSON"),
        ({"messages": [USER, ANSWER], "tools": {"a": 1}}, "'tools'.*list.*dict"),
        ({"messages": [USER, ANSWER], "tools": ["look_up"]}, r"tools\[0\].*str"),
        ({"messages": [USER, ANSWER], "tools": '"look_up"'}, r"'tools'.*list.*str"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": [1]}, "'chat_template_kwargs'.*mapping.*list"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.*'tokenize'"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": {"tools": TOOLS}}, "chat_template_kwargs has 'tools'"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs.*'messages'"),
        ({"messages": [USER, ANSWER], "tool": TOOLS}, "Unknown key 'tool'.*did you mean 'tools'"),
        ({"prompt": "a", "completion": "b", "teacher_promt": "c"}, "did you mean 'teacher_prompt'"),
        ({"prompt": "a", "completions": "b"}, "did you mean 'completion'"),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, "'chosen'.*preference"),
        ({"prompt": "a", "completion": "b", "label": True}, "'label'.*preference"),
        ({"prompt": "a", "privileged_context": "c"}, "'privileged_context'.*'teacher_prompt'"),
        ({"messages": [USER, ANSWER], "images": [1]}, "'images'.*[Oo]nly texts"),
        ({"input_ids": [1, 2], "labels": [1, 2]}, "'input_ids'.*one tokenizer"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": {"add_generation_prompt": True}}, "'add_gen"),
        ({"student_input_ids": [1, 2]}, "'student_input_ids'.*DualTokenizerPreprocessor"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("taker", ["collator", "preprocessor", "several"])
def test_what_cannot_be_understood_is_refused_by_name(taker: str, sample: dict[str, Any], message: str) -> None:
    if taker == "several":
        if isinstance(sample.get("teacher_prompt"), dict):
            return
        take: Any = MultiTeacherCollator(byte_level(), {"large": metaspace()}, on_error="skip")
    elif taker == "preprocessor":
        take = lambda samples: DualTokenizerPreprocessor(byte_level(), metaspace())(  # noqa: E731
            {key: [value] for key, value in samples[0].items()}
        )
    else:
        take = DualTokenizerCollator(byte_level(), metaspace(), on_error="skip")
    with pytest.raises(InputError, match=message) as caught:
        take([sample])
    assert "Sample 0: " in str(caught.value)
    assert not isinstance(caught.value, SampleError)


def test_prompts_alone_have_nothing_to_learn() -> None:
    with pytest.raises(InputError, match=r"A sample with 'prompt' has no known form"):
        DualTokenizerCollator(byte_level(), metaspace())([{"prompt": [USER]}])


# ---- tokens of one tokenizer


def pretokenized(tokenizer: Any, chat: Messages) -> dict[str, Any]:
    """What TRL makes of a chat whose answers alone are scored, by means of this library's own row."""
    batch = DualTokenizerCollator(tokenizer, tokenizer)([{"messages": chat}])
    row = row_of(batch, "student")
    return {"input_ids": row["input_ids"], "labels": row["labels"]}


TOKEN_FORMATS: dict[str, Any] = {
    "labels": lambda row: row,
    "completion_mask": lambda row: {
        "input_ids": row["input_ids"], "completion_mask": [int(label >= 0) for label in row["labels"]]
    },
    "both masks": lambda row: {
        "input_ids": row["input_ids"], "completion_mask": [1] * len(row["labels"]),
        "assistant_masks": [label >= 0 for label in row["labels"]], "attention_mask": [1] * len(row["labels"]),
    },
    "numpy": lambda row: {key: np.array(value) for key, value in row.items()},
    "torch": lambda row: {key: torch.tensor(value, dtype=torch.int32) for key, value in row.items()},
    "masks of torch": lambda row: {
        "input_ids": torch.tensor(row["input_ids"]), "assistant_masks": torch.tensor(row["labels"]) >= 0
    },
    "masks of numpy": lambda row: {
        "input_ids": tuple(row["input_ids"]), "assistant_masks": np.array(row["labels"]) >= 0
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TOKEN_FORMATS)
@pytest.mark.parametrize("aligner", ["exact_match", "span", "min_edit", None])
def test_tokens_of_one_tokenizer_are_the_chat_that_they_were_made_of(aligner: Any, name: str) -> None:
    tokenizer = byte_level()
    chats = [CHAT, [*CHAT, *ASTRAL, *LONG]]
    samples = [TOKEN_FORMATS[name](pretokenized(tokenizer, chat)) for chat in chats]
    collate = DualTokenizerCollator(tokenizer, tokenizer, aligner=aligner)
    batch, expected = collate(samples), collate([{"messages": chat} for chat in chats])
    assert batch.keys() == expected.keys()
    for column in batch:
        if not column.endswith("groups"):
            assert torch.equal(batch[column], expected[column])
    if aligner is not None:
        for number in range(len(chats)):
            rows = [row_of(batch, side, number) for side in ("student", "teacher")]
            assert rows[0] == rows[1], "each token belongs to itself"
            grouped = zip(rows[0]["groups"], rows[0]["labels"], strict=True)
            assert all((group >= 0) == (label >= 0) for group, label in grouped)
    preprocess = DualTokenizerPreprocessor(tokenizer, tokenizer, aligner=aligner)
    assert same(collate([preprocess(sample) for sample in samples]), batch)
    columns = preprocess({key: [sample[key] for sample in samples] for key in samples[0]})
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert same(collate(rows), batch)
    several = MultiTeacherCollator(tokenizer, {"large": tokenizer}, aligners={"large": aligner})(samples)
    assert torch.equal(several["large_labels"], batch["teacher_labels"])


def test_tokens_are_cut_and_packed_like_texts() -> None:
    tokenizer = metaspace()
    row = pretokenized(tokenizer, LONG)
    first = [label >= 0 for label in row["labels"]].index(True)
    limit = first + 5
    collate = DualTokenizerCollator(tokenizer, tokenizer, student_max_length=limit, packing=True)
    batch = collate([row, row])
    assert batch["student_input_ids"].tolist() == [row["input_ids"][:limit] * 2]
    assert batch["teacher_labels"].tolist() == [row["labels"][:limit] * 2]
    with pytest.raises(SampleError) as caught:
        DualTokenizerCollator(tokenizer, tokenizer, teacher_max_length=first)([row])
    assert caught.value.reason is SkipReason.PROMPT_TOO_LONG
    masked = TOKEN_FORMATS["completion_mask"](row)
    everything = DualTokenizerCollator(tokenizer, tokenizer, train_on_prompt=True)
    assert row_of(everything([masked]), "student")["labels"] == [-100, *row["input_ids"][1:]]
    assert row_of(everything([row]), "student")["labels"] == row["labels"]
    data = DualTokenizerPreprocessor(tokenizer, tokenizer)({"input_ids": torch.tensor([row["input_ids"]] * 2)})
    assert len(data["student_labels"]) == 2


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"input_ids": [3, 4, 5], "labels": [3, 4]}, "one length.*'labels': 2"),
        ({"input_ids": []}, "'input_ids': 0"),
        ({"input_ids": [3, 4, 5], "labels": [4, 5, -100]}, r"labels\[0\] is 4 and input_ids\[0\] is 3.*not shifted"),
        ({"input_ids": [3, 4, 5], "completion_mask": [0, 1, 2]}, "'completion_mask' to be 0 or 1"),
        ({"input_ids": [3, 4, 5], "attention_mask": [0, 1, 1]}, "'attention_mask' has zeros.*without padding"),
        ({"input_ids": [3, 4, 5.5]}, "'input_ids'.*integers.*float"),
        ({"input_ids": [1.0, 0.0]}, "'input_ids'.*integers.*float"),
        ({"input_ids": [3, 4, 99999]}, "'input_ids' has 99999.*0 to"),
        ({"input_ids": [3, -4, 5]}, "'input_ids' has -4"),
        ({"input_ids": [3, 4, 5], "label": [3, 4, 5]}, "Unknown key 'label'.*did you mean 'labels'"),
        ({"input_ids": [3, 4, 5], "text": "a"}, "Unknown key 'text' in a sample with 'input_ids'"),
        ({"labels": [3, 4, 5]}, "'labels'.*'input_ids'"),
    ],
)
def test_what_are_no_tokens_of_a_tokenizer_is_refused_by_name(sample: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"Sample 0: .*{message}"):
        DualTokenizerCollator(byte_level(), byte_level(), on_error="skip")([sample])


def test_tokens_of_one_tokenizer_are_none_of_two() -> None:
    with pytest.raises(InputError, match=r"Sample 0: .*'input_ids'.*one tokenizer.*Give texts"):
        DualTokenizerCollator(byte_level(), metaspace(), on_error="skip")([{"input_ids": [3, 4, 5]}])


def test_identity_needs_one_prompt_for_both() -> None:
    for aligner in ("identity", Identity()):
        collate = DualTokenizerCollator(byte_level(), byte_level(), aligner=aligner, on_error="skip")
        with pytest.raises(InputError, match=r"Sample 0: .*'teacher_prompt'.*'identity'.*aligner=\"exact_match\""):
            collate([OWN_PROMPTS["texts"][0]])
        collate([OWN_PROMPTS["texts"][1]])
