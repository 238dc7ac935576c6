"""Everything that is registered, for tests that name nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dskd_components import DSKDLoss, DSKDSpec, Head, get_projector, get_space, list_components
from dskd_components.spec.presets import PRESETS
from dskd_components.testing import laws_about, registered_variants

if TYPE_CHECKING:
    from dskd_components.components.component import Component
    from tests.helpers.strategies import Batch


def names(kind: str) -> list[str]:
    return [info.name for info in list_components(kind)]


def by_claims(kind: str) -> tuple[tuple[Component, ...], tuple[Component, ...]]:
    """The components of a kind: one of each class for every set of laws that it claims, defaults first; and the others.

    The others run through the same code with other numbers, so fewer cases show what these change.
    """
    found: dict[tuple[object, ...], Component] = {}
    others = []
    for component in registered_variants(kind):
        claimed = tuple(law.name for law in laws_about(kind) if law.claimed_by(component))
        if found.setdefault((type(component), claimed), component) is not component:
            others.append(component)
    return tuple(found.values()), tuple(others)


def towards_student(projector: str) -> str:
    """The projector itself, or one in its place if it needs a head that is not trained."""
    return "pinv" if get_projector(projector).needs_frozen_target else projector


# Every preset as published, every component inside the default spec, and the published ones made split-invariant.
def specs(*, split_invariant: bool = False) -> dict[str, DSKDSpec]:
    found: dict[str, DSKDSpec] = {}
    published = [name for name in PRESETS if not name.startswith("recommended")]
    if not split_invariant:
        found.update({f"preset {name}": DSKDSpec.preset(name, temperature=1.5) for name in published})
    found.update({f"distance {name}": DSKDSpec(distance=name, temperature=2.0) for name in names("distance")})
    found.update({f"aligner {name}": DSKDSpec(aligner=name) for name in names("aligner")})
    for name in names("projector"):
        to_student = towards_student(name)
        found[f"projector {name}"] = DSKDSpec(t2s_projector=to_student, s2t_projector=name)
        found[f"projector {name} with cma"] = DSKDSpec(t2s_projector=to_student, s2t_projector=name, aligner="cma")
    for name in names("space"):
        found[f"space {name}"] = DSKDSpec(spaces=(name,))
        if not get_space(name).one_vocabulary:
            found[f"space {name} of two tokenizers"] = DSKDSpec(spaces=(name,), aligner="span")
    for targets in ("labels", "teacher_argmax"):
        for kept in ("none", "correct", "agreement"):
            space: dict[str, Any] = {"name": "student", "targets": targets, "filter": kept}
            for aligner in ("identity", "cma"):
                found[f"t2s {targets} {kept} {aligner}"] = DSKDSpec(
                    spaces=(space, "teacher"), aligner=aligner, temperature_squared=True, temperature=2.0
                )
    # Here the teacher's choices do not come from a pass through the teacher's space.
    alone: dict[str, Any] = {"name": "student", "targets": "teacher_argmax", "filter": "agreement"}
    for aligner in ("identity", "cma"):
        found[f"t2s alone {aligner}"] = DSKDSpec(spaces=(alone,), aligner=aligner)
    # Last, because some tests deal out what else they vary by place.
    if not split_invariant:
        own = [name for name in PRESETS if name not in published]
        found.update({f"preset {name}": DSKDSpec.preset(name, temperature=1.5) for name in own})
    return found


def build(spec: DSKDSpec, batch: Batch, *, seed: int = 0, mapping: Tensor | None = None) -> DSKDLoss:
    """The loss for a batch's models, in the batch's precision, with seeded parameters."""
    torch.manual_seed(seed)
    if mapping is None and not spec.aligner.same_tokenizer:
        mapping = vocabulary_map(batch.student.head, batch.teacher.head)
    loss_fn = DSKDLoss(
        spec,
        student_hidden_size=batch.student.hidden_states.shape[-1],
        teacher_hidden_size=batch.teacher.hidden_states.shape[-1],
        student_head=batch.student.head,
        teacher_head=batch.teacher.head,
        teacher_to_student_ids=mapping,
    )
    dtype = batch.student.hidden_states.dtype
    return loss_fn.to(dtype) if dtype == torch.float64 else loss_fn


def vocabulary_map(student: Head, teacher: Head) -> Tensor:
    """Every second token of the teacher is also a token of the student."""
    ids = torch.arange(teacher.vocabulary_size)
    return torch.where((ids % 2 == 0) & (ids < student.vocabulary_size), ids, -1)
