"""What a sample tells a chat template, and the template leaves out, is said once, with whose template reads it."""

from __future__ import annotations

import itertools
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from dskd_components import (
    DSKDWarning,
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    MultiTeacherCollator,
)
from dskd_components.collation import Columns
from tests.helpers.collating import byte_level, metaspace, unigram, with_other_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER = {"role": "user", "content": "What is the statement?"}
ANSWER = {"role": "assistant", "content": "The statement is the value."}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
PAGES = [{"title": "the value", "text": "It is new."}]
MESSAGES = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"

ARGUMENTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "tools": ({"tools": TOOLS}, "'tools'", "{% if tools %}{{ tools | tojson }}{% endif %}"),
    "documents": (
        {"chat_template_kwargs": {"documents": PAGES}},
        "chat_template_kwargs['documents']",
        "{% for page in documents or [] %}{{ page.text }}{% endfor %}",
    ),
    "a text": ({"chat_template_kwargs": {"mood": "calm"}}, "chat_template_kwargs['mood']", "({{ mood }})"),
    "a switch": (
        {"chat_template_kwargs": {"thinks": False}},
        "chat_template_kwargs['thinks']",
        "{% if thinks is defined and not thinks %}(no thoughts){% endif %}",
    ),
}
"""What a sample has, how it is called in a warning, and what of a template reads it."""

FORMS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [USER, ANSWER]},
    "conversational pair": {"prompt": [USER], "completion": [ANSWER]},
    "the teacher's own prompt": {"prompt": [USER], "teacher_prompt": [USER, ANSWER, USER], "completion": [ANSWER]},
}


def tokenizer(make: Callable[[], Any], before: str) -> Any:
    return with_other_template(make(), before + MESSAGES)


def collate_alone(samples: list[Any], student: Any, teacher: Any) -> None:
    DualTokenizerCollator(student, teacher)(samples)


def preprocess(samples: list[Any], student: Any, teacher: Any) -> None:
    columns = {key: [sample.get(key) for sample in samples] for key in samples[0] | samples[-1]}
    DualTokenizerPreprocessor(student, teacher)(columns, list(range(len(samples))))


def collate_for_several(samples: list[Any], student: Any, teacher: Any) -> None:
    MultiTeacherCollator(student, {"large": teacher, "code": teacher})(samples)


def teacher_alone(samples: list[Any], student: Any, teacher: Any) -> None:
    collate = DualTokenizerCollator(student, teacher)
    collate(samples)
    collate.teacher_sides(samples)


WAYS = {
    "collator": collate_alone,
    "preprocessor": preprocess,
    "several teachers": collate_for_several,
    "teacher's sides": teacher_alone,
}


