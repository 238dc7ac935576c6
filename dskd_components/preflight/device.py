"""How fast a device is: as its maker states it, or as a few measurements on the machine at hand find it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

import torch

from dskd_components.engines.work import block_of, block_rows
from dskd_components.errors import ConfigurationError, did_you_mean
from dskd_components.preflight.link import LATENCY
from dskd_components.preflight.operations import counting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from dskd_components.engines.work import LossShapes
    from dskd_components.models.states import Side
    from dskd_components.preflight.operations import Attention, Operand, Product, Work

GB: Final = 10**9


class Device(Protocol):
    """How long something takes, and how much memory there is."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def memory(self) -> int | None:
        """Bytes; None: as much as needed."""

    @property
    def bandwidth(self) -> float:
        """Bytes a second that each device sends to others."""

    @property
    def latency(self) -> float:
        """Seconds of a collective, however few bytes it has."""

    @property
    def on_cpu(self) -> bool:
        """Whether it is a CPU."""

    def seconds(self, work: Work) -> float:
        """Return how long a pass of a model takes."""

    def product_seconds(self, flops: int, like: Product) -> float:
        """Return how long products of a loss take, all of which are like one."""

    def block_seconds(self, shapes: LossShapes, side: Side, terms: int) -> float:
        """Return how long a side's rows of logits take to be compared, products aside."""

    def starting_seconds(self, operations: int) -> float:
        """Return how long so many operations take that have nothing to do."""

    def moving_seconds(self, moved: Mapping[Operand, float]) -> float:
        """Return how long operations take that read and write so many bytes, by kind of operand."""

    def basis(self) -> str:
        """Return how it is known, in words."""


def _products_seconds(device: Device, work: Work) -> float:
    return sum(device.product_seconds(product.flops * count, product) for product, count in work.products.items())


@dataclass(frozen=True, kw_only=True)
class StatedDevice:
    """A device by the figures of its maker, and the share of them that is reached.

    Args:
        name: what it is called.
        memory: bytes.
        flops: a second, of products in the models' precision, and of the loss's with a bfloat16 head.
        float32_flops: a second, of products in float32, which are the loss's others.
        memory_bandwidth: bytes a second.
        bandwidth: bytes a second that each device sends to others.
        latency: seconds of a collective, however few bytes it has.
        efficiency: the share of both peaks that products reach; of the memory's bandwidth 0.7 is taken.
        given: which of these figures are not its maker's, but somebody's own.
    """

    name: str
    memory: int | None
    flops: float
    float32_flops: float
    memory_bandwidth: float
    bandwidth: float
    latency: float = LATENCY["nccl"]
    efficiency: float = 0.4
    given: tuple[str, ...] = ()

    @property
    def on_cpu(self) -> bool:
        """Whether it is a CPU: blocks of logits are kept small there."""
        return False

    def seconds(self, work: Work) -> float:
        """Return how long a pass of a model takes: products at their speed, all else at the memory's."""
        of_products = _products_seconds(self, work)
        flops = sum(attention.flops * count for attention, count in work.attentions.items()) + work.other_flops
        return of_products + flops / (self.flops * self.efficiency) + self.moving_seconds(work.moved)

    def product_seconds(self, flops: int, like: Product) -> float:
        """Return how long products take in the precision of one."""
        peak = self.float32_flops if like.dtype == torch.float32 else self.flops
        return flops / (peak * self.efficiency)

    def block_seconds(self, shapes: LossShapes, side: Side, terms: int) -> float:
        """Return how long a side's rows take to be compared: what a few of them move, on the meta device."""
        rows = min(8, shapes.scored[side])
        compare = block_of(shapes, side, terms, rows, torch.device("meta"))
        return self.moving_seconds(counting(compare).moved) * shapes.scored[side] / rows

    def starting_seconds(self, operations: int) -> float:  # noqa: ARG002  # they are queued while others run
        """Return how long so many operations take that have nothing to do: none, where the device is kept busy."""
        return 0.0

    def moving_seconds(self, moved: Mapping[Operand, float]) -> float:
        """Return how long operations take that read and write so many bytes, by kind of operand."""
        return sum(moved.values()) / (self.memory_bandwidth * REACHED)

    def basis(self) -> str:
        """Return how it is known, in words."""
        of_time = [name for name in self.given if name in MAKERS]
        own = f" with {' and '.join(of_time)} as given, all else" if of_time else ""
        tera, tera_wide = (f"{flops / 1e12:,.0f}" for flops in (self.flops, self.float32_flops))
        return (
            f"time: {self.name}{own} as stated by its maker: {tera} TFLOP/s in the models' precision and {tera_wide} "
            f"in float32, in which the loss multiplies what is not bfloat16; products reach {self.efficiency:.0%} of "
            f"it; {self.memory_bandwidth / 1e12:.2f} TB/s of memory, of which all else reaches {REACHED:.0%}"
        )


