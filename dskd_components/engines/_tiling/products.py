"""Which kernel makes a matrix product: PyTorch's own, or oneDNN's, where it is as exact and the faster one.

For float32 on a CPU, `torch.mm` goes through a library that may not know the processor well, while oneDNN's kernels,
which PyTorch has for compiled models, are up to twice as fast on some. No switch reaches them that would not also
change what the user's own products do, so they are called by a private operator: one that has to be there, and to be
right. What is faster is measured, once in a process for each kind of product, so that a product always has the same
bits.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Products = Literal["fastest", "half_gradients", "torch"]
"""How an engine chooses: by measuring; likewise, with gradients rounded to bfloat16; or `torch.mm` always."""

Kind = Literal["logits", "states", "head"]
"""What a product makes: logits, their gradient to states, or their gradient to a head."""

CACHED_ROWS: Final = 1024
"""Rows of a weight that one product takes on a CPU, whatever their width. A product with all of a large head takes
longer (``test_logits_of_a_head`` in ``benchmarks``)."""

LEAST_WORK: Final = 2**24
"""Multiplications of a product below which nothing is gained that a measurement would show."""

MARGIN: Final = 0.95
"""By how much of the time the other kernel must do with, to be chosen."""

ROWS: Final = 512
"""Rows that are measured, at most."""

ROUNDS: Final = 4
"""How often each kernel is measured; the fastest time counts, which other work on the machine disturbs least."""

EXACT: Final = 2.0**-20
"""How far a product may be off, relative to the sum of its terms' magnitudes: rounding of operands would be more."""


class _Class(NamedTuple):
    """Products that are alike.

    Args:
        kind: what they make.
        rows: the length of the number of rows, in bits.
        inner: numbers that each sum runs over; for a gradient to a head, its width.
        outer: for a gradient to states, their width.
        apart: for logits, how many numbers apart their rows begin; for a gradient to states, those of what is read.
            Some kernels are slower where rows are far apart.
        threads: that make them.
    """

    kind: Kind
    rows: int
    inner: int
    outer: int
    apart: int
    threads: int


_chosen: dict[_Class, bool] = {}
"""For each class of products whether oneDNN makes them, from its first product to the end of the process."""


