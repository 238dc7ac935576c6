"""Batches whose heads are cut over ranks, and what a loss makes of them, on each rank and in one process."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from dskd_components import DSKDSpec, DSKDWarning, Head, InputError, MultiTeacherLoss, MultiTeacherSpec, NonFiniteError
from dskd_components.distributed import gathered, reduce_gradients
from dskd_components.models.head_part import HeadPart, head_of_step
from tests.helpers.models import tiny_model
from tests.helpers.registered import build
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from dskd_components import DSKDOutput, LMStates
    from tests.helpers.strategies import Batch


@dataclass(frozen=True, kw_only=True)
class CutHeads:
    """Heads, and how ranks have cut them."""

    same_rows: bool
    bias: bool = False
    softcap: float | None = None
    padding: int = 0
    tied: bool = False
    teacher_is_whole: bool = False
    silent: bool = False
    budget: float = 384.0
    narrowed: bool = False
    """Whether the loss looks at some tokens alone, and at all others together."""
    common: bool = False
    """Whether the two vocabularies are one but for some tokens."""


def batch_of(spec: DSKDSpec, cut: CutHeads) -> Batch:
    """The whole batch, the same on each rank."""
    batch = make_batch(3, same_tokenizer=spec.aligner.same_tokenizer)
    if cut.silent:
        for states in (batch.student, batch.teacher):
            states.targets[2] = -100
    sides = (batch.student, batch.teacher)
    student, teacher = (replace(states, head=_head(states.head, cut)) for states in sides)
    return replace(batch, student=student, teacher=teacher)


@cache
def _mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def _head(head: Head, cut: CutHeads) -> Head:
    generator = torch.Generator().manual_seed(len(head.weight))
    padding = torch.full((cut.padding, head.hidden_size), 1e6, dtype=head.weight.dtype)
    weight = torch.cat([head.weight, padding])
    return Head(
        weight,
        bias=torch.randn(len(weight), generator=generator, dtype=weight.dtype) if cut.bias else None,
        scale=1.0 if cut.softcap is None else 0.5,
        softcap=cut.softcap,
        valid_vocabulary_size=len(head.weight) if cut.padding else None,
    )


def outcome(spec: DSKDSpec, cut: CutHeads, *, parallel: bool) -> dict[str, Any]:
    """Loss, terms and all gradients of a batch: of one process, or of the ranks together."""
    batch = batch_of(spec, cut)
    option = {"vocabulary_parallel": "auto" if cut.same_rows else "always"} if parallel else {}
    spec = spec.replace(engine={"name": "tiled", "memory_budget_mib": cut.budget, **option})
    ids = torch.arange(batch.teacher.head.vocabulary_size)
    loss_fn = build(spec, batch, mapping=ids.where(ids % 4 != 1, -1) if cut.common else None)
    leaves = {
        name: torch.nn.Parameter(tensor.clone())
        for name, tensor in (("head", batch.student.head.weight), ("bias", batch.student.head.bias))
        if tensor is not None
    }
    mesh, heads = None, {"student": batch.student.head, "teacher": batch.teacher.head}
    if parallel:
        mesh = _mesh()
        leaves = {name: torch.nn.Parameter(distribute_tensor(leaf, mesh, [Shard(0)])) for name, leaf in leaves.items()}
    heads["student"] = _of_parameters(heads["student"], leaves, cut, parallel=parallel)
    if parallel and not cut.teacher_is_whole:
        constants = {"head": heads["teacher"].weight, "bias": heads["teacher"].bias}
        cut_up = {
            name: distribute_tensor(tensor, mesh, [Shard(0)])
            for name, tensor in constants.items()
            if tensor is not None
        }
        heads["teacher"] = _of_parameters(heads["teacher"], cut_up, cut, parallel=True)
    student = _with_states(batch.student, heads["student"], leaves, cut)
    teacher = replace(batch.teacher, head=heads["teacher"])
    if cut.narrowed:
        student, teacher = (
            replace(states, head=states.head.narrowed([5, 0, 7], others="one_outcome")) for states in (student, teacher)
        )
    batch = replace(batch, student=student, teacher=teacher)
    scored = student.scored.sum()
    ranks = 1
    if parallel and not cut.same_rows:
        ranks = dist.get_world_size()
        batch = batch.rows(slice(0, 2) if dist.get_rank() == 0 else slice(2, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DSKDWarning)
        out = batch.loss(loss_fn, num_items_in_batch=scored)
    (out.loss * ranks).backward()
    found: dict[str, Any] = _numbers(out)
    if parallel and not cut.same_rows:
        reduce_gradients(loss_fn)
        for name in sorted(found):
            dist.all_reduce(found[name])
    for name, parameter in [*leaves.items(), *loss_fn.named_parameters(), ("states", student.hidden_states)]:
        gradient = parameter.grad
        assert gradient is not None, name
        found[f"gradient of {name}"] = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    if ranks > 1:
        of_states = found["gradient of states"] / ranks
        dist.all_reduce(of_states)
        found["gradient of states"] = of_states
    found["warnings"] = [str(warning.message) for warning in caught if warning.category is DSKDWarning]
    found["gathered"] = [side for side, head in heads.items() if "_whole" in vars(head)]
    return found


def _numbers(out: DSKDOutput) -> dict[str, Tensor]:
    return {"loss": out.loss.detach().clone()} | {name: value.clone() for name, value in out.terms.items()}


def _of_parameters(head: Head, parameters: dict[str, Any], cut: CutHeads, *, parallel: bool) -> Head:
    options: dict[str, Any] = {
        "bias": parameters.get("bias"),
        "scale": head.scale,
        "softcap": head.softcap,
        "valid_vocabulary_size": head.valid_vocabulary_size,
    }
    if parallel:
        return HeadPart.of(parameters["head"], same_rows=cut.same_rows, **options)
    return Head(parameters["head"], **options)


def _with_states(states: LMStates, head: Head, leaves: dict[str, Any], cut: CutHeads) -> LMStates:
    hidden = states.hidden_states.clone().requires_grad_()
    if cut.tied:
        # The embedding of a token is its row of the head.
        embedded = gathered(leaves["head"])[states.targets.clamp_min(0)]
        hidden = (states.hidden_states + embedded).requires_grad_()
        hidden.retain_grad()
    return replace(states, hidden_states=hidden, head=head)


def of_several_teachers(cut: CutHeads, *, parallel: bool) -> dict[str, Any]:
    """Loss, terms and gradients with two teachers, whose heads are whole."""
    spec = MultiTeacherSpec.model_validate({"teachers": {name: {"spaces": ["student"]} for name in ("a", "b")}})
    option = "auto" if cut.same_rows else "always"
    spec = spec.replace(engine={"name": "tiled", "vocabulary_parallel": option, "memory_budget_mib": 1e-3})
    batch = batch_of(DSKDSpec(), cut)
    weight = torch.nn.Parameter(batch.student.head.weight.clone())
    head = Head(weight)
    ranks, rows = 1, slice(None)
    if parallel:
        weight = torch.nn.Parameter(distribute_tensor(weight.detach(), _mesh(), [Shard(0)]))
        head = HeadPart.of(weight, same_rows=cut.same_rows)
        if not cut.same_rows:
            ranks, rows = dist.get_world_size(), slice(0, 2) if dist.get_rank() == 0 else slice(2, 3)
    student = replace(batch.student, head=head)
    others = {"a": batch.teacher, "b": batch.teacher.rows(torch.arange(3))}
    others["b"] = replace(others["b"], targets=others["b"].targets.clone())
    others["b"].targets[1] = -100
    losses = {name: build(spec.pair(name), batch) for name in spec.teachers}
    loss_fn = MultiTeacherLoss(spec, losses)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DSKDWarning)
        out = loss_fn(
            student.rows(rows),
            {name: states.rows(rows) for name, states in others.items()},
            num_items_in_batch=student.scored.sum(),
        )
    (out.loss * ranks).backward()
    found: dict[str, Any] = _numbers(out)
    if ranks > 1:
        reduce_gradients(loss_fn)
        for name in sorted(found):
            dist.all_reduce(found[name])
    gradient: Any = weight.grad
    found["gradient of head"] = gradient.full_tensor() if parallel else gradient
    found |= {f"gradient of {name}": parameter.grad for name, parameter in loss_fn.named_parameters()}
    found["warnings"] = [str(warning.message) for warning in caught]
    return found


def error_of_ranks_with_other_batches() -> str:
    """What ranks of tensor parallelism are told whose batches differ."""
    cut = CutHeads(same_rows=True)
    batch = batch_of(DSKDSpec(), cut)
    weight = distribute_tensor(batch.student.head.weight, _mesh(), [Shard(0)])
    student = replace(batch.student, head=HeadPart.of(weight, same_rows=True))
    rows = slice(dist.get_rank(), dist.get_rank() + 2)
    loss_fn = build(DSKDSpec(), batch)
    try:
        loss_fn(student.rows(rows), batch.teacher.rows(rows))
    except InputError as error:
        return str(error)
    return "nothing was raised"


def error_of_a_damaged_part() -> str:
    """What ranks are told where one of them has a part of a head with NaN."""
    cut = CutHeads(same_rows=True)
    batch = batch_of(DSKDSpec(), cut)
    weight = batch.student.head.weight.clone()
    weight[-1] = torch.nan
    head = HeadPart.of(distribute_tensor(weight, _mesh(), [Shard(0)]), same_rows=True)
    try:
        build(DSKDSpec(), batch)(replace(batch.student, head=head), batch.teacher)
    except NonFiniteError as error:
        return str(error)
    return "nothing was raised"


def heads_around_which_fsdp_shards() -> dict[str, bool]:
    """Whether a head is taken for a cut one, where FSDP2 has sharded the model itself, or a module that holds it."""
    model, held = tiny_model("Llama"), tiny_model("Llama")
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    fully_shard(torch.nn.Sequential(held))
    found = {name: head_of_step(each, valid_vocabulary_size=None) for name, each in (("model", model), ("held", held))}
    return {name: isinstance(head, HeadPart) and not head.shards.same_rows for name, head in found.items()}
