"""What components hand back in a loss is refused by name where it is not what they promise, in either engine."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import torch

from dskd_components import (
    Aligner,
    Distance,
    DSKDLoss,
    DSKDSpec,
    Head,
    LMStates,
    NonFiniteError,
    PluginError,
    Projection,
    Projector,
    Space,
    SpaceResult,
    Tally,
    TokenTerm,
)
from dskd_components.aligners.identity import IdentityAlignment, IdentityModule
from dskd_components.components import Affine, DistanceGradients
from dskd_components.components.distance import PartOfDistances, measured
from dskd_components.components.distribution import Distribution
from dskd_components.distances import KL
from tests.helpers.compiled import compiled_anywhere
from tests.helpers.tiled_steps import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ENGINES: dict[str, Any] = {"eager": {"name": "eager"}, "tiled": SMALL, "compiled": SMALL | {"compiled": True}}
OTHERS: dict[str, Callable[[Tensor], Any]] = {
    "a mean": torch.Tensor.mean,
    "a column": lambda values: values[:, None],
    "all columns": lambda values: values[:, None].expand(-1, 5),
    "a row too few": lambda values: values[:-1],
    "a row too many": lambda values: torch.cat([values, values[:1]]),
    "half precision": torch.Tensor.half,
    "double precision": torch.Tensor.double,
    "integers": torch.Tensor.int,
    "another device": lambda values: values.to("meta"),
    "a number": lambda _: 1.0,
    "NumPy": lambda values: values.detach().numpy(),
    "nothing": lambda _: None,
}
"""What comes in the place of a number a row."""


class Right(Distance):
    """Squared differences, and ways to spoil them."""

    name: Literal["right"] = "right"
    spoilt: str = ""

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Any:
        if self.spoilt == "computed in double precision":
            gap = student_log_probs.double().exp() - teacher_log_probs.double().exp()
            return gap.square().sum(-1).to(student_log_probs.dtype)
        return OTHERS[self.spoilt]((student_log_probs.exp() - teacher_log_probs.exp()).square().sum(-1))


class Closed(KL):
    name: Literal["closed"] = "closed"  # type: ignore[assignment]
    spoilt: str = ""
    part: Literal["values", "student"] = "values"

    def value_and_gradients(self, *sides: Any, **asked: Any) -> DistanceGradients:
        found = vars(super().value_and_gradients(*sides, **asked))
        return DistanceGradients(**self.spoil(found))

    def over_part(self, *sides: Any, **asked: Any) -> PartOfDistances:
        found = vars(super().over_part(*sides, **asked))
        return PartOfDistances(**self.spoil(found))

    def spoil(self, found: dict[str, Any]) -> dict[str, Any]:
        right = found[self.part]
        return found if right is None else found | {self.part: OTHERS[self.spoilt](right)}


LABELS = torch.tensor([[-100, 1, 2]])
STUDENT, TEACHER = (
    LMStates.from_labels(hidden_states=torch.randn(1, 3, 4), labels=LABELS, head=Head(torch.randn(5, 4)))
    for _ in range(2)
)


def step(engine: str, **components: Any) -> None:
    """A step of a loss in which the student's states learn."""
    chosen: dict[str, Any] = {"spaces": ["student"], "t2s_projector": "linear", "kd_rate": 1.0, **components}
    loss_fn = DSKDLoss(DSKDSpec(engine=ENGINES[engine], **chosen), student_hidden_size=4, teacher_hidden_size=4)
    student = replace(STUDENT, hidden_states=STUDENT.hidden_states.clone().requires_grad_())
    with compiled_anywhere() if engine == "compiled" else nullcontext():
        loss_fn(student, TEACHER)


@pytest.mark.parametrize("spoilt", OTHERS)
def test_a_distance(spoilt: str) -> None:
    message = r"^The distance 'right' \(.*Right\): expected a call to return a number for each row, float32 \["
    for engine in ENGINES:
        with pytest.raises(PluginError, match=message):
            step(engine, distance=Right(spoilt=spoilt))
    with pytest.raises(PluginError, match=r"expected value_and_gradients\(...\).values to be "):
        step("tiled", distance=Closed(spoilt=spoilt))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("spoilt", ["half precision", "double precision"])
def test_a_distance_of_another_precision_is_told_to_narrow_at_its_end(spoilt: str, engine: str) -> None:
    """What is computed in is the distance's own affair; one that widens by accident takes memory and time unseen."""
    message = r"got float(16|64) \[\d+\] on cpu\. Compute in any precision, and return that of the arguments: `\.to\("
    with pytest.raises(PluginError, match=message):
        step(engine, distance=Right(spoilt=spoilt))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_distance_may_compute_in_another_precision(engine: str) -> None:
    step(engine, distance=Right(spoilt="computed in double precision"))


class Changing(Distance):
    name: Literal["changing"] = "changing"
    side: Literal["student", "teacher"]

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        changed, other = student_log_probs, teacher_log_probs
        if self.side == "teacher":
            changed, other = other, changed
        return (changed.exp_() - other.exp()).square().sum(-1)


