"""Which positions of a batch's rows hold tokens, which token each of them predicts, and where samples begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from dskd_components.errors import InputError
from dskd_components.models.head import describe
from dskd_components.models.host_reads import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

LAYOUT_COLUMNS: Final = (
    "attention_mask",
    "position_ids",
    "segment_ids",
    "seq_idx",
    "cu_seq_lens",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
)
"""The columns that say what is padding, and which sample a token belongs to."""


@dataclass(frozen=True, eq=False)
class RowLayout:
    """How samples lie in the rows of one model's side of a batch.

    Args:
        following: ``[B, T]``, int64: the position of the token that each position predicts, -1 where there is none:
            at padding, and at the last token of a sample.
        segment_ids: ``[B, T]``, int64: which sample a position belongs to; None: a row is a sample.
        counted: whether segment ids count the samples of a row, from 0 on, because nobody has named them. Single
            positions that a row begins with have negative ones: they predict nothing, and may be padding.
    """

    following: Tensor
    segment_ids: Tensor | None
    counted: bool

    @classmethod
    def of(cls, labels: Tensor, columns: Mapping[str, object], prefix: str = "") -> Self:
        """Read the layout of a batch.

        Args:
            labels: ``[B, T]``, -100 where no token is scored; not shifted.
            columns: by name without prefix, those of `LAYOUT_COLUMNS` that there are; all others are passed over.
                A two-dimensional ``attention_mask`` is 0 at padding. Samples of a packed row are told apart by
                ``segment_ids`` or ``seq_idx``; by ``cu_seq_lens``; by ``position_ids`` that do not go on by one (with
                an ``attention_mask``: that do not grow); or by a mask of query by key in which a token does not see
                the one before it.
            prefix: of the columns' names, for messages.

        Raises:
            InputError: a column has another shape, or two of them disagree; the message names them.
        """
        if require_column(f"{prefix}labels", labels).ndim != 2:
            raise InputError(f"{prefix}labels: expected a tensor [batch, length], got {describe(labels)}.")
        given = {name: column for name in LAYOUT_COLUMNS if (column := columns.get(name)) is not None}
        tensors = {name: require_column(f"{prefix}{name}", column) for name, column in given.items()}
        mask = tensors.get("attention_mask")
        mask = None if mask is None or mask.ndim != 2 else _like(labels, mask, f"{prefix}attention_mask")
        before, after = _neighbours(labels, None if mask is None else mask != 0)
        sources = dict(_beginnings(tensors, before, mask, prefix))
        begins = torch.zeros_like(before, dtype=torch.bool)
        for found in sources.values():
            begins = begins | found
        begins &= before >= 0
        packed = bool(sources) and bool(begins.any())
        if packed:
            _require_agreement(sources, begins, before, labels, prefix)
        following = after.where(~begins.gather(1, after.clamp_min(0)), -1) if packed else after
        named = tensors.get("segment_ids")
        if named is not None or not packed:
            return cls(following, None if named is None else named.long().expand_as(labels), counted=False)
        return cls(following, _counted(begins, None if mask is None else mask != 0), counted=True)

    def to(self, device: torch.device) -> RowLayout:
        """Return the same layout for columns on a device, if this one is on the host."""
        ids = self.segment_ids
        return RowLayout(
            to_device(self.following, device), None if ids is None else to_device(ids, device), self.counted
        )

    def shifted(self, of_tokens: Tensor, fill: float) -> Tensor:
        """Return ``[B, T]`` or ``[B, T, ...]``: what belongs to the token that each position predicts.

        Args:
            of_tokens: of the same shape: what belongs to each token, such as its label.
            fill: for positions that predict none.
        """
        beyond = [1] * (of_tokens.ndim - 2)
        following = self.following.view(*self.following.shape, *beyond)
        index = following.clamp_min(0).expand(-1, -1, *of_tokens.shape[2:])
        return of_tokens.gather(1, index).masked_fill(following < 0, fill)


def require_column(name: str, column: object) -> Tensor:
    """Return a column of a batch, once it is known to be a tensor.

    Args:
        name: what the message calls it.
        column: what the batch has.

    Raises:
        InputError: it is something else, such as a list.
    """
    if not isinstance(column, Tensor):
        raise InputError(
            f"The column {name!r}: expected a tensor [batch, length], got {type(column).__name__}. The collators make "
            "batches of tensors (loss_fn.collator(...)); torch.tensor(...) makes one of rows that are equally long."
        )
    return column


def shifted_column(name: str, column: Tensor, layout: RowLayout) -> Tensor:
    """Return a column by position: what belongs to the token that each position predicts, `fill_of` it where none.

    Args:
        name: what the message calls it.
        column: ``[B, T]`` or ``[B, T, ...]``, an entry for each token.
        layout: how samples lie in the rows.

    Raises:
        InputError: it has not an entry for each token.
    """
    expected = list(layout.following.shape)
    if not isinstance(column, Tensor) or list(column.shape[:2]) != expected:
        found = describe(column) if isinstance(column, Tensor) else type(column).__name__
        raise InputError(f"The column {name!r}: expected a tensor {expected}, an entry for each token, got {found}.")
    return layout.shifted(column, fill_of(column))


def fill_of(column: Tensor) -> float | bool:
    """Return what a column holds where there is no token: -1, or 0 if it holds no integers with a sign, or False.

    Examples:
        >>> fill_of(torch.ones(1, dtype=torch.int64)), fill_of(torch.ones(1)), fill_of(torch.ones(1, dtype=torch.bool))
        (-1, 0, False)
    """
    if column.dtype == torch.bool:
        return False
    return 0 if column.is_floating_point() or column.dtype == torch.uint8 else -1


def following_tokens(of_tokens: Tensor, attention_mask: object) -> RowLayout:
    """Return a layout that knows of padding alone.

    Args:
        of_tokens: ``[B, T]``, for its shape.
        attention_mask: ``[B, T]``, 0 at padding; all else is passed over.
    """
    fits = isinstance(attention_mask, Tensor) and attention_mask.shape == of_tokens.shape
    token = attention_mask != 0 if isinstance(attention_mask, Tensor) and fits else None
    return RowLayout(_neighbours(of_tokens, token)[1], None, counted=False)


def _like(labels: Tensor, column: Tensor, name: str) -> Tensor:
    if column.shape != labels.shape and column.shape != (1, labels.shape[1]):
        raise InputError(f"{name}: expected {list(labels.shape)}, an entry for each label, got {describe(column)}.")
    return column.expand_as(labels)


def _neighbours(labels: Tensor, token: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ``[B, T]`` twice: the positions of the tokens before and after each token, -1 for none and at padding."""
    length = labels.shape[1]
    positions = torch.arange(length, device=labels.device).expand_as(labels)
    if token is None:
        return positions - 1, (positions + 1).where(positions + 1 < length, -1)
    before = torch.full_like(positions, -1)
    before[:, 1:] = positions.where(token, -1).cummax(1).values[:, :-1]
    after = torch.full_like(positions, length)
    after[:, :-1] = positions.where(token, length).flip(1).cummin(1).values.flip(1)[:, 1:]
    return before.where(token, -1), after.where(token & (after < length), -1)


