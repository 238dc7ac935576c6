"""Products by another kernel than PyTorch's own: as exact, chosen once, and never where it is not right."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dskd_components import DSKDSpec, Head
from dskd_components.engines._tiling import head_products, products
from dskd_components.engines._tiling.head_products import HeadGradient, HeadProducts
from dskd_components.engines._tiling.products import by_onednn, onednn
from dskd_components.engines._tiling.reassociation import Shapes
from tests.helpers.registered import build
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("logits", "states", "head")
HAS_OPERATOR = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.get_default_device().type == "cpu"
needs_operator = pytest.mark.skipif(not HAS_OPERATOR, reason="no such operator, or another device than a CPU")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_chosen", {})


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN for every product, however small, in parts of a few rows."""
    monkeypatch.setattr(products, "LEAST_WORK", 0)
    monkeypatch.setattr(products, "MARGIN", float("inf"))
    for module in (head_products, products):
        monkeypatch.setattr(module, "CACHED_ROWS", 5)


def operands(kind: str) -> tuple[Tensor, Tensor]:
    rows, part = torch.randn(300, 64), torch.randn(1024, 64)
    gradient = torch.randn(300, 3000)[:, :1024]
    return {"logits": (rows, part), "states": (gradient, part), "head": (rows, gradient)}[kind]


def choose(kind: Any) -> bool:
    return by_onednn("fastest", kind, *operands(kind))


@needs_operator
@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("size", [17, 12])
def test_products_of_a_head(size: int, with_bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    weight, bias = torch.randn(17, 8, generator=generator).to(dtype), torch.randn(17, generator=generator).to(dtype)
    head = Head(weight.requires_grad_(), bias=bias if with_bias else None, valid_vocabulary_size=size)
    states, gradient = torch.randn(6, 8, generator=generator), torch.randn(6, size, generator=generator)
    made = HeadProducts(head, torch.float32, 2**20, "fastest")
    logits = torch.empty(6, size)
    made.logits(states, logits)
    of_head = HeadGradient(head, torch.float32)
    for rows in (slice(0, 4), slice(4, 6)):
        of_head.add(gradient[rows], states[rows], "fastest")
    assert products._chosen
    assert all(products._chosen.values())
    wide = weight.detach().double()[:size]
    expected = states.double() @ wide.T + (bias.double()[:size] if with_bias else 0)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.states_gradient(gradient).double(), gradient.double() @ wide, rtol=1e-5, atol=1e-5)
    found = dict(zip(("weight", "bias"), (pair[1] for pair in of_head.gradients), strict=False))["weight"]
    torch.testing.assert_close(found[:size].double(), gradient.double().T @ states.double(), rtol=1e-5, atol=1e-5)
    assert not found[size:].any()


@needs_operator
@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("preset", ["dskd", "dskd-cma", "dskd-v2"])
def test_a_step_is_the_same_with_either_kernel(preset: str) -> None:
    batch = make_batch(
        5, same_tokenizer=preset != "dskd-cma", dtype=torch.float32, student_hidden=16, teacher_hidden=24
    )
    found = []
    for kernels in ("fastest", "torch", "fastest"):
        hidden = batch.student.hidden_states.detach().requires_grad_()
        head = Head(batch.student.head.weight.detach().requires_grad_())
        own = replace(batch, student=replace(batch.student, hidden_states=hidden, head=head))
        engine = {"name": "tiled", "products": kernels, "memory_budget_mib": 2e-2}
        out = own.loss(build(DSKDSpec.preset(preset, engine=engine), own))
        found.append([out.loss.detach(), *torch.autograd.grad(out.loss, [hidden, head.weight])])
    assert any(products._chosen.values())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(first, last) for first, last in zip(found[0], found[2], strict=True))


