"""From two models on the meta device to the plan of a step: memory and time by component, and what makes it fit."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from dskd_components.components.projector import ProjectorHeads
from dskd_components.engines.tiled import Tiled
from dskd_components.engines.work import LossShapes, products_of
from dskd_components.errors import ConfigurationError, InputError
from dskd_components.models.head import Head
from dskd_components.preflight.memory import attention_bytes, engine_bytes
from dskd_components.preflight.plan import OPTIMIZERS, PlanPart, Remedy, Setup, StepPlan
from dskd_components.preflight.sharding import MASTER, MORE, Spread
from dskd_components.preflight.traced import WIDE, Operand, Product, Work, counting, trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from dskd_components.models.states import Side
    from dskd_components.preflight.device import Device
    from dskd_components.preflight.sharding import Sharding
    from dskd_components.preflight.traced import TracedModel
    from dskd_components.spec.dskd_spec import DSKDSpec

TILE_ROWS: Final = 256
"""Rows of the product that stands for those of a loss."""

LOSS_OPERATIONS: Final = 1000
"""Operations of a loss that do not grow with the batch: positions, checks, sums. A step of ``span`` over a few tokens takes
about as long as so many."""

HEAD_ROWS: Final = 1024
"""Rows of a head that the same takes."""


def plan_step(student: Any, teacher: Any, setup: Setup, device: Device) -> StepPlan:
    """Return what a step takes on each device, without a weight or a number.

    Args:
        student: the student, on the meta device.
        teacher: the teacher, on the meta device.
        setup: how the step is made.
        device: how fast it is; its memory counts where the setup names none.

    Raises:
        InputError: a model is not on the meta device, or cannot be run there, or both are the same object.
        ConfigurationError: the spec cannot be used for this pair.

    Examples:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from dskd_components import DSKDSpec
        >>> from dskd_components.preflight.device import stated_device
        >>> with torch.device("meta"):
        ...     sizes = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        ...     student, teacher = (LlamaForCausalLM(LlamaConfig(hidden_size=size, **sizes)) for size in (32, 64))
        >>> plan = plan_step(student, teacher, Setup(spec=DSKDSpec.preset("dskd")), stated_device("h100"))
        >>> plan.fits, plan.largest.component
        (True, 'loss: teacher')
    """
    if student is teacher:
        raise InputError("student, teacher: expected two models, got one and the same.")
    if setup.device_memory is None and device.memory is not None:
        setup = replace(setup, device_memory=device.memory)
    models = _Traced(student, teacher)
    planned = _Step(models, setup, device).plan()
    if planned.fits:
        return planned
    return replace(planned, remedies=tuple(_remedies(models, planned, device)))


@dataclass(frozen=True, eq=False)
class _Traced:
    """Both models, traced once for each batch that is looked at."""

    student: Any
    teacher: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", {})

    def of(self, side: Side, setup: Setup) -> TracedModel:
        """Return one side, traced in the setup's micro-batch."""
        known: dict[Any, TracedModel] = self._known  # type: ignore[attr-defined]
        trains = side == "student"
        length = setup.length if trains else setup.teacher_length
        key = (side, setup.rows, length, setup.fused_attention, trains and setup.checkpointing)
        if key not in known:
            known[key] = trace(
                self.student if trains else self.teacher,
                setup.rows,
                length,
                trains=trains,
                fused_attention=setup.fused_attention,
                checkpointing=trains and setup.checkpointing,
            )
        return known[key]


