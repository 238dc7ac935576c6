"""Blocks of logits whose values and gradients come from compiled functions: a few passes over the logits in all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from dskd_components.engines._tiling.compiling import call
from dskd_components.engines._tiling.logit_block import LogitBlock
from dskd_components.engines._tiling.row_functions import (
    CrossEntropy,
    Divergence,
    Gradient,
    Reading,
    Statistics,
    Values,
    Written,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from dskd_components.components.distance import Distance
    from dskd_components.components.space import Measure
    from dskd_components.models.head import Head


class Compared(NamedTuple):
    """Values of a distance that depend on two blocks.

    Args:
        values: ``[n]``, a leaf.
        distance: the distance.
        student: the student's block, and the temperature it was read at.
        teacher: the teacher's.
        scale: what the distance was multiplied with.
        of_student: whether a gradient to the student's logits is wanted.
        of_teacher: whether one to the teacher's is.
    """

    values: Tensor
    distance: Distance
    student: tuple[CompiledBlock, float]
    teacher: tuple[CompiledBlock, float]
    scale: float
    of_student: bool
    of_teacher: bool


class Scored(NamedTuple):
    """Values of a cross entropy.

    Args:
        values: ``[n]``, a leaf.
        targets: ``[n]``, int64, not negative.
        scored: ``[n]``, bool: where there is a target.
        temperature: that the logits were read at.
    """

    values: Tensor
    targets: Tensor
    scored: Tensor
    temperature: float


class CompiledBlock(LogitBlock):
    """Rows of logits like any other, of which nothing of their size is made but the gradient that is written over them.

    Args:
        logits: ``[n, V]``; in the end the gradient is written over them.
        head: the head that they come from.
        all_finite: whether no entry is ``-inf``.
        requires_grad: whether a gradient will be asked for.
    """

    def __init__(self, logits: Tensor, *, head: Head, all_finite: bool, requires_grad: bool) -> None:
        super().__init__(logits, head=head, all_finite=all_finite, requires_grad=requires_grad)
        self._statistics: dict[float, tuple[Tensor, ...]] = {}
        self._compared: list[Compared] = []
        self._scored: list[Scored] = []

    def cross_entropy(self, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """Return ``[n]``: the cross entropy of each row at a temperature, a leaf; 0 where the target is -100."""
        scored, targets = targets >= 0, targets.clamp_min(0)
        with torch.no_grad():
            largest, log_sum, *_ = self._statistics_at(temperature)
            chosen = self._logits.gather(1, targets[:, None]) / temperature
            values = (chosen - largest - log_sum).squeeze(1).neg().where(scored, 0.0)
        values.requires_grad_(self.requires_grad)
        if self.requires_grad:
            self._scored.append(Scored(values, targets, scored, temperature))
        return values

    def divergence_from(
        self, teacher: LogitBlock, distance: Distance, measure: Measure, *, teacher_gradient: bool
    ) -> Tensor:
        """Return ``[n]``: the distance of each row at the measure's temperatures, in nats, a leaf."""
        assert isinstance(teacher, CompiledBlock), "both are compiled, or neither"
        inputs = Inputs()
        student_at, teacher_at = (self, measure.temperature), (teacher, measure.teacher_temperature)
        function = Values(distance, inputs.reading(*student_at), inputs.reading(*teacher_at))
        with torch.no_grad():
            values = call(function, inputs.tensors)[0] * measure.scale
        of_teacher = teacher.requires_grad and teacher_gradient
        values.requires_grad_(self.requires_grad or of_teacher)
        found = Compared(values, distance, student_at, teacher_at, measure.scale, self.requires_grad, of_teacher)
        for block, is_wanted in ((self, self.requires_grad), (teacher, of_teacher)):
            if is_wanted:
                block._compared.append(found)
        return values

    @property
    def _values(self) -> list[Tensor]:
        return [entry.values for entry in self._compared] + [entry.values for entry in self._scored]

    @torch.no_grad()
    def log_normaliser(self, temperature: float) -> Tensor:
        """Return ``[n]``: the logarithm of the sum of exponentials of each row's logits over a temperature."""
        largest, log_sum, *_ = self._statistics_at(temperature)
        return (largest + log_sum).squeeze(1)

    def _statistics_at(self, temperature: float) -> tuple[Tensor, ...]:
        """Return what normalises the rows, ``[n, 1]`` each, and the temperature as another, unless it is 1."""
        if temperature not in self._statistics:
            given = [] if temperature == 1.0 else [self._logits.new_full((len(self._logits), 1), temperature)]
            self._statistics[temperature] = (*call(Statistics(), [self._logits, *given]), *given)
        return self._statistics[temperature]


