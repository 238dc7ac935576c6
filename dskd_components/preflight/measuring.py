"""One training step, taken apart: how long each part takes, and what is kept for the way back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from torch import Tensor

    from dskd_components.models.states import LMStates

    Value = TypeVar("Value")


@dataclass(frozen=True)
class MeasuredStep:
    """What one step took.

    Args:
        tokens: of the student, padding included.
        read: of the student, padding set aside.
        teacher_tokens: of the teacher, padding included.
        scored: of the student, scored ones.
        teacher_scored: of the teacher, scored ones.
        samples: rows of the batch.
        student_forward: seconds.
        student_backward: seconds.
        teacher_forward: seconds.
        loss: seconds, forward and backward.
        optimizer: seconds of a step of AdamW, which does not depend on the number of tokens.
        activations: bytes that the student keeps for its backward, parameters aside.
        states: bytes of hidden states of both models as the loss reads them, and of the student's gradient.
        head_gradient: bytes of the gradient of the student's head, which the loss sums in float32; 0 if it is frozen.
        narrowed_gradient: bytes of the same in the head's own precision, if that is another.
    """

    tokens: int
    read: int
    teacher_tokens: int
    scored: int
    teacher_scored: int
    samples: int
    student_forward: float
    student_backward: float
    teacher_forward: float
    loss: float
    optimizer: float
    activations: int
    states: int
    head_gradient: int
    narrowed_gradient: int


TIMED: Final = ("student_forward", "student_backward", "teacher_forward", "loss", "optimizer")

MOST_REPEATS: Final = 3
"""How often a step is timed, at most."""

ENOUGH_SECONDS: Final = 10.0
"""After this time no further step is timed."""

WIDE: Final = 4
"""Bytes of a number in float32."""

UPDATED: Final = 2**22
"""Numbers of the parameter on which the optimizer is timed."""


def measure_step(
    loss_fn: Any,
    student: Any,
    teacher: Any,
    batch: Mapping[str, Tensor],
    alignment: Any,
    *,
    step: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> MeasuredStep:
    """Time a few steps after one that is not timed; no gradient, buffer or generator is left changed.

    Args:
        loss_fn: a `DSKDLoss`.
        student: the student, some of whose parameters are trained.
        teacher: the teacher.
        batch: as `DSKDLoss.run` takes it.
        alignment: as `DSKDLoss.forward` takes it.
        step: how many optimizer steps have been taken, for schedules.
        clock: seconds from any moment on.

    Returns:
        Of each part the median.
    """
    one = _Step(loss_fn, student, teacher, batch, alignment, step, clock)
    one.run()
    found: list[MeasuredStep] = []
    began = clock()
    while len(found) < MOST_REPEATS and (not found or clock() - began < ENOUGH_SECONDS):
        found.append(one.run())
    return replace(found[0], **{name: median(getattr(each, name) for each in found) for name in TIMED})


@dataclass(frozen=True, eq=False)
class _Step:
    loss_fn: Any
    student: Any
    teacher: Any
    batch: Mapping[str, Tensor]
    alignment: Any
    step: int | None
    clock: Callable[[], float]

    def run(self) -> MeasuredStep:
        loss_fn, student, batch = self.loss_fn, self.student, self.batch
        kept = _Kept(student)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
            forward, ours = self._timed(lambda: loss_fn.states(student, batch, "student"))
        teacher_forward, theirs = self._timed(lambda: loss_fn.states(self.teacher, batch, "teacher"))
        # The auxiliary loss goes back through the model, as the states do, and here both are cut from it.
        cut = replace(ours, hidden_states=ours.hidden_states.detach().requires_grad_(), aux_loss=None)
        # Gradients are asked for by name, so that none is added to those that the parameters may hold already.
        inputs = [cut.hidden_states, *_trained(loss_fn), *_trained_head(cut)]

        def loss() -> tuple[Tensor, ...]:
            out = loss_fn(cut, theirs, alignment=self.alignment, step=self.step)
            found: tuple[Tensor, ...] = torch.autograd.grad(out.loss, inputs, allow_unused=True)
            return found

        head, mask = _read_by_head(ours), batch.get("student_attention_mask", batch.get("attention_mask"))
        in_loss, gradients = self._timed(loss)
        backward, _ = self._timed(
            lambda: torch.autograd.grad(ours.hidden_states, _trained(student), gradients[0], allow_unused=True)
        )
        return MeasuredStep(
            tokens=ours.targets.numel(),
            read=int(mask.sum()) if mask is not None and mask.ndim == 2 else ours.targets.numel(),
            teacher_tokens=theirs.targets.numel(),
            scored=int(ours.scored.sum()),
            teacher_scored=int(theirs.scored.sum()),
            samples=len(ours.targets),
            student_forward=forward,
            student_backward=backward,
            teacher_forward=teacher_forward,
            loss=in_loss,
            optimizer=sum(self._update(module) for module in (student, loss_fn)),
            activations=kept.bytes,
            states=_widened(ours.hidden_states)
            + ours.hidden_states.numel() * WIDE
            + theirs.hidden_states.nbytes
            + _widened(theirs.hidden_states),
            head_gradient=head.numel() * WIDE if head.requires_grad else 0,
            narrowed_gradient=head.nbytes if head.requires_grad and head.itemsize < WIDE else 0,
        )

    def _update(self, module: Any) -> float:
        """Return the seconds that AdamW takes for the parameters of a module, from those for a part of the largest."""
        trained = _trained(module)
        if not trained:
            return 0.0
        largest = max(trained, key=lambda parameter: parameter.numel())
        part = torch.nn.Parameter(largest.detach().flatten()[:UPDATED].clone())
        part.grad = torch.zeros_like(part)
        optimizer = torch.optim.AdamW([part])
        optimizer.step()
        seconds, _ = self._timed(optimizer.step)
        return seconds * sum(parameter.numel() for parameter in trained) / part.numel()

    def _timed(self, call: Callable[[], Value]) -> tuple[float, Value]:
        _wait()
        start = self.clock()
        value = call()
        _wait()
        return self.clock() - start, value


def _trained(module: Any) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _trained_head(states: LMStates) -> list[Tensor]:
    weight = _read_by_head(states)
    return [weight] if weight.requires_grad else []


def _read_by_head(states: LMStates) -> Tensor:
    """The weight whose gradient a step makes: all of it, where the head is narrowed to some of its rows."""
    whole = states.head.whole
    return states.head.weight if whole is None else whole.weight


def _widened(states: Tensor) -> int:
    """The bytes of a copy in full precision, where one is made."""
    return states.numel() * WIDE if states.itemsize < WIDE else 0


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class _Kept:
    """Counts the memory of what autograd keeps; memory that several tensors look into counts once."""

    def __init__(self, model: Any) -> None:
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        # Held, so that no address is given out a second time while counting.
        self._held: list[Tensor] = []
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._held.append(tensor.detach())
            self.bytes += storage.nbytes()
        return tensor

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        return tensor
