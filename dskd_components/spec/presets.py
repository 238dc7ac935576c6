"""The published methods and the recommended ones, as the fields in which each differs from the default spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dskd_components.aligners import CrossModelAttention, ExactMatch
from dskd_components.distances import KL
from dskd_components.errors import UnknownComponentError, did_you_mean
from dskd_components.projectors import Linear, LivePinv, Pinv
from dskd_components.spaces import SharedTokensSpace, SharedVocabularySpace, StudentSpace, TeacherSpace

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
        "spaces": (SharedTokensSpace(),),
        "temperature": 4.0,
        "temperature_squared": True,
    },
}


def preset_fields(name: str, known: Container[str]) -> dict[str, Any]:
    """Return the fields in which a preset differs from the default spec.

    Args:
        name: one of `PRESETS`.
        known: the fields that the spec has. One of several teachers has no ``kd_rate``, for example, which is that of
            all of them, so it has none from a preset either.

    Raises:
        UnknownComponentError: there is no such preset, and the message names the nearest.
    """
    if name not in PRESETS:
        raise UnknownComponentError(
            f"unknown preset {name!r}{did_you_mean(name, list(PRESETS))}; the presets are {', '.join(PRESETS)}."
        )
    return {field: value for field, value in PRESETS[name].items() if field in known}
