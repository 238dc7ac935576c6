"""Functions over rows of logits and of their gradients, as `compiling` compiles them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from dskd_components.components.distance import DistanceGradients, measured
from dskd_components.components.distribution import Distribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dskd_components.components.distance import Distance


@dataclass(frozen=True)
class RowFunction(ABC):
    """A function of tensors ``[n, ...]`` that knows nothing of n: what it gives for some rows is some of what it gives.

    Two that are equal do the same.
    """

    @property
    @abstractmethod
    def kind(self) -> str:
        """What it has in common with functions that differ in the options of their components alone; for messages."""

    @property
    def written(self) -> tuple[int, ...]:
        """The places of those tensors that it writes over."""
        return ()

    @abstractmethod
    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return tensors ``[n, ...]``."""


class Reading(NamedTuple):
    """Distributions, by the places that what they are made from has among a function's tensors.

    Args:
        logits: ``[n, V]``.
        largest: ``[n, 1]``: the largest logit of each row, over the temperature.
        log_sum: ``[n, 1]``: the logarithm of the sum of exponentials above the largest.
        temperature: ``[n, 1]``; None: 1.
        all_finite: whether no logit is ``-inf``.
    """

    logits: int
    largest: int
    log_sum: int
    temperature: int | None
    all_finite: bool

    def of(self, tensors: Sequence[Tensor]) -> Distribution:
        """Return the distributions."""
        scaled, largest, log_sum = tensors[self.logits], tensors[self.largest], tensors[self.log_sum]
        if self.temperature is not None:
            scaled = scaled / tensors[self.temperature]
        probs = (scaled - largest - log_sum).exp()
        return Distribution.of_part(scaled, probs=probs, largest=largest, log_sum=log_sum, all_finite=self.all_finite)


@dataclass(frozen=True)
class Statistics(RowFunction):
    """The function that finds what normalises rows of logits."""

    @property
    def kind(self) -> str:
        """See `RowFunction`."""
        return "normalisation"

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return ``largest`` and ``log_sum`` of `Reading`, of logits and, where it is not 1, the temperature."""
        scaled = tensors[0] if len(tensors) == 1 else tensors[0] / tensors[1]
        largest = scaled.amax(-1, keepdim=True)
        return largest, (scaled - largest).exp().sum(-1, keepdim=True).log()


@dataclass(frozen=True)
class Values(RowFunction):
    """The function that measures a distance: ``[n]``, nats.

    Args:
        distance: the distance.
        student: where the student's distributions are.
        teacher: where the teacher's are.
    """

    distance: Distance
    student: Reading
    teacher: Reading

    @property
    def kind(self) -> str:
        """See `RowFunction`."""
        return f"values of {self.distance.name!r}"

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the distance of each row."""
        student, teacher = self.student.of(tensors), self.teacher.of(tensors)
        found = measured(self.distance, DistanceGradients, student, teacher, of_student=False, of_teacher=False)
        return (found.values,)


class Divergence(NamedTuple):
    """A distance in a gradient, with the places of the loss's gradients to its values, ``[n, 1]`` each.

    Args:
        distance: the distance.
        student: where the student's distributions are.
        teacher: where the teacher's are.
        of_student: what the gradient to the student's logits is multiplied with; None: that is not wanted.
        of_teacher: likewise for the teacher's.
    """

    distance: Distance
    student: Reading
    teacher: Reading
    of_student: int | None
    of_teacher: int | None


class CrossEntropy(NamedTuple):
    """A cross entropy in a gradient.

    Args:
        reading: where the distributions are.
        targets: the place of the targets, ``[n, 1]``.
        factor: the place of what its gradient is multiplied with, ``[n, 1]``.
    """

    reading: Reading
    targets: int
    factor: int


class Written(NamedTuple):
    """Logits that a gradient is written over.

    Args:
        logits: their place.
        direct: the place of a gradient ``[n, V]`` that is there already, if there is one.
        scale: what products of states and weight were multiplied with.
        softcap: what they were capped by.
        tokens: how many of the columns are products.
    """

    logits: int
    direct: int | None
    scale: float
    softcap: float | None
    tokens: int


