"""Alignments of a batch to look at: weights between two token rows, as text and as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from torch import Tensor


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