@pytest.mark.parametrize("engine", ["eager", "tiled"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_distance_that_writes_over_its_arguments(side: Literal["student", "teacher"], engine: str) -> None:
    """Without gradients others read what is written over; with gradients autograd fails, or not."""
    message = rf"^The distance 'changing' .* expected a call to leave its arguments .* over {side}_log_probs\."
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), pytest.raises(PluginError, match=message):
            step(engine, distance=Changing(side=side))


@pytest.mark.parametrize("spoilt", [name for name in OTHERS if name not in ("a column", "all columns")])
def test_a_gradient_in_closed_form(spoilt: str) -> None:
    distance = Closed(spoilt=spoilt, part="student")
    for engine in ("tiled", "compiled"):
        with pytest.raises(
            PluginError, match=r"The distance 'closed' .* expected value_and_gradients\(...\).student to"
        ):
            step(engine, distance=distance)
    sides = [Distribution(log_probs=torch.randn(4, 5).log_softmax(-1)) for _ in range(2)]
    with pytest.raises(PluginError, match=r"expected over_part\(...\).student to be float32 \[4, 5\]"):
        measured(distance, PartOfDistances, *sides, of_student=True, of_teacher=False)


def test_a_gradient_that_nobody_asked_for_is_none() -> None:
    sides = [Distribution(log_probs=torch.randn(4, 5).log_softmax(-1)) for _ in range(2)]
    found = measured(Eager(), PartOfDistances, *sides, of_student=False, of_teacher=True)
    assert found.student is None
    assert found.teacher is not None


class Eager(KL):
    """Gives all that it can, whoever asks."""

    name: Literal["eager"] = "eager"  # type: ignore[assignment]

    def over_part(self, *sides: Any, **_: Any) -> PartOfDistances:
        return super().over_part(*sides, student_derivative=True, teacher_derivative=True)


class Compared(Space):
    """One term; what is wrong with it is a test's affair."""

    side: ClassVar[Literal["student", "teacher"]] = "student"
    projector: ClassVar[Literal["t2s", "s2t"] | None] = "t2s"

    name: Literal["compared"] = "compared"
    part: str = ""
    spoilt: str = ""

    def compare(self, rows: Any) -> Any:
        values = rows.divergence(None)
        wrong: Callable[[Any], Any] = OTHERS.get(self.spoilt) or (lambda _: self.spoilt)
        term = {"values": values, "keep": values >= 0, "eligible": values >= 0}
        if self.part in term:
            term[self.part] = wrong(values)
        terms: Any = {self.spoilt if self.part == "name" else "compared_kd": TokenTerm(**term)}
        metrics: Any = {"compared_mean": Tally(values.detach().sum(), torch.tensor(len(values)))}
        if self.part == "metric":
            metrics = {"compared_mean": wrong(values)}
        if self.part == "denominator":
            terms = {"compared_kd": TokenTerm(values=values, denominator=self.spoilt)}  # type: ignore[arg-type]
        found = {"terms": terms, "metrics": metrics}
        return {"a dict": found, "a term": terms}.get(self.spoilt) or SpaceResult(**found)


class Another(Compared):
    name: Literal["another"] = "another"  # type: ignore[assignment]


BOOLS = [name for name in OTHERS if name not in ("a mean", "nothing")]
SPACES = [
    *(
        (part, spoilt)
        for part in ("values", "metric")
        for spoilt in OTHERS
        if part != "values" or spoilt not in ("half precision", "double precision")
    ),
    *((part, spoilt) for part in ("keep", "eligible") for spoilt in BOOLS),
    *(("result", spoilt) for spoilt in ("a dict", "a term")),
    ("denominator", "all"),
    ("name", "ce"),
    ("name", "aux_loss"),
]


@pytest.mark.parametrize(("part", "spoilt"), SPACES)
def test_a_space(part: str, spoilt: str) -> None:
    for engine in ("eager", "tiled"):
        with pytest.raises(PluginError, match=r"^The space 'compared' \(.*Compared\): expected "):
            step(engine, spaces=[Compared(part=part, spoilt=spoilt)])


@pytest.mark.parametrize("engine", ["eager", "tiled"])
def test_two_components_of_one_name_for_a_term_or_metric(engine: str) -> None:
    """A term would be lost in one engine, and added up in the other."""
    step(engine, spaces=[Compared()])
    message = r"The space 'compared' \(.*\) and the space 'another' \(.*\) both give 'compared_kd'"
    with pytest.raises(PluginError, match=message):
        step(engine, spaces=[Compared(), Another()])
    with pytest.raises(PluginError, match=r"The aligner 'spoilt' \(.*\) and the space .* both give 'compared_kd'"):
        step(engine, spaces=[Compared()], aligner=Spoilt(part="terms", spoilt="compared_kd"))


@dataclass(frozen=True, eq=False, kw_only=True)
class SpoiltAlignment(IdentityAlignment):
    spoil: Any = None

    def to_student(self, teacher_side: Tensor) -> Any:
        return teacher_side if self.spoil is None else self.spoil(teacher_side)

    def teacher_index(self) -> Any:
        index = super().teacher_index()
        return index if self.spoil is None else self.spoil(index)


class SpoiltModule(IdentityModule):
    def __init__(self, options: Spoilt) -> None:
        super().__init__()
        self.options = options

    def forward(self, *given: Any) -> Any:
        found = vars(super().forward(*given))
        part, wrong = self.options.part, OTHERS.get(self.options.spoilt)
        if part == "alignment":
            return None if wrong is None else wrong(found["student_values"])
        if part == "terms":
            values = found["student_values"].sum(-1).flatten()
            found |= {"terms": {self.options.spoilt: TokenTerm(values=values if wrong is None else wrong(values))}}
        elif part == "beyond":
            found[self.options.spoilt] = torch.ones_like(found[self.options.spoilt])
        elif part in found and wrong is not None:
            found[part] = wrong(found[part])
        return SpoiltAlignment(**found, spoil=wrong if part == "maps" else None)


class Spoilt(Aligner):
    same_tokenizer: ClassVar[bool] = True

    name: Literal["spoilt"] = "spoilt"
    part: str = ""
    spoilt: str = ""

    def build(self, **_: Any) -> Any:
        return torch.nn.Linear(1, 1) if self.part == "module" else SpoiltModule(self)


SHAPES = ["a mean", "a column", "a row too few", "half precision", "integers", "another device", "a number", "nothing"]
PARTS = ["student_covered", "teacher_covered", "student_values", "teacher_values"]
ALIGNERS = [
    *((part, spoilt) for part in PARTS for spoilt in SHAPES if (part[8:], spoilt) != ("covered", "a mean")),
    *(("maps", spoilt) for spoilt in SHAPES),
    *(("terms", spoilt) for spoilt in ("a mean", "a column", "integers", "a number", "nothing", "ce")),
    *(("beyond", part) for part in PARTS[:2]),
    ("alignment", "nothing"),
    ("alignment", "a mean"),
    ("module", ""),
]


@pytest.mark.parametrize(("part", "spoilt"), ALIGNERS)
def test_an_aligner(part: str, spoilt: str) -> None:
    for engine in ("eager", "tiled"):
        with pytest.raises(PluginError, match=r"aligner 'spoilt'|`.*Spoilt(Module|Alignment)`: expected "):
            step(engine, aligner=Spoilt(part=part, spoilt=spoilt))


class SpoiltProjection(Projection):
    def __init__(self, source_size: int, target_size: int, options: SpoiltProjector) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(source_size, target_size)
        self.options = options

    def forward(self, hidden_states: Tensor, heads: Any) -> Any:
        projected = self.linear(hidden_states)
        return OTHERS[self.options.spoilt](projected) if self.options.part == "forward" else projected

    def affine(self, heads: Any) -> Any:
        if self.options.part == "forward":
            return None
        parts = {"weight": self.linear.weight, "bias": self.linear.bias}
        if self.options.part in parts:
            parts[self.options.part] = OTHERS[self.options.spoilt](parts[self.options.part])
        return tuple(parts.values()) if self.options.part == "affine" else Affine(**parts)


class SpoiltProjector(Projector):
    name: Literal["spoilt"] = "spoilt"
    part: str = ""
    spoilt: str = ""

    def build(self, *, source_size: int, target_size: int, heads: Any) -> Any:
        sizes = (source_size, target_size)
        return torch.nn.Linear(*sizes) if self.part == "module" else SpoiltProjection(*sizes, self)


PROJECTORS = [
    *(("forward", spoilt) for spoilt in SHAPES),
    *((part, spoilt) for part in ("weight", "bias") for spoilt in ("a mean", "a column", "a row too few", "integers")),
    ("affine", ""),
    ("module", ""),
]


@pytest.mark.parametrize(("part", "spoilt"), PROJECTORS)
def test_a_projector(part: str, spoilt: str) -> None:
    engines = ("eager", "tiled") if part in ("forward", "module") else ("tiled",)
    for engine in engines:
        with pytest.raises(PluginError, match=r"The projector 'spoilt' .*build|`.*SpoiltProjection`: expected "):
            step(engine, t2s_projector=SpoiltProjector(part=part, spoilt=spoilt))


class NotFinite(Distance):
    name: Literal["not_finite"] = "not_finite"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return (student_log_probs - teacher_log_probs).sum(-1) / 0


@pytest.mark.parametrize("engine", ["eager", "tiled"])
def test_whoever_may_have_made_what_is_not_finite_is_named(engine: str) -> None:
    with pytest.raises(
        NonFiniteError, match=r"or the distance 'not_finite' \(.*NotFinite\) gives NaN or infinity"
    ) as e:
        step(engine, distance=NotFinite())
    assert "`dskd check`" in str(e.value)
