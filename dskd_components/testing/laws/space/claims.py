"""Laws about what a space compares: distributions, at which temperatures, of which tokens; and about its options."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st

from dskd_components.components.space import ComparedRows, Measure, SharedTokens
from dskd_components.distances.kl import KL
from dskd_components.testing.expectation import expect, expect_close
from dskd_components.testing.law import law
from dskd_components.testing.laws.component import expect_effects, one_case
from dskd_components.testing.laws.space.rows import (
    compared,
    compared_with_leaves,
    compares_rows,
    generic_rows,
    row_cases,
    some_rows,
)
from dskd_components.testing.strategies.logits import SEEDS, normal

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.space import Space, SpaceResult
    from dskd_components.components.terms import Tally


def _has_distances(space: Space) -> bool:
    return compares_rows(space) and bool(space.distance_terms)


def _treats_tokens_alike(space: Space) -> bool:
    alike = [space.treats_tokens_alike, *(distance.treats_tokens_alike for distance in space.distances(KL()))]
    return compares_rows(space) and all(alike)


def _has_distances_that_treat_tokens_alike(space: Space) -> bool:
    return _has_distances(space) and _treats_tokens_alike(space)


@law("space", cases=lambda _: st.fixed_dictionaries({"seed": SEEDS}), claimed_by=_has_distances)
def zero_at_equality(space: Space, seed: int) -> None:
    """Where both sides say the same of the tokens that are compared, a distance is 0.

    Claimed by ``distance_terms``. Of two vocabularies, the shared tokens are compared, whatever else either side has:
    each has its probability among them. A renormalisation that is missing breaks this, and ids that are mixed up.
    """
    rows = generic_rows(space, seed)
    ids = rows.shared_tokens
    teacher = rows.teacher_logits.clone()
    if ids is None:
        teacher = rows.student_logits + normal(seed + 2, len(teacher), 1)
    else:
        teacher[:, ids.teacher_ids] = rows.student_logits[:, ids.student_ids] + normal(seed + 2, len(teacher), 1)
    for name, values in _distances(space, replace(rows, teacher_logits=teacher)).items():
        expect_close(values, torch.zeros_like(values), f"the term {name!r} where both say the same", atol=1e-6)


@law(
    "space",
    cases=row_cases(
        tempers=("ordinary", "generic"), temperatures=st.sampled_from([(1.0, 2.0), (3.0, 1.0), (2.0, 2.0)])
    ),
    claimed_by=_has_distances,
)
def temperatures_divide_logits(space: Space, rows: ComparedRows, temperatures: tuple[float, float]) -> None:
    """Logits at temperatures give the distances that logits divided by them give at temperature 1.

    Claimed by ``distance_terms``. A temperature that is ignored or exchanged breaks this.
    """
    student, teacher = temperatures
    measure = Measure(distance=KL(), temperature=student, teacher_temperature=teacher, scale=rows.measure.scale)
    divided = replace(
        rows,
        student_logits=rows.student_logits / student,
        teacher_logits=rows.teacher_logits / teacher,
        measure=replace(measure, temperature=1.0, teacher_temperature=1.0),
    )
    expected = _distances(space, divided)
    for name, values in _distances(space, replace(rows, measure=measure)).items():
        expect_close(
            values, expected[name], f"the term {name!r} at temperatures {student:g} and {teacher:g}", atol=1e-7
        )


@law("space", cases=row_cases(tempers=("ordinary", "generic")), claimed_by=_has_distances)
def the_scale_is_applied_once(space: Space, rows: ComparedRows) -> None:
    """A distance is multiplied with ``measure.scale``, once.

    Claimed by ``distance_terms``. The scale makes up for the temperature in the gradient.
    """
    plain, scaled = (
        _distances(space, replace(rows, measure=replace(rows.measure, scale=scale))) for scale in (1.0, 3.0)
    )
    for name, values in scaled.items():
        expect_close(values, 3.0 * plain[name], f"the term {name!r} at a scale of 3", atol=1e-7)


@law(
    "space",
    cases=row_cases(columns=st.integers(1, 3)),
    claimed_by=_has_distances_that_treat_tokens_alike,
    at_most=20,
)
def tokens_that_cannot_occur_count_for_nothing(space: Space, rows: ComparedRows, columns: int) -> None:
    """Tokens that neither side can say change no distance.

    Claimed by ``distance_terms`` and ``treats_tokens_alike``. A mean over the vocabulary breaks this.
    """
    # Far below any logit that is drawn, and finite, so that differences of logits stay numbers.
    never = torch.full((len(rows.targets), columns), -1e6, dtype=rows.student_logits.dtype)
    ids = rows.shared_tokens
    if ids is not None:
        sizes, new = (rows.student_logits.shape[1], rows.teacher_logits.shape[1]), torch.arange(columns)
        ids = SharedTokens(
            student_ids=torch.cat([ids.student_ids, sizes[0] + new]),
            teacher_ids=torch.cat([ids.teacher_ids, sizes[1] + new]),
        )
    mapped = rows.teacher_to_student
    if mapped is not None:
        mapped = torch.cat([mapped, rows.student_logits.shape[1] + torch.arange(columns)])
    wide = replace(
        rows,
        student_logits=torch.cat([rows.student_logits, never], 1),
        teacher_logits=torch.cat([rows.teacher_logits, never], 1),
        shared_tokens=ids,
        teacher_to_student=mapped,
    )
    expected = _distances(space, rows)
    for name, values in _distances(space, wide).items():
        expect_close(values, expected[name], f"the term {name!r} with tokens that cannot occur", rtol=1e-6, atol=1e-7)


@law("space", cases=row_cases(tempers=("ordinary", "generic", "peaked")), claimed_by=_treats_tokens_alike)
def token_numbers_do_not_matter(space: Space, rows: ComparedRows) -> None:
    """Numbering the tokens otherwise, alike wherever they are named, changes no term.

    Claimed by ``treats_tokens_alike``. Token ids are names. One that takes columns by their place breaks this; so does
    one that pairs shared tokens by it.
    """
    sizes = rows.student_logits.shape[1], rows.teacher_logits.shape[1]
    student, teacher = (torch.arange(size).roll(1) for size in sizes)
    own, other = student.argsort(), teacher.argsort()
    ids = rows.shared_tokens
    if ids is not None:
        order = torch.arange(len(ids.student_ids)).roll(1)
        ids = SharedTokens(student_ids=own[ids.student_ids][order], teacher_ids=other[ids.teacher_ids][order])
    mapped = rows.teacher_to_student
    if mapped is not None:
        mapped = own[mapped.clamp_min(0)].where(mapped >= 0, -1)[teacher]
    of_side = own if space.side == "student" else other
    renumbered = replace(
        rows,
        student_logits=rows.student_logits[:, student],
        teacher_logits=rows.teacher_logits[:, teacher],
        targets=_renumbered(rows.targets, of_side),
        teacher_argmax=None if rows.teacher_argmax is None else _renumbered(rows.teacher_argmax, of_side),
        shared_tokens=ids,
        teacher_to_student=mapped,
    )
    _expect_same_terms(
        compared(space, renumbered), compared(space, rows), "with the tokens numbered otherwise", _untied(rows)
    )


@law("space", cases=row_cases(), claimed_by=compares_rows, at_most=20)
def metrics_add_up_over_rows(space: Space, rows: ComparedRows) -> None:
    """The sums and counts of the metrics of all rows are those of single rows, added up.

    So a log over micro-batches and ranks is that of the whole. A mean in place of a sum breaks this.
    """
    together = compared(space, rows).metrics
    singles = [compared(space, some_rows(rows, slice(row, row + 1))).metrics for row in range(len(rows.targets))]
    for name, tally in together.items():
        of_rows: list[Tally] = [single[name] for single in singles]
        for part in ("total", "count"):
            found = sum((getattr(one, part).double() for one in of_rows), torch.zeros((), dtype=torch.float64))
            expect_close(found, getattr(tally, part).double(), f"the {part} of the metric {name!r}, row by row")


@law("space", cases=row_cases(), claimed_by=compares_rows, at_most=5)
def everything_is_made_where_the_rows_are(space: Space, rows: ComparedRows) -> None:
    """Tensors that a space makes are on the device of the rows, whatever the default device is.

    One made on the default device fails as soon as the models are elsewhere. No accelerator is needed to try it.
    """
    try:
        with torch.device("meta"):
            found = compared(space, rows)
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(f"with another default device than that of the rows: {error}") from error
    made = {f"{part} of the term {name!r}": getattr(term, part) for name, term in found.terms.items() for part in PARTS}
    made |= {f"the metric {name!r}": tally.mean() for name, tally in found.metrics.items()}
    for name, tensor in made.items():
        expected = rows.student_logits.device
        right = tensor is None or tensor.device == expected
        expect(right, f"{name}: expected {expected}, as the rows, found {getattr(tensor, 'device', None)}.")


PARTS = ("values", "keep", "eligible")
"""The parts of a term that are tensors."""


@law("space", cases=one_case, claimed_by=compares_rows, at_most=1)
def options_have_an_effect(space: Space) -> None:
    """Another value of an option gives other terms, or asks for something else.

    An option that does nothing has been forgotten, or lost on the way.
    """

    def observed(other: Space) -> list[Any]:
        seen: list[Any] = [other.side, other.projector, other.one_vocabulary]
        seen += [other.needs_teacher_argmax, other.needs_shared_tokens, other.needs_vocabulary_map]
        seen += [other.min_shared_tokens, other.needs_hard_alignment]
        for seed in range(3):
            result, leaves = compared_with_leaves(other, generic_rows(other, 10 * seed))
            for name, term in result.terms.items():
                seen += [
                    name,
                    term.weight,
                    term.denominator,
                    term.widen_above,
                    *(getattr(term, part) for part in PARTS),
                ]
                if term.values.requires_grad:
                    seen += torch.autograd.grad(
                        term.values.sum(),
                        list(leaves.values()),
                        allow_unused=True,
                        materialize_grads=True,
                        retain_graph=True,
                    )
            seen += [part for tally in result.metrics.values() for part in (tally.total, tally.count)]
        return seen

    expect_effects(space, observed)


def _distances(space: Space, rows: ComparedRows) -> dict[str, Tensor]:
    terms = compared(space, rows).terms
    for name in space.distance_terms:
        expect(name in terms, f"distance_terms: expected a term {name!r}, found {list(terms)}.")
    return {name: terms[name].values.detach() for name in space.distance_terms}


def _renumbered(tokens: Tensor, places: Tensor) -> Tensor:
    return torch.where(tokens >= 0, places[tokens.clamp_min(0) % len(places)], tokens)


def _untied(rows: ComparedRows) -> Tensor:
    """Return ``[N]``, bool: rows whose most likely token is one on either side; of several, any may be chosen."""
    sides = (rows.student_logits, rows.teacher_logits)
    alone: Tensor = torch.stack([(side == side.amax(-1, keepdim=True)).sum(-1) == 1 for side in sides]).all(0)
    return alone


def _expect_same_terms(found: SpaceResult, expected: SpaceResult, where: str, rows: Tensor) -> None:
    for name, term in expected.terms.items():
        for part in PARTS:
            wanted, got = getattr(term, part), getattr(found.terms[name], part)
            if wanted is not None:
                expect_close(got[rows], wanted[rows], f"{part} of the term {name!r}, {where}", rtol=1e-6, atol=1e-7)
