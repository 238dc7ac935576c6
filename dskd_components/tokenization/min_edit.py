"""Minimum-edit alignment: dynamic time warping over the edit distances of tokens."""

from collections.abc import Sequence

import numpy as np

from dskd_components.errors import InputError
from dskd_components.tokenization.arrays import IntArray
from dskd_components.tokenization.byte_spans import TokenizedText
from dskd_components.tokenization.span_groups import role_pairs, single_groups
from dskd_components.tokenization.warping import warping_paths
from dskd_components.tokenization.warping_band import numbered_tokens


def min_edit_path(
    student_tokens: Sequence[str],
    teacher_tokens: Sequence[str],
    student_marker: str = "Ġ",
    teacher_marker: str = "▁",
) -> list[list[int]]:
    """For each student token, the teacher tokens that dynamic time warping joins it to.

    The cost of joining two tokens is their Levenshtein distance once each side's space marker is removed. Of
    several cheapest paths it is the one that the DSKD release takes.

    Args:
        student_tokens: The student's token strings ``[S]``.
        teacher_tokens: The teacher's token strings ``[T]``.
        student_marker: What marks a space in the student's tokens.
        teacher_marker: What marks a space in the teacher's tokens.

    Returns:
        One list per student token, ascending and never empty; empty lists if the teacher has no tokens.

    Raises:
        InputError: A side is one string instead of a sequence of tokens.

    Examples:
        >>> min_edit_path(["Know", "ledge", "Ġis"], ["▁Knowledge", "▁is"])
        [[0], [0], [1]]
    """
    (path,) = min_edit_paths([student_tokens], [teacher_tokens], student_marker, teacher_marker)
    return path


def min_edit_paths(
    student_token_lists: Sequence[Sequence[str]],
    teacher_token_lists: Sequence[Sequence[str]],
    student_marker: str = "Ġ",
    teacher_marker: str = "▁",
) -> list[list[list[int]]]:
    """The `min_edit_path` of several texts, in much less time than one after the other.

    Args:
        student_token_lists: The student's token strings of each text.
        teacher_token_lists: The teacher's token strings of each text.
        student_marker: What marks a space in the student's tokens.
        teacher_marker: What marks a space in the teacher's tokens.

    Returns:
        The path of each text.

    Raises:
        InputError: There are not as many texts on both sides, or one is a string instead of a sequence of tokens.

    Examples:
        >>> min_edit_paths([["Know", "ledge"], ["Ġis"]], [["▁Knowledge"], ["▁is"]])
        [[[0], [0]], [[0]]]
    """
    for name, lists in (("student_tokens", student_token_lists), ("teacher_tokens", teacher_token_lists)):
        for tokens in lists:
            if isinstance(tokens, str):
                raise InputError(
                    f"Expected {name} to be a sequence of token strings, but got the one string {tokens!r}."
                )
    if len(student_token_lists) != len(teacher_token_lists):
        raise InputError(
            f"Expected as many texts on both sides, but got {len(student_token_lists)} and {len(teacher_token_lists)}."
        )
    return _paths(
        [(tokens, student_marker) for tokens in student_token_lists],
        [(tokens, teacher_marker) for tokens in teacher_token_lists],
    )


def _paths(
    students: Sequence[tuple[Sequence[str], str]], teachers: Sequence[tuple[Sequence[str], str]]
) -> list[list[list[int]]]:
    """The path of each text, from both sides' token strings and what marks a space in them."""
    paths: list[list[list[int]]] = [[[] for _ in tokens] for tokens, _ in students]
    pairs = {
        number: (numbered_tokens(*student), numbered_tokens(*teacher))
        for number, (student, teacher) in enumerate(zip(students, teachers, strict=True))
        if len(student[0]) and len(teacher[0])
    }
    for number, path in zip(pairs, warping_paths(list(pairs.values())), strict=True):
        paths[number] = path
    return paths


def path_groups(path: list[list[int]]) -> IntArray:
    """Groups of tokens that a path joins, directly or through others: rows ``start, stop, start, stop``.

    Examples:
        >>> path_groups([[0], [0], [1, 2]]).tolist()
        [[0, 2, 0, 1], [2, 3, 1, 3]]
    """
    rows: list[list[int]] = []
    for student, joined in enumerate(path):
        if not joined:
            continue
        if rows and joined[0] < rows[-1][3]:
            rows[-1][1], rows[-1][3] = student + 1, max(rows[-1][3], joined[-1] + 1)
        else:
            rows.append([student, student + 1, joined[0], joined[-1] + 1])
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def warped_groups(students: Sequence[TokenizedText], teachers: Sequence[TokenizedText]) -> list[IntArray]:
    """For each text the groups that warping makes of its tokens, those of templates paired by role.

    Args:
        students: The student's tokens of each text.
        teachers: The teacher's tokens of each text.

    Returns:
        For each text, rows ``student start, student stop, teacher start, teacher stop`` ``[G, 4]``, ascending.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from dskd_components.tokenization import tokenize_batch_with_spans
        >>> tokenizer = Tokenizer(models.WordLevel({"new": 0, "found": 1}, unk_token="new"))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> texts = tokenize_batch_with_spans(tokenizer, ["new found", "found"])
        >>> [groups.tolist() for groups in warped_groups(texts, texts)]
        [[[0, 1, 0, 1], [1, 2, 1, 2]], [[0, 1, 0, 1]]]
    """
    student_tokens, teacher_tokens = (
        [(side.tokens[side.text_tokens], side.space_marker) for side in sides] for sides in (students, teachers)
    )
    groups = []
    for student, teacher, path in zip(students, teachers, _paths(student_tokens, teacher_tokens), strict=True):
        first = student.text_tokens.start, teacher.text_tokens.start
        bos, eos = map(single_groups, role_pairs(student, teacher))
        groups.append(np.concatenate([bos, path_groups(path) + np.repeat(first, 2), eos]))
    return groups
