"""One small training step, taken apart: how long each part takes, and what is kept for the way back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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
        teacher_tokens: of the teacher, padding included.
        scored: of the student, scored ones.
        samples: rows of the batch.
        student_forward: seconds.
        student_backward: seconds.
        teacher_forward: seconds.
        loss: seconds, forward and backward.
        activations: bytes that the student keeps for its backward, parameters aside.
    """

    tokens: int
    teacher_tokens: int
    scored: int
    samples: int
    student_forward: float
    student_backward: float
    teacher_forward: float
    loss: float
    activations: int


def measure_step(loss_fn: Any, student: Any, teacher: Any, batch: Mapping[str, Tensor], alignment: Any) -> MeasuredStep:
    """Run a step twice and time the second; no gradient, buffer or generator is left changed.

    Args:
        loss_fn: a `DSKDLoss`.
        student: the student, some of whose parameters are trained.
        teacher: the teacher.
        batch: as `DSKDLoss.run` takes it.
        alignment: as `DSKDLoss.forward` takes it.
    """
    _step(loss_fn, student, teacher, batch, alignment)
    return _step(loss_fn, student, teacher, batch, alignment)


def _step(loss_fn: Any, student: Any, teacher: Any, batch: Mapping[str, Tensor], alignment: Any) -> MeasuredStep:
    kept = _Kept(student)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        forward, ours = _timed(lambda: loss_fn.states(student, batch, "student"))
    teacher_forward, theirs = _timed(lambda: loss_fn.states(teacher, batch, "teacher"))
    # The auxiliary loss goes back through the model, as the states do, and here both are cut from it.
    cut = replace(ours, hidden_states=ours.hidden_states.detach().requires_grad_(), aux_loss=None)
    # Gradients are asked for by name, so that none is added to those that the parameters may hold already.
    inputs = [cut.hidden_states, *_trained(loss_fn), *_trained_head(cut)]
    loss, gradients = _timed(
        lambda: torch.autograd.grad(loss_fn(cut, theirs, alignment=alignment).loss, inputs, allow_unused=True)
    )
    backward, _ = _timed(
        lambda: torch.autograd.grad(ours.hidden_states, _trained(student), gradients[0], allow_unused=True)
    )
    return MeasuredStep(
        tokens=ours.targets.numel(),
        teacher_tokens=theirs.targets.numel(),
        scored=int(ours.scored.sum()),
        samples=len(ours.targets),
        student_forward=forward,
        student_backward=backward,
        teacher_forward=teacher_forward,
        loss=loss,
        activations=kept.bytes,
    )


def _trained(module: Any) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _trained_head(states: LMStates) -> list[Tensor]:
    return [states.head.weight] if states.head.weight.requires_grad else []


def _timed(call: Callable[[], Value]) -> tuple[float, Value]:
    _wait()
    start = time.perf_counter()
    value = call()
    _wait()
    return time.perf_counter() - start, value


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
