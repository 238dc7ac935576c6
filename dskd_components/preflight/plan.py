"""What a step of training will take on each device, before there is a machine or a weight: memory and time by part."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from dskd_components.engines.tiled import Tiled
from dskd_components.errors import ConfigurationError, did_you_mean
from dskd_components.preflight.report import seconds_of, size_text
from dskd_components.preflight.sharding import BUCKET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from dskd_components.preflight.sharding import BucketSize, Sharding, TeacherPlace
    from dskd_components.spec.dskd_spec import DSKDSpec


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a step is made.

    Args:
        spec: what is computed.
        tokens: of the student in a step of the optimizer, on all devices together.
        length: tokens of a sample of the student.
        teacher_tokens: the teacher's tokens for each of the student's.
        scored: the share of tokens that counts in the loss.
        devices: how many there are.
        sharding: how the student is spread over them.
        teacher: where the teacher is.
        accumulation: micro-batches of a step, on each device.
        checkpointing: whether blocks of layers are computed again for the backward pass.
        fused_attention: whether attention keeps no scores.
        optimizer: its name.
        device_memory: bytes of each device; None: as much as needed.
        reduce_bucket_size: how many numbers ZeRO's buckets of gradients have; ``"auto"``: the square of the student's
            hidden_size, as trainers fill it in where DeepSpeed's file says so. The default is DeepSpeed's own.

    Raises:
        ConfigurationError: a number is out of range, or the choices contradict one another.
    """

    spec: DSKDSpec
    tokens: int = 8192
    length: int = 1024
    teacher_tokens: float = 1.0
    scored: float = 1.0
    devices: int = 1
    sharding: Sharding = "none"
    teacher: TeacherPlace = "replicated"
    accumulation: int = 1
    checkpointing: bool = False
    fused_attention: bool = True
    optimizer: str = "adamw"
    device_memory: int | None = None
    reduce_bucket_size: BucketSize = BUCKET

    def __post_init__(self) -> None:
        for name in ("tokens", "length", "teacher_tokens", "devices", "accumulation"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name}: expected a positive number, got {getattr(self, name)!r}.")
        if self.rows * max(self.length, self.teacher_length) > MOST_TOKENS:
            raise ConfigurationError(
                f"tokens, length, teacher_tokens: a micro-batch of {self.rows} samples of {self.length} and "
                f"{self.teacher_length} tokens has more tokens than a device can number ({MOST_TOKENS:,})."
            )
        if not 0 < self.scored <= 1:
            raise ConfigurationError(f"scored: expected a share above 0 and up to 1, got {self.scored!r}.")
        if self.device_memory is not None and self.device_memory <= 0:
            raise ConfigurationError(f"device_memory: expected a positive number of bytes, got {self.device_memory!r}.")
        size = self.reduce_bucket_size
        if size != "auto" and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigurationError(f"reduce_bucket_size: expected a positive number or 'auto', got {size!r}.")
        if self.sharding == "none" and self.devices > 1:
            raise ConfigurationError(
                f"sharding 'none' is for one device, got {self.devices}: say how the student is spread over them, as "
                "'ddp' or 'fsdp2'."
            )
        if self.optimizer not in OPTIMIZERS:
            hint = did_you_mean(self.optimizer, OPTIMIZERS)
            raise ConfigurationError(
                f"optimizer {self.optimizer!r} is not known{hint}; expected one of {', '.join(OPTIMIZERS)}."
            )

    @property
    def rows(self) -> int:
        """Samples of a micro-batch on one device; one at least."""
        return -(-self.tokens // (self.length * self.devices * self.accumulation))

    @property
    def counted_tokens(self) -> int:
        """The student's tokens of the step that is planned: whole samples in each micro-batch on each device."""
        return self.rows * self.length * self.devices * self.accumulation

    @property
    def teacher_length(self) -> int:
        """Tokens of a sample of the teacher."""
        return max(1, round(self.length * self.teacher_tokens))

    def with_budget(self, mib: float) -> Setup:
        """Return the same with another memory budget of the engine ``tiled``, which takes the place of any other.

        Args:
            mib: the budget.

        Raises:
            ConfigurationError: it is not positive.
        """
        if not 0 < mib < math.inf:
            raise ConfigurationError(f"memory_budget: expected a positive number of MiB, got {mib:g}.")
        engine = self.spec.engine if isinstance(self.spec.engine, Tiled) else Tiled()
        return replace(self, spec=self.spec.replace(engine=engine.model_copy(update={"memory_budget_mib": mib})))


MOST_TOKENS: Final = 2**48
"""Of a micro-batch on one device: PyTorch cannot number the entries of much larger tensors."""

OPTIMIZERS: Final = {"adamw": 2, "adam": 2, "sgd-momentum": 1, "sgd": 0}
"""By name of an optimizer, how many numbers it keeps for each that is trained, in the precision of these."""

Kind = Literal["held", "in turn"]
"""There all the time, or for a part of the step, beside what is held."""


@dataclass(frozen=True)
class PlanPart:
    """What one component of a step takes on each device.

    Args:
        component: what it is.
        kind: whether its memory is held, or there in turn with that of others.
        seconds: time in a step; 0 for what is only held.
        bytes: what is held; or the most that is there beside that while the component runs.
    """

    component: str
    kind: Kind
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Remedy:
    """A change that makes a step fit.

    Args:
        change: what to change, in words.
        options: of the command line, for the same.
        seconds: of the changed step.
        bytes: of the changed step.
        setup: the changed step.
    """

    change: str
    options: str
    seconds: float
    bytes: int
    setup: Setup


@dataclass(frozen=True)
class StepPlan:
    """What a step takes on each device.

    Args:
        student: its class.
        teacher: its class.
        parts: what is held first, then what runs, in its order.
        setup: how the step is made.
        loss_bytes: what the loss adds: projectors with their gradients and states of the optimizer, and what is there
            while it runs beside the student's activations.
        warnings: what is legal but very likely not what was meant.
        assumptions: what the numbers presume, in words.
        remedies: changes that make it fit, that which costs the least time first; empty if it fits, or nothing helps.
    """

    student: str
    teacher: str
    parts: tuple[PlanPart, ...]
    setup: Setup
    loss_bytes: int = 0
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()

    @property
    def held(self) -> int:
        """Bytes that are there all the time."""
        return sum(part.bytes for part in self.parts if part.kind == "held")

    @property
    def largest(self) -> PlanPart:
        """What has the most memory beside what is held."""
        return max((part for part in self.parts if part.kind == "in turn"), key=lambda part: part.bytes)

    @property
    def bytes(self) -> int:
        """The most that is there at once."""
        return self.held + self.largest.bytes

    @property
    def seconds(self) -> float:
        """Time of a step."""
        return sum(part.seconds for part in self.parts)

    @property
    def fits(self) -> bool:
        """Whether each device has that much memory."""
        return self.setup.device_memory is None or self.bytes <= self.setup.device_memory

    @property
    def loss_share(self) -> float:
        """The share of the time that the loss takes; the models' own heads are in it."""
        of_loss = sum(part.seconds for part in self.parts if part.component.startswith("loss"))
        return of_loss / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        setup = self.setup
        return {
            "student": self.student,
            "teacher": self.teacher,
            "setup": {name: value for name, value in vars(setup).items() if name != "spec"}
            | {"rows": setup.rows, "counted_tokens": setup.counted_tokens, "spec": setup.spec.model_dump(mode="json")},
            "parts": [asdict(part) for part in self.parts],
            "total": {"seconds": self.seconds, "bytes": self.bytes, "largest": self.largest.component},
            "loss": {"share_of_seconds": self.loss_share, "bytes": self.loss_bytes},
            "fits": self.fits,
            "remedies": [
                {name: value for name, value in vars(remedy).items() if name != "setup"} for remedy in self.remedies
            ],
            "warnings": list(self.warnings),
            "assumptions": list(self.assumptions),
        }

    def to_text(self) -> str:
        """Return the plan as text, a row a line."""
        lines = [" ".join(cells) for cells in self._rows()]
        return "\n".join([*lines, self.verdict(), *self._advice(), *self._notes()])

    def verdict(self) -> str:
        """Return in one sentence whether it fits, and what the loss takes."""
        memory, setup = self.setup.device_memory, self.setup
        needs = f"{size_text(self.bytes)} a device, the most during {self.largest.component!r}"
        room = f"a device has {size_text(memory)}" if memory is not None else "no memory of a device is given"
        outcome = (
            "It fits" if memory is not None and self.fits else "It does not fit" if memory is not None else "It takes"
        )
        step = f"A step of {setup.counted_tokens:,} tokens takes {seconds_of(self.seconds)}"
        return (
            f"{outcome}: {needs}; {room}. {step}, of which the loss has {self.loss_share:.0%}; it adds "
            f"{size_text(self.loss_bytes)}."
        )

    def _advice(self) -> Iterator[str]:
        if self.fits:
            return
        if not self.remedies:
            yield "Nothing that can be changed here makes it fit: take more devices, larger ones, or smaller models."
        for number, remedy in enumerate(self.remedies):
            yield (
                f"{'The cheapest change that makes it fit' if number == 0 else 'Or'}: {remedy.change} "
                f"({remedy.options}): {size_text(remedy.bytes)} a device, {seconds_of(remedy.seconds)} a step."
            )

    def _notes(self) -> Iterator[str]:
        yield from (f"! {text}" for text in self.warnings)
        yield from (f"- {text}" for text in self.assumptions)

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        for part in self.parts:
            seconds = seconds_of(part.seconds) if part.seconds else "-"
            yield part.component, seconds, size_text(part.bytes) if part.bytes else "-", part.kind
        yield "together", seconds_of(self.seconds), size_text(self.bytes), "at most"

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        for header, justify in (("a step", "left"), ("time", "right"), ("a device", "right"), ("", "left")):
            table.add_column(header, justify=justify)  # type: ignore[arg-type]
        *parts, together = self._rows()
        for cells in parts:
            table.add_row(*map(Text, cells))
        table.add_row(*map(Text, together), style="bold")
        style = "bold green" if self.fits else "bold red"
        return Group(
            table,
            "",
            Text(self.verdict(), style),
            *(Text(text, "bold") for text in self._advice()),
            *(Text(text, "dim" if text.startswith("-") else "bold yellow") for text in self._notes()),
        )
