"""Building what distances and spaces need: heads for a vocabulary, modules as if they had been trained, two engines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from hypothesis import strategies as st

from dskd_components.components.distance import Distance
from dskd_components.components.group_space import GroupSpace
from dskd_components.components.projector import ProjectorHeads
from dskd_components.components.space import Space
from dskd_components.components.space_modules import SpaceModules
from dskd_components.components.vocabulary import ComparedTokens, Vocabulary
from dskd_components.loss.dskd_loss import DSKDLoss
from dskd_components.models.head import Head
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.testing.expectation import expect_close
from dskd_components.testing.laws.component import trained
from dskd_components.testing.strategies.batches import make_batch, with_example_columns
from dskd_components.testing.strategies.logits import SEEDS, normal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from dskd_components.components.group_space import ComparedGroups
    from dskd_components.components.space import ComparedRows, DistanceFunction, SharedTokens, SpaceResult
    from dskd_components.models.states import Side
    from dskd_components.testing.strategies.batches import Batch

SEED: Final = 20
"""Of parameters, where a law draws none of its own."""


def heads_of(student_size: int, teacher_size: int, shared: SharedTokens | None = None) -> ProjectorHeads:
    """Return heads of two vocabularies whose tokens all stand for different bytes.

    Args:
        student_size: tokens of the student.
        teacher_size: tokens of the teacher.
        shared: the tokens that both have; None: the two vocabularies are one.
    """
    sizes: dict[Side, int] = {"student": student_size, "teacher": teacher_size}
    return ProjectorHeads(
        source=Head(normal(SEED, teacher_size, 3)),
        target=Head(normal(SEED + 1, student_size, 2)),
        source_ids=None if shared is None else shared.teacher_ids,
        target_ids=None if shared is None else shared.student_ids,
        source_side="teacher",
        vocabularies={
            side: Vocabulary(size=size, known_bytes=[f"{number} ".encode() for number in range(size)])
            for side, size in sizes.items()
        },
    )


def built_distance(distance: Distance, columns: int, *, seed: int = SEED, fresh: bool = False) -> nn.Module | None:
    """Return what a distance builds for a number of columns, with seeded parameters; None if it has none.

    Args:
        distance: the distance.
        columns: how many tokens are compared.
        seed: the same seed gives the same parameters.
        fresh: leave them as they are at first; else they are moved, as if they had been trained.
    """
    heads = heads_of(columns, columns)
    tokens = ComparedTokens(side="student", ids=torch.arange(columns), vocabulary=heads.vocabulary("student"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = distance.build(tokens=tokens, heads=heads)
    if module is not None and not fresh:
        trained(module, seed)
    return module


def has_parameters(component: Any) -> bool:
    """Return whether a distance or space builds something."""
    if isinstance(component, Distance):
        return type(component).build is not Distance.build
    return isinstance(component, Space) and type(component).build is not Space.build


def function_of(distance: Any) -> DistanceFunction:
    """Return what maps log-probabilities to distances: the distance itself, or what it builds for their columns.

    Args:
        distance: a `Distance`, or any function of that shape.
    """
    if not has_parameters(distance):
        return distance  # type: ignore[no-any-return]

    def call(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        module = built_distance(distance, student_log_probs.shape[-1])
        called = distance if module is None else module.to(student_log_probs.dtype)
        return called(student_log_probs, teacher_log_probs)  # type: ignore[no-any-return]

    return call


def built_space(space: Space, heads: ProjectorHeads, default: Distance, *, seed: int = SEED) -> SpaceModules | None:
    """Return what a space and its distances build, as if it had been trained; None if that is nothing."""
    if not has_parameters(space) and not any(map(has_parameters, space.distances(default))):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = SpaceModules.of(space, default, heads)
        if modules is not None:
            trained(modules, seed)
    return modules


def found_by(space: Space, compared: ComparedRows | ComparedGroups, modules: SpaceModules | None) -> SpaceResult:
    """Return what a space makes of rows or groups, with its modules in float64 if there are any."""
    if modules is None:
        return getattr(space, "combine" if hasattr(compared, "student_sizes") else "compare")(compared)  # type: ignore[no-any-return]
    found: SpaceResult = modules.double()(space, compared, compared.measure.distance)
    return found


SMALL_TILES: Final = {"name": "tiled", "memory_budget_mib": 1e-3}
"""An engine that cuts the smallest batch into several tiles."""


def expect_engines_to_agree(spec: DSKDSpec, seed: int) -> None:
    """Raise AssertionError unless the tiled engine, in many tiles, gives the loss and gradients of the eager one.

    Args:
        spec: whatever its engine is.
        seed: of the batch and the parameters.
    """
    __tracebackhide__ = True
    drawn = make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer, student_hidden=3, teacher_hidden=4)
    batch = with_example_columns(drawn, spec.spaces)
    (eager, of_eager), (tiled, of_tiled) = (
        _terms_and_gradients(spec.replace(engine=engine), batch, seed) for engine in ("eager", SMALL_TILES)
    )
    for name, value in eager.items():
        expect_close(tiled[name], value, f"{name} in tiles, against all at once")
    for name, gradient in of_eager.items():
        expect_close(of_tiled[name], gradient, f"the gradient of {name} in tiles, against all at once")


def _terms_and_gradients(spec: DSKDSpec, batch: Batch, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    loss_fn = loss_of(spec, batch, seed)
    student = batch.student
    hidden_states = student.hidden_states.clone().requires_grad_()
    head = Head(student.head.weight.clone().requires_grad_())
    out = replace(batch, student=replace(student, hidden_states=hidden_states, head=head)).loss(loss_fn)
    leaves = {"student.hidden_states": hidden_states, "student.head.weight": head.weight}
    leaves |= {name: leaf for name, leaf in loss_fn.named_parameters() if leaf.requires_grad}
    found = torch.autograd.grad(out.loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"the loss": out.loss.detach(), **out.terms}, dict(zip(leaves, found, strict=True))


def loss_of(spec: DSKDSpec, batch: Batch, seed: int) -> DSKDLoss:
    """Return the loss for a batch's models, float64, with parameters as if they had been trained."""
    student, teacher = batch.student.head, batch.teacher.head
    ids = None
    if not spec.aligner.same_tokenizer:
        ids = torch.arange(teacher.vocabulary_size)
        ids = torch.where((ids % 2 == 0) & (ids < student.vocabulary_size), ids, -1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss_fn = DSKDLoss(
            spec,
            student_hidden_size=student.hidden_size,
            teacher_hidden_size=teacher.hidden_size,
            student_head=student,
            teacher_head=teacher,
            teacher_to_student_ids=ids,
        ).double()
    trained(loss_fn.spaces, seed)
    return loss_fn


def spec_of(component: Distance | Space) -> DSKDSpec:
    """Return a spec that uses a distance or a space and nothing else, at temperatures that are not 1.

    Args:
        component: the distance, or the space.
    """
    temperatures: dict[str, Any] = {"temperature": 2.0, "teacher_temperature": 1.5, "kd_rate": 1.0}
    if isinstance(component, Distance):
        return DSKDSpec(distance=component, **temperatures)
    two = isinstance(component, GroupSpace) or component.needs_shared_tokens
    return DSKDSpec(spaces=(component,), aligner="span" if two else "identity", **temperatures)


def seeds(_component: Any) -> st.SearchStrategy[Mapping[str, Any]]:
    """Cases of a ``seed``."""
    return st.fixed_dictionaries({"seed": SEEDS})


def batch_and_loss(component: Distance | Space, seed: int) -> tuple[Batch, DSKDLoss]:
    """Return a batch and a loss of a component alone, with parameters as if they had been trained."""
    spec = spec_of(component)
    same = spec.aligner.same_tokenizer
    drawn = make_batch(seed, same_tokenizer=same, student_hidden=3, teacher_hidden=4, at_least=3)
    batch = with_example_columns(drawn, spec.spaces)
    return batch, loss_of(spec, batch, seed)
