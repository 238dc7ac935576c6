"""`PackedRows`: samples of packed rows, each in a row of its own, so that attention between them is never computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from dskd_components.components.alignment import Alignment
from dskd_components.errors import InputError
from dskd_components.models.host_reads import Check, on_host, to_device
from dskd_components.models.states import IGNORE_INDEX, UNSCORED_SAMPLE, small_numbers
from dskd_components.models.token_groups import TokenGroups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from dskd_components.components.terms import Tally
    from dskd_components.models.states import LMStates

WORTHWHILE: Final = 2**20
"""Numbers in the attention of a whole batch below which it is computed as it is."""


class SampleRows(NamedTuple):
    """Where the positions of one side stand among rows of samples.

    Args:
        positions: ``[S, L]``, int64: for each place in the rows, the position among all ``B * T``, or -1.
    """

    positions: Tensor

    def of(self, tensor: Tensor, fill: float = 0) -> Tensor:
        """Return ``[S, L, ...]``: what belongs to the positions.

        Args:
            tensor: ``[B, T, ...]``.
            fill: what stands where there is no position.
        """
        rows = tensor.flatten(0, 1).index_select(0, self.positions.clamp_min(0).flatten())
        return _filled(rows.unflatten(0, tuple(self.positions.shape)), self.positions < 0, fill)

    def states(self, states: LMStates) -> LMStates:
        """Return states with a row for each sample; places without a position are not scored."""
        return replace(
            states,
            hidden_states=self.of(states.hidden_states),
            targets=self.of(states.targets, IGNORE_INDEX),
            input_ids=None if states.input_ids is None else self.of(states.input_ids),
            segment_ids=None,
            samples_on_host=None,
            columns={name: self.of(column) for name, column in states.columns.items()},
        )

    def span(self, states: LMStates) -> tuple[Tensor, Tensor]:
        """Return ``[S]`` twice: the least and the largest number in `LMStates.samples` of each row's scored places."""
        scored, samples = self.of(states.scored, fill=False), self.of(states.samples)
        ends = torch.iinfo(torch.int64)
        return samples.where(scored, ends.max).amin(1), samples.where(scored, ends.min).amax(1)


class Bucket(NamedTuple):
    """Samples of about one length.

    Args:
        student: where the student's positions stand.
        teacher: where the teacher's do.
    """

    student: SampleRows
    teacher: SampleRows


