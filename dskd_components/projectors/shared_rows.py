"""`SharedRows`: the rows of two heads that are the same tokens, a part at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.models.head import Head

FEWEST_NUMBERS: Final = 2**18
"""Numbers in the copied part of both heads, at least: products with fewer rows take longer."""


class Rows(NamedTuple):
    """Some rows of one head, detached.

    Args:
        weight: ``[n, d]``.
        bias: ``[n]``, or None.
    """

    weight: Tensor
    bias: Tensor | None


class SharedRows:
    """The tokens that two heads share and both can predict, and their rows.

    Rows are gathered and widened a part at a time, so that no copy of a head is ever made.

    Args:
        heads: the heads at both ends of a projection.

    Raises:
        InputError: there is no such token.
    """

    def __init__(self, heads: ProjectorHeads) -> None:
        self._source, self._target = heads.source, heads.target
        self._source_ids, self._target_ids = heads.source_ids, heads.target_ids
        possible = self._possible()
        if possible is not None and not possible.all():
            kept = possible.nonzero().squeeze(1)
            self._source_ids = kept if self._source_ids is None else self._source_ids[kept]
            self._target_ids = kept if self._target_ids is None else self._target_ids[kept]
        if len(self) == 0:
            raise InputError(
                "The two vocabularies share no token, so a pseudo-inverse between their heads cannot be formed. Use "
                "the projector 'linear' or 'mlp', or pass teacher_to_student_ids that map at least one token."
            )

    def __len__(self) -> int:
        if self._source_ids is None or self._target_ids is None:
            return min(self._source.vocabulary_size, self._target.vocabulary_size)
        return len(self._source_ids)

    @property
    def sizes(self) -> tuple[int, int]:
        """Widths of the source and of the target."""
        return self._source.hidden_size, self._target.hidden_size

    @property
    def ratio(self) -> float:
        """The source's scale over the target's."""
        return self._source.scale / self._target.scale

    @property
    def have_bias(self) -> bool:
        """Whether either head has a bias."""
        return self._source.bias is not None or self._target.bias is not None

    def parts(self, dtype: torch.dtype) -> Iterator[slice]:
        """Yield slices of the rows; a part of both heads takes about as much memory as a map between them.

        Args:
            dtype: what the rows will be read in.
        """
        step = len(self)
        is_copied = self._source_ids is not None or {self._source.weight.dtype, self._target.weight.dtype} != {dtype}
        if is_copied:
            source, target = self.sizes
            step = max(1, max(FEWEST_NUMBERS, source * target) // (source + target))
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))

    def source(self, part: slice, dtype: torch.dtype) -> Rows:
        """Return rows of the source's head.

        Args:
            part: which of the shared tokens.
            dtype: of the result.
        """
        return _rows(self._source, self._source_ids, part, dtype)

    def target(self, part: slice, dtype: torch.dtype) -> Rows:
        """Return rows of the target's head.

        Args:
            part: which of the shared tokens.
            dtype: of the result.
        """
        return _rows(self._target, self._target_ids, part, dtype)

    def require_finite(self) -> None:
        """Refuse heads that hold NaN or infinity; a bias of ``-inf`` is a token that is left out.

        Raises:
            InputError: the message names the head and the tensor.
        """
        for end, head, ids in (("source", self._source, self._source_ids), ("target", self._target, self._target_ids)):
            for part in self.parts(torch.float64):
                for name, tensor in _rows(head, ids, part, head.weight.dtype)._asdict().items():
                    if tensor is not None and not tensor.isfinite().all():
                        raise InputError(
                            f"The {name} of the {end}'s head holds NaN or infinity, so the pseudo-inverse that a "
                            "projector is made from cannot be formed. Look at the weights of that model."
                        )

    def _possible(self) -> Tensor | None:
        """Return which of the tokens can be predicted by both heads; None if all can."""
        found: Tensor | None = None
        for head, ids in ((self._source, self._source_ids), (self._target, self._target_ids)):
            if head.bias is not None:
                bias = head.bias.detach()
                possible = (bias[: len(self)] if ids is None else bias[ids]) != -torch.inf
                found = possible if found is None else found & possible
        return found


def _rows(head: Head, ids: Tensor | None, part: slice, dtype: torch.dtype) -> Rows:
    picked = part if ids is None else ids[part]
    bias = None if head.bias is None else head.bias.detach()[picked].to(dtype)
    return Rows(head.weight.detach()[picked].to(dtype), bias)
