"""The samples of a batch, as a store knows them: a teacher's tokens, read from position 0 on, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from dskd_components.errors import StoreError
from dskd_components.models.states import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt
    from torch import Tensor

    from dskd_components.models.row_layout import RowLayout
    from dskd_components.tokenization.arrays import BoolArray, IntArray

OTHER_INPUTS: Final = (
    "inputs_embeds",
    "token_type_ids",
    "cross_attention_mask",
    "pixel_values",
    "pixel_values_videos",
    "image_grid_thw",
    "video_grid_thw",
    "audio_values",
    "input_features",
)
"""What else models may read. A store knows samples by their tokens alone."""


@dataclass(frozen=True, eq=False)
class BatchSample:
    """One sample of a batch.

    Args:
        row: of the batch.
        places: ``[T]``: where in the row its tokens are.
        input_ids: ``[T]``, int32: its tokens.
        wanted: ``[T]``, bool: the positions that are scored, whose states the loss reads.
    """

    row: int
    places: IntArray
    input_ids: npt.NDArray[np.int32]
    wanted: BoolArray

    def __str__(self) -> str:
        """Name the sample for messages."""
        shown = ", ".join(map(str, self.input_ids[:12].tolist()))
        more = ", ..." if len(self.input_ids) > 12 else ""
        start = f", from its position {self.places[0]} on" if self.places[0] else ""
        return f"row {self.row} of the batch{start}: {len(self.input_ids)} tokens [{shown}{more}]"


def samples_of_batch(columns: Mapping[str, Tensor], layout: RowLayout, targets: Tensor) -> list[BatchSample]:
    """Return the samples of which some position is scored.

    Args:
        columns: the teacher's columns, by name without prefix.
        layout: how samples lie in the rows.
        targets: ``[B, T]``: the token that each position predicts, -100 where none is scored.

    Raises:
        StoreError: the teacher would have read more than tokens, or from other positions than a store knows.
    """
    _require_tokens_alone(columns)
    input_ids = columns["input_ids"].detach().cpu().numpy().astype(np.int32)
    wanted = (targets != IGNORE_INDEX).cpu().numpy()
    mask = columns.get("attention_mask")
    tokens = np.ones_like(wanted) if mask is None else (mask != 0).cpu().numpy()
    segments = np.zeros_like(input_ids) if layout.segment_ids is None else layout.segment_ids.cpu().numpy()
    positions = columns.get("position_ids")
    read_at = None if positions is None else positions.cpu().expand(input_ids.shape).numpy()
    found = []
    for row in range(len(input_ids)):
        for places in _stretches(tokens[row], segments[row]):
            if wanted[row, places].any():
                sample = BatchSample(row, places, input_ids[row, places], wanted[row, places])
                _require_own_positions(sample, None if read_at is None else read_at[row, places])
                found.append(sample)
    return found


def _require_tokens_alone(columns: Mapping[str, Tensor]) -> None:
    for name in OTHER_INPUTS:
        column = columns.get(name)
        if isinstance(column, torch.Tensor) and bool((column != 0).any()):
            raise StoreError(
                f"The teacher's batch has a column {name!r}, but a store knows samples by their tokens alone, and so "
                "cannot tell what the teacher has made of it. Run the teacher itself, or leave the column out."
            )
    for name in ("attention_mask", "position_ids"):
        column = columns.get(name)
        if isinstance(column, torch.Tensor) and column.ndim != 2:
            raise StoreError(
                f"The teacher's {name} has {column.ndim} dimensions; a store knows samples that read all of their "
                f"tokens before, from position 0 on. Give a column [batch, length], or pack with "
                "DualTokenizerCollator(packing=True)."
            )


def _stretches(tokens: BoolArray, segments: IntArray) -> Iterator[IntArray]:
    """Yield the places of each sample of a row: tokens that are not padding, by segment."""
    places = np.flatnonzero(tokens)
    if len(places):
        yield from np.split(places, np.flatnonzero(np.diff(segments[places])) + 1)


def _require_own_positions(sample: BatchSample, read_at: IntArray | None) -> None:
    """Refuse a sample that the teacher would not have read from its position 0 on."""
    own = np.arange(len(sample.input_ids))
    if read_at is None:
        read_at = sample.places
    if not np.array_equal(read_at, own):
        first = int(np.flatnonzero(read_at != own)[0])
        raise StoreError(
            f"The teacher would have read {sample} with its token {first} at position {int(read_at[first])}, but a "
            "store has samples that are read from position 0 on. Give the batch a column 'teacher_position_ids' that "
            "counts each sample's tokens from 0, as DualTokenizerCollator does, or pad on the right."
        )