class Seen(TorchDispatchMode):
    """Notes which operators ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@needs_operator
@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("way", ["apart", "logits", "throughout"])
def test_no_product_of_a_projection_is_left_out(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined with the head or not, what a projection multiplies is made by the kernels that were chosen."""
    monkeypatch.setattr(Shapes, "cheapest", lambda *_: way)
    batch = make_batch(3, same_tokenizer=True, dtype=torch.float32, student_hidden=8, teacher_hidden=24)
    found = []
    for kernels in ("fastest", "torch"):
        hidden = batch.student.hidden_states.detach().requires_grad_()
        own = replace(batch, student=replace(batch.student, hidden_states=hidden))
        engine = {"name": "tiled", "products": kernels, "memory_budget_mib": 2e-2}
        loss_fn = build(DSKDSpec.preset("dskd", spaces=["teacher"], engine=engine), own)
        own.loss(loss_fn)  # kernels are measured
        with Seen() as seen:
            loss = own.loss(loss_fn).loss
            of_all = torch.autograd.grad(loss, [hidden, *loss_fn.parameters()], allow_unused=True)
        assert {"mm", "addmm", "addmm_"}.isdisjoint(seen.names) == (kernels == "fastest"), sorted(seen.names)
        found.append([loss.detach(), *(gradient for gradient in of_all if gradient is not None)])
    assert len(found[0]) > 2
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_is_made_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MARGIN", float("inf"))
    assert choose(kind) is HAS_OPERATOR
    monkeypatch.setattr(products, "MARGIN", 0.0)
    assert choose(kind) is HAS_OPERATOR
    products._chosen.clear()
    assert not choose(kind)


def rounded(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return onednn(rows.bfloat16().float(), weight.bfloat16().float(), bias)


def unlike_itself(*_: object) -> Tensor:
    raise TypeError("_linear_pointwise() takes other arguments")


@needs_operator
@pytest.mark.parametrize("operator", [rounded, unlike_itself])
@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_that_is_not_right_is_not_used(kind: str, operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MARGIN", float("inf"))
    monkeypatch.setattr(products, "onednn", operator)
    assert not choose(kind)


@needs_operator
@pytest.mark.parametrize("way", ["logits", "states"])
def test_a_measurement_writes_to_the_products_own_place_alone(way: Any) -> None:
    """So it is made of what is read and written in the step, its layout included, and takes no memory beside."""
    a, b = operands(way)
    buffer = torch.zeros(len(a) + 2, 4096 + 64)
    place = buffer[1:-1, 32 : 32 + (len(b) if way == "logits" else b.shape[1])]
    before = a.clone(), b.clone()
    by_onednn("fastest", way, a, b, place)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    assert place.any(), "it was measured elsewhere"
    place.zero_()
    assert not buffer.any()


@needs_operator
def test_layouts_are_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def is_faster(*given: Any) -> bool:
        seen.append(given[3].stride(0))
        return True

    monkeypatch.setattr(products, "_is_faster", is_faster)
    rows, part = operands("logits")
    for width in (4096, 4096 + 64, 4096):
        by_onednn("fastest", "logits", rows, part, torch.empty(len(rows), width)[:, : len(part)])
    assert seen == [4096, 4096 + 64]


def test_an_operator_that_is_not_there_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MARGIN", float("inf"))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not choose("logits")


def test_nothing_is_measured_where_the_choice_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_is_faster", lambda *_: pytest.fail("measured"))
    rows, part = operands("logits")
    assert not by_onednn("torch", "logits", rows, part)
    assert not by_onednn("fastest", "logits", rows.double(), part.double())
    assert not by_onednn("fastest", "logits", rows[:2], part)
    assert not by_onednn("fastest", "logits", rows, part.T.contiguous().T)
    torch.backends.mkldnn.enabled = False
    try:
        assert not by_onednn("fastest", "logits", rows, part)
    finally:
        torch.backends.mkldnn.enabled = True
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not by_onednn("fastest", "logits", rows, part)


def test_a_measurement_leaves_random_numbers_and_switches_alone() -> None:
    torch.manual_seed(0)
    rows, part = operands("logits")
    before = (torch.get_rng_state(), torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled)
    by_onednn("fastest", "logits", rows, part)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled) == before[1:]
    assert products.description().startswith("float32 products by torch.mm")
