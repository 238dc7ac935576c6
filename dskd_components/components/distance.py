"""`Distance`: how far the student's next-token distribution is from the teacher's."""

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import torch
from torch import Tensor, nn

from dskd_components.components.component import Component, forget_outdated, stay_abstract
from dskd_components.components.distribution import Distribution
from dskd_components.components.returned import broken_promise, complaint, require_tensor
from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.components.vocabulary import ComparedTokens


@dataclass(frozen=True, eq=False, kw_only=True)
class DistanceGradients:
    """Distances of some rows, and what they do when logits change.

    Args:
        values: ``[N]``, nats.
        student: ``[N, V]``: the derivative of each row's value with respect to the logits whose ``log_softmax`` the
            student's log-probabilities are; None where it was not asked for.
        teacher: ``[N, V]``: the gradient with respect to the teacher's logits, or None.
    """

    values: Tensor
    student: Tensor | None
    teacher: Tensor | None


@dataclass(frozen=True, eq=False, kw_only=True)
class PartOfDistances:
    """What some tokens of a vocabulary add to the distances of rows.

    Args:
        values: ``[N]``, nats; of either sign.
        student: ``[N, W]``: the derivative of each row's value with respect to the student's log-probabilities of these
            tokens, as if each could change by itself; None where it was not asked for.
        teacher: ``[N, W]``: with respect to the teacher's, or None.
    """

    values: Tensor
    student: Tensor | None
    teacher: Tensor | None


class Distance(Component, ABC):
    """A divergence between two distributions over one vocabulary, one number a row, in nats.

    What is already done when a distance is called: temperature, selection of the scored positions, projection into
    one vocabulary, ``log_softmax`` in float32. What is done after it: masking, weighting, summing, dividing. None of
    these belongs inside.

    Laws that every distance is held to (`dskd_components.testing`, ``docs/reference/laws.md``): rows are independent;
    values are non-negative, finite for finite log-probabilities, and 0 where the two rows are equal; gradients are
    finite; a common reordering of the vocabulary changes nothing; an entry of ``-inf`` on both sides counts for
    nothing; inputs are not changed. What else it claims, it declares: ``symmetric``, ``upper_bound`` and so on.

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
    """Whether splitting a token into equally likely parts changes nothing, as for every f-divergence."""

    smooth: ClassVar[bool] = False
    """Whether the value is differentiable everywhere in the logits, also where two tokens are equally likely. Where it
    may not be, as in a distance that sorts or takes absolute values, gradients are compared away from ties alone."""

    treats_tokens_alike: ClassVar[bool] = True
    """Whether a common reordering of the vocabulary changes nothing. False for a distance that knows something of each
    token, such as weights of its own."""

    sums_over_vocabulary: ClassVar[bool] = False
    """Whether the value is a sum over the tokens, in which a token's own two probabilities are all that counts: for any
    cut of the vocabulary it is the sum of what `over_part` gives for the parts. Such a distance is computed where a
    head is cut over ranks; for others the head is gathered."""

    learning_rate_factor: ClassVar[float] = 1.0
    """What the learning rate of what `build` makes is multiplied with in `DSKDLoss.param_groups`."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Check the class when it is made; one without ``__call__`` and `build` is abstract.

        One with a ``__call__`` of its own does not inherit what a base class says of another: closed forms, and that it
        sums over the vocabulary.
        """
        super().__pydantic_init_subclass__(**kwargs)
        forget_outdated(cls, Distance, "__call__", "value_and_gradients", "over_part", "sums_over_vocabulary")
        stay_abstract(cls, Distance, "__call__")

    @property
    def upper_bound(self) -> float | None:
        """The least upper bound, in nats, reached where the two have nothing in common; None if there is none."""
        return None

    def build(self, *, tokens: "ComparedTokens | None", heads: "ProjectorHeads | None") -> nn.Module | None:  # noqa: ARG002
        """Return a module with parameters and buffers that is called in place of the distance, with the same arguments.

        None, as it stands: there are none, and the distance itself is called. A module becomes part of the loss: it is
        trained, saved and moved with it. Each space that measures with the distance builds one of its own. In a call
        its parameters and floating buffers have the precision of the log-probabilities, whatever they are kept in. It
        is called a few rows at a time, and differentiated by autograd.

        Args:
            tokens: the tokens that the columns stand for. None where the loss is built without heads.
            heads: both models' heads and vocabularies, from teacher to student; None likewise.
        """
        return None

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:  # noqa: ARG002
        """Return the distance of each row.

        Args:
            student_log_probs: ``[N, V]``, normalised log-probabilities, float32 or float64.
            teacher_log_probs: ``[N, V]``, the teacher's, of the same dtype.

        Returns:
            ``[N]``, nats, same dtype.

        Raises:
            ConfigurationError: the distance has parameters, which are in what `build` returns.
        """
        raise ConfigurationError(
            f"The distance {self.name!r} has parameters, so it cannot be called itself: build(...) returns what can. "
            "In a space, rows.divergence(distance) and rows.function_of(distance) find what was built for one of its "
            "`distances`."
        )

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return the distance of each row and its gradients with respect to the *logits* of either side.

        As it stands it goes through autograd, so no distance need define it. One that overrides it offers its
        gradients in closed form, which saves time and memory; the laws hold them to what autograd gives. In a closed
        form, derivatives with respect to log-probabilities become derivatives with respect to logits by
        `distances.log_space.through_log_softmax`.

        Args:
            student: the student's distributions, without graph.
            teacher: the teacher's distribution.
            student_gradient: whether the gradient with respect to the student's logits is wanted.
            teacher_gradient: whether that of the teacher's is.

        Returns:
            Values and gradients, without graph. Gradients are new tensors, which the caller may overwrite.
        """
        if not (student_gradient or teacher_gradient):
            with torch.no_grad():
                values = checked_call(self, self, student.log_probs, teacher.log_probs)
                return DistanceGradients(values=values, student=None, teacher=None)
        asked = (student_gradient, teacher_gradient)
        # log_softmax of log-probabilities changes nothing but makes them logits.
        logits = [
            side.log_probs.detach().requires_grad_(is_asked)
            for side, is_asked in zip((student, teacher), asked, strict=True)
        ]
        with torch.enable_grad():
            values = checked_call(self, self, logits[0].log_softmax(-1), logits[1].log_softmax(-1))
            found = iter(_gradients(values, [side for side in logits if side.requires_grad]))
        return DistanceGradients(
            values=values.detach(),
            student=next(found) if student_gradient else None,
            teacher=next(found) if teacher_gradient else None,
        )

    def over_part(
        self, student: Distribution, teacher: Distribution, *, student_derivative: bool, teacher_derivative: bool
    ) -> PartOfDistances:
        """Return what a part of the vocabulary adds to the distance of each row, and the derivatives of that.

        For a distance that ``sums_over_vocabulary``. As it stands it calls the distance with the part, through
        autograd. One that gives derivatives in closed form, or does something to the sum itself, overrides it.

        Args:
            student: the student's probabilities of the part's tokens, normalised over the whole vocabulary.
            teacher: the teacher's.
            student_derivative: whether the derivative with respect to the student's log-probabilities is wanted.
            teacher_derivative: whether that with respect to the teacher's is.

        Returns:
            Values and derivatives, without graph. Derivatives are new tensors, which the caller may overwrite.
        """
        sides = [
            side.log_probs.detach().requires_grad_(is_asked)
            for side, is_asked in ((student, student_derivative), (teacher, teacher_derivative))
        ]
        with torch.set_grad_enabled(student_derivative or teacher_derivative):
            values = checked_call(self, self, *sides)
            found = iter(_gradients(values, [side for side in sides if side.requires_grad]))
        return PartOfDistances(
            values=values.detach(),
            student=next(found) if student_derivative else None,
            teacher=next(found) if teacher_derivative else None,
        )

    @classmethod
    def has_closed_form(cls) -> bool:
        """Return whether the gradients come in closed form rather than from autograd."""
        return cls.value_and_gradients is not Distance.value_and_gradients


