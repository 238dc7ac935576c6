"""The engine that computes in tiles: at the speed of its matrix products, in memory that a budget limits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final, Literal

import torch
from pydantic import Field

from dskd_components.components.group_space import GroupSpace
from dskd_components.engines._tiling import compiling, half_products
from dskd_components.engines._tiling.cut_heads import VocabularyParallel, with_usable_heads
from dskd_components.engines._tiling.exchanged_pass import ExchangedPass, most_rows
from dskd_components.engines._tiling.group_passes import teacher_group_sums
from dskd_components.engines._tiling.half_products import even
from dskd_components.engines._tiling.head_products import numbers_beside, split_numbers, widened_bytes
from dskd_components.engines._tiling.plan import Plan, alignment_bytes, projected_bytes
from dskd_components.engines._tiling.precomputed_gradient import require_backward, with_precomputed_gradient
from dskd_components.engines._tiling.predictions import teacher_predictions
from dskd_components.engines._tiling.products import Products, description
from dskd_components.engines._tiling.side_pass import SidePass, SideResult
from dskd_components.engines._tiling.side_rows import SideRows
from dskd_components.engines.engine import Engine, Measurement
from dskd_components.engines.workspace import accelerator_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeVar

    from torch import Tensor

    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.reduction import Reduction
    from dskd_components.engines.workspace import Scratch, Workspace

    Value = TypeVar("Value")

RECOMPUTE_SHARE: Final = 16
"""Projected states are computed twice where what lies before them would take more than one part in so many of the
budget."""


LEAST_BUDGET: Final = 384 * 2**20
"""Bytes of a budget that nobody has set, on a CPU."""

MOST_BUDGET: Final = 4 * 2**30
"""Bytes of a budget that nobody has set, at most."""

ACCELERATOR_SHARE: Final = 32
"""One part in so many of an accelerator's memory is the budget that nobody has set."""


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
    memory_budget_mib: Annotated[float, Field(gt=0)] | None = None
    """Memory that the loss may take above its inputs and their gradients, in MiB; the gradient of the student's head,
    which is summed in float32, comes on top. Tiles of logits are cut to fit: beside the tensors of hidden size that a
    large batch needs they have half of the budget still, and a row at least. None: 384 MiB on a CPU; on an accelerator,
    where small tiles are slow, one part in 32 of its memory, from 384 MiB to 4 GiB."""
    products: Products = "fastest"
    """Which kernels make matrix products. ``"torch"``: `torch.mm` in float32 always, from weights that are widened.
    ``"fastest"``: those that lose nothing that can be measured. ``"half_gradients"``: the same for loss and terms, but
    with a bfloat16 head the gradients to logits are rounded to bfloat16 before they are multiplied, as in ordinary
    training in mixed precision; gradients are off by 0.2 to 0.3 % of their norm then, and take half of the time. On a
    CPU that is done where a measurement, once in a process, finds such products faster, and never under
    `torch.use_deterministic_algorithms`.

    - On a CPU, oneDNN's where a short measurement, once in a process for each kind of product, finds them faster. They
      are as exact, and the choice stays, so that a step has the same bits whenever it is repeated in that process;
      another process may choose otherwise. Under `torch.use_deterministic_algorithms` it is `torch.mm`.
    - On an accelerator that sums products of bfloat16 or float16 numbers in float32, as CUDA devices do, a head in half
      precision is read as it is stored. Its product with states of the same type is exact but for the sums. With a
      bfloat16 head, other states come as three bfloat16 numbers each, which lose no digit, and gradients as two, which
      are off by 2^-18. With a float16 head all but the former is in float32, since small gradients would vanish."""

    compiled: bool = False
    """Whether the operations on single logits are compiled by `torch.compile` on a CUDA device: normalisation,
    distances, cross entropy, gradients. They pass over a block some eight times then instead of twenty, and need no
    memory of its size. The first step of a process takes longer, by five to twenty seconds, and losses differ by
    rounding from those without. No component needs anything for it: what a function gives is compared once with what it
    gives without, and one that cannot be compiled is called as it is written, with a warning. No effect on a CPU, where
    little would be gained, on heads that are cut over ranks, on distances that have parameters, and on what a
    space makes of the logits themselves."""

    vocabulary_parallel: VocabularyParallel = "auto"
    """Which heads are left cut over ranks, each rank computing the logits of its own tokens: ``"auto"``, those of
    tensor parallelism; ``"always"``, those that FSDP2 has sharded as well, and of ZeRO-3 those that are constants,
    where hidden states travel instead of weights; ``"never"``, none: heads are gathered. Where a space or a distance
    must see all logits of a row, the head is gathered all the same, and a warning says so."""

    def budget_bytes(self, accelerator_memory: int | None = None) -> int:
        """Return the memory budget in bytes.

        Args:
            accelerator_memory: bytes that an accelerator has in all; None: on a CPU, or where that is not known.

        Examples:
            >>> [Tiled().budget_bytes(memory) // 2**20 for memory in (None, 8 * 2**30, 80 * 2**30)]
            [384, 384, 2560]
            >>> Tiled(memory_budget_mib=64).budget_bytes(80 * 2**30) // 2**20
            64
        """
        if self.memory_budget_mib is not None:
            return int(self.memory_budget_mib * 2**20)
        share = 0 if accelerator_memory is None else accelerator_memory // ACCELERATOR_SHARE
        return max(LEAST_BUDGET, min(share, MOST_BUDGET))

    def kernels(self) -> str:
        """Return which kernels have made products in this process, and how many functions were compiled."""
        return "; ".join(text for text in (description(), half_products.description(), compiling.description()) if text)

    def measure(self, batches: Sequence[AlignedBatch], reduction: Reduction, workspace: Workspace) -> list[Measurement]:
        """Return loss and terms of a batch, for each teacher.

        Raises:
            InputError: it is called under `torch.func`, or in forward mode.
        """
        measure = _measure
        if torch.compiler.is_compiling():
            # Tiles are cut by the number of scored tokens, which changes with each batch: a compiler gains nothing.
            measure = torch.compiler.disable(_measure)
        return measure(self, batches, reduction, workspace)


