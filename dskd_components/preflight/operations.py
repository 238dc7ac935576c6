"""Seeing every operation on the meta device: what it multiplies, what it moves, and which memory it takes."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


class Product(NamedTuple):
    """A matrix product ``[batch, rows, inner] [batch, inner, columns]``.

    Args:
        batch: how many at once.
        rows: of the first.
        inner: numbers that each sum runs over.
        columns: of the second.
        dtype: of the operands.
    """

    batch: int
    rows: int
    inner: int
    columns: int
    dtype: torch.dtype

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.rows * self.inner * self.columns


class Attention(NamedTuple):
    """Fused attention of a batch, forward or backward.

    Args:
        heads: of all samples together.
        queries: of each.
        keys: of each.
        width: of a head.
        is_causal: whether nothing is multiplied behind the diagonal.
        is_backward: whether it is the way back, which makes the scores anew.
        dtype: of the operands.
    """

    heads: int
    queries: int
    keys: int
    width: int
    is_causal: bool
    is_backward: bool
    dtype: torch.dtype

    @property
    def flops(self) -> int:
        """Multiplications and additions: two products forward, five backward."""
        scores = self.heads * self.queries * self.keys // (2 if self.is_causal else 1)
        return (10 if self.is_backward else 4) * scores * self.width


class Operand(NamedTuple):
    """The largest tensor of an operation.

    Args:
        bits: the length of its number of bytes, in bits: larger tensors leave a cache.
        dtype: of its entries.
    """

    bits: int
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Operand:
        """Return the kind that a tensor is of."""
        return cls(tensor.nbytes.bit_length(), tensor.dtype)


@dataclass(frozen=True, eq=False)
class Work:
    """What a pass does.

    Args:
        products: matrix products, each with how often it is made.
        attentions: fused attention, likewise.
        other_flops: multiplications and additions of what is neither: convolutions.
        moved: bytes that all other operations read and write, by kind of operand.
        operations: how many operations there are.
    """

    products: Mapping[Product, int]
    attentions: Mapping[Attention, int]
    other_flops: int
    moved: Mapping[Operand, int]
    operations: int

    @property
    def flops(self) -> int:
        """All multiplications and additions in products."""
        of_products = sum(product.flops * count for product, count in self.products.items())
        of_attention = sum(attention.flops * count for attention, count in self.attentions.items())
        return of_products + of_attention + self.other_flops


class Change(NamedTuple):
    """Memory that was taken, or given back.

    Args:
        size: bytes; below 0 if it was given back.
        of_gradient: whether a parameter's gradient has it in the end.
    """

    size: int
    of_gradient: bool


KNOWN: Final = -1
"""The number of all memory that was there before."""


class Seen(TorchDispatchMode):
    """Sees every operation, and when the memory of its outcome is taken and given back."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._log: list[tuple[int, int]] = []
        self._gradients: set[int] = set()
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.start_again()

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Do not count the memory of tensors that were there before."""
        for tensor in tensors:
            self._numbers[tensor.untyped_storage()] = KNOWN

    def start_again(self) -> None:
        """Count anew; what is held stays."""
        self._products: Counter[Product] = Counter()
        self._attentions: Counter[Attention] = Counter()
        self._moved: Counter[Operand] = Counter()
        self._other_flops = self._operations = 0
        self._log.clear()

    def work(self) -> Work:
        """Return what was done since counting began."""
        return Work(
            products=Counter(self._products),
            attentions=Counter(self._attentions),
            other_flops=self._other_flops,
            moved=Counter(self._moved),
            operations=self._operations,
        )

    def add(self, attention: Attention) -> None:
        """Count fused attention, which is not seen as such."""
        self._attentions[attention] += 1

    def name_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Say which tensors are gradients of parameters."""
        storages = [gradient.untyped_storage() for gradient in gradients if gradient is not None]
        self._gradients = {self._numbers[storage] for storage in storages if storage in self._numbers}

    def changes(self) -> Iterator[Change]:
        """Yield what was taken and given back since counting began."""
        for number, size in self._log:
            yield Change(size, number in self._gradients)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True  # whether all tokens count and no row is packed: so it is in full rows
        out = func(*args, **(kwargs or {}))
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for result in results:
            self._hold(result)
        if not (func.is_view or func in _MADE_EMPTY):
            self._count(func, args, kwargs or {}, out, results)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any, results: list[Tensor]) -> None:
        self._operations += 1
        product = _product(func, args)
        if product is not None:
            self._products[product] += 1
            return
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self._other_flops += formula(*args, **kwargs, out_val=out)
            return
        tensors = {id(leaf): leaf for leaf in (*tree_leaves((args, kwargs)), *results) if isinstance(leaf, Tensor)}
        if tensors:
            largest = max(tensors.values(), key=lambda tensor: tensor.nbytes)
            self._moved[Operand.of(largest)] += sum(tensor.nbytes for tensor in tensors.values())

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._numbers:
            return
        number, size = len(self._sizes), storage.nbytes()
        self._numbers[storage] = number
        self._sizes[number] = size
        self._log.append((number, size))
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, number)

    def _drop(self, number: int) -> None:
        self._log.append((number, -self._sizes[number]))
        self.live -= self._sizes[number]


_aten = torch.ops.aten
_MADE_EMPTY: Final = frozenset({_aten.empty.memory_format, _aten.empty_like.default, _aten.empty_strided.default})
"""What takes memory and writes nothing."""


def _product(func: Any, args: tuple[Any, ...]) -> Product | None:
    """Return the plain product that an operation makes, if it makes one."""
    packet = func.overloadpacket
    if packet in (_aten.mm, _aten.bmm):
        a, b = args[:2]
    elif packet in (_aten.addmm, _aten.baddbmm):
        a, b = args[1:3]
    else:
        return None
    return Product(a.shape[0] if a.ndim == 3 else 1, a.shape[-2], a.shape[-1], b.shape[-1], a.dtype)


class FusedAttention(TorchFunctionMode):
    """Attention as fused kernels have it: for the backward pass they keep inputs, outcome, and a number a row."""

    def __init__(self, seen: Seen, *, fused: bool) -> None:
        super().__init__()
        self._seen, self._fused = seen, fused

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._fused and func is F.scaled_dot_product_attention:
            query, key, value, *_ = args if len(args) > 2 else (kwargs["query"], kwargs["key"], kwargs["value"])
            return _Attention.apply(query, key, value, bool(kwargs.get("is_causal")), self._seen)  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    """What fused attention holds, with nothing computed."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, is_causal: bool, seen: Seen) -> Tensor:
        *batch, queries, width = query.shape
        ctx.seen, ctx.attention = (
            seen,
            Attention(
                heads=math.prod(batch),
                queries=queries,
                keys=key.shape[-2],
                width=width,
                is_causal=is_causal,
                is_backward=False,
                dtype=query.dtype,
            ),
        )
        seen.add(ctx.attention)
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        ctx.seen.add(ctx.attention._replace(is_backward=True))
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None


def counting(call: Callable[[], object]) -> Work:
    """Return what a call does, on the meta device.

    Args:
        call: makes tensors there alone.
    """
    seen = Seen()
    with seen:
        call()
    return seen.work()
