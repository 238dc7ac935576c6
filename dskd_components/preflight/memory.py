"""What is in memory in the course of a training step, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from dskd_components.engines.engine import BLOCK_TENSORS
from dskd_components.engines.tiled import Tiled
from dskd_components.engines.workspace import accelerator_memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from torch import Tensor

    from dskd_components.components.aligner import Aligner
    from dskd_components.engines.engine import Engine
    from dskd_components.models.states import Side
    from dskd_components.preflight.measuring import MeasuredStep


ITEMSIZE: Final = 4
"""Bytes of a number in the loss, which computes in float32."""

BLOCK_SHARE: Final = 4
"""One part in so many of a budget is the most that operations on a block of logits hold on a CPU."""

BLOCK_BYTES: Final = 2**25
"""The most that they hold on a CPU, where blocks are kept small."""

EAGER_TENSORS: Final = 5
"""Tensors of the size of the logits that an engine without tiles holds for each states that a head reads."""

ATTENTION_TENSORS: Final = 4
"""Scores, both ways of normalising them, and a gradient."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StepMemory:
    """Bytes that a step holds: throughout, and beside that in each of its parts. It begins without gradients.

    Args:
        loss_fn: a `DSKDLoss`.
        student: the student.
        teacher: the teacher.
        step: what was measured.
        factor: how many times as many tokens as those measured the step has.
        scored_factor: the same of scored tokens.
    """

    loss_fn: Any
    student: Any
    teacher: Any
    step: MeasuredStep
    factor: float
    scored_factor: float

    @cached_property
    def held(self) -> dict[str, int]:
        """What is there all the time, by name; AdamW's states from its first step on."""
        loss_fn = self.loss_fn
        constants = sum(projection.constant_bytes for projection in loss_fn.projectors.values())
        return {
            "student weights": bytes_of(self.student.parameters()),
            "teacher weights": bytes_of(self.teacher.parameters()),
            "projectors": bytes_of(loss_fn.parameters()),
            "loss: buffers and constants": bytes_of(loss_fn.buffers()) + constants,
            "AdamW: states": 2 * self.gradients,
        }

    @cached_property
    def parts(self) -> dict[str, int]:
        """The most that is there besides while a part of the step runs, in their order."""
        kept = self.activations + self.states
        waiting = kept + self.step.head_gradient
        return {
            "student forward": self.activations,
            "teacher forward": kept,
            "loss": waiting + self.in_engine + self._attention + self._narrowed_heads,
            # The head's gradient is narrowed first; what the embedding makes of it comes last.
            "student backward": max(waiting + self.step.narrowed_gradient, self.gradients + self._tied_gradient),
            "AdamW: step": self.gradients + self.temporaries(foreach=self.foreach),
        }

    def peak(self, *, foreach: bool) -> int:
        """Return the most that is there at once.

        Args:
            foreach: whether AdamW goes over all parameters at once, rather than one after the other.
        """
        others = [size for name, size in self.parts.items() if name != "AdamW: step"]
        return sum(self.held.values()) + max(*others, self.gradients + self.temporaries(foreach=foreach))

    @cached_property
    def foreach(self) -> bool:
        """Whether AdamW goes over all parameters at once unless it is told."""
        return all(parameter.device.type == "cuda" for parameter in self._trained)

    def temporaries(self, *, foreach: bool) -> int:
        """Return what a step of AdamW makes and drops: a root for each parameter, or two for one parameter at a time.

        Args:
            foreach: as in `peak`.
        """
        sizes = [parameter.nbytes for parameter in self._trained]
        return sum(sizes) if foreach else 2 * max(sizes, default=0)

    @cached_property
    def gradients(self) -> int:
        """The gradients of all that is trained, projectors included."""
        return bytes_of(self._trained)

    @cached_property
    def activations(self) -> int:
        """What the student keeps for its backward pass."""
        return int(self.step.activations * self.factor)

    @cached_property
    def states(self) -> int:
        """Hidden states of both models in float32, and the gradient of the student's."""
        return int(self.step.states * self.factor)

    @cached_property
    def in_engine(self) -> int:
        """What the engine makes beside its inputs and their gradients: `Tiled` keeps to its budget."""
        sides: tuple[Side, Side] = ("student", "teacher")
        engine = self.loss_fn.spec.engine
        logits = [self._logits(side) for side in sides]
        of_sides = engine_bytes(engine, logits, on_cpu=self._is_on_cpu, accelerator_memory=self.accelerator_memory)
        return max(of_sides) if isinstance(engine, Tiled) else sum(of_sides)

    def _logits(self, side: Side) -> tuple[int, int]:
        """How many states a side's head reads, and the bytes of the logits of one of them."""
        compared = sum(space.side == side for space in self.loss_fn.spec.spaces)
        own = side == "student" or compared > 0  # the student's cross entropy is always there
        model, scored = (
            (self.student, self.step.scored) if side == "student" else (self.teacher, self.step.teacher_scored)
        )
        subset = self.loss_fn.subsets[side]
        rows = 0 if not own else len(model.get_output_embeddings().weight) if subset is None else subset.outcome_count
        return own + compared, int(scored * self.scored_factor) * rows * ITEMSIZE

    @property
    def _narrowed_heads(self) -> int:
        """Copies of the rows that a narrowed head keeps, and of all others, where these are one outcome."""
        found = 0
        for side, model in (("student", self.student), ("teacher", self.teacher)):
            subset, weight = self.loss_fn.subsets[side], model.get_output_embeddings().weight
            if subset is not None:
                rows = subset.vocabulary_size if subset.has_rest else len(subset)
                found += rows * weight.shape[1] * weight.itemsize
        return found

    @property
    def _attention(self) -> int:
        """Scores between all positions of both sides, where an aligner makes them."""
        step = self.step
        pairs = step.tokens * step.teacher_tokens / step.samples * self.factor
        return attention_bytes(self.loss_fn.spec.aligner, pairs)

    @property
    def _tied_gradient(self) -> int:
        """What a head that is the input embedding as well has waiting until the two gradients are added."""
        embedding, head = self.student.get_input_embeddings(), self.student.get_output_embeddings()
        weight = getattr(embedding, "weight", None)
        tied = weight is not None and weight is getattr(head, "weight", None)
        return int(weight.nbytes) if tied and weight is not None and weight.requires_grad else 0

    @property
    def accelerator_memory(self) -> int | None:
        """Bytes that the device has in all; None on a CPU."""
        return accelerator_memory(self._device)

    @property
    def _is_on_cpu(self) -> bool:
        return self._device.type == "cpu"

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.student.parameters()).device
        return device

    @cached_property
    def _trained(self) -> list[Tensor]:
        modules = (self.student, self.loss_fn)
        return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]


