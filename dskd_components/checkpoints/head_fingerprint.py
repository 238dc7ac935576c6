"""What of a head tells one model from another, for as long as the model should be the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import torch

from dskd_components.checkpoints.lasting import whole
from dskd_components.components.component import FrozenModel
from dskd_components.models.head_recipe import text_config

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from dskd_components.models.head import Head
    from dskd_components.models.wrappers import CausalLM

SAMPLED_ROWS: Final = 64
"""How many rows of a weight a digest is made of, evenly spread: hashing all of a large head would take seconds."""


class HeadFingerprint(FrozenModel):
    """The structure of a head, and of a frozen one a digest of its weights.

    A student's head changes with each step, so resuming may only ask for its structure. A teacher's does not change.

    Examples:
        >>> from dskd_components import Head
        >>> weight = torch.randn(50, 8)
        >>> whole, rounded = Head(weight), Head(weight.bfloat16())
        >>> HeadFingerprint.of(whole, frozen=True) == HeadFingerprint.of(rounded, frozen=True)
        True
        >>> HeadFingerprint.of(Head(weight + 1), frozen=True) == HeadFingerprint.of(whole, frozen=True)
        False
        >>> HeadFingerprint.of(Head(weight + 1), frozen=False) == HeadFingerprint.of(whole, frozen=False)
        True
    """

    configuration: str | None = None
    """Class of the model's configuration, which adapters and compilation leave as it is; None: not known."""
    rows: int
    """Rows of the weight, padding included."""
    vocabulary_size: int
    """Rows that are real tokens."""
    hidden_size: int
    """Width of the hidden states that the head reads."""
    bias: bool
    """Whether it has one."""
    scale: float
    """What logits are multiplied with."""
    softcap: float
    """Where they are capped; 0: nowhere."""
    weights: str | None = None
    """SHA-256 over some rows, rounded to bfloat16 so that the precision in which a model is loaded makes no
    difference; None for a head that is trained."""

    @classmethod
    def of(cls, head: Head, *, frozen: bool) -> Self:
        """Return the fingerprint of a head.

        Args:
            head: the head.
            frozen: whether its weights stay as they are.
        """
        return cls(
            rows=len(head.weight),
            vocabulary_size=head.vocabulary_size,
            hidden_size=head.hidden_size,
            bias=head.bias is not None,
            scale=head.scale,
            softcap=head.softcap or 0.0,
            weights=_digest(head.weight) if frozen else None,
        )

    def of_model(self, model: CausalLM) -> Self:
        """Return the same fingerprint with the class of a model's configuration.

        Args:
            model: the model that the head belongs to.
        """
        return self.model_copy(update={"configuration": type(text_config(model)).__name__})


@torch.no_grad()
def _digest(weight: Tensor) -> str:
    """Return a SHA-256 over evenly spread rows, the first and the last among them."""
    numbers = torch.linspace(0, len(weight) - 1, min(SAMPLED_ROWS, len(weight)), dtype=torch.float64).long()
    rows = whole(weight.detach()[numbers.to(weight.device)])
    # Through float32, so that every precision is rounded once and in one way; bytes of bfloat16 are read as integers.
    rounded = rows.cpu().float().bfloat16().contiguous().view(torch.int16)
    return hashlib.sha256(rounded.numpy().tobytes()).hexdigest()
