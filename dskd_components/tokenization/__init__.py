"""Text-level alignment of the tokens of two tokenizers: no tensors, no models.

From the bottom up: `fast_tokenizers`, `token_bytes` and `offset_spans` read a tokenizer; `byte_spans` gives each token
its part of a text; `span_groups` and `min_edit` (with `warping` and `warping_band`) bring two rows of tokens together;
`text_alignment` is the outcome, of which `rendering` and `figure` show the `drawing`; `vocabulary_map` compares whole
vocabularies. Import the names below.
"""

from dskd_components.tokenization.byte_spans import (
    TokenizedText,
    spans_of_encoding,
    tokenize_batch_with_spans,
    tokenize_with_spans,
)
from dskd_components.tokenization.fast_tokenizers import tokenizer_fingerprint
from dskd_components.tokenization.min_edit import min_edit_path, min_edit_paths, path_groups, warped_groups
from dskd_components.tokenization.span_groups import exact_match_pairs, single_groups, span_groups
from dskd_components.tokenization.text_alignment import TextAlignment, UnalignedReason
from dskd_components.tokenization.token_bytes import vocabulary_bytes
from dskd_components.tokenization.vocabulary_map import VocabularyMap, build_vocabulary_map

__all__ = [
    "TextAlignment",
    "TokenizedText",
    "UnalignedReason",
    "VocabularyMap",
    "build_vocabulary_map",
    "exact_match_pairs",
    "min_edit_path",
    "min_edit_paths",
    "path_groups",
    "single_groups",
    "span_groups",
    "spans_of_encoding",
    "tokenize_batch_with_spans",
    "tokenize_with_spans",
    "tokenizer_fingerprint",
    "vocabulary_bytes",
    "warped_groups",
]
