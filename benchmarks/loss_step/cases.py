"""The comparisons that are reported, each small enough for a machine with two cores."""

from __future__ import annotations

from typing import Final

import torch

from benchmarks.loss_step.case import Case

ONE, TWO, LARGE = (32000, 32000), (50000, 152000), (262000, 262000)

TIMED: Final = [
    (Case("dskd", 512, ONE), ("tiled", "eager", "textbook")),
    (Case("dskd", 2048, ONE), ("tiled", "textbook")),
    (Case("dskd", 4096, ONE), ("tiled",)),
    (Case("dskd", 2048, ONE, budget=1024.0), ("tiled",)),
    (Case("dskd", 4096, ONE, budget=1024.0), ("tiled",)),
    (Case("dskd", 2048, ONE, scored=0.5), ("tiled", "textbook")),
    (Case("dskd", 1024, ONE, dtype=torch.bfloat16), ("tiled", "half gradients", "textbook")),
    (Case("dskd-cma", 512, TWO), ("tiled", "eager", "textbook")),
    (Case("dskd-cma", 1024, TWO, scored=0.5), ("tiled", "textbook")),
    (Case("dskd-cma", 2048, TWO, budget=2048.0), ("tiled",)),
    (Case("dskd-cma", 4096, TWO, budget=3072.0), ("tiled",)),
    (Case("dskd", 512, LARGE), ("tiled",)),
    (Case("shared-tokens", 1024, ONE), ("tiled", "eager")),
    (Case("js", 1024, ONE), ("tiled", "Liger eager", "Liger compiled")),
    (Case("js", 1024, ONE, dtype=torch.bfloat16), ("tiled", "half gradients", "Liger eager")),
]
"""Each case with those who compete: the others need more memory or time than there is, or cannot do the work."""

QUICK: Final = [
    (Case("dskd", 256, (8000, 8000)), ("tiled", "eager", "textbook")),
    (Case("dskd-cma", 256, (8000, 12000)), ("tiled", "eager", "textbook")),
]

BY_TOKENS: Final = [
    Case("dskd-cma", tokens, TWO, budget=budget) for tokens in (512, 1024, 2048, 4096) for budget in (256.0, None)
]
BY_VOCABULARY: Final = [Case("dskd", 512, (size, size)) for size in (32000, 64000, 128000, 262000)]
GRADIENT_ERRORS: Final = Case("js", 512, ONE, dtype=torch.bfloat16)
TEXTBOOK_LIMIT: Final = 16 * 2**30
"""The textbook version is left out where its logits alone would take about this much."""
