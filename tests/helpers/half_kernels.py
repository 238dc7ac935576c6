"""Kernels for products in half precision with sums in float32, for a CPU, which has none; and a list of what they made.

Names that modules have imported are replaced where they are, as a device's kernels would be called from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch

from dskd_components.engines import tiled
from dskd_components.engines._tiling import half_products, head_products

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from torch import Tensor


class Product(NamedTuple):
    """A product that was made."""

    dtype: torch.dtype
    shape: tuple[int, int, int]
    adds: bool


class HalfKernels:
    """While it is entered, a CPU has such kernels.

    Args:
        made: makes the product of two operands.
        adds: whether they can add to a matrix.
        is_tried: leave the kernels to be tried, rather than saying that they are there.
        even: a multiple of how many tokens their products are best made of.
    """

    def __init__(
        self,
        *,
        made: Callable[[Tensor, Tensor], Tensor] | None = None,
        adds: bool = True,
        is_tried: bool = False,
        even: int = 1,
    ) -> None:
        self._even = even
        self.products: list[Product] = []
        self._made = made or (lambda left, right: left.double() @ right.double())
        self._adds, self._is_tried = adds, is_tried
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        self._patch.setattr(torch, "mm", self._mm(torch.mm))
        self._patch.setattr(torch, "addmm", self._addmm(torch.addmm))
        self._patch.setattr(half_products, "_found", {})
        for module in (head_products, tiled):
            self._patch.setattr(module, "even", lambda _: self._even)
        if not self._is_tried:
            there = half_products._Kernels(write=True, add=self._adds)
            self._patch.setattr(half_products, "_kernels", lambda *_: there)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _mm(self, own: Any) -> Any:
        def mm(left: Tensor, right: Tensor, *, out_dtype: torch.dtype | None = None, out: Tensor | None = None) -> Any:
            if out_dtype is None:
                return own(left, right) if out is None else own(left, right, out=out)
            assert out is not None, "memory that is there"
            return out.copy_(self._product(left, right, out, out_dtype, adds=False))

        return mm

    def _addmm(self, own: Any) -> Any:
        def addmm(total: Tensor, left: Tensor, right: Tensor, **options: Any) -> Any:
            if "out_dtype" not in options:
                return own(total, left, right, **options)
            if not self._adds:
                raise RuntimeError("self and mat2 must have the same dtype")
            assert options["out"] is total, "what is added to is copied otherwise"
            return total.add_(self._product(left, right, total, options["out_dtype"], adds=True))

        return addmm

    def _product(self, left: Tensor, right: Tensor, out: Tensor, dtype: torch.dtype, *, adds: bool) -> Tensor:
        assert left.dtype == right.dtype
        assert left.dtype in (torch.bfloat16, torch.float16)
        assert dtype == torch.float32
        assert out.dtype == dtype
        assert not any(operand.requires_grad for operand in (left, right, out))
        assert out.shape == (left.shape[0], right.shape[1])
        self.products.append(Product(left.dtype, (*left.shape, right.shape[1]), adds))
        try:
            return self._made(left, right)
        except AttributeError as error:
            raise NotImplementedError("Could not run 'aten::mm.dtype'") from error
