"""A block of logits: its most likely tokens, its distances and cross entropy, and the gradient written over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from dskd_components.components.distance import DistanceGradients, measured
from dskd_components.components.distribution import Distribution
from dskd_components.components.group_space import GroupRows
from dskd_components.components.space import ComparedRows
from dskd_components.models.head import Head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from dskd_components.components.distance import Distance
    from dskd_components.components.space import Measure
    from dskd_components.models.states import Side


RUN: Final = 64
"""Tokens of a run. Its largest logit is found by vector instructions, where ``argmax`` looks at one token at a time."""


def blocked_argmax(logits: Tensor) -> Tensor:
    """Return ``[n]``, int64: the first token of each row that has its largest logit.

    Args:
        logits: ``[n, V]``.

    Examples:
        >>> import torch
        >>> blocked_argmax(torch.tensor([[0.0, 2.0, 1.0, 2.0]]))
        tensor([1])
    """
    runs = logits.shape[1] // RUN
    if runs == 0:
        return torch.argmax(logits, -1)
    cut = logits[:, : runs * RUN].unflatten(1, (runs, RUN))
    best, run = cut.amax(-1).max(-1)
    within = cut[torch.arange(len(logits), device=logits.device), run].argmax(-1)
    found: Tensor = run * RUN + within
    if runs * RUN == logits.shape[1]:
        return found
    last, position = logits[:, runs * RUN :].max(-1)
    return torch.where(last > best, runs * RUN + position, found)


class CrossEntropyGradient(NamedTuple):
    """The gradient of a cross entropy, not yet written out: probabilities minus one at the target, times a factor."""

    values: Tensor
    probs: Tensor
    targets: Tensor
    scored: Tensor
    factor: float


class Restriction(NamedTuple):
    """A part of a block's columns.

    Args:
        columns: ``[K]``, int64: which; none twice.
        block: their logits, a copy.
    """

    columns: Tensor
    block: LogitBlock


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
        all_finite: whether no entry is ``-inf``.
        requires_grad: whether a gradient will be asked for.
    """

    def __init__(self, logits: Tensor, *, head: Head, all_finite: bool, requires_grad: bool) -> None:
        self.requires_grad = requires_grad
        self.leaf = logits.detach().requires_grad_(requires_grad)
        self._logits = logits
        self._head = head
        self._all_finite = all_finite
        self._distributions: dict[float, Distribution] = {}
        self._dense: list[DenseGradient] = []
        self._cross_entropies: list[CrossEntropyGradient] = []
        self._restrictions: list[Restriction] = []

    @torch.no_grad()
    def distribution(self, temperature: float) -> Distribution:
        """Return the distributions at a temperature, computed once."""
        if temperature not in self._distributions:
            scaled = self._logits if temperature == 1.0 else self._logits / temperature
            self._distributions[temperature] = Distribution.of_logits(scaled, all_finite=self._all_finite)
        return self._distributions[temperature]

    @torch.no_grad()
    def log_normaliser(self, temperature: float) -> Tensor:
        """Return ``[n]``: the logarithm of the sum of exponentials of each row's logits over a temperature."""
        return self.distribution(temperature).log_normaliser.squeeze(1)

    def among(self, columns: Tensor) -> LogitBlock:
        """Return the same rows over some tokens only; what comes to them as a gradient, comes to these.

        Args:
            columns: ``[K]``, int64: the tokens, none twice.
        """
        block = type(self)(
            self._logits.index_select(1, columns),
            head=Head(self._head.weight.detach()),  # what logits are made of is the whole block's matter
            all_finite=self._all_finite,
            requires_grad=self.requires_grad,
        )
        self._restrictions.append(Restriction(columns, block))
        return block

    @torch.no_grad()
    def predicted(self) -> Tensor:
        """Return ``[n]``, int64: the most likely token of each row."""
        return blocked_argmax(self._logits)

    def cross_entropy(self, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """Return ``[n]``: the cross entropy of each row at a temperature, a leaf; 0 where the target is -100."""
        distribution = self.distribution(temperature)
        scored, targets = targets >= 0, targets.clamp_min(0)
        values = distribution.log_probs_of(targets).neg().where(scored, 0.0).requires_grad_(self.requires_grad)
        if self.requires_grad:
            self._cross_entropies.append(
                CrossEntropyGradient(values, distribution.probs, targets, scored, 1 / temperature)
            )
        return values

    def divergence_from(
        self, teacher: LogitBlock, distance: Distance, measure: Measure, *, teacher_gradient: bool
    ) -> Tensor:
        """Return ``[n]``: the distance of each row at the measure's temperatures, in nats, a leaf.

        Args:
            teacher: the teacher's logits; these are the student's.
            distance: the distance.
            measure: what else is said of how to measure.
            teacher_gradient: whether the teacher's logits may get a gradient.
        """
        with torch.no_grad():
            found = measured(
                distance,
                DistanceGradients,
                self.distribution(measure.temperature),
                teacher.distribution(measure.teacher_temperature),
                of_student=self.requires_grad,
                of_teacher=teacher.requires_grad and teacher_gradient,
            )
            values = found.values * measure.scale
        values.requires_grad_(found.student is not None or found.teacher is not None)
        self.contribute(values, found.student, measure.scale / measure.temperature)
        teacher.contribute(values, found.teacher, measure.scale / measure.teacher_temperature)
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
        of_parts = [leaf for _, block in self._restrictions for leaf in block.leaves]
        return [self.leaf, *self._values, *of_parts] if self.requires_grad else []

    @property
    def _values(self) -> list[Tensor]:
        return [dense.values for dense in self._dense] + [noted.values for noted in self._cross_entropies]

    @torch.no_grad()
    def write_gradient(self, of_leaves: Mapping[int, Tensor | None]) -> None:
        """Overwrite the logits with the loss's gradient to the product of states and weight, plus bias.

        Args:
            of_leaves: the loss's gradient to each of `leaves`, by identity.
        """
        slope = self._slope()
        parts = list(self._parts(of_leaves))
        if parts:
            (first, coefficient), *others = parts
            torch.mul(first, coefficient, out=self._logits)
            for gradient, coefficient in others:
                self._logits.addcmul_(gradient, coefficient)
        else:
            self._logits.zero_()
        for noted in self._cross_entropies:
            of_values = of_leaves.get(id(noted.values))
            if of_values is not None:
                at_target = of_values.where(noted.scored, 0.0) * -noted.factor
                self._logits.scatter_add_(1, noted.targets[:, None], at_target[:, None])
        for columns, block in self._restrictions:
            block.write_gradient(of_leaves)
            self._logits.scatter_add_(1, columns.expand_as(block._logits), block._logits)
        if slope is not None:
            self._of_tokens.mul_(slope)

    def _parts(self, of_leaves: Mapping[int, Tensor | None]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``[n, V]`` and ``[n, 1]`` whose products make the gradient, but for what is at the targets."""
        for dense in self._dense:
            of_values = of_leaves.get(id(dense.values))
            if of_values is not None:
                yield dense.gradient, of_values[:, None] * dense.factor
        for entry in self._cross_entropies:
            of_values = of_leaves.get(id(entry.values))
            if of_values is not None:
                yield entry.probs, of_values.where(entry.scored, 0.0)[:, None] * entry.factor
        direct = of_leaves.get(id(self.leaf))
        if direct is not None:
            yield direct, torch.ones_like(direct[:, :1])

    def _slope(self) -> Tensor | float | None:
        """Return the derivative of the logits with respect to the product that the head makes them from."""
        head = self._head
        if head.softcap is None:
            return None if head.scale == 1.0 else head.scale
        return (self._of_tokens / head.softcap).square_().neg_().add_(1).mul_(head.scale)

    @property
    def _of_tokens(self) -> Tensor:
        """``[n, K]``: all logits but that of all other tokens together, which is no product."""
        return self._logits[:, : self._head.token_count] if self._head.has_rest else self._logits


@dataclass(frozen=True, eq=False, kw_only=True)
class TiledRows(ComparedRows):
    """Rows whose values come from blocks of logits, which keep their gradients.

    Args:
        student: the block of ``student_logits``.
        teacher: the block of ``teacher_logits``.
    """

    student: LogitBlock
    teacher: LogitBlock

    def divergence(self, distance: Distance | None, *, detach_teacher: bool = False) -> Tensor:
        """Return ``[N]``: the distance of each row at the spec's temperatures, in nats."""
        measure = self.measure
        if self._has_built(distance):
            return super().divergence(distance, detach_teacher=detach_teacher)
        return self.student.divergence_from(
            self.teacher, distance or measure.distance, measure, teacher_gradient=not detach_teacher
        )

    def shared_divergence(self, distance: Distance | None) -> Tensor:
        """Return ``[N]``: the distance between what the two make of the `shared_tokens`, in nats."""
        shared, measure = self.shared_tokens, self.measure
        if shared is None or self._has_built(distance):
            return super().shared_divergence(distance)
        student, teacher = self.student.among(shared.student_ids), self.teacher.among(shared.teacher_ids)
        values = student.divergence_from(teacher, distance or measure.distance, measure, teacher_gradient=True)
        temperature = measure.teacher_temperature
        log_share = teacher.log_normaliser(temperature) - self.teacher.log_normaliser(temperature)
        return log_share.exp() * values

    def _has_built(self, distance: Distance | None) -> bool:
        """Return whether something was built for a distance, which autograd goes through."""
        return bool(self.built) and self.function_of(distance) is not (distance or self.measure.distance)

    def cross_entropy(self, side: Side, targets: Tensor) -> Tensor:
        """Return ``[N]``: the cross entropy of one side's logits at temperature 1, in nats; 0 without target."""
        return self._block(side).cross_entropy(targets)

    def predicted(self, side: Side) -> Tensor:
        """Return ``[N]``, int64: the most likely token of one side's logits."""
        return self._block(side).predicted()

    def _block(self, side: Side) -> LogitBlock:
        return self.student if side == "student" else self.teacher


@dataclass(frozen=True, eq=False, kw_only=True)
class TiledGroupRows(GroupRows):
    """Rows of one side whose values come from a block of logits, which keeps their gradients.

    Args:
        block: the block of ``logits``.
    """

    block: LogitBlock

    def target_log_probs(self) -> Tensor:
        """Return ``[N]``: the log-probability of each row's target at the temperature, in nats."""
        return -self.block.cross_entropy(self.targets, self.temperature)
