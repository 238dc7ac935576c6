"""The strategies of the conformance kit, under the name by which the tests know them."""

from __future__ import annotations

from dskd_components.testing.strategies import SEEDS, Batch, logits, make_batch, pairs_of_logits

__all__ = ["SEEDS", "Batch", "logits", "make_batch", "pairs_of_logits"]
