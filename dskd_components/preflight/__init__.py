"""Looking at a pair of models before training: does it fit, what does a step cost, what should be changed.

`DSKDLoss.preflight` and ``dskd doctor`` are the ways in.
"""

from dskd_components.preflight.costs import StepCost
from dskd_components.preflight.examine import LossType, examine
from dskd_components.preflight.report import Finding, PreflightReport, Severity

__all__ = ["Finding", "LossType", "PreflightReport", "Severity", "StepCost", "examine"]
