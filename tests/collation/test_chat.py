"""Chats: each side in its own template, aligned content by content."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import DualTokenizerCollator, InputError
from dskd_components.collation import SampleError, SkipReason, chat_templates
from dskd_components.collation.chat_templates import ChatRenderer
from dskd_components.tokenization.byte_spans import tokenize_with_spans
from tests.helpers.collating import (
    CHATML,
    TEXTS,
    byte_level,
    core,
    members,
    metaspace,
    row_of,
    unigram,
    with_other_template,
    wordpiece,
)

CHAT = [
    {"role": "system", "content": "Be brief, s."},
    {"role": "user", "content": "\n user: what is the statement?  "},
    {"role": "assistant", "content": "The statement is the value."},
    {"role": "user", "content": "assistant"},
    {"role": "assistant", "content": "s"},
]


def scored_text(tokenizer: Any, row: dict[str, list[int]]) -> list[str]:
    """The stretches of scored tokens."""
    stretches: list[list[int]] = []
    for previous, label in zip([-100, *row["labels"]], row["labels"], strict=False):
        if label >= 0:
            if previous < 0:
                stretches.append([])
            stretches[-1].append(label)
    return [tokenizer.decode(stretch) for stretch in stretches]


def test_each_side_reads_its_own_template_and_scores_answers_with_their_ends() -> None:
    student, teacher = byte_level(), metaspace()
    batch = DualTokenizerCollator(student, teacher)([{"messages": CHAT}])
    rows = {side: row_of(batch, side) for side in ("student", "teacher")}
    for side, tokenizer in (("student", student), ("teacher", teacher)):
        rendered = tokenizer.apply_chat_template(CHAT, tokenize=False)
        assert rows[side]["input_ids"] == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert rows["teacher"]["input_ids"].count(teacher.bos_token_id) == 1
    assert scored_text(student, rows["student"]) == ["The statement is the value.<|im_end|>", "s<|im_end|>"]
    # The teacher's template renders a space before the end of a turn.
    assert scored_text(teacher, rows["teacher"]) == ["The statement is the value. </s>", "s </s>"]


def test_ends_of_turns_belong_together() -> None:
    student, teacher = byte_level(), metaspace()
    batch = DualTokenizerCollator(student, teacher)([{"messages": CHAT}])
    ends = []
    for side, end in (("student", student.eos_token_id), ("teacher", teacher.eos_token_id)):
        row = row_of(batch, side)
        pairs = zip(row["input_ids"], row["groups"], strict=True)
        ends.append([group for number, group in pairs if number == end and group >= 0])
    assert ends[0] == ends[1]
    assert len(ends[0]) == 2


MESSAGES = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=4).map(
    lambda drawn: [{"role": role, "content": content} for role, content in drawn]
)


def places(
    rendered: str, messages: list[dict[str, str]], before: dict[str, str], after: dict[str, str], strips: Any
) -> Any:
    """Where the contents stand: by writing the template's own words between them."""
    found, position = [], 0
    for message in messages:
        content = strips(message)
        position = rendered.index(before[message["role"]], position) + len(before[message["role"]])
        assert rendered.startswith(content, position)
        found.append((len(rendered[:position].encode()), len(rendered[: position + len(content)].encode())))
        position += len(content)
        assert rendered.startswith(after[message["role"]], position)
        position += len(after[message["role"]])
    return found


ROLES = ("system", "user", "assistant")
CHATML_WORDS = ({role: f"<|im_start|>{role}\n" for role in ROLES}, dict.fromkeys(ROLES, "<|im_end|>\n"))
LLAMA_WORDS = (
    {"system": "<<SYS>>\n", "user": "[INST] ", "assistant": " "},
    {"system": "\n<</SYS>>\n\n", "user": " [/INST]", "assistant": " </s>"},
)


