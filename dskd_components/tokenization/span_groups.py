"""Tokens of two tokenizers that cover the same bytes of a text: one-to-one pairs, and the smallest groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dskd_components.tokenization.arrays import IntArray
    from dskd_components.tokenization.byte_spans import TokenizedText


def exact_match_pairs(student: TokenizedText, teacher: TokenizedText) -> IntArray:
    """All one-to-one pairs of tokens with equal spans, in linear time.

    Spans are compared without their leading spaces (`core_starts`). A token that shares bytes with a
    neighbour, or that stands for no text, has no one-to-one partner. Template tokens pair by role: BOS with
    BOS, EOS with EOS, from the text outwards.

    Args:
        student: The student's tokens of a text.
        teacher: The teacher's tokens of the same text.

    Returns:
        Pairs of student and teacher index ``[P, 2]``, both ascending.
    """
    at_byte = np.full(len(student.data) + 1, -1, dtype=np.int64)
    # Cores of -1 meet at the last place; they are left out below.
    at_byte[teacher.cores] = np.arange(len(teacher))
    candidate = at_byte[student.cores]
    equal = (candidate >= 0) & (student.cores >= 0)
    if len(teacher):
        equal &= teacher.ends[candidate] == student.ends
    found = np.flatnonzero(equal)
    pairs = np.stack([found, candidate[found]], axis=1)
    if student.bos_count + student.eos_count and teacher.bos_count + teacher.eos_count:
        bos, eos = role_pairs(student, teacher)
        pairs = np.concatenate([bos, pairs, eos])
    return pairs


def role_pairs(student: TokenizedText, teacher: TokenizedText) -> tuple[IntArray, IntArray]:
    """Pairs of the tokens that templates added before the text and after it, from the text outwards."""
    before, after = min(student.bos_count, teacher.bos_count), min(student.eos_count, teacher.eos_count)
    bos = np.arange(before)[:, None] + np.array([student.bos_count - before, teacher.bos_count - before])
    eos = np.arange(after)[:, None] + np.array([len(student) - student.eos_count, len(teacher) - teacher.eos_count])
    return bos, eos


def span_groups(student: TokenizedText, teacher: TokenizedText) -> IntArray:
    """Many-to-many groups, closed at every boundary that both sides share.

    Every token is in exactly one group, unless the other side has no token at all, or no template token of
    its role. A token that stands for no text goes with the token after it.

    Args:
        student: The student's tokens of a text.
        teacher: The teacher's tokens of the same text.

    Returns:
        Rows ``student start, student stop, teacher start, teacher stop`` in token indices ``[G, 4]``,
        ascending.
    """
    bos, eos = role_pairs(student, teacher)
    return np.concatenate([single_groups(bos), _text_groups(student, teacher), single_groups(eos)])


def single_groups(pairs: IntArray) -> IntArray:
    """Return pairs of student and teacher index ``[P, 2]`` as groups of one token on each side ``[P, 4]``."""
    student, teacher = pairs[:, 0], pairs[:, 1]
    return np.stack([student, student + 1, teacher, teacher + 1], axis=1)


def _text_groups(student: TokenizedText, teacher: TokenizedText) -> IntArray:
    student_span, teacher_span = student.text_tokens, teacher.text_tokens
    if student_span.start == student_span.stop or teacher_span.start == teacher_span.stop:
        return np.zeros((0, 4), dtype=np.int64)
    student_bytes, student_cuts = _cuts(student)
    teacher_bytes, teacher_cuts = _cuts(teacher)
    _, student_rank, teacher_rank = np.intersect1d(
        student_bytes, teacher_bytes, assume_unique=True, return_indices=True
    )
    student_borders = np.concatenate([[student_span.start], student_cuts[student_rank], [student_span.stop]])
    teacher_borders = np.concatenate([[teacher_span.start], teacher_cuts[teacher_rank], [teacher_span.stop]])
    return np.stack([student_borders[:-1], student_borders[1:], teacher_borders[:-1], teacher_borders[1:]], axis=1)


def _cuts(side: TokenizedText) -> tuple[IntArray, IntArray]:
    """The bytes at which the tokens can be parted, and the first token after each."""
    starts, ends = side.starts[side.text_tokens], side.ends[side.text_tokens]
    filled = np.flatnonzero(ends > starts)
    # Tokens without text take no part; a cut before the next filled token falls before them.
    solid = np.flatnonzero(ends[filled][:-1] <= starts[filled][1:])
    return starts[filled[solid + 1]], filled[solid] + 1 + side.bos_count