class Inputs:
    """The tensors that a function is called with, each once."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._places: dict[int, int] = {}

    def place(self, tensor: Tensor) -> int:
        """Return the place of a tensor among all."""
        if id(tensor) not in self._places:
            self._places[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return self._places[id(tensor)]

    def reading(self, block: CompiledBlock, temperature: float) -> Reading:
        """Return where the distributions of a block are."""
        logits = self.place(block._logits)
        largest, log_sum, *given = (self.place(tensor) for tensor in block._statistics_at(temperature))
        return Reading(logits, largest, log_sum, given[0] if given else None, block._all_finite)

    def factor(self, values: Tensor, factor: float) -> int:
        """Return the place of the loss's gradient to some values, times a factor."""
        return self.place(values[:, None] * factor)


@torch.no_grad()
def write_gradients(blocks: Iterable[LogitBlock], of_leaves: Mapping[int, Tensor | None]) -> None:
    """Overwrite the logits of blocks with the loss's gradient to the products of states and weight, plus bias.

    Args:
        blocks: of the same rows; a gradient is asked for by each.
        of_leaves: the loss's gradient to each of the blocks' leaves, by identity.
    """
    compiled = []
    for block in blocks:
        if isinstance(block, CompiledBlock):
            compiled.append(block)
        else:
            block.write_gradient(of_leaves)
    if compiled:
        _write_compiled(compiled, of_leaves)


def _write_compiled(blocks: Sequence[CompiledBlock], of_leaves: Mapping[int, Tensor | None]) -> None:
    parts = [part for block in blocks for _, part in block._restrictions]
    if parts:
        write_gradients(parts, of_leaves)
    inputs, written, divergences, entropies = Inputs(), [], [], []
    for block in blocks:
        direct, head = of_leaves.get(id(block.leaf)), block._head
        for columns, part in block._restrictions:
            direct = torch.zeros_like(block._logits) if direct is None else direct
            direct = direct.scatter_add(1, columns.expand_as(part._logits), part._logits)
        tokens = head.token_count if head.has_rest else block._logits.shape[1]
        place = inputs.place(block._logits)
        of_leaf = None if direct is None else inputs.place(direct)
        written.append(Written(place, of_leaf, head.scale, head.softcap, tokens))
    for entry in {id(entry.values): entry for block in blocks for entry in block._compared}.values():
        of_values = of_leaves.get(id(entry.values))
        if of_values is not None:
            student, teacher = inputs.reading(*entry.student), inputs.reading(*entry.teacher)
            factors = [
                inputs.factor(of_values, entry.scale / temperature) if is_wanted else None
                for is_wanted, (_, temperature) in (
                    (entry.of_student, entry.student),
                    (entry.of_teacher, entry.teacher),
                )
            ]
            divergences.append(Divergence(entry.distance, student, teacher, *factors))
    for block in blocks:
        for noted in block._scored:
            of_values = of_leaves.get(id(noted.values))
            if of_values is not None:
                reading, targets = inputs.reading(block, noted.temperature), inputs.place(noted.targets[:, None])
                factor = inputs.factor(of_values.where(noted.scored, 0.0), 1 / noted.temperature)
                entropies.append(CrossEntropy(reading, targets, factor))
    call(Gradient(tuple(written), tuple(divergences), tuple(entropies)), inputs.tensors)