@pytest.mark.parametrize("method", ["exact_match", "span"])
@pytest.mark.parametrize("teacher", [metaspace, unigram, wordpiece])
@settings(max_examples=30)
@given(messages=MESSAGES)
def test_groups_lie_in_one_content_and_have_the_same_bytes(method: str, teacher: Any, messages: list[Any]) -> None:
    tokenizers = {"student": byte_level(), "teacher": teacher()}
    try:
        batch = DualTokenizerCollator(byte_level(), teacher(), aligner=method)([{"messages": messages}])
    except SampleError:
        return
    content_of: list[dict[int, tuple[int, bytes]]] = []
    for side, tokenizer in tokenizers.items():
        is_llama = tokenizer is metaspace()
        words = LLAMA_WORDS if is_llama else CHATML_WORDS
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)

        def strips(message: dict[str, str], is_llama: bool = is_llama) -> str:
            return message["content"].strip() if is_llama and message["role"] != "system" else message["content"]

        where = places(rendered, messages, *words, strips)
        data = rendered.encode()
        row, spans = row_of(batch, side), tokenize_with_spans(tokenizer, rendered).spans
        content_of.append({})
        for group, tokens in members(row["groups"]).items():
            start, end = core(data, (spans[tokens[0]][0], spans[tokens[-1]][1]))
            numbers = [number for number, (first, last) in enumerate(where) if first <= start and end <= last]
            if numbers:
                content_of[-1][group] = numbers[0], data[start:end].lstrip(b" ") or b" "
            else:
                assert tokenizer.convert_ids_to_tokens(row["input_ids"][tokens[0]]) in ("</s>", "<|im_end|>")
        scored = [spans[index] for index, label in enumerate(row["labels"]) if label >= 0]
        answers = [place for place, message in zip(where, messages, strict=True) if message["role"] == "assistant"]
        # What the template itself renders of a turn: a space before an answer, and the end.
        around = (1, len(" </s>")) if is_llama else (0, len("<|im_end|>"))
        for span in scored:
            start = core(data, span)[0]
            assert any(first - around[0] <= start < last + around[1] for first, last in answers if first < last)
    assert content_of[0] == content_of[1]


def test_two_ways_to_align_agree_on_what_is_one_to_one() -> None:
    rows = []
    for method in ("exact_match", "span"):
        batch = DualTokenizerCollator(byte_level(), metaspace(), aligner=method)([{"messages": CHAT}])
        sides = [members(row_of(batch, side)["groups"]) for side in ("student", "teacher")]
        single = {g for g in sides[0].keys() & sides[1].keys() if len(sides[0][g]) == len(sides[1][g]) == 1}
        rows.append({(sides[0][g][0], sides[1][g][0]) for g in single})
    assert len(rows[1]) > 10
    assert rows[1] <= rows[0]


def test_a_cut_chat_ends_at_the_same_place_on_both_sides() -> None:
    whole = DualTokenizerCollator(byte_level(), metaspace())([{"messages": CHAT}])
    lengths = {side: len(row_of(whole, side)["input_ids"]) for side in ("student", "teacher")}
    seen, reasons = set(), set()
    for limit in range(1, lengths["student"]):
        collate = DualTokenizerCollator(byte_level(), metaspace(), student_max_length=limit)
        try:
            batch = collate([{"messages": CHAT}])
        except SampleError as error:
            reasons.add(error.reason)
            continue
        texts = []
        for side, tokenizer in (("student", byte_level()), ("teacher", metaspace())):
            row, expected = row_of(batch, side), row_of(whole, side)
            length = len(row["input_ids"])
            assert row["labels"] == expected["labels"][:length]
            stretches = [text.replace("<|im_end|>", "").replace("</s>", "") for text in scored_text(tokenizer, row)]
            texts.append("".join(stretch.strip() for stretch in stretches))
        assert texts[0] == texts[1]
        seen.add(texts[0])
    assert reasons == {SkipReason.PROMPT_TOO_LONG}
    assert len(seen) == 5
    assert "The statement is the value." in seen


