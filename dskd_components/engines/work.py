"""What an engine has to do for a batch, from its shapes alone: products, and blocks of logits that are compared.

The same code decides and compares here as in a step: `Shapes` which way round a projection goes, spaces and distances
what is computed from a block. So whatever a plugin computes is in the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from dskd_components.components.space import ComparedRows, SharedTokens
from dskd_components.components.terms import CROSS_ENTROPY, TokenTerm
from dskd_components.engines._tiling.half_products import EXACT_PARTS
from dskd_components.engines._tiling.logit_block import LogitBlock, TiledRows
from dskd_components.engines._tiling.plan import CACHED_BLOCK, COMPILED_TENSORS, SHARE
from dskd_components.engines._tiling.reassociation import Shapes
from dskd_components.engines.engine import BLOCK_TENSORS
from dskd_components.engines.tiled import Tiled
from dskd_components.models.head import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from dskd_components.components.space import Measure, Space
    from dskd_components.engines._tiling.reassociation import Learner, Way
    from dskd_components.engines.engine import Engine
    from dskd_components.models.states import Side

ITEMSIZE = 4
"""Bytes of a logit."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LossShapes:
    """The shapes of a batch.

    Args:
        spaces: where distributions meet.
        measure: how they are measured.
        engine: how they are computed.
        scored: by side, scored positions, all of which have a partner.
        widths: by side, the width of the hidden states.
        vocabularies: by side, the number of logits.
        head_learns: whether the student's head is trained.
        projections_learn: whether projections have parameters.
        stored_as: by side, bfloat16 where products read its head as it is stored, as accelerators do; else not there.
        accelerator_memory: bytes that an accelerator has in all; None: on a CPU, or where that is not known.
    """

    spaces: Sequence[Space]
    measure: Measure
    engine: Engine
    scored: Mapping[Side, int]
    widths: Mapping[Side, int]
    vocabularies: Mapping[Side, int]
    head_learns: bool = True
    projections_learn: bool = True
    stored_as: Mapping[Side, torch.dtype] = field(default_factory=dict)
    accelerator_memory: int | None = None

    def of_side(self, side: Side) -> list[Space]:
        """Return the spaces that work on a side's positions."""
        return [space for space in self.spaces if space.side == side]

    def streams(self, side: Side) -> list[int]:
        """Return the number of logits of each states that a head reads at a side's positions, the side's own first."""
        spaces = self.of_side(side)
        if side == "teacher" and not spaces:
            return []
        others = [self.vocabularies[side if space.projector else _other(side)] for space in spaces]
        return [self.vocabularies[side], *others]


class Term(NamedTuple):
    """What products take for cross entropy, or for one space.

    Args:
        name: ``ce``, or the name of the space.
        side: at whose positions.
        forward: multiplications and additions up to the logits, of all parts that operands come in.
        backward: those of gradients.
        width: of the states that the side's head reads.
        dtype: what operands are in. The few that are float32 all the same, those of projections, are not told apart.
    """

    name: str
    side: Side
    forward: int
    backward: int
    width: int
    dtype: torch.dtype = torch.float32


def products_of(shapes: LossShapes) -> Iterator[Term]:
    """Yield what the products of a step take, for the student's cross entropy and each space.

    What a side's own states need counts for ``ce`` on the student's side, and for the first space on the teacher's.
    """
    sides: tuple[Side, Side] = ("student", "teacher")
    for side in sides:
        once, passes = _read(shapes, side, side), 2 if _counts_first(shapes, side) else 1
        width = shapes.widths[side]
        if side == "student":
            dtype, parts = _operands(shapes, side)
            yield Term(CROSS_ENTROPY, side, passes * once, parts * (1 + shapes.head_learns) * once, width, dtype)
        for number, space in enumerate(shapes.of_side(side)):
            forward, backward = _projected_products(shapes, space, passes)
            if side == "teacher" and number == 0:
                forward += passes * once
            if space.needs_teacher_argmax and not shapes.of_side("teacher"):
                forward += _read(shapes, "teacher", "teacher")
            dtype, _ = _operands(shapes, side if space.projector else _other(side))
            yield Term(space.name, side, forward, backward, width, dtype)


def _operands(shapes: LossShapes, side: Side) -> tuple[torch.dtype, int]:
    """Return what a side's head is multiplied in, and how many parts a gradient comes in there."""
    dtype = shapes.stored_as.get(side, torch.float32)
    rounds = isinstance(shapes.engine, Tiled) and shapes.engine.products == "half_gradients"
    return dtype, 1 if dtype == torch.float32 or rounds else 2


