"""A plugin of somebody else's: an aligner that reads texts, as docs/how-to/text-aligners.md has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from dskd_components import Aligner, TextAligner, TokenizedText, hookimpl
from dskd_components.tokenization import span_groups

if TYPE_CHECKING:
    from dskd_components.tokenization.arrays import IntArray


class WholeWords(TextAligner):
    """Tokens of one word belong together, however either side cuts it."""

    covers_text: ClassVar[bool] = True

    name: Literal["whole_words"] = "whole_words"
    separator: Literal[" ", "\n"] = " "
    """What a word begins with."""

    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        groups = span_groups(student, teacher)
        if not len(groups):
            return groups
        begins = [student.data[start : start + 1] == self.separator.encode() for start in student.starts[groups[1:, 0]]]
        first = np.flatnonzero([True, *begins])
        last = np.append(first[1:], len(groups)) - 1
        return np.stack([groups[first, 0], groups[last, 1], groups[first, 2], groups[last, 3]], axis=1)


@hookimpl
def dskd_aligners() -> list[type[Aligner]]:
    return [WholeWords]
