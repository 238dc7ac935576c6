"""How the tokens of two tokenizers correspond on one text."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from dskd_components.tokenization.byte_spans import TokenizedText
from dskd_components.tokenization.unaligned import UnalignedReason, unaligned_reasons

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Method = Literal["exact_match", "span", "min_edit"]


@dataclass(frozen=True, eq=False)
class TextAlignment:
    """Which tokens of a student and a teacher belong together.

    Attributes:
        student: The student's tokens and their spans.
        teacher: The teacher's tokens and their spans.
        method: How the tokens were aligned.
        pair_indices: One-to-one pairs of student and teacher index ``[P, 2]``, ascending.
        group_indices: Rows ``student start, student stop, teacher start, teacher stop`` ``[G, 4]``,
            ascending.
    """

    student: TokenizedText
    teacher: TokenizedText
    method: Method
    pair_indices: npt.NDArray[np.int64]
    group_indices: npt.NDArray[np.int64]

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """One-to-one pairs ``(student index, teacher index)``."""
        return [(student, teacher) for student, teacher in self.pair_indices.tolist()]

    @cached_property
    def groups(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Groups ``((student start, student stop), (teacher start, teacher stop))`` in token indices."""
        return [((a, b), (c, d)) for a, b, c, d in self.group_indices.tolist()]

    @cached_property
    def unaligned_student(self) -> list[tuple[int, UnalignedReason]]:
        """The student's tokens without a partner, and why."""
        return self._unaligned(self.student, self.teacher, 0)

    @cached_property
    def unaligned_teacher(self) -> list[tuple[int, UnalignedReason]]:
        """The teacher's tokens without a partner, and why."""
        return self._unaligned(self.teacher, self.student, 1)

    @property
    def text(self) -> str:
        """The text."""
        return self.student.text

    @property
    def student_tokens(self) -> tuple[str, ...]:
        """The student's token strings."""
        return self.student.tokens

    @property
    def teacher_tokens(self) -> tuple[str, ...]:
        """The teacher's token strings."""
        return self.teacher.tokens

    @property
    def student_coverage(self) -> float:
        """The share of the student's tokens that have a partner; 1 for a text without tokens."""
        return 1.0 - len(self.unaligned_student) / max(len(self.student), 1)

    @property
    def teacher_coverage(self) -> float:
        """The share of the teacher's tokens that have a partner; 1 for a text without tokens."""
        return 1.0 - len(self.unaligned_teacher) / max(len(self.teacher), 1)

    def _unaligned(self, side: TokenizedText, other: TokenizedText, column: int) -> list[tuple[int, UnalignedReason]]:
        aligned = np.zeros(len(side), dtype=np.bool_)
        if self.method == "span":
            for start, stop in self.group_indices[:, 2 * column : 2 * column + 2].tolist():
                aligned[start:stop] = True
        else:
            aligned[self.pair_indices[:, column]] = True
        return unaligned_reasons(side, other, aligned, warped=self.method == "min_edit" and len(other) > 0)

    def to_text(self, *, width: int = 100) -> str:
        """The two token rows and what joins them, as text; see `dskd_components.tokenization.rendering`.

        Args:
            width: After how many columns the rows are broken.
        """
        from dskd_components.tokenization.rendering import render_text

        return render_text(self, width=width)

    def plot(self, ax: "Axes | None" = None, *, path: str | Path | None = None) -> "Axes":
        """Draw the two token rows and what joins them. Needs matplotlib.

        Args:
            ax: Where to draw; a new figure if left out.
            path: Where to save the figure as well.
        """
        from dskd_components.tokenization.rendering import plot_alignment

        return plot_alignment(self, ax=ax, path=path)