def checked_call(
    distance: Distance,
    function: "Callable[[Tensor, Tensor], object]",
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
) -> Tensor:
    """Return ``[N]``: what a distance's call gives, or that of what was built for it, held to what it promises.

    Args:
        distance: for the message.
        function: what is called.
        student_log_probs: ``[N, V]``.
        teacher_log_probs: ``[N, V]``.

    Raises:
        PluginError: it gives something else, or has written over its arguments.
    """
    sides = {"student_log_probs": student_log_probs, "teacher_log_probs": teacher_log_probs}
    before = {name: side._version for name, side in sides.items() if not side.is_inference()}
    found = function(student_log_probs, teacher_log_probs)
    for name, version in before.items():
        if sides[name]._version != version:
            raise complaint(distance, f"expected a call to leave its arguments as they are, but it writes over {name}.")
    shape = student_log_probs.shape[:1]
    return require_tensor(distance, "a call to return a number for each row,", found, shape, student_log_probs)


Found = TypeVar("Found", DistanceGradients, PartOfDistances)

ASKED_BY: "Final[Mapping[type, tuple[str, str]]]" = {
    DistanceGradients: ("value_and_gradients", "gradient"),
    PartOfDistances: ("over_part", "derivative"),
}
"""By what is returned the method that returns it, and what its arguments call that which may be asked for."""


def measured(
    distance: Distance,
    kind: type[Found],
    student: Distribution,
    teacher: Distribution,
    *,
    of_student: bool,
    of_teacher: bool,
) -> Found:
    """Return what a distance makes of rows, held to what it promises; what was not asked for is None.

    Args:
        distance: the distance.
        kind: ``DistanceGradients``: what `Distance.value_and_gradients` returns; ``PartOfDistances``: what
            `Distance.over_part` does.
        student: the student's distributions, or its part of them.
        teacher: the teacher's.
        of_student: whether the student's gradient, or derivative, is wanted.
        of_teacher: whether the teacher's is.

    Raises:
        PluginError: the distance gives something else.
    """
    method, what = ASKED_BY[kind]
    wanted = {"student": of_student, "teacher": of_teacher}
    asked = {f"{side}_{what}": is_wanted for side, is_wanted in wanted.items()}
    found: object = getattr(distance, method)(student, teacher, **asked)
    if not isinstance(found, kind):
        raise broken_promise(distance, f"{method}(...) to return a {kind.__name__}", found)
    logits = student.logits
    values = require_tensor(distance, f"{method}(...).values to be", found.values, logits.shape[:1], logits)
    sides = {
        side: require_tensor(distance, f"{method}(...).{side} to be", getattr(found, side), logits.shape, logits)
        if is_wanted
        else None
        for side, is_wanted in wanted.items()
    }
    return kind(values=values, **sides)


def _gradients(values: Tensor, logits: list[Tensor]) -> list[Tensor]:
    if not values.requires_grad:
        return [torch.zeros_like(side) for side in logits]
    return list(torch.autograd.grad(values.sum(), logits, allow_unused=True, materialize_grads=True))
