"""`LogitBlock`: a few rows of one model's logits, what was computed from them, and their gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from dskd_components.components.distribution import Distribution
from dskd_components.engines.tiling.most_likely import most_likely

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from dskd_components.models.head import Head


class CrossEntropyGradient(NamedTuple):
    """The gradient of a cross entropy, not yet written out: probabilities minus one at the target."""

    values: Tensor
    probs: Tensor
    targets: Tensor
    scored: Tensor


class DenseGradient(NamedTuple):
    """The gradient of some values for each logit."""

    values: Tensor
    gradient: Tensor
    factor: float


class LogitBlock:
    """Rows of logits that hand out values, and turn what the loss makes of these values into a gradient.

    Values are leaves of a small graph, which runs from them to the loss: what lies between logits and values is not
    in it. Where a space reads the logits themselves, they are a leaf too.

    Args:
        logits: ``[n, V]``; in the end the gradient is written over them.
        head: the head that they come from.
        complete: whether no entry is ``-inf``.
        wanted: whether a gradient will be asked for.
    """

    def __init__(self, logits: Tensor, *, head: Head, complete: bool, wanted: bool) -> None:
        self.wanted = wanted
        self.leaf = logits.detach().requires_grad_(wanted)
        self._logits = logits
        self._head = head
        self._complete = complete
        self._distributions: dict[float, Distribution] = {}
        self._dense: list[DenseGradient] = []
        self._cross_entropies: list[CrossEntropyGradient] = []

    @torch.no_grad()
    def distribution(self, temperature: float) -> Distribution:
        """Return the distributions at a temperature, computed once."""
        if temperature not in self._distributions:
            scaled = self._logits if temperature == 1.0 else self._logits / temperature
            self._distributions[temperature] = Distribution.of_logits(scaled, complete=self._complete)
        return self._distributions[temperature]

    @torch.no_grad()
    def predicted(self) -> Tensor:
        """Return ``[n]``, int64: the most likely token of each row."""
        return most_likely(self._logits)

    def cross_entropy(self, targets: Tensor) -> Tensor:
        """Return ``[n]``: the cross entropy of each row at temperature 1, a leaf; 0 where the target is -100."""
        distribution = self.distribution(1.0)
        scored, targets = targets >= 0, targets.clamp_min(0)
        values = distribution.log_probs_of(targets).neg().where(scored, 0.0).requires_grad_(self.wanted)
        if self.wanted:
            self._cross_entropies.append(CrossEntropyGradient(values, distribution.probs, targets, scored))
        return values

    def contribute(self, values: Tensor, gradient: Tensor | None, factor: float) -> None:
        """Take note of values that depend on these logits.

        Args:
            values: ``[n]``, a leaf.
            gradient: ``[n, V]``: what the values' gradient to the logits is, but for the factor; overwritten. None:
                they do not depend on them.
            factor: what it is multiplied with.
        """
        if gradient is not None:
            self._dense.append(DenseGradient(values, gradient, factor))

    @property
    def leaves(self) -> list[Tensor]:
        """What the loss may depend on: the logits, and the values computed from them."""
        values = [dense.values for dense in self._dense] + [noted.values for noted in self._cross_entropies]
        return [self.leaf, *values] if self.wanted else []

    @torch.no_grad()
    def write_gradient(self, of_leaves: Mapping[int, Tensor | None]) -> None:
        """Overwrite the logits with the loss's gradient to the product of states and weight, plus bias.

        Args:
            of_leaves: the loss's gradient to each of `leaves`, by identity.
        """
        slope = self._slope()
        parts = list(self._parts(of_leaves))
        if not parts:
            self._logits.zero_()
            return
        (first, coefficient), *others = parts
        torch.mul(first, coefficient, out=self._logits)
        for gradient, coefficient in others:
            self._logits.addcmul_(gradient, coefficient)
        for noted in self._cross_entropies:
            of_values = of_leaves.get(id(noted.values))
            if of_values is not None:
                self._logits.scatter_add_(1, noted.targets[:, None], -of_values.where(noted.scored, 0.0)[:, None])
        if slope is not None:
            self._logits.mul_(slope)

    def _parts(self, of_leaves: Mapping[int, Tensor | None]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``[n, V]`` and ``[n, 1]`` whose products make the gradient, but for what is at the targets."""
        for dense in self._dense:
            of_values = of_leaves.get(id(dense.values))
            if of_values is not None:
                yield dense.gradient, of_values[:, None] * dense.factor
        for entry in self._cross_entropies:
            of_values = of_leaves.get(id(entry.values))
            if of_values is not None:
                yield entry.probs, of_values.where(entry.scored, 0.0)[:, None]
        direct = of_leaves.get(id(self.leaf))
        if direct is not None:
            yield direct, torch.ones_like(direct[:, :1])

    def _slope(self) -> Tensor | float | None:
        """Return the derivative of the logits with respect to the product that the head makes them from."""
        head = self._head
        if head.softcap is None:
            return None if head.scale == 1.0 else head.scale
        return (self._logits / head.softcap).square_().neg_().add_(1).mul_(head.scale)