class _Step:
    """One step as it is set up.

    Args:
        models: both models.
        setup: how it is made.
        device: on what.
    """

    def __init__(self, models: _Traced, setup: Setup, device: Device) -> None:
        self.setup, self.device, self.spec = setup, device, setup.spec
        self.student, self.teacher = models.of("student", setup), models.of("teacher", setup)
        self.spread = Spread(setup.sharding, setup.devices)
        cut = setup.teacher == "sharded"
        self.teacher_spread = Spread("fsdp2" if cut else "none", setup.devices if cut else 1)
        _require_one_vocabulary(self.spec, self.student, self.teacher)

    def plan(self) -> StepPlan:
        """Return the plan, without changes to it."""
        held = [PlanPart(name, "held", 0.0, int(size)) for name, size in self.held().items() if size]
        seconds, memory = self.seconds(), self.in_turn()
        running = [PlanPart(name, "in turn", seconds[name], int(size)) for name, size in memory.items()]
        return StepPlan(
            student=self.student.name,
            teacher=self.teacher.name,
            parts=(*held, *running),
            setup=self.setup,
            assumptions=tuple(self.assumptions()),
        )

    # Memory

    def held(self) -> dict[str, float]:
        """Return the bytes that are there all the time, by name."""
        student, spread = self.student, self.spread
        numbers, itemsize = student.numbers, student.itemsize
        copies = WIDE * numbers if self._has_master and itemsize < WIDE else 0
        state = (WIDE if copies else itemsize) * numbers * OPTIMIZERS[self.setup.optimizer]
        of_loss = self.projectors.bytes
        return {
            "student weights": student.bytes * spread.share("parameters"),
            "teacher weights": self._teacher_weights(),
            "projectors": of_loss,
            "optimizer: master weights": copies * spread.share("optimizer"),
            "optimizer: states": state * spread.share("optimizer") + of_loss * OPTIMIZERS[self.setup.optimizer],
            "gradient buckets": spread.buckets(student),
            "gradients of earlier micro-batches": self._gradients if self.setup.accumulation > 1 else 0,
        }

    def _teacher_weights(self) -> float:
        teacher = self.teacher
        if self.setup.teacher == "store":
            return teacher.vocabulary * teacher.hidden_size * teacher.itemsize  # the head alone
        return teacher.bytes * self.teacher_spread.share("parameters")

    def in_turn(self) -> dict[str, float]:
        """Return the most that is there beside what is held while each part runs, by name."""
        student, teacher = self.student, self.teacher
        kept = self.spread.kept_gathered(student)
        passing = self.spread.passing_gathered(student)
        of_teacher = self.teacher_spread.kept_gathered(teacher) if self.setup.teacher == "sharded" else 0
        passing_teacher = self.teacher_spread.passing_gathered(teacher)
        waiting = student.activations + kept + of_teacher + self._states
        grown = student.trained_head // student.itemsize * WIDE if student.trained_head else 0
        in_engine = self._in_engine()
        parts = {
            "student forward": kept + passing + max(student.forward_peak, student.activations),
            "teacher forward": kept + student.activations + of_teacher + passing_teacher + teacher.forward_peak,
        }
        if self.setup.teacher == "store":
            parts["teacher forward"] = student.activations + kept + self._teacher_states
        of_sides = {"student": grown, "teacher": 0}
        for side, name in self._loss_names():
            parts[name] = waiting + of_sides[side] + in_engine[side] + self._attention_bytes
        parts["student backward"] = self._backward(waiting + grown, kept, passing)
        new = 0 if self.setup.accumulation > 1 else self._gradients
        if self.setup.devices > 1:
            parts["communication"] = new + (max(student.units, default=0) if self.spread.gathers else 0)
        parts["optimizer"] = new + self._temporaries
        return parts

    def _backward(self, waiting: float, kept: float, passing: float) -> float:
        """Return the most that is there while the gradient goes back through the student."""
        student = self.student
        narrowed = student.trained_head if student.itemsize < WIDE else 0
        share = self.spread.share("gradients")
        unit = max(student.units, default=0)
        root = sum(student.trained) - sum(student.units) if student.units else 0
        # Of what is cut up, a block's gradients are whole until they are sent, and those outside of blocks to the end.
        whole = 2 * unit + max(root, 0) if share < 1 and self.spread.gathers else 0
        accumulated = share if self.setup.accumulation == 1 else 0.0
        through = kept + passing + whole + student.backward_peak(accumulated)
        tied = student.trained_head if student.tied else 0
        at_the_end = kept + accumulated * sum(student.trained) + self.projectors.bytes + tied
        return max(waiting + narrowed, through + student.trained_head, at_the_end)

    @property
    def _gradients(self) -> float:
        return sum(self.student.trained) * self.spread.share("gradients") + self.projectors.bytes

    @property
    def _temporaries(self) -> float:
        """What a step of the optimizer makes and drops: on a GPU for all parameters at once, on a CPU for one."""
        if OPTIMIZERS[self.setup.optimizer] < 2:
            return 0
        wider = WIDE / self.student.itemsize if self._has_master else 1.0
        sizes = [size * wider * self.spread.share("optimizer") for size in self.student.trained]
        return 2 * max(sizes, default=0) if self.device.on_cpu else sum(sizes)

    @property
    def _has_master(self) -> bool:
        return self.setup.sharding in MASTER

    @property
    def _teacher_states(self) -> int:
        rows, length = self.setup.rows, self.setup.teacher_length
        return rows * length * self.teacher.hidden_size * self.teacher.itemsize

    @cached_property
    def _states(self) -> int:
        """Hidden states of both models in float32, and the gradient of the student's."""
        student, teacher = self.student, self.teacher
        numbers = {"student": self._tokens("student") * student.hidden_size}
        numbers["teacher"] = self._tokens("teacher") * teacher.hidden_size
        widened = [numbers["student"] * WIDE * (student.itemsize < WIDE), numbers["student"] * WIDE]
        return sum(widened) + self._teacher_states + numbers["teacher"] * WIDE * (teacher.itemsize < WIDE)

    def _in_engine(self) -> dict[Side, int]:
        sides: tuple[Side, Side] = ("student", "teacher")
        logits = []
        for side in sides:
            streams = self.shapes.streams(side)
            logits.append((len(streams), self.shapes.scored[side] * max(streams, default=0) * WIDE))
        of_sides = engine_bytes(self.spec.engine, logits, on_cpu=self.device.on_cpu)
        if not isinstance(self.spec.engine, Tiled):
            of_sides = [sum(of_sides)] * 2  # nothing is given back before the backward pass
        return dict(zip(sides, of_sides, strict=True))

    @property
    def _attention_bytes(self) -> int:
        return attention_bytes(self.spec.aligner, self._tokens("student") * self.setup.teacher_length)

    def _tokens(self, side: Side) -> int:
        return self.setup.rows * (self.setup.length if side == "student" else self.setup.teacher_length)

    # Time

    def seconds(self) -> dict[str, float]:
        """Return the time of each part in a step, by name."""
        setup, device, student = self.setup, self.device, self.student
        assert student.backward is not None, "a student is traced with its backward pass"
        store = setup.teacher == "store"
        found = {
            "student forward": device.seconds(student.forward),
            "teacher forward": 0.0 if store else device.seconds(self.teacher.forward),
            **self._loss_seconds(),
            "student backward": device.seconds(student.backward),
        }
        found = {name: seconds * setup.accumulation for name, seconds in found.items()}
        if setup.devices > 1:
            found["communication"] = self._sent() / device.bandwidth
        found["optimizer"] = device.seconds(self._updates())
        return found

    def _updates(self) -> Work:
        """Return what a step of the optimizer does: the same for each parameter."""
        moved_each, operations = _update_of(self.setup.optimizer)
        share, student = self.spread.share("optimizer"), self.student
        dtype = torch.float32 if self._has_master else student.dtype
        sizes = [int(size * share) // student.itemsize * dtype.itemsize for size in student.trained]
        moved: Counter[Operand] = Counter()
        for size, of in (*((size, dtype) for size in sizes), (self.projectors.bytes, torch.float32)):
            moved[Operand(size.bit_length(), of)] += int(size * moved_each)
        return Work({}, {}, 0, moved, operations * len(sizes))

    def _loss_seconds(self) -> dict[str, float]:
        names = self._loss_names()
        found = dict.fromkeys((name for _, name in names), 0.0)
        done: dict[Side, int] = {}
        before = dict.fromkeys(("student", "teacher"), 0.0)
        for term in products_of(self.shapes):
            done[term.side] = done.get(term.side, 0) + 1
            compared = self.device.block_seconds(self.shapes, term.side, done[term.side])
            read = Product(1, TILE_ROWS, term.width, HEAD_ROWS, torch.float32)
            back = Product(1, TILE_ROWS, HEAD_ROWS, term.width, torch.float32)
            products = self.device.product_seconds(term.forward, read) + self.device.product_seconds(
                term.backward, back
            )
            found[f"loss: {term.name}"] += products + max(compared - before[term.side], 0.0)
            before[term.side] = max(compared, before[term.side])
        found["loss: ce"] += self.device.starting_seconds(LOSS_OPERATIONS)
        if self._attention_bytes:
            found[f"loss: {names[-1][1].removeprefix('loss: ')}"] += self._attention_seconds()
        return found

    def _attention_seconds(self) -> float:
        """Return what attention between the models takes: queries thrice, scores and values, forward and backward."""
        source, target = 2 * self.student.embedding_size, 2 * self.teacher.embedding_size
        tokens, pairs = self._tokens("student"), self._tokens("student") * self.setup.teacher_length
        values = self.teacher.hidden_size + self.student.hidden_size
        flops = 2 * (4 * tokens * source * target + 4 * pairs * target + 3 * pairs * values)
        return self.device.product_seconds(flops, Product(1, TILE_ROWS, source, HEAD_ROWS, torch.float32))

    def _loss_names(self) -> list[tuple[Side, str]]:
        return [(term.side, f"loss: {term.name}") for term in products_of(self.shapes)]

    def _sent(self) -> float:
        setup = self.setup
        others = 2 * (setup.devices - 1) / setup.devices
        of_teacher = 0.0
        if setup.teacher == "sharded":
            of_teacher = others / 2 * self.teacher.bytes * setup.accumulation
        return (
            self.spread.sent(self.student, micro_batches=setup.accumulation)
            + of_teacher
            + others * self.projectors.bytes
        )

    @cached_property
    def shapes(self) -> LossShapes:
        """The shapes that the loss has to do with."""
        sides: dict[Side, TracedModel] = {"student": self.student, "teacher": self.teacher}
        return LossShapes(
            spaces=self.spec.spaces,
            measure=self.spec.measure,
            engine=self.spec.engine,
            scored={side: max(1, round(self._tokens(side) * self.setup.scored)) for side in sides},
            widths={side: model.hidden_size for side, model in sides.items()},
            vocabularies={side: model.vocabulary for side, model in sides.items()},
            head_learns=self.student.trained_head > 0,
            projections_learn=self.projectors.numbers > 0,
        )

    @cached_property
    def projectors(self) -> _Projectors:
        """The modules of the loss."""
        return _projectors(self.spec, self.student, self.teacher)

    def assumptions(self) -> Iterator[str]:
        """Say what the numbers presume."""
        setup = self.setup
        yield (
            f"batch: {setup.rows} full samples of {setup.length:,} tokens of the student and {setup.teacher_length:,} of "
            f"the teacher a device and micro-batch, without padding, {setup.scored:.0%} of them scored, each with a "
            "partner"
        )
        kept = "are computed again for the backward pass" if setup.checkpointing else "are kept"
        scores = "are not" if setup.fused_attention else "are kept, too"
        yield f"activations: they {kept}, as the models' code does; scores of attention {scores}"
        yield self.device.basis()
        if setup.devices > 1:
            yield (
                f"communication: {self.device.bandwidth / 1e9:,.3g} GB/s from each device, not at the same time as "
                "computation; where both overlap, a step takes less"
            )
        if self._has_master and self.student.itemsize < WIDE:
            yield "optimizer: DeepSpeed keeps master weights and states in float32"
        if not self.projectors.numbers and self.spec.directions:
            yield "projectors: maps that are made from the heads in each step are counted in memory, not in time"
        yield "not counted: what an allocator wastes, what libraries and other processes hold, and loading of data"


@dataclass(frozen=True)
class _Projectors:
    """Modules of the loss: their bytes, and how many of their numbers are trained."""

    bytes: int
    numbers: int


def _projectors(spec: DSKDSpec, student: TracedModel, teacher: TracedModel) -> _Projectors:
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
    return _Projectors(size, numbers)


SMALL: Final = (12, 8)
"""Widths of a projection that is made from heads, and has to be made to be looked at."""


def _projection(spec: DSKDSpec, direction: Any, source: int, target: int) -> tuple[nn.Module, float, int]:
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


def _update_of(name: str) -> tuple[float, int]:
    """Return what an optimizer moves for each byte of a parameter, and how many operations it takes."""
    made: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
        "sgd-momentum": partial(torch.optim.SGD, momentum=0.9),
    }
    parameter = torch.nn.Parameter(torch.empty(2**10, device="meta"))
    parameter.grad = torch.empty_like(parameter)
    optimizer = made[name]([parameter], foreach=False)
    optimizer.step()
    work = counting(optimizer.step)
    return sum(work.moved.values()) / parameter.nbytes, work.operations


