"""What a saved loss says of itself: what it computes, and for which pair of models it has learned."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dskd_components._version import __version__
from dskd_components.checkpoints.head_fingerprint import HeadFingerprint
from dskd_components.components.component import Component, FrozenModel
from dskd_components.components.lookup import default_registry
from dskd_components.components.policy import LIBRARY
from dskd_components.models.states import Side
from dskd_components.tokenization.vocabulary_map import MapMethod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from dskd_components.spec.dskd_spec import DSKDSpec
    from dskd_components.vocabularies import Vocabularies


class SavedLoss(Protocol):
    """What is read of a loss in order to describe it."""

    spec: DSKDSpec
    hidden_sizes: dict[Side, int]
    vocabularies: Vocabularies
    head_fingerprints: dict[Side, HeadFingerprint | None]
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
    vocabulary_map: str | None
    """SHA-256 of the map from the teacher's tokens to the student's."""
    vocabulary_method: MapMethod | None
    """How tokenizers were mapped; None: the map was given, or there is none."""
    plugins: dict[str, str]
    """Versions of the distributions that components of the spec come from, this library aside."""


def describe_loss(loss: SavedLoss) -> Description:
    """Return the description of a loss.

    Args:
        loss: a `DSKDLoss`.
    """
    mapped = [tensor for tensor in (loss.teacher_to_student_ids, loss.same_token) if tensor is not None]
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
        vocabulary_map=_digest(mapped) if mapped else None,
        vocabulary_method=loss.vocabularies.method,
        plugins=_plugins(loss.spec),
    )


def _digest(tensors: list[Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _plugins(spec: DSKDSpec) -> dict[str, str]:
    used = {type(component) for component in _components(spec)}
    origins = {info.origin for info in default_registry().components() if info.component in used}
    return {origin.distribution: origin.version for origin in origins if origin.distribution != LIBRARY}


def _components(value: object) -> Iterator[Component]:
    """Yield all components that a value holds, itself included."""
    if isinstance(value, Component):
        yield value
    if isinstance(value, FrozenModel):
        value = tuple(field for _, field in value)
    if isinstance(value, tuple | list):
        for part in value:
            yield from _components(part)
