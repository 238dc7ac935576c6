"""Laws about what a space makes of rows, and about the gradients that training gets from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, get_args

import torch
from hypothesis import strategies as st

from dskd_components.components.space import ComparedRows
from dskd_components.components.terms import OF_STUDENT, Denominator
from dskd_components.loss.dskd_loss import DSKDLoss
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.testing.expectation import expect, expect_close, expect_equal, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.space.rows import (
    compared,
    compared_with_leaves,
    compares_rows,
    generic_rows,
    row_cases,
    some_rows,
)
from dskd_components.testing.strategies.batches import make_batch, with_example_columns
from dskd_components.testing.strategies.logits import SEEDS

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distance import Distance
    from dskd_components.components.space import Space
    from dskd_components.loss.output import DSKDOutput
    from dskd_components.models.states import Side
    from dskd_components.testing.strategies.batches import Batch


PER_ROW: Final = ("values", "keep", "eligible")
"""The parts of a term that have an entry for each row."""


@law("space", cases=row_cases(), claimed_by=compares_rows)
def terms_are_one_finite_number_a_row(space: Space, rows: ComparedRows) -> None:
    """Each term has a finite number for each row, none of them negative, and flags for each row if it has any.

    Masking, weighting and dividing come after it.
    """
    result = compared(space, rows)
    count = len(rows.targets)
    expect(bool(result.terms), "terms: expected at least one, found none.")
    declared = sorted(space.terms) in ([], sorted(result.terms))
    expect(declared, f"terms: expected those that the class declares, {space.terms}, found {list(result.terms)}.")
    for name, term in result.terms.items():
        expect(name not in OF_STUDENT, f"terms: the name {name!r} is one of the student's own; expected another.")
        expect(
            term.values.shape == (count,), f"the term {name!r}: expected [{count}], found {list(term.values.shape)}."
        )
        expect_finite(term.values, f"the term {name!r}")
        expect(term.values >= 0, f"the term {name!r}: expected no negative numbers, found {term.values.min():.4g}.")
        expect(
            term.denominator in get_args(Denominator), f"the term {name!r}: unknown denominator {term.denominator!r}."
        )
        expect(term.weight >= 0, f"the term {name!r}: expected a weight of 0 or more, found {term.weight}.")
        for part in PER_ROW[1:]:
            flags: Tensor | None = getattr(term, part)
            right = flags is None or (flags.shape == (count,) and flags.dtype == torch.bool)
            expect(right, f"the term {name!r}: expected {part} to be None or bool [{count}].")


@law("space", cases=row_cases(), claimed_by=compares_rows)
def rows_are_independent(space: Space, rows: ComparedRows) -> None:
    """A row's numbers are the same whichever rows are beside it.

    The loss may hand a space a few rows at a time; a batch equals its micro-batches.
    """
    together = compared(space, rows)
    for row in range(len(rows.targets)):
        alone = compared(space, some_rows(rows, slice(row, row + 1)))
        expect(
            alone.terms.keys() == together.terms.keys(), f"terms: expected {list(together.terms)} for one row as well."
        )
        for name, term in together.terms.items():
            for part in PER_ROW:
                found, expected = getattr(alone.terms[name], part), getattr(term, part)
                if expected is not None:
                    expect_close(found[0], expected[row], f"{part} of the term {name!r} for row {row} alone")


def _reads_no_logits(space: Space) -> bool:
    return compares_rows(space) and not space.reads_logits


@law("space", cases=row_cases(), claimed_by=_reads_no_logits, at_most=10)
def logits_are_not_read(space: Space, rows: ComparedRows) -> None:
    """The terms are the same where logits have a shape, and no values.

    Claimed by a ``reads_logits`` that is False. Where heads are cut over ranks, no rank has the logits of a row.
    """
    expected = compared(space, rows).terms
    shapes: dict[str, Any] = {
        f"{side}_logits": torch.empty(getattr(rows, f"{side}_logits").shape, device="meta")
        for side in ("student", "teacher")
    }
    without = _RowsWithoutLogits(
        **shapes,
        targets=rows.targets,
        teacher_argmax=rows.teacher_argmax,
        measure=rows.measure,
        shared_tokens=rows.shared_tokens,
        columns=rows.columns,
        asked=rows,
    )
    try:
        terms = compared(space, without, at=rows.student_logits.device).terms
        found = {name: term.values.detach().cpu() for name, term in terms.items()}
    except (NotImplementedError, RuntimeError) as error:
        expect(False, f"logits: expected that nobody reads them, found that somebody does ({error}).")
        raise
    for name, values in found.items():
        expect_close(values, expected[name].values.detach().cpu(), f"the term {name!r} where logits have no values")


@dataclass(frozen=True, eq=False, kw_only=True)
class _RowsWithoutLogits(ComparedRows):
    """Rows whose logits have no values.

    Args:
        asked: the same rows with logits, for who asks rightly.
    """

    asked: ComparedRows

    def divergence(self, distance: Distance | None, *, detach_teacher: bool = False) -> Tensor:
        """Return ``[N]``: the distance of each row."""
        return self.asked.divergence(distance, detach_teacher=detach_teacher)

    def cross_entropy(self, side: Side, targets: Tensor) -> Tensor:
        """Return ``[N]``: the cross entropy of each row."""
        return self.asked.cross_entropy(side, targets)

    def predicted(self, side: Side) -> Tensor:
        """Return ``[N]``, int64: the most likely token of each row."""
        return self.asked.predicted(side)


@law("space", cases=row_cases(), claimed_by=compares_rows, at_most=5)
def no_rows_no_values(space: Space, rows: ComparedRows) -> None:
    """No rows give terms without values, and no error.

    A batch in which nothing is covered is an ordinary one.
    """
    for name, term in compared(space, some_rows(rows, slice(0, 0))).terms.items():
        expect(term.values.shape == (0,), f"the term {name!r}: expected shape [0], found {list(term.values.shape)}.")


@law("space", cases=row_cases(), claimed_by=compares_rows)
def finite_gradients(space: Space, rows: ComparedRows) -> None:
    """Gradients of both logits are finite.

    A finite value may have a NaN gradient.
    """
    result, leaves = compared_with_leaves(space, rows)
    for name, term in result.terms.items():
        for side, gradient in _gradients(term.values, leaves).items():
            expect_finite(gradient, f"the gradient of the {side}'s logits by the term {name!r}")


TRIES: Final = 10
"""How many batches are looked at before a gradient counts as missing: a filter may leave out all of one batch."""


@law("space", cases=lambda _: st.fixed_dictionaries({"seed": SEEDS}), claimed_by=compares_rows, at_most=5)
def a_gradient_reaches_a_model(space: Space, seed: int) -> None:
    """Where both sides differ, some term has a gradient for the logits of a side.

    In some of several batches. A space without one measures and trains nothing.
    """
    for number in range(TRIES):
        result, leaves = compared_with_leaves(space, generic_rows(space, seed + number))
        for term in result.terms.values():
            if any(bool(gradient.any()) for gradient in _gradients(term.values, leaves).values()):
                return
    expect(False, "gradients: expected some, found zeros in every term of several batches.")


@law("space", cases=row_cases(), claimed_by=compares_rows)
def rows_are_not_changed(space: Space, rows: ComparedRows) -> None:
    """The logits, targets and choices that a space is given are as they were.

    The other spaces read them next.
    """
    tensors = {name: tensor for name, tensor in vars(rows).items() if isinstance(tensor, torch.Tensor)}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    compared(space, rows)
    for name, tensor in tensors.items():
        expect_equal(tensor, before[name], f"rows.{name} after comparing")


@law("space", cases=row_cases(), claimed_by=compares_rows)
def the_same_rows_give_the_same_terms(space: Space, rows: ComparedRows) -> None:
    """Compared twice, the same rows give the same terms and metrics.

    Randomness inside would make runs that nobody can repeat.
    """
    first, second = compared(space, rows), compared(space, rows)
    for name, term in first.terms.items():
        expect_equal(second.terms[name].values, term.values, f"the term {name!r} at the second call")
    for name, tally in first.metrics.items():
        expect_equal(second.metrics[name].mean(), tally.mean(), f"the metric {name!r} at the second call")


def _gradients(values: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    if not values.requires_grad:
        return {side: torch.zeros_like(leaf) for side, leaf in leaves.items()}
    found = torch.autograd.grad(
        values.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True, retain_graph=True
    )
    return dict(zip(leaves, found, strict=True))


@law("space", cases=lambda _: st.fixed_dictionaries({"seed": SEEDS}), at_most=5)
def the_student_learns_in_the_loss(space: Space, seed: int) -> None:
    """In a loss of this space alone, the student's hidden states have finite gradients, some of them not zero.

    With one tokenizer, or with groups of tokens for one that combines them, and the default distance.
    """
    for number in range(TRIES):
        same_tokenizer = compares_rows(space)
        drawn = make_batch(seed + number, same_tokenizer=same_tokenizer, student_vocabulary=4)
        batch = with_example_columns(drawn, [space])
        out, hidden_states = _loss(space, batch, "identity" if same_tokenizer else "span")
        (gradient,) = torch.autograd.grad(out.loss, hidden_states)
        expect_finite(gradient, "the gradient of the student's hidden states")
        if gradient.any():
            return
    expect(False, "the gradient of the student's hidden states: expected some, found zeros in several batches.")


def _loss(space: Space, batch: Batch, aligner: str) -> tuple[DSKDOutput, Tensor]:
    student, teacher = batch.student, batch.teacher
    # All of the loss comes from the space: the student's own cross entropy weighs nothing.
    spec = DSKDSpec(spaces=(space,), kd_rate=1.0, aligner=aligner)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss_fn = DSKDLoss(
            spec,
            student_hidden_size=student.head.hidden_size,
            teacher_hidden_size=teacher.head.hidden_size,
            student_head=student.head,
            teacher_head=teacher.head,
        ).double()
    hidden_states = student.hidden_states.clone().requires_grad_()
    return replace(batch, student=replace(student, hidden_states=hidden_states)).loss(loss_fn), hidden_states