def _beginnings(
    columns: Mapping[str, Tensor], before: Tensor, mask: Tensor | None, prefix: str
) -> Iterator[tuple[str, Tensor]]:
    """Yield for each column that tells samples apart where one begins, ``[B, T]``, as it goes by the token before."""
    earlier = before.clamp_min(0)

    def differs(ids: Tensor) -> Tensor:
        return ids != ids.gather(1, earlier)

    for name in ("segment_ids", "seq_idx"):
        if name in columns:
            yield name, differs(_like(before, columns[name], f"{prefix}{name}"))
    for name in ("cu_seq_lens", "cu_seq_lens_q", "cu_seq_lens_k"):
        if name in columns:
            yield name, differs(_samples_of_lengths(before, columns[name], f"{prefix}{name}"))
    square = columns.get("attention_mask")
    if mask is not None and mask.dtype != torch.bool and bool((mask > 1).any()):
        yield "attention_mask", differs(mask)  # samples are numbered in it
    elif mask is None and square is not None and square.ndim > 2 and square.shape[-2:] == (before.shape[1],) * 2:
        yield "attention_mask", _unseen(square, before)
    positions = columns.get("position_ids")
    if positions is not None and positions.ndim == 2 and (square is None or mask is not None):
        step = (positions := _like(before, positions, f"{prefix}position_ids")) - positions.gather(1, earlier)
        # Without a mask, models of transformers take any step but 1 for a new sample; padding within a row makes more.
        yield "position_ids", step != 1 if mask is None else step <= 0


def _samples_of_lengths(before: Tensor, boundaries: Tensor, name: str) -> Tensor:
    count = before.numel()
    if boundaries.ndim != 1 or len(boundaries) < 2 or int(boundaries[0]) != 0 or int(boundaries[-1]) != count:
        raise InputError(
            f"{name}: expected one dimension, from 0 to the {count} positions of the batch, got {describe(boundaries)}"
            + (f" from {int(boundaries[0])} to {int(boundaries[-1])}." if boundaries.numel() else ".")
        )
    positions = torch.arange(count, device=before.device)
    return torch.bucketize(positions, boundaries[1:].to(before.device).long(), right=True).view_as(before)


def _unseen(mask: Tensor, before: Tensor) -> Tensor:
    """Return ``[B, T]``: where a token does not see the one before it, by a mask of query by key."""
    seen = mask.diagonal(offset=-1, dim1=-2, dim2=-1)
    # What is added to scores is 0 or nearly so where a token is seen, and the least number of its type where not.
    seen = seen > torch.finfo(seen.dtype).min / 2 if seen.is_floating_point() else seen != 0
    seen = seen.flatten(1, -2).any(1) if seen.ndim > 2 else seen
    unseen = torch.zeros_like(before, dtype=torch.bool)
    unseen[:, 1:] = ~seen
    return unseen


def _counted(begins: Tensor, token: Tensor | None) -> Tensor:
    """Return ``[B, T]``: the number of each position's sample, less how many single positions a row begins with."""
    number = begins.long().cumsum(1)
    sizes = torch.zeros_like(number).scatter_add(1, number, torch.ones_like(number) if token is None else token.long())
    # Where a row ends, numbers have no position.
    single = (sizes == 1).long().cumprod(1).sum(1, keepdim=True)
    return number - single


def _require_agreement(
    sources: Mapping[str, Tensor], begins: Tensor, before: Tensor, labels: Tensor, prefix: str
) -> None:
    """Refuse columns of which one begins a sample where another goes on, beside a token that is scored."""
    number = begins.long().cumsum(1)
    scored = torch.zeros_like(number).scatter_add(1, number, (labels != -100).long()).gather(1, number) > 0
    matters = begins & (scored | scored.gather(1, before.clamp_min(0)))
    for name, found in sources.items():
        against = matters & ~found
        if against.any():
            row, position = against.nonzero()[0].tolist()
            other = next(each for each, theirs in sources.items() if bool(theirs[row, position]))
            raise InputError(
                f"{prefix}{other} begins a new sample at [row {row}, position {position}], where {prefix}{name} goes "
                "on with the one before. Make the columns agree: the model would read other samples than are scored."
            )