def _measure(
    engine: Tiled, batches: Sequence[AlignedBatch], reduction: Reduction, workspace: Workspace
) -> list[Measurement]:
    for batch in batches:
        require_backward((*batch.learning(), *batch.alignment.tensors))
    budget, products = engine.budget_bytes(accelerator_memory(batches[0].student.hidden_states.device)), engine.products
    batches = with_usable_heads(batches, engine.vocabulary_parallel)
    projected = sum(projected_bytes(batch) for batch in batches)
    recompute = _most_on_any_rank(projected, batches) > budget // RECOMPUTE_SHARE
    held = sum(alignment_bytes(batch) + projected_bytes(batch, recompute=recompute) for batch in batches)
    of_teachers: list[SideResult | None] = []
    choices: list[Tensor | None] = []
    group_sums: list[Mapping[str, Tensor]] = []
    for batch in batches:
        needs_argmax = any(space.needs_teacher_argmax for space in batch.spaces)
        result, choice = None, None
        if any(space.side == "teacher" for space in batch.spaces):
            with workspace.lend() as scratch:
                rows = SideRows.of(
                    [batch], "teacher", scratch, budget=_left(budget, held), products=products, recompute=recompute
                )
                left = _left(budget, held + rows.row_bytes)
                result = _run_side(rows, reduction, scratch, left, engine, predicts=needs_argmax)
                held += rows.gradient_bytes
                del rows  # what it holds makes room for the others
        if needs_argmax:
            with workspace.lend() as scratch:
                predicted = teacher_predictions(batch, result, scratch, _left(budget, held), products)
            choice = batch.teacher_argmax(predicted)
        of_own_groups: Mapping[str, Tensor] = {}
        if any(isinstance(space, GroupSpace) and space.projector is None for space in batch.spaces):
            with workspace.lend() as scratch:
                of_own_groups = teacher_group_sums(batch, scratch, _left(budget, held), products)
        group_sums.append(of_own_groups)
        of_teachers.append(result)
        choices.append(choice)
    of_student = None
    if any(_has_student_rows(batch) for batch in batches):
        # The student's own logits, and the gradient of its head, are made once for all teachers.
        with workspace.lend() as scratch:
            rows = SideRows.of(
                batches,
                "student",
                scratch,
                budget=_left(budget, held),
                products=products,
                recompute=recompute,
                teacher_argmax=choices,
                group_sums=group_sums,
            )
            of_student = _run_side(rows, reduction, scratch, _left(budget, held + rows.row_bytes), engine)
            del rows
    nothing = batches[0].student.hidden_states.new_zeros(())
    first, *others = [
        _measurement([(of_student, number), (of_teacher, 0)], nothing) for number, of_teacher in enumerate(of_teachers)
    ]
    # All gradients come with one loss: each place where they do costs a look at what comes from above.
    passes = [result for result in (of_student, *of_teachers) if result is not None]
    gradients = [pair for result in passes for pair in result.gradients]
    return [replace(first, loss=with_precomputed_gradient(first.loss, gradients)), *others]


