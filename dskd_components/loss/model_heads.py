"""The heads of two models as a loss compares them: of real tokens alone, and narrowed where that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dskd_components.errors import ConfigurationError, InputError
from dskd_components.models.head import Head
from dskd_components.models.loading import require_loaded
from dskd_components.models.offline_teacher import OfflineTeacher
from dskd_components.models.vocabulary_subset import VocabularySubset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dskd_components.models.states import Side
    from dskd_components.models.vocabulary_subset import Others
    from dskd_components.models.wrappers import CausalLM


def heads_of_models(student: CausalLM, teacher: CausalLM | OfflineTeacher, teacher_tokenizer: Any) -> dict[Side, Head]:
    """Return both models' heads with all of their rows, once they are known to give the models' logits.

    Args:
        student: the student.
        teacher: the teacher; the head of stored states was checked when they were stored.
        teacher_tokenizer: must be that of stored states.

    Raises:
        InputError: a head's logits differ from its model's own, a model was not loaded, or states were stored with
            another tokenizer.
    """
    require_loaded(student, "student")
    return {"student": Head.from_model(student), "teacher": _teacher_head(teacher, teacher_tokenizer)}


def _teacher_head(teacher: CausalLM | OfflineTeacher, tokenizer: Any) -> Head:
    """Return a teacher's head, once it is known to give its logits; that of stored states was checked with them."""
    if isinstance(teacher, OfflineTeacher):
        teacher.require_tokenizer(tokenizer)
        return teacher.head
    require_loaded(teacher, "teacher")
    return Head.from_model(teacher)


def narrowed_heads(
    heads: Mapping[Side, Head],
    sizes: Mapping[Side, int | None],
    tokens: Mapping[Side, Tensor | Sequence[int] | None],
    others: Others | None,
) -> dict[Side, Head]:
    """Return heads of real tokens alone, narrowed to those that are asked for.

    Args:
        heads: by side, with all rows.
        sizes: by side, how many leading rows are real tokens; None: all.
        tokens: by side, the tokens that the head is narrowed to; None: all.
        others: what becomes of all others; None: nobody says.

    Raises:
        ConfigurationError: nobody says what becomes of the others.
        InputError: an id is none of the head's.
    """
    narrowed = {}
    for side, head in heads.items():
        real = head.with_vocabulary(sizes[side])
        narrowed[side] = real.narrowed_to(_subset_of(real, tokens[side], others, side))
    return narrowed


def _subset_of(
    head: Head, token_ids: Tensor | Sequence[int] | None, others: Others | None, side: Side
) -> VocabularySubset | None:
    if token_ids is None:
        return None
    if others is None:
        raise ConfigurationError(
            f"{side}_tokens: say what becomes of all other tokens, other_tokens='one_outcome' (one more outcome, with "
            "the probability of all of them; exact, and slower) or other_tokens='left_out' (fast; labels among them "
            "are refused)."
        )
    try:
        return VocabularySubset(token_ids, head.token_count, others=others)
    except InputError as error:
        raise InputError(f"{side}_tokens: {str(error).removeprefix('token_ids: ')}") from error