def _read(shapes: LossShapes, at: Side, head: Side) -> int:
    """Return what one product of states with a head takes, or one of its gradients."""
    return 2 * shapes.scored[at] * shapes.widths[head] * shapes.vocabularies[head]


def _projected_products(shapes: LossShapes, space: Space, passes: int) -> tuple[int, int]:
    """Return what a space's other states take, from their own width to logits and back."""
    side, other = space.side, _other(space.side)
    if space.projector is None:
        # The teacher's logits are constants; the student's, where the teacher's positions are, are not.
        once = _read(shapes, side, other)
        return passes * once, 2 * _operands(shapes, other)[1] * once if other == "student" else 0
    of_space = Shapes(
        rows=shapes.scored[side],
        source=shapes.widths[other],
        target=shapes.widths[side],
        vocabulary=shapes.vocabularies[side],
    )
    learner: Learner = "projection" if shapes.projections_learn else "states" if other == "student" else "nothing"
    budget = shapes.engine.budget_bytes(shapes.accelerator_memory) if isinstance(shapes.engine, Tiled) else 0
    dtype, parts = _operands(shapes, side)
    way: Way = "apart" if dtype != torch.float32 else of_space.cheapest(learner, budget / 2 / ITEMSIZE)
    forward = of_space.multiplications(way, "nothing")
    backward = of_space.multiplications(way, learner) - forward
    if dtype != torch.float32:
        once = _read(shapes, side, side) // 2
        forward += (EXACT_PARTS - 1) * once
        backward += (parts - 1) * once if learner != "nothing" else 0
    return 2 * passes * forward, 2 * backward


def _counts_first(shapes: LossShapes, side: Side) -> bool:
    """Return whether the tiled engine goes over a side twice, since a term needs counts of the whole batch."""
    if not isinstance(shapes.engine, Tiled):
        return False
    memory = shapes.accelerator_memory
    if block_count(shapes, side, on_cpu=memory is None, accelerator_memory=memory) <= 1:
        return False  # one block knows all that there is to count
    return any(
        term.needs_counts
        for space in shapes.of_side(side)
        for term in space.compare(_rows(shapes, space, 1, torch.device("cpu"), vocabulary=8)).terms.values()
    )