@dataclass(frozen=True, eq=False)
class PackedRows:
    """A packed batch laid out anew: rows of samples, those of like length together, so that little is empty.

    Args:
        buckets: the samples.
        student_places: ``[B, Ts]``, int64: where each position has gone, counted through all places of all buckets; -1
            for those that have gone nowhere, because they are not scored.
        teacher_places: ``[B, Tt]``, the same of the teacher's positions.
    """

    buckets: Sequence[Bucket]
    student_places: Tensor
    teacher_places: Tensor

    @classmethod
    def of(cls, student: LMStates, teacher: LMStates, *, together: bool) -> Self | None:
        """Return the samples of a batch, or None where that would save little.

        Where samples lie must be known on the host: it comes with the states, or is read from the device.

        Args:
            student: the student's states.
            teacher: the teacher's states.
            together: whether all samples must be in one bucket.
        """
        dense = student.targets.numel() * teacher.targets.shape[1]
        if dense < WORTHWHILE or (student.segment_ids is None and teacher.segment_ids is None):
            return None
        sides = _samples_on_host(student, teacher)
        samples = torch.cat([side[side != UNSCORED_SAMPLE] for side in sides]).unique()
        if not len(samples):
            return None
        lengths = torch.stack([_counts(side, samples) for side in sides])
        sizes = torch.zeros_like(samples) if together else lengths.amax(0).log2().ceil().long()
        members = [(sizes == size).nonzero().squeeze(1) for size in sizes.unique()]
        shapes = [(len(chosen), *lengths[:, chosen].amax(1).clamp_min(1).tolist()) for chosen in members]
        if 2 * sum(map(math.prod, shapes)) > dense:
            return None
        device = student.targets.device
        parts = [[_positions(side, samples[chosen]) for chosen in members] for side in sides]
        places = [to_device(_places(side, rows), device) for side, rows in zip(sides, parts, strict=True)]
        buckets = [Bucket(*(SampleRows(to_device(rows, device)) for rows in both)) for both in zip(*parts, strict=True)]
        return cls(buckets, *places)

    def check(self, student: LMStates, teacher: LMStates) -> Check:
        """Return the check that samples lie on the device as the host believes.

        Args:
            student: the states that this was made of.
            teacher: the same of the teacher.
        """
        spans = [(*bucket.student.span(student), *bucket.teacher.span(teacher)) for bucket in self.buckets]
        least = torch.cat([torch.minimum(span[0], span[2]) for span in spans])
        largest = torch.cat([torch.maximum(span[1], span[3]) for span in spans])
        ordered = least.sort().values
        left_out = [
            (states.scored & (places < 0)).any()
            for states, places in ((student, self.student_places), (teacher, self.teacher_places))
        ]
        # A row without scored positions has no number, and any number of them may be there.
        split = (ordered[1:] == ordered[:-1]) & (ordered[1:] != torch.iinfo(torch.int64).max)
        mixed = (least != largest) & (least <= largest)

        def complain() -> None:
            raise InputError(
                "LMStates.samples_on_host: expected the samples of the scored positions as segment_ids have them, got "
                "others. Leave samples_on_host out where targets or segment_ids are replaced."
            )

        return Check(torch.stack([*left_out, split.any(), mixed.any()]).any(), complain)

    def groups(self, bucket: Bucket, groups: TokenGroups | None) -> TokenGroups | None:
        """Return the groups of a bucket's rows."""
        if groups is None:
            return None
        return TokenGroups(bucket.student.of(groups.student, -1), bucket.teacher.of(groups.teacher, -1))


