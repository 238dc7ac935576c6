"""Rows for a space to compare: logits of both models, targets, the teacher's choice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st

from dskd_components.components.column_reader import columns_read_by
from dskd_components.components.group_space import GroupSpace
from dskd_components.components.space import ComparedRows, Measure, SharedTokens
from dskd_components.distances.kl import KL
from dskd_components.models.states import IGNORE_INDEX
from dskd_components.testing.laws.building import built_space, found_by, heads_of
from dskd_components.testing.strategies.logits import FINITE, Temper, logits, normal, pairs_of_logits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.components.space import Space, SpaceResult
    from dskd_components.testing.law import Cases


@st.composite
def compared_rows(draw: st.DrawFn, *, teacher_argmax: bool, tempers: tuple[Temper, ...] = FINITE) -> ComparedRows:
    """Rows with logits over one vocabulary, float64, at temperatures of 1 or 2 and a scale of 1 or 4.

    Args:
        draw: given by hypothesis.
        teacher_argmax: whether the teacher's own choice is given.
        tempers: as in `logits`.
    """
    student, teacher = draw(pairs_of_logits(tempers=tempers))
    rows, vocabulary = student.shape
    tokens = st.lists(st.integers(0, vocabulary - 1), min_size=rows, max_size=rows)
    choices = st.lists(st.sampled_from([*range(vocabulary), IGNORE_INDEX]), min_size=rows, max_size=rows)
    return ComparedRows(
        student_logits=student,
        teacher_logits=teacher,
        targets=torch.tensor(draw(tokens)),
        teacher_argmax=torch.tensor(draw(choices)) if teacher_argmax else None,
        measure=Measure(
            distance=KL(),
            temperature=draw(st.sampled_from([1.0, 2.0])),
            teacher_temperature=draw(st.sampled_from([1.0, 2.0])),
            scale=draw(st.sampled_from([1.0, 4.0])),
        ),
    )


@st.composite
def rows_of_two_vocabularies(
    draw: st.DrawFn, *, space: Space | None = None, tempers: tuple[Temper, ...] = FINITE
) -> ComparedRows:
    """Rows with logits over two vocabularies that share some tokens, one at least; temperatures as in `compared_rows`.

    Args:
        draw: given by hypothesis.
        space: what they are for; it is given what it asks for, and as many shared tokens as it needs. None: the shared
            tokens alone.
        tempers: as in `logits`.
    """
    least = 1 if space is None else max(space.min_shared_tokens, 1)
    sizes = st.integers(max(3, least), max(6, least))
    rows, student_size, teacher_size = draw(st.integers(1, 3)), draw(sizes), draw(sizes)
    shared = draw(st.integers(least, min(student_size, teacher_size)))
    student_ids, teacher_ids = (
        torch.tensor(draw(st.permutations(range(size)))[:shared]) for size in (student_size, teacher_size)
    )
    tokens = st.lists(st.integers(0, student_size - 1), min_size=rows, max_size=rows)
    return ComparedRows(
        student_logits=draw(logits(rows, student_size, tempers=tempers)),
        teacher_logits=draw(logits(rows, teacher_size, tempers=tempers)),
        targets=torch.tensor(draw(tokens)),
        teacher_argmax=None,
        measure=Measure(
            distance=KL(),
            temperature=draw(st.sampled_from([1.0, 2.0])),
            teacher_temperature=draw(st.sampled_from([1.0, 2.0])),
            scale=draw(st.sampled_from([1.0, 4.0])),
        ),
        **_of_vocabularies(space, student_ids, teacher_ids, teacher_size),
    )


def _of_vocabularies(
    space: Space | None, student_ids: torch.Tensor, teacher_ids: torch.Tensor, teacher_size: int
) -> dict[str, Any]:
    """What a space is told of two vocabularies that share some tokens."""
    mapped = torch.full((teacher_size,), -1).index_copy(0, teacher_ids, student_ids)
    return {
        "shared_tokens": SharedTokens(student_ids=student_ids, teacher_ids=teacher_ids)
        if space is None or space.needs_shared_tokens
        else None,
        "teacher_to_student": mapped if space is not None and space.needs_vocabulary_map else None,
    }


def row_cases(*, tempers: tuple[Temper, ...] = FINITE, **others: st.SearchStrategy[Any]) -> Cases:
    """Cases of ``rows`` that the space can be given, and further arguments.

    Args:
        tempers: as in `logits`.
        **others: strategies of the further arguments.
    """

    def of(space: Space) -> st.SearchStrategy[Mapping[str, Any]]:
        rows = (
            rows_of_two_vocabularies(space=space, tempers=tempers)
            if space.needs_shared_tokens or space.needs_vocabulary_map
            else compared_rows(teacher_argmax=space.needs_teacher_argmax, tempers=tempers)
        )
        return st.fixed_dictionaries({"rows": rows.map(lambda drawn: with_columns(drawn, space)), **others})

    return of


def with_columns(rows: ComparedRows, space: Space) -> ComparedRows:
    """Return rows with the columns that a space reads, as its `ColumnReader.example_column` makes them."""
    tokens = rows.targets.clamp_min(0)
    made = {name: space.example_column(name, tokens) for name in columns_read_by(space, space.side)}
    return replace(rows, columns=made) if made else rows


def some_rows(rows: ComparedRows, which: slice) -> ComparedRows:
    """Return some of the rows."""
    choice = rows.teacher_argmax
    return replace(
        rows,
        student_logits=rows.student_logits[which],
        teacher_logits=rows.teacher_logits[which],
        targets=rows.targets[which],
        teacher_argmax=None if choice is None else choice[which],
        columns={name: column[which] for name, column in rows.columns.items()},
    )


def compares_rows(space: Space) -> bool:
    """Return whether a space compares rows, rather than groups."""
    return not isinstance(space, GroupSpace)


def compared(space: Space, rows: ComparedRows, *, at: torch.device | None = None) -> SpaceResult:
    """Return what a space finds, with what it builds for such rows, if that is anything.

    Args:
        space: the space.
        rows: the rows.
        at: where it is built; None: where the logits are.
    """
    with torch.device(at or rows.student_logits.device):  # as a loss is moved to where the models are
        heads = heads_of(rows.student_logits.shape[1], rows.teacher_logits.shape[1], rows.shared_tokens)
        modules = built_space(space, heads, rows.measure.distance)
    return found_by(space, rows, modules)


def compared_with_leaves(space: Space, rows: ComparedRows) -> tuple[SpaceResult, dict[str, torch.Tensor]]:
    """Return what a space finds, with both logits as leaves of the graph."""
    leaves = {
        side: getattr(rows, f"{side}_logits").detach().clone().requires_grad_() for side in ("student", "teacher")
    }
    with_leaves = replace(rows, student_logits=leaves["student"], teacher_logits=leaves["teacher"])
    return compared(space, with_leaves), leaves


def generic_rows(space: Space, seed: int) -> ComparedRows:
    """Return eight rows of normally distributed logits that the space can be given, at temperature 1.

    Two vocabularies share four tokens, in an order of their own; the teacher's own choice is always given.
    """
    two = space.needs_shared_tokens or space.needs_vocabulary_map
    shared = torch.tensor([[4, 0, 5, 2], [1, 6, 3, 0]])
    student, teacher = normal(seed, 8, 7), normal(seed + 1, 8, 8 if two else 7)
    rows = ComparedRows(
        student_logits=2 * student,
        teacher_logits=2 * teacher,
        # Right for some rows and wrong for others, on either side.
        targets=torch.where(torch.arange(8) % 2 == 0, student.argmax(-1), teacher[:, :7].argmax(-1)),
        teacher_argmax=torch.where(torch.arange(8) % 3 == 0, IGNORE_INDEX, teacher[:, :7].argmax(-1)),
        measure=Measure(distance=KL()),
        **(_of_vocabularies(space, shared[0], shared[1], 8) if two else {}),
    )
    return with_columns(rows, space)
