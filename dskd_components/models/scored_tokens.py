"""`scored_tokens`: how many of a batch's student tokens the loss scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dskd_components.errors import InputError
from dskd_components.models.row_layout import LAYOUT_COLUMNS, RowLayout
from dskd_components.models.states import IGNORE_INDEX

Batch = Mapping[str, Tensor]


def scored_tokens(batches: Batch | Iterable[Batch]) -> Tensor:
    """Count the student tokens that the loss scores, for its ``num_items_in_batch``.

    A label counts where some position predicts it: not at padding, nor the first of a row or of a packed sample.

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
    if isinstance(batches, Tensor | str) or not isinstance(batches, Iterable):
        raise _no_batch(batches)
    counts = [_scored(batch) for batch in batches]
    return torch.stack(counts).sum() if counts else torch.zeros((), dtype=torch.int64)


def _no_batch(given: object) -> InputError:
    return InputError(
        f"scored_tokens: expected a batch, a mapping of columns, or several of them, got {type(given).__name__}. "
        "Batches are made by DualTokenizerCollator."
    )


def _scored(batch: Batch) -> Tensor:
    if not isinstance(batch, Mapping):
        raise _no_batch(batch)
    columns = {name: batch.get(f"student_{name}", batch.get(name)) for name in ("labels", *LAYOUT_COLUMNS)}
    labels = columns["labels"]
    if not isinstance(labels, Tensor) or labels.ndim != 2:
        shape = f"shape {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        found = "none" if labels is None else shape
        raise InputError(
            f"scored_tokens: expected a column 'student_labels' (or 'labels') [batch, length], got {found}; the batch "
            f"has {', '.join(map(repr, batch)) or 'no columns'}. Batches are made by DualTokenizerCollator."
        )
    layout = RowLayout.of(labels, columns, "student_")
    return (layout.shifted(labels, IGNORE_INDEX) != IGNORE_INDEX).sum()
