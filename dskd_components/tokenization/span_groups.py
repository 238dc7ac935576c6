"""Groups of tokens that cover the same bytes, as small as the two tokenizers allow."""

import numpy as np
import numpy.typing as npt

from dskd_components.tokenization.byte_spans import TokenizedText
from dskd_components.tokenization.exact_match import role_pairs

IntArray = npt.NDArray[np.int64]


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
    return np.concatenate([_single_groups(bos), _text_groups(student, teacher), _single_groups(eos)])


def _single_groups(pairs: IntArray) -> IntArray:
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