def warned(act: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    assert all(issubclass(each.category, DSKDWarning) for each in caught)
    return [str(each.message) for each in caught]


def cells() -> Iterator[tuple[str, str, tuple[bool, bool], str]]:
    """Every argument by every pair of readers; forms and ways take turns beside these."""
    beside = itertools.cycle(itertools.product(FORMS, WAYS))
    readers = [(True, True), (True, False), (False, True), (False, False)]
    for argument, reads in itertools.product(ARGUMENTS, readers):
        for _ in range(3):
            form, way = next(beside)
            yield argument, form, reads, way


@pytest.mark.parametrize(("argument", "form", "reads", "way"), list(cells()))
def test_whoever_leaves_out_an_argument_is_named_once(
    argument: str, form: str, reads: tuple[bool, bool], way: str
) -> None:
    given, name, reader = ARGUMENTS[argument]
    student, teacher = (
        tokenizer(make, reader if knows else "") for make, knows in zip((byte_level, unigram), reads, strict=True)
    )
    bare = FORMS[form]
    samples = [bare, bare | given, bare | given]
    if form == "chat":  # a further pattern of roles, of which nothing is known yet
        samples.append({"messages": [USER, ANSWER, USER, ANSWER]} | given)
    found = warned(lambda: WAYS[way](samples, student, teacher))
    if all(reads):
        assert not found
        return
    (message,) = found
    teachers = ["teacher 'large'", "teacher 'code'"] if way == "several teachers" else ["the teacher"]
    leave_out = ([] if reads[0] else ["the student"]) + ([] if reads[1] else teachers)
    do_read = (["the student"] if reads[0] else []) + (teachers if reads[1] else [])
    assert message.startswith(
        f"Sample 1: {name} makes no difference to what the chat template of {' and of '.join(leave_out)} writes"
    )
    if do_read:
        assert f"that of {' and of '.join(do_read)} reads it, so the models read different prompts" in message
    assert ("check its name" in message) == (argument in ("a text", "a switch"))
    alone = f"if it is meant for the template of {' and of '.join(do_read)} alone, nothing is to be done"
    assert (alone in message) == ("check its name" in message and bool(do_read))
    assert "The sample: {" in message
    assert (f"Columns(ignore=['{name[1:-1]}'])" if argument == "tools" else "remove") in message


def test_every_argument_and_every_further_reader_is_said_once() -> None:
    """A template may write its tools for some chats alone."""
    some = tokenizer(byte_level, "{% if messages[0].role == 'system' %}{{ tools }}{% endif %}")
    collate = DualTokenizerCollator(some, tokenizer(unigram, "{{ tools }}"), columns=Columns(tools="functions"))
    system = {"role": "system", "content": "the value"}
    good, bad = ({"messages": [*first, USER, ANSWER], "functions": TOOLS} for first in ([system], []))
    silent = pickle.dumps(collate.encoder.notices)
    assert not warned(lambda: collate([good, good]))
    assert "Sample 1: 'functions' makes" in warned(lambda: collate([good, bad]))[0]
    assert not warned(lambda: collate([bad, good]))
    (documents,) = warned(lambda: collate([bad | {"chat_template_kwargs": {"documents": PAGES}}]))
    assert "['documents']" in documents
    assert "of the student and of the teacher" in documents
    # Copies in workers speak for themselves, and a copy that has spoken is still the same, as caches want it.
    assert pickle.dumps(collate.encoder.notices) == silent
    assert len(warned(lambda: pickle.loads(pickle.dumps(collate))([bad]))) == 1


QUIET: dict[str, tuple[str, dict[str, Any]]] = {
    "empty": ("", {"tools": [], "chat_template_kwargs": {"documents": [], "mood": "", "x": None}}),
    "the default": ("{{ mood | default('calm') }}", {"chat_template_kwargs": {"mood": "calm"}}),
    # As Qwen's, whose switch is read for what is to be generated: there a scored turn begins.
    "read for generation": (
        "{% if add_generation_prompt and not thinks | default(true) %}.{% endif %}",
        {"chat_template_kwargs": {"thinks": False}},
    ),
    "read with tools alone": (
        "{% if tools %}{{ tools if first else '' }}{% endif %}",
        {"chat_template_kwargs": {"first": True}},
    ),
    "a template": ("", {"chat_template_kwargs": {"chat_template": MESSAGES}}),
    "refused without": ("{{ tools[0].function.name }}", {"tools": TOOLS}),
}


@pytest.mark.parametrize("kind", QUIET)
def test_what_a_template_may_well_read_is_not_complained_of(kind: str) -> None:
    before, given = QUIET[kind]
    one = tokenizer(byte_level, before)
    assert not warned(lambda: DualTokenizerCollator(one, one)([FORMS["chat"] | given]))


def test_templates_by_name() -> None:
    """With tools, transformers renders by the template that is called so."""
    named = with_other_template(byte_level(), MESSAGES)
    named.chat_template = {"default": MESSAGES, "tool_use": "{{ tools }}" + MESSAGES}
    plain = tokenizer(metaspace, "{{ tools }}")
    assert not warned(lambda: DualTokenizerCollator(named, plain)([FORMS["chat"] | {"tools": TOOLS}]))
    named.chat_template = {"default": MESSAGES, "tool_use": MESSAGES}
    (message,) = warned(lambda: DualTokenizerCollator(named, plain)([FORMS["chat"] | {"tools": TOOLS}]))
    assert "of the student writes" in message
    named.chat_template = {"tool_use": MESSAGES}  # without tools there is none at all
    assert not warned(lambda: DualTokenizerCollator(named, plain)([FORMS["chat"] | {"tools": TOOLS}]))


def test_a_store_of_the_teacher_is_built_from_what_its_own_template_reads() -> None:
    reads, ignores = tokenizer(byte_level, "{{ tools }}"), tokenizer(unigram, "")
    samples = [FORMS["chat"] | {"tools": TOOLS}] * 2
    collate = DualTokenizerCollator(reads, ignores)
    (message,) = warned(lambda: collate.teacher_sides(samples))
    assert message.startswith(
        "Sample 0: 'tools' makes no difference to what the chat template of the teacher writes. Do:"
    )
    assert not warned(lambda: collate(samples)), "said already"
    assert not warned(lambda: DualTokenizerCollator(ignores, reads).teacher_sides(samples))
