"""Align the tokens of two tokenizers on texts, by an aligner or its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dskd_components.components.text_methods import groups_of_texts, method_label, text_aligner
from dskd_components.errors import InputError, is_table, what_came
from dskd_components.tokenization.byte_spans import tokenize_batch_with_spans
from dskd_components.tokenization.span_groups import role_pairs, single_groups
from dskd_components.tokenization.text_alignment import TextAlignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.components.aligner import Aligner


def align_text(
    student_tokenizer: Any,
    teacher_tokenizer: Any,
    text: str,
    method: str | Aligner = "exact_match",
    *,
    add_special_tokens: bool = False,
) -> TextAlignment:
    """Tokenize a text with both tokenizers and say which tokens belong together.

    Args:
        student_tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        teacher_tokenizer: The teacher's, of either kind.
        text: The text.
        method: An aligner that reads texts, or its name: ``"exact_match"`` pairs tokens that stand for the same bytes;
            ``"span"`` groups tokens between the boundaries that both sides share; ``"min_edit"`` warps token strings
            onto each other; or one of a plugin's.
        add_special_tokens: Whether both tokenizers add their own templates (BOS, EOS), which pair by role.

    Returns:
        The pairs, the groups, and a reason for every token without a partner.

    Raises:
        InputError: A tokenizer is a slow one, or the text is not valid Unicode.
        UnknownComponentError: No installed aligner has this name; the message has those that read texts.
        ConfigurationError: The aligner reads no texts.
        PluginError: The aligner of a plugin fails, or does not give groups.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> student = Tokenizer(models.WordLevel({"new": 0, "found": 1, "land": 2}, unk_token="new"))
        >>> student.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> teacher = Tokenizer(models.WordLevel({"new": 0, "foundland": 1}, unk_token="new"))
        >>> teacher.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> align_text(student, teacher, "new found").pairs
        [(0, 0), (1, 1)]
    """
    return align_texts(student_tokenizer, teacher_tokenizer, [text], method, add_special_tokens=add_special_tokens)[0]


def align_texts(
    student_tokenizer: Any,
    teacher_tokenizer: Any,
    texts: Sequence[str],
    method: str | Aligner = "exact_match",
    *,
    add_special_tokens: bool = False,
) -> list[TextAlignment]:
    """The `align_text` of several texts; with ``"min_edit"`` in much less time than one after the other.

    Args:
        student_tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        teacher_tokenizer: The teacher's, of either kind.
        texts: The texts.
        method: As for `align_text`.
        add_special_tokens: Whether both tokenizers add their own templates.

    Returns:
        The alignment of each text.

    Raises:
        InputError: The texts are no list; or as for `align_text`; the others as well.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> tokenizer = Tokenizer(models.WordLevel({"new": 0, "found": 1}, unk_token="new"))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> [found.pairs for found in align_texts(tokenizer, tokenizer, ["new", "new found"], "span")]
        [[(0, 0)], [(0, 0), (1, 1)]]
    """
    aligner = text_aligner(method)
    texts = _listed(texts)
    students, teachers = (
        tokenize_batch_with_spans(tokenizer, texts, add_special_tokens=add_special_tokens)
        for tokenizer in (student_tokenizer, teacher_tokenizer)
    )
    aligned = []
    for student, teacher, groups in zip(students, teachers, groups_of_texts(aligner, students, teachers), strict=True):
        bos, eos = map(single_groups, role_pairs(student, teacher))
        everything = np.concatenate([bos, groups, eos])
        aligned.append(TextAlignment(student, teacher, method_label(aligner), everything, aligner.one_to_one))
    return aligned


def _listed(texts: Iterable[str]) -> list[str]:
    """Return texts as a list, which both tokenizers read."""
    is_other = isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable)
    if is_other or is_table(texts):
        raise InputError(f"texts: expected a list of texts, got {what_came(texts)}. One text goes to align_text.")
    return list(texts)
