"""Built-in aligners between the token positions of two models. Other rooms import the names below."""

from dskd_components.aligners.align_text import align_text, align_texts
from dskd_components.aligners.cross_model_attention import (
    AttentionAligner,
    AttentionAlignment,
    CrossModelAttention,
    CrossModelAttentionModule,
)
from dskd_components.aligners.grouped import (
    ExactMatch,
    GroupedAlignment,
    GroupedModule,
    MinEdit,
    Span,
    TextAligner,
)
from dskd_components.aligners.identity import Identity
from dskd_components.tokenization.min_edit import min_edit_path

BUILT_IN = (Identity, CrossModelAttention, ExactMatch, Span, MinEdit)
"""What `dskd_components.builtin` offers to the registry, in the order of its lists."""

__all__ = [
    "AttentionAligner",
    "AttentionAlignment",
    "CrossModelAttention",
    "CrossModelAttentionModule",
    "ExactMatch",
    "GroupedAlignment",
    "GroupedModule",
    "Identity",
    "MinEdit",
    "Span",
    "TextAligner",
    "align_text",
    "align_texts",
    "min_edit_path",
]
