"""Values and gradients of a distance at logits, and the cases on which its laws are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from hypothesis import strategies as st
from torch import Tensor

from dskd_components.testing.laws.building import function_of
from dskd_components.testing.strategies.logits import SEEDS, normal, pairs_of_logits

if TYPE_CHECKING:
    from dskd_components.testing.law import Cases

DistanceFunction = Callable[[Tensor, Tensor], Tensor]
"""What a distance is to its laws: student and teacher log-probabilities ``[N, V]`` in, ``[N]`` out. A `Distance` is
one, and so is any function of that shape. One with parameters builds what is called, for the columns that come."""

DTYPES = st.sampled_from([torch.float64, torch.float32])
"""What a distance is called with."""

WIDE: Final = 130
"""Tokens of the `wide` case: more than the most likely ones that a distance may take, or than a chunk has."""


def values_at(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return ``[N]``: the distances of rows given by their logits, without graph."""
    with torch.no_grad():
        return function_of(distance)(student_logits.log_softmax(-1), teacher_logits.log_softmax(-1))


def values_and_gradients(
    distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distances ``[N]`` and the gradients of their sum for both logits, each ``[N, V]``.

    A side that no gradient reaches has zeros.
    """
    student, teacher = (side.detach().clone().requires_grad_() for side in (student_logits, teacher_logits))
    values = function_of(distance)(student.log_softmax(-1), teacher.log_softmax(-1))
    if not values.requires_grad:
        return values, torch.zeros_like(student), torch.zeros_like(teacher)
    of_student, of_teacher = torch.autograd.grad(
        values.sum(), (student, teacher), allow_unused=True, materialize_grads=True
    )
    return values.detach(), of_student, of_teacher


def pairs(**others: st.SearchStrategy[Any]) -> Cases:
    """Cases of ``student_logits`` and ``teacher_logits``, float64 of every temper, and further arguments.

    Args:
        **others: strategies of the further arguments.
    """
    both = st.tuples(pairs_of_logits(), st.fixed_dictionaries(others))
    return lambda _distance: both.map(lambda drawn: _named(drawn[0], drawn[1]))


def generic_pairs(**others: st.SearchStrategy[Any]) -> Cases:
    """Cases of normally distributed logits, where nothing is tied or extreme, and further arguments.

    Args:
        **others: strategies of the further arguments.
    """
    shapes = st.tuples(st.integers(1, 3), st.integers(3, 7), SEEDS)
    both = st.tuples(shapes.map(_generic_pair), st.fixed_dictionaries(others))
    return lambda _distance: both.map(lambda drawn: _named(drawn[0], drawn[1]))


def apart(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return ``[N]``, bool: rows whose distributions differ by more than a tenth in total variation."""
    gap = student_logits.softmax(-1) - teacher_logits.softmax(-1)
    return 0.5 * gap.abs().sum(-1) > 0.1


def differentiable_rows(distance: Any, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return ``[N]``, bool: rows at which the gradients of a distance can be compared.

    A distance may have a kink wherever two probabilities are equal: total variation where one token is equally likely
    on both sides, one that sorts where any two are. What claims to be ``smooth`` has none.
    """
    if getattr(distance, "smooth", False):
        return torch.ones(len(student_logits), dtype=torch.bool)
    ordered = torch.cat([student_logits.softmax(-1), teacher_logits.softmax(-1)], -1).sort(-1).values
    return ~((ordered.diff(dim=-1) < 1e-9) & (ordered[:, 1:] > 1e-9)).any(-1)


def tied(**others: Any) -> tuple[dict[str, Any], ...]:
    """Return the case in which numbers are equal wherever it matters, for laws that always try it.

    Tokens are equally likely on one side, on the other, and across; the last row is the same on both sides.

    Args:
        **others: the further arguments of the law.
    """
    same = [0.3, 0.1, 0.7, -0.2, 0.9]
    student = torch.tensor([[2.0, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, -1, -1], same], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 2, 0, 1, 1], [2, 1, 1, 1, 0], [0, 0, 0, 1, 0], same], dtype=torch.float64)
    return ({"student_logits": student, "teacher_logits": teacher, **others},)


def wide(**others: Any) -> tuple[dict[str, Any], ...]:
    """Return a case with more tokens than are drawn, for laws that always try it.

    What takes the most likely tokens, or goes over the vocabulary in chunks, does nothing of it with a few.

    Args:
        **others: the further arguments of the law.
    """
    generator = torch.Generator("cpu").manual_seed(1)
    student, teacher = torch.randn(2, 2, WIDE, generator=generator, dtype=torch.float64, device="cpu")
    return ({"student_logits": student, "teacher_logits": teacher, **others},)


def _generic_pair(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    rows, vocabulary, seed = shape
    student, teacher = normal(seed, 2, rows, vocabulary)
    return student, teacher


def _named(pair: tuple[Tensor, Tensor], others: Mapping[str, Any]) -> dict[str, Any]:
    return {"student_logits": pair[0], "teacher_logits": pair[1], **others}