def _require_one_vocabulary(spec: DSKDSpec, student: TracedModel, teacher: TracedModel) -> None:
    """Refuse a spec for one tokenizer where the models cannot share one."""
    smaller, larger = sorted((student.vocabulary, teacher.vocabulary))
    if spec.aligner.same_tokenizer and larger > 1.1 * smaller:
        raise ConfigurationError(
            f"spec: the aligner {spec.aligner.name!r} presumes one tokenizer, but the student's head has "
            f"{student.vocabulary:,} rows and the teacher's {teacher.vocabulary:,}. Give a spec for two tokenizers, as "
            "--spec dskd-cma."
        )


def _remedies(models: _Traced, planned: StepPlan, device: Device) -> Iterator[Remedy]:
    """Return changes after which the step fits: one that does alone, or the fewest together; the fastest first."""
    kinds = [kind for kind in map(list, _changes(planned.setup, models.student)) if kind]
    for number in range(1, len(kinds) + 1):
        found = []
        for chosen in itertools.combinations(kinds, number):
            for several in itertools.product(*chosen):
                setup = planned.setup
                for change in several:
                    setup = change.apply(setup)
                changed = _Step(models, setup, device).plan()
                if changed.fits:
                    words, options = (
                        " and ".join(one.words for one in several),
                        " ".join(one.options for one in several),
                    )
                    found.append(Remedy(words, options, changed.seconds, changed.bytes, setup))
        if found:
            yield from sorted(found, key=lambda remedy: (remedy.seconds, remedy.bytes))[:3]
            return


