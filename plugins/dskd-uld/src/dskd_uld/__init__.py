"""Universal Logit Distillation for `dskd_components`: two models with different vocabularies, without a projection."""

from dskd_uld.hybrid_space import HybridSpace
from dskd_uld.positional import Positional
from dskd_uld.sorted_difference import sorted_difference
from dskd_uld.sorted_space import SortedSpace

__all__ = ["HybridSpace", "Positional", "SortedSpace", "sorted_difference"]
