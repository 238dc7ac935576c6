"""The roots of probabilities: what both Hellinger distances and their gradients are made of."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Roots:
    """The square roots of two distributions, a row each.

    They are taken of logarithms: half a logarithm has a gradient at probability 0, where a root has none.

    Args:
        student: ``[N, V]``.
        teacher: ``[N, V]``.

    Examples:
        >>> import torch
        >>> Roots.of(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[1.0, 0.0]]).log()).teacher
        tensor([[1., 0.]])
    """

    student: Tensor
    teacher: Tensor

    @classmethod
    def of(cls, student_log_probs: Tensor, teacher_log_probs: Tensor) -> "Roots":
        """Return the roots of log-probabilities ``[N, V]``, ``-inf`` allowed."""
        return cls((0.5 * student_log_probs).exp(), (0.5 * teacher_log_probs).exp())

    def half_squared_distance(self) -> Tensor:
        """Return ``[N]``: ``1/2 sum (sqrt(p) - sqrt(q))^2``, exactly 0 for equal rows.

        The differences are squared one by one, where 1 minus a sum of products would lose what is small.
        """
        return 0.5 * (self.student - self.teacher).square().sum(-1)

    def gradient(self, *, of_teacher: bool) -> Tensor:
        """Return ``[N, V]``: the derivative of `half_squared_distance` with respect to the logits of one side.

        Args:
            of_teacher: of the teacher's logits rather than the student's.
        """
        own, other = (self.teacher, self.student) if of_teacher else (self.student, self.teacher)
        of_log_probs = 0.5 * (own - other) * own
        return of_log_probs - own.square() * of_log_probs.sum(-1, keepdim=True)
