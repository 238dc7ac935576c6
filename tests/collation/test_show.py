"""`show`: what is shown is what the batch has, each token has its reasons, and any text can be drawn."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.cells import cell_len
from rich.console import Console

from dskd_components import DualTokenizerCollator, InputError, MultiTeacherCollator
from dskd_components.collation import SampleError, SampleView, UnpairedReason, UnscoredReason
from dskd_components.collation.sample_view import MultiTeacherSampleView, SideView, TokenView
from dskd_components.components import default_registry
from dskd_components.tokenization.drawing import visible
from dskd_components.tokenization.text_alignment import UnalignedReason
from tests.helpers.collating import (
    KINDS,
    PAIRS,
    TEXTS,
    byte_level,
    core,
    members,
    metaspace,
    row_of,
    spans_of,
    unigram,
    wordpiece,
)
from tests.helpers.sample_kinds import ANSWER, OF_ONE_TOKENIZER, OF_TWO_TOKENIZERS, USER, preprocessed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

ALIGNERS = sorted(info.name for info in default_registry().components("aligner"))
COLLATORS: dict[Any, DualTokenizerCollator] = {}


def collator(names: tuple[str, str], **options: Any) -> DualTokenizerCollator:
    key = (names, *sorted(options.items()))
    if key not in COLLATORS:
        COLLATORS[key] = DualTokenizerCollator(KINDS[names[0]](), KINDS[names[1]](), **options)
    return COLLATORS[key]


def require_same(view: SampleView, batch: Mapping[str, Tensor]) -> None:
    """What is shown is the batch's only row, and each token has its reasons or none."""
    for name, side in (("student", view.student), ("teacher", view.teacher)):
        mask = batch.get(f"{name}_attention_mask")
        kept = (batch[f"{name}_segment_ids"] == 0 if mask is None else mask != 0)[0]
        columns = {"id": "input_ids", "label": "labels", "group": "groups"}
        for field, column in columns.items():
            if column == "groups" and not view.has_groups:
                assert f"{name}_groups" not in batch
                assert {token.group for token in side.tokens} == {-1}
                continue
            assert [getattr(token, field) for token in side.kept] == batch[f"{name}_{column}"][0][kept].tolist()
        assert [token.position for token in side.kept] == list(range(int(kept.sum())))
        for token in side.tokens:
            assert token.scored == (token.label >= 0) == (token.unscored is None)
            assert token.paired == (token.group >= 0) == (token.unpaired is None)
            is_cut = token.position is None
            assert is_cut == (token.unscored is UnscoredReason.CUT)
            assert is_cut == (token.unpaired is UnpairedReason.CUT) or not view.has_groups
    if view.has_groups:
        numbers = [members([token.group for token in side.kept]) for side in view.sides]
        expected = [(numbers[0][group], numbers[1][group]) for group in numbers[0].keys() & numbers[1].keys()]
        assert [list(map(list, group)) for group in view.groups] == sorted([list(group) for group in expected])


ROLES = st.sampled_from(["user", "assistant", "system"])
MESSAGES = st.lists(st.tuples(ROLES, TEXTS, st.sampled_from([None, 0])), min_size=1, max_size=4).map(
    lambda drawn: [
        {"role": role, "content": text} | ({"weight": weight} if weight is not None else {})
        for role, text, weight in drawn
    ]
)
SAMPLES = st.one_of(
    TEXTS.map(lambda text: {"text": text}),
    st.tuples(TEXTS, TEXTS).map(lambda pair: {"prompt": pair[0], "response": pair[1]}),
    st.tuples(TEXTS, TEXTS, TEXTS).map(
        lambda drawn: {"prompt": drawn[0], "teacher_prompt": drawn[1], "completion": drawn[2]}
    ),
    MESSAGES.map(lambda messages: {"messages": messages}),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "student_max_length": st.sampled_from([6, 20]),
        "packing": st.just(True),
        "padding_side": st.just("left"),
        "pad_to_multiple_of": st.just(8),
        "append_eos": st.just(False),
    },
)


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
@pytest.mark.parametrize("aligner", ["exact_match", "span", "min_edit", "cma"])
@settings(max_examples=12)
@given(sample=SAMPLES, options=OPTIONS)
def test_what_is_shown_is_what_the_batch_has(
    names: tuple[str, str], aligner: str, sample: dict[str, Any], options: dict[str, Any]
) -> None:
    collate, given_sample = collator(names, aligner=aligner, **options), copy.deepcopy(sample)
    (outcome,) = collate.encoder.encode([sample])
    if isinstance(outcome, SampleError):
        with pytest.raises(SampleError) as caught:
            collate.show(sample)
        assert caught.value.reason == outcome.reason
        return
    batch = collate([sample])
    view = collate.show(sample)
    assert sample == given_sample
    require_same(view, batch)
    require_reasonable(view, names, sample)
    require_drawable(view)


