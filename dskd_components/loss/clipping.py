"""Gradients clipped for the student and for the loss apart, so that neither scales the other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from dskd_components.distributed.gathering import is_partitioned, is_sharded
from dskd_components.errors import InputError, what_came
from dskd_components.models.in_place_of_model import require_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STUDENT_NORM: Final = "grad_norm"
"""The name, in a log, of the norm of the student's gradient; trainers give that name to the norm of their model's."""

PROJECTORS_NORM: Final = "projector_grad_norm"
"""The name, in a log, of the norm of the gradient of projectors and aligner."""


def clip_grad_norms(student: nn.Module, loss_fn: nn.Module, max_norm: float | None) -> dict[str, Tensor]:
    """Clip the gradients of the student, and those of projectors and aligner, each to a norm of their own.

    Projectors start untrained, and their gradients are often many times the student's. Under one norm for both
    (``clip_grad_norm_([*student.parameters(), *loss_fn.parameters()], 1.0)``) the student's would be scaled down with
    them. Call it after the last ``backward`` of a step, once gradients are reduced over ranks, and before the
    optimizer's step; with a ``GradScaler`` after ``scaler.unscale_(optimizer)``. Sharded gradients (FSDP2, tensor
    parallelism) are measured whole, so all ranks must call.

    Args:
        student: the student; of a `StudentWithProjectors`, its ``.student``.
        loss_fn: the loss: `DSKDLoss` or `MultiTeacherLoss`.
        max_norm: the greatest 2-norm of each of both; None, 0 or infinity: nothing is clipped.

    Returns:
        Scalars, for the log, the 2-norms before clipping: ``grad_norm`` of the student and ``projector_grad_norm``,
        which a loss without parameters does not have.

    Raises:
        InputError: student or loss is none, the norm is no such number, the student has no gradients, or an engine
            keeps them to itself: DeepSpeed, or the older ``FullyShardedDataParallel``.

    Examples:
        >>> import torch
        >>> student, loss_fn = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> student.weight.grad, loss_fn.weight.grad = torch.full((1, 1), 2.0), torch.full((1, 1), 100.0)
        >>> clip_grad_norms(student, loss_fn, max_norm=1.0)
        {'grad_norm': tensor(2.), 'projector_grad_norm': tensor(100.)}
        >>> round(student.weight.grad.item(), 4), round(loss_fn.weight.grad.item(), 4)
        (1.0, 1.0)
    """
    require_model(student, "student", module=True)
    if not isinstance(loss_fn, nn.Module):
        raise InputError(f"loss_fn: expected a DSKDLoss or a MultiTeacherLoss, got {what_came(loss_fn)}.")
    limit = checked_max_norm(max_norm)
    own = {id(parameter) for parameter in loss_fn.parameters()}
    parts = [parameter for parameter in student.parameters() if id(parameter) not in own], [*loss_fn.parameters()]
    _require_gradients(*parts)
    names = (STUDENT_NORM, PROJECTORS_NORM)
    return {name: clip_grad_norm(part, limit) for name, part in zip(names, parts, strict=True) if part}


def checked_max_norm(max_norm: object) -> float:
    """Return the greatest norm as a number, infinity where nothing is to be clipped.

    Args:
        max_norm: a number that is not negative, or None.

    Raises:
        InputError: it is something else.

    Examples:
        >>> checked_max_norm(0), checked_max_norm(1)
        (inf, 1.0)
    """
    if max_norm is None:
        return math.inf
    if isinstance(max_norm, bool) or not isinstance(max_norm, int | float) or not max_norm >= 0:
        raise InputError(
            f"max_norm: expected the greatest norm of a gradient, a number that is not negative, or None, got "
            f"{max_norm!r}."
        )
    return float(max_norm) or math.inf


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the gradients of some parameters together, in place.

    As `torch.nn.utils.clip_grad_norm_`, but parameters may be sharded over several meshes, or some of them.

    Args:
        parameters: those without gradients are passed over.
        max_norm: the greatest 2-norm; infinity: the norm is measured alone.

    Returns:
        Scalar: the norm before, the same on all ranks.
    """
    by_mesh: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            mesh = parameter.grad.device_mesh if is_sharded(parameter.grad) else None  # type: ignore[attr-defined]
            by_mesh.setdefault(mesh, []).append(parameter)
    norms: list[Any] = [torch.nn.utils.get_total_norm(_gradients(group)) for group in by_mesh.values()]
    whole = [norm.full_tensor() if is_sharded(norm) else norm for norm in norms]
    if not whole:
        return torch.zeros(())
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(whole[0].device) for norm in whole]))
    if max_norm < math.inf:
        for norm, group in zip(norms, by_mesh.values(), strict=True):
            torch.nn.utils.clip_grads_with_norm_(group, max_norm, _like(total, norm))
    return total


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _like(total: Tensor, norm: Any) -> Tensor:
    """Return a plain scalar as one of the mesh of another: sharded gradients take no plain factor."""
    if not is_sharded(norm):
        return total
    sharded: Any = type(norm)
    found: Tensor = sharded.from_local(total, norm.device_mesh)
    return found


def _require_gradients(student: Sequence[nn.Parameter], projectors: Sequence[nn.Parameter]) -> None:
    """Refuse parameters whose gradients are somewhere else, so that nothing would be clipped, or too much."""
    if any(getattr(parameter, "_fsdp_flattened", False) for parameter in (*student, *projectors)):
        raise InputError(
            "FullyShardedDataParallel flattens parameters, so student and projectors cannot be clipped apart. Call its "
            "own clip_grad_norm_, which clips both together, or shard by fully_shard (FSDP2)."
        )
    trained = [parameter for parameter in student if parameter.requires_grad]
    kept_away = any(is_partitioned(parameter) for parameter in trained)
    if trained and (kept_away or all(parameter.grad is None for parameter in trained)):
        raise InputError(
            "The student has no gradients to clip. Call it after backward and before optimizer.step. DeepSpeed keeps "
            "gradients to itself and clips those of all that it wraps together, by gradient_clipping of its own "
            "configuration; leave this call out there."
        )
