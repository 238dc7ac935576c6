"""What the columns of a batch are called when there are several teachers.

The student's are ``student_input_ids`` and so on, as with one teacher. A teacher's begin with its name,
``large_input_ids``. Which of the student's tokens belong to which of a teacher's is said by the pair of columns
``student_groups_large`` and ``large_groups``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Column = TypeVar("Column")


def require_teacher_name(name: str) -> str:
    """Return a name once it is known that columns can begin with it.

    Args:
        name: of a teacher.

    Raises:
        InputError: they cannot.

    Examples:
        >>> require_teacher_name("large")
        'large'
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise InputError(f"expected a teacher's name of letters, digits and underscores, a letter first, got {name!r}")
    if name == "student" or name.startswith("student_"):
        raise InputError(f"a teacher cannot be called {name!r}: columns of that name are the student's")
    return name


def columns_of_several(by_teacher: Mapping[str, Mapping[str, Column]]) -> dict[str, Column]:
    """Return one batch for several teachers.

    Args:
        by_teacher: for each teacher the batch that the student and this teacher alone would have; the student's tokens
            are the same in all of them.

    Examples:
        >>> columns_of_several({"large": {"student_input_ids": 1, "student_groups": 2, "teacher_groups": 3}})
        {'student_input_ids': 1, 'student_groups_large': 2, 'large_groups': 3}
    """
    columns: dict[str, Column] = {}
    for name, batch in by_teacher.items():
        for column, value in batch.items():
            columns.setdefault(_of_several(column, name), value)
    return columns


def columns_of_pair(batch: Mapping[str, Column], name: str, *, same_tokenizer: bool) -> dict[str, Column]:
    """Return the columns that the student and one teacher read, under the names that they have with a single teacher.

    Args:
        batch: the columns of several teachers.
        name: of the teacher.
        same_tokenizer: whether the teacher may read the student's columns, if it has none of its own.

    Raises:
        InputError: the teacher's tokens or labels are missing.

    Examples:
        >>> batch = {"student_labels": 1, "large_labels": 2, "large_input_ids": 3, "code_labels": 4}
        >>> columns_of_pair(batch, "large", same_tokenizer=False)
        {'student_labels': 1, 'teacher_labels': 2, 'teacher_input_ids': 3}
    """
    student = {column: value for column, value in batch.items() if column.startswith("student_")}
    own = {column.removeprefix(name): value for column, value in batch.items() if column.startswith(f"{name}_")}
    if same_tokenizer and not own:
        own = {column.removeprefix("student"): value for column, value in student.items()}
    for column in ("_input_ids", "_labels"):
        if column not in own:
            raise InputError(
                f"The batch has no column {name + column!r}, which the teacher {name!r} needs; it has "
                f"{', '.join(map(repr, batch)) or 'none'}. Collate with MultiTeacherCollator, which needs "
                "a tokenizer for each teacher of the loss, under the same name."
            )
    groups = {"student_groups": batch[f"student_groups_{name}"]} if f"student_groups_{name}" in batch else {}
    return student | groups | {f"teacher{column}": value for column, value in own.items()}


def _of_several(column: str, name: str) -> str:
    if column == "student_groups":
        return f"student_groups_{name}"
    return name + column.removeprefix("teacher") if column.startswith("teacher_") else column