class _Change(NamedTuple):
    """Something that may be changed: in words, as options of the command line, and in the setup."""

    words: str
    options: str
    apply: Callable[[Setup], Setup]


SMALL_BUDGET: Final = 64
"""MiB for the loss, below which tiles get slow and little is saved."""


def _changes(setup: Setup, student: Any) -> Iterator[Iterator[_Change]]:
    """Yield the kinds of changes, each as its alternatives, of which those that cost less come first."""
    engine = setup.spec.engine
    if not isinstance(engine, Tiled) or engine.memory_budget_mib > SMALL_BUDGET:
        words = f"a memory budget of {SMALL_BUDGET} MiB for the loss"
        yield iter([_Change(words, f"--memory-budget {SMALL_BUDGET}", lambda at: at.with_budget(SMALL_BUDGET))])
    yield _teacher_changes(setup)
    yield _sharding_changes(setup)
    yield _batch_changes(setup)
    if not setup.checkpointing and getattr(student, "supports_gradient_checkpointing", False):
        words = "checkpointing of activations"
        yield iter([_Change(words, "--checkpointing", lambda at: replace(at, checkpointing=True))])


def _teacher_changes(setup: Setup) -> Iterator[_Change]:
    if setup.teacher != "store":
        yield _Change("the teacher's states from a store", "--teacher store", lambda at: replace(at, teacher="store"))
    if setup.teacher == "replicated" and setup.devices > 1:
        yield _Change("a sharded teacher", "--teacher sharded", lambda at: replace(at, teacher="sharded"))


def _sharding_changes(setup: Setup) -> Iterator[_Change]:
    more = MORE.get(setup.sharding) if setup.devices > 1 else None
    while more is not None:
        apply = partial(_with_sharding, more)
        yield _Change(f"sharding by {more}", f"--sharding {more}", apply)
        more = MORE.get(more)


def _with_sharding(sharding: Sharding, setup: Setup) -> Setup:
    return replace(setup, sharding=sharding)


def _batch_changes(setup: Setup) -> Iterator[_Change]:
    """Yield smaller micro-batches: half as large, a quarter, and single samples."""
    tried = dict.fromkeys((2, 4, setup.rows))
    for times in tried:
        if 1 < times <= setup.rows:
            apply = partial(_with_accumulation, setup.accumulation * times)
            yield _Change("smaller micro-batches", f"--accumulation {setup.accumulation * times}", apply)


def _with_accumulation(accumulation: int, setup: Setup) -> Setup:
    return replace(setup, accumulation=accumulation)
