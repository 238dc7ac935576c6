"""Looking at a pair of models before training: does it fit, what does a step cost, what should be changed.

`DSKDLoss.preflight` and ``dskd doctor`` are the ways in. `run` has all checks in their order, the ``check_`` modules
one subject each, `samples` what the collator makes of the user's, `start` how training would begin, `measuring`,
`memory` and `estimate` the costs, `report` the outcome. Import the names below.

``dskd plan`` looks at a pair before there is a machine: `plan_step` is the way in, `plan` what goes in and comes out,
`traced` what models do on the meta device (`operations` sees it), `device` how fast that is, `sharding` how it is
spread, and the other ``plan_`` modules one part of the outcome each.
"""

from dskd_components.preflight.pair import SAMPLE_TEXTS, Pair, samples_of
from dskd_components.preflight.report import Finding, PreflightReport, Severity, Start, StepCost
from dskd_components.preflight.run import LossType, examine

__all__ = [
    "SAMPLE_TEXTS",
    "Finding",
    "LossType",
    "Pair",
    "PreflightReport",
    "Severity",
    "Start",
    "StepCost",
    "examine",
    "samples_of",
]
