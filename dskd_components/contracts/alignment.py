"""`Alignment`: which teacher positions belong to which student positions, for one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dskd_components.contracts.alignment_view import plot_weights, weights_as_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from torch import Tensor

    from dskd_components.contracts.terms import Tally, TokenTerm


@dataclass(frozen=True, eq=False, kw_only=True)
class Alignment(ABC):
    """The outcome of an aligner: two linear maps between the positions of both sides, and whom they reach.

    Args:
        student_covered: ``[B, Ts]``, bool: scored student positions that have something on the teacher's side.
        teacher_covered: ``[B, Tt]``, bool: likewise for the teacher's positions.
        student_values: ``[B, Ts, ds]``: what the s2t projector reads, the student's hidden states as a rule.
        teacher_values: ``[B, Tt, dt]``: what the t2s projector reads. Cross-model attention adds the embedding of
            the target here; other aligners pass the teacher's hidden states on.
        terms: further loss terms by name, for aligners that learn by a loss of their own.
        metrics: numbers for the log, by name.
    """

    student_covered: Tensor
    teacher_covered: Tensor
    student_values: Tensor
    teacher_values: Tensor
    terms: Mapping[str, TokenTerm] = field(default_factory=dict)
    metrics: Mapping[str, Tally] = field(default_factory=dict)

    @abstractmethod
    def to_student(self, teacher_side: Tensor) -> Tensor:
        """Bring ``[B, Tt, d]`` to the student's positions, ``[B, Ts, d]``; uncovered positions become finite."""

    @abstractmethod
    def to_teacher(self, student_side: Tensor) -> Tensor:
        """Bring ``[B, Ts, d]`` to the teacher's positions, ``[B, Tt, d]``; uncovered positions become finite."""

    @abstractmethod
    def teacher_index(self) -> Tensor:
        """Return ``[B, Ts]``, int64: the teacher position that weighs most for each student position, -1 if none.

        Discrete things, such as the teacher's choice of a token, travel along it.
        """

    @torch.no_grad()
    def weights(self, sample: int) -> Tensor:
        """Return ``[Ts, Tt]``: how much each teacher position weighs for each student position of one sample.

        Args:
            sample: which one of the batch.
        """
        length = self.teacher_covered.shape[1]
        units = torch.eye(length, device=self.teacher_covered.device).expand(len(self.teacher_covered), -1, -1)
        return self.to_student(units)[sample] * self.student_covered[sample, :, None]

    def to_text(self, student_tokens: Sequence[str], teacher_tokens: Sequence[str], *, sample: int = 0) -> str:
        """Return a line for each student position: the teacher tokens that weigh most for it.

        Args:
            student_tokens: the token that each student position predicts, Ts strings.
            teacher_tokens: the token that each teacher position predicts, Tt strings.
            sample: which one of the batch.
        """
        return weights_as_text(self.weights(sample), student_tokens, teacher_tokens)

    def plot(
        self,
        student_tokens: Sequence[str],
        teacher_tokens: Sequence[str],
        *,
        sample: int = 0,
        ax: Axes | None = None,
        path: str | Path | None = None,
    ) -> Axes:
        """Draw the weights of one sample as a heat map; arguments as in `to_text` and `plot_weights`."""
        return plot_weights(self.weights(sample), student_tokens, teacher_tokens, ax=ax, path=path)
