"""One-to-one pairs of tokens that stand for the same bytes of a text."""

import numpy as np
import numpy.typing as npt

from dskd_components.tokenization.byte_spans import TokenizedText

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SPACE = 0x20


def core_starts(data: bytes, starts: IntArray, ends: IntArray) -> IntArray:
    r"""Where spans start once their leading spaces are set aside.

    This is the one rule for ``Ġthe``, ``▁the`` and a space token followed by ``the``: a run of spaces (U+0020) at the
    start of a span is not compared, so all three ``the`` are equal. A token of nothing but spaces is compared whole.
    Other whitespace (tab, newline, no-break space) is text like any other.

    Args:
        data: The text in UTF-8.
        starts: Where the spans start ``[T]``.
        ends: Where they end ``[T]``.

    Returns:
        The starts without leading spaces ``[T]``.

    Examples:
        >>> core_starts(b"a  the", np.array([0, 1, 1]), np.array([1, 6, 3])).tolist()
        [0, 3, 1]
    """
    solid = np.flatnonzero(np.frombuffer(data + b".", dtype=np.uint8) != SPACE)
    first = solid[np.searchsorted(solid, starts)]
    return np.where(first < ends, first, starts)


def overlapping(starts: IntArray, ends: IntArray) -> BoolArray:
    """Which spans share bytes with a neighbour: tokens inside one character that a normaliser rewrote."""
    clash = ends[:-1] > starts[1:]
    shared = np.zeros(len(starts), dtype=np.bool_)
    shared[:-1] |= clash
    shared[1:] |= clash
    return shared


def exact_match_pairs(student: TokenizedText, teacher: TokenizedText) -> IntArray:
    """All one-to-one pairs of tokens with equal spans, in linear time.

    Spans are compared with `core_starts`. A token that shares bytes with a neighbour, or that stands for no text, has
    no one-to-one partner. Template tokens pair by role: BOS with BOS, EOS with EOS, from the text outwards.

    Args:
        student: The student's tokens of a text.
        teacher: The teacher's tokens of the same text.

    Returns:
        Pairs of student and teacher index ``[P, 2]``, both ascending.
    """
    student_indices, student_starts, student_ends = _distinct_spans(student)
    teacher_indices, teacher_starts, teacher_ends = _distinct_spans(teacher)
    at_byte = np.full(len(student.data) + 1, -1, dtype=np.int64)
    at_byte[teacher_starts] = np.arange(len(teacher_starts))
    candidate = at_byte[student_starts]
    # A candidate of -1 reads the last teacher span: harmless, since it is masked out.
    equal = (candidate >= 0) & (teacher_ends[candidate] == student_ends) if len(teacher_ends) else candidate >= 0
    pairs = np.stack([student_indices[equal], teacher_indices[candidate[equal]]], axis=1)
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


def _distinct_spans(side: TokenizedText) -> tuple[IntArray, IntArray, IntArray]:
    """Index, start without leading spaces, and end of the tokens that have bytes to themselves."""
    starts, ends = side.starts[side.text_tokens], side.ends[side.text_tokens]
    kept = np.flatnonzero((ends > starts) & ~overlapping(starts, ends))
    starts, ends = starts[kept], ends[kept]
    return kept + side.bos_count, core_starts(side.data, starts, ends), ends
