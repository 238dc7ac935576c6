"""`Distance`: how far the student's next-token distribution is from the teacher's."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from dskd_components.contracts.component import Component


class Distance(Component, ABC):
    """A divergence between two distributions over one vocabulary, one number a row, in nats.

    What is already done when a distance is called: temperature, selection of the scored positions, projection into
    one vocabulary, ``log_softmax`` in float32. What is done after it: masking, weighting, summing, dividing. None of
    these belongs inside.

    Laws that every distance is held to (`dskd_components.testing`, docs/laws.md): rows are independent; values are non-negative, finite for
    finite log-probabilities, and 0 where the two rows are equal; gradients are finite; a common reordering of the
    vocabulary changes nothing; an entry of ``-inf`` on both sides counts for nothing; inputs are not changed.

    Examples:
        A complete distance:

        >>> from typing import Literal
        >>> class TotalVariation(Distance):
        ...     name: Literal["my_tvd"] = "my_tvd"
        ...
        ...     def __call__(self, student_log_probs, teacher_log_probs):
        ...         return 0.5 * (student_log_probs.exp() - teacher_log_probs.exp()).abs().sum(-1)
        >>> import torch
        >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
        >>> TotalVariation()(q, p)
        tensor([0.4000])
    """

    kind: ClassVar[str] = "distance"

    gradient_is_derivative: ClassVar[bool] = True
    """False for a distance that holds a part of its value constant in the gradient, as a weight it computes."""

    symmetric: ClassVar[bool] = False
    """Whether student and teacher can be exchanged. A property where it depends on the options."""

    zero_iff_equal: ClassVar[bool] = True
    """Whether the distance of two different distributions is never 0."""

    is_metric: ClassVar[bool] = False
    """Whether it is symmetric, zero only at equality, and obeys the triangle inequality."""

    refinement_invariant: ClassVar[bool] = False
    """Whether splitting every token into equally likely parts changes nothing, as for every f-divergence."""

    @property
    def upper_bound(self) -> float | None:
        """The least upper bound, in nats, reached where the two have nothing in common; None if there is none."""
        return None

    @abstractmethod
    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return the distance of each row.

        Args:
            student_log_probs: ``[N, V]``, normalised log-probabilities, float32 or float64.
            teacher_log_probs: ``[N, V]``, likewise.

        Returns:
            ``[N]``, nats, same dtype.
        """