BEFORE = {"byte_level": 0, "metaspace": 1, "unigram": 0, "wordpiece": 1}
"""How many tokens a tokenizer puts before a text."""


def require_reasonable(view: SampleView, names: tuple[str, str], sample: dict[str, Any]) -> None:
    """Reasons that the bytes of prompt and response confirm."""
    if "prompt" not in sample:
        return
    response = sample.get("response", sample.get("completion"))
    prompts = [sample["prompt"], sample.get("teacher_prompt", sample["prompt"])]
    for name, side, prompt in zip(names, view.sides, prompts, strict=True):
        data, border = (prompt + response).encode(), len(prompt.encode())
        _, spans = spans_of(KINDS[name](), prompt + response)
        tokens = side.tokens[BEFORE[name] : BEFORE[name] + len(spans)]
        for token, span in zip(tokens, spans, strict=True):
            start, end = core(data, span)
            assert token.text.encode() == data[slice(*span)] or "\\x" in token.text
            if token.unscored is UnscoredReason.PROMPT:
                assert start < border
            elif token.unscored is UnscoredReason.BORDER:
                assert span[0] < border < end
            elif token.unscored is None or token.unscored is UnscoredReason.FIRST:
                assert start >= border
            else:
                assert token.unscored is UnscoredReason.CUT
            if token.unpaired is UnpairedReason.OWN_PROMPT:
                assert "teacher_prompt" in sample
                assert start < border


def require_drawable(view: SampleView | MultiTeacherSampleView) -> None:
    for width in (30, 100):
        text = view.to_text(width=width)
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert str(view) == repr(view) == view.to_text()
    assert well_formed(view._repr_html_())
    assert json.loads(json.dumps(view.to_dict())) == view.to_dict()


