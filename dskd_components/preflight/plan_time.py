"""Time of a planned step on each device, by part."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

import torch

from dskd_components.engines.tiled import Tiled
from dskd_components.engines.work import block_count, products_of
from dskd_components.preflight.operations import Operand, Product, Work, counting
from dskd_components.preflight.traced import WIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dskd_components.engines.work import LossShapes
    from dskd_components.models.states import Side
    from dskd_components.preflight.device import Device
    from dskd_components.preflight.plan_pair import PlannedPair
    from dskd_components.preflight.traced import TracedModel

TILE_ROWS: Final = 256
"""Rows of the product that stands for those of a loss."""

HEAD_ROWS: Final = 1024
"""Rows of a head that the same takes."""

CUT_COLLECTIVES: Final = 9
"""Collectives of a block of logits whose head stays cut: largest, sums, targets, distances. Counted in steps of two."""

AROUND_CUT: Final = 70
"""What the host does around each of them, in operations that have nothing to do; measured as `AROUND_GATHERED` was."""

LOSS_OPERATIONS: Final = 1000
"""Operations of a loss that do not grow with the batch: positions, checks, sums. A step of ``span`` over a few tokens
takes about as long as so many."""


class PlannedTime:
    """Seconds on each device.

    Args:
        pair: what the step has to do with.
        device: how fast it is.
    """

    def __init__(self, pair: PlannedPair, device: Device) -> None:
        self.pair, self.device = pair, device

    def seconds(self) -> dict[str, float]:
        """Return the time of each part in a step, by name."""
        setup, device, student = self.pair.setup, self.device, self.pair.student
        assert student.backward is not None, "a student is traced with its backward pass"
        store = setup.teacher == "store"
        found = {
            "student forward": device.seconds(student.forward),
            "teacher forward": 0.0 if store else device.seconds(self.pair.teacher.forward),
            **self._loss_seconds(),
            "student backward": device.seconds(student.backward),
        }
        found = {name: seconds * setup.accumulation for name, seconds in found.items()}
        if setup.devices > 1:
            sent = self._sent() + self._exchanged()
            found["communication"] = sent / device.bandwidth + self._around_collectives()
        found["optimizer"] = device.seconds(self._updates())
        return found

    def _updates(self) -> Work:
        """Return what a step of the optimizer does: the same for each parameter."""
        moved_each, operations = _update_of(self.pair.setup.optimizer)
        share, student = self.pair.spread.share("optimizer"), self.pair.student
        dtype = torch.float32 if self.pair.has_master else student.dtype
        sizes = [int(size * share) // student.itemsize * dtype.itemsize for size in student.trained]
        moved: Counter[Operand] = Counter()
        for size, of in (*((size, dtype) for size in sizes), (self.pair.projectors.bytes, torch.float32)):
            moved[Operand(size.bit_length(), of)] += int(size * moved_each)
        return Work({}, {}, 0, moved, operations * len(sizes))

    def _loss_seconds(self) -> dict[str, float]:
        names = self.pair.loss_names
        found = dict.fromkeys((name for _, name in names), 0.0)
        done: dict[Side, int] = {}
        before = dict.fromkeys(("student", "teacher"), 0.0)
        for term in products_of(self._shapes):
            done[term.side] = done.get(term.side, 0) + 1
            compared = self._compared(term.side, done[term.side])
            read = Product(1, TILE_ROWS, term.width, HEAD_ROWS, term.dtype)
            back = Product(1, TILE_ROWS, HEAD_ROWS, term.width, term.dtype)
            products = self.device.product_seconds(term.forward, read) + self.device.product_seconds(
                term.backward, back
            )
            found[f"loss: {term.name}"] += products + max(compared - before[term.side], 0.0)
            before[term.side] = max(compared, before[term.side])
        found["loss: ce"] += self.device.starting_seconds(LOSS_OPERATIONS)
        if self.pair.attends:
            found[f"loss: {names[-1][1].removeprefix('loss: ')}"] += self._attention_seconds()
        return found

    @property
    def _shapes(self) -> LossShapes:
        """The shapes of the loss, and how this device makes its products."""
        pair, engine = self.pair, self.pair.spec.engine
        if self.device.on_cpu or not isinstance(engine, Tiled):
            return pair.shapes
        sides: dict[Side, TracedModel] = {"student": pair.student, "teacher": pair.teacher}
        reads = engine.products != "torch"
        return replace(
            pair.shapes,
            stored_as={side: model.dtype for side, model in sides.items() if reads and model.dtype == torch.bfloat16},
            accelerator_memory=self.device.memory,
        )

    def _compared(self, side: Side, terms: int) -> float:
        """Return how long a side's rows of logits take to be compared, by its first terms."""
        shapes, known = self.pair.shapes, self.pair.models.row_seconds
        compared = self.pair.spec.model_dump_json(include={"spaces", "distance", "temperature", "teacher_temperature"})
        key = (self.device, self.pair.spec.engine.name, compared, side, terms)
        if key not in known:
            known[key] = self.device.block_seconds(shapes, side, terms) / shapes.scored[side]
        return known[key] * shapes.scored[side]

    def _attention_seconds(self) -> float:
        """Return what attention between the models takes: queries thrice, scores and values, forward and backward."""
        source, target = 2 * self.pair.student.embedding_size, 2 * self.pair.teacher.embedding_size
        tokens, pairs = self.pair.tokens("student"), self.pair.tokens("student") * self.pair.setup.teacher_length
        values = self.pair.teacher.hidden_size + self.pair.student.hidden_size
        flops = 2 * (4 * tokens * source * target + 4 * pairs * target + 3 * pairs * values)
        return self.device.product_seconds(flops, Product(1, TILE_ROWS, source, HEAD_ROWS, torch.float32))

    def _around_collectives(self) -> float:
        """Return the time that collectives take however small they are, and the host around them."""
        pair, micro_batches = self.pair, self.pair.setup.accumulation
        on_cpu, memory = self.device.on_cpu, None if self.device.on_cpu else self.device.memory
        blocks = sum(
            block_count(pair.shapes, side, on_cpu=on_cpu, accelerator_memory=memory) for side in self._cut_sides
        )
        of_heads = CUT_COLLECTIVES * blocks * micro_batches
        # The count of scored tokens, and the projectors' gradients.
        collectives = of_heads + 1 + (pair.projectors.numbers > 0)
        operations = AROUND_CUT * of_heads
        for model, spread, trains in ((pair.student, pair.spread, True), (pair.teacher, pair.teacher_spread, False)):
            collectives += spread.collectives(model, micro_batches=micro_batches, trains=trains)
            operations += spread.operations(model, micro_batches=micro_batches, trains=trains)
        return collectives * self.device.latency + self.device.starting_seconds(operations)

    @property
    def _cut_sides(self) -> list[Side]:
        sides: tuple[Side, Side] = ("student", "teacher")
        return [side for side in sides if self.pair.spreads[side].cut_head and self.pair.shapes.streams(side)]

    def _exchanged(self) -> float:
        """Return the bytes of states that each device sends to heads which stay cut, and of their gradients."""
        found, shapes = 0, self.pair.shapes
        for side in self._cut_sides:
            streams = len(shapes.streams(side))
            learning = streams if side == "student" else streams - 1  # the teacher's own states are constants
            found += (streams + learning) * shapes.scored[side] * shapes.widths[side] * WIDE
        return (self.pair.setup.devices - 1) * found * self.pair.setup.accumulation

    def _sent(self) -> float:
        setup = self.pair.setup
        others = 2 * (setup.devices - 1) / setup.devices
        of_teacher = 0.0
        if setup.teacher == "sharded":
            of_teacher = others / 2 * self.pair.teacher.bytes * setup.accumulation
        return (
            self.pair.spread.sent(self.pair.student, micro_batches=setup.accumulation)
            + of_teacher
            + others * self.pair.projectors.bytes
        )


@lru_cache(maxsize=8)
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
