"""`DSKDSpec`: every choice of the method in one frozen, typed, serialisable object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from dskd_components.aligners.identity import Identity
from dskd_components.components.column_reader import BYTE_POSITIONS, columns_read
from dskd_components.components.component import Frozen, FrozenModel
from dskd_components.components.fields import (
    AnyAligner,
    AnyDistance,
    AnyProjector,
    AnySpaces,
    ByTermName,
    TrainedTargetProjector,
    require_term_names,
    require_terms_in_schema,
)
from dskd_components.components.space import Direction, Measure
from dskd_components.distances.kl import KL
from dskd_components.engines.field import AnyEngine
from dskd_components.engines.reduction import LossWeights
from dskd_components.engines.tiled import Tiled
from dskd_components.projectors.pinv import Pinv
from dskd_components.spaces.student import StudentSpace
from dskd_components.spaces.teacher import TeacherSpace
from dskd_components.spec.presets import preset_fields
from dskd_components.spec.schedules import (
    Share,
    Weight,
    at_step,
    checked_step,
    last_change,
    scheduled_among,
)

if TYPE_CHECKING:
    from typing import Self

    from dskd_components.components.projector import Projector
    from dskd_components.components.schedule import Schedule
    from dskd_components.components.space import Space
    from dskd_components.models.states import Side


class PairSpec(FrozenModel):
    """What a student and one teacher have to do with one another: the fields that every teacher has for itself."""

    model_config = ConfigDict(json_schema_extra=require_terms_in_schema)

    distance: AnyDistance = KL()
    """Distance of every space that does not name its own."""
    aligner: AnyAligner = Identity()
    """Which positions of the two models belong together."""
    t2s_projector: TrainedTargetProjector = Pinv(bias=True, otherwise="linear")
    """Maps the teacher's hidden states into the student's space. It starts from the heads and the tokens that they
    share, or without these as a calibrated ``linear``. Not one that is made from the student's head once and never
    trained, as ``live_pinv`` is: that head changes."""
    s2t_projector: AnyProjector = Pinv(bias=True, otherwise="linear")
    """Maps the student's hidden states into the teacher's space; it starts likewise."""
    spaces: AnySpaces = (StudentSpace(), TeacherSpace())
    """Where distributions meet; each ablation of the paper is a shorter or other list. There may be none if the aligner
    has terms of its own."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T: what student logits are divided by in every distance. Cross entropies have none."""
    teacher_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Teacher logits are divided by T times this."""
    temperature_squared: bool = False
    """Whether distances are multiplied by the square of T, as Hinton et al. do and the DSKD papers do not."""
    weights: Annotated[Mapping[str, Weight], Frozen(), ByTermName()] = Field(default_factory=dict)
    """By name of a term, ``t2s_kd`` for example, what it is multiplied with besides the weight that its component gives
    it; a number, or a schedule over the optimizer steps. 1 for terms that are not named."""

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """Return a published method, or a recommended one.

        Args:
            name: ``"vanilla-kd"``, ``"dskd"``, ``"dskd-cma"``, ``"dskd-v2"`` or ``"dskd-v2-eta"``, as published;
                ``"recommended-one-vocabulary"`` or ``"recommended-two-vocabularies"``, which gained most on real models
                at equal steps (docs/explanation/evidence.md).
            **overrides: fields of the spec to set otherwise.

        Raises:
            UnknownComponentError: there is no such preset.
            pydantic.ValidationError: a field is unknown or out of range.
        """
        return cls(**(preset_fields(name, cls.model_fields) | overrides))

    @field_validator("spaces")
    @classmethod
    def _with_terms(cls, spaces: tuple[Space, ...], info: ValidationInfo) -> tuple[Space, ...]:
        aligner = info.data.get("aligner")  # None: it is wrong itself
        if not spaces and aligner is not None and not aligner.terms:
            raise ValueError(
                f"expected at least one space: there is nothing else to learn from, since the aligner {aligner.name!r} "
                "has no terms"
            )
        return spaces

    @field_validator("weights")
    @classmethod
    def _of_known_terms(cls, weights: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        if {"spaces", "aligner"} <= info.data.keys():  # else they are wrong themselves
            require_term_names(weights, info.data["spaces"], info.data["aligner"])
        return weights

    def term_weights(self, step: int | None = None) -> dict[str, float]:
        """Return `weights` as numbers.

        Args:
            step: how many optimizer steps have been taken; needed if one of them is a schedule.

        Raises:
            InputError: the step is needed and missing.
        """
        return {name: at_step(weight, step, f"weights[{name!r}]") for name, weight in self.weights.items()}

    @property
    def named_weights(self) -> dict[str, float | Schedule]:
        """`weights` by where they stand in the spec."""
        return {f"weights[{name!r}]": weight for name, weight in self.weights.items()}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields set otherwise; the result is validated.

        Args:
            **changes: fields of the spec.

        Raises:
            pydantic.ValidationError: a field is unknown or out of range.
        """
        return type(self)(**(dict(self) | changes))

    @property
    def measure(self) -> Measure:
        """How distributions are measured in the spaces."""
        return Measure(
            distance=self.distance,
            temperature=self.temperature,
            teacher_temperature=self.temperature * self.teacher_temperature,
            scale=self.temperature**2 if self.temperature_squared else 1.0,
        )

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The projections that the spaces use."""
        used = {space.projector for space in self.spaces}
        return tuple(direction for direction in get_args(Direction) if direction in used)

    @property
    def needs_vocabulary_map(self) -> bool:
        """Whether some choice must know which tokens of two vocabularies are the same."""
        return not self.aligner.same_tokenizer and bool(self.comparing_vocabularies)

    @property
    def uses_vocabulary_map(self) -> bool:
        """Whether some choice makes use of a map between two vocabularies, whether or not it can do without."""
        projectors = [self.projector_for(direction) for direction in self.directions]
        used = self.aligner.uses_shared_tokens or any(projector.uses_shared_tokens for projector in projectors)
        return self.needs_vocabulary_map or (not self.aligner.same_tokenizer and used)

    @property
    def comparing_vocabularies(self) -> tuple[str, ...]:
        """What looks at tokens across vocabularies, in words."""
        spaces = [f"the space {space.name!r}" for space in self.spaces if space.compares_vocabularies]
        projectors = [
            f"{direction}_projector {self.projector_for(direction).name!r}"
            for direction in self.directions
            if self.projector_for(direction).needs_heads
        ]
        aligners = [f"the aligner {self.aligner.name!r}"] if self.aligner.needs_heads else []
        return (*spaces, *projectors, *aligners)

    def columns_read(self, side: Side) -> dict[str, str]:
        """Return the columns of one side of a batch that components read, without the side, each with who reads it.

        Args:
            side: whose.

        Raises:
            ConfigurationError: a component names one that is of no side whose positions it sees.
        """
        return columns_read((self.aligner, *self.spaces), side)

    @property
    def reads_byte_positions(self) -> bool:
        """Whether a component reads where tokens start or end in bytes, which collators say on request."""
        sides: tuple[Side, ...] = ("student", "teacher")
        return any(name in BYTE_POSITIONS for side in sides for name in self.columns_read(side))

    def projector_for(self, direction: Direction) -> Projector:
        """Return the projector of one direction."""
        return self.t2s_projector if direction == "t2s" else self.s2t_projector


class DSKDSpec(PairSpec):
    """What is computed: ``loss = (1 - kd_rate) ce + kd_rate (weighted sum of the spaces' terms)``.

    A component field takes an instance, a name, or a mapping with a name and options. The spec is frozen, refuses
    unknown fields, and goes through JSON and back unchanged. Defaults are those choices under which a batch has the
    same gradient as its micro-batches; the presets of papers are as published.

    Examples:
        >>> spec = DSKDSpec.preset("dskd-cma", distance="reverse_kl", temperature=2.0)
        >>> spec.distance
        ReverseKL(name='reverse_kl')
        >>> DSKDSpec.model_validate_json(spec.model_dump_json()) == spec
        True
        >>> DSKDSpec.preset("dskd", spaces=["student"]).replace(kd_rate=0.9).kd_rate
        0.9
        >>> warm_up = DSKDSpec(kd_rate={"name": "linear", "start": 0, "end": 0.5, "steps": 100}, weights={"s2t_kd": 2})
        >>> warm_up.at(50).kd_rate
        0.25
    """

    kd_rate: Share = 0.5
    """Share of the spaces' terms in the loss; the student's own cross entropy has the rest. A number, or a schedule
    over the optimizer steps."""
    reduction: Literal["mean", "sum"] = "mean"
    """``mean``: divided by ``num_items_in_batch``, or the scored student tokens if the caller gives none. ``sum``: not
    divided."""
    engine: AnyEngine = Tiled()
    """How it is computed; it changes time and memory only. ``tiled``, within a memory budget, or ``eager``."""

    def loss_weights(self, step: int | None = None) -> LossWeights:
        """Return what the terms are multiplied with.

        Args:
            step: how many optimizer steps have been taken, 0 at the first; needed if a weight is a schedule.

        Raises:
            InputError: the step is needed and missing, or it is no step.
        """
        step = checked_step(step)
        kd_rate = at_step(self.kd_rate, step, "kd_rate")
        return LossWeights(cross_entropy=1 - kd_rate, distillation=kd_rate, by_term=self.term_weights(step))

    @property
    def scheduled(self) -> dict[str, Schedule]:
        """The weights that follow a schedule, by where they stand: ``kd_rate``, ``weights['t2s_kd']``."""
        return scheduled_among({"kd_rate": self.kd_rate, **self.named_weights})

    @property
    def final_step(self) -> int:
        """The step from which on no weight changes; 0 without schedules.

        Evaluations can be compared with one another if all are by the weights of one step:
        ``loss_fn.run(..., step=spec.final_step)``.
        """
        return last_change(self.scheduled)

    def at(self, step: int) -> Self:
        """Return the spec of one step, in which every schedule has become its number.

        Args:
            step: how many optimizer steps have been taken, 0 at the first.

        Raises:
            InputError: it is no step.
        """
        weights = self.loss_weights(step)
        return self.replace(kd_rate=weights.distillation, weights=weights.by_term)