def _most_on_any_rank(projected: int, batches: Iterable[AlignedBatch]) -> int:
    """Return a number of bytes, or that of another rank: what reads rows of a cut head, all do, or nobody does."""
    for batch in batches:
        for shards in (batch.student.head.shards, batch.teacher.head.shards):
            if shards is not None and not shards.same_rows:
                return int(shards.largest(torch.tensor(projected, device=shards.device)))
    return projected


def _has_student_rows(batch: AlignedBatch) -> bool:
    return batch.weights.cross_entropy is not None or any(space.side == "student" for space in batch.spaces)


def _measurement(parts: Iterable[tuple[SideResult | None, int]], nothing: Tensor) -> Measurement:
    """Return what passes have found of one teacher.

    Args:
        parts: the passes, each with the number that the teacher has there.
        nothing: the loss where there are none.
    """
    found = [(result.losses[number], result.totals[number]) for result, number in parts if result is not None]
    return Measurement(
        loss=torch.stack([loss for loss, _ in found]).sum() if found else nothing,
        values=_merged(totals.values for _, totals in found),
        counts=_merged(totals.counts for _, totals in found),
        metrics=_merged(totals.metrics for _, totals in found),
    )


def _left(budget: int, held: int) -> int:
    """Return what is left for logits: half of the budget at least, since slow tiles would save little memory."""
    return max(budget // 2, budget - held)


def _run_side(
    rows: SideRows, reduction: Reduction, scratch: Scratch, budget: int, engine: Tiled, *, predicts: bool = False
) -> SideResult:
    products = engine.products
    longest = max(rows.coverage.covered, len(rows.own) - rows.coverage.covered)
    shards = rows.own.shards
    if shards is not None and not shards.same_rows:
        longest = shards.ranks * max(most_rows(rows, shards))
    plan = Plan.of(
        # A projection's matrix may outweigh the budget by itself; tiles of single rows would save little beside it.
        budget=max(budget // 4, budget - rows.joint_bytes),
        rows=longest,
        vocabularies=[stream.head.vocabulary_size for stream in rows.streams],
        itemsize=rows.dtype.itemsize,
        widened=max(widened_bytes(stream.head, rows.dtype, products) for stream in rows.streams),
        has_cache=rows.targets.device.type == "cpu",
        teachers=max(1, rows.teachers),
        products=products,
        beside=numbers_beside(
            [head for stream in rows.streams for head in (stream.head, stream.reading_head)], products
        ),
        beside_all=split_numbers((stream.head for stream in rows.streams if stream.requires_grad), products),
        compiled=engine.compiled and compiling.compiles_on(rows.targets.device),
        reads_logits=any(space.reads_logits for space in rows.built),
        even=even(rows.targets.device),
    )
    if shards is None:
        return SidePass(rows, plan, reduction, scratch, predicts=predicts).run()
    way = SidePass if shards.same_rows else ExchangedPass
    return way(rows, plan.agreed(shards), reduction, scratch, predicts=predicts).run()


def _merged(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    merged: dict[str, Value] = {}
    for part in parts:
        merged |= part
    return merged