def test_training_on_prompts_scores_every_content_and_no_template() -> None:
    batch = DualTokenizerCollator(byte_level(), metaspace(), train_on_prompt=True)([{"messages": CHAT[:3]}])
    assert scored_text(byte_level(), row_of(batch, "student")) == [
        "Be brief, s.",
        "\n user: what is the statement?  ",
        "The statement is the value.<|im_end|>",
    ]
    only_user = DualTokenizerCollator(byte_level(), metaspace(), train_on_prompt=True)([{"messages": CHAT[:2]}])
    assert scored_text(byte_level(), row_of(only_user, "student")) == [
        "Be brief, s.",
        "\n user: what is the statement?  ",
    ]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML.replace("m['content']", "m['content'] | upper"), SkipReason.CONTENT_ALTERED),
        (CHATML.replace("m['content']", "m['content'][:4]"), SkipReason.CONTENT_ALTERED),
        ("{{ raise_exception('roles must alternate') }}", SkipReason.TEMPLATE_REFUSED),
        # The first message is left out, and its content stands elsewhere.
        (CHATML.replace("in messages", "in messages[1:]"), SkipReason.CONTENT_ALTERED),
    ],
)
def test_a_template_that_does_not_keep_contents_is_refused(template: str, reason: SkipReason) -> None:
    collate = DualTokenizerCollator(byte_level(), with_other_template(metaspace(), template))
    with pytest.raises(SampleError, match=r"Sample 0: The teacher's chat template") as caught:
        collate([{"messages": CHAT}])
    assert caught.value.reason is reason


def test_a_template_that_looks_at_contents_is_still_understood() -> None:
    # A mark has another length than the content, so that the two renderings differ.
    template = CHATML.replace("<|im_end|>", "{{ m['content'] | length }}<|im_end|>")
    chat = [{"role": "user", "content": "What is new?"}, {"role": "assistant", "content": "The statement."}]
    batch = DualTokenizerCollator(byte_level(), with_other_template(byte_level(), template))([{"messages": chat}])
    assert scored_text(byte_level(), row_of(batch, "teacher")) == ["The statement.14<|im_end|>"]
    stripping = template.replace("\n{{ m['content']", "\n{{ m['content'] | trim")
    chat[1]["content"] = " " * 40 + "The statement. "
    more = [{"role": "user", "content": "And the value?"}, {"role": "assistant", "content": "It is 3."}]
    batch = DualTokenizerCollator(byte_level(), with_other_template(byte_level(), stripping))(
        [{"messages": [*chat, *more]}]
    )
    assert scored_text(byte_level(), row_of(batch, "teacher")) == ["The statement.55<|im_end|>", "It is 3.8<|im_end|>"]
    # Here the template's own words could be the content as well.
    chat[0]["content"] = "user"
    with pytest.raises(SampleError, match="in several places"):
        DualTokenizerCollator(byte_level(), with_other_template(byte_level(), template))([{"messages": chat}])
    ends_otherwise = CHATML + "{{ '!' if messages[0]['content'] | length < 10 }}"
    with pytest.raises(SampleError, match="in several places"):
        DualTokenizerCollator(byte_level(), with_other_template(byte_level(), ends_otherwise))([{"messages": chat}])


@pytest.mark.parametrize("strips", ["strip()", "lstrip()", "rstrip()", "strip('\\n')"])
def test_whitespace_that_a_template_strips_is_no_part_of_a_content(strips: str) -> None:
    template = CHATML.replace("m['content']", f"m['content'].{strips}")
    # No other place could be taken for theirs by chance: they stand in the template's own words as well.
    chat = [{"role": "user", "content": "\n user "}, {"role": "assistant", "content": "\n s \n"}]
    batch = DualTokenizerCollator(byte_level(), with_other_template(byte_level(), template))([{"messages": chat}])
    expected = eval(f"text.{strips}", {"text": chat[1]["content"]})
    assert scored_text(byte_level(), row_of(batch, "teacher")) == [expected + "<|im_end|>"]


