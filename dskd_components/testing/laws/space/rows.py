"""Rows for a space to compare: logits of both models, targets, the teacher's choice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st

from dskd_components.contracts.space import ComparedRows, Measure
from dskd_components.distances.kl import KL
from dskd_components.states import IGNORE_INDEX
from dskd_components.testing.strategies.logits import pairs_of_logits

if TYPE_CHECKING:
    from dskd_components.contracts.space import Space, SpaceResult
    from dskd_components.testing.law import Cases


@st.composite
def compared_rows(draw: st.DrawFn, *, teacher_choice: bool) -> ComparedRows:
    """Rows with logits over one vocabulary, float64, at a temperature of 1 or 2.

    Args:
        draw: given by hypothesis.
        teacher_choice: whether the teacher's own choice is given.
    """
    student, teacher = draw(pairs_of_logits())
    rows, vocabulary = student.shape
    tokens = st.lists(st.integers(0, vocabulary - 1), min_size=rows, max_size=rows)
    choices = st.lists(st.sampled_from([*range(vocabulary), IGNORE_INDEX]), min_size=rows, max_size=rows)
    return ComparedRows(
        student_logits=student,
        teacher_logits=teacher,
        targets=torch.tensor(draw(tokens)),
        teacher_choice=torch.tensor(draw(choices)) if teacher_choice else None,
        measure=Measure(
            distance=KL(),
            temperature=draw(st.sampled_from([1.0, 2.0])),
            teacher_temperature=draw(st.sampled_from([1.0, 2.0])),
        ),
    )


def row_cases(**others: st.SearchStrategy[Any]) -> Cases:
    """Cases of ``rows`` that the space can be given, and further arguments.

    Args:
        **others: strategies of the further arguments.
    """
    return lambda space: st.fixed_dictionaries(
        {"rows": compared_rows(teacher_choice=space.needs_teacher_choice), **others}
    )


def some_rows(rows: ComparedRows, which: slice) -> ComparedRows:
    """Return some of the rows."""
    choice = rows.teacher_choice
    return replace(
        rows,
        student_logits=rows.student_logits[which],
        teacher_logits=rows.teacher_logits[which],
        targets=rows.targets[which],
        teacher_choice=None if choice is None else choice[which],
    )


def compared_with_leaves(space: Space, rows: ComparedRows) -> tuple[SpaceResult, dict[str, torch.Tensor]]:
    """Return what a space finds, with both logits as leaves of the graph."""
    leaves = {
        side: getattr(rows, f"{side}_logits").detach().clone().requires_grad_() for side in ("student", "teacher")
    }
    with_leaves = replace(rows, student_logits=leaves["student"], teacher_logits=leaves["teacher"])
    return space.compare(with_leaves), leaves
