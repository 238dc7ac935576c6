"""What a loss is made of: the modules that the components of a spec build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from torch import nn

from dskd_components.components.aligner import AlignerModule
from dskd_components.components.projector import Projection, ProjectorHeads
from dskd_components.components.returned import broken_promise
from dskd_components.components.space_modules import SpaceModules, module_key
from dskd_components.components.vocabulary import Vocabulary
from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

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
