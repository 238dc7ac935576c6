"""How fast a device is: as its maker states it, or as a few measurements on the machine at hand find it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

import torch

from dskd_components.engines.work import block_of, block_rows
from dskd_components.errors import ConfigurationError, did_you_mean
from dskd_components.preflight.traced import Product, counting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dskd_components.engines.work import LossShapes
    from dskd_components.models.states import Side
    from dskd_components.preflight.traced import Work

GB: Final = 10**9


class Device(Protocol):
    """How long something takes, and how much memory there is."""

    name: str
    memory: int | None
    bandwidth: float

    @property
    def on_cpu(self) -> bool:
        """Whether it is a CPU."""

    def seconds(self, work: Work) -> float:
        """Return how long a pass of a model takes."""

    def product_seconds(self, flops: int, like: Product) -> float:
        """Return how long products of a loss take, all of which are like one."""

    def block_seconds(self, shapes: LossShapes, side: Side, terms: int) -> float:
        """Return how long a side's rows of logits take to be compared, products aside."""

    def moving_seconds(self, size: float) -> float:
        """Return how long operations take that read and write so many bytes."""

    def basis(self) -> str:
        """Return how it is known, in words."""


@dataclass(frozen=True, kw_only=True)
class StatedDevice:
    """A device by the figures of its maker, and the share of them that is reached.

    Args:
        name: what it is called.
        memory: bytes.
        flops: a second, of products in the models' precision.
        float32_flops: a second, of products in float32, in which the loss computes.
        memory_bandwidth: bytes a second.
        bandwidth: bytes a second that each device sends to others.
        efficiency: the share of both peaks that products reach; of the memory's bandwidth 0.7 is taken.
    """

    name: str
    memory: int | None
    flops: float
    float32_flops: float
    memory_bandwidth: float
    bandwidth: float
    efficiency: float = 0.4

    @property
    def on_cpu(self) -> bool:
        """Whether it is a CPU: blocks of logits are kept small there."""
        return False

    def seconds(self, work: Work) -> float:
        """Return how long a pass of a model takes: products at their speed, all else at the memory's."""
        return sum(
            self.product_seconds(product.flops * count, product) for product, count in work.products.items()
        ) + (work.other_flops / (self.flops * self.efficiency) + self.moving_seconds(work.moved))

    def product_seconds(self, flops: int, like: Product) -> float:
        """Return how long products take in the precision of one."""
        peak = self.float32_flops if like.dtype == torch.float32 else self.flops
        return flops / (peak * self.efficiency)

    def block_seconds(self, shapes: LossShapes, side: Side, terms: int) -> float:
        """Return how long a side's rows take to be compared: what a few of them move, on the meta device."""
        rows = min(8, shapes.scored[side])
        compare = block_of(shapes, side, terms, rows, torch.device("meta"))
        return self.moving_seconds(counting(compare).moved * shapes.scored[side] / rows)

    def moving_seconds(self, size: float) -> float:
        """Return how long operations take that read and write so many bytes."""
        return size / (self.memory_bandwidth * REACHED)

    def basis(self) -> str:
        """Return how it is known, in words."""
        return (
            f"time: {self.name} as stated by its maker: {self.flops / 1e12:,.0f} TFLOP/s in the models' precision and "
            f"{self.float32_flops / 1e12:,.0f} in float32, in which the loss computes, of which products reach "
            f"{self.efficiency:.0%}; {self.memory_bandwidth / 1e12:.2f} TB/s of memory, of which all else reaches "
            f"{REACHED:.0%}"
        )


REACHED: Final = 0.7
"""The share of a memory's bandwidth that operations on single entries are taken to reach."""

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
    """

    memory: int | None = None
    bandwidth: float = GB
    name: str = field(default="cpu", init=False)

    @property
    def on_cpu(self) -> bool:
        """Whether it is a CPU."""
        return True

    def seconds(self, work: Work) -> float:
        """Return how long a pass of a model takes: products by their shapes, all else by what it moves."""
        if not work.products:
            return 0.0
        of_products = sum(
            self.product_seconds(product.flops * count, product) for product, count in work.products.items()
        )
        fastest = max(_speed(product) for product in work.products)
        return (
            of_products
            + work.other_flops / fastest
            + self.moving_seconds(work.moved)
            + work.operations * _operation_seconds()
        )

    def product_seconds(self, flops: int, like: Product) -> float:
        """Return how long products like one take."""
        return flops / _speed(like)

    def block_seconds(self, shapes: LossShapes, side: Side, terms: int) -> float:
        """Return how long a side's rows take to be compared, from one block."""
        rows = block_rows(shapes, side)
        compare = block_of(shapes, side, terms, rows, torch.device("cpu"))
        return _fastest(compare) * shapes.scored[side] / rows

    def moving_seconds(self, size: float) -> float:
        """Return how long operations take that read and write so many bytes."""
        return size / _moving_speed()

    def basis(self) -> str:
        """Return how it is known, in words."""
        return (
            f"time: this CPU with {torch.get_num_threads()} threads: its products are measured by their shapes, a block "
            f"of logits as it is compared, and all else by what it moves at {_moving_speed() / GB:.1f} GB/s"
        )


ROUNDS: Final = 3
"""How often something is measured; the fastest time counts, which other work on the machine disturbs least."""

MOST_FLOPS: Final = 2**30
"""Multiplications and additions of a product that is measured; of larger ones, fewer rows are."""

MOVED: Final = 2**20
"""Numbers of the operation that is measured for what moving takes."""


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


@lru_cache(maxsize=1)
def _moving_speed() -> float:
    """Return the bytes a second that an operation on entries reads and writes."""
    a, b, out = torch.ones(MOVED), torch.ones(MOVED), torch.empty(MOVED)
    return 3 * a.nbytes / _fastest(lambda: torch.mul(a, b, out=out))


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
