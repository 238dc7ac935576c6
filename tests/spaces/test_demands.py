"""A space may insist on a hard alignment or on tokens that both vocabularies have; a loss without them is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import torch

from dskd_components import (
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    Head,
    MultiTeacherLoss,
    MultiTeacherSpec,
    Space,
    SpaceResult,
    TokenTerm,
    get_aligner,
    get_space,
)
from dskd_components.cli.options import claims_of
from examples.tiny import tiny_pair
from tests.helpers.correct_components import ProjectedSpans, SpanLikelihood
from tests.helpers.registered import names
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from dskd_components.components import ComparedRows, Side


class Demanding(Space):
    """Asks for what its options say."""

    side: ClassVar[Side] = "student"
    terms: ClassVar[tuple[str, ...]] = ("demanded",)

    name: Literal["demanding"] = "demanding"
    hard: bool = False
    shared: int = 0

    @property
    def needs_hard_alignment(self) -> bool:
        return self.hard

    @property
    def min_shared_tokens(self) -> int:
        return self.shared

    def compare(self, rows: ComparedRows) -> SpaceResult:
        return SpaceResult(terms={"demanded": TokenTerm(values=rows.student_logits.square().sum(-1))})


SPACES: list[Space] = [
    *(get_space(name) for name in names("space")),
    Demanding(hard=True),
    Demanding(shared=3),
    SpanLikelihood(),
    ProjectedSpans(),
]
SIZES = {"student_hidden_size": 4, "teacher_hidden_size": 4}
SOME, NONE = torch.tensor([0, 1, 2, -1, 4, -1]), torch.full((6,), -1)


def built(space: Space, aligner: str, ids: torch.Tensor | None, *, heads: bool = True) -> DSKDLoss:
    torch.manual_seed(0)
    given = {f"{side}_head": Head(torch.randn(6, 4)) for side in ("student", "teacher")} if heads else {}
    spec = DSKDSpec(spaces=[space], aligner=aligner, t2s_projector="linear", s2t_projector="linear")
    return DSKDLoss(spec, **SIZES, teacher_to_student_ids=ids, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("aligner", names("aligner"))
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("shared", ["some", "none"])
def test_every_space_with_every_aligner(space: Space, aligner: str, shared: str) -> None:
    """It is built if its demands are met, and refused by name, with what to do, if they are not."""
    hard = get_aligner(aligner).is_hard
    one = get_aligner(aligner).same_tokenizer
    ids = None if one else SOME if shared == "some" else NONE
    has = 6 if one else 4 if shared == "some" else 0
    unmet = (space.needs_hard_alignment and not hard) or has < space.min_shared_tokens
    if not unmet:
        assert built(space, aligner, ids).spec.spaces == (space,)
        return
    with pytest.raises(ConfigurationError, match=rf"^The space '{space.name}' needs") as error:
        built(space, aligner, ids)
    message = str(error.value)
    assert "leave it out" in message or "leave the space out" in message
    if space.needs_hard_alignment:
        assert f"the aligner '{aligner}'" in message
        assert "'exact_match', 'min_edit', 'span'" in message
    else:
        assert f"{space.min_shared_tokens} or more tokens" in message
        assert f"these have {has} in common" in message


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize(("same", "least"), [(None, 4), (torch.tensor([True] * 2 + [False] * 4), 2)])
def test_the_very_same_tokens_are_counted(heads: bool, same: torch.Tensor | None, least: int) -> None:
    spec = {"aligner": "span", "t2s_projector": "linear", "s2t_projector": "linear"}
    given: dict[str, Any] = dict(SIZES) | {"teacher_to_student_ids": SOME, "same_token": same}
    if heads:
        given |= {f"{side}_head": Head(torch.randn(6, 4)) for side in ("student", "teacher")}
    DSKDLoss(DSKDSpec(spaces=[Demanding(shared=least)], **spec), **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=rf"needs {least + 1} or more .* have {least} in common"):
        DSKDLoss(DSKDSpec(spaces=[Demanding(shared=least + 1)], **spec), **given)  # type: ignore[arg-type]


def test_a_map_is_looked_for_where_tokens_are_demanded() -> None:
    assert DSKDSpec(spaces=[Demanding(shared=1)], aligner="span").needs_vocabulary_map
    with pytest.raises(ConfigurationError, match="the space 'demanding' must know which tokens"):
        built(Demanding(shared=1), "span", None)


def test_one_of_several_teachers_is_named() -> None:
    made = tiny_pair()
    odd = {"aligner": "cma", "spaces": [Demanding(hard=True)]}
    spec = MultiTeacherSpec(teachers={"good": {"aligner": "span"}, "odd": odd})
    tokenizers = dict.fromkeys(("good", "odd"), made.teacher_tokenizer)
    teachers = dict.fromkeys(("good", "odd"), made.teacher)
    with pytest.raises(ConfigurationError, match=r"^Teacher 'odd': The space 'demanding' needs a hard alignment"):
        MultiTeacherLoss.from_models(spec, made.student, teachers, made.student_tokenizer, tokenizers)


def test_what_is_demanded_is_shown() -> None:
    class Strict(Demanding):
        name: Literal["strict"] = "strict"
        hard: bool = True
        shared: int = 2

    assert claims_of(Strict) == ["student rows", "needs a hard alignment", "needs shared tokens, 2 or more"]
    assert "reads texts" in claims_of(type(get_aligner("span")))


@pytest.mark.parametrize("engine", ["eager", "tiled"])
@pytest.mark.parametrize(("space", "needed"), [("shared_tokens", 1), (Demanding(shared=2), 2)], ids=["built-in", "own"])
def test_tokens_that_the_heads_of_a_call_lack_do_not_count(space: Any, needed: int, engine: str) -> None:
    """Built from a map alone, a loss meets the heads when it is called, and these may have none of its tokens."""
    batch = make_batch(3, same_tokenizer=False)
    mapping = torch.full((batch.teacher.head.vocabulary_size,), -1)
    mapping[:4] = torch.arange(4)
    spec = DSKDSpec(spaces=(space,), aligner="span", engine=engine)
    sizes = {f"{side}_hidden_size": getattr(batch, side).head.hidden_size for side in ("student", "teacher")}
    loss_fn = DSKDLoss(spec, **sizes, teacher_to_student_ids=mapping).double()
    several = MultiTeacherLoss(
        MultiTeacherSpec(teachers={"one": {"spaces": (space,), "aligner": "span"}}, engine=engine), {"one": loss_fn}
    )
    whole = batch.student.head
    for ids, shared in (([4, 5], 0), ([1, 5], 1), ([2, 0, 7], 2)):
        student = replace(batch.student, head=whole.narrowed(ids, others="one_outcome"))
        calls: list[Callable[[], Any]] = [
            lambda student=student: replace(batch, student=student).loss(loss_fn),
            lambda student=student: several(student, {"one": batch.teacher}, alignments={"one": batch.groups}),
        ]
        for call in calls:
            if shared < needed:
                name = spec.spaces[0].name
                with pytest.raises(ConfigurationError, match=rf"'{name}' needs {needed} .*have {shared} in common"):
                    call()
            else:
                assert call().loss.isfinite()
