"""A block of logits of which this rank has some columns: what runs over a vocabulary is summed over ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dskd_components.components.distance import PartOfDistances, measured
from dskd_components.components.distribution import Distribution
from dskd_components.engines._tiling.logit_block import (
    CrossEntropyGradient,
    DenseGradient,
    LogitBlock,
    TiledRows,
    blocked_argmax,
)
from dskd_components.errors import InputError
from dskd_components.models.head import Head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from dskd_components.components.distance import Distance
    from dskd_components.distributed.vocabulary_shards import VocabularyShards


def argmax_of_parts(logits: Tensor, shards: VocabularyShards) -> Tensor:
    """Return ``[n]``, int64: the first token of each row that has its largest logit on any rank.

    Args:
        logits: ``[n, W]``: this rank's columns.
        shards: how columns are cut.
    """
    return _argmax(logits, shards, shards.largest(_largest(logits)))


def _largest(logits: Tensor) -> Tensor:
    """Return ``[n, 1]``; minus infinity where there is no column."""
    return logits.amax(-1, keepdim=True) if logits.shape[1] else logits.new_full((len(logits), 1), -torch.inf)


def _argmax(logits: Tensor, shards: VocabularyShards, largest: Tensor) -> Tensor:
    nowhere = shards.bounds[-1]
    found = torch.full((len(logits),), nowhere, dtype=torch.int64, device=logits.device)
    if logits.shape[1]:
        is_here = _largest(logits) == largest
        found = (shards.own.start + blocked_argmax(logits)).where(is_here.squeeze(1), found)
    # NaN is nowhere, and a token all the same: the loss will say what is wrong.
    return shards.smallest(found).clamp_max(nowhere - 1)


class LogitPart(LogitBlock):
    """Rows of logits, of which each rank has some columns. What it hands out is the same as if it had all of them.

    Where ranks have rows of their own, the logits are those of all ranks' rows; what is handed out is of this one's.

    Args:
        logits: ``[n, W]``; in the end the gradient is written over them.
        head: the head of these columns.
        shards: how the columns are cut.
        length: how many of the rows are this rank's.
        all_finite: whether no entry is ``-inf``.
        requires_grad: whether a gradient will be asked for.
    """

    def __init__(
        self,
        logits: Tensor,
        *,
        head: Head,
        shards: VocabularyShards,
        length: int,
        all_finite: bool,
        requires_grad: bool,
    ) -> None:
        super().__init__(logits, head=head, all_finite=all_finite, requires_grad=requires_grad)
        self.shards = shards
        # Nobody has the columns of all ranks: this has their number, and no values.
        self.leaf = torch.empty(length, shards.bounds[-1], dtype=logits.dtype, device="meta")
        self._length = length
        self._most = len(logits) if shards.same_rows else len(logits) // shards.ranks
        self._known_largest: Tensor | None = None
        self._scored: dict[int, Tensor] = {}
        self._restricted: list[tuple[Tensor, LogitPart]] = []

    @torch.no_grad()
    def distribution(self, temperature: float) -> Distribution:
        """Return the distributions at a temperature, of this rank's tokens, computed once."""
        if temperature not in self._distributions:
            scaled = self._logits if temperature == 1.0 else self._logits / temperature
            largest = self._largest if temperature == 1.0 else self._largest / temperature
            exponentials = (scaled - largest).exp_()
            total = self.shards.total(exponentials.sum(-1, keepdim=True))
            self._distributions[temperature] = Distribution.of_part(
                scaled,
                probs=exponentials.div_(total),
                largest=largest,
                log_sum=total.log(),
                all_finite=self._all_finite,
            )
        return self._distributions[temperature]

    @property
    def _largest(self) -> Tensor:
        """``[n, 1]``: the largest logit of each row on any rank."""
        if self._known_largest is None:
            self._known_largest = self.shards.largest(_largest(self._logits))
        return self._known_largest

    @torch.no_grad()
    def predicted(self) -> Tensor:
        """Return ``[length]``, int64: the most likely token of each row."""
        return self.own(_argmax(self._logits, self.shards, self._largest))

    def cross_entropy(self, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """Return ``[length]``: the cross entropy of each row at a temperature, a leaf; 0 where the target is -100."""
        distribution = self.distribution(temperature)
        targets = self.of_all(targets)
        own = self.shards.own
        scored, here = targets >= 0, (targets >= own.start) & (targets < own.stop)
        columns = (targets - own.start).clamp(0, max(0, own.stop - own.start - 1))
        log_probs = self._logits.new_zeros(len(targets))
        if own.start < own.stop:
            log_probs = distribution.log_probs_of(columns).where(here, 0.0)
        values = self.own(self.shards.total(log_probs).neg_().where(scored, 0.0)).requires_grad_(self.requires_grad)
        if self.requires_grad:
            self._scored[id(values)] = scored
            factor = 1 / temperature
            self._dense.append(DenseGradient(values, distribution.probs, factor))
            self._cross_entropies.append(CrossEntropyGradient(values, distribution.probs, columns, here, factor))
        return values

    def own(self, of_all: Tensor) -> Tensor:
        """Return what belongs to this rank's rows."""
        return self.shards.own_rows(of_all, self._length)

    def of_all(self, own: Tensor) -> Tensor:
        """Return what belongs to the rows of all ranks."""
        return self.shards.rows_of_all(own, self._most)

    def restricted(self, ids: Tensor) -> LogitPart:
        """Return the same rows over some tokens only.

        Args:
            ids: ``[K]``, int64, ascending: the tokens, of all ranks.
        """
        before = torch.searchsorted(ids, torch.tensor(self.shards.bounds, device=ids.device)).tolist()
        shards = self.shards.among(before)
        columns = ids[shards.own] - self.shards.own.start
        block = LogitPart(
            self._logits[:, columns],
            head=Head(self._head.weight.detach()),  # what logits are made of is the whole block's matter
            shards=shards,
            length=self._length,
            all_finite=self._all_finite,
            requires_grad=self.requires_grad,
        )
        block._scored = self._scored  # all leaves are asked for together
        self._restricted.append((columns, block))
        return block

    @property
    def leaves(self) -> list[Tensor]:
        """What the loss may depend on: the values computed from the logits."""
        own = [dense.values for dense in self._dense] if self.requires_grad else []
        return own + [leaf for _, block in self._restricted for leaf in block.leaves]

    @torch.no_grad()
    def write_gradient(self, of_leaves: Mapping[int, Tensor | None]) -> None:
        """Overwrite the logits with the loss's gradient to the product of states and weight, plus bias.

        Args:
            of_leaves: the loss's gradient to each of `leaves`, by identity.
        """
        self._write({id(leaf): self._coefficients(leaf, of_leaves) for leaf in self.leaves})

    def _write(self, of_all: Mapping[int, Tensor | None]) -> None:
        if self._logits.shape[1]:
            super().write_gradient(of_all)

    def _coefficients(self, leaf: Tensor, of_leaves: Mapping[int, Tensor | None]) -> Tensor | None:
        """Return ``[n]``: the loss's gradient to values, for the rows of all ranks."""
        of_values = of_leaves.get(id(leaf))
        if of_values is None:
            return None
        of_values, scored = self.of_all(of_values), self._scored.get(id(leaf))
        return of_values if scored is None else of_values.where(scored, 0.0)

    def _parts(self, of_leaves: Mapping[int, Tensor | None]) -> Iterator[tuple[Tensor, Tensor]]:
        for dense in self._dense:
            of_values = of_leaves.get(id(dense.values))
            if of_values is not None:
                yield dense.gradient, of_values[:, None] * dense.factor
        for columns, block in self._restricted:
            block._write(of_leaves)
            gradient = torch.zeros_like(self._logits)
            yield gradient.index_copy_(1, columns, block._logits), torch.ones_like(gradient[:, :1])


@dataclass(frozen=True, eq=False, kw_only=True)
class PartRows(TiledRows):
    """Rows whose logits are cut over ranks; their logits have no values anywhere."""

    @property
    def _blocks(self) -> tuple[LogitPart, LogitPart]:
        student, teacher = self.student, self.teacher
        assert isinstance(student, LogitPart), "both heads are cut alike"
        assert isinstance(teacher, LogitPart), "both heads are cut alike"
        return student, teacher

    def divergence(self, distance: Distance | None, *, detach_teacher: bool = False) -> Tensor:
        """Return ``[N]``: the distance of each row at the spec's temperatures, in nats.

        Raises:
            InputError: the distance is no sum over the vocabulary.
        """
        measure, distance = self.measure, distance or self.measure.distance
        if not distance.sums_over_vocabulary:
            raise InputError(
                f"The distance {distance.name!r} is no sum over the vocabulary, and a head is cut over ranks. A space "
                'that chooses such a distance needs the engine {"name": "tiled", "vocabulary_parallel": "never"}.'
            )
        student, teacher = self._blocks
        with torch.no_grad():
            found = measured(
                distance,
                PartOfDistances,
                student.distribution(measure.temperature),
                teacher.distribution(measure.teacher_temperature),
                of_student=student.requires_grad,
                of_teacher=teacher.requires_grad and not detach_teacher,
            )
            sums = [found.values, *(part.sum(-1) for part in (found.student, found.teacher) if part is not None)]
            total = student.shards.total(torch.stack(sums))
            # The whole cannot be negative but by rounding, though its parts can.
            values = student.own(total[0].clamp_min(0.0) * measure.scale)
            values.requires_grad_(found.student is not None or found.teacher is not None)
            of_sides = iter(total[1:])
            for block, derivative, temperature in (
                (student, found.student, measure.temperature),
                (teacher, found.teacher, measure.teacher_temperature),
            ):
                if derivative is not None:
                    probs = block.distribution(temperature).probs
                    gradient = derivative.addcmul_(probs, next(of_sides)[:, None], value=-1)
                    block.contribute(values, gradient, measure.scale / temperature)
        return values

    def shared_divergence(self, distance: Distance | None) -> Tensor:  # noqa: ARG002
        """Refuse: the two logits of a shared token may be on two ranks.

        Raises:
            InputError: always.
        """
        raise InputError(
            "rows.shared_divergence needs all logits of a row, and a head is cut over ranks. Leave `reads_logits` of"
            " the space True, as it is unless a class says otherwise, and the head is gathered."
        )

    def restricted(self, ids: Tensor) -> PartRows:
        """Return the same rows over a part of the vocabulary, whose other tokens cannot occur.

        Args:
            ids: ``[K]``, int64, ascending: the tokens that are left. They are numbered anew, from 0 on.
        """
        student, teacher = (block.restricted(ids) for block in self._blocks)
        return PartRows(
            student_logits=student.leaf,
            teacher_logits=teacher.leaf,
            student=student,
            teacher=teacher,
            targets=self._numbered_anew(self.targets, ids),
            teacher_argmax=None if self.teacher_argmax is None else self._numbered_anew(self.teacher_argmax, ids),
            measure=self.measure,
            columns=self.columns,
        )
