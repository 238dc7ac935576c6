"""What each way of spreading a model over devices keeps whole, cuts up, gathers and sends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from dskd_components.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.preflight.traced import TracedModel

Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp2"]
"""The student as it is on one device, or spread by an engine; each of them keeps no more than those before it."""

TeacherPlace = Literal["replicated", "sharded", "store"]
"""The teacher whole on each device, cut up over them, or not there: its states come from a store."""

Part = Literal["parameters", "gradients", "optimizer"]

CUT: Final[Mapping[Sharding, frozenset[Part]]] = {
    "none": frozenset(),
    "ddp": frozenset(),
    "zero1": frozenset({"optimizer"}),
    "zero2": frozenset({"optimizer", "gradients"}),
    "zero3": frozenset({"optimizer", "gradients", "parameters"}),
    "fsdp2": frozenset({"optimizer", "gradients", "parameters"}),
}
"""What each device has a part of only."""

MASTER: Final = frozenset({"zero1", "zero2", "zero3"})
"""DeepSpeed keeps a copy in float32 of parameters in half precision, for the optimizer."""

BUCKET: Final = 500_000_000
"""Numbers that DeepSpeed reduces at once (``reduce_bucket_size``, its default). It makes room for all of them, however
small the model is: in each backward pass at stages 1 and 2, and for good at stage 3."""

BucketSize = int | Literal["auto"]
"""A ``reduce_bucket_size`` as DeepSpeed's file has it; ``"auto"``: what a trainer or Accelerate fills in."""

DDP_FIRST: Final = 2**20
"""Bytes of the first bucket that DistributedDataParallel reduces."""

DDP_BUCKET: Final = 25 * 2**20
"""Bytes of each other one (``bucket_cap_mb``)."""

AROUND_GATHERED: Final = 140
"""What a host does around each collective of an engine that gathers parameters, in operations that have nothing to do.
Measured under FSDP2 (gloo, one thread) with 2 and 8 blocks of layers; of ZeRO-3 it is taken to be the same."""

AROUND_BUCKET: Final = 35
"""The same of each bucket of gradients, under DistributedDataParallel; of ZeRO-1 and 2 it is taken to be the same."""

FOR_EACH_GRADIENT: Final = 4
"""The same of each parameter whose gradient goes into a bucket."""

MORE: Final[Mapping[Sharding, Sharding]] = {"none": "ddp", "ddp": "zero1", "zero1": "zero2", "zero2": "fsdp2"}
"""What cuts up the next part as well."""


def require_sharding(name: str) -> Sharding:
    """Return a way of spreading a model by its name.

    Args:
        name: what the user wrote.

    Raises:
        ConfigurationError: there is none of that name.
    """
    known: tuple[Sharding, ...] = get_args(Sharding)
    return known[_number("sharding", name, known)]


def require_teacher_place(name: str) -> TeacherPlace:
    """Return where the teacher is by its name.

    Args:
        name: what the user wrote.

    Raises:
        ConfigurationError: there is none of that name.
    """
    known: tuple[TeacherPlace, ...] = get_args(TeacherPlace)
    return known[_number("teacher", name, known)]


def hidden_size_of(config: Any) -> int | None:
    """Return the width that ``"auto"`` in a DeepSpeed file stands for, None if a configuration has none.

    Args:
        config: of the model that an engine trains.
    """
    for holder in (config, getattr(config, "text_config", None)):
        sizes = [getattr(holder, "hidden_size", None), *(getattr(holder, "hidden_sizes", None) or ())]
        if sizes[0] is not None or len(sizes) > 1:
            return int(sizes[0] if sizes[0] is not None else max(sizes[1:]))
    return None


def reduce_bucket_size(given: BucketSize, config: Any) -> int:
    """Return how many numbers a bucket has: ``"auto"`` is the square of the width, as transformers fills it in.

    Args:
        given: what the file has.
        config: of the model that the engine trains.

    Raises:
        ConfigurationError: it is ``"auto"``, and the configuration has no width.

    Examples:
        >>> from types import SimpleNamespace
        >>> reduce_bucket_size("auto", SimpleNamespace(hidden_size=4096))
        16777216
    """
    if given != "auto":
        return given
    width = hidden_size_of(config)
    if width is None:
        raise ConfigurationError(
            "reduce_bucket_size 'auto': the student's configuration has neither hidden_size nor hidden_sizes, so that "
            "a trainer cannot fill it in. Give a number, as in its DeepSpeed file."
        )
    return width**2


