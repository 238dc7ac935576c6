"""What goes wrong inside a template or a tokenizer names the side, the sample and the cause, and can be skipped."""

from __future__ import annotations

import itertools
import json
import pickle
from typing import Any

import pytest
from jinja2 import TemplateSyntaxError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dskd_components import DualTokenizerCollator, DualTokenizerPreprocessor, InputError, MultiTeacherCollator
from dskd_components.collation import SampleError, SkipReason
from dskd_components.tokenization.byte_spans import tokenize_with_spans
from tests.helpers.collating import CHATML, byte_level, metaspace, row_of

GOOD = {"messages": [{"role": "user", "content": "What is new?"}, {"role": "assistant", "content": "The statement."}]}
BAD = {"messages": [{"role": "user", "content": "boom"}, {"role": "assistant", "content": "The statement."}]}


class PanicException(BaseException):
    """Named as the one of the tokenizers library, which cannot be imported."""


class Refusing(PreTrainedTokenizerFast):
    """Raises where a text says so, in its template or when it tokenizes."""

    error: BaseException
    where: str

    def apply_chat_template(self, conversation: Any, *arguments: Any, **options: Any) -> Any:
        if self.where == "template" and "boom" in str(conversation):
            raise self.error
        return super().apply_chat_template(conversation, *arguments, **options)

    def __call__(self, text: Any, *arguments: Any, **options: Any) -> Any:
        if self.where == "tokenizer" and any("boom" in one for one in text):
            raise self.error
        return super().__call__(text, *arguments, **options)


def refusing(where: str, error: BaseException) -> Refusing:
    made = Refusing(tokenizer_object=byte_level().backend_tokenizer, eos_token="<|im_end|>", chat_template=CHATML)
    made.where, made.error = where, error
    return made


ERRORS = [
    TypeError("no"),
    ValueError("no"),
    KeyError("no"),
    AttributeError("no"),
    RecursionError("no"),
    Exception("no"),
]
CASES = [
    *itertools.product(["template"], [*ERRORS, TemplateSyntaxError("no", 1)], [SkipReason.TEMPLATE_REFUSED]),
    *itertools.product(["tokenizer"], [*ERRORS, PanicException("no")], [SkipReason.TOKENIZER_REFUSED]),
]


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize(("where", "error", "reason"), CASES, ids=str)
def test_every_error_names_side_sample_and_cause(
    where: str, error: BaseException, reason: SkipReason, side: str
) -> None:
    pair = [refusing(where, error), metaspace()]
    student, teacher = pair if side == "student" else reversed(pair)
    kind = "chat template" if where == "template" else "tokenizer"
    with pytest.raises(
        SampleError, match=rf"Sample 1: The {side}'s {kind} refuses it.*{type(error).__name__}.*no"
    ) as caught:
        DualTokenizerCollator(student, teacher)([GOOD, BAD, GOOD])
    assert caught.value.reason is reason
    assert error in (caught.value.__cause__, getattr(caught.value.__cause__, "__cause__", None))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    collate = DualTokenizerCollator(student, teacher, on_error="skip")
    batch, plain = collate([GOOD, BAD, GOOD]), collate([GOOD, GOOD])
    assert collate.skipped == {reason: 1}
    assert batch["skipped"].sum().item() == 1
    assert all(row_of(batch, one, 1) == row_of(plain, one, 1) for one in ("student", "teacher"))
    preprocess = DualTokenizerPreprocessor(student, teacher, on_error="skip")
    assert len(preprocess({"messages": [one["messages"] for one in (GOOD, BAD)]})["student_labels"]) == 1


def test_a_missing_package_is_no_error_of_a_sample() -> None:
    collate = DualTokenizerCollator(refusing("template", ImportError("no jinja2")), metaspace(), on_error="skip")
    with pytest.raises(InputError, match="The student's chat template cannot be rendered: no jinja2") as caught:
        collate([GOOD, BAD])
    assert not isinstance(caught.value, SampleError)


@pytest.mark.parametrize("where", ["template", "tokenizer"])
def test_an_interrupt_is_no_error_of_a_sample(where: str) -> None:
    collate = DualTokenizerCollator(refusing(where, KeyboardInterrupt()), metaspace(), on_error="skip")
    with pytest.raises(KeyboardInterrupt):
        collate([GOOD, BAD])


@pytest.mark.parametrize("where", ["template", "tokenizer"])
def test_several_teachers_name_theirs(where: str) -> None:
    teachers = {"large": metaspace(), "code": refusing(where, ValueError("no"))}
    with pytest.raises(SampleError, match=r"Teacher 'code': Sample 1: The teacher's .*ValueError: no"):
        MultiTeacherCollator(byte_level(), teachers)([GOOD, BAD])
    assert MultiTeacherCollator(byte_level(), teachers, on_error="skip")([GOOD, BAD])["skipped"].sum() == 1


