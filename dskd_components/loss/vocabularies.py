"""What two tokenizers say about the vocabularies of two models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dskd_components.errors import ConfigurationError, InputError
from dskd_components.tokenization.fast_tokenizers import fingerprint_number
from dskd_components.tokenization.vocabulary_map import build_vocabulary_map

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from dskd_components.components.component import Component
    from dskd_components.models.states import Side
    from dskd_components.spec.dskd_spec import DSKDSpec
    from dskd_components.tokenization.vocabulary_map import MapMethod


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabularies:
    """Both vocabularies, as far as the tokenizers are known.

    Args:
        sizes: by side, how many leading rows of the head are real tokens; None: all.
        fingerprints: by side, a number that tells tokenizers apart; None: unknown.
        teacher_to_student_ids: ``[Vt]``, int64: the student's id of each teacher token or -1; None: not needed.
        same_token: ``[Vt]``, bool: which of these entries are the very same token; None: all.
        method: how tokens were mapped; None: they were not.
    """

    sizes: Mapping[Side, int | None]
    fingerprints: Mapping[Side, int | None]
    teacher_to_student_ids: Tensor | None = None
    same_token: Tensor | None = None
    method: MapMethod | None = None

    @classmethod
    def of_tokenizers(
        cls,
        spec: DSKDSpec,
        tokenizers: Mapping[Side, Any],
        head_rows: Mapping[Side, int],
        *,
        method: MapMethod = "bytes",
        cache_dir: str | Path | None = None,
    ) -> Vocabularies:
        """Read what a spec needs to know of two tokenizers.

        Args:
            spec: the choices; the map between the vocabularies is made only if they need it.
            tokenizers: by side, a tokenizer or None.
            head_rows: by side, how many rows the model's head has.
            method: how tokens are mapped, by equal bytes or to the nearest by edit distance as well.
            cache_dir: a folder that keeps maps from run to run.

        Raises:
            InputError: a tokenizer does not fit its model.
            ConfigurationError: a component of the spec presumes one tokenizer, and these are two.
        """
        sizes = {side: _size(tokenizer, head_rows[side], side) for side, tokenizer in tokenizers.items()}
        fingerprints = {side: _fingerprint(tokenizer) for side, tokenizer in tokenizers.items()}
        student, teacher = tokenizers["student"], tokenizers["teacher"]
        if student is None or teacher is None:
            return cls(sizes=sizes, fingerprints=fingerprints)
        for component in _presuming_one_vocabulary(spec):
            _require_one_vocabulary(student, teacher, component)
        if spec.aligner.same_tokenizer:
            return cls(sizes=sizes, fingerprints=fingerprints)
        if not spec.needs_vocabulary_map:
            return cls(sizes=sizes, fingerprints=fingerprints)
        found = build_vocabulary_map(student, teacher, method=method, cache_dir=cache_dir)
        return cls(
            sizes=sizes,
            fingerprints=fingerprints,
            teacher_to_student_ids=torch.from_numpy(found.teacher_to_student),
            same_token=torch.from_numpy(found.same_bytes),
            method=method,
        )


def _size(tokenizer: Any, rows: int, side: Side) -> int | None:
    """Return the number of leading head rows that are real tokens, None if no tokenizer tells."""
    if tokenizer is None:
        return None
    size = max(tokenizer.get_vocab().values()) + 1
    if size > rows:
        raise InputError(
            f"The {side}'s tokenizer has ids up to {size - 1}, but its head has only {rows} rows. The tokenizer "
            "belongs to another model, or the model's embeddings were not resized."
        )
    return int(size)


def _fingerprint(tokenizer: Any) -> int | None:
    """Return the number that tells this tokenizer from others, None for slow ones and where there is none."""
    try:
        return None if tokenizer is None else fingerprint_number(tokenizer)
    except InputError:
        return None


def _presuming_one_vocabulary(spec: DSKDSpec) -> list[Component]:
    spaces = [space for space in spec.spaces if space.one_vocabulary]
    return [spec.aligner, *spaces] if spec.aligner.same_tokenizer else [*spaces]


def _require_one_vocabulary(student: Any, teacher: Any, component: Component) -> None:
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    different = [token for token, number in ours.items() if theirs.get(token) != number]
    if different or len(ours) != len(theirs):
        example = f", for example {different[0]!r}" if different else ""
        raise ConfigurationError(
            f"The {component.kind} {component.name!r} is for models that share a tokenizer, but these are two: of the "
            f"student's {len(ours)} tokens, {len(different)} are not among the teacher's {len(theirs)}{example}. Use "
            "the preset 'dskd-cma' or 'dskd-v2-eta'."
        )