class _Tags(HTMLParser):
    """The open tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert {name for name, _ in attrs} <= {"style", "title"}
        if tag != "hr":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def well_formed(page: str) -> bool:
    parser = _Tags()
    parser.feed(page)
    parser.close()
    assert parser.seen <= {"div", "b", "bdi", "details", "summary", "ul", "li", "hr"}
    return not parser.open


@pytest.mark.parametrize("aligner", [*ALIGNERS, None])
@pytest.mark.parametrize("kind", OF_TWO_TOKENIZERS)
def test_every_kind_of_sample_is_shown_with_every_aligner(kind: str, aligner: str | None) -> None:
    sample = OF_TWO_TOKENIZERS[kind]
    is_identity = aligner == "identity"
    if is_identity and "teacher_prompt" in sample:
        return
    collate = DualTokenizerCollator(byte_level(), byte_level() if is_identity else metaspace(), aligner=aligner)
    view = collate.show(sample)
    require_same(view, collate([sample]))
    require_drawable(view)
    told = collate.encoder.group_maker is not None
    assert view.has_groups == told
    assert ("No tokens are paired" in view.alignment) != told
    if not told:
        assert not view.groups
        assert {token.unpaired for side in view.sides for token in side.kept} == {UnpairedReason.ALIGNER}
        assert (aligner or "no aligner") in view.alignment
        assert view.alignment in view.to_text()


@pytest.mark.parametrize("aligner", ["exact_match", "span", "min_edit", "identity"])
@pytest.mark.parametrize("kind", OF_ONE_TOKENIZER)
def test_samples_in_tokens_are_shown(kind: str, aligner: str) -> None:
    collate = DualTokenizerCollator(byte_level(), byte_level(), aligner=aligner)
    sample = OF_ONE_TOKENIZER[kind]
    view = collate.show(sample)
    require_same(view, collate([sample]))
    require_drawable(view)
    decoded = [byte_level().decode([number]) for number in sample["input_ids"]]
    assert [token.text for token in view.student.tokens if "\\" not in token.text] == [
        text for text in decoded if "�" not in text
    ]


@pytest.mark.parametrize("aligner", ["exact_match", "span", "min_edit", "cma"])
def test_preprocessed_samples_are_shown_as_they_are(aligner: str) -> None:
    row = preprocessed(aligner=aligner)
    collate = DualTokenizerCollator(byte_level(), metaspace(), aligner=aligner)
    view = collate.show(row)
    require_same(view, collate([row]))
    require_drawable(view)
    assert view.form == "preprocessed"
    raw = collate.show(OF_TWO_TOKENIZERS["prompt and response"])
    assert view.groups == raw.groups
    unscored = {token.unscored for side in view.sides for token in side.kept if not token.scored}
    assert unscored == {UnscoredReason.PREPROCESSED}


@pytest.mark.parametrize("kind", OF_TWO_TOKENIZERS)
def test_each_of_several_teachers_is_shown(kind: str) -> None:
    sample = OF_TWO_TOKENIZERS[kind]
    teachers = {"large": metaspace(), "code": unigram(), "words": wordpiece()}
    limits = {"code": 12} if kind in ("text", "prompt and response") else None
    collate = MultiTeacherCollator(
        byte_level(), teachers, aligners={"code": "span", "words": "cma"}, teacher_max_lengths=limits
    )
    batch, views = collate([sample]), collate.show(sample).by_teacher
    assert list(views) == list(teachers)
    for name, view in views.items():
        assert view.teacher.name == name
        require_same(view, as_pair(batch, name))
    require_drawable(collate.show(sample))
    rows = [[(token.id, token.label) for token in view.student.kept] for view in views.values()]
    assert rows[0] == rows[1] == rows[2]


def as_pair(batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    own = {key.replace(f"{name}_", "teacher_", 1): value for key, value in batch.items() if key.startswith(f"{name}_")}
    student = {key: value for key, value in batch.items() if key.startswith("student_") and "groups" not in key}
    groups = f"student_groups_{name}"
    return own | student | ({"student_groups": batch[groups]} if groups in batch else {})


def shown(names: tuple[str, str], sample: dict[str, Any], **options: Any) -> SampleView:
    return collator(names, **options).show(sample)


UNKNOWN_IN_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}§{% endif %}{% endfor %}"
)


def each_reason() -> Iterator[tuple[Any, SampleView, str, str]]:
    """For every reason, a token that has it: the view, the side, and what the token spells."""
    pair = {"prompt": "the statement?", "response": " is the value"}
    both = ("byte_level", "metaspace")
    text = shown(both, {"text": "the value of 12345"}, aligner="span")
    yield UnscoredReason.FIRST, text, "student", "the"
    yield UnscoredReason.PROMPT, shown(both, pair), "student", "?"
    answered = shown(both, OF_TWO_TOKENIZERS["conversational pair"])
    yield UnscoredReason.PROMPT, answered, "student", "."
    yield UnscoredReason.ADDED, shown(both, pair), "teacher", "<s>"
    yield UnscoredReason.BORDER, shown(both, {"prompt": "the sta", "response": "tement is"}), "student", " statement"
    chat = shown(both, {"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "content": "the name"}]})
    yield UnscoredReason.ROLE, chat, "student", "?"
    yield UnscoredReason.WEIGHT, chat, "student", "."
    yield UnscoredReason.TEMPLATE, chat, "student", "<|im_start|>"
    broken_off = shown(both, {"messages": [USER, {**ANSWER, "finish_reason": "length"}]})
    yield UnscoredReason.AFTER_CUT, broken_off, "student", "<|im_end|>"
    yield UnpairedReason.TEMPLATE, chat, "student", "<|im_start|>"
    yield UnpairedReason.JOINED, chat, "student", "."
    yield UnpairedReason.OVERLAPS, chat, "teacher", ". "
    yield UnpairedReason.ADDED, shown(both, pair), "teacher", "<s>"
    yield UnpairedReason.PARTLY_SCORED, text, "student", "the"
    yield UnpairedReason.NO_END, shown(("byte_level", "wordpiece"), pair), "student", "<|im_end|>"
    cut = shown(both, {"text": "the value is new and new"}, student_max_length=4)
    yield UnscoredReason.CUT, cut, "student", "<|im_end|>"
    yield UnpairedReason.CUT, cut, "student", "<|im_end|>"
    told = {"prompt": "the", "teacher_prompt": "a name. the", "response": " value is new"}
    yield UnpairedReason.OWN_PROMPT, shown(both, told), "teacher", "."
    yield UnpairedReason.ALIGNER, shown(both, pair, aligner="cma"), "student", "?"
    own = shown(("byte_level", "byte_level"), OF_ONE_TOKENIZER["tokens and completion_mask"])
    yield UnscoredReason.MASKED, own, "student", byte_level().convert_ids_to_tokens(5)
    yield UnpairedReason.UNSCORED, own, "student", byte_level().convert_ids_to_tokens(5)
    row = DualTokenizerCollator(byte_level(), metaspace(), aligner="exact_match").show(preprocessed())
    yield UnscoredReason.PREPROCESSED, row, "student", "?"
    yield UnpairedReason.PREPROCESSED, row, "teacher", "<s>"
    yield UnalignedReason.MERGED, shown(both, pair), "student", " the"
    tokenizer = unigram()
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = UNKNOWN_IN_TEMPLATE
        chat = {"messages": [USER, {**ANSWER, "content": "the name"}]}
        view = DualTokenizerCollator(tokenizer, tokenizer, aligner=None).show(chat)
    finally:
        tokenizer.chat_template = template
    yield UnscoredReason.UNKNOWN, view, "student", "§"


def test_every_reason_is_given_where_it_holds() -> None:
    given_reasons = set()
    for reason, view, side, text in each_reason():
        found = [
            token
            for token in getattr(view, side).tokens
            if text in (token.text, token.token) and reason in (token.unscored, token.unpaired)
        ]
        assert found, f"{reason}\n{view}"
        assert reason in view.to_text() or reason is UnpairedReason.ALIGNER
        given_reasons.add(reason)
    assert given_reasons >= {*UnscoredReason, *UnpairedReason}


def test_the_drawing_is_what_is_documented() -> None:
    view = shown(("byte_level", "metaspace"), {"prompt": "What is ", "response": "the value of 12"})
    assert view.to_text(width=60) == EXPECTED


EXPECTED = (
    "prompt and response, aligned by 'exact_match'\n"
    "student: 10 tokens, 6 scored, 3 of these paired\n"
    "teacher: 15 tokens, 9 scored, 3 of these paired\n"
    "scored                          ━━━━ ━━━━━━ ━━━       ━━\n"
    "student          W  h  at  ·is  ·the|·value|·of       ·1\n"
    "pairs            ┃  ┃  ┃   ┃    ✗                  ✗  ┃\n"
    "teacher  <s>  ▁  W  h  at  ·is  ·the·|v|alu|e·o|f  ·  1\n"
    "scored                          ━━━━━ ━ ━━━ ━━━ ━  ━  ━\n"
    "\n"
    "scored   ━  ━━━━━━━━━━\n"
    "student  2  <|im_end|>\n"
    "pairs    ┃  ┃\n"
    "teacher  2  </s>\n"
    "scored   ━  ━━━━\n"
    "student, not paired: part of a longer token on the other side: 4 '·the'\n"
    "student, not paired: its boundaries cross those of the other side: 5 to 6 '·value·of'\n"
    "student, not scored: prompt: 0 to 3 'What·is'\n"
    "teacher, not paired: split into several tokens on the other side: 6 '·the·'\n"
    "teacher, not paired: part of a longer token on the other side: 7 to 8 'valu', 10 'f'\n"
    "teacher, not paired: its boundaries cross those of the other side: 9 'e·o'\n"
    "teacher, not paired: spaces that the other side joins to a word: 11 '·'\n"
    "teacher, neither scored nor paired: special token that the tokenizer adds: 0 '<s>'\n"
    "teacher, not scored: prompt; not paired: stands for no text: 1 '▁'\n"
    "teacher, not scored: prompt: 2 to 5 'What·is'"
)


def a_token(text: str, *, group: int = -1, position: int = 0) -> TokenView:
    reason = None if group >= 0 else UnpairedReason.TEMPLATE
    return TokenView(
        position=position, id=1, token=text, text=text, label=1, group=group, unscored=None, unpaired=reason
    )


WIDE = ["the", "한국어", "😀", "e\u0301", "\u0301", "\x1b[2J", "\r", "\x00", "\u202eabc", "שלום", "❤\ufe0f", "ﷺ", "｟"]


@given(texts=st.lists(st.sampled_from(WIDE) | TEXTS.filter(bool), min_size=1, max_size=8))
def test_columns_stand_below_one_another_whatever_the_tokens_spell(texts: list[str]) -> None:
    sides = [
        SideView(name, tuple(a_token(text, group=number, position=number) for number, text in enumerate(order)))
        for name, order in (("student", texts), ("teacher", texts[::-1]))
    ]
    view = SampleView("text", "aligned by 'span'", sides[0], sides[1], has_groups=True)
    lines = view.to_text(width=10_000).splitlines()[3:]
    assert [line.split()[0] for line in lines] == ["scored", "student", "pairs", "teacher", "scored"]
    marks = [cell_len(lines[2][:place]) for place, letter in enumerate(lines[2]) if letter == "┃"]
    assert len(marks) == len(texts)
    for line in (lines[0], lines[4]):
        starts = [place for place, letter in enumerate(line) if letter == "━" and line[place - 1] == " "]
        assert starts == marks
    for line in (lines[1], lines[3]):
        prefixes = {cell_len(line[:place]) for place in range(len(line)) if line[:place].endswith("  ")}
        assert set(marks) <= prefixes


def test_lines_keep_to_the_width() -> None:
    view = shown(("byte_level", "metaspace"), {"text": "한국어 the statement 😀 " * 8 + "x" * 200}, aligner="cma")
    for width in (40, 80, 120):
        rows = [line for line in view.to_text(width=width).splitlines() if line.startswith(("student ", "teacher "))]
        assert max(map(cell_len, [row for row in rows if ": " not in row])) <= width


def test_colour_draws_the_same_letters() -> None:
    view = shown(("byte_level", "metaspace"), OF_TWO_TOKENIZERS["chat"], aligner="span")
    console = Console(width=500, force_terminal=True, color_system="truecolor")
    with console.capture() as captured:
        console.print(view)
    colored = captured.get()
    assert "\x1b[1;32m" in colored
    plain = Console(width=500, color_system=None)
    with plain.capture() as captured:
        plain.print(view)
    assert captured.get().rstrip("\n") == view.to_text(width=500)


def test_a_figure_fills_what_is_scored() -> None:
    view = shown(("byte_level", "metaspace"), {"prompt": "the", "response": " value"}, aligner="span")
    axes = view.plot(Figure().add_subplot())
    filled = [text.get_text() for text in axes.texts if text.get_bbox_patch().get_facecolor()[:3] != (1, 1, 1)]
    assert sorted(filled) == sorted(visible(token.text or token.token) for side in view.sides for token in side.scored)


def test_markup_in_a_sample_stays_text() -> None:
    page = shown(("byte_level", "metaspace"), {"text": "<script>alert('&\"')</script> [bold]x"})._repr_html_()
    assert "<script" not in page
    assert well_formed(page)


def test_groups_that_cross_are_named() -> None:
    """No aligner makes them, but columns of one's own may have them."""
    sides = [
        SideView(name, tuple(a_token(text, group=group, position=place) for place, (text, group) in enumerate(tokens)))
        for name, tokens in (("student", [("a", 0), ("b", 1)]), ("teacher", [("b", 1), ("a", 0)]))
    ]
    text = SampleView("preprocessed", "aligned by 'span'", sides[0], sides[1], has_groups=True).to_text()
    assert "student 1 and teacher 0 belong together, which is not drawn" in text


def test_a_sample_that_cannot_be_used_is_an_error_and_is_not_counted() -> None:
    lenient = DualTokenizerCollator(byte_level(), metaspace(), on_error="skip")
    several = MultiTeacherCollator(byte_level(), {"large": metaspace()}, on_error="skip")
    for collate in (lenient, several):
        with pytest.raises(SampleError, match="Its response is empty"):
            collate.show({"prompt": "a", "response": ""})
        assert not collate.skipped
        with pytest.raises(InputError, match="Unknown key 'promt'"):
            collate.show({"promt": "a"})
    with pytest.raises(InputError, match="expected raw samples"):
        several.show(preprocessed())


def test_row_of_agrees_with_positions() -> None:
    collate = collator(("byte_level", "metaspace"), aligner="span", padding_side="left", pad_to_multiple_of=64)
    sample = OF_TWO_TOKENIZERS["text"]
    assert [token.id for token in collate.show(sample).teacher.kept] == row_of(collate([sample]), "teacher")[
        "input_ids"
    ]
