"""What a loss has learned for: its spec, its plugins, its tokenizers, and the heads that it met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from pydantic import Field

from dskd_components._version import __version__
from dskd_components.components.component import Component, FrozenModel
from dskd_components.components.lookup import default_registry
from dskd_components.components.policy import LIBRARY
from dskd_components.components.schedule import Schedule
from dskd_components.loss.checkpoints.frozen_weights import FrozenWeights, same_weights
from dskd_components.loss.checkpoints.tensors import digest_of
from dskd_components.models.head_recipe import text_config
from dskd_components.models.offline_teacher import OfflineTeacher
from dskd_components.models.states import Side
from dskd_components.tokenization.vocabulary_map import MapMethod

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from torch import Tensor

    from dskd_components.loss.vocabularies import Vocabularies
    from dskd_components.models.head import Head
    from dskd_components.models.vocabulary_subset import VocabularySubset
    from dskd_components.models.wrappers import CausalLM
    from dskd_components.spec.dskd_spec import DSKDSpec


class SavedLoss(Protocol):
    """What is read of a loss in order to describe it."""

    spec: DSKDSpec
    hidden_sizes: dict[Side, int]
    vocabularies: Vocabularies
    head_fingerprints: dict[Side, HeadFingerprint | None]
    subsets: dict[Side, VocabularySubset | None]
    teacher_to_student_ids: Tensor | None
    same_token: Tensor | None


class Description(FrozenModel):
    """A loss and the pair of models that it is for. None stands for what is not known, and is never compared."""

    format: Literal[1] = 1
    """How the files are laid out."""
    library_version: str
    """The version of this library that wrote them."""
    spec: dict[str, Any]
    """All fields of the `DSKDSpec`."""
    hidden_sizes: dict[Side, int]
    """Widths of the last hidden states."""
    tokenizers: dict[Side, str | None]
    """What tells the tokenizers from others, in hexadecimal."""
    vocabulary_sizes: dict[Side, int | None]
    """Numbers of real tokens."""
    heads: dict[Side, HeadFingerprint | None]
    """What tells the models from others."""
    kept_tokens: dict[Side, str | None] = Field(default_factory=lambda: dict.fromkeys(get_args(Side)))
    """SHA-256 of the tokens that heads are narrowed to, and what becomes of the others; ``"all"`` for a whole head."""
    vocabulary_map: str | None
    """SHA-256 of the map from the teacher's tokens to the student's."""
    vocabulary_method: MapMethod | None
    """How tokenizers were mapped; None: the map was given, or there is none."""
    teacher_weight: Any = None
    """Of one of several teachers: its weight in their loss, a number or a schedule; None: there is one, or its pair was
    saved alone."""
    plugins: dict[str, str]
    """Versions of the distributions that components of the spec come from, this library aside."""


def describe_loss(loss: SavedLoss, *, teacher_weight: float | Schedule | None = None) -> Description:
    """Return the description of a loss.

    Args:
        loss: a `DSKDLoss`.
        teacher_weight: what its terms are multiplied with in a loss of several teachers.
    """
    mapped = {
        name: tensor
        for name, tensor in (("teacher_to_student_ids", loss.teacher_to_student_ids), ("same_token", loss.same_token))
        if tensor is not None
    }
    return Description(
        library_version=__version__,
        spec=loss.spec.model_dump(mode="json"),
        hidden_sizes=loss.hidden_sizes,
        tokenizers={
            side: None if number is None else f"{number:016x}"
            for side, number in loss.vocabularies.fingerprints.items()
        },
        vocabulary_sizes=dict(loss.vocabularies.sizes),
        heads=dict(loss.head_fingerprints),
        kept_tokens={
            side: _kept_tokens(loss.subsets[side]) if found is not None else None
            for side, found in loss.head_fingerprints.items()
        },
        vocabulary_map=digest_of(mapped) if mapped else None,
        vocabulary_method=loss.vocabularies.method,
        teacher_weight=teacher_weight.model_dump(mode="json")
        if isinstance(teacher_weight, Schedule)
        else teacher_weight,
        plugins=_plugins(loss.spec),
    )


def _kept_tokens(subset: VocabularySubset | None) -> str:
    if subset is None:
        return "all"
    return f"{digest_of({'token_ids': subset.token_ids})} {subset.others}"


def _plugins(spec: DSKDSpec) -> dict[str, str]:
    used = {type(component) for component in components_of(spec)}
    origins = {info.origin for info in default_registry().components() if info.component in used}
    return {origin.distribution: origin.version for origin in origins if origin.distribution != LIBRARY}


def components_of(value: object) -> Iterator[Component]:
    """Yield all components that a value holds, itself included."""
    if isinstance(value, Component):
        yield value
    if isinstance(value, FrozenModel):
        value = tuple(field for _, field in value)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from components_of(part)


class HeadFingerprint(FrozenModel):
    """The structure of a head, and of a frozen one a digest of its weights.

    A student's head changes with each step, so resuming may only ask for its structure. A teacher's does not change.

    Two fingerprints are equal if they may be of one head: the precision in which a model is loaded is no difference.

    Examples:
        >>> import torch
        >>> from dskd_components import Head
        >>> weight = torch.randn(50, 8)
        >>> whole, rounded = Head(weight), Head(weight.bfloat16())
        >>> HeadFingerprint.of(whole, frozen=True) == HeadFingerprint.of(rounded, frozen=True)
        True
        >>> HeadFingerprint.of(Head(weight + 1), frozen=True) == HeadFingerprint.of(whole, frozen=True)
        False
        >>> HeadFingerprint.of(Head(weight + 1), frozen=False) == HeadFingerprint.of(whole, frozen=False)
        True
    """

    configuration: str | None = None
    """Class of the model's configuration, which adapters and compilation leave as it is; None: not known."""
    rows: int
    """Rows of the weight, padding included."""
    vocabulary_size: int
    """Rows that are real tokens."""
    hidden_size: int
    """Width of the hidden states that the head reads."""
    bias: bool
    """Whether it has one."""
    scale: float
    """What logits are multiplied with."""
    softcap: float
    """Where they are capped; 0: nowhere."""
    weights: str | None = None
    """What `FrozenWeights` keeps of them, as text; None for a head that is trained."""

    def __eq__(self, other: object) -> bool:
        """Return whether both may be of one head."""
        if not isinstance(other, HeadFingerprint):
            return NotImplemented
        return self._structure == other._structure and same_weights(self.weights, other.weights)

    def __hash__(self) -> int:
        """Return a hash of the structure: what weights are equal within rounding has no hash."""
        return hash(self._structure)

    @property
    def _structure(self) -> tuple[object, ...]:
        return tuple(value for name, value in self if name != "weights")

    @classmethod
    def of(cls, head: Head, *, frozen: bool) -> Self:
        """Return the fingerprint of a head; of one that was narrowed, that of the whole one.

        Args:
            head: the head.
            frozen: whether its weights stay as they are.
        """
        head = head.whole or head
        return cls(
            rows=len(head.weight),
            vocabulary_size=head.vocabulary_size,
            hidden_size=head.hidden_size,
            bias=head.bias is not None,
            scale=head.scale,
            softcap=head.softcap or 0.0,
            weights=FrozenWeights.of(head.weight).text if frozen else None,
        )

    def of_model(self, model: CausalLM | OfflineTeacher) -> Self:
        """Return the same fingerprint with the class of a model's configuration.

        Args:
            model: the model that the head belongs to, or what stands for it.
        """
        known = model.configuration if isinstance(model, OfflineTeacher) else type(text_config(model)).__name__
        return self.model_copy(update={"configuration": known})
