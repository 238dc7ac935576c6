"""The engine that computes in tiles: at the speed of its matrix products, in memory that a budget limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import torch
from pydantic import Field

from dskd_components.engines._tiling.head_products import widened_bytes
from dskd_components.engines._tiling.plan import Plan, alignment_bytes, projected_bytes
from dskd_components.engines._tiling.predictions import teacher_predictions
from dskd_components.engines._tiling.side_pass import SidePass, SideResult
from dskd_components.engines._tiling.side_rows import SideRows
from dskd_components.engines.engine import Engine, Measurement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeVar

    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.reduction import Reduction
    from dskd_components.engines.workspace import Scratch, Workspace

    Value = TypeVar("Value")

RECOMPUTE_SHARE: Final = 16
"""Projected states are computed twice where what lies before them would take more than one part in so many of the
budget."""


class Tiled(Engine):
    """Logits in tiles: loss and gradients in one pass over the scored positions, never all logits at once.

    Gradients are computed along with the loss, distances give theirs in closed form where they have one, and
    ``backward`` only hands them on. So the loss can be differentiated once, not twice.

    Examples:
        >>> from dskd_components import DSKDSpec
        >>> DSKDSpec(engine=Tiled(memory_budget_mib=64)).engine.memory_budget_mib
        64.0
    """

    name: Literal["tiled"] = "tiled"
    memory_budget_mib: Annotated[float, Field(gt=0)] = 384.0
    """Memory that the loss may take above its inputs and their gradients, in MiB. Tiles of logits are cut to fit:
    beside the tensors of hidden size that a large batch needs they have half of the budget still, and a row at
    least."""

    def measure(self, batch: AlignedBatch, reduction: Reduction, workspace: Workspace) -> Measurement:
        """Return loss and terms of a batch."""
        measure = _measure
        if torch.compiler.is_compiling():
            # Tiles are cut by the number of scored tokens, which changes with each batch: a compiler gains nothing.
            measure = torch.compiler.disable(_measure)
        return measure(batch, reduction, workspace, int(self.memory_budget_mib * 2**20))


def _measure(batch: AlignedBatch, reduction: Reduction, workspace: Workspace, budget: int) -> Measurement:
    recompute = projected_bytes(batch) > budget // RECOMPUTE_SHARE
    held = alignment_bytes(batch) + (0 if recompute else projected_bytes(batch))
    needs_argmax = any(space.needs_teacher_argmax for space in batch.spaces)
    results, choice = [], None
    if any(space.side == "teacher" for space in batch.spaces):
        with workspace.lend() as scratch:
            rows = SideRows.of(batch, "teacher", scratch, budget=_left(budget, held), recompute=recompute)
            left = _left(budget, held + rows.row_bytes)
            results.append(_run_side(rows, batch, reduction, scratch, left, predicts=needs_argmax))
            held += rows.gradient_bytes
            del rows  # what it holds makes room for the other side
    if needs_argmax:
        with workspace.lend() as scratch:
            predicted = teacher_predictions(batch, results, scratch, _left(budget, held))
        choice = batch.teacher_argmax(predicted)
    if batch.weights.cross_entropy is not None or any(space.side == "student" for space in batch.spaces):
        with workspace.lend() as scratch:
            rows = SideRows.of(
                batch, "student", scratch, budget=_left(budget, held), recompute=recompute, teacher_argmax=choice
            )
            results.insert(0, _run_side(rows, batch, reduction, scratch, _left(budget, held + rows.row_bytes)))
            del rows
    return Measurement(
        loss=torch.stack([result.loss for result in results]).sum(),
        values=_merged(result.totals.values for result in results),
        counts=_merged(result.totals.counts for result in results),
        metrics=_merged(result.totals.metrics for result in results),
    )


def _left(budget: int, held: int) -> int:
    """Return what is left for logits: half of the budget at least, since slow tiles would save little memory."""
    return max(budget // 2, budget - held)


def _run_side(
    rows: SideRows, batch: AlignedBatch, reduction: Reduction, scratch: Scratch, budget: int, *, predicts: bool = False
) -> SideResult:
    plan = Plan.of(
        budget=budget - rows.joint_bytes,
        rows=max(rows.covered, len(rows.own) - rows.covered),
        vocabularies=[stream.head.vocabulary_size for stream in rows.streams],
        itemsize=rows.dtype.itemsize,
        widened=max(widened_bytes(stream.head, rows.dtype) for stream in rows.streams),
        has_cache=rows.targets.device.type == "cpu",
    )
    return SidePass(rows, plan, reduction, scratch, weights=batch.weights, predicts=predicts).run()


def _merged(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    merged: dict[str, Value] = {}
    for part in parts:
        merged |= part
    return merged
