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
        InputError: tokens or labels of the student or the teacher are missing.

    Examples:
        >>> batch = {"student_input_ids": 1, "student_labels": 2, "large_input_ids": 3, "large_labels": 4}
        >>> columns_of_pair(batch, "large", same_tokenizer=False)
        {'student_input_ids': 1, 'student_labels': 2, 'teacher_input_ids': 3, 'teacher_labels': 4}
    """
    student, own = _columns(batch, "student"), _columns(batch, name)
    _require_tokens(batch, "student", student)
    if own or not same_tokenizer:
        _require_tokens(batch, name, own)
    of_pair = {f"student_{column}": value for column, value in student.items()}
    if f"groups_{name}" in student:
        of_pair["student_groups"] = student[f"groups_{name}"]
    return of_pair | {f"teacher_{column}": value for column, value in (own or student).items()}


def _columns(batch: Mapping[str, Column], model: str) -> dict[str, Column]:
    prefix = f"{model}_"
    return {column.removeprefix(prefix): value for column, value in batch.items() if column.startswith(prefix)}


def _require_tokens(batch: Mapping[str, Column], model: str, columns: Mapping[str, Column]) -> None:
    for column in ("input_ids", "labels"):
        if column not in columns:
            raise InputError(
                f"The batch has no column '{model}_{column}'; it has {', '.join(map(repr, batch)) or 'none'}. Collate "
                "with MultiTeacherCollator, which needs a tokenizer for each teacher of the loss, under the same name."
            )


def _of_several(column: str, name: str) -> str:
    if column == "student_groups":
        return f"student_groups_{name}"
    return name + column.removeprefix("teacher") if column.startswith("teacher_") else column
