"""One-to-one pairs of tokens that stand for the same bytes of a text."""

import numpy as np
import numpy.typing as npt

from dskd_components.tokenization.byte_spans import TokenizedText

IntArray = npt.NDArray[np.int64]


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