def onednn(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``rows weight^T + bias``, made by oneDNN.

    Args:
        rows: ``[n, k]``, float32.
        weight: ``[m, k]``, float32; it or its transpose is contiguous. Other layouts have no fast kernel.
        bias: ``[m]``.
    """
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found


def by_onednn(products: Products, kind: Kind, rows: Tensor, part: Tensor, out: Tensor | None = None) -> bool:
    """Return whether oneDNN makes the products of a tile with parts of a head; the first of its class is measured.

    Args:
        products: how the engine chooses.
        kind: what they make.
        rows: ``[n, d]``, states, for logits and for a head's gradient; ``[n, m]``, a part of the logits' gradient, for
            a gradient to states.
        part: ``[m, d]``, a part of the head, as long as those that are used; for a head's gradient ``[n, m]``, that
            part of the logits' gradient.
        out: where the product will be written, if it is there already; a measurement writes there as well.
    """
    if products == "torch" or rows.device.type != "cpu" or rows.dtype != torch.float32:
        return False
    work = rows.numel() * (len(part) if kind == "logits" else part.shape[1])
    if work < LEAST_WORK or not torch.backends.mkldnn.enabled:
        return False
    if torch.are_deterministic_algorithms_enabled():
        return False
    if not (rows if kind == "head" else part).is_contiguous():  # what stands in the place of a weight
        return False
    outer = part.shape[1] if kind == "states" else 0
    large = {"logits": out, "states": rows, "head": None}[kind]
    apart = 0 if large is None else large.stride(0)
    key = _Class(kind, len(rows).bit_length(), rows.shape[1], outer, apart, torch.get_num_threads())
    if key not in _chosen:
        _chosen.setdefault(key, _is_there() and _is_faster(kind, *_measured_operands(kind, rows, part, out)))
    return _chosen[key]


def write_through(products: Products, gradient: Tensor, matrix: Tensor, out: Tensor) -> None:
    """Write ``[n, d]``, a gradient ``[n, m]`` taken back through a matrix ``[m, d]``: ``gradient matrix``."""
    if by_onednn(products, "states", gradient, matrix, out=out):
        out.copy_(onednn(gradient, matrix.T))
    else:
        torch.mm(gradient, matrix, out=out)


def add_outer(products: Products, total: Tensor, gradient: Tensor, states: Tensor, *, is_empty: bool) -> None:
    """Add ``gradient^T states`` to a total, or write it there.

    Args:
        products: how the engine chooses.
        total: ``[m, d]``.
        gradient: ``[n, m]``.
        states: ``[n, d]``.
        is_empty: whether the total is uninitialised. To fill a large matrix with zeros first takes time.
    """
    # As many as `numbers_beside` has room for, with what is read and what is made.
    size = max(1, min(CACHED_ROWS, 2 * CACHED_ROWS * len(states) // (len(states) + states.shape[1])))
    if by_onednn(products, "head", states, gradient[:, :size]):
        for start in range(0, len(total), size):
            part = slice(start, min(start + size, len(total)))
            product = onednn(gradient[:, part].T, states.T)
            if is_empty:
                total[part] = product
            else:
                total[part].add_(product)
    elif is_empty:
        torch.mm(gradient.T, states, out=total)
    else:
        total.addmm_(gradient.T, states)


def description() -> str:
    """Return which kernels were chosen in this process, for reports.

    Examples:
        >>> description().startswith("float32 products by ")
        True
    """
    kinds = sorted({key.kind for key, is_chosen in _chosen.items() if is_chosen})
    return "float32 products by torch.mm" + (f"; by oneDNN, as measured: {', '.join(kinds)}" if kinds else "")


def _is_there() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _measured_operands(
    kind: Kind, rows: Tensor, part: Tensor, out: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return two operands, and where their product goes.

    Where there is no place for it, a measurement holds a sum as well as a product. So it is made of half of the
    operands; but the gradient to states is a sum anyway.
    """
    if kind == "head":
        return rows[:ROWS], part[:ROWS, : max(1, part.shape[1] // 2)], None
    count = min(ROWS, len(rows) // 2 if kind == "logits" and out is None else len(rows))
    return rows[: max(1, count)], part, None if out is None else out[: max(1, count)]


@torch.no_grad()
def _is_faster(kind: Kind, rows: Tensor, part: Tensor, out: Tensor | None) -> bool:
    """Return whether oneDNN makes products of these operands right, and in less time."""
    a, b = {"logits": (rows, part), "states": (rows, part.T), "head": (part.T, rows.T)}[kind]
    total = a.new_zeros(len(a), len(b)) if out is None else out

    def by_torch() -> None:
        torch.mm(a, b.T, out=total) if kind == "logits" else total.addmm_(a, b.T)

    def by_other() -> None:
        total.copy_(onednn(a, b)) if kind == "logits" else total.add_(onednn(a, b))

    try:
        if not _is_exact(onednn(a, b), a, b):
            return False
        return takes_less(by_other, by_torch, MARGIN)
    except (RuntimeError, TypeError):  # a PyTorch whose operator is another one
        return False


def takes_less(ours: Callable[[], object], theirs: Callable[[], object], share: float) -> bool:
    """Return whether some work takes less than a share of the time that other work takes.

    Args:
        ours: the work, which was done before.
        theirs: the other.
        share: of the other's time.
    """
    theirs()  # the first call pays for what is loaded then
    times = [(_seconds(theirs), _seconds(ours)) for _ in range(ROUNDS)]
    return min(own for _, own in times) < share * min(other for other, _ in times)


def _is_exact(found: Tensor, a: Tensor, b: Tensor) -> bool:
    few = slice(0, 16)
    a, b, found = a[few].double(), b[few].double(), found[few, few].double()
    return bool(((found - a @ b.T).abs() <= EXACT * (a.abs() @ b.abs().T)).all())


def _seconds(work: Callable[[], object]) -> float:
    # Of one thread its own time is known, without that of others on the machine.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start
