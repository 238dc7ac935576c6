"""An answer that breaks off, as one that was written up to a limit, is scored to its last token and not to its end."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import DualTokenizerCollator, DualTokenizerPreprocessor, InputError, MultiTeacherCollator
from dskd_components.collation import Columns, SampleError, SkipReason
from dskd_components.collation.messages import CUT, ENDED
from dskd_components.tokenization.byte_spans import tokenize_with_spans
from tests.helpers.collating import (
    ANYTHING,
    CHATML,
    KINDS,
    PAIRS,
    WORDS,
    byte_level,
    members,
    metaspace,
    row_of,
    with_other_template,
)

USER = {"role": "user", "content": "What is new?"}
ANSWER = "The statement is"
CUT_ANSWER = {"role": "assistant", "content": ANSWER, "finish_reason": "length"}
TEACHER_PROMPT = [{"role": "user", "content": "What is new? Hint: it is a statement."}]
SIDES = ("student", "teacher")

# Each kind of sample that is given an end, cut; and the same one whole.
KINDS_OF_SAMPLES: dict[str, dict[str, Any]] = {
    "text": {"text": ANSWER},
    "prompt and response": {"prompt": "What is new?", "response": f" {ANSWER}"},
    "prompt and completion": {"prompt": "What is new?", "completion": f" {ANSWER}"},
    "a teacher's prompt": {"prompt": "What?", "teacher_prompt": "What is new?", "response": f" {ANSWER}"},
    "messages": {"messages": [USER, {"role": "assistant", "content": ANSWER}]},
    "conversations": {"conversations": [USER, {"from": "assistant", "value": ANSWER}]},
    "conversational": {"prompt": [USER], "completion": [{"role": "assistant", "content": ANSWER}]},
    "conversational, a teacher's prompt": {
        "prompt": [USER],
        "teacher_prompt": TEACHER_PROMPT,
        "completion": [{"role": "assistant", "content": ANSWER}],
    },
}


def cut(sample: dict[str, Any], reason: str = "length") -> dict[str, Any]:
    return sample | {"finish_reason": reason}


def in_its_message(sample: dict[str, Any]) -> dict[str, Any]:
    """The field in the last message rather than beside it."""
    (key,) = {"messages", "conversations", "completion"} & sample.keys()
    *others, last = sample[key]
    return sample | {key: [*others, last | {"finish_reason": "length"}]}


def scored(batch: Any, side: str, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in row_of(batch, side)["labels"] if label >= 0])).strip()


@pytest.mark.parametrize("kind", KINDS_OF_SAMPLES)
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_no_kind_of_sample_scores_an_end_that_nobody_wrote(names: tuple[str, str], kind: str) -> None:
    sample, (student, teacher) = KINDS_OF_SAMPLES[kind], (KINDS[name]() for name in names)
    collate = DualTokenizerCollator(student, teacher)
    whole, short = collate([sample]), collate([cut(sample)])
    for side, tokenizer in zip(SIDES, (student, teacher), strict=True):
        rows = row_of(whole, side), row_of(short, side)
        ends = {tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<|im_end|>", "[SEP]")}
        assert not ends & set(rows[1]["labels"])
        # Otherwise it is the same, up to what follows the answer; what a template joins to it is no part of it.
        own, all_of_it = scored(short, side, tokenizer), scored(whole, side, tokenizer)
        assert own
        assert own == re.sub(r"\s*(</s>|<\|im_end\|>|\[SEP\])\s*$", "", all_of_it)
        if tokenizer.eos_token_id in rows[0]["labels"]:
            assert own != all_of_it
        assert rows[0]["input_ids"][: len(rows[1]["input_ids"])] == rows[1]["input_ids"]
    if "messages" in sample or "conversations" in sample or isinstance(sample.get("prompt"), list):
        again = collate([in_its_message(sample)])
        assert all(again[name].equal(column) for name, column in short.items())


@pytest.mark.parametrize("kind", KINDS_OF_SAMPLES)
def test_every_collator_and_the_preprocessor_read_it(kind: str) -> None:
    sample, sides = KINDS_OF_SAMPLES[kind], (byte_level(), metaspace())
    collate, preprocess = DualTokenizerCollator(*sides), DualTokenizerPreprocessor(*sides)
    expected = collate([cut(sample), sample])
    rows = preprocess({name: [value, value] for name, value in sample.items()} | {"finish_reason": ["length", None]})
    batched = collate([dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)])
    single = collate([preprocess(cut(sample)), preprocess(sample)])
    several = MultiTeacherCollator(sides[0], {"large": sides[1]})([cut(sample), sample])
    for side in SIDES:
        labels = expected[f"{side}_labels"]
        assert labels.equal(batched[f"{side}_labels"])
        assert labels.equal(single[f"{side}_labels"])
        assert labels.equal(several[f"{side.replace('teacher', 'large')}_labels"])
    renamed = Columns(finish_reason="why")
    again = DualTokenizerCollator(*sides, columns=renamed)([sample | {"why": "length"}, sample])
    assert all(again[name].equal(column) for name, column in expected.items())


@pytest.mark.parametrize("reason", [*CUT, *ENDED, None])
def test_each_reason_is_one_or_the_other(reason: str | None) -> None:
    sample, collate = KINDS_OF_SAMPLES["messages"], DualTokenizerCollator(byte_level(), metaspace())
    found = collate([sample | {"finish_reason": reason}])
    expected = collate([cut(sample) if reason in CUT else sample])
    assert all(found[name].equal(column) for name, column in expected.items())


def test_an_answer_in_the_middle_may_be_cut_alone() -> None:
    chat = [USER, CUT_ANSWER, {"role": "user", "content": "Go on."}, {"role": "assistant", "content": "the value."}]
    batch = DualTokenizerCollator(byte_level(), metaspace())([{"messages": chat}])
    assert scored(batch, "student", byte_level()) == f"{ANSWER}the value.<|im_end|>"
    assert scored(batch, "teacher", metaspace()).split() == ["The", "statement", "is", "the", "value.", "</s>"]
    ends = [sum(group >= 0 for group in row_of(batch, side)["groups"]) for side in SIDES]
    assert min(ends) > 4


TEXT = WORDS | ANYTHING


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
@settings(max_examples=25)
@given(content=TEXT, ending=st.sampled_from(["<|im_end|>", "\n<|im_end|>", "\n\n<|im_end|>\n", " ", ".\n", "\n"]))
def test_only_what_lies_in_the_content_is_scored(names: tuple[str, str], content: str, ending: str) -> None:
    """Nor is a token that spells more than was written, with what the template puts after it."""
    template = CHATML.replace("<|im_end|>\n", ending, 1)
    sides = {side: with_other_template(KINDS[name](), template) for side, name in zip(SIDES, names, strict=True)}
    messages = [USER, {"role": "assistant", "content": content}]
    try:
        batch = DualTokenizerCollator(*sides.values())([cut({"messages": messages})])
    except SampleError:
        return
    for side, tokenizer in sides.items():
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        start = len(rendered.partition("assistant\n")[0].encode()) + len(b"assistant\n")
        stop = start + len(content.encode())
        row, spans = row_of(batch, side), tokenize_with_spans(tokenizer, rendered).spans
        for span, label in zip(spans, row["labels"], strict=True):
            assert span is not None
            if label >= 0:
                assert start - 1 <= span[0]
                assert span[1] <= stop
        # And no token that lies in it is left out.
        inside = [span[0] >= start and span[0] < span[1] <= stop for span in spans if span is not None]
        assert all(label >= 0 for label, is_in in zip(row["labels"], inside, strict=True) if is_in)


def test_thoughts_that_break_off_are_scored_to_their_end() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n"
        "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content or '' }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = with_other_template(byte_level(), template)
    collate = DualTokenizerCollator(tokenizer, tokenizer)

    def written(**fields: Any) -> str:
        return scored(
            collate([{"messages": [USER, {"role": "assistant", "finish_reason": "length", **fields}]}]),
            "student",
            tokenizer,
        )

    assert written(reasoning_content="The value is") == "<think>\nThe value is"
    assert written(reasoning_content="The value.", content="It is") == "<think>\nThe value.\n</think>\n\nIt is"
    with pytest.raises(SampleError, match="where its thoughts break off") as caught:
        written(reasoning_content="think")
    assert caught.value.reason is SkipReason.CUT_OFF


CALL = {"type": "function", "function": {"name": "count", "arguments": {}}}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (cut({"text": "a"}, "done"), r"'finish_reason'.*'length'.*'stop'.*'done'"),
        ({"text": "a", "finish_reason": True}, r"'finish_reason'.*True"),
        ({"messages": [USER, CUT_ANSWER | {"finish_reason": 3}]}, r"messages\[1\].*'finish_reason'.*3"),
        ({"messages": [USER | {"finish_reason": "length"}, CUT_ANSWER]}, r"messages\[0\].*'finish_reason'.*'user'"),
        (cut({"messages": [CUT_ANSWER, USER]}), r"'finish_reason'.*last message.*'user'"),
        (cut({"messages": [USER, CUT_ANSWER]}, "stop"), r"'finish_reason'.*'stop'.*last message.*'length'"),
        ({"input_ids": [1, 2], "finish_reason": "length"}, r"'finish_reason'.*'input_ids'.*Nothing is added to tokens"),
        ({"text": "a", "truncated": True}, r"'truncated'.*'finish_reason': 'length'"),
        ({"prompt": "a", "finish_reason": "length"}, "'prompt' has no known form"),
    ],
)
def test_where_it_means_nothing_it_is_refused_by_name(sample: dict[str, Any], message: str) -> None:
    for on_error in ("raise", "skip"):
        with pytest.raises(InputError, match=message) as caught:
            DualTokenizerCollator(byte_level(), byte_level(), on_error=on_error)([sample])  # type: ignore[arg-type]
        assert not isinstance(caught.value, SampleError)


def test_calls_that_break_off_are_refused_or_left_out() -> None:
    calling = [USER, CUT_ANSWER | {"tool_calls": [CALL]}]
    collate = DualTokenizerCollator(byte_level(), metaspace())
    with pytest.raises(SampleError, match=r"Message 1.*'finish_reason' 'length'.*'tool_calls'") as caught:
        collate([{"messages": calling}])
    assert caught.value.reason is SkipReason.CUT_OFF
    lenient = DualTokenizerCollator(byte_level(), metaspace(), on_error="skip")
    assert lenient([{"messages": calling}, {"text": "the statement"}])["skipped"].sum() == 1
    # Where it is not scored it does not matter.
    context = [USER, {**calling[1], "weight": 0}, USER, {"role": "assistant", "content": "the value"}]
    assert collate([{"messages": context}])["student_labels"].shape[0] == 1


@pytest.mark.parametrize("kind", KINDS_OF_SAMPLES)
def test_the_collators_own_limit_scores_no_end_of_what_it_cuts(kind: str) -> None:
    """With no field at all: what is cut here has no end, and cut samples fit where whole ones do."""
    sample, sides = KINDS_OF_SAMPLES[kind], (byte_level(), metaspace())
    whole = DualTokenizerCollator(*sides)([sample])
    length = whole["student_input_ids"].shape[1]
    seen = 0
    for limit in range(1, length):
        collate = DualTokenizerCollator(*sides, student_max_length=limit)
        try:
            batch, short = collate([sample]), collate([cut(sample)])
        except SampleError:
            continue
        seen += 1
        for side, tokenizer in zip(SIDES, sides, strict=True):
            row, expected = row_of(batch, side), row_of(short, side)
            stops_early = ANSWER not in scored(batch, side, tokenizer)
            if stops_early:
                assert tokenizer.eos_token_id not in row["labels"]
                assert row == expected
            assert tokenizer.eos_token_id not in expected["labels"]
            assert len(members(expected["groups"])) <= len(members(row["groups"]))
    assert seen
