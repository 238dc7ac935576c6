"""Faulty distances, most of them plain functions, as people write them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable  # noqa: TC003  # pydantic reads it
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import ConfigDict

from dskd_components import Distance
from dskd_components.components.distance import DistanceGradients
from dskd_components.distances import JS, KL, AdaptiveKL, SkewKL
from dskd_components.distances.log_space import relative_entropy
from tests.helpers.fault import Fault, collected

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distribution import Distribution

DISTANCE_FAULTS: list[Fault] = []
fault = functools.partial(collected, DISTANCE_FAULTS)


@fault("the arguments of a skewed divergence are swapped", "the_bound_is_reached")
class Swapped(SkewKL):
    name: Literal["swapped"] = "swapped"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        mixture = (0.9 * teacher_log_probs.exp() + 0.1 * student_log_probs.exp()).log()
        return relative_entropy(teacher_log_probs, mixture)


@fault("a logarithm is missing", "zero_at_equality")
def missing_log(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - student.exp())).sum(-1).abs()


@fault("bits instead of nats", "bounded")
class Bits(JS):
    name: Literal["bits"] = "bits"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return super().__call__(student_log_probs, teacher_log_probs) / math.log(2)


@fault("a mean over the vocabulary", "tokens_ruled_out_on_both_sides_count_for_nothing")
def vocabulary_mean(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_entropy(teacher, student) / student.shape[-1]


@fault("rows are coupled", "rows_are_independent")
def batch_coupling(student: Tensor, teacher: Tensor) -> Tensor:
    values = relative_entropy(teacher, student)
    return values * (1 + values.sum())


@fault("0 * log 0 of masked tokens", "tokens_ruled_out_on_both_sides_count_for_nothing")
def mask_leaked(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - student)).sum(-1).clamp_min(0)


@fault("masked tokens get a large negative number", "tokens_ruled_out_on_both_sides_count_for_nothing")
def masked_by_a_number(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_entropy(teacher, student) + (student.clamp_min(-50) + 50).eq(0).sum(-1) * 1e-3


@fault("a temperature of its own inside", "refinement_invariance")
class TemperatureInside(KL):
    name: Literal["temperature_inside"] = "temperature_inside"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return super().__call__((student_log_probs / 2).log_softmax(-1), (teacher_log_probs / 2).log_softmax(-1))


@fault("a temperature as an option", "no_temperature_inside")
class TemperatureOption(KL):
    name: Literal["temperature_option"] = "temperature_option"
    temperature: float = 1.0


@fault("an epsilon inside the logarithms", "refinement_invariance")
class Epsilon(Distance):
    refinement_invariant: ClassVar[bool] = True

    name: Literal["epsilon"] = "epsilon"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        p, q = teacher_log_probs.exp(), student_log_probs.exp()
        return ((p + 1e-2) * ((p + 1e-2) / (q + 1e-2)).log()).sum(-1)


@fault("0/0 where both are equal", "zero_at_equality")
def nan_at_equality(student: Tensor, teacher: Tensor) -> Tensor:
    forward, reverse = relative_entropy(teacher, student), relative_entropy(student, teacher)
    return forward * (forward / (forward + reverse))


@fault("the arguments are overwritten", "arguments_are_not_changed")
def in_place(student: Tensor, teacher: Tensor) -> Tensor:
    probs = teacher.exp()
    if not torch.is_grad_enabled():
        teacher -= student
        return (probs * teacher).sum(-1).clamp_min(0)
    return relative_entropy(teacher, student)


@fault("the student is detached", "the_student_learns")
def detached_student(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_entropy(teacher, student.detach())


@fault("the teacher is detached", "gradient_is_the_derivative")
def detached_teacher(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_entropy(teacher.detach(), student)


@fault("a weight is held constant without a word", "gradient_is_the_derivative")
class UndeclaredConstant(AdaptiveKL):
    gradient_is_derivative: ClassVar[bool] = True

    name: Literal["undeclared_constant"] = "undeclared_constant"


@fault("what looks at all tokens says that it is a sum over them", "parts_of_the_vocabulary_add_up")
class NoSum(AdaptiveKL):
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["no_sum"] = "no_sum"


class ClosedForm(KL):
    """KL with a closed form that is about to be spoilt."""

    name: Literal["closed_form"] = "closed_form"

    def spoilt(self, found: DistanceGradients, student: Distribution, teacher: Distribution) -> DistanceGradients:
        return found

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        found = super().value_and_gradients(
            student, teacher, student_gradient=student_gradient, teacher_gradient=teacher_gradient
        )
        return self.spoilt(found, student, teacher)


@fault("the closed form has the sides exchanged", "closed_form_is_the_gradient")
class ExchangedGradients(ClosedForm):
    name: Literal["exchanged_gradients"] = "exchanged_gradients"

    def spoilt(self, found: DistanceGradients, student: Distribution, teacher: Distribution) -> DistanceGradients:
        return DistanceGradients(values=found.values, student=found.teacher, teacher=found.student)


@fault("the closed form leaves out what is beyond its first hundred tokens", "closed_form_is_the_gradient")
class FirstTokensAlone(ClosedForm):
    name: Literal["first_tokens_alone"] = "first_tokens_alone"

    def spoilt(self, found: DistanceGradients, student: Distribution, teacher: Distribution) -> DistanceGradients:
        kept = torch.arange(student.probs.shape[1]) < 100
        sides = (None if side is None else side.where(kept, 0.0) for side in (found.student, found.teacher))
        return DistanceGradients(values=found.values, student=next(sides), teacher=next(sides))


@fault("a vocabulary that is wider than a chunk is cut", "token_numbers_do_not_matter")
def one_chunk(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    student, teacher = (side[:, :100].exp() for side in (student_log_probs, teacher_log_probs))
    return (student - teacher).square().sum(-1)


@fault("the closed form is of another divergence", "closed_form_is_the_gradient")
class WrongValue(ClosedForm):
    name: Literal["wrong_value"] = "wrong_value"

    def spoilt(self, found: DistanceGradients, student: Distribution, teacher: Distribution) -> DistanceGradients:
        values = relative_entropy(student.log_probs, teacher.log_probs)
        return DistanceGradients(values=values, student=found.student, teacher=found.teacher)


@fault("the closed form is for log-probabilities, not for logits", "closed_form_is_the_gradient")
class NotThroughSoftmax(ClosedForm):
    name: Literal["not_through_softmax"] = "not_through_softmax"

    def spoilt(self, found: DistanceGradients, student: Distribution, teacher: Distribution) -> DistanceGradients:
        gradient = None if found.student is None else -teacher.probs
        return DistanceGradients(values=found.values, student=gradient, teacher=found.teacher)


@fault("the closed form hands out a tensor that others hold", "closed_form_leaves_its_arguments_alone")
class SharedGradient(ClosedForm):
    name: Literal["shared_gradient"] = "shared_gradient"

    def spoilt(self, found: DistanceGradients, student: Distribution, teacher: Distribution) -> DistanceGradients:
        if found.student is None:
            return found
        torch.sub(student.probs, teacher.probs, out=student.probs)
        return DistanceGradients(values=found.values, student=student.probs, teacher=found.teacher)


@fault("float32 inside", "precision_is_kept_inside")
def narrowed_inside(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_entropy(teacher.float(), student.float()).to(student.dtype)


@fault("float32 comes out", "one_number_a_row")
def narrowed_outside(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_entropy(teacher, student).float()


@fault("the sign is wrong", "non_negative")
def sign_error(student: Tensor, teacher: Tensor) -> Tensor:
    return -relative_entropy(teacher, student)


@fault("rounding goes below zero", "non_negative")
def negative_by_rounding(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - student)).sum(-1)


@fault("noise", "the_same_arguments_give_the_same_value")
def unseeded(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_entropy(teacher, student) * (1 + 1e-3 * torch.rand(len(student), dtype=student.dtype))


@fault("noise of a fixed seed, which is everybody's", "the_same_arguments_give_the_same_value")
def seeded(student: Tensor, teacher: Tensor) -> Tensor:
    torch.manual_seed(0)
    return relative_entropy(teacher, student) * (1 + 1e-3 * torch.rand(len(student), dtype=student.dtype))


@fault("the square root of zero", "finite_gradients")
def root_of_zero(student: Tensor, teacher: Tensor) -> Tensor:
    return ((student / 2).exp() - (teacher / 2).exp()).square().sum(-1).sqrt()


@fault("a quotient of probabilities", "finite")
def quotient(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp().square() / student.exp()).sum(-1) - 1


@fault("a cut at a fixed token", "token_numbers_do_not_matter")
def first_tokens_only(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.exp() - teacher.exp())[:, : student.shape[-1] // 2].abs().sum(-1)


@fault("a mean over rows", "one_number_a_row")
def reduced(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_entropy(teacher, student).mean()


@fault("cross entropy in place of a divergence", "zero_at_equality")
def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher.exp() * student).sum(-1)


@fault("small differences are forgiven", "positive_where_different")
def forgiving(student: Tensor, teacher: Tensor) -> Tensor:
    return (relative_entropy(teacher, student) - 0.3).clamp_min(0)


@fault("no rows are too few", "no_rows_no_values")
def needs_rows(student: Tensor, teacher: Tensor) -> Tensor:
    if len(student) == 0:
        raise ValueError("max() arg is an empty sequence")
    return relative_entropy(teacher, student)


@fault("digits are lost in float32", "float32_is_near_float64")
def cancellation(student: Tensor, teacher: Tensor) -> Tensor:
    return (1e4 + relative_entropy(teacher, student)) - 1e4


@fault("a kink that pulls to one side", "zero_gradient_at_equality")
def one_sided_kink(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = student.exp(), teacher.exp()
    return (q.detach() * torch.where(p >= q, p - q, q - p)).sum(-1)


@fault("numbers are compared for exact equality", "a_constant_added_to_logits_changes_nothing")
def exact_comparison(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_entropy(teacher, student) + 0.01 * (student != teacher).sum(-1)


@fault("symmetry is claimed and not had", "symmetric")
class FalselySymmetric(KL):
    symmetric: ClassVar[bool] = True

    name: Literal["falsely_symmetric"] = "falsely_symmetric"


@fault("a metric is claimed and is the square of one", "metric")
class FalseMetric(JS):
    is_metric: ClassVar[bool] = True

    name: Literal["false_metric"] = "false_metric"


@fault("the claimed bound is not the least", "the_bound_is_reached")
class LooseBound(JS):
    name: Literal["loose_bound"] = "loose_bound"

    @property
    def upper_bound(self) -> float:
        return 1.0


@fault("an option does nothing", "options_have_an_effect")
class IdleOption(KL):
    name: Literal["idle_option"] = "idle_option"
    alpha: float = 0.5


@fault("misspelt options are swallowed", "unknown_options_are_refused")
class Swallowing(KL):
    model_config = ConfigDict(extra="ignore")

    name: Literal["swallowing"] = "swallowing"

    def __init__(self, **options: object) -> None:
        super().__init__()

    @classmethod
    def model_validate(cls, obj: object, **options: object) -> Swallowing:  # type: ignore[override]
        return cls()


@fault("an option is a function, which JSON cannot hold", "spec_round_trips")
class FunctionOption(KL):
    name: Literal["function_option"] = "function_option"
    power: Callable[[float], float] = math.sqrt


@fault("options can be assigned to", "it_cannot_be_changed")
class Changeable(KL):
    model_config = ConfigDict(frozen=False)

    name: Literal["changeable"] = "changeable"


@fault("of tokens that are equally likely, the first are the top ones", "token_numbers_do_not_matter")
def top_by_place(student: Tensor, teacher: Tensor) -> Tensor:
    top = teacher.argsort(dim=-1, descending=True, stable=True)[..., :2]
    return (teacher.gather(-1, top).exp() - student.gather(-1, top).exp()).square().sum(-1)


@fault("a gradient is divided among equals, smoothness is claimed", "token_numbers_do_not_matter")
def claims_to_be_smooth(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.exp().sort(-1, stable=True).values - teacher.exp().sort(-1, stable=True).values).abs().sum(-1)


claims_to_be_smooth.smooth = True  # type: ignore[attr-defined]
claims_to_be_smooth.zero_iff_equal = False  # type: ignore[attr-defined]
