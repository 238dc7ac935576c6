"""Parameter-free projector that follows the student's head."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, NoReturn

import torch
from pydantic import Field

from dskd_components.components.projector import Affine, Projection, Projector, ProjectorHeads
from dskd_components.errors import InputError
from dskd_components.models.host_reads import Check, require
from dskd_components.projectors.pseudo_inverse import (
    CrossProducts,
    PossibleTokens,
    SharedRows,
    gram_matrix,
    inverse_root,
    logit_map,
    possible_tokens,
    shared_count,
)

if TYPE_CHECKING:
    from torch import Tensor

COMPARED_ROWS: Final = 16
"""How many rows of the target's head are looked at in each call, to notice that it is another one."""

ROUNDING: Final = 2**-7
"""By how much, relatively, a weight differs from itself in another precision, bfloat16 at the most."""


class LivePinvProjection(Projection):
    """``h W_source^T pinv(W_target^T)``, from the source's head as it is at each call; no parameters.

    Scales and biases of the heads are taken into account. The target's head is taken to be frozen: a matrix of the
    size of its hidden states, which stands in for its pseudo-inverse, is computed once. That matrix follows from the
    head alone, so it is neither in a checkpoint nor a buffer, which data-parallel engines would send around at each
    step. The map carries no gradient to the heads; hidden states have theirs.

    Args:
        heads: the heads at both ends.
        rtol: singular values of the target's head up to this share of the largest count as zero.
    """

    def __init__(self, heads: ProjectorHeads, *, rtol: float) -> None:
        super().__init__()
        self._shared_tokens = shared_count(heads)
        self._possible = PossibleTokens.of(heads)
        rows = SharedRows(heads, self._possible)
        root = inverse_root(gram_matrix(rows), rtol=rtol)
        self._root = root.to(torch.promote_types(heads.target.dtype, torch.float32))
        self._compared = self._sample(heads)
        self._tolerance = 2**-20 * float(self._compared.abs().max())

    @property
    def constant_bytes(self) -> int:
        """Memory of the matrix that stands in for the target's pseudo-inverse, and of what is compared."""
        held = (self._root, self._compared, *self._possible)
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    def affine(self, heads: ProjectorHeads) -> Affine:
        """Return the map at this step, without graph; it has a bias where one of the heads has one.

        Raises:
            InputError: the target's head is another one than the projection was built for, or another number of tokens
                is shared.
        """
        return self._affine(heads, torch.promote_types(heads.source.dtype, self._root.dtype))

    def matrix(self, heads: ProjectorHeads, dtype: torch.dtype) -> Tensor:
        """Return ``[d_source, d_target]``, without graph: what states are multiplied with at this step.

        Args:
            heads: as in `affine`.
            dtype: what is computed in.

        Raises:
            InputError: as in `affine`.
        """
        return self._affine(heads, dtype).weight.T

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        """Return ``[..., d_target]``."""
        weight, bias = self._affine(heads, hidden_states.dtype)
        return torch.nn.functional.linear(hidden_states, weight, bias)

    def checks(self, heads: ProjectorHeads) -> list[Check]:
        """Return the checks that the target's head is still the one that this was built for.

        Raises:
            InputError: another number of tokens is shared.
        """
        if shared_count(heads) != self._shared_tokens:
            self._complain_of_number(heads)
        self._move_to(heads.target.device)
        now = self._sample(heads)
        same = torch.isclose(now, self._compared, rtol=ROUNDING, atol=self._tolerance).all()
        return [*self._bias_checks(heads), Check(~same, self._complain_of_target)]

    def _bias_checks(self, heads: ProjectorHeads) -> list[Check]:
        now, before = possible_tokens(heads), self._possible.mask
        if now is None and before is None:
            return []
        now, before = (
            torch.ones(self._shared_tokens, dtype=torch.bool, device=self._root.device) if mask is None else mask
            for mask in (now, before)
        )
        return [Check((now != before).any(), partial(self._complain_of_number, heads))]

    def _complain_of_number(self, heads: ProjectorHeads) -> NoReturn:
        kept = self._possible.kept
        ours, theirs = self._shared_tokens if kept is None else len(kept), len(SharedRows(heads))
        raise InputError(
            f"The projector 'live_pinv' was built for heads that share {ours} tokens, these share "
            f"{'others' if ours == theirs else theirs}. Build DSKDLoss with the heads that are used in training."
        )

    def _complain_of_target(self) -> NoReturn:
        raise InputError(
            "The projector 'live_pinv' was built for another head of the model that is projected to, and its "
            "pseudo-inverse is taken once. Build DSKDLoss with the heads that are used in training; for a teacher "
            "that changes, use the projector 'pinv' or 'linear', which are trained."
        )

    def _affine(self, heads: ProjectorHeads, dtype: torch.dtype) -> Affine:
        if not heads.are_checked:
            require(*self.checks(heads))
        rows, root = SharedRows(heads, self._possible), self._root.to(dtype)
        return logit_map(CrossProducts.of(rows, dtype, root.device), root, rows.ratio)

    def _move_to(self, device: torch.device) -> None:
        if self._root.device != device:
            self._root, self._compared = self._root.to(device), self._compared.to(device)
            self._possible = self._possible.to(device)

    def _sample(self, heads: ProjectorHeads) -> Tensor:
        """Return a few rows of the target's head, evenly spread."""
        rows = SharedRows(heads, PossibleTokens(None, None))
        step = max(1, len(rows) // COMPARED_ROWS)
        return rows.target(slice(0, len(rows), step), self._root.dtype).weight.clone()


class LivePinv(Projector):
    """The map ``W_source^T pinv(W_target^T)``, recomputed from the live source head at each step; no parameters.

    The target's head must be frozen, so it can be the spec's ``s2t_projector`` alone.

    Examples:
        >>> import torch
        >>> from dskd_components import Head
        >>> heads = ProjectorHeads(source=Head(torch.randn(50, 8)), target=Head(torch.randn(50, 12)))
        >>> projection = LivePinv().build(source_size=8, target_size=12, heads=heads)
        >>> projection(torch.randn(3, 8), heads).shape, list(projection.parameters())
        (torch.Size([3, 12]), [])
    """

    source: ClassVar[str] = "Zhang et al. 2025 (DSKD v2), arXiv 2504.11426, student-to-teacher projection"
    needs_heads: ClassVar[bool] = True
    needs_frozen_target: ClassVar[bool] = True

    name: Literal["live_pinv"] = "live_pinv"
    rtol: Annotated[float, Field(ge=1e-7, lt=1)] = 1e-6
    """Singular values of the target's head up to this share of the largest count as zero."""

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:  # noqa: ARG002
        """Return the map, which is made anew from the live head."""
        return LivePinvProjection(self.required(heads), rtol=self.rtol)
