"""Align the tokens of two tokenizers on a text."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np

from dskd_components.errors import InputError
from dskd_components.tokenization.byte_spans import TokenizedText, tokenize_with_spans
from dskd_components.tokenization.exact_match import exact_match_pairs, role_pairs
from dskd_components.tokenization.min_edit import SPACE_MARKERS, min_edit_path, path_groups
from dskd_components.tokenization.span_groups import span_groups
from dskd_components.tokenization.text_alignment import Method, TextAlignment
from dskd_components.tokenization.token_bytes import vocabulary_bytes
