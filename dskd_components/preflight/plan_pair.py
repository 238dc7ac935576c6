"""`PlannedPair`: both models as traced in a micro-batch, the loss between them, and how they are spread."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import torch

from dskd_components.components.distance import Distance
from dskd_components.components.group_space import GroupSpace
from dskd_components.components.projector import ProjectorHeads
from dskd_components.components.space import Space
from dskd_components.engines.tiled import Tiled
from dskd_components.engines.work import LossShapes, products_of
from dskd_components.errors import ConfigurationError
from dskd_components.models.head import Head
from dskd_components.preflight.sharding import MASTER, Spread, reduce_bucket_size
from dskd_components.preflight.traced import WIDE, trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from dskd_components.components.space import Direction
    from dskd_components.models.states import Side
    from dskd_components.preflight.plan import Setup
    from dskd_components.preflight.traced import TracedModel
    from dskd_components.spec.dskd_spec import DSKDSpec


class Models:
    """Both models on the meta device, traced once for each batch that is looked at.

    Args:
        student: the student.
        teacher: the teacher.
    """

    def __init__(self, student: Any, teacher: Any) -> None:
        self.student, self.teacher = student, teacher
        self._known: dict[Any, TracedModel] = {}
        self.row_seconds: dict[Any, float] = {}
        """How long a row of logits takes to be compared, by what is compared; it stays from plan to plan."""

    def traced(self, side: Side, setup: Setup) -> TracedModel:
        """Return one side, traced in the setup's micro-batch.

        Args:
            side: which.
            setup: how a step is made.
        """
        trains = side == "student"
        length = setup.length if trains else setup.teacher_length
        key = (side, setup.rows, length, setup.fused_attention, trains and setup.checkpointing)
        if key not in self._known:
            self._known[key] = trace(
                self.student if trains else self.teacher,
                setup.rows,
                length,
                trains=trains,
                fused_attention=setup.fused_attention,
                checkpointing=trains and setup.checkpointing,
            )
        return self._known[key]


class PlannedPair:
    """What a step of a set-up has to do with.

    Args:
        models: both models.
        setup: how the step is made.

    Raises:
        ConfigurationError: the spec cannot be used for this pair.
    """

    def __init__(self, models: Models, setup: Setup) -> None:
        self.setup, self.spec, self.models = setup, setup.spec, models
        _require_plain(self.spec)
        self.student, self.teacher = models.traced("student", setup), models.traced("teacher", setup)
        heads = cut_heads(setup)
        self.spread = Spread(setup.sharding, setup.devices, cut_head="student" in heads)
        if setup.sharding in MASTER:
            size = reduce_bucket_size(setup.reduce_bucket_size, getattr(models.student, "config", None))
            self.spread = replace(self.spread, reduce_bucket_size=size)
        cut = setup.teacher == "sharded"
        self.teacher_spread = Spread(
            "fsdp2" if cut else "none", setup.devices if cut else 1, cut_head="teacher" in heads
        )
        _require_one_vocabulary(self.spec, self.student, self.teacher)

    @property
    def spreads(self) -> dict[Side, Spread]:
        """By side, how its model is spread."""
        return {"student": self.spread, "teacher": self.teacher_spread}

    @property
    def has_master(self) -> bool:
        """Whether the optimizer works on a copy in float32."""
        return self.setup.sharding in MASTER and self.student.itemsize < WIDE

    def tokens(self, side: Side) -> int:
        """Return the tokens of a micro-batch on one device."""
        return self.setup.rows * (self.setup.length if side == "student" else self.setup.teacher_length)

    @property
    def attends(self) -> bool:
        """Whether the aligner makes scores between all positions of both sides."""
        return not (self.spec.aligner.same_tokenizer or self.spec.aligner.text_method is not None)

    @cached_property
    def shapes(self) -> LossShapes:
        """The shapes that the loss has to do with."""
        sides: dict[Side, TracedModel] = {"student": self.student, "teacher": self.teacher}
        return LossShapes(
            spaces=self.spec.spaces,
            measure=self.spec.measure,
            engine=self.spec.engine,
            scored={side: max(1, round(self.tokens(side) * self.setup.scored)) for side in sides},
            widths={side: model.hidden_size for side, model in sides.items()},
            vocabularies={side: model.vocabulary for side, model in sides.items()},
            head_learns=self.student.trained_head > 0,
            projections_learn=self.projectors.numbers > 0,
        )

    @property
    def loss_names(self) -> list[tuple[Side, str]]:
        """The parts of the loss, each with its side."""
        return [(term.side, f"loss: {term.name}") for term in products_of(self.shapes)]

    @cached_property
    def projectors(self) -> Projectors:
        """The modules of the loss."""
        return _projectors(self.spec, self.student, self.teacher)


def cut_heads(setup: Setup) -> frozenset[Side]:
    """Return whose heads stay cut over devices in the loss, as `Tiled.vocabulary_parallel` has it.

    Args:
        setup: how a step is made.
    """
    engine = setup.spec.engine
    if not isinstance(engine, Tiled) or engine.vocabulary_parallel != "always" or setup.devices == 1:
        return frozenset()
    shards: dict[Side, bool] = {"student": setup.sharding == "fsdp2", "teacher": setup.teacher == "sharded"}
    found = {side for side, cut in shards.items() if cut and not any(_sees_all(setup.spec, side))}
    own = any(space.projector is None for space in setup.spec.spaces)  # both heads are read together
    return frozenset() if own and "student" not in found else frozenset(found)


def _sees_all(spec: DSKDSpec, side: Side) -> Iterator[bool]:
    """Yield of each space that reads a side's head whether it must see all logits of a row."""
    for space in spec.spaces:
        if space.projector is None or space.side == side:
            yield space.reads_logits
            yield not all(distance.sums_over_vocabulary for distance in space.distances(spec.distance))


