"""The published methods, as the fields in which each differs from the default spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dskd_components.aligners import CrossModelAttention, ExactMatch
from dskd_components.distances import KL
from dskd_components.errors import UnknownComponentError, did_you_mean
from dskd_components.projectors import Linear, LivePinv, Pinv
from dskd_components.spaces import SharedVocabularySpace, StudentSpace, TeacherSpace

if TYPE_CHECKING:
    from collections.abc import Mapping

V1: Final[dict[str, Any]] = {"t2s_projector": Linear(init="torch"), "s2t_projector": Linear(init="torch")}

V2: Final[dict[str, Any]] = {
    "t2s_projector": Pinv(),
    "s2t_projector": LivePinv(),
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
}


def preset_fields(name: str) -> dict[str, Any]:
    """Return the fields in which a preset differs from the default spec.

    Args:
        name: ``"vanilla-kd"``, ``"dskd"``, ``"dskd-cma"``, ``"dskd-v2"`` or ``"dskd-v2-eta"``.

    Raises:
        UnknownComponentError: there is no such preset; the message names the nearest.
    """
    if name not in PRESETS:
        raise UnknownComponentError(
            f"unknown preset {name!r}{did_you_mean(name, list(PRESETS))}; the presets are {', '.join(PRESETS)}."
        )
    return dict(PRESETS[name])