REACHED: Final = 0.7
"""The share of a memory's bandwidth that operations on single entries are taken to reach."""

MAKERS: Final = ("flops", "float32_flops", "memory_bandwidth")
"""The figures of a maker's that the basis of a time names."""

DEVICES: Final[Mapping[str, StatedDevice]] = {
    device.name: device
    for device in (
        StatedDevice(
            name="a100-40gb",
            memory=40 * GB,
            flops=312e12,
            float32_flops=19.5e12,
            memory_bandwidth=1.555e12,
            bandwidth=300e9,
        ),
        StatedDevice(
            name="a100-80gb",
            memory=80 * GB,
            flops=312e12,
            float32_flops=19.5e12,
            memory_bandwidth=2.039e12,
            bandwidth=300e9,
        ),
        StatedDevice(
            name="h100", memory=80 * GB, flops=989e12, float32_flops=67e12, memory_bandwidth=3.35e12, bandwidth=450e9
        ),
        StatedDevice(
            name="h200", memory=141 * GB, flops=989e12, float32_flops=67e12, memory_bandwidth=4.8e12, bandwidth=450e9
        ),
    )
}
"""Accelerators (SXM) by their data sheets: dense bfloat16, float32 without tensor cores, one direction of NVLink."""


def stated_device(name: str) -> StatedDevice:
    """Return an accelerator by its name.

    Args:
        name: ``h100``, for example.

    Raises:
        ConfigurationError: it is not known.
    """
    if name not in DEVICES:
        known = ["cpu", *DEVICES]
        raise ConfigurationError(
            f"device {name!r} is not known{did_you_mean(name, known)}; known are {', '.join(known)}. State another one "
            "with --flops, --float32-flops, --memory-bandwidth and --device-memory."
        )
    return DEVICES[name]


@dataclass(frozen=True, kw_only=True)
class ThisMachine:
    """The CPU at hand, as measured: products of the shapes that are needed, an operation on entries, a tiny one.

    Args:
        memory: bytes; None: as much as needed.
        bandwidth: bytes a second that each process sends to others.
        latency: seconds of a collective, however few bytes it has. `local_link` measures both.
    """

    memory: int | None = None
    bandwidth: float = GB
    latency: float = LATENCY["gloo"]
    name: str = field(default="cpu", init=False)

    @property
    def on_cpu(self) -> bool:
        """Whether it is a CPU."""
        return True

    def seconds(self, work: Work) -> float:
        """Return how long a pass of a model takes: products by their shapes, all else by what it moves."""
        of_products = _products_seconds(self, work)
        fastest = max(map(_speed, work.products), default=1.0)
        return (
            of_products
            + sum(_attention_seconds(attention) * count for attention, count in work.attentions.items())
            + work.other_flops / fastest
            + self.moving_seconds(work.moved)
            + self.starting_seconds(work.operations)
        )

    def product_seconds(self, flops: int, like: Product) -> float:
        """Return how long products like one take."""
        return flops / _speed(like)

    def block_seconds(self, shapes: LossShapes, side: Side, terms: int) -> float:
        """Return how long a side's rows take to be compared, from one block."""
        rows = block_rows(shapes, side)
        compare = block_of(shapes, side, terms, rows, torch.device("cpu"))
        return _fastest(compare) * shapes.scored[side] / rows

    def starting_seconds(self, operations: int) -> float:
        """Return how long so many operations take that have nothing to do."""
        return operations * _operation_seconds()

    def moving_seconds(self, moved: Mapping[Operand, float]) -> float:
        """Return how long operations take that read and write so many bytes, by kind of operand."""
        return sum(size / _moving_speed(operand) for operand, size in moved.items())

    def basis(self) -> str:
        """Return how it is known, in words."""
        return (
            f"time: this CPU with {torch.get_num_threads()} threads: products and attention are measured by their "
            "shapes, a block of logits as it is compared, and all else by what operations on tensors of its size move "
            "in a second"
        )


