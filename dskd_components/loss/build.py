"""What a loss is made of: what the components of a spec build, and the optimizer groups of its parameters."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, SupportsFloat, cast

from torch import nn

from dskd_components.components.aligner import AlignerModule
from dskd_components.components.hookspecs import PROJECT_NAME
from dskd_components.components.lookup import default_registry
from dskd_components.components.projector import Projection, ProjectorHeads
from dskd_components.components.returned import broken_promise
from dskd_components.components.space_modules import SpaceModules, module_key
from dskd_components.components.text_methods import text_aligner_names
from dskd_components.components.vocabulary import Vocabulary
from dskd_components.errors import ConfigurationError, InputError
from dskd_components.loss.checkpoints.description import components_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.components.component import Component
    from dskd_components.components.space import Direction
    from dskd_components.engines.vocabulary_overlap import VocabularyOverlap
    from dskd_components.models.head import Head
    from dskd_components.models.states import Side
    from dskd_components.spec.dskd_spec import DSKDSpec


ENDS: Final[Mapping[Direction, tuple[Side, Side]]] = {"t2s": ("teacher", "student"), "s2t": ("student", "teacher")}
"""The source and the target of each projection."""


def require_own_names(spec: DSKDSpec) -> None:
    """Refuse a component that has the name of another one, as a class has that inherits it.

    Files and checkpoints hold names and options, and would be read as that other one.

    Args:
        spec: the choices.

    Raises:
        ConfigurationError: there is one; the message names both.
    """
    for component in components_of(spec):
        cls = type(component)
        if cls.__module__.partition(".")[0] == PROJECT_NAME:
            continue
        takers = [
            info.component for info in default_registry().components(component.kind) if info.name == component.name
        ]
        if takers and not any(_is_same(cls, taker) for taker in takers):
            raise ConfigurationError(
                f"The {component.kind} {component.name!r} ({cls.__module__}.{cls.__qualname__}) has the name of "
                f"{takers[0].__module__}.{takers[0].__qualname__}: a saved spec or checkpoint would be read as that. "
                f'Give the class a name of its own: `name: Literal["my_{component.name}"] = "my_{component.name}"`.'
            )


def _is_same(cls: type[Component], other: type[Component]) -> bool:
    """Return whether two classes are one, or one that was imported twice, as by a script in its own package."""
    files = [getattr(sys.modules.get(one.__module__), "__file__", None) for one in (cls, other)]
    return cls is other or (cls.__qualname__ == other.__qualname__ and None not in files and files[0] == files[1])


def require_demands(spec: DSKDSpec, shared: int | None) -> None:
    """Refuse spaces whose demands the rest of a loss does not meet.

    Args:
        spec: the choices.
        shared: how many tokens the two vocabularies have in common; None: not known.

    Raises:
        ConfigurationError: a space needs a hard alignment, or more shared tokens; the message names it.
    """
    for space in spec.spaces:
        if space.needs_hard_alignment and not spec.aligner.is_hard:
            hard = [name for name in text_aligner_names() if name != spec.aligner.name]
            raise ConfigurationError(
                f"The space {space.name!r} needs a hard alignment, in which it is settled before training what belongs "
                f"together, but the aligner {spec.aligner.name!r} weighs positions anew in each step. Use an aligner "
                f"such as {', '.join(map(repr, hard))} for two tokenizers, 'identity' for one, or leave it out."
            )
        if shared is not None and shared < space.min_shared_tokens:
            raise ConfigurationError(
                f"The space {space.name!r} needs {space.min_shared_tokens} or more tokens that both vocabularies have, "
                f"but these have {shared} in common. Check that the tokenizers (or teacher_to_student_ids, same_token "
                "or vocabulary_map) are those of the two models, or leave the space out."
            )


def count_shared(overlap: VocabularyOverlap | None, ids: Tensor | None, same: Tensor | None) -> int | None:
    """Return how many tokens two vocabularies have in common, as far as can be told; None: it cannot be told.

    Args:
        overlap: of two heads, if both are known.
        ids: ``[Vt]``, the student's id of each teacher token or -1; None: one vocabulary.
        same: ``[Vt]``, which of them are the very same token; None: all.
    """
    if overlap is not None:
        return len(overlap.shared_tokens.student_ids)
    if ids is None:
        return None
    shared = ids >= 0 if same is None else (ids >= 0) & same
    return len(ids[shared].unique())


def projector_heads(
    student: Head,
    teacher: Head,
    overlap: VocabularyOverlap,
    *,
    embeddings: Mapping[Side, Tensor | None] | None = None,
    are_checked: bool = False,
    tokenizers: Mapping[Side, Any] | None = None,
) -> dict[Direction, ProjectorHeads]:
    """Return the heads at both ends of each projection, with the tokens that they share.

    Args:
        student: the student's head.
        teacher: the teacher's head.
        overlap: what their vocabularies have in common.
        embeddings: by side, the model's input embedding, if known.
        are_checked: as in `ProjectorHeads`.
        tokenizers: by side, for what is built; None: nothing is.
    """
    student_ids, teacher_ids = overlap.pairs or (None, None)
    sides: dict[Side, Head] = {"student": student, "teacher": teacher}
    vocabularies = tokenizers and {
        side: Vocabulary(size=head.vocabulary_size, tokenizer=tokenizers[side]) for side, head in sides.items()
    }
    known = embeddings or {}
    own, theirs = _rows_of(student, known.get("student")), _rows_of(teacher, known.get("teacher"))
    return {
        "t2s": ProjectorHeads(
            source=teacher,
            target=student,
            source_ids=teacher_ids,
            target_ids=student_ids,
            source_embedding=theirs,
            target_embedding=own,
            are_checked=are_checked,
            source_side="teacher",
            vocabularies=vocabularies,
        ),
        "s2t": ProjectorHeads(
            source=student,
            target=teacher,
            source_ids=student_ids,
            target_ids=teacher_ids,
            source_embedding=own,
            target_embedding=theirs,
            are_checked=are_checked,
            vocabularies=vocabularies,
        ),
    }


def _rows_of(head: Head, embedding: Tensor | None) -> Tensor | None:
    """Return the rows of an input embedding that are the tokens of a head, which may be narrowed to some."""
    if embedding is None or head.subset is None:
        return embedding
    return embedding.index_select(0, head.subset.on(embedding.device).token_ids)


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
        PluginError: it builds something else than a projection.
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
        built: object = projector.build(
            source_size=hidden_sizes[source],
            target_size=hidden_sizes[target],
            heads=None if heads is None else heads[direction],
        )
        if not isinstance(built, Projection):
            raise broken_promise(projector, "build(...) to return a Projection", built)
        projectors[direction] = built
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


def build_aligner(
    spec: DSKDSpec, embedding_sizes: Mapping[Side, int], heads: Mapping[Direction, ProjectorHeads] | None
) -> AlignerModule:
    """Build the spec's aligner.

    Args:
        spec: the choices.
        embedding_sizes: width of each side's input embedding.
        heads: as in `build_projectors`.

    Raises:
        ConfigurationError: the aligner is made from heads that are not given.
        PluginError: it builds something else than an aligner's module.
    """
    if spec.aligner.needs_heads and heads is None:
        raise ConfigurationError(
            f"The aligner {spec.aligner.name!r} is made from the models' heads. Pass student_head=Head(...) and "
            "teacher_head=Head(...) to DSKDLoss, or use DSKDLoss.from_models."
        )
    built: object = spec.aligner.build(
        student_embedding_size=embedding_sizes["student"],
        teacher_embedding_size=embedding_sizes["teacher"],
        heads=None if heads is None else heads["t2s"],
    )
    if not isinstance(built, AlignerModule):
        raise broken_promise(spec.aligner, "build(...) to return an AlignerModule", built)
    return built


def require_rate(name: str, rate: object) -> None:
    """Refuse a learning rate or a weight decay that is none: in a group, torch takes any.

    Args:
        name: what the message calls it.
        rate: must be one number, of any type, that is finite and not negative.

    Raises:
        InputError: it is something else.
    """
    number = math.nan
    if isinstance(rate, SupportsFloat) and not isinstance(rate, bool):
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):  # several numbers, or one that is too large
            number = float(rate)
    if not 0 <= number < math.inf:
        of_yaml = " YAML may take 1e-3 for text: write 1.0e-3." if isinstance(rate, str) else ""
        raise InputError(f"{name}: expected a finite number that is not negative, got {rate!r}.{of_yaml}")


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
        InputError: a rate is no number, or negative.

    Examples:
        >>> from torch import nn
        >>> module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> [group["lr"] for group in parameter_groups(module, {"1": 0.5}, lr=2.0, weight_decay=0.0)]
        [2.0, 1.0]
    """
    require_rate("lr", lr)
    require_rate("weight_decay", weight_decay)
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
