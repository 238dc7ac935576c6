"""The discriminator: tells keys from queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


class Discriminator(nn.Module):
    """A highway layer and a perceptron with one hidden layer, ending in a log-odds for each vector.

    Args:
        width: of the vectors.
        hidden_size: of the perceptron.

    Examples:
        >>> import torch
        >>> Discriminator(8, 16)(torch.randn(5, 8)).shape
        torch.Size([5])
    """

    def __init__(self, width: int, hidden_size: int) -> None:
        super().__init__()
        self.highway = nn.Linear(width, width)
        self.hidden = nn.Linear(width, hidden_size)
        self.output = nn.Linear(hidden_size, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return ``[N]``: the log-odds that each vector is a key.

        Args:
            vectors: ``[N, width]``, float32 or float64; computed in their precision.
        """
        transformed = _linear(self.highway, vectors)
        mixed = vectors.lerp(transformed.relu(), transformed.sigmoid())
        return _linear(self.output, F.leaky_relu(_linear(self.hidden, mixed), 0.1)).squeeze(-1)


def _linear(layer: nn.Linear, values: Tensor) -> Tensor:
    return F.linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))