@dataclass(frozen=True)
class Gradient(RowFunction):
    """The function that writes the loss's gradient over logits.

    Args:
        blocks: the logits that it is written over.
        divergences: the distances in the loss.
        cross_entropies: the cross entropies in it.
    """

    blocks: tuple[Written, ...]
    divergences: tuple[Divergence, ...]
    cross_entropies: tuple[CrossEntropy, ...]

    @property
    def kind(self) -> str:
        """See `RowFunction`."""
        names = {repr(found.distance.name) for found in self.divergences}
        return f"the gradient of {', '.join(sorted(names) + ['cross entropy'] * bool(self.cross_entropies))}"

    @property
    def written(self) -> tuple[int, ...]:
        """See `RowFunction`."""
        return tuple(block.logits for block in self.blocks)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Write the gradients."""
        totals = {block.logits: None if block.direct is None else tensors[block.direct] for block in self.blocks}

        def add(place: int, gradient: Tensor, factor: int) -> None:
            before, part = totals[place], gradient * tensors[factor]
            totals[place] = part if before is None else before + part

        for of_distance in self.divergences:
            found = measured(
                of_distance.distance,
                DistanceGradients,
                of_distance.student.of(tensors),
                of_distance.teacher.of(tensors),
                of_student=of_distance.of_student is not None,
                of_teacher=of_distance.of_teacher is not None,
            )
            if found.student is not None and of_distance.of_student is not None:
                add(of_distance.student.logits, found.student, of_distance.of_student)
            if found.teacher is not None and of_distance.of_teacher is not None:
                add(of_distance.teacher.logits, found.teacher, of_distance.of_teacher)
        for entropy in self.cross_entropies:
            probs = entropy.reading.of(tensors).probs
            at_target = torch.arange(probs.shape[1], device=probs.device) == tensors[entropy.targets]
            add(entropy.reading.logits, torch.where(at_target, probs - 1, probs), entropy.factor)
        # All are known before the first is written over the logits that they come from.
        gradients = [_through_head(block, tensors[block.logits], totals[block.logits]) for block in self.blocks]
        for block, gradient in zip(self.blocks, gradients, strict=True):
            tensors[block.logits].copy_(gradient)
        return ()


def _through_head(block: Written, logits: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the gradient to the products that a head makes logits from."""
    if gradient is None:
        return torch.zeros_like(logits)
    if block.softcap is None and block.scale == 1.0:
        return gradient
    slope = torch.full_like(logits, block.scale)
    if block.softcap is not None:
        slope = slope * (1 - (logits / block.softcap).square())
    if block.tokens < logits.shape[1]:
        slope = slope.where(torch.arange(logits.shape[1], device=logits.device) < block.tokens, 1.0)
    return gradient * slope


@dataclass(frozen=True)
class Softcap(RowFunction):
    """The function that caps logits.

    Args:
        cap: what they stay below.
    """

    cap: float

    @property
    def kind(self) -> str:
        """See `RowFunction`."""
        return "the cap on logits"

    @property
    def written(self) -> tuple[int, ...]:
        """The logits."""
        return (0,)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Write over logits ``[n, V]``."""
        tensors[0].copy_((tensors[0] / self.cap).tanh() * self.cap)
        return ()


@dataclass(frozen=True)
class Split(RowFunction):
    """The function that gives float32 numbers as sums of two bfloat16 numbers."""

    @property
    def kind(self) -> str:
        """See `RowFunction`."""
        return "the parts of gradients"

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return ``[n, 2, m]``, whose parts of all rows lie together: numbers rounded, and what was rounded off."""
        [numbers] = tensors
        # A compiler may leave out what rounds a number and widens it again, so its last 16 bits are rounded away here:
        # to the nearest, and to an even one where two are as near.
        bits = numbers.view(torch.int32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).view(torch.float32)
        return (torch.stack([rounded, numbers - rounded]).to(torch.bfloat16).transpose(0, 1),)
