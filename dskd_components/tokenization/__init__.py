"""Text-level alignment of the tokens of two tokenizers: no tensors, no models."""

from dskd_components.tokenization.align_text import align_text, align_texts, warped_groups
from dskd_components.tokenization.byte_spans import (
    TokenizedText,
    spans_of_encoding,
    tokenize_batch_with_spans,
    tokenize_with_spans,
)
from dskd_components.tokenization.fast_tokenizers import tokenizer_fingerprint
from dskd_components.tokenization.min_edit import min_edit_path, min_edit_paths, path_groups
from dskd_components.tokenization.span_groups import exact_match_pairs, span_groups
from dskd_components.tokenization.text_alignment import TextAlignment, UnalignedReason
from dskd_components.tokenization.token_bytes import vocabulary_bytes
from dskd_components.tokenization.vocabulary_map import VocabularyMap, build_vocabulary_map

__all__ = [
    "TextAlignment",
    "TokenizedText",
    "UnalignedReason",
    "VocabularyMap",
    "align_text",
    "align_texts",
    "build_vocabulary_map",
    "exact_match_pairs",
    "min_edit_path",
    "min_edit_paths",
    "path_groups",
    "span_groups",
    "spans_of_encoding",
    "tokenize_batch_with_spans",
    "tokenize_with_spans",
    "tokenizer_fingerprint",
    "vocabulary_bytes",
    "warped_groups",
]
