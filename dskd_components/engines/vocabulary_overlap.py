"""`VocabularyOverlap`: the tokens that the vocabularies of two heads have in common."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dskd_components.components.space import SharedTokens
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from dskd_components.models.head import Head


class TokenPairs(NamedTuple):
    """Tokens of one side with the tokens that they are on the other.

    Args:
        student_ids: ``[M]``, int64.
        teacher_ids: ``[M]``, int64, ascending.
    """

    student_ids: Tensor
    teacher_ids: Tensor


class VocabularyOverlap:
    """What a map between two vocabularies says of two heads, each thing found out once.

    Args:
        student_size: tokens of the student's head.
        teacher_size: tokens of the teacher's head.
        teacher_to_student_ids: ``[Vt]``, int64: the student's id of each teacher token or -1, on the heads' device.
            None: the two vocabularies are one, or it is not known which tokens are the same.
        same_token: ``[Vt]``, bool: which entries are the very same token. None: all that are mapped.
        device: where the heads are.
        same_tokenizer: whether the vocabularies are one where there is no map; else no token is known to be shared.

    Examples:
        >>> overlap = VocabularyOverlap(4, 3, torch.tensor([3, -1, 0]))
        >>> overlap.pairs
        TokenPairs(student_ids=tensor([3, 0]), teacher_ids=tensor([0, 2]))
    """

    def __init__(
        self,
        student_size: int,
        teacher_size: int,
        teacher_to_student_ids: Tensor | None,
        same_token: Tensor | None = None,
        *,
        device: torch.device | None = None,
        same_tokenizer: bool = True,
    ) -> None:
        self._sizes = (student_size, teacher_size)
        self._ids = None if teacher_to_student_ids is None else teacher_to_student_ids[:teacher_size]
        self._same = None if same_token is None else same_token[:teacher_size]
        self._device = device
        self._same_tokenizer = same_tokenizer

    @property
    def teacher_to_student_ids(self) -> Tensor | None:
        """``[Vt]``, int64: the student's outcome of each of the teacher's, -1 for none. None: one vocabulary."""
        return self._ids

    @cached_property
    @torch.inference_mode(mode=False)  # an evaluation may find out what training uses
    def pairs(self) -> TokenPairs | None:
        """The tokens that both heads read; None: the two vocabularies are one."""
        if self._ids is None and not self._same_tokenizer:
            nothing = torch.empty(0, dtype=torch.int64, device=self._device)
            return TokenPairs(nothing, nothing)
        if self._ids is None:
            return None
        shared = (self._ids >= 0) & (self._ids < self._sizes[0])
        if self._same is not None:
            shared = shared & self._same
        teacher_ids = shared.nonzero().squeeze(1)
        return TokenPairs(self._ids[teacher_ids], teacher_ids)

    @cached_property
    @torch.inference_mode(mode=False)
    def shared_tokens(self) -> SharedTokens:
        """The tokens that both heads read, one to one."""
        if self.pairs is None:
            ids = torch.arange(min(self._sizes), device=self._device)
            return SharedTokens(student_ids=ids, teacher_ids=ids)
        return SharedTokens.one_to_one(*self.pairs)

    @cached_property
    @torch.inference_mode(mode=False)
    def teacher_to_student(self) -> Tensor:
        """``[Vt]``, int64: the student's token for each of the teacher's, the nearest ones included; -1 for none."""
        student_size, teacher_size = self._sizes
        ids = torch.arange(teacher_size, device=self._device) if self._ids is None else self._ids
        known = (ids >= 0) & (ids < student_size)
        return ids.where(known & (self._same_tokenizer or self._ids is not None), -1)

    @cached_property
    @torch.inference_mode(mode=False)
    def common_ids(self) -> Tensor | None:
        """``[K]``, int64: the ids that both vocabularies have, where each is one but for tokens that only one side has.

        None: the vocabularies are the same, or two.
        """
        if self._ids is None:
            return None
        own = torch.arange(len(self._ids), device=self._ids.device)
        shared = (self._ids == own) & (own < self._sizes[0])
        is_one = bool(((self._ids < 0) | (self._ids == own)).all())
        everything = bool(shared.all()) and len(self._ids) == self._sizes[0]
        return own[shared] if is_one and not everything else None


class KnownOverlap:
    """Remembers the overlap of a map and two heads from step to step, while they are the same.

    What a map says has as many entries as there are tokens of some kind, so the host has to wait for it. A copy, and a
    pickled one, remembers nothing.
    """

    def __init__(self) -> None:
        self._known: tuple[tuple[object, ...], tuple[object, ...], VocabularyOverlap] | None = None

    def of(
        self,
        student: Head,
        teacher: Head,
        teacher_to_student_ids: Tensor | None,
        same_token: Tensor | None,
        *,
        same_tokenizer: bool = True,
    ) -> VocabularyOverlap:
        """Return the overlap of two heads' vocabularies.

        Args:
            student: the student's head.
            teacher: the teacher's head.
            teacher_to_student_ids: as in `VocabularyOverlap`, on any device.
            same_token: as there.
            same_tokenizer: as there.

        Raises:
            InputError: the map is shorter than the teacher's vocabulary.
        """
        teacher_size = _whole_size(teacher)
        if teacher_to_student_ids is not None and len(teacher_to_student_ids) < teacher_size:
            raise InputError(
                f"teacher_to_student_ids: expected an entry for each of the {teacher_size} tokens of the teacher, got "
                f"{len(teacher_to_student_ids)}."
            )
        device = teacher.device
        maps = (teacher_to_student_ids, same_token)
        held = (*maps, student.subset, teacher.subset)
        key = (student.vocabulary_size, teacher.vocabulary_size, device, same_tokenizer, *map(_version, maps))
        if self._known is not None:
            known_key, known_maps, overlap = self._known
            if known_key == key and all(ours is theirs for ours, theirs in zip(held, known_maps, strict=True)):
                return overlap
        ids, same = (None if tensor is None else tensor.to(device) for tensor in maps)
        ids, same = narrowed_map(student, teacher, ids, same, same_tokenizer=same_tokenizer)
        overlap = VocabularyOverlap(
            student.token_count, teacher.vocabulary_size, ids, same, device=device, same_tokenizer=same_tokenizer
        )
        self._known = (key, held, overlap)
        return overlap

    def __reduce__(self) -> tuple[type[KnownOverlap], tuple[()]]:
        return KnownOverlap, ()


def are_narrowed_alike(student: Head, teacher: Head) -> bool:
    """Return whether two heads of one vocabulary give the same outcomes: both whole, or narrowed to the same tokens.

    Args:
        student: the student's head.
        teacher: the teacher's head.
    """
    if student.subset is None or teacher.subset is None:
        return student.subset is teacher.subset
    return student.subset.is_like(teacher.subset)


@torch.inference_mode(mode=False)
def narrowed_map(
    student: Head, teacher: Head, ids: Tensor | None, same_token: Tensor | None, *, same_tokenizer: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return a map between two vocabularies as one between the outcomes of two heads, of which some may be narrowed.

    Args:
        student: the student's head.
        teacher: the teacher's head.
        ids: ``[Vt]``, int64: the student's id of each teacher token or -1. None: as in `VocabularyOverlap`.
        same_token: ``[Vt]``, bool: which entries are the very same token. None: all.
        same_tokenizer: as in `VocabularyOverlap`.

    Returns:
        Both, for the teacher's outcomes. A token that is one of all others on the student's side has their outcome; the
        teacher's own outcome of all others has none.

    Examples:
        >>> from dskd_components import Head
        >>> student = Head(torch.zeros(5, 1)).narrowed([3, 1], others="one_outcome")
        >>> teacher = Head(torch.zeros(6, 1)).narrowed([0, 2, 4], others="one_outcome")
        >>> ids = torch.tensor([1, -1, 3, 0, 4, 2])
        >>> narrowed_map(student, teacher, ids, None, same_tokenizer=False)[0]
        tensor([ 1,  0,  2, -1])
    """
    unknown = ids is None and not same_tokenizer
    if unknown or (student.subset is None and teacher.subset is None):
        return ids, same_token
    if ids is None and are_narrowed_alike(student, teacher):
        return None, None
    device, teacher_size, student_size = teacher.weight.device, _whole_size(teacher), _whole_size(student)
    ids = torch.arange(teacher_size, device=device) if ids is None else ids[:teacher_size]
    same_token = torch.ones_like(ids, dtype=torch.bool) if same_token is None else same_token[:teacher_size]
    if teacher.subset is not None:
        tokens = teacher.subset.on(device).token_ids
        ids, same_token = ids[tokens], same_token[tokens]
    known = (ids >= 0) & (ids < student_size)
    if student.subset is not None:
        ids = student.subset.on(device).of_tokens[ids.where(known, 0)]
    ids = ids.where(known, -1)
    if teacher.has_rest:
        ids = torch.cat([ids, ids.new_full((1,), -1)])
        same_token = torch.cat([same_token, same_token.new_zeros(1)])
    return ids, same_token


def _whole_size(head: Head) -> int:
    """Return how many tokens a head has, or had before it was narrowed."""
    return head.token_count if head.subset is None else head.subset.vocabulary_size


def _version(tensor: Tensor | None) -> object:
    """Return what changes when a tensor is written to; where that is not known, something that is never the same."""
    if tensor is None:
        return None
    return object() if tensor.is_inference() else tensor._version
