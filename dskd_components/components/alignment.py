"""`Alignment`: which positions of two models belong together, and how to look at it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dskd_components.components.component import forget_outdated
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from dskd_components.components.terms import Tally, TokenTerm
    from dskd_components.models.host_reads import Check


def weights_as_text(
    weights: Tensor, student_tokens: Sequence[str], teacher_tokens: Sequence[str], *, top: int = 3
) -> str:
    """Return a line for each student token: the teacher tokens that weigh most for it, with their weights.

    Args:
        weights: ``[S, T]``.
        student_tokens: S strings.
        teacher_tokens: T strings.
        top: how many teacher tokens at most.

    Raises:
        InputError: there are more or fewer strings than positions.

    Examples:
        >>> import torch
        >>> print(weights_as_text(torch.tensor([[0.9, 0.1], [0.0, 0.0]]), ["new", "x"], ["ne", "w"]))
        new ── ne 90 %, w 10 %
          x    nothing
    """
    _require_lengths(weights, student_tokens, teacher_tokens)
    width = max(map(len, student_tokens), default=0)
    lines = []
    for token, row in zip(student_tokens, weights, strict=True):
        values, columns = row.sort(descending=True)
        pairs = zip(values.tolist()[:top], columns.tolist(), strict=False)
        shown = ", ".join(f"{teacher_tokens[column]} {100 * value:.0f} %" for value, column in pairs if value > 0)
        lines.append(f"{token:>{width}} ── {shown}" if shown else f"{token:>{width}}    nothing")
    return "\n".join(lines)


def plot_weights(
    weights: Tensor,
    student_tokens: Sequence[str],
    teacher_tokens: Sequence[str],
    *,
    ax: Axes | None = None,
    path: str | Path | None = None,
) -> Axes:
    """Draw weights as a heat map, a row for each student token. Needs matplotlib.

    Args:
        weights: ``[S, T]``.
        student_tokens: S strings.
        teacher_tokens: T strings.
        ax: where to draw; None: a new figure.
        path: where to save the figure as well.

    Returns:
        The axes drawn on.

    Raises:
        InputError: there are more or fewer strings than positions.
    """
    from matplotlib.figure import Figure

    _require_lengths(weights, student_tokens, teacher_tokens)
    rows, columns = weights.shape
    if ax is None:
        ax = Figure(figsize=(3.2 + 0.3 * columns, 1.8 + 0.27 * rows), layout="constrained").add_subplot()
    image = ax.imshow(weights.detach().float().cpu().numpy(), cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    ax.set_xticks(range(columns), map(_shown, teacher_tokens), rotation=90, fontsize=9)
    ax.set_yticks(range(rows), map(_shown, student_tokens), fontsize=9)
    ax.set_xlabel("token that the teacher's position predicts")
    ax.set_ylabel("token that the student's position predicts")
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.colorbar(image, ax=ax, label="weight", fraction=0.04, pad=0.02)
    if path is not None:
        figure.savefig(path, dpi=150)
    return ax


def _shown(token: str) -> str:
    return token.replace("$", r"\$")


def _require_lengths(weights: Tensor, student_tokens: Sequence[str], teacher_tokens: Sequence[str]) -> None:
    found = [len(student_tokens), len(teacher_tokens)]
    if list(weights.shape) != found:
        raise InputError(
            f"expected a string for each of {weights.shape[0]} student and {weights.shape[1]} teacher positions, got "
            f"{found[0]} and {found[1]}."
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Alignment(ABC):
    """The outcome of an aligner: two linear maps between the positions of both sides, and whom they reach.

    Args:
        student_covered: ``[B, Ts]``, bool: scored student positions that have something on the teacher's side.
        teacher_covered: ``[B, Tt]``, bool: the scored teacher positions that something of the student belongs to.
        student_values: ``[B, Ts, ds]``: what the s2t projector reads, the student's hidden states as a rule.
        teacher_values: ``[B, Tt, dt]``: what the t2s projector reads. Cross-model attention adds the embedding of
            the target here; other aligners pass the teacher's hidden states on.
        terms: further loss terms by name, for aligners that learn by a loss of their own.
        metrics: numbers for the log, by name.
        checks: what must hold for the states, if the aligner leaves it to the loss to read that with all else.
    """

    moves_states: ClassVar[bool] = False
    """Whether `to_student` and `to_teacher` only move what they are given: each position gets what one other has, or
    zeros, never a sum or a multiple. Then states in half precision stay exactly that."""

    student_covered: Tensor
    teacher_covered: Tensor
    student_values: Tensor
    teacher_values: Tensor
    terms: Mapping[str, TokenTerm] = field(default_factory=dict)
    metrics: Mapping[str, Tally] = field(default_factory=dict)
    checks: Sequence[Check] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have a subclass with maps of its own say itself that they only move states."""
        super().__init_subclass__(**kwargs)
        for method in ("to_student", "to_teacher"):
            forget_outdated(cls, Alignment, method, "moves_states")

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

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that are held until the backward pass; the tiled engine counts their memory."""
        held = (getattr(self, each.name) for each in fields(self))
        return [part for part in held if isinstance(part, Tensor)]

    def groups_of_positions(self) -> tuple[Tensor, Tensor] | None:
        """Return ``[B, Ts]`` and ``[B, Tt]``, int64: a number that the positions of one group share, -1 for none.

        Numbers are those of one batch: two samples have none in common. None, as it stands, for alignments that have no
        groups, such as attention, where each position belongs to all of the other side in some degree.
        """
        return None

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