def block_rows(shapes: LossShapes, side: Side) -> int:
    """Return how many rows are compared at once: few, so that they stay in a cache."""
    return max(1, min(shapes.scored[side], CACHED_BLOCK // (max(shapes.streams(side), default=1) * ITEMSIZE)))


def block_count(shapes: LossShapes, side: Side, *, on_cpu: bool, accelerator_memory: int | None = None) -> int:
    """Return in how many blocks a side's rows are compared.

    Args:
        shapes: of the batch; the engine is `Tiled`.
        side: which side.
        on_cpu: whether blocks are kept small, for the caches of a CPU.
        accelerator_memory: bytes that an accelerator has in all; None: on a CPU, or where that is not known.
    """
    budget = shapes.engine.budget_bytes(accelerator_memory) if isinstance(shapes.engine, Tiled) else CACHED_BLOCK
    lean = not on_cpu and isinstance(shapes.engine, Tiled) and shapes.engine.compiled
    size = budget // SHARE // (COMPILED_TENSORS if lean else BLOCK_TENSORS)
    size = min(size, CACHED_BLOCK) if on_cpu else size
    return -(-shapes.scored[side] * max(shapes.streams(side), default=0) * ITEMSIZE // max(size, 1))


def block_of(shapes: LossShapes, side: Side, terms: int, rows: int, device: torch.device) -> Callable[[], None]:
    """Return a call that compares a block of logits of a side, values and gradients, as the engine does.

    Args:
        shapes: of the batch.
        side: which side.
        terms: how many of the side's terms: on the student's side the first is its cross entropy, the others are the
            spaces in their order.
        rows: of the block.
        device: where it is; on the meta device nothing is computed.
    """
    has_own = side == "student"
    spaces = shapes.of_side(side)[: terms - has_own]
    compared = [(space, _rows(shapes, space, rows, device)) for space in spaces]
    own = torch.randn(rows, shapes.vocabularies[side], device=device)
    targets = torch.zeros(rows, dtype=torch.int64, device=device)
    if not isinstance(shapes.engine, Tiled):
        return lambda: _compare_all(own, targets, compared, has_own=has_own)
    return lambda: _compare_block(own, targets, compared, has_own=has_own)


def _compare_all(
    own: Tensor, targets: Tensor, compared: Sequence[tuple[Space, ComparedRows]], *, has_own: bool
) -> None:
    """Compare as the engine `eager` does: by autograd."""
    own = own.clone().requires_grad_(has_own)
    values = [torch.nn.functional.cross_entropy(own, targets, reduction="sum")] if has_own else []
    leaves = [own] if has_own else []
    for space, rows in compared:
        read = [rows.student_logits.clone().requires_grad_(), rows.teacher_logits.clone().requires_grad_()]
        leaves += read
        values += [
            term.values.sum()
            for term in space.compare(
                ComparedRows(
                    student_logits=read[0],
                    teacher_logits=read[1],
                    targets=rows.targets,
                    teacher_argmax=rows.teacher_argmax,
                    measure=rows.measure,
                    shared_tokens=rows.shared_tokens,
                    teacher_to_student=rows.teacher_to_student,
                )
            ).terms.values()
        ]
    torch.autograd.grad(torch.stack(values).sum(), leaves, allow_unused=True)


def _compare_block(
    own: Tensor, targets: Tensor, compared: Sequence[tuple[Space, ComparedRows]], *, has_own: bool
) -> None:
    """Compare as a tile of the engine `tiled` does: gradients in closed form, written over the logits."""
    mine = LogitBlock(own, head=_head(own), all_finite=True, requires_grad=has_own)
    blocks, values = [mine], []
    with torch.enable_grad():
        if has_own:
            values.append(TokenTerm(values=mine.cross_entropy(targets)).values.sum())
        for space, rows in compared:
            arrived = rows.teacher_logits if space.side == "student" else rows.student_logits
            other = LogitBlock(arrived, head=_head(arrived), all_finite=True, requires_grad=space.projector is not None)
            blocks.append(other)
            student, teacher = (mine, other) if space.side == "student" else (other, mine)
            of_tile = TiledRows(
                student_logits=student.leaf,
                teacher_logits=teacher.leaf,
                student=student,
                teacher=teacher,
                targets=rows.targets,
                teacher_argmax=rows.teacher_argmax,
                measure=rows.measure,
                shared_tokens=rows.shared_tokens,
                teacher_to_student=rows.teacher_to_student,
            )
            values += [term.values.sum() for term in space.compare(of_tile).terms.values()]
        loss = torch.stack(values).sum()
    leaves = list({id(leaf): leaf for block in blocks for leaf in block.leaves}.values())
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    of_leaves = {id(leaf): gradient for leaf, gradient in zip(leaves, gradients, strict=True)}
    for block in blocks:
        if block.requires_grad:
            block.write_gradient(of_leaves)


def _head(logits: Tensor) -> Head:
    return Head(logits.new_zeros(logits.shape[1], 1))


def _rows(
    shapes: LossShapes, space: Space, rows: int, device: torch.device, *, vocabulary: int | None = None
) -> ComparedRows:
    """Return rows of random logits, as a space is given them; of as many tokens, or of a few."""
    sizes = dict(shapes.vocabularies)
    if space.projector is not None:
        sizes = dict.fromkeys(sizes, sizes[space.side])
    elif space.one_vocabulary:
        sizes = dict.fromkeys(sizes, min(sizes.values()))
    if vocabulary is not None:
        sizes = dict.fromkeys(sizes, vocabulary)
    tokens = torch.zeros(rows, dtype=torch.int64, device=device)
    return ComparedRows(
        student_logits=torch.randn(rows, sizes["student"], device=device),
        teacher_logits=torch.randn(rows, sizes["teacher"], device=device),
        targets=tokens,
        teacher_argmax=tokens if space.needs_teacher_argmax else None,
        measure=shapes.measure,
        teacher_to_student=torch.arange(sizes["teacher"], device=device) % sizes["student"]
        if space.needs_vocabulary_map
        else None,
        shared_tokens=_first_tokens(min(sizes.values()), device) if space.needs_shared_tokens else None,
    )


def _first_tokens(count: int, device: torch.device) -> SharedTokens:
    ids = torch.arange(count, device=device)
    return SharedTokens(student_ids=ids, teacher_ids=ids)


def _other(side: Side) -> Side:
    return "teacher" if side == "student" else "student"