@dataclass(frozen=True)
class Projectors:
    """Modules of the loss: their bytes, and how many of their numbers are trained."""

    bytes: int
    numbers: int


def _projectors(spec: DSKDSpec, student: TracedModel, teacher: TracedModel) -> Projectors:
    """Return what projectors and aligner hold, in float32."""
    widths = {"t2s": (teacher.hidden_size, student.hidden_size), "s2t": (student.hidden_size, teacher.hidden_size)}
    size = numbers = 0
    with torch.device("meta"):
        aligner = spec.aligner.build(
            student_embedding_size=student.embedding_size, teacher_embedding_size=teacher.embedding_size
        )
    modules: list[tuple[nn.Module, float, int]] = [(aligner, 1.0, 0)]
    for direction in spec.directions:
        source, target = widths[direction]
        modules.append(_projection(spec, direction, source, target))
    for module, times, constant in modules:
        trained = sum(parameter.numel() for parameter in module.parameters())
        numbers += int(trained * times)
        size += int(trained * times) * WIDE + constant
    return Projectors(size, numbers)


SMALL: Final = (12, 8)
"""Widths of a projection that is made from heads, and has to be made to be looked at."""


def _projection(spec: DSKDSpec, direction: Direction, source: int, target: int) -> tuple[nn.Module, float, int]:
    """Return a projection, what its numbers are multiplied with, and the bytes of its constants."""
    projector = spec.projector_for(direction)
    if not projector.needs_heads:
        with torch.device("meta"):
            return projector.build(source_size=source, target_size=target, heads=None), 1.0, 0
    generator = torch.Generator().manual_seed(0)
    heads = ProjectorHeads(
        source=Head(torch.randn(64, SMALL[0], generator=generator)),
        target=Head(torch.randn(64, SMALL[1], generator=generator)),
    )
    small = projector.build(source_size=SMALL[0], target_size=SMALL[1], heads=heads)
    times = source * target / (SMALL[0] * SMALL[1])
    return small, times, int(small.constant_bytes * times)


def _require_plain(spec: DSKDSpec) -> None:
    """Refuse what can only be looked at once it is built from heads, or with a batch."""
    for space in spec.spaces:
        learned = [
            f"the distance {distance.name!r}"
            for distance in space.distances(spec.distance)
            if type(distance).build is not Distance.build
        ]
        reasons = [f"{name} has parameters" for name in learned]
        if isinstance(space, GroupSpace):
            reasons.append(f"the space {space.name!r} combines groups")
        elif type(space).build is not Space.build:
            reasons.append(f"the space {space.name!r} has parameters")
        if space.reads_columns:
            reasons.append(f"the space {space.name!r} reads columns of a batch")
        if reasons:
            raise ConfigurationError(
                f"spec: {reasons[0]}, and its work is not known from shapes alone. Plan with another space or distance "
                "in its place; preflight measures it between the models themselves."
            )


def _require_one_vocabulary(spec: DSKDSpec, student: TracedModel, teacher: TracedModel) -> None:
    """Refuse a spec for one tokenizer where the models cannot share one."""
    smaller, larger = sorted((student.vocabulary, teacher.vocabulary))
    if spec.aligner.same_tokenizer and larger > 1.1 * smaller:
        raise ConfigurationError(
            f"spec: the aligner {spec.aligner.name!r} presumes one tokenizer, but the student's head has "
            f"{student.vocabulary:,} rows and the teacher's {teacher.vocabulary:,}. Give a spec for two tokenizers, as "
            "--spec dskd-cma."
        )
