"""What a loss is made of: what the components of a spec build, and the optimizer groups of its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from torch import nn

from dskd_components.components.projector import ProjectorHeads
from dskd_components.components.space_modules import SpaceModules, module_key
from dskd_components.components.vocabulary import Vocabulary
from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.components.aligner import AlignerModule
    from dskd_components.components.space import Direction
    from dskd_components.engines.vocabulary_overlap import VocabularyOverlap
    from dskd_components.models.head import Head
    from dskd_components.models.states import Side
    from dskd_components.spec.dskd_spec import DSKDSpec


ENDS: Final[Mapping[Direction, tuple[Side, Side]]] = {"t2s": ("teacher", "student"), "s2t": ("student", "teacher")}
"""The source and the target of each projection."""


def projector_heads(
    student: Head,
    teacher: Head,
    overlap: VocabularyOverlap,
    *,
    are_checked: bool = False,
    tokenizers: Mapping[Side, Any] | None = None,
) -> dict[Direction, ProjectorHeads]:
    """Return the heads at both ends of each projection, with the tokens that they share.

    Args:
        student: the student's head.
        teacher: the teacher's head.
        overlap: what their vocabularies have in common.
        are_checked: as in `ProjectorHeads`.
        tokenizers: by side, for what is built; None: nothing is.
    """
    student_ids, teacher_ids = overlap.pairs or (None, None)
    sides: dict[Side, Head] = {"student": student, "teacher": teacher}
    vocabularies = tokenizers and {
        side: Vocabulary(size=head.vocabulary_size, tokenizer=tokenizers[side]) for side, head in sides.items()
    }
    return {
        "t2s": ProjectorHeads(
            source=teacher,
            target=student,
            source_ids=teacher_ids,
            target_ids=student_ids,
            are_checked=are_checked,
            source_side="teacher",
            vocabularies=vocabularies,
        ),
        "s2t": ProjectorHeads(
            source=student,
            target=teacher,
            source_ids=student_ids,
            target_ids=teacher_ids,
            are_checked=are_checked,
            vocabularies=vocabularies,
        ),
    }


def build_projectors(
    spec: DSKDSpec, hidden_sizes: Mapping[Side, int], heads: Mapping[Direction, ProjectorHeads] | None
) -> nn.ModuleDict:
    """Build the projectors that the spec's spaces use.

    Args:
        spec: the choices.
        hidden_sizes: width of each side's hidden states.
        heads: the heads at both ends of each projection, if known.

    Raises:
        ConfigurationError: a projector is made from heads that are not given.
    """
    projectors = nn.ModuleDict()
    for direction in spec.directions:
        projector = spec.projector_for(direction)
        if projector.needs_heads and heads is None:
            raise ConfigurationError(
                f"{direction}_projector {projector.name!r} is made from the models' heads. Pass student_head=Head(...) "
                "and teacher_head=Head(...) to DSKDLoss, or use DSKDLoss.from_models."
            )
        source, target = ENDS[direction]
        projectors[direction] = projector.build(
            source_size=hidden_sizes[source],
            target_size=hidden_sizes[target],
            heads=None if heads is None else heads[direction],
        )
    return projectors


def build_spaces(spec: DSKDSpec, heads: Mapping[Direction, ProjectorHeads] | None) -> nn.ModuleDict:
    """Build what the spec's spaces and their distances need; nothing for those that have no parameters.

    Args:
        spec: the choices.
        heads: as in `build_projectors`.

    Raises:
        ConfigurationError: one needs heads that are not given, or builds something that is no module.
    """
    both = None if heads is None else heads["t2s"]
    made = {space.name: SpaceModules.of(space, spec.distance, both) for space in spec.spaces}
    return nn.ModuleDict({module_key(name): module for name, module in made.items() if module is not None})


def space_modules(spec: DSKDSpec, built: nn.ModuleDict) -> dict[str, SpaceModules]:
    """Return what `build_spaces` has built, by the names of spaces.

    Args:
        spec: the choices.
        built: what it has returned.
    """
    found: Mapping[str, Any] = {space.name: module_key(space.name) for space in spec.spaces} if len(built) else {}
    return {name: cast("SpaceModules", built[key]) for name, key in found.items() if key in built}


def learning_rate_factors(aligner: AlignerModule, modules: Mapping[str, SpaceModules]) -> dict[str, float]:
    """Return, by name of a submodule of a loss, what its learning rate is multiplied with.

    Args:
        aligner: the loss's aligner.
        modules: what was built for its spaces, by their names.
    """
    factors = {f"aligner.{part}": factor for part, factor in aligner.learning_rate_factors().items()}
    for name, built in modules.items():
        factors |= {f"spaces.{module_key(name)}.{part}": factor for part, factor in built.factors.items()}
    return factors


def parameter_groups(
    module: nn.Module, factors: Mapping[str, float], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the trainable parameters of a module, one group for each learning rate, the common rate first.

    Args:
        module: owns the parameters.
        factors: by name of a submodule, what its learning rate is multiplied with.
        lr: the common learning rate.
        weight_decay: of all groups.

    Returns:
        The groups; none if there is nothing to train.

    Raises:
        AttributeError: there is no submodule of that name.

    Examples:
        >>> from torch import nn
        >>> module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> [group["lr"] for group in parameter_groups(module, {"1": 0.5}, lr=2.0, weight_decay=0.0)]
        [2.0, 1.0]
    """
    factor_of = {
        id(parameter): factor
        for name, factor in factors.items()
        for parameter in module.get_submodule(name).parameters()
    }
    by_factor: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            by_factor.setdefault(factor_of.get(id(parameter), 1.0), []).append(parameter)
    return [
        {"params": parameters, "lr": factor * lr, "weight_decay": weight_decay}
        for factor, parameters in by_factor.items()
        if parameters
    ]
