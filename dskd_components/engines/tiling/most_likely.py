"""The most likely token of each row, found by runs of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Tensor

RUN: Final = 64
"""Tokens of a run. Its largest logit is found by vector instructions, where ``argmax`` looks at one token at a time."""


def most_likely(logits: Tensor) -> Tensor:
    """Return ``[n]``, int64: the first token of each row that has its largest logit.

    Args:
        logits: ``[n, V]``.

    Examples:
        >>> import torch
        >>> most_likely(torch.tensor([[0.0, 2.0, 1.0, 2.0]]))
        tensor([1])
    """
    runs = logits.shape[1] // RUN
    if runs == 0:
        return torch.argmax(logits, -1)
    cut = logits[:, : runs * RUN].unflatten(1, (runs, RUN))
    best, run = cut.amax(-1).max(-1)
    within = cut[torch.arange(len(logits), device=logits.device), run].argmax(-1)
    found: Tensor = run * RUN + within
    if runs * RUN == logits.shape[1]:
        return found
    last, position = logits[:, runs * RUN :].max(-1)
    return torch.where(last > best, runs * RUN + position, found)
