"""`scored_tokens`: what the loss of an accumulation window divides by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dskd_components.errors import InputError
from dskd_components.states import IGNORE_INDEX, shifted_targets

Batch = Mapping[str, Tensor]


def scored_tokens(batches: Batch | Iterable[Batch]) -> Tensor:
    """Count the student tokens that the loss scores, for its ``num_items_in_batch``.

    A label counts where some position predicts it: not the first of a row, nor the first of a packed segment.

    Args:
        batches: one batch with the columns that `DSKDLoss.run` reads, or all micro-batches of an optimizer step.

    Returns:
        Scalar, int64, on the device of the labels; of no batches at all, zero.

    Raises:
        InputError: a batch has no labels, or they are not ``[B, T]``.

    Examples:
        >>> import torch
        >>> from dskd_components import scored_tokens
        >>> batch = {"student_labels": torch.tensor([[5, 6, 7, -100], [-100, -100, 8, 9]])}
        >>> int(scored_tokens(batch))
        4
        >>> int(scored_tokens([batch, batch]))
        8
    """
    if isinstance(batches, Mapping):
        return _scored(batches)
    counts = [_scored(batch) for batch in batches]
    return torch.stack(counts).sum() if counts else torch.zeros((), dtype=torch.int64)


def _scored(batch: Batch) -> Tensor:
    labels, segment_ids = (batch.get(f"student_{name}", batch.get(name)) for name in ("labels", "segment_ids"))
    if not isinstance(labels, Tensor) or labels.ndim != 2:
        found = "none" if labels is None else f"shape {list(labels.shape)}"
        raise InputError(
            f"scored_tokens: expected a column 'student_labels' (or 'labels') [batch, length], got {found}; the batch "
            f"has {', '.join(map(repr, batch)) or 'no columns'}."
        )
    return (shifted_targets(labels, segment_ids) != IGNORE_INDEX).sum()
