"""Built-in aligners between the token positions of two models, one concept a file."""

from dskd_components.aligners.cross_model_attention import CrossModelAttention
from dskd_components.aligners.exact_match import ExactMatch
from dskd_components.aligners.identity import Identity
from dskd_components.aligners.min_edit import MinEdit
from dskd_components.aligners.span import Span

__all__ = ["CrossModelAttention", "ExactMatch", "Identity", "MinEdit", "Span"]