def engine_bytes(
    engine: Engine, sides: Iterable[tuple[int, int]], *, on_cpu: bool, accelerator_memory: int | None
) -> list[int]:
    """Return what an engine makes for each side beside its inputs and their gradients: `Tiled` keeps to its budget.

    Args:
        engine: the engine.
        sides: of each, how many states its heads read, and the bytes of all logits of one of them.
        on_cpu: whether blocks are kept small, for the caches of a CPU.
        accelerator_memory: bytes that an accelerator has in all; None: on a CPU, or where that is not known.
    """
    if not isinstance(engine, Tiled):
        return [streams * logits * EAGER_TENSORS for streams, logits in sides]
    budget = engine.budget_bytes(accelerator_memory)
    # On an accelerator blocks take what a tile leaves.
    blocks = min(budget // BLOCK_SHARE, BLOCK_BYTES) if on_cpu else budget
    # A tile of all scored rows, and the operations on a block of it.
    return [min(streams * logits + min(logits * BLOCK_TENSORS, blocks), budget) for streams, logits in sides]


def attention_bytes(aligner: Aligner, pairs: float) -> int:
    """Return the bytes of scores between all positions of both sides, where an aligner makes them.

    Args:
        aligner: the aligner.
        pairs: how many pairs of positions the samples have.
    """
    if aligner.same_tokenizer or aligner.text_method is not None:
        return 0
    return int(pairs * ITEMSIZE * ATTENTION_TENSORS)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the memory of tensors.

    Args:
        tensors: the tensors.
    """
    return sum(tensor.nbytes for tensor in tensors)
