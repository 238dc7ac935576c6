"""What two tokenizers say about the vocabularies of two models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dskd_components.errors import ConfigurationError, InputError
from dskd_components.loss.added_tokens import require_one_base, stand_in_of
from dskd_components.tokenization.fast_tokenizers import (
    fingerprint_number,
    fingerprint_number_of,
    require_tokenizer,
)
from dskd_components.tokenization.shared_ids import shared_ids
from dskd_components.tokenization.vocabulary_map import VocabularyMap, build_vocabulary_map

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from dskd_components.components.component import Component
    from dskd_components.models.offline_teacher import OfflineTeacher
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
        stand_in: the token that the teacher reads in the place of one that it does not have, where both tokenizers are
            one but for added tokens; None: they are the same, or two.
    """

    sizes: Mapping[Side, int | None]
    fingerprints: Mapping[Side, int | None]
    teacher_to_student_ids: Tensor | None = None
    same_token: Tensor | None = None
    method: MapMethod | None = None
    stand_in: int | None = None

    @classmethod
    def of_tokenizers(
        cls,
        spec: DSKDSpec,
        tokenizers: Mapping[Side, Any],
        head_rows: Mapping[Side, int],
        *,
        vocabulary_map: VocabularyMap | None = None,
        method: MapMethod = "bytes",
        cache_dir: str | Path | None = None,
    ) -> Vocabularies:
        """Read what a spec needs to know of two tokenizers.

        Args:
            spec: the choices; the map between the vocabularies is made only if they use it; where they can do without,
                tokenizers that cannot be mapped, slow ones, are no error.
            tokenizers: by side, a tokenizer or None.
            head_rows: by side, how many rows the model's head has.
            vocabulary_map: the map between the vocabularies, if it is known already.
            method: how tokens are mapped, by equal bytes or to the nearest by edit distance as well.
            cache_dir: a folder that keeps maps from run to run.

        Raises:
            InputError: a tokenizer does not fit its model, or the map does not fit the tokenizers or models.
            ConfigurationError: a component of the spec presumes one tokenizer, and these are two, or a map is given.
        """
        sizes = {side: _size(tokenizer, head_rows[side], side) for side, tokenizer in tokenizers.items()}
        fingerprints = {side: _fingerprint(tokenizer) for side, tokenizer in tokenizers.items()}
        student, teacher = tokenizers["student"], tokenizers["teacher"]
        if vocabulary_map is not None:
            _require_fitting_map(vocabulary_map, tokenizers, head_rows, _presuming_one_vocabulary(spec))
            return cls(
                sizes=sizes,
                fingerprints=fingerprints,
                teacher_to_student_ids=torch.from_numpy(vocabulary_map.teacher_to_student),
                same_token=torch.from_numpy(vocabulary_map.same_bytes),
            )
        if student is None or teacher is None:
            return cls(sizes=sizes, fingerprints=fingerprints)
        presuming = _presuming_one_vocabulary(spec)
        if presuming:
            shared = shared_ids(student, teacher)
            require_one_base(shared, presuming[0])
            if not shared.all_shared:
                ids = shared.teacher_to_student(max(teacher.get_vocab().values()) + 1)
                return cls(
                    sizes=sizes,
                    fingerprints=fingerprints,
                    teacher_to_student_ids=torch.from_numpy(ids),
                    stand_in=stand_in_of(teacher, shared),
                )
        if spec.aligner.same_tokenizer:
            return cls(sizes=sizes, fingerprints=fingerprints)
        if not spec.uses_vocabulary_map:
            return cls(sizes=sizes, fingerprints=fingerprints)
        try:
            found = build_vocabulary_map(student, teacher, method=method, cache_dir=cache_dir)
        except InputError:
            if spec.needs_vocabulary_map:
                raise
            return cls(sizes=sizes, fingerprints=fingerprints)
        return cls(
            sizes=sizes,
            fingerprints=fingerprints,
            teacher_to_student_ids=torch.from_numpy(found.teacher_to_student),
            same_token=torch.from_numpy(found.same_bytes),
            method=method,
        )

    def with_offline(self, teacher: OfflineTeacher) -> Vocabularies:
        """Return the same vocabularies, where the teacher's is that of stored states if no tokenizer was given.

        Args:
            teacher: whose states are read.
        """
        size, number = self.sizes["teacher"], self.fingerprints["teacher"]
        return replace(
            self,
            sizes={**self.sizes, "teacher": teacher.head.vocabulary_size if size is None else size},
            fingerprints={**self.fingerprints, "teacher": teacher.tokenizer if number is None else number},
        )


def _size(tokenizer: Any, rows: int, side: Side) -> int | None:
    """Return the number of leading head rows that are real tokens, None if no tokenizer tells."""
    if tokenizer is None:
        return None
    require_tokenizer(tokenizer, f"{side}_tokenizer")
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


def _require_fitting_map(
    found: VocabularyMap, tokenizers: Mapping[Side, Any], head_rows: Mapping[Side, int], presuming: list[Component]
) -> None:
    """Refuse a map that is no map, or one of other tokenizers or for other models.

    Raises:
        InputError: it is not one, or of others; the message says which.
        ConfigurationError: a component presumes that there is one vocabulary.
    """
    if not isinstance(found, VocabularyMap):
        raise InputError(
            "vocabulary_map: expected a VocabularyMap, as build_vocabulary_map(student_tokenizer, teacher_tokenizer) "
            f"makes it, got {type(found).__name__}. Ids alone are teacher_to_student_ids of DSKDLoss(...)."
        )
    if presuming:
        raise ConfigurationError(
            f"vocabulary_map: the {presuming[0].kind} {presuming[0].name!r} is for models that share a tokenizer, "
            "whose ids need no map. Leave vocabulary_map out, or choose another component."
        )
    prints: dict[Side, str] = {"student": found.student_fingerprint, "teacher": found.teacher_fingerprint}
    for side, recorded in prints.items():
        number = _fingerprint(tokenizers[side])
        if recorded and number is not None and fingerprint_number_of(recorded) != number:
            raise InputError(
                f"vocabulary_map: it was made with another {side} tokenizer than the one given. Build it from the "
                "tokenizers of these two models."
            )
    ids, same = found.teacher_to_student, found.same_bytes
    if ids.ndim != 1 or ids.dtype != np.int64 or same.shape != ids.shape or same.dtype != np.bool_:
        raise InputError(
            "vocabulary_map: expected teacher_to_student int64 [teacher ids] and same_bytes bool of that length, got "
            f"{ids.dtype} {list(ids.shape)} and {same.dtype} {list(same.shape)}."
        )
    highest = int(ids.max(initial=-1))
    if highest >= head_rows["student"] or int(ids.min(initial=-1)) < -1:
        raise InputError(
            f"vocabulary_map: expected the student's ids from 0 to {head_rows['student'] - 1}, or -1, got "
            f"{highest if highest >= head_rows['student'] else int(ids.min())}."
        )


def _presuming_one_vocabulary(spec: DSKDSpec) -> list[Component]:
    spaces = [space for space in spec.spaces if space.one_vocabulary]
    return [spec.aligner, *spaces] if spec.aligner.same_tokenizer else [*spaces]