def test_arguments_as_a_json_string_are_refused_where_a_template_reads_a_mapping() -> None:
    template = CHATML.replace(
        "{{ m['content'] }}",
        "{{ m['content'] }}{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments | items %}"
        "{{ k }}={{ v }}{% endfor %}{% endfor %}",
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer, eos_token="<|im_end|>", chat_template=template
    )
    arguments = {"name": "the value"}

    def sample(arguments: Any) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
        return {"messages": [GOOD["messages"][0], {"role": "assistant", "tool_calls": [call]}]}

    collate = DualTokenizerCollator(tokenizer, tokenizer, on_error="skip")
    batch = collate([sample(arguments), sample(json.dumps(arguments))])
    assert collate.skipped == {SkipReason.TEMPLATE_REFUSED: 1}
    labels = [label for label in row_of(batch, "teacher")["labels"] if label >= 0]
    assert tokenizer.decode(labels) == "name=the value<|im_end|>"


def test_a_message_without_content_is_read_as_empty_where_a_template_needs_one() -> None:
    template = "{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer, chat_template=template)
    for content in ({}, {"content": None}, {"content": ""}):
        chat = [{"role": "user", **content}, GOOD["messages"][1], {"role": "assistant", **content}]
        row = row_of(DualTokenizerCollator(tokenizer, byte_level())([{"messages": chat}]), "student")
        rendered = "<|im_start|><|im_end|><|im_start|>The statement.<|im_end|><|im_start|><|im_end|>"
        assert row["input_ids"] == tokenizer(rendered)["input_ids"]
        # Here no message has a content.
        calling = PreTrainedTokenizerFast(
            tokenizer_object=byte_level().backend_tokenizer,
            chat_template=template.replace("+ '<|im_end|>'", "+ (m.function_call or '') + '<|im_end|>'"),
        )
        chat = [{"role": "user", **content}, {"role": "assistant", "function_call": "look", **content}]
        row = row_of(DualTokenizerCollator(calling, calling)([{"messages": chat}]), "student")
        assert row["input_ids"] == tokenizer("<|im_start|><|im_end|><|im_start|>look<|im_end|>")["input_ids"]


def test_templates_of_which_none_is_the_default_are_an_error_of_the_set_up() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer, chat_template={"tool_use": CHATML, "rag": CHATML}
    )
    with pytest.raises(InputError, match=r"The teacher's tokenizer .*'rag', 'tool_use'.*'default'") as caught:
        DualTokenizerCollator(byte_level(), tokenizer, on_error="skip")([GOOD])
    assert not isinstance(caught.value, SampleError)


def test_a_template_for_tools_is_enough_where_there_are_tools() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer, chat_template={"tool_use": CHATML, "rag": "other"}
    )
    tools = [{"type": "function", "function": {"name": "look", "description": "", "parameters": {}}}]
    collate = DualTokenizerCollator(tokenizer, byte_level())
    named, only = (
        one([GOOD | {"tools": tools}]) for one in (collate, DualTokenizerCollator(byte_level(), byte_level()))
    )
    assert row_of(named, "student")["input_ids"] == row_of(only, "student")["input_ids"]


def test_a_tokenizer_that_fails_on_what_it_does_not_know() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    collate = DualTokenizerCollator(words, byte_level(), on_error="skip")
    batch = collate([{"text": "a b"}, {"text": "a c"}, {"prompt": "b", "response": " a"}])
    assert collate.skipped == {SkipReason.TOKENIZER_REFUSED: 1}
    assert batch["student_input_ids"].tolist() == [[0, 1], [1, 0]]
    with pytest.raises(SampleError, match=r"Sample 0: The student's tokenizer refuses it.*'a c'.*UNK"):
        DualTokenizerCollator(words, byte_level())([{"text": "a c"}])
    with pytest.raises(InputError, match="Tokenizer fails on the text 'c'"):
        tokenize_with_spans(words, "c")
    hopeless = Tokenizer(models.WordLevel({"b": 0}))
    with pytest.raises(InputError, match="The teacher's tokenizer cannot be used: Tokenizer fails on the text 'a'"):
        DualTokenizerCollator(byte_level(), hopeless)


@pytest.mark.parametrize("extra", [{1: "a", "b": 2}, {("a", "b"): 1}])
def test_messages_with_keys_of_any_type(extra: dict[Any, Any]) -> None:
    chat = [GOOD["messages"][0], GOOD["messages"][1] | {"note": extra}]
    plain, noted = (
        DualTokenizerCollator(byte_level(), metaspace())([{"messages": one}]) for one in (GOOD["messages"], chat)
    )
    assert row_of(plain, "student") == row_of(noted, "student")
