"""Laws of spaces that combine groups: what they make of rows, of sums over groups, and of a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from hypothesis import strategies as st

from dskd_components.components.column_reader import columns_read_by
from dskd_components.components.group_space import ComparedGroups, GroupRows, GroupSpace
from dskd_components.components.space import Measure
from dskd_components.components.terms import Denominator
from dskd_components.distances.kl import KL
from dskd_components.testing.expectation import expect, expect_close, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.building import batch_and_loss, built_space, found_by, heads_of, loss_of, seeds
from dskd_components.testing.laws.component import expect_effects, one_case
from dskd_components.testing.strategies.logits import FINITE, SEEDS, logits, normal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.components.space import SpaceResult
    from dskd_components.models.states import Side

PER_GROUP = ("values", "keep", "eligible")
"""The parts of a term that have an entry for each group."""


def combines_groups(space: Any) -> bool:
    """Return whether a space combines groups, rather than comparing rows."""
    return isinstance(space, GroupSpace)


def _has_distances(space: Any) -> bool:
    return combines_groups(space) and bool(space.distance_terms)


def _with_columns(rows: GroupRows, space: GroupSpace) -> GroupRows:
    """Return rows with the columns that a space reads, as its `ColumnReader.example_column` makes them."""
    at = rows.side if space.projector is None else space.side
    names = columns_read_by(space, at)
    return replace(rows, columns={name: space.example_column(name, rows.targets) for name in names}) if names else rows


@st.composite
def group_rows(draw: st.DrawFn) -> GroupRows:
    """Rows of either side at a temperature of 1 or 2.

    Args:
        draw: given by hypothesis.
    """
    found = draw(logits(tempers=FINITE))
    rows, vocabulary = found.shape
    tokens = draw(st.lists(st.integers(0, vocabulary - 1), min_size=rows, max_size=rows))
    sides: tuple[Side, ...] = ("student", "teacher")
    side, temperature = draw(st.sampled_from(sides)), draw(st.sampled_from([1.0, 2.0]))
    return GroupRows(side=side, logits=found, targets=torch.tensor(tokens), temperature=temperature)


def _row_cases(space: Any) -> st.SearchStrategy[Mapping[str, Any]]:
    return st.fixed_dictionaries({"rows": group_rows().map(lambda drawn: _with_columns(drawn, space))})


def _some(rows: GroupRows, which: slice) -> GroupRows:
    columns = {name: column[which] for name, column in rows.columns.items()}
    return replace(rows, logits=rows.logits[which], targets=rows.targets[which], columns=columns)


@law("space", cases=_row_cases, claimed_by=combines_groups)
def row_values_are_independent(space: GroupSpace, rows: GroupRows) -> None:
    """Each row gives one finite number, or as many as the others, and the same whichever rows are beside it.

    None at all give none. The rows of a group may come a few at a time.
    """
    together = space.row_values(rows)
    count = len(rows.targets)
    right = together.ndim in (1, 2) and len(together) == count
    expect(right, f"row_values: expected [{count}] or [{count}, C], found {list(together.shape)}.")
    expect_finite(together, "row_values")
    empty = list(space.row_values(_some(rows, slice(0, 0))).shape)
    expect(empty == [0, *together.shape[1:]], f"row_values of no rows: expected no values, found {empty}.")
    for row in range(count):
        alone = space.row_values(_some(rows, slice(row, row + 1)))
        expect_close(alone[0], together[row], f"row_values of row {row} alone")


@law("space", cases=_row_cases, claimed_by=_has_distances, at_most=20)
def temperatures_divide_logits_of_rows(space: GroupSpace, rows: GroupRows) -> None:
    """Logits at a temperature give the numbers that logits divided by it give at temperature 1.

    Claimed by ``distance_terms``. A temperature that is ignored, or applied twice, breaks this.
    """
    for temperature in (1.5, 3.0):
        hot = replace(rows, temperature=temperature)
        divided = replace(rows, logits=rows.logits / temperature, temperature=1.0)
        expect_close(space.row_values(hot), space.row_values(divided), f"row_values at temperature {temperature:g}")


def generic_groups(space: GroupSpace, seed: int, *, count: int = 5, scale: float = 1.0) -> ComparedGroups:
    """Return groups of some rows of random logits, summed as a space has it.

    Args:
        space: makes numbers of the rows.
        seed: the same seed gives the same groups.
        count: how many groups.
        scale: what distances are multiplied with.
    """
    measure = Measure(distance=KL(), temperature=2.0, teacher_temperature=1.5, scale=scale)
    sizes = {"student": torch.arange(count) % 3 + 1, "teacher": torch.arange(count) % 2 + 1}
    sums = {}
    for number, (side, of_side) in enumerate(sizes.items()):
        rows = int(of_side.sum())
        numbers = torch.arange(count).repeat_interleave(of_side)
        drawn = GroupRows(
            side="student" if side == "student" else "teacher",
            logits=2 * normal(seed + number, rows, 6),
            targets=(7 * torch.arange(rows) + seed) % 6,
            temperature=measure.temperature if side == "student" else measure.teacher_temperature,
        )
        values = space.row_values(_with_columns(drawn, space)).detach()
        sums[side] = values.new_zeros(count, *values.shape[1:]).index_add(0, numbers, values)
    return ComparedGroups(
        student=sums["student"],
        teacher=sums["teacher"],
        student_sizes=sizes["student"],
        teacher_sizes=sizes["teacher"],
        measure=measure,
    )


def combined(space: GroupSpace, groups: ComparedGroups) -> SpaceResult:
    """Return what a space makes of groups, with what it builds, if that is anything."""
    return found_by(space, groups, built_space(space, heads_of(6, 6), groups.measure.distance))


def _one(groups: ComparedGroups, which: slice) -> ComparedGroups:
    parts = {name: getattr(groups, name)[which] for name in ("student", "teacher", "student_sizes", "teacher_sizes")}
    return replace(groups, **parts)


@law("space", cases=seeds, claimed_by=combines_groups, at_most=20)
def group_terms_are_one_finite_number_a_group(space: GroupSpace, seed: int) -> None:
    """Each term has a finite number for each group, none of them negative, and flags for each group if it has any.

    Weighting and dividing come after it. The names are those that are declared.
    """
    groups = generic_groups(space, seed)
    result, count = combined(space, groups), len(groups.student_sizes)
    declared = sorted(space.terms) in ([], sorted(result.terms))
    expect(bool(result.terms) and declared, f"terms: expected {space.terms or 'some'}, found {list(result.terms)}.")
    for name, term in result.terms.items():
        shape = list(term.values.shape)
        expect(shape == [count], f"the term {name!r}: expected [{count}], found {shape}.")
        expect_finite(term.values, f"the term {name!r}")
        expect(term.values >= 0, f"the term {name!r}: expected no negative numbers, found {term.values.min():.4g}.")
        expect(term.weight >= 0, f"the term {name!r}: expected a weight of 0 or more, found {term.weight}.")
        expect(term.denominator in get_args(Denominator), f"the term {name!r}: unknown denominator.")
        for part in PER_GROUP[1:]:
            flags = getattr(term, part)
            right = flags is None or (flags.shape == (count,) and flags.dtype == torch.bool)
            expect(right, f"the term {name!r}: expected {part} to be None or bool [{count}].")


@law("space", cases=seeds, claimed_by=combines_groups, at_most=20)
def groups_are_independent(space: GroupSpace, seed: int) -> None:
    """A group's numbers are the same whichever groups are beside it; no groups have none. Metrics add up.

    So a batch equals its micro-batches.
    """
    groups = generic_groups(space, seed)
    together = combined(space, groups)
    singles = [combined(space, _one(groups, slice(number, number + 1))) for number in range(len(groups.student_sizes))]
    for name, term in together.terms.items():
        for part in PER_GROUP:
            expected = getattr(term, part)
            if expected is not None:
                found = torch.cat([getattr(single.terms[name], part) for single in singles])
                expect_close(found, expected, f"{part} of the term {name!r}, group by group")
    for name, tally in together.metrics.items():
        for part in ("total", "count"):
            found = torch.stack([getattr(single.metrics[name], part).double() for single in singles]).sum()
            expect_close(found, getattr(tally, part).double(), f"the {part} of the metric {name!r}, group by group")
    for name, term in combined(space, _one(groups, slice(0, 0))).terms.items():
        expect(term.values.shape == (0,), f"the term {name!r} of no groups: found shape {list(term.values.shape)}.")


@law("space", cases=seeds, claimed_by=_has_distances, at_most=20)
def zero_where_both_sides_add_up_to_the_same(space: GroupSpace, seed: int) -> None:
    """Where both sides' rows of a group add up to the same, a distance is 0.

    Claimed by ``distance_terms``.
    """
    groups = generic_groups(space, seed)
    same = replace(groups, teacher=groups.student.clone(), teacher_sizes=groups.student_sizes)
    terms = combined(space, same).terms
    for name in space.distance_terms:
        expect(name in terms, f"distance_terms: expected a term {name!r}, found {list(terms)}.")
        values = terms[name].values.detach()
        expect_close(values, torch.zeros_like(values), f"the term {name!r} where both sides are the same", atol=1e-6)


@law("space", cases=seeds, claimed_by=_has_distances, at_most=20)
def the_scale_of_groups_is_applied_once(space: GroupSpace, seed: int) -> None:
    """A distance is multiplied with ``measure.scale``, once.

    Claimed by ``distance_terms``. The scale makes up for the temperature in the gradient.
    """
    plain, scaled = (combined(space, generic_groups(space, seed, scale=scale)).terms for scale in (1.0, 3.0))
    for name in space.distance_terms:
        expect_close(scaled[name].values, 3 * plain[name].values, f"the term {name!r} at a scale of 3", atol=1e-7)


@law("space", cases=seeds, claimed_by=combines_groups, at_most=3)
def the_layout_of_a_batch_changes_no_group(space: GroupSpace, seed: int) -> None:
    """Padded, packed, or split into its samples, a batch has the same sum of terms and the same gradients.

    Groups that were mixed over samples, and padding that takes part, show here.
    """
    batch, loss_fn = batch_and_loss(space, seed)
    loss_fn = loss_of(loss_fn.spec.replace(reduction="sum"), batch, seed)
    hidden_states = batch.student.hidden_states.clone().requires_grad_()
    whole = replace(batch, student=replace(batch.student, hidden_states=hidden_states))
    samples = [whole.rows(slice(row, row + 1)) for row in range(len(batch.student.targets))]
    losses = {
        "as it is": whole.loss(loss_fn).loss,
        "padded": whole.padded((1, 2), (3, 0), garbage=7.0).loss(loss_fn).loss,
        "packed": whole.packed().loss(loss_fn).loss,
        "split into its samples": torch.stack([sample.loss(loss_fn).loss for sample in samples]).sum(),
    }
    gradients = {how: torch.autograd.grad(loss, hidden_states)[0] for how, loss in losses.items()}
    for how, loss in losses.items():
        expect_close(loss, losses["as it is"], f"the loss of the batch, {how}")
        expect_close(gradients[how], gradients["as it is"], f"the gradient of the student's states, {how}")


@law("space", cases=lambda _: st.fixed_dictionaries({"seed": SEEDS}), claimed_by=combines_groups, at_most=3)
def sums_and_logits_are_not_changed(space: GroupSpace, seed: int) -> None:
    """What a space is given is as it was, and gives the same again.

    The other spaces read it next.
    """
    groups = generic_groups(space, seed)
    drawn = GroupRows(side="student", logits=normal(seed, 3, 5), targets=torch.tensor([0, 4, 2]), temperature=2.0)
    rows = _with_columns(drawn, space)
    tensors = {"logits": rows.logits, "targets": rows.targets, "student": groups.student, "teacher": groups.teacher}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    firsts = [_values(space, rows, groups) for _ in range(2)]
    for name, tensor in tensors.items():
        expect_close(tensor, before[name], f"{name} after the calls")
    for again, first in zip(firsts[1], firsts[0], strict=True):
        expect_close(again, first, "what the second call gives")


def _values(space: GroupSpace, rows: GroupRows, groups: ComparedGroups) -> list[Tensor]:
    return [space.row_values(rows), *(term.values for term in combined(space, groups).terms.values())]


@law("space", cases=one_case, claimed_by=combines_groups, at_most=1)
def options_of_groups_have_an_effect(space: GroupSpace) -> None:
    """Another value of an option gives other numbers, weights, or gradients.

    An option that does nothing has been forgotten, or lost on the way.
    """

    def observed(other: GroupSpace) -> list[Any]:
        seen: list[Any] = [other.side, other.projector]
        for seed in range(3):
            groups = generic_groups(other, seed)
            leaves = {name: getattr(groups, name).requires_grad_() for name in ("student", "teacher")}
            result = combined(other, groups)
            seen += leaves.values()
            for name, term in result.terms.items():
                seen += [name, term.weight, term.denominator, term.widen_above]
                seen += [getattr(term, part) for part in PER_GROUP]
                if term.values.requires_grad:
                    seen += torch.autograd.grad(
                        term.values.sum(), list(leaves.values()), materialize_grads=True, retain_graph=True
                    )
            seen += [part for tally in result.metrics.values() for part in (tally.total, tally.count)]
        return seen

    expect_effects(space, observed)