def _number(field: str, name: str, known: tuple[str, ...]) -> int:
    if name not in known:
        raise ConfigurationError(
            f"{field} {name!r} is not known{did_you_mean(name, known)}; expected one of {', '.join(known)}."
        )
    return known.index(name)


@dataclass(frozen=True)
class Spread:
    """A model over some devices.

    Args:
        sharding: how.
        devices: over how many.
        cut_head: whether the head stays cut in the loss. What is outside of blocks is then put away after the forward
            pass, and gathered again for the backward pass.
        reduce_bucket_size: how many numbers DeepSpeed's buckets of gradients have.
    """

    sharding: Sharding
    devices: int
    cut_head: bool = False
    reduce_bucket_size: int = BUCKET

    def share(self, part: Part) -> float:
        """Return the share of a part that each device keeps."""
        return 1 / self.devices if part in CUT[self.sharding] else 1.0

    @property
    def gathers(self) -> bool:
        """Whether parameters are gathered for each use."""
        return "parameters" in CUT[self.sharding]

    def root_gathered(self, model: TracedModel) -> int:
        """Return the bytes that are gathered throughout a pass: all outside of the blocks of layers."""
        return model.root if self.gathers else 0

    def kept_gathered(self, model: TracedModel) -> int:
        """Return those of them that stay gathered from the forward pass on: all, unless the head stays cut."""
        return 0 if self.cut_head else self.root_gathered(model)

    def passing_gathered(self, model: TracedModel) -> int:
        """Return the bytes of blocks that are gathered at once: the one at work, the next, and what it arrives in."""
        return 3 * max(model.units, default=0) if self.gathers else 0

    def buckets(self, model: TracedModel) -> int:
        """Return the bytes of buckets in which gradients are brought together and sent, as far as they are kept."""
        if self.sharding == "ddp":
            return sum(model.trained)
        return self._bucket(model) if self.sharding == "zero3" else 0

    def backward_buckets(self, model: TracedModel) -> int:
        """Return the bytes of those that are there in the backward pass alone."""
        return self._bucket(model) if self.sharding in ("zero1", "zero2") else 0

    def _bucket(self, model: TracedModel) -> int:
        return self.reduce_bucket_size * model.itemsize

    def sent(self, model: TracedModel, *, micro_batches: int) -> float:
        """Return the bytes that each device sends in a step.

        Args:
            model: the student.
            micro_batches: how many there are in a step.
        """
        others = (self.devices - 1) / self.devices
        gradients = sum(model.trained)
        if self.gathers:  # parameters for both passes, and gradients once, in every micro-batch
            return others * micro_batches * (2 * model.bytes + gradients)
        # A sum over devices is taken in two rounds, whoever updates what.
        return 2 * others * gradients

    def collectives(self, model: TracedModel, *, micro_batches: int, trains: bool) -> int:
        """Return how many collectives a step has.

        Args:
            model: the student or the teacher.
            micro_batches: how many there are in a step.
            trains: whether it has a backward pass.
        """
        if self.gathers:  # each block in either pass, and its gradients; what is outside of blocks in one, or in both
            groups = len(model.units) + 1
            if not trains:
                return micro_batches * groups
            full = math.ceil(sum(model.trained) / self._bucket(model)) if self.sharding == "zero3" else 0
            return micro_batches * (2 * groups - (not self.cut_head) + max(groups, full))
        if not trains or self.sharding == "none":
            return 0
        gradients = sum(model.trained)
        if self.sharding == "ddp":
            return 1 + math.ceil(max(gradients - DDP_FIRST, 0) / DDP_BUCKET)
        return 2 * max(1, math.ceil(gradients / self._bucket(model)))

    def operations(self, model: TracedModel, *, micro_batches: int, trains: bool) -> int:
        """Return as how many operations with nothing to do the host's work around collectives counts.

        Args:
            model: as in `collectives`.
            micro_batches: as there.
            trains: as there.
        """
        collectives = self.collectives(model, micro_batches=micro_batches, trains=trains)
        if self.gathers:
            return AROUND_GATHERED * collectives
        return AROUND_BUCKET * collectives + FOR_EACH_GRADIENT * len(model.trained) if collectives else 0