def packed(parts: Sequence[Tensor], places: Tensor) -> Tensor:
    """Return ``[B, T, ...]``: what buckets' rows hold, back at its positions; zeros at the others.

    Args:
        parts: of each bucket, ``[S, L, ...]``.
        places: of `PackedRows`, those of one side.
    """
    rows = torch.cat([part.flatten(0, 1) for part in parts])
    found = rows.index_select(0, places.clamp_min(0).flatten()).unflatten(0, tuple(places.shape))
    return _filled(found, places < 0, 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedAlignment(Alignment):
    """An alignment of packed rows that is made of the alignments of their samples.

    Args:
        rows: how samples were laid out.
        parts: the alignment of each bucket.
    """

    rows: PackedRows
    parts: Sequence[Alignment]

    @classmethod
    def of(
        cls,
        rows: PackedRows,
        student: LMStates,
        teacher: LMStates,
        parts: Sequence[Alignment],
        checks: Sequence[Check] = (),
    ) -> Self:
        """Put alignments of samples together.

        Args:
            rows: how samples were laid out.
            student: the packed states.
            teacher: the packed states of the teacher.
            parts: the alignment of each bucket.
            checks: what must hold besides for the states.
        """
        tallies: dict[str, Tally] = {}
        for part in parts:
            for name, tally in part.metrics.items():
                tallies[name] = tallies[name] + tally if name in tallies else tally

        def back(places: Tensor, of_part: Callable[[Alignment], Tensor]) -> Tensor:
            return packed([of_part(part) for part in parts], places)

        nothing = student.hidden_states.new_zeros(0)
        return cls(
            rows=rows,
            parts=[replace(part, student_values=nothing, teacher_values=nothing) for part in parts],
            student_covered=back(rows.student_places, lambda part: part.student_covered),
            teacher_covered=back(rows.teacher_places, lambda part: part.teacher_covered),
            student_values=student.hidden_states,
            teacher_values=back(rows.teacher_places, lambda part: part.teacher_values),
            metrics=tallies,
            checks=[*checks, rows.check(student, teacher)],
        )

    @property
    def tensors(self) -> list[Tensor]:
        """Those of the alignments of samples, too."""
        return [*super().tensors, *(tensor for part in self.parts for tensor in part.tensors)]

    def to_student(self, teacher_side: Tensor) -> Tensor:
        """Return ``[B, Ts, d]``."""
        buckets = zip(self.rows.buckets, self.parts, strict=True)
        brought = [part.to_student(bucket.teacher.of(teacher_side)) for bucket, part in buckets]
        return packed(brought, self.rows.student_places)

    def to_teacher(self, student_side: Tensor) -> Tensor:
        """Return ``[B, Tt, d]``."""
        buckets = zip(self.rows.buckets, self.parts, strict=True)
        brought = [part.to_teacher(bucket.student.of(student_side)) for bucket, part in buckets]
        return packed(brought, self.rows.teacher_places)

    def teacher_index(self) -> Tensor:
        """Return ``[B, Ts]``: the teacher position with the greatest weight."""
        length, found = self.teacher_covered.shape[1], []
        for bucket, part in zip(self.rows.buckets, self.parts, strict=True):
            index = part.teacher_index()
            positions = bucket.teacher.positions.gather(1, index.clamp_min(0)) % length
            found.append(positions.where(index >= 0, -1) + 1)
        return packed(found, self.rows.student_places) - 1


def _filled(rows: Tensor, missing: Tensor, fill: float) -> Tensor:
    return rows.masked_fill(missing.reshape(*missing.shape, *[1] * (rows.ndim - 2)), fill)


def _samples_on_host(student: LMStates, teacher: LMStates) -> list[Tensor]:
    """Return ``[B, T]``, int64, for both sides: a number of each scored position's sample, on the host."""
    sides = {"student": student, "teacher": teacher}
    if any(states.samples_on_host is None for states in sides.values()):
        columns = {name: states.scored_samples() for name, states in sides.items()}
        found = [*on_host(columns, list(columns)).values()]
    else:
        found = [states.samples_on_host for states in sides.values() if states.samples_on_host is not None]
    numbers = small_numbers(*found)
    rows = torch.arange(len(student.targets))[:, None]
    stride = sum(side.numel() for side in found) + 1
    return [
        (rows * stride + number).where(side != UNSCORED_SAMPLE, UNSCORED_SAMPLE)
        for side, number in zip(found, numbers, strict=True)
    ]


def _numbers(side: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions that are of some samples, ascending, and which of the samples each is of."""
    flat = side.flatten()
    number = torch.searchsorted(samples, flat).clamp_max(len(samples) - 1)
    chosen = (samples[number] == flat).nonzero().squeeze(1)
    return chosen, number[chosen]


def _counts(side: Tensor, samples: Tensor) -> Tensor:
    return torch.bincount(_numbers(side, samples)[1], minlength=len(samples))


def _positions(side: Tensor, samples: Tensor) -> Tensor:
    """Return ``[S, L]``, int64: the positions of some samples among all ``B * T``, -1 behind the last one of each."""
    chosen, number = _numbers(side, samples)
    counts = torch.bincount(number, minlength=len(samples))
    order = number.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    found = torch.full((len(samples), max(1, int(counts.max()))), -1)
    found[number[order], torch.arange(len(order)) - starts[number[order]]] = chosen[order]
    return found


def _places(side: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Return ``[B, T]``, int64: for each position its place among all of the buckets' rows, or -1."""
    positions = torch.cat([part.flatten() for part in parts])
    places = torch.full((side.numel(),), -1)
    there = (positions >= 0).nonzero().squeeze(1)
    places[positions[there]] = there
    return places.view_as(side)
