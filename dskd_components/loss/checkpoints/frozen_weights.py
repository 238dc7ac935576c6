"""What tells the weights of a head that is not trained from others, in whatever precision they are held.

A digest of rounded numbers is not enough: what float16 has rounded to the middle between two numbers of bfloat16 goes
on to one of them, and the original to the other. So some entries are kept beside the digest, to be compared within
rounding.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from dskd_components.loss.checkpoints.tensors import digest_of, whole

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

SAMPLED_ROWS: Final = 64
"""How many rows of a weight are looked at, evenly spread: hashing all of a large head would take seconds."""

SAMPLED_COLUMNS: Final = 4
"""How many entries of each of these rows are kept."""

PRECISIONS: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""From the coarsest on, but that float16 alone has no numbers between 0 and 6e-8."""


class FrozenWeights(NamedTuple):
    """What is kept of a weight; `text` and `read` go to a string and back.

    Args:
        digest: SHA-256 over rows rounded to bfloat16, in hexadecimal.
        precisions: those of `PRECISIONS` that hold these rows as they are; empty: not known.
        sample: ``[n]``, float32: some entries of these rows.
    """

    digest: str
    precisions: tuple[str, ...]
    sample: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, weight: Tensor) -> Self:
        """Return what is kept of a weight.

        Args:
            weight: ``[V, d]``, any floating-point dtype.
        """
        count = min(SAMPLED_ROWS, len(weight))
        numbers = torch.linspace(0, len(weight) - 1, count, dtype=torch.float64, device="cpu").long()
        # Through float32, so that float64 and float32 are rounded in one way.
        rows = whole(weight.detach()[numbers.to(weight.device)]).cpu().float()
        precisions = tuple(name for name, dtype in PRECISIONS.items() if torch.equal(rows.to(dtype).float(), rows))
        # Each row gives others of its columns, so that few columns are left out.
        width = rows.shape[1]
        spread = torch.arange(SAMPLED_COLUMNS, device=rows.device) * width // SAMPLED_COLUMNS
        columns = (torch.arange(len(rows), device=rows.device)[:, None] + spread) % width
        digest = digest_of({"weight": rows.bfloat16()})
        return cls(digest, precisions, rows.gather(1, columns).flatten())

    @property
    def text(self) -> str:
        """All of it as a string."""
        encoded = base64.b64encode(self.sample.numpy().tobytes()).decode()
        return f"{self.digest} {'+'.join(self.precisions)} {encoded}"

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what a string holds; of a damaged one, or one that holds a digest only, the digest.

        Args:
            text: as `text` gives it.
        """
        digest, _, rest = text.partition(" ")
        names, _, encoded = rest.partition(" ")
        precisions = tuple(names.split("+"))
        try:
            content = bytearray(base64.b64decode(encoded, validate=True))
            sample = torch.frombuffer(content, dtype=torch.float32)
        except ValueError:
            return cls(digest, (), torch.empty(0, device="cpu"))
        return cls(digest, precisions if set(precisions) <= PRECISIONS.keys() else (), sample)

    def same(self, other: Self) -> bool:
        """Return whether both are of one weight.

        Held in one precision they must be the same; in different ones, the same but for rounding.

        Args:
            other: what is kept of another weight.
        """
        if self.digest == other.digest:
            return True
        known = self.precisions and other.precisions and self.sample.shape == other.sample.shape
        if not known or self.precisions == other.precisions:
            return False
        ours, theirs = self.sample.double(), other.sample.double()
        half = torch.finfo(torch.float16)
        relative, absolute = 0.0, half.smallest_normal * half.eps / 2
        if self.precisions[0] != other.precisions[0]:
            # One may have gone through float16 on its way to the other's precision.
            roundings = {torch.float16, *(PRECISIONS[held.precisions[0]] for held in (self, other))}
            relative = sum(torch.finfo(dtype).eps for dtype in roundings) / 2
        within = (ours - theirs).abs() <= relative * torch.maximum(ours.abs(), theirs.abs()) + absolute
        return bool(within.all())


def same_weights(ours: str | None, theirs: str | None) -> bool:
    """Return whether two strings of `FrozenWeights` are of one weight.

    Args:
        ours: one of them, or None for a head that is trained.
        theirs: the other.

    Examples:
        >>> weight = torch.randn(50, 8)
        >>> same_weights(FrozenWeights.of(weight.half()).text, FrozenWeights.of(weight.bfloat16()).text)
        True
    """
    if ours is None or theirs is None:
        return ours is theirs
    return FrozenWeights.read(ours).same(FrozenWeights.read(theirs))
