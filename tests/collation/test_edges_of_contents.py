"""Whitespace that one side adds or drops at the edges of a content leaves no token alone, and pairs no wrong ones.

The oracle writes each chat by hand, so that it knows where contents stand, and compares every token of one side with
every token of the other by the bytes of the content that they stand for, leading spaces set aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from dskd_components import DualTokenizerCollator
from dskd_components.collation import SampleError
from dskd_components.tokenization.byte_spans import tokenize_with_spans
from tests.helpers.collating import KINDS, PAIRS, core, members, row_of
from tests.helpers.span_oracle import lone_cores

if TYPE_CHECKING:
    from collections.abc import Callable

Messages = list[dict[str, str]]
METHODS = ("exact_match", "span", "min_edit")

FORMS: dict[str, tuple[str, Callable[[str], str]]] = {
    "kept": ("m.content", lambda content: content),
    "trimmed": ("m.content | trim", str.strip),
    "without leading whitespace": ("m.content.lstrip()", str.lstrip),
    "without trailing whitespace": ("m.content.rstrip()", str.rstrip),
    "without newlines": ("m.content.strip('\\n')", lambda content: content.strip("\n")),
}
AROUND = [("\n", ""), ("", ""), (" ", ""), (": ", " "), ("\n\n", "\n"), ("\n", "\n\n"), ("  ", "  "), ("\t", " \n")]


@dataclass(frozen=True)
class Template:
    """A chat template: what it makes of contents, what it puts around them, and what added tokens swallow."""

    form: str
    around: tuple[str, str]
    swallows: bool = False

    @property
    def text(self) -> str:
        before, after = (piece.replace("\n", "\\n").replace("\t", "\\t") for piece in self.around)
        content = f"{{{{ '{before}' }}}}{{{{ {FORMS[self.form][0]} }}}}{{{{ '{after}' }}}}"
        prompt = f"{{% if add_generation_prompt %}}<|bot|>assistant{{{{ '{before.rstrip()}' }}}}{{% endif %}}"
        return f"{{% for m in messages %}}<|bot|>{{{{ m.role }}}}{content}<|end|>{{% endfor %}}{prompt}"

    def rendered(self, messages: Messages) -> tuple[str, list[tuple[int, int, int]]]:
        """The text, and for each content where it starts and stops in bytes, and how many of its bytes are left out."""
        text, places = "", []
        for message in messages:
            content = FORMS[self.form][1](message["content"])
            text += f"<|bot|>{message['role']}{self.around[0]}"
            start = len(text.encode())
            skipped = len(message["content"].encode()) - len(message["content"].lstrip().encode())
            first = skipped if content and not content[0].isspace() else message["content"].find(content)
            places.append((start, start + len(content.encode()), first))
            text += f"{content}{self.around[1]}<|end|>"
        return text, places


TEMPLATES = st.builds(Template, st.sampled_from(sorted(FORMS)), st.sampled_from(AROUND), st.booleans())


@cache
def tokenizer(kind: str, template: Template) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(KINDS[kind]().backend_tokenizer.to_str())
    swallows = {"rstrip": template.swallows, "lstrip": template.swallows}
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, **swallows) for token in ("<|bot|>", "<|end|>")]
    )
    unknown = {"unk_token": KINDS[kind]().unk_token} if KINDS[kind]().unk_token else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", chat_template=template.text, **unknown
    )


EDGES = st.sampled_from(["", " ", "  ", "   ", "\n", " \n", "\n ", "\n\n", "\t"])
MIDDLES = st.lists(
    st.sampled_from(["the", " statement", " is", "  value", "\n", ".", " 12", "é", " ½", "😀", ":", "s"]),
    min_size=1,
    max_size=6,
).map("".join)
CONTENTS = st.tuples(EDGES, MIDDLES, EDGES).map("".join).filter(str.strip)
MESSAGES = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": CONTENTS})
CHATS = st.lists(MESSAGES, min_size=1, max_size=4)


@dataclass(frozen=True)
class Side:
    """One side's text of a sample by hand: where it has each content, and how many bytes of that it leaves out.

    Before it there may be tokens of the tokenizer's own.
    """

    found: PreTrainedTokenizerFast
    text: str
    places: list[tuple[int, int, int]]
    before: int = 0

    def spans(self) -> list[tuple[int, int]]:
        return self._spans

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        return [span for span in tokenize_with_spans(self.found, self.text).spans if span is not None]

    def relative(self, span: tuple[int, int]) -> tuple[int, int, int] | None:
        """Of which content a span is which bytes, leading spaces set aside."""
        begin, end = core(self.text.encode(), span)
        for number, (start, stop, first) in enumerate(self.places):
            if start <= begin < end <= stop:
                return number, begin - start + first, end - start + first
        return None

    def tokens(self) -> dict[tuple[int, int, int], int]:
        """The token of each content and each stretch of its bytes."""
        spans = self.spans()
        alone = lone_cores(self.text, spans)
        found = {self.relative(span): token for token, span in enumerate(spans) if alone[token]}
        return {key: token for key, token in found.items() if key is not None}


def sides_of_chat(names: tuple[str, str], templates: tuple[Template, Template], chat: Messages) -> list[Side]:
    sides = []
    for name, template in zip(names, templates, strict=True):
        found = tokenizer(name, template)
        text, places = template.rendered(chat)
        assert found.apply_chat_template(chat, tokenize=False) == text
        sides.append(Side(found, text, places))
    return sides


def collated(sides: list[Side], sample: dict[str, Any], **options: Any) -> list[list[int]] | None:
    """The group of each token of the text, on both sides; None for a sample that cannot be used."""
    try:
        batch = DualTokenizerCollator(*(side.found for side in sides), **options)([sample])
    except SampleError:
        return None
    rows = [row_of(batch, side) for side in ("student", "teacher")]
    return [row["groups"][side.before :][: len(side.spans())] for row, side in zip(rows, sides, strict=True)]


def right_pairs(sides: list[Side]) -> set[tuple[int, int]]:
    student, teacher = (side.tokens() for side in sides)
    return {(student[key], teacher[key]) for key in student.keys() & teacher.keys()}


def check_exact(sides: list[Side], sample: dict[str, Any], **options: Any) -> None:
    groups = collated(sides, sample, **options)
    if groups is None:
        return
    student, teacher = (members(numbers) for numbers in groups)
    found = {(student[group][0], teacher[group][0]) for group in student.keys() & teacher.keys()}
    ends = {(token, other) for token, other in found if is_end(sides[0], token) and is_end(sides[1], other)}
    assert found - ends == right_pairs(sides)


def is_end(side: Side, token: int) -> bool:
    """Whether a token ends a turn; what it swallows around it does not matter."""
    return "<|end|>" in side.text.encode()[slice(*side.spans()[token])].decode(errors="replace")


def check_span(sides: list[Side], sample: dict[str, Any], **options: Any) -> None:
    groups = collated(sides, sample, aligner="span", **options)
    if groups is None:
        return
    for student, teacher in right_pairs(sides):
        assert groups[0][student] == groups[1][teacher] >= 0
    stretches = [
        {
            group: side.relative((side.spans()[tokens[0]][0], side.spans()[tokens[-1]][1]))
            for group, tokens in members(numbers).items()
            if not any(is_end(side, token) for token in tokens)
        }
        for side, numbers in zip(sides, groups, strict=True)
    ]
    assert stretches[0] == stretches[1]
    assert None not in stretches[0].values()


def chat_of(*contents: str) -> Messages:
    return [{"role": ("user", "assistant")[number % 2], "content": one} for number, one in enumerate(contents)]


PLAIN, TRIMMED = Template("kept", ("\n", "")), Template("trimmed", ("\n", ""))
both_ways = pytest.mark.parametrize("names", PAIRS, ids="-".join)


@both_ways
@pytest.mark.parametrize("check", [check_exact, check_span])
@settings(max_examples=40)
@given(chat=CHATS, student=TEMPLATES, teacher=TEMPLATES)
@example(chat=chat_of("What?", " the statement"), student=PLAIN, teacher=TRIMMED)
@example(chat=chat_of("  the value", "   the  statement "), student=TRIMMED, teacher=PLAIN)
@example(chat=chat_of("the\n", "\n the statement \n"), student=TRIMMED, teacher=PLAIN)
@example(chat=chat_of("the", " the is"), student=Template("kept", (" ", ""), swallows=True), teacher=PLAIN)
def test_what_belongs_together_in_chats_is_what_a_comparison_finds(
    names: tuple[str, str], check: Any, chat: Messages, student: Template, teacher: Template
) -> None:
    check(sides_of_chat(names, (student, teacher), chat), {"messages": chat}, train_on_prompt=True)


@both_ways
@pytest.mark.parametrize("check", [check_exact, check_span])
@settings(max_examples=25)
@given(prompts=st.tuples(EDGES, EDGES), response=CONTENTS)
@example(prompts=("", " "), response=" the statement")
@example(prompts=("   ", "\n"), response="  the statement")
def test_what_belongs_together_after_prompts_of_ones_own(
    names: tuple[str, str], check: Any, prompts: tuple[str, str], response: str
) -> None:
    sides = []
    for name, prompt, edge in zip(names, ("What is", "Name"), prompts, strict=True):
        start = len((prompt + edge).encode())
        places = [(start, start + len(response.encode()), 0)]
        before = name in ("metaspace", "wordpiece")  # BOS, [CLS]
        sides.append(Side(tokenizer(name, PLAIN), prompt + edge + response, places, int(before)))
    sample = {"prompt": "What is" + prompts[0], "teacher_prompt": "Name" + prompts[1], "response": response}
    check(sides, sample, append_eos=False)


# A newline that a tokenizer joins to a word, as those of the other kinds do, is text like any other.
SPACES = [(names, edge) for names in PAIRS for edge in ("", " ", "  ")]
WHITESPACE = [
    (names, edge)
    for names in (("byte_level", "metaspace"), ("byte_level", "byte_level"))
    for edge in ("", " ", "  ", "\n", "\n ")
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("names", "edge"), sorted({*SPACES, *WHITESPACE}), ids=repr)
def test_the_first_word_of_an_answer_has_a_partner_whoever_strips_it(
    names: tuple[str, str], method: str, edge: str
) -> None:
    chat = chat_of("What?", f"{edge}the statement is the value")
    kept, trimmed = (Template(form, (" ", "")) for form in ("kept", "trimmed"))
    for templates in ((kept, trimmed), (trimmed, kept), (trimmed, trimmed)):
        sides = sides_of_chat(names, templates, chat)
        groups = collated(sides, {"messages": chat}, aligner=method)
        assert groups is not None
        first = []
        for side in sides:
            start = side.text.encode().rindex(b"the statement")
            first += [token for token, span in enumerate(side.spans()) if span[0] <= start < span[1]]
        student, teacher = first
        one_to_one = (student, teacher) in right_pairs(sides)
        if method != "exact_match" or one_to_one:
            assert groups[0][student] == groups[1][teacher] >= 0
        assert one_to_one or names[0] != names[1]
