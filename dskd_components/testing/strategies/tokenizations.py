"""Two tokenizations of one text, and which of their tokens belong together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from hypothesis import strategies as st
from torch import Tensor

from dskd_components.models.token_groups import TokenGroups

PIECES = "aé 日\n😀"
"""Characters of one to four bytes, a space and a line break."""


@dataclass(frozen=True)
class TwoTokenizations:
    """One text, cut into tokens in two ways.

    Args:
        student: the student's tokens; joined, they are the text.
        teacher: the teacher's.

    Examples:
        >>> two = TwoTokenizations(("new", "found", "land"), ("newfound", "la", "nd"))
        >>> two.text
        'newfoundland'
        >>> two.span_groups()
        [((0, 2), (0, 1)), ((2, 3), (1, 3))]
        >>> two.token_groups().student, two.token_groups().teacher
        (tensor([[0, 0, 1]]), tensor([[0, 1, 1]]))
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]

    @property
    def text(self) -> str:
        """What both are cut from."""
        return "".join(self.student)

    def span_groups(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Return start and stop of each group on both sides, closed at every border that both share."""
        student, teacher = _borders(self.student), _borders(self.teacher)
        shared = [border for border in student if border in teacher]
        return [
            ((student.index(start), student.index(stop)), (teacher.index(start), teacher.index(stop)))
            for start, stop in pairwise(shared)
        ]

    def equal_tokens(self) -> list[tuple[int, int]]:
        """Return the pairs of tokens that stand for the same characters of the text."""
        return [
            (student[0], teacher[0])
            for student, teacher in self.span_groups()
            if student[1] - student[0] == teacher[1] - teacher[0] == 1
        ]

    def token_groups(self) -> TokenGroups:
        """Return the groups as an aligner is told them, ``[1, student tokens]`` and ``[1, teacher tokens]``."""
        groups = self.span_groups()
        return TokenGroups(
            _numbers([student for student, _ in groups], len(self.student)),
            _numbers([teacher for _, teacher in groups], len(self.teacher)),
        )


@st.composite
def two_tokenizations(
    draw: st.DrawFn, *, characters: str = PIECES, min_size: int = 1, max_size: int = 8
) -> TwoTokenizations:
    """A text and two ways to cut it, each at borders of its own.

    Args:
        draw: given by hypothesis.
        characters: what the text is made of.
        min_size: fewest characters.
        max_size: most characters.

    Examples:
        >>> from hypothesis import given
        >>> @given(two_tokenizations())
        ... def test_one_text(two):
        ...     assert "".join(two.student) == "".join(two.teacher)
        >>> test_one_text()
    """
    text = draw(st.text(characters, min_size=min_size, max_size=max_size))
    inner = st.lists(st.booleans(), min_size=max(len(text) - 1, 0), max_size=max(len(text) - 1, 0))
    return TwoTokenizations(_cut(text, draw(inner)), _cut(text, draw(inner)))


def _cut(text: str, cuts: list[bool]) -> tuple[str, ...]:
    tokens = [text[:1]]
    for character, cut in zip(text[1:], cuts, strict=True):
        if cut:
            tokens.append(character)
        else:
            tokens[-1] += character
    return tuple(tokens)


def _borders(tokens: tuple[str, ...]) -> list[int]:
    return [0, *accumulate(map(len, tokens))]


def _numbers(spans: list[tuple[int, int]], length: int) -> Tensor:
    numbers = torch.full((1, length), -1)
    for number, (start, stop) in enumerate(spans):
        numbers[0, start:stop] = number
    return numbers
