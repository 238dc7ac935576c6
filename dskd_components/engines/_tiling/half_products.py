"""Products of operands in half precision, and how float32 numbers come as parts in half precision.

An accelerator makes such products many times faster than those of float32, and sums them in float32. The product of
two numbers in half precision is exact there, so where both operands are stored in it nothing is lost. A float32 number
comes as a sum of bfloat16 numbers, which have its range; of float16 numbers it does not, since small gradients would
vanish there. Some CPUs make products of bfloat16 numbers twice as fast and faster, but PyTorch has their sums in
bfloat16 alone: that will do for gradients that are rounded themselves, and for nothing else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from dskd_components.engines._tiling.products import CACHED_ROWS, takes_less

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from dskd_components.engines._tiling.products import Products

EXACT_PARTS: Final = 3
"""How many bfloat16 numbers of 8 digits each have all 24 binary digits of a float32 number: for logits."""

ALIGNED: Final = 64
"""Rows of parts begin at multiples of so many numbers: kernels are slower where they begin anywhere."""

SPLIT_COLUMNS: Final = 2**18
"""Of how many tokens a gradient is split at once, at most. The parts of all tokens lie as the gradient does, and are
made much faster than those of some columns."""


EVEN: Final = 8
"""Numbers that rows of a product and sums in it are a multiple of where an accelerator is at its best: 16 bytes in half
precision. Its kernels for any other number take several times as long."""

ROUNDED: Final = 2.0**-8
"""How far a sum may be off that is rounded to bfloat16: no more than its last digit."""

WORTH_ROUNDING: Final = 0.8
"""Of the time of float32 products, what those of bfloat16 numbers may take on a CPU to be worth what they lose."""


class _Kernels(NamedTuple):
    """What a device has for one type.

    Args:
        write: whether products in half precision can be summed in float32.
        add: whether they can be added to a float32 matrix, without one of their own.
    """

    write: bool
    add: bool


_found: dict[tuple[torch.device, torch.dtype], _Kernels] = {}
"""What devices have, each looked at once: that waits for the device."""

_worth_rounding: dict[int, bool] = {}
"""By number of threads whether a CPU makes products of bfloat16 numbers much faster, measured once."""


def reads_as_stored(products: Products, weight: Tensor, dtype: torch.dtype) -> bool:
    """Return whether logits of states in the type of a weight are made of both as they are stored.

    Args:
        products: how the engine chooses.
        weight: a part of a head.
        dtype: what is computed in.
    """
    if products == "torch" or dtype != torch.float32 or weight.dtype not in (torch.bfloat16, torch.float16):
        return False
    return _kernels(weight.device, weight.dtype).write


def splits(products: Products, weight: Tensor, dtype: torch.dtype) -> bool:
    """Return whether all else that is multiplied with a weight comes in parts of its type.

    Args:
        products: how the engine chooses.
        weight: a part of a head.
        dtype: what is computed in.
    """
    return weight.dtype == torch.bfloat16 and reads_as_stored(products, weight, dtype)


def gradient_parts(products: Products, weight: Tensor, dtype: torch.dtype) -> int:
    """Return in how many bfloat16 parts a gradient is multiplied with a weight and with states; 0: it stays as it is.

    Args:
        products: how the engine chooses.
        weight: a part of a head.
        dtype: what is computed in.
    """
    if products == "half_gradients" and weight.dtype == torch.bfloat16 and dtype == torch.float32:
        of_cpu = weight.device.type == "cpu" and not _kernels(weight.device, weight.dtype).write
        # What is measured may be found otherwise in another process.
        measured = of_cpu and not torch.are_deterministic_algorithms_enabled() and _is_worth_rounding()
        if measured or reads_as_stored(products, weight, dtype):
            return 1
    return 2 if splits(products, weight, dtype) else 0


def write_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Write ``left right`` to a float32 matrix; where a device has no sums in float32, rounded to half precision.

    Args:
        out: ``[n, m]``, float32.
        left: ``[n, k]``, in half precision.
        right: ``[k, m]``, of the same type.
    """
    if _kernels(left.device, left.dtype).write:
        _write_at_once(out, left, right)
    else:
        out.copy_(left @ right)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left right`` to a float32 matrix; as in `write_product`, it may be rounded before.

    Args:
        total: ``[n, m]``, float32.
        left: ``[n, k]``, in half precision.
        right: ``[k, m]``, of the same type.
    """
    kernels = _kernels(left.device, left.dtype)
    if kernels.add:
        _add_at_once(total, left, right)
    elif kernels.write:
        product = torch.empty_like(total)
        _write_at_once(product, left, right)
        total.add_(product)
    else:
        total.add_(left @ right)


def _write_at_once(out: Tensor, left: Tensor, right: Tensor) -> None:
    torch.mm(left, right, out_dtype=torch.float32, out=out)


def _add_at_once(total: Tensor, left: Tensor, right: Tensor) -> None:
    torch.addmm(total, left, right, out_dtype=torch.float32, out=total)


def exact_parts(numbers: Tensor) -> list[Tensor]:
    """Return bfloat16 tensors whose sum is a float32 tensor, the largest first.

    Args:
        numbers: float32.

    Examples:
        >>> import torch
        >>> [part.item() for part in exact_parts(torch.tensor(1 + 2**-10 + 2**-20))]
        [1.0, 0.0009765625, 9.5367431640625e-07]
    """
    parts: list[Tensor] = []
    for _ in range(EXACT_PARTS):
        parts.append(numbers.to(torch.bfloat16))
        numbers = numbers - parts[-1]
    return parts


def stacked_parts(numbers: Tensor, count: int = 2) -> Tensor:
    """Return ``[2 n, m]``, bfloat16: numbers rounded, and below them what was rounded off, rounded itself.

    The sum of both is off by 2^-18 of a number at most, far less than the rounding of a gradient in half precision.

    Args:
        numbers: ``[n, m]``, float32.
        count: 2; or 1 for the numbers rounded alone, ``[n, m]``.

    Examples:
        >>> import torch
        >>> stacked_parts(torch.tensor([[1 + 2**-10]])).tolist()
        [[1.0], [0.0009765625]]
    """
    rows, columns = numbers.shape
    width = math.ceil(columns / ALIGNED) * ALIGNED
    buffer = torch.empty(count, rows, width, dtype=torch.bfloat16, device=numbers.device)[:, :, :columns]
    buffer[0].copy_(numbers)
    if count > 1:
        torch.sub(numbers, buffer[0], out=buffer[1])
    return buffer.flatten(0, 1)


def even(device: torch.device) -> int:
    """Return a multiple of how many tokens products of a device are best made of; the few that are left come last.

    Args:
        device: the device.
    """
    return 1 if device.type == "cpu" else EVEN


def split_columns(weight: Tensor, rows: int) -> int:
    """Return of how many tokens a gradient is split at once, at most.

    Args:
        weight: ``[V, d]``, the head's: on a CPU a product takes few rows of it at a time.
        rows: of the gradient.
    """
    if weight.device.type != "cpu":
        return SPLIT_COLUMNS
    # As many as `numbers_beside` has room for, with what is read and what is made in half precision.
    width = weight.shape[1]
    return max(1, min(CACHED_ROWS, 2 * rows * (CACHED_ROWS + max(CACHED_ROWS, width)) // (rows + width)))


def column_parts(columns: int, most: int, *, even: int = 1) -> Iterator[slice]:
    """Yield slices of columns that are split at once, about as many in each.

    Args:
        columns: how many there are.
        most: in each.
        even: a multiple of so many come first, the few that are left by themselves.

    Examples:
        >>> [(part.start, part.stop) for part in column_parts(300_000, 2**18)]
        [(0, 150016), (150016, 300000)]
        >>> [(part.start, part.stop) for part in column_parts(50_257, 2**18, even=8)]
        [(0, 50256), (50256, 50257)]
    """
    left = columns % even if columns > even else 0
    columns -= left
    size = math.ceil(columns / math.ceil(columns / most) / ALIGNED) * ALIGNED
    for start in range(0, columns, size):
        yield slice(start, min(start + size, columns))
    if left:
        yield slice(columns, columns + left)


def description() -> str:
    """Return which products in half precision devices make, as far as they have been looked at; nothing if none."""
    there = [key for key, kernels in _found.items() if kernels.write]
    made = sorted(f"{str(dtype).removeprefix('torch.')} on {device}" for device, dtype in there)
    said = [f"products of stored numbers with sums in float32: {', '.join(made)}"] if made else []
    if _worth_rounding:
        said.append(f"gradients in bfloat16 on cpu, as measured: {'yes' if any(_worth_rounding.values()) else 'no'}")
    return "; ".join(said)


def _is_worth_rounding() -> bool:
    """Return whether a CPU makes products of bfloat16 numbers right but for rounding, and much faster."""
    threads = torch.get_num_threads()
    if threads not in _worth_rounding:
        _worth_rounding[threads] = _measured()
    return _worth_rounding[threads]


@torch.no_grad()
def _measured() -> bool:
    """Measure products of the size that a part of a head has, whose sums would stand still in bfloat16."""
    gradient, weight = torch.ones(256, CACHED_ROWS, device="cpu"), torch.ones(CACHED_ROWS, 512, device="cpu")
    rounded = gradient.bfloat16(), weight.bfloat16()
    try:
        if not bool(((rounded[0] @ rounded[1]).float() - CACHED_ROWS).abs().le(ROUNDED * CACHED_ROWS).all()):
            return False
    except RuntimeError:  # a PyTorch without such products
        return False
    return takes_less(lambda: rounded[0] @ rounded[1], lambda: gradient @ weight, WORTH_ROUNDING)


def _kernels(device: torch.device, dtype: torch.dtype) -> _Kernels:
    # No CPU has them in PyTorch; the meta device computes nothing.
    if device.type in ("cpu", "meta"):
        return _Kernels(write=False, add=False)
    if (device, dtype) not in _found:
        _found[device, dtype] = _look(device, dtype)
    return _found[device, dtype]


@torch.no_grad()
def _look(device: torch.device, dtype: torch.dtype) -> _Kernels:
    """Try the kernels on small matrices whose product takes more digits than half precision has."""
    left = torch.full((32, 32), 2.0**-8, dtype=dtype, device=device)
    left[:, 0] = 256.0
    right = torch.ones_like(left)
    expected, found = 256 + 31 * 2.0**-8, torch.full_like(left, torch.nan, dtype=torch.float32)
    try:
        _write_at_once(found, left, right)
        if not bool((found == expected).all()):
            return _Kernels(write=False, add=False)
    except (RuntimeError, TypeError):  # a device, or a PyTorch, that has none
        return _Kernels(write=False, add=False)
    try:
        _add_at_once(found, left, right)
        return _Kernels(write=True, add=bool((found == 2 * expected).all()))
    except (RuntimeError, TypeError):  # before 2.10 what is added to must be in half precision itself
        return _Kernels(write=True, add=False)
