"""Total variation distance."""

from typing import ClassVar, Literal

from torch import Tensor

from dskd_components import Distance


class TotalVariation(Distance):
    """Total variation: ``1/2 sum |student - teacher|``, the most by which the two disagree on any set of tokens.

    Symmetric, a metric, and between 0 (equal) and 1 (nothing in common). No logarithm is taken, so tokens that one
    side rules out are as harmless as tokens that both do. Its gradient is bounded, and 0 where the two are equal.

    Examples:
        >>> import torch
        >>> TotalVariation()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log())
        tensor([0.4000])
    """

    source: ClassVar[str] = "Wen et al. 2023 (f-DISTILL), arXiv 2307.15190, section 3"
    symmetric: ClassVar[bool] = True
    is_metric: ClassVar[bool] = True
    refinement_invariant: ClassVar[bool] = True
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["tvd"] = "tvd"

    @property
    def upper_bound(self) -> float | None:
        """1, where nothing is in common."""
        return 1.0

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, in units of probability."""
        return 0.5 * (student_log_probs.exp() - teacher_log_probs.exp()).abs().sum(-1)