def test_a_template_that_refuses_marks_is_still_understood() -> None:
    template = "{% if 'xContent' in messages | string %}{{ raise_exception('no marks') }}{% endif %}" + CHATML
    chat = [{"role": "user", "content": "What is new?"}, {"role": "assistant", "content": " The statement\n"}]
    batch = DualTokenizerCollator(byte_level(), with_other_template(byte_level(), template))([{"messages": chat}])
    assert scored_text(byte_level(), row_of(batch, "teacher")) == [" The statement\n<|im_end|>"]


def test_a_template_that_needs_what_others_do_without() -> None:
    template = CHATML.replace(
        "{% for m in messages %}", "{{ 1 / messages[0]['note'] | length and '' }}{% for m in messages %}"
    )
    chat = [{"role": "user", "content": "What?", "note": "a"}, {"role": "assistant", "content": "The statement"}]
    batch = DualTokenizerCollator(byte_level(), with_other_template(byte_level(), template))([{"messages": chat}])
    assert scored_text(byte_level(), row_of(batch, "teacher")) == ["The statement<|im_end|>"]


def test_what_is_remembered_of_patterns_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_templates, "KNOWN_PATTERNS", 2)
    renderer = ChatRenderer(byte_level(), "student")
    for length in (1, 2, 3, 1, 3):
        assert len(renderer.render(CHAT[:length]).places) == length
        assert len(renderer._skeletons) <= 2


def test_empty_and_blank_contents_have_no_tokens_of_their_own() -> None:
    chat = [{"role": "user", "content": ""}, {"role": "assistant", "content": None}, *CHAT[1:3]]
    template = CHATML.replace("m['content']", "m['content'] or ''")
    collate = DualTokenizerCollator(
        with_other_template(byte_level(), template), with_other_template(metaspace(), template)
    )
    batch = collate([{"messages": chat}])
    assert scored_text(byte_level(), row_of(batch, "student")) == ["The statement is the value.<|im_end|>"]


def test_bare_tokenizers_have_no_template() -> None:
    bare = byte_level().backend_tokenizer
    with pytest.raises(
        InputError, match=r"The student's tokenizer \(Tokenizer\) has no chat template.*prompt/response"
    ):
        DualTokenizerCollator(bare, bare)([{"messages": CHAT}])
    batch = DualTokenizerCollator(bare, bare)([{"prompt": "a", "response": " statement"}])
    assert batch["student_input_ids"][0, -1] != byte_level().eos_token_id


def test_a_chat_may_be_cut_right_after_a_turn() -> None:
    student, teacher = byte_level(), metaspace()
    # Up to the end of the first answer, its special token included, and not a token more.
    limits = [
        tokenizer.apply_chat_template(CHAT[:3], tokenize=True, return_dict=False) for tokenizer in (student, teacher)
    ]
    student_length = limits[0].index(student.eos_token_id, limits[0].index(student.encode(" value")[0])) + 1
    batch = DualTokenizerCollator(
        student, teacher, student_max_length=student_length, teacher_max_length=len(limits[1])
    )([{"messages": CHAT}])
    rows = [row_of(batch, side) for side in ("student", "teacher")]
    assert rows[0]["input_ids"] == limits[0][:student_length]
    assert rows[1]["input_ids"] == limits[1]
    assert [row["labels"][-1] for row in rows] == [student.eos_token_id, teacher.eos_token_id]
    assert rows[0]["groups"][-1] == rows[1]["groups"][-1] >= 0


def test_an_unknown_token_does_not_end_a_turn() -> None:
    template = CHATML.replace("<|im_end|>", "𒀀")
    tokenizer = with_other_template(unigram(), template)
    chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "The statement"}]
    row = row_of(DualTokenizerCollator(byte_level(), tokenizer)([{"messages": chat}]), "teacher")
    assert row["input_ids"].count(tokenizer.unk_token_id) > 1
    assert tokenizer.unk_token_id not in row["labels"]
