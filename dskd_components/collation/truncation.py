"""Cutting both sides of a sample at one and the same border of its text."""

from dataclasses import dataclass

import numpy as np

from dskd_components.collation.problems import SampleError, SkipReason
from dskd_components.collation.side_tokens import SideTokens
from dskd_components.tokenization.arrays import IntArray


@dataclass(frozen=True)
class TruncatedLengths:
    """How much of a sample is kept.

    Attributes:
        student: The number of the student's tokens that are kept, from the first on.
        teacher: The number of the teacher's.
        is_whole: Whether that is all of them.
    """

    student: int
    teacher: int
    is_whole: bool


def common_cuts(student: SideTokens, teacher: SideTokens, number: int) -> tuple[IntArray, IntArray]:
    """Where both sides can be parted at the same byte of a content: the first token of each after the cut.

    Templates strip contents, and added tokens swallow spaces, on one side alone. So the first cut may also be where
    both sides have a token that starts at one byte once its leading spaces are set aside.
    """
    student_bytes, student_tokens = student.cuts_in(number)
    teacher_bytes, teacher_tokens = teacher.cuts_in(number)
    _, student_rank, teacher_rank = np.intersect1d(
        student_bytes, teacher_bytes, assume_unique=True, return_indices=True
    )
    cuts = student_tokens[student_rank], teacher_tokens[teacher_rank]
    if len(student_bytes) == 0 or len(teacher_bytes) == 0 or student_bytes[0] == teacher_bytes[0]:
        return cuts
    before = (int(student_rank[0]), int(teacher_rank[0])) if len(student_rank) else (None, None)
    _, student_core, teacher_core = np.intersect1d(
        student.cores_in(number, before[0]),
        teacher.cores_in(number, before[1]),
        assume_unique=True,
        return_indices=True,
    )
    if len(student_core) == 0:
        return cuts
    first = student_tokens[student_core[:1]], teacher_tokens[teacher_core[:1]]
    return np.concatenate([first[0], cuts[0]]), np.concatenate([first[1], cuts[1]])


def keep_within(
    student: SideTokens, teacher: SideTokens, student_limit: int | None, teacher_limit: int | None
) -> TruncatedLengths:
    """Find the longest part of a sample that fits into both limits and ends at the same place on both sides.

    That is a border within a content that both tokenizers cut, or the end of a turn that both sides mark with a
    special token. What ends a text (EOS) is left out of a text that is cut.

    Args:
        student: The student's tokens.
        teacher: The teacher's tokens.
        student_limit: How many tokens the student may have in all; None: any number.
        teacher_limit: The most tokens of the teacher; None: any number.

    Raises:
        SampleError: No scored token would be left on one of the sides.
    """
    room = (_room(student, student_limit), _room(teacher, teacher_limit))
    if len(student) <= room[0] + len(student.before) and len(teacher) <= room[1] + len(teacher.before):
        return TruncatedLengths(len(student), len(teacher), is_whole=True)
    last = _last_border(student, teacher, *room)
    kept = TruncatedLengths(len(student.before) + last[0], len(teacher.before) + last[1], is_whole=False)
    if not (student.scored[: kept.student].any() and teacher.scored[: kept.teacher].any()):
        raise SampleError(
            SkipReason.PROMPT_TOO_LONG,
            f"Within student_max_length={student_limit} and teacher_max_length={teacher_limit} nothing is left to "
            f"learn: of {len(student)} student tokens and {len(teacher)} teacher tokens, the first scored ones are "
            f"number {_first_scored(student)} and {_first_scored(teacher)}.",
        )
    return kept


def _room(side: SideTokens, limit: int | None) -> int:
    return len(side) if limit is None else max(limit - len(side.before), 0)


def _last_border(student: SideTokens, teacher: SideTokens, student_room: int, teacher_room: int) -> tuple[int, int]:
    for number in reversed(range(len(student.contents))):
        ends = student.closings[number] + 1, teacher.closings[number] + 1
        in_texts = 0 < ends[0] <= len(student.text) and 0 < ends[1] <= len(teacher.text)
        if in_texts and ends[0] <= student_room and ends[1] <= teacher_room:
            return ends
        cuts = common_cuts(student, teacher, number)
        fitting = np.flatnonzero((cuts[0] <= student_room) & (cuts[1] <= teacher_room))
        if len(fitting):
            return int(cuts[0][fitting[-1]]), int(cuts[1][fitting[-1]])
    return 0, 0


def _first_scored(side: SideTokens) -> int:
    return int(np.argmax(side.scored)) + 1