ROUNDS: Final = 3
"""How often something is measured; the fastest time counts, which other work on the machine disturbs least."""

MOST_FLOPS: Final = 2**30
"""Multiplications and additions of a product that is measured; of larger ones, fewer rows are."""

MOST_MOVED: Final = 2**26
"""Bytes of a tensor that is moved to be measured, at most."""


@lru_cache(maxsize=1024)
def _speed(product: Product) -> float:
    """Return multiplications and additions a second in products of a shape."""
    batch, rows, inner, columns, dtype = product
    while 2 * batch * rows * inner * columns > MOST_FLOPS and max(batch, rows, columns) > 64:
        largest = max(batch, rows, columns)
        batch, rows, columns = (size // 2 if size == largest else size for size in (batch, rows, columns))
    a = torch.ones(batch, max(rows, 1), inner, dtype=dtype)
    b = torch.ones(batch, columns, inner, dtype=dtype).transpose(1, 2)
    flops = 2 * batch * max(rows, 1) * inner * columns
    return flops / _fastest(lambda: a @ b if batch > 1 else a[0] @ b[0])


MOST_HEADS: Final = 8
"""Heads of attention that are measured at once, at most."""


@lru_cache(maxsize=256)
def _attention_seconds(attention: Attention) -> float:
    """Return how long fused attention takes: a few heads of it, where there are more."""
    heads = min(attention.heads, MOST_HEADS)
    shapes = [(1, heads, length, attention.width) for length in (attention.queries, attention.keys, attention.keys)]
    query, key, value = operands = [
        torch.zeros(shape, dtype=attention.dtype, requires_grad=attention.is_backward) for shape in shapes
    ]

    def forward() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=attention.is_causal)

    if not attention.is_backward:
        return _fastest(forward) * attention.heads / heads
    out = forward()
    upstream = torch.zeros_like(out)
    backward = _fastest(lambda: torch.autograd.grad(out, operands, upstream, retain_graph=True))
    return backward * attention.heads / heads


@lru_cache(maxsize=1024)
def _moving_speed(operand: Operand) -> float:
    """Return the bytes a second that operations on tensors of a kind read and write: one of each sort there is."""
    dtype = operand.dtype if operand.dtype.is_floating_point else torch.float32
    numbers = max(16, min(1 << operand.bits, MOST_MOVED) // dtype.itemsize * 3 // 4)  # the middle of what is so long
    a, b = torch.ones(numbers, dtype=dtype), torch.ones(numbers, dtype=dtype)
    # Two numbers for each entry of the first, three of each of the others.
    return 8 * a.nbytes / _fastest(lambda: torch.nn.functional.silu(a).mul(b).add(a))


@lru_cache(maxsize=1)
def _operation_seconds() -> float:
    """Return how long an operation takes that has nothing to do, module and autograd around it included."""
    layer, one = torch.nn.Linear(4, 4), torch.ones(1, 4)

    def run() -> None:
        for _ in range(100):
            layer(one)

    return _fastest(run) / 100


def _fastest(call: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few calls, after one that is not timed."""
    # Of one thread its own time is known, without that of others on the machine.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    call()
    times = []
    for _ in range(ROUNDS):
        start = clock()
        call()
        times.append(clock() - start)
    return max(min(times), 1e-9)
