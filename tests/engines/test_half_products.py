"""Products of numbers as they are stored, with sums in float32: where a device has them, nothing measurable is lost.

A CPU has none, so kernels of the test's own stand in for a device's: exact products, and sums in float64.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components import DSKDSpec, Head
from dskd_components.engines import tiled
from dskd_components.engines._tiling import half_products, head_products
from dskd_components.engines._tiling.half_products import (
    add_product,
    column_parts,
    exact_parts,
    gradient_parts,
    reads_as_stored,
    split_columns,
    splits,
    stacked_parts,
    write_product,
)
from dskd_components.engines._tiling.head_products import HeadProducts
from dskd_components.engines._tiling.precomputed_gradient import with_precomputed_gradient
from dskd_components.engines._tiling.reassociation import Shapes
from dskd_components.engines.tiled import Tiled
from dskd_components.engines.workspace import accelerator_memory
from tests.helpers.half_kernels import HalfKernels
from tests.helpers.registered import build, specs
from tests.helpers.strategies import SEEDS, make_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from tests.helpers.strategies import Batch

CPU = torch.device("cpu")
SPECS = specs()
EVERY_WAY = {
    "ragged": SPECS["preset dskd"],
    "attention": SPECS["preset dskd-cma"],
    "teacher's choices": SPECS["preset dskd-v2"],
    "one vocabulary": DSKDSpec(spaces=("shared_vocabulary",), distance="js"),
    "two vocabularies": SPECS["space uld_hybrid of two tokenizers"],
}


@pytest.fixture
def kernels() -> Iterator[HalfKernels]:
    with HalfKernels() as found:
        yield found


def in_half(batch: Batch, dtype: torch.dtype, *, bias: bool = False) -> Batch:
    def side(states: Any, *, learns: bool) -> Any:
        weight = states.head.weight.detach().to(dtype)
        of_tokens = torch.linspace(-1, 1, len(weight)) if bias else None
        hidden = states.hidden_states.detach().to(dtype).requires_grad_(learns)
        head = Head(
            torch.cat([weight, weight[:1]]).requires_grad_(learns),
            bias=None if of_tokens is None else torch.cat([of_tokens, of_tokens[:1]]).requires_grad_(learns),
            softcap=3.0 if bias else None,
            valid_vocabulary_size=len(weight),
        )
        return replace(states, hidden_states=hidden, head=head)

    return replace(batch, student=side(batch.student, learns=True), teacher=side(batch.teacher, learns=False))


def outcome(spec: DSKDSpec, batch: Batch, engine: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients; those of what is in half precision, before they are rounded to it.

    Rounded, they differ by a whole step of the type wherever a number lies on the edge between two: one of few numbers
    can be 2^-8 of the largest, far more than what is asked about here.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def noting(value: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        found.extend(pairs)
        return with_precomputed_gradient(value, pairs)

    states = batch.student.hidden_states.detach()
    widened = states.float().requires_grad_()
    student = replace(batch.student, hidden_states=widened, widened_from=states.dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "with_precomputed_gradient", noting)
        loss, gradients = _outcome(spec, replace(batch, student=student), engine)
    of_head = [gradient for tensor, gradient in found if tensor is batch.student.head.weight]
    assert {gradient.dtype for gradient in (*of_head, *gradients)} == {torch.float32}
    return loss, [torch.stack(of_head).sum(0), *gradients]


def _outcome(spec: DSKDSpec, batch: Batch, engine: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    loss_fn = build(spec.replace(engine={"name": "tiled", **engine}), batch)
    out = batch.loss(loss_fn)
    head = batch.student.head
    leaves = [batch.student.hidden_states, *([] if head.bias is None else [head.bias])]
    found = torch.autograd.grad(out.loss, [*leaves, *loss_fn.parameters()], allow_unused=True)
    return out.loss.detach(), [gradient for gradient in found if gradient is not None]


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize("budget", [1e-3, 2e-2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_step_loses_nothing(
    way: str, bias: bool, budget: float, kernels: HalfKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_products, "SPLIT_COLUMNS", 4)
    monkeypatch.setattr(half_products, "ALIGNED", 1)
    spec = EVERY_WAY[way]
    batch = make_batch(
        5, same_tokenizer=spec.aligner.same_tokenizer, dtype=torch.float32, student_hidden=16, teacher_hidden=24
    )
    batch = in_half(batch, torch.bfloat16, bias=bias)
    loss, gradients = outcome(spec, batch, {"products": "torch", "memory_budget_mib": budget})
    assert not kernels.products
    ours, of_ours = outcome(spec, batch, {"memory_budget_mib": budget})
    assert {product.dtype for product in kernels.products} == {torch.bfloat16}
    assert math.isclose(ours, loss, rel_tol=1e-6)
    assert len(of_ours) == len(gradients) > 1
    # Each product has an operand, or both, that is off by 2^-18; what is left out of it is as small. No gradient goes
    # through more than two of them; that is far below the 2^-9 by which a gradient in bfloat16 is rounded.
    assert max(map(difference, of_ours, gradients)) < 4 * 2.0**-18
    # Kernels that cannot add; and tokens beyond a multiple by themselves, in rows that begin at one.
    for others in (HalfKernels(adds=False), HalfKernels(even=4)):
        with others:
            again, of_again = outcome(spec, batch, {"memory_budget_mib": budget})
        assert math.isclose(again, ours, rel_tol=1e-6)
        assert max(map(difference, of_again, of_ours)) < 1e-6


@pytest.mark.parametrize("has_kernels", [False, True], ids=["as on a CPU", "as on an accelerator"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", EVERY_WAY)
def test_rounded_gradients_change_nothing_else(
    way: str, bias: bool, has_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_products, "_is_worth_rounding", lambda: True)
    monkeypatch.setattr(half_products, "ALIGNED", 1)
    monkeypatch.setattr(half_products, "CACHED_ROWS", 4)  # several parts of a head
    monkeypatch.setattr(half_products, "SPLIT_COLUMNS", 4)
    spec = EVERY_WAY[way]
    batch = make_batch(
        5, same_tokenizer=spec.aligner.same_tokenizer, dtype=torch.float32, student_hidden=16, teacher_hidden=24
    )
    batch = in_half(batch, torch.bfloat16, bias=bias)
    with HalfKernels() if has_kernels else nullcontext():
        loss, gradients = outcome(spec, batch, {"memory_budget_mib": 2e-2})
        ours, of_ours = outcome(spec, batch, {"memory_budget_mib": 2e-2, "products": "half_gradients"})
    # The order of sums may change with the way round a projection.
    assert math.isclose(ours, loss, rel_tol=1e-6)
    assert len(of_ours) == len(gradients) > 1
    # An operand is off by 2^-9 of each number at most, on a CPU a sum of each part as well; gradients may cancel more.
    found = list(map(difference, of_ours, gradients))
    assert max(found[:2]) < (1.5 if has_kernels else 2.5) * 2.0**-9
    assert max(found[:2]) > 2.0**-13, "nothing was rounded"
    # What comes to parameters are differences of such numbers, which are smaller than these.
    assert max(found) < 2.0**-6


def test_gradients_are_rounded_where_somebody_asks_and_a_device_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.ones(2, 2, dtype=torch.bfloat16, device=CPU)
    gains = True
    monkeypatch.setattr(half_products, "_is_worth_rounding", lambda: gains)
    assert gradient_parts("half_gradients", weight, torch.float32) == 1
    assert gradient_parts("half_gradients", weight.half(), torch.float32) == 0  # small ones would vanish
    assert gradient_parts("half_gradients", weight.float(), torch.float32) == 0
    assert gradient_parts("half_gradients", weight, torch.float64) == 0
    assert gradient_parts("fastest", weight, torch.float32) == 0
    assert not reads_as_stored("half_gradients", weight, torch.float32)  # logits are never rounded
    torch.use_deterministic_algorithms(True)
    try:
        assert gradient_parts("half_gradients", weight, torch.float32) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    gains = False
    assert gradient_parts("half_gradients", weight, torch.float32) == 0
    assert gradient_parts("half_gradients", weight.to("meta"), torch.float32) == 0
    with HalfKernels():
        assert gradient_parts("half_gradients", weight, torch.float32) == 1
        assert gradient_parts("fastest", weight, torch.float32) == 2
        assert gradient_parts("torch", weight, torch.float32) == 0


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("sums", ["float32", "bfloat16", "missing"])
def test_a_cpu_is_measured_before_gradients_are_rounded(
    sums: str, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = torch.Tensor.__matmul__

    def product(left: Tensor, right: Tensor) -> Tensor:
        if left.dtype == torch.bfloat16 and sums == "missing":
            raise RuntimeError("no such product")
        found = own(left, right)
        return torch.full_like(found, 256.0) if left.dtype == torch.bfloat16 and sums == "bfloat16" else found

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    monkeypatch.setattr(half_products, "takes_less", lambda *_: faster)
    monkeypatch.setattr(half_products, "_worth_rounding", {})
    assert half_products._is_worth_rounding() == (faster and sums == "float32")
    assert Tiled().kernels().endswith(f"as measured: {'yes' if faster and sums == 'float32' else 'no'}")
    monkeypatch.setattr(half_products, "_measured", lambda: pytest.fail("once is enough"))
    half_products._is_worth_rounding()


@pytest.mark.parametrize(("rows", "width"), [(1, 4096), (64, 2048), (512, 768)])
def test_a_part_of_a_rounded_gradient_is_no_larger_than_there_is_room_for(rows: int, width: int) -> None:
    head = Head(torch.empty(50_000, width, dtype=torch.bfloat16, device=CPU))
    room = rows * head_products.numbers_beside([head], "half_gradients")
    columns = split_columns(head.weight, rows)
    assert 1 <= columns <= head_products.CACHED_ROWS
    # In half precision: the part, what it gives to the head, and what it gives to the states.
    assert columns == 1 or columns * (rows + width) / 2 <= room


def test_float16_is_multiplied_where_nothing_can_vanish(kernels: HalfKernels) -> None:
    batch = in_half(make_batch(5, same_tokenizer=True, dtype=torch.float32), torch.float16)
    loss, gradients = outcome(SPECS["preset dskd"], batch, {"products": "torch"})
    ours, of_ours = outcome(SPECS["preset dskd"], batch, {})
    # The logits of both models' own states, and nothing else.
    assert [(product.dtype, product.adds) for product in kernels.products] == [(torch.float16, False)] * 2
    assert math.isclose(ours, loss, rel_tol=1e-6)
    assert max(map(difference, of_ours, gradients)) < 1e-5


def test_states_as_a_model_has_given_them_take_one_product(kernels: HalfKernels) -> None:
    batch = in_half(make_batch(5, same_tokenizer=True, dtype=torch.float32), torch.bfloat16)
    spec = EVERY_WAY["one vocabulary"]
    outcome(spec, batch, {})
    # Logits of either side, the gradient to the states, that of the head.
    assert [product.adds for product in kernels.products] == [False] * 4
    kernels.products.clear()
    own = replace(batch.teacher, hidden_states=batch.teacher.hidden_states.float() * 1.001)
    outcome(spec, replace(batch, teacher=own), {})
    assert [product.adds for product in kernels.products].count(True) == 2  # the teacher's come in three parts


def test_nothing_is_joined_with_a_head_that_is_read_as_it_is(
    kernels: HalfKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shapes, "cheapest", lambda *_: "throughout")
    monkeypatch.setattr(HeadProducts, "joined", lambda *_: pytest.fail("a joint matrix in float32"))
    batch = make_batch(3, same_tokenizer=True, dtype=torch.float32, student_hidden=8, teacher_hidden=24)
    spec = DSKDSpec.preset("dskd", spaces=["teacher"])
    outcome(spec, in_half(batch, torch.bfloat16), {})
    assert kernels.products


def test_a_mean_of_states_is_none_of_them(kernels: HalfKernels) -> None:
    batch = in_half(make_batch(5, same_tokenizer=False, dtype=torch.float32), torch.bfloat16)
    spec = DSKDSpec(aligner="span", spaces=("uld_hybrid",))
    outcome(spec, batch, {})
    assert any(product.adds for product in kernels.products)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_who_has_no_such_kernels_widens(dtype: torch.dtype) -> None:
    weight = torch.ones(2, 2, dtype=dtype, device=CPU)
    assert not reads_as_stored("fastest", weight, torch.float32)
    assert not reads_as_stored("fastest", weight.to("meta"), torch.float32)
    with HalfKernels():
        assert reads_as_stored("fastest", weight, torch.float32)
        assert splits("fastest", weight, torch.float32) == (dtype == torch.bfloat16)
        assert not reads_as_stored("torch", weight, torch.float32)
        assert not reads_as_stored("fastest", weight, torch.float64)
        assert not reads_as_stored("fastest", weight.float(), torch.float32)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda left, right: left.double() @ right.double(), (True, True)),
        (lambda left, right: (left @ right).float(), (False, False)),
        (lambda left, right: left.missing(right), (False, False)),
    ],
    ids=["sums in float32", "sums that are rounded", "none"],
)
def test_kernels_are_tried_before_they_are_used(made: Any, expected: tuple[bool, bool]) -> None:
    with HalfKernels(made=made, is_tried=True):
        try:
            found = half_products._look(CPU, torch.bfloat16)
        except AttributeError:
            pytest.fail("a device without kernels is no error")
    assert tuple(found) == expected


def test_kernels_that_cannot_add_are_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    total, left, right = torch.ones(2, 3), torch.ones(2, 2).bfloat16(), torch.ones(2, 3).bfloat16()
    with HalfKernels(adds=False, is_tried=True):
        assert tuple(half_products._look(CPU, torch.bfloat16)) == (True, False)
    with HalfKernels(adds=False):
        add_product(total, left, right)
    assert total.eq(3).all()


@pytest.mark.skipif(torch.get_default_device().type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("size", [(64, 256, 512), (33, 40, 257), (1, 5, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_of_this_device(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    """As they are called: weights that are transposed, columns of a wider matrix, totals that have something."""
    rows, width, tokens = size
    states, weight = torch.randn(rows, width).to(dtype), torch.randn(tokens, width).to(dtype)
    assert reads_as_stored("fastest", weight, torch.float32)
    out = torch.full((rows, tokens + 3), torch.nan)[:, :tokens]
    write_product(out, states, weight.T)
    expected = states.double() @ weight.double().T
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)
    add_product(out, states, weight.T)
    torch.testing.assert_close(out.double(), 2 * expected, rtol=1e-5, atol=1e-4)
    gradient = torch.randn(rows, tokens + 64).to(dtype)[:, :tokens]
    of_head = torch.zeros(tokens, width)
    add_product(of_head, gradient.T, states)
    torch.testing.assert_close(of_head.double(), gradient.double().T @ states.double(), rtol=1e-5, atol=1e-4)


@given(seed=SEEDS, exponent=st.integers(-60, 60))
def test_parts_are_what_they_are_parts_of(seed: int, exponent: int) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    numbers = torch.randn(3, 5, generator=generator) * 2.0**exponent
    assert torch.equal(torch.stack([part.float() for part in reversed(exact_parts(numbers))]).sum(0), numbers)
    both = stacked_parts(numbers)
    assert both.dtype == torch.bfloat16
    found = both.double().unflatten(0, (2, 3)).sum(0)
    assert ((found - numbers.double()).abs() <= 2.0**-17 * numbers.double().abs()).all()


@given(columns=st.integers(1, 300_000), even=st.sampled_from([1, 8]))
def test_all_columns_are_split_once(columns: int, even: int) -> None:
    most = half_products.SPLIT_COLUMNS
    parts = list(column_parts(columns, most, even=even))
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == columns
    assert all(0 < part.stop - part.start <= most for part in parts)
    if columns > even and columns % even:
        assert parts[-1].stop - parts[-1].start == columns % even


def test_parts_have_room_in_the_budget(kernels: HalfKernels) -> None:
    head = Head(torch.ones(50_000, 4, dtype=torch.bfloat16))
    assert head_products.numbers_beside([head], "fastest") > 0
    most = head_products.CACHED_ROWS if head.weight.device.type == "cpu" else head_products.SPLIT_COLUMNS
    assert head_products.split_numbers([head], "fastest") == min(most, 50_000)
    assert head_products.split_numbers([head], "half_gradients") == min(most, 50_000) // 2
    assert head_products.split_numbers([head], "torch") == 0
    assert head_products.widened_bytes(head, torch.float32, "fastest") == 0
    assert head_products.widened_bytes(head, torch.float32, "torch") > 0


def test_reports_say_what_a_device_has_been_found_to_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_products, "_found", {})
    assert "bfloat16" not in Tiled().kernels()
    with HalfKernels(is_tried=True):
        half_products._found[CPU, torch.bfloat16] = half_products._look(CPU, torch.bfloat16)
        assert Tiled().kernels().endswith("; products of stored numbers with sums in float32: bfloat16 on cpu")


def test_a_budget_that_somebody_has_set_is_the_budget() -> None:
    gib = 2**30
    assert [Tiled().budget_bytes(memory) / gib for memory in (None, gib, 24 * gib, 80 * gib, 1000 * gib)] == [
        0.375,
        0.375,
        0.75,
        2.5,
        4.0,
    ]
    assert Tiled(memory_budget_mib=1).budget_bytes(80 * gib) == 2**20
    assert accelerator_memory(CPU) is None
    assert accelerator_memory(torch.device("meta")) is None
