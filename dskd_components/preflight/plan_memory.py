"""Memory of a planned step on each device: what is held, and what comes beside it while each part runs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from dskd_components.engines.tiled import Tiled
from dskd_components.preflight.memory import attention_bytes, engine_bytes
from dskd_components.preflight.plan import OPTIMIZERS
from dskd_components.preflight.traced import WIDE

if TYPE_CHECKING:
    from dskd_components.models.states import Side
    from dskd_components.preflight.plan_pair import PlannedPair


class PlannedMemory:
    """Bytes on each device.

    Args:
        pair: what the step has to do with.
        on_cpu: whether it is a CPU, where blocks are small and the optimizer takes one parameter at a time.
        accelerator_memory: bytes that a device has in all; None: on a CPU, or where that is not known.
    """

    def __init__(self, pair: PlannedPair, *, on_cpu: bool, accelerator_memory: int | None = None) -> None:
        self.pair, self._on_cpu, self._accelerator_memory = pair, on_cpu, accelerator_memory

    def held(self) -> dict[str, float]:
        """Return the bytes that are there all the time, by name."""
        student, spread = self.pair.student, self.pair.spread
        itemsize = student.itemsize
        numbers = sum(student.trained) // itemsize
        copies = WIDE * numbers if self.pair.has_master else 0
        state = (WIDE if copies else itemsize) * numbers * OPTIMIZERS[self.pair.setup.optimizer]
        of_loss = self.pair.projectors.bytes
        return {
            "student weights": student.bytes * spread.share("parameters"),
            "teacher weights": self._teacher_weights(),
            "projectors": of_loss,
            "optimizer: master weights": copies * spread.share("optimizer"),
            "optimizer: states": state * spread.share("optimizer") + of_loss * OPTIMIZERS[self.pair.setup.optimizer],
            "gathered of the teacher": self._gathered_of_teacher,
            "gradient buckets": spread.buckets(student),
            "gradients of earlier micro-batches": self._gradients if self.pair.setup.accumulation > 1 else 0,
        }

    def _teacher_weights(self) -> float:
        teacher = self.pair.teacher
        if self.pair.setup.teacher == "store":
            return teacher.vocabulary * teacher.hidden_size * teacher.itemsize  # the head alone
        return teacher.bytes * self.pair.teacher_spread.share("parameters")

    @property
    def _gathered_of_teacher(self) -> int:
        """What is outside of its blocks stays gathered, since no backward pass puts it away."""
        return self.pair.teacher_spread.kept_gathered(self.pair.teacher)

    def in_turn(self) -> dict[str, float]:
        """Return the most that is there beside what is held while each part runs, by name."""
        student, teacher = self.pair.student, self.pair.teacher
        kept, root = self.pair.spread.kept_gathered(student), self.pair.spread.root_gathered(student)
        of_teacher = self.pair.teacher_spread.root_gathered(teacher) - self._gathered_of_teacher
        passing = self.pair.spread.passing_gathered(student)
        passing_teacher = self.pair.teacher_spread.passing_gathered(teacher)
        waiting = student.activations + kept + self._states
        parts: dict[str, float] = {
            "student forward": root + passing + max(student.forward_peak, student.activations),
            "teacher forward": kept + student.activations + of_teacher + passing_teacher + teacher.forward_peak,
        }
        if self.pair.setup.teacher == "store":
            parts["teacher forward"] = student.activations + kept + self._teacher_states
        in_loss = self._in_loss()
        for side, name in self.pair.loss_names:
            parts[name] = waiting + in_loss[side]
        parts["student backward"] = self._backward(waiting + self._head_gradient, root, passing)
        new = 0 if self.pair.setup.accumulation > 1 else self._gradients
        if self.pair.setup.devices > 1:
            parts["communication"] = new + (max(student.units, default=0) if self.pair.spread.gathers else 0)
        parts["optimizer"] = new + self._temporaries
        return parts

    def of_loss(self) -> float:
        """Return what the loss adds; see `StepPlan`."""
        kept = self.pair.projectors.bytes * (2 + OPTIMIZERS[self.pair.setup.optimizer])
        return kept + self._states + max(self._in_loss().values())

    def _in_loss(self) -> dict[Side, int]:
        """Return what the loss makes for each side; the gradient of the student's head comes with the second one."""
        of_sides = self._in_engine()
        of_sides["student"] += self._head_gradient
        return {side: size + self._attention_bytes for side, size in of_sides.items()}

    @property
    def _head_gradient(self) -> int:
        """The gradient of the student's head, in float32 whatever the head is stored in."""
        return self._trained_head // self.pair.student.itemsize * WIDE

    @property
    def _trained_head(self) -> int:
        """The bytes of the student's head that a device has the gradient of: all, unless the head stays cut."""
        return self.pair.student.trained_head // (self.pair.setup.devices if self.pair.spread.cut_head else 1)

    def _backward(self, waiting: float, kept: float, passing: float) -> float:
        """Return the most that is there while the gradient goes back through the student."""
        student = self.pair.student
        narrowed = self._trained_head if student.itemsize < WIDE else 0
        share = self.pair.spread.share("gradients")
        unit = max(student.units, default=0)
        root = sum(student.trained) - sum(student.units) if student.units else 0
        # Of what is cut up, a block's gradients are whole until they are sent, and those outside of blocks to the end.
        whole = 2 * unit + max(root, 0) if self.pair.spread.gathers else 0
        accumulated = share if self.pair.setup.accumulation == 1 else 0.0
        # Added to what is there already, a gradient exists by itself for a moment.
        alone = max(student.trained, default=0) if self.pair.setup.accumulation > 1 else 0
        buckets = self.pair.spread.backward_buckets(student)
        through = kept + passing + whole + alone + buckets + student.backward_peak(accumulated)
        tied = self._trained_head if student.tied else 0
        at_the_end = kept + buckets + accumulated * sum(student.trained) + self.pair.projectors.bytes + tied
        return max(waiting + buckets + narrowed, through + self._trained_head, at_the_end)

    @property
    def _gradients(self) -> float:
        return sum(self.pair.student.trained) * self.pair.spread.share("gradients") + self.pair.projectors.bytes

    @property
    def _temporaries(self) -> float:
        """What a step of the optimizer makes and drops: on a GPU for all parameters at once, on a CPU for one."""
        if OPTIMIZERS[self.pair.setup.optimizer] < 2:
            return 0
        wider = WIDE / self.pair.student.itemsize if self.pair.has_master else 1.0
        sizes = [size * wider * self.pair.spread.share("optimizer") for size in self.pair.student.trained]
        return 2 * max(sizes, default=0) if self._on_cpu else sum(sizes)

    @property
    def _teacher_states(self) -> int:
        rows, length = self.pair.setup.rows, self.pair.setup.teacher_length
        return rows * length * self.pair.teacher.hidden_size * self.pair.teacher.itemsize

    @cached_property
    def _states(self) -> int:
        """Hidden states of both models in float32, and the gradient of the student's."""
        student, teacher = self.pair.student, self.pair.teacher
        numbers = {"student": self.pair.tokens("student") * student.hidden_size}
        numbers["teacher"] = self.pair.tokens("teacher") * teacher.hidden_size
        widened = [numbers["student"] * WIDE * (student.itemsize < WIDE), numbers["student"] * WIDE]
        return sum(widened) + self._teacher_states + numbers["teacher"] * WIDE * (teacher.itemsize < WIDE)

    def _in_engine(self) -> dict[Side, int]:
        sides: tuple[Side, Side] = ("student", "teacher")
        logits = []
        for side in sides:
            streams = self.pair.shapes.streams(side)
            logits.append((len(streams), self.pair.shapes.scored[side] * max(streams, default=0) * WIDE))
        of_sides = engine_bytes(
            self.pair.spec.engine, logits, on_cpu=self._on_cpu, accelerator_memory=self._accelerator_memory
        )
        if not isinstance(self.pair.spec.engine, Tiled):
            of_sides = [sum(of_sides)] * 2  # nothing is given back before the backward pass
        return dict(zip(sides, of_sides, strict=True))

    @property
    def _attention_bytes(self) -> int:
        return attention_bytes(self.pair.spec.aligner, self.pair.tokens("student") * self.pair.setup.teacher_length)
