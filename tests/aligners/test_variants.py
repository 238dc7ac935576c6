"""Variants of cross-model attention: each overrides one part of it, and the rest uses what that gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import torch

from dskd_components import DSKDSpec, InputError, LMStates, get_aligner
from dskd_components.aligners import AttentionAligner, CrossModelAttentionModule
from dskd_components.testing import laws_of
from dskd_components.testing.strategies.batches import with_example_columns
from tests.helpers.column_readers import Nearby
from tests.helpers.registered import build
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from collections.abc import Callable


class WithoutTargets(AttentionAligner):
    """The teacher's values are its states alone, without the embeddings of what they should predict."""

    name: Literal["cma_without_targets"] = "cma_without_targets"

    class Module(CrossModelAttentionModule):
        def values(self, teacher: LMStates) -> torch.Tensor:
            return self.states_over_std(teacher)

    module_class: ClassVar[type[CrossModelAttentionModule]] = Module


test_variants_keep_the_laws = laws_of(WithoutTargets(), Nearby(), max_examples=5)


class Parts(CrossModelAttentionModule):
    """Notes which part is asked for."""

    asked: ClassVar[list[str]] = []


def noting(name: str) -> Callable[..., Any]:
    def part(self: Parts, *arguments: Any) -> Any:
        self.asked.append(name)
        return getattr(super(Parts, self), name)(*arguments)

    return part


for name in ("queries", "keys", "values", "scores", "allowed"):
    setattr(Parts, name, noting(name))


def test_every_part_is_used_where_it_is_overridden() -> None:
    batch = make_batch(0, same_tokenizer=False)
    module = Parts(5, 7, "sample").double()
    module(batch.student, batch.teacher, None)
    assert set(module.asked) == {"queries", "keys", "values", "scores", "allowed"}


@pytest.mark.parametrize("engine", ["eager", "tiled"])
def test_values_without_targets_need_no_embedding_as_wide_as_the_states(engine: Any) -> None:
    batch = make_batch(1, same_tokenizer=False)
    plain, variant = (build(DSKDSpec(aligner=one, engine=engine), batch) for one in ("cma", WithoutTargets()))
    ours, theirs = (loss.align(batch.student, batch.teacher) for loss in (variant, plain))
    # The weights are the same; the values lack the embeddings, whatever their width.
    torch.testing.assert_close(ours.weights(0), theirs.weights(0), rtol=0, atol=0)
    rows = batch.teacher.scored[0]
    states = batch.teacher.hidden_states[0, rows]
    torch.testing.assert_close(ours.teacher_values[0, rows], states / states.std())
    assert not torch.equal(theirs.teacher_values[0, rows], ours.teacher_values[0, rows])


def test_a_bias_by_place_moves_attention_to_what_lies_near() -> None:
    batch = with_example_columns(make_batch(2, same_tokenizer=False), [Nearby()])
    starts = [side.columns["byte_starts"] for side in (batch.student, batch.teacher)]
    distance = (starts[0][:, :, None] - starts[1][:, None, :]).abs().double()
    expected = []
    for slope in (0.0, 1.0, 50.0):
        loss_fn = build(DSKDSpec(aligner=Nearby(slope=slope)), batch)
        found = loss_fn.align(batch.student, batch.teacher)
        expected.append((found.student_to_teacher * distance)[found.student_covered].sum(-1))  # type: ignore[attr-defined]
        if slope == 0:
            plain = get_aligner("cma").build(student_embedding_size=5, teacher_embedding_size=7).double()
            plain.load_state_dict(loss_fn.aligner.state_dict())
            assert torch.equal(found.student_to_teacher, plain(batch.student, batch.teacher, None).student_to_teacher)  # type: ignore[attr-defined]
    assert (expected[0].sum() > expected[1].sum() > expected[2].sum()).item()


def test_a_narrow_embedding_is_refused_by_the_values_that_add_it() -> None:
    batch = make_batch(0, same_tokenizer=False)
    assert batch.teacher.embedding is not None
    module = CrossModelAttentionModule(5, 4, "sample").double()
    narrow = LMStates(
        hidden_states=batch.teacher.hidden_states,
        targets=batch.teacher.targets,
        head=batch.teacher.head,
        input_ids=batch.teacher.input_ids,
        embedding=batch.teacher.embedding[:, :4],
    )
    with pytest.raises(InputError, match="Use another aligner"):
        module(batch.student, narrow, None)
    assert WithoutTargets.Module(5, 4, "sample").double()(batch.student, narrow, None).teacher_values.shape[-1] == 7
