"""Built-in aligners between the token positions of two models, one concept a file."""

from dskd_components.aligners.cross_model_attention import CrossModelAttention
from dskd_components.aligners.identity import Identity

__all__ = ["CrossModelAttention", "Identity"]
