"""Edit distances between the tokens of two sequences, each pair of distinct tokens measured once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenDistances:
    """Edit distances between the tokens of two sequences.

    Attributes:
        student_ids: Which distinct token each student token is ``[S]``.
        teacher_ids: Which distinct token each teacher token is ``[T]``.
        table: Distances between distinct tokens ``[distinct student, distinct teacher]``.
        same: For each distinct student token the equal teacher token, or -1.
        student_lengths: Characters of each student token ``[S]``.
        teacher_lengths: Characters of each teacher token ``[T]``.
    """

    student_ids: IntArray
    teacher_ids: IntArray
    table: npt.NDArray[np.unsignedinteger]
    same: IntArray
    student_lengths: IntArray
    teacher_lengths: IntArray

    def of(self, rows: IntArray, columns: IntArray) -> IntArray:
        """The distances of student tokens from teacher tokens, indices broadcast against each other."""
        return self.table[self.student_ids[rows], self.teacher_ids[columns]].astype(np.int64)

    def transposed(self) -> "TokenDistances":
        """The same with student and teacher exchanged."""
        same = np.full(self.table.shape[1], -1, dtype=np.int64)
        known = np.flatnonzero(self.same >= 0)
        same[self.same[known]] = known
        return TokenDistances(
            self.teacher_ids, self.student_ids, self.table.T, same, self.teacher_lengths, self.student_lengths
        )


def token_distances(student: list[str], teacher: list[str]) -> TokenDistances:
    """Levenshtein distances between the tokens of two sequences, neither of them empty.

    Memory: one byte for each pair of distinct tokens, four if a token is longer than 255 characters.

    Examples:
        >>> token_distances(["a", "b", "a"], ["ab"]).of(np.arange(3), np.zeros(3, dtype=int)).tolist()
        [1, 1, 1]
    """
    student_ids, student_strings = _distinct(student)
    teacher_ids, teacher_strings = _distinct(teacher)
    student_lengths = np.fromiter(map(len, student_strings), dtype=np.int64, count=len(student_strings))
    teacher_lengths = np.fromiter(map(len, teacher_strings), dtype=np.int64, count=len(teacher_strings))
    short = max(student_lengths.max(), teacher_lengths.max()) < 256
    dtype = np.uint8 if short else np.uint32
    table = cdist(student_strings, teacher_strings, scorer=Levenshtein.distance, dtype=dtype)
    numbers = {string: number for number, string in enumerate(teacher_strings)}
    same = np.array([numbers.get(string, -1) for string in student_strings], dtype=np.int64)
    return TokenDistances(
        student_ids, teacher_ids, table, same, student_lengths[student_ids], teacher_lengths[teacher_ids]
    )


def _distinct(tokens: list[str]) -> tuple[IntArray, list[str]]:
    numbers: dict[str, int] = {}
    ids = [numbers.setdefault(token, len(numbers)) for token in tokens]
    return np.array(ids, dtype=np.int64), list(numbers)
