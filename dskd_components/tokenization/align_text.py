"""Align the tokens of two tokenizers on a text."""

from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from dskd_components.errors import InputError
from dskd_components.tokenization.byte_spans import TokenizedText, tokenize_with_spans
from dskd_components.tokenization.exact_match import exact_match_pairs, role_pairs
from dskd_components.tokenization.min_edit import SPACE_MARKERS, min_edit_path, path_groups
from dskd_components.tokenization.span_groups import span_groups
from dskd_components.tokenization.text_alignment import Method, TextAlignment
from dskd_components.tokenization.token_bytes import vocabulary_bytes

IntArray = npt.NDArray[np.int64]


def align_text(
    student_tokenizer: Any,
    teacher_tokenizer: Any,
    text: str,
    method: Method = "exact_match",
    *,
    add_special_tokens: bool = False,
) -> TextAlignment:
    """Tokenize a text with both tokenizers and say which tokens belong together.

    Args:
        student_tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        teacher_tokenizer: Likewise.
        text: The text.
        method: ``"exact_match"`` pairs tokens that stand for the same bytes; ``"span"`` groups tokens between
            the boundaries that both sides share; ``"min_edit"`` warps token strings onto each other.
        add_special_tokens: Whether both tokenizers add their own templates (BOS, EOS), which pair by role.

    Returns:
        The pairs, the groups, and a reason for every token without a partner.

    Raises:
        InputError: A tokenizer is a slow one, the text is not valid Unicode, or the method is unknown.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> student = Tokenizer(models.WordLevel({"new": 0, "found": 1, "land": 2}, unk_token="new"))
        >>> student.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> teacher = Tokenizer(models.WordLevel({"new": 0, "foundland": 1}, unk_token="new"))
        >>> teacher.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> align_text(student, teacher, "new found").pairs
        [(0, 0), (1, 1)]
    """
    if method not in get_args(Method):
        raise InputError(f"Expected method to be one of {', '.join(get_args(Method))}, but got {method!r}.")
    student = tokenize_with_spans(student_tokenizer, text, add_special_tokens=add_special_tokens)
    teacher = tokenize_with_spans(teacher_tokenizer, text, add_special_tokens=add_special_tokens)
    if method == "min_edit":
        markers = tuple(SPACE_MARKERS[vocabulary_bytes(side).family] for side in (student_tokenizer, teacher_tokenizer))
        groups = _warped_groups(student, teacher, *markers)
        pairs = _single_pairs(groups)
    elif method == "span":
        groups = span_groups(student, teacher)
        pairs = _single_pairs(groups)
    else:
        pairs = exact_match_pairs(student, teacher)
        groups = np.stack([pairs[:, 0], pairs[:, 0] + 1, pairs[:, 1], pairs[:, 1] + 1], axis=1)
    return TextAlignment(student, teacher, method, pairs, groups)


def _single_pairs(groups: IntArray) -> IntArray:
    """The groups of one token on each side, as pairs."""
    single = (groups[:, 1] - groups[:, 0] == 1) & (groups[:, 3] - groups[:, 2] == 1)
    pairs: IntArray = groups[single][:, [0, 2]]
    return pairs


def _warped_groups(
    student: TokenizedText, teacher: TokenizedText, student_marker: str, teacher_marker: str
) -> IntArray:
    student_span, teacher_span = student.text_tokens, teacher.text_tokens
    path = min_edit_path(student.tokens[student_span], teacher.tokens[teacher_span], student_marker, teacher_marker)
    shift = np.array([student_span.start, student_span.start, teacher_span.start, teacher_span.start])
    bos, eos = (np.stack([p[:, 0], p[:, 0] + 1, p[:, 1], p[:, 1] + 1], axis=1) for p in role_pairs(student, teacher))
    return np.concatenate([bos, path_groups(path) + shift, eos])
