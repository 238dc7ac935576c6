"""Whose groups an aligner is told, by what name, and what is recorded of it; what contradicts itself is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from dskd_components import (
    Aligner,
    ConfigurationError,
    DSKDSpec,
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    MultiTeacherCollator,
    TextAligner,
    UnknownComponentError,
    align_text,
    get_aligner,
)
from dskd_components.aligners import MinEdit, Span
from dskd_components.components.text_methods import (
    ALIGNMENT_RULES,
    DIGEST_BITS,
    maker_of,
    method_label,
    method_number,
    method_of_number,
    text_aligner,
    text_aligner_names,
)
from dskd_components.loss.batch_origin import require_origin
from tests.helpers.collating import byte_level, metaspace
from tests.helpers.fake_distributions import FakeDistribution
from tests.helpers.whole_words import WholeWords

if TYPE_CHECKING:
    from collections.abc import Callable

    from dskd_components import TokenizedText
    from dskd_components.tokenization.arrays import IntArray


class Told(Aligner):
    """Is told the groups of another, by name."""

    name: Literal["told"] = "told"

    def build(self, **options: Any) -> Any:
        return get_aligner("span").build(**options)


def told_of(method: str) -> Aligner:
    class ToldOf(Told):
        text_method: ClassVar[str | None] = method

    return ToldOf()


WAYS: dict[str, Callable[[Any], Any]] = {
    "align_text": lambda name: align_text(byte_level(), metaspace(), "the", name),
    "collator": lambda name: DualTokenizerCollator(byte_level(), metaspace(), aligner=name),
    "preprocessor": lambda name: DualTokenizerPreprocessor(byte_level(), metaspace(), aligner=name),
    "several teachers": lambda name: MultiTeacherCollator(byte_level(), {"a": metaspace()}, aligners={"a": name}),
    "spec": lambda name: DSKDSpec(aligner=name),
    "get_aligner": get_aligner,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_unknown_name_is_refused_with_those_that_there_are(way: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)unknown aligner.* 'spam'(?s:.*)exact_match.*min_edit.*span"):
        WAYS[way]("spam")


@pytest.mark.parametrize("method", ["spam", "cma", "whole_words"])
@pytest.mark.parametrize("way", ["align_text", "collator", "preprocessor", "several teachers", "loss"])
def test_an_unknown_text_method_is_never_something_else(way: str, method: str) -> None:
    """Nothing is aligned by another method than the one that was asked for."""
    told = told_of(method)
    with pytest.raises(
        (UnknownComponentError, ConfigurationError),
        match=rf"'told' declares text_method = '{method}'.*exact_match, min_edit, span\. Install .*dskd_aligners",
    ):
        (WAYS[way](told) if way != "loss" else require_origin({}, {}, told))


def test_a_text_method_of_a_plugin_is_found_once_it_is_installed(install: Callable[..., None]) -> None:
    install(FakeDistribution("whole-words", "", value="tests.helpers.whole_words"))
    assert "whole_words" in text_aligner_names()
    assert maker_of(told_of("whole_words")) == WholeWords()
    collate = DualTokenizerCollator(byte_level(), metaspace(), aligner=told_of("whole_words"))
    own = DualTokenizerCollator(byte_level(), metaspace(), aligner="whole_words")
    samples = [{"text": "the statement is new"}]
    assert collate(samples)["student_groups"].tolist() == own(samples)["student_groups"].tolist()
    assert collate(samples)["groups_method"].tolist() == [method_number(WholeWords())]
    assert align_text(byte_level(), metaspace(), "the new", told_of("whole_words")).method == "whole_words"


def test_a_hint_is_given() -> None:
    with pytest.raises(UnknownComponentError, match=r"'exact' \(did you mean 'exact_match'\?\)"):
        text_aligner("exact")


def groups(self: Any, student: TokenizedText, teacher: TokenizedText) -> IntArray:
    return np.zeros((0, 4), dtype=np.int64)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"text_method": "span", "groups_of_text": groups}, "text_method is 'span', so that it would not be called"),
        ({"text_method": "odd"}, "its own name, 'odd', but it has no groups_of_text"),
        ({"groups_of_texts": groups}, "has a groups_of_texts, but no groups_of_text"),
        ({"groups_of_text": groups, "groups_options": ("spam",)}, "groups_options: there is no option 'spam'"),
    ],
)
def test_a_class_that_contradicts_itself_is_refused_when_it_is_made(members: dict[str, Any], message: str) -> None:
    types = {"text_method": ClassVar[str | None], "groups_options": ClassVar[tuple[str, ...] | None]}
    annotations = {"name": Literal["odd"]} | {name: kind for name, kind in types.items() if name in members}
    with pytest.raises(TypeError, match=message):
        type("Odd", (Told,), {"name": "odd", "__annotations__": annotations, "__module__": __name__} | members)


def test_who_makes_groups_says_so_by_its_own_name() -> None:
    class Heir(Span):
        name: Literal["heir"] = "heir"

    class Sharing(Span):
        text_method: ClassVar[str | None] = "span"
        name: Literal["sharing"] = "sharing"

    assert (Heir().text_method, maker_of(Heir())) == ("heir", Heir())
    assert (Sharing().text_method, maker_of(Sharing())) == ("span", Span())
    assert (Told().text_method, Told().makes_groups, maker_of(Told())) == (None, False, None)
    with pytest.raises(NotImplementedError, match="'told'"):
        Told().groups_of_text(*[None] * 2)  # type: ignore[arg-type]


# ---- what is recorded


class Versioned(WholeWords):
    groups_version: ClassVar[int] = 2


class Mood(BaseModel):
    model_config = ConfigDict(frozen=True)
    loud: bool = False


class Structured(TextAligner):
    """Has options that are no numbers."""

    name: Literal["structured"] = "structured"
    mood: Mood = Mood()
    words: tuple[str, ...] = ()

    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return groups(self, student, teacher)


RECORDED: list[tuple[Aligner | None, str]] = [
    (None, "no groups"),
    (get_aligner("exact_match"), "exact_match"),
    (Span(), "span"),
    (MinEdit(), "min_edit"),
    (WholeWords(), "whole_words"),
    (WholeWords(separator="\n"), r"whole_words(separator='\n')"),
    (Versioned(), "whole_words"),
    (Structured(words=("a", "b")), "structured(words=('a', 'b'))"),
    (Structured(mood=Mood(loud=True)), "structured(mood=Mood(loud=True))"),
]


def test_a_number_differs_wherever_groups_may() -> None:
    numbers = [method_number(aligner) for aligner, _ in RECORDED]
    assert len(set(numbers)) == len(numbers)
    assert {number >> DIGEST_BITS for number in numbers} == {ALIGNMENT_RULES}
    assert method_number(Span()) == method_number(Span(pooling="last"))
    assert method_number(MinEdit()) == method_number(MinEdit(many_to_one="pool", pooling="last"))


@pytest.mark.parametrize(("aligner", "label"), RECORDED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_number_is_read_again(aligner: Aligner | None, label: str) -> None:
    number = method_number(aligner)
    found = method_of_number(number, aligner)
    assert found is not None
    assert found.is_known
    assert (found.label, found.version) == (None if aligner is None else label, ALIGNMENT_RULES)
    later = method_of_number(number + (1 << DIGEST_BITS), aligner)
    assert later is not None
    assert (later.label, later.version) == (found.label, ALIGNMENT_RULES + 1)
    assert aligner is None or method_label(aligner) == label


def test_the_numbers_of_the_built_in_ones_are_kept() -> None:
    """They stand in data sets on disk."""
    names = ("exact_match", "span", "min_edit")
    assert [method_number(get_aligner(name)) for name in names] == [PINNED[name] for name in names]


PINNED = {"exact_match": 1486840818942, "span": 1106275559671, "min_edit": 1284426197608}


def test_one_that_nobody_here_records_is_said_to_be_unknown() -> None:
    found = method_of_number(method_number(Versioned()), WholeWords())
    assert found is not None
    assert not found.is_known
    assert str(found).startswith("an aligner that is not known here")
    assert [method_of_number(number) for number in (0, 7, 102, -1, -(1 << 50))] == [None] * 5


def test_options_that_cannot_be_recorded_are_refused_by_name() -> None:
    class Odd(Structured):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        name: Literal["odd"] = "odd"
        what: Any = None

    with pytest.raises(ConfigurationError, match=r"options of the aligner 'odd' cannot be recorded.*groups_options"):
        method_number(Odd(what=object()))
