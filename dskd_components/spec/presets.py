"""The published methods and the recommended ones, as the fields in which each differs from the default spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dskd_components.aligners import CrossModelAttention, ExactMatch
from dskd_components.components.lookup import default_registry
from dskd_components.distances import KL
from dskd_components.errors import UnknownComponentError, did_you_mean
from dskd_components.projectors import Linear, LivePinv, Pinv
from dskd_components.spaces import SharedVocabularySpace, StudentSpace, TeacherSpace

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

V1: Final[dict[str, Any]] = {"t2s_projector": Linear(init="torch"), "s2t_projector": Linear(init="torch")}

FROM_HEADS: Final[dict[str, Any]] = {"t2s_projector": Pinv(), "s2t_projector": LivePinv()}

V2: Final[dict[str, Any]] = FROM_HEADS | {
    "spaces": (
        StudentSpace(
            targets="teacher_argmax",
            filter="agreement",
            agreement_threshold=0.95,
            ce_denominator="kept",
            kd_denominator="kept",
        ),
        TeacherSpace(denominator="kept"),
    ),
}

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    # Hinton et al. 2015: one tokenizer, no projection.
    "vanilla-kd": {"spaces": (SharedVocabularySpace(),)},
    # DSKD, arXiv 2406.17328, one tokenizer. The teacher's space always has forward KL there.
    "dskd": V1 | {"spaces": (StudentSpace(), TeacherSpace(distance=KL()))},
    # DSKD with cross-model attention, two tokenizers. The standard deviation runs over the whole batch there.
    "dskd-cma": V1
    | {
        "aligner": CrossModelAttention(std="batch"),
        "spaces": (StudentSpace(filter="correct"), TeacherSpace(distance=KL())),
    },
    # DSKD v2, arXiv 2504.11426, one tokenizer. Each term is a mean over its own tokens there.
    "dskd-v2": V2,
    # DSKD v2 with exact token alignment, two tokenizers: the same over exactly aligned pairs.
    "dskd-v2-eta": V2 | {"aligner": ExactMatch()},
    # No paper's: these two are this project's own. Of all that was tried on real models, at equal steps, they gained
    # most there; what was tried and how much each gained is in docs/explanation/evidence.md.
    "recommended-one-vocabulary": FROM_HEADS
    | {"spaces": (SharedVocabularySpace(), StudentSpace(), TeacherSpace(distance=KL()))},
    "recommended-two-vocabularies": {
        "aligner": ExactMatch(),
        # By its name: a plugin has it. So it compares the tokens alone that both vocabularies have.
        "spaces": ({"name": "uld_hybrid", "unmatched_weight": 0.0},),
        "temperature": 4.0,
        "temperature_squared": True,
    },
}

OF_PLUGINS: Final[Mapping[str, tuple[str, str]]] = {"recommended-two-vocabularies": ("uld_hybrid", "dskd-uld")}
"""By preset, the space that a plugin has, and the distribution to install for it."""


def preset_fields(name: str, known: Container[str]) -> dict[str, Any]:
    """Return the fields in which a preset differs from the default spec.

    Args:
        name: one of `PRESETS`.
        known: the fields that the spec has. One of several teachers has no ``kd_rate``, for example, which is that of
            all of them, so it has none from a preset either.

    Raises:
        UnknownComponentError: there is no such preset, and the message names the nearest; or the plugin that it needs
            is not there, and the message names the distribution to install.
    """
    if name not in PRESETS:
        raise UnknownComponentError(
            f"unknown preset {name!r}{did_you_mean(name, list(PRESETS))}; the presets are {', '.join(PRESETS)}."
        )
    if name in OF_PLUGINS:
        _require_plugin(name, *OF_PLUGINS[name])
    return {field: value for field, value in PRESETS[name].items() if field in known}


def usable_presets() -> list[str]:
    """Return the names of the presets whose plugins are installed."""
    return [name for name in PRESETS if name not in OF_PLUGINS or has_space(OF_PLUGINS[name][0])]


def has_space(name: str) -> bool:
    """Return whether a spec can name a space here, which may be that of a plugin.

    Args:
        name: the name.
    """
    return [info.name for info in default_registry().components("space")].count(name) == 1


def _require_plugin(preset: str, space: str, distribution: str) -> None:
    registry = default_registry()
    try:
        registry.find(space, "space")
    except UnknownComponentError as error:
        is_installed = any(origin.distribution == distribution for origin in registry.origins)
        what = "which is installed, but left out" if is_installed else "which is not installed: install it"
        raise UnknownComponentError(
            f"the preset {preset!r} needs the space {space!r} of the distribution {distribution}, {what} ({error})"
        ) from error
