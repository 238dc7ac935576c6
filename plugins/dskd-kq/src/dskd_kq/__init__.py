"""Key-query matching for `dskd_components`: cross-model attention with an adversarial term."""

from dskd_kq.discriminator import Discriminator
from dskd_kq.gradient_reversal import reversed_gradient
from dskd_kq.key_query_matching import KeyQueryMatching, KeyQueryModule

__all__ = ["Discriminator", "KeyQueryMatching", "KeyQueryModule", "reversed_gradient"]
