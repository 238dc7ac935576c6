"""Which ids are the same token in two tokenizers that were made from one: fine-tuned models get added tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dskd_components.errors import InputError
from dskd_components.tokenization.fast_tokenizers import backend_of

if TYPE_CHECKING:
    from dskd_components.tokenization.arrays import IntArray


@dataclass(frozen=True, eq=False)
class SharedIds:
    """What two vocabularies have in common, id by id.

    Attributes:
        ids: The ids that are one token on both sides, ascending ``[K]``.
        student_only: The student's other tokens, by id.
        teacher_only: The teacher's.
        of_one_base: Whether these are added tokens, all of them, so that without them both would be the same.
    """

    ids: IntArray
    student_only: tuple[str, ...]
    teacher_only: tuple[str, ...]
    of_one_base: bool

    @property
    def all_shared(self) -> bool:
        """Whether the two vocabularies are one."""
        return not self.student_only and not self.teacher_only

    def teacher_to_student(self, size: int) -> IntArray:
        """Each of the teacher's ids that is shared, as itself, and -1 for the others ``[size]``.

        Args:
            size: How many ids the teacher has.
        """
        found = np.full(size, -1, dtype=np.int64)
        found[self.ids] = self.ids
        return found


def shared_ids(student_tokenizer: Any, teacher_tokenizer: Any) -> SharedIds:
    """Compare two vocabularies id by id.

    Args:
        student_tokenizer: A ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        teacher_tokenizer: The teacher's, of either kind.

    Examples:
        >>> from tokenizers import Tokenizer, models
        >>> def made(*added):
        ...     tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        ...     tokenizer.add_special_tokens(list(added))
        ...     return tokenizer
        >>> found = shared_ids(made("<pad>"), made("<eos>", "<sep>"))
        >>> found.ids.tolist(), found.student_only, found.teacher_only, found.of_one_base
        ([0, 1], ('<pad>',), ('<eos>', '<sep>'), True)
    """
    ours, theirs = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    shared = np.array(sorted(number for token, number in ours.items() if theirs.get(token) == number), dtype=np.int64)
    student_only, teacher_only = _others(ours, theirs), _others(theirs, ours)
    added = (_added(student_tokenizer), _added(teacher_tokenizer))
    of_one_base = all(
        token in tokens for others, tokens in zip((student_only, teacher_only), added, strict=True) for token in others
    )
    return SharedIds(shared, student_only, teacher_only, of_one_base)


def cut_alike(student_tokenizer: Any, teacher_tokenizer: Any) -> bool:
    """Whether two tokenizers do the same to a text without added tokens: all but these is equal in them.

    Slow tokenizers do not say what they do, and count as alike.

    Args:
        student_tokenizer: A ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        teacher_tokenizer: The teacher's, of either kind.
    """
    try:
        ours, theirs = (json.loads(backend_of(each).to_str()) for each in (student_tokenizer, teacher_tokenizer))
    except InputError:
        return True
    parts = ("normalizer", "pre_tokenizer", "post_processor", "model", "decoder")
    return all(ours[part] == theirs[part] for part in parts)


def _others(own: dict[str, int], other: dict[str, int]) -> tuple[str, ...]:
    return tuple(sorted((token for token, number in own.items() if other.get(token) != number), key=own.__getitem__))


def _added(tokenizer: Any) -> set[str]:
    """The tokens that were added to a model's own."""
    if hasattr(tokenizer, "get_added_tokens_decoder"):
        return {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return set(tokenizer.get_added_vocab())
