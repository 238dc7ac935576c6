"""Projectors that somebody has hooked, parametrised or overridden: every engine obeys, at every size, and as often."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize

from dskd_components import DSKDLoss, DSKDSpec
from dskd_components.components.projector import Affine, Projection
from dskd_components.engines import tiled
from dskd_components.engines._tiling.reassociation import Shapes
from tests.helpers.registered import build, towards_student
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.strategies import Batch


class ByWhatIsInside(Projection):
    """An affine projection that calls a module inside."""

    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(source_size, target_size)

    def forward(self, hidden_states: Tensor, heads: Any) -> Tensor:
        projected: Tensor = self.inner(hidden_states)
        return projected

    def affine(self, heads: Any) -> Affine:
        return Affine(self.inner.weight, self.inner.bias)


# ---- What may be done to a projector ----

CALLS: Counter[str] = Counter()


def bent(tensor: Tensor) -> Tensor:
    return 2 * torch.tanh(tensor)


def hook(module: nn.Module, _: Any, projected: Tensor) -> Tensor | None:
    CALLS["hook"] += 1
    return bent(projected) if isinstance(module, Projection | nn.Linear) else None


def pre_hook(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    CALLS["pre_hook"] += 1
    return (bent(arguments[0]), *arguments[1:]) if isinstance(module, Projection) else None


def backward_hook(module: nn.Module, of_inputs: Any, _: Any) -> Any:
    CALLS["backward_hook"] += 1
    if not isinstance(module, Projection):
        return None
    return tuple(None if gradient is None else 3 * gradient for gradient in of_inputs)


def backward_pre_hook(module: nn.Module, of_outputs: Any) -> Any:
    CALLS["backward_pre_hook"] += 1
    return tuple(3 * gradient for gradient in of_outputs) if isinstance(module, Projection) else None


class Bent(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return bent(weight)


def last(projection: nn.Module) -> nn.Module:
    """The projection itself, or the last module inside."""
    return list(projection.modules())[-1]


def overridden(method: str) -> Callable[[nn.Module], None]:
    def change(projection: nn.Module) -> None:
        original = getattr(type(projection), method)

        def changed(self: nn.Module, hidden_states: Tensor, heads: Any = None) -> Tensor:
            return bent(original(self, hidden_states, heads))

        projection.__class__ = type("Changed", (type(projection),), {method: changed})

    return change


def assigned(module: nn.Module) -> None:
    original = type(module).forward

    def changed(self: nn.Module, *arguments: Any) -> Tensor:
        return bent(original(self, *arguments))

    module.forward = MethodType(changed, module)  # type: ignore[method-assign]


def by_hooks(norm: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            norm(last(module))

    return change


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "nothing": lambda _: None,
    "forward hook": lambda projection: projection.register_forward_hook(hook),
    "forward pre-hook": lambda projection: projection.register_forward_pre_hook(pre_hook),
    "backward hook": lambda projection: projection.register_full_backward_hook(backward_hook),
    "backward pre-hook": lambda projection: projection.register_full_backward_pre_hook(backward_pre_hook),
    "hook on what is inside": lambda projection: last(projection).register_forward_hook(hook),
    "forward overridden": overridden("forward"),
    "call overridden": overridden("__call__"),
    "forward assigned": assigned,
    "forward assigned to what is inside": lambda projection: assigned(last(projection)),
}
OF_WEIGHTS: dict[str, Callable[[nn.Module], object]] = {
    "parametrised": lambda projection: parametrize.register_parametrization(last(projection), "weight", Bent()),
    "weight norm": lambda projection: parametrizations.weight_norm(last(projection)),
    "spectral norm": lambda projection: parametrizations.spectral_norm(last(projection)),
    "weight norm by hooks": by_hooks(nn.utils.weight_norm),
    "spectral norm by hooks": by_hooks(nn.utils.spectral_norm),
}
GLOBAL: dict[str, Callable[[], Any]] = {
    "forward hook on all modules": lambda: torch_module.register_module_forward_hook(hook),
    "forward pre-hook on all modules": lambda: torch_module.register_module_forward_pre_hook(pre_hook),
    "backward hook on all modules": lambda: torch_module.register_module_full_backward_hook(backward_hook),
    "backward pre-hook on all modules": lambda: torch_module.register_module_full_backward_pre_hook(backward_pre_hook),
}
PROJECTORS = ["linear", "pinv", "live_pinv", "mlp", "by what is inside"]
CASES = [
    (projector, change)
    for projector in PROJECTORS
    for change in [*CHANGES, *OF_WEIGHTS, *GLOBAL]
    if projector != "live_pinv" or change not in OF_WEIGHTS  # it has no weight of its own
]


# ---- A step with and without ----


@contextmanager
def changed(loss_fn: DSKDLoss, change: str) -> Iterator[DSKDLoss]:
    if change in GLOBAL:
        handle = GLOBAL[change]()
        try:
            yield loss_fn
        finally:
            handle.remove()
        return
    for projection in loss_fn.projectors.values():
        (CHANGES | OF_WEIGHTS)[change](projection)
    yield loss_fn


def loss_of(batch: Batch, projector: str, preset: str) -> DSKDLoss:
    made = "linear" if projector == "by what is inside" else projector
    loss_fn = build(DSKDSpec.preset(preset, t2s_projector=towards_student(made), s2t_projector=made), batch)
    if projector == "by what is inside":
        for direction, projection in loss_fn.projectors.items():
            loss_fn.projectors[direction] = ByWhatIsInside(*projection.weight.shape[::-1]).double()  # type: ignore[union-attr, operator]
    return loss_fn


def step(loss_fn: DSKDLoss, batch: Batch, change: str, engine: str | dict[str, Any]) -> dict[str, Any]:
    """A step, and all that can be seen of it."""
    loss_fn = copy.deepcopy(loss_fn)
    loss_fn.spec = loss_fn.spec.replace(engine=engine)
    torch.manual_seed(0)  # norms begin with vectors at random
    CALLS.clear()
    with warnings.catch_warnings(), changed(loss_fn, change):
        warnings.filterwarnings("ignore", message=".*(Full backward hook is firing|For backward hooks)")
        out = batch.loss(loss_fn)
        wanted = [batch.student.hidden_states, batch.student.head.weight, *loss_fn.parameters()]
        gradients = torch.autograd.grad(out.loss, wanted, allow_unused=True)
    buffers = {name: buffer.clone() for name, buffer in loss_fn.named_buffers()}
    return {"loss": out.loss, "terms": dict(out.terms), "gradients": list(gradients), "buffers": buffers}


def batch_of(widths: tuple[int, int], tokens: int, *, same_tokenizer: bool) -> Batch:
    student, teacher = widths
    lengths = {"student_length": tokens, "teacher_length": tokens}
    batch = make_batch(1, same_tokenizer=same_tokenizer, student_hidden=student, teacher_hidden=teacher, **lengths)
    batch.student.hidden_states.requires_grad_()
    batch.student.head.weight.requires_grad_()
    return batch


@pytest.mark.parametrize(("projector", "change"), CASES)
def test_engines_agree(projector: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for preset, widths, tokens in (("dskd", (3, 12), 2), ("dskd", (3, 12), 40), ("dskd-cma", (12, 3), 9)):
        batch = batch_of(widths, tokens, same_tokenizer=preset == "dskd")
        loss_fn = loss_of(batch, projector, preset)
        expected = step(loss_fn, batch, change, "eager")
        calls = dict(CALLS)
        for recompute, way in ((False, None), (False, "throughout"), (True, None), (True, "logits")):
            with monkeypatch.context() as patched:
                if way:
                    patched.setattr(Shapes, "cheapest", lambda *_, way=way: way)
                patched.setattr(tiled, "RECOMPUTE_SHARE", 2**60 if recompute else 1)
                found = step(loss_fn, batch, change, {"name": "tiled", "memory_budget_mib": 64})
            torch.testing.assert_close(found, expected)
            assert calls == CALLS


@pytest.mark.parametrize("change", [*CHANGES, *OF_WEIGHTS, *GLOBAL])
def test_each_change_does_something(change: str) -> None:
    """Else the engines would agree whatever they do."""
    batch = batch_of((3, 12), 9, same_tokenizer=True)
    loss_fn = loss_of(batch, "by what is inside" if "inside" in change else "linear", "dskd")
    plain, found = (step(loss_fn, batch, name, "eager") for name in ("nothing", change))
    if "weight norm" in change:
        # A weight in two parts is the same at first, on an accelerator but for rounding.
        torch.testing.assert_close(found["loss"], plain["loss"], rtol=1e-12, atol=0.0)
    else:
        assert torch.equal(plain["loss"], found["loss"]) == (change == "nothing" or "backward" in change)
    same_gradient = torch.allclose(plain["gradients"][0], found["gradients"][0])
    assert same_gradient == (change == "nothing" or "weight norm" in change)


def test_a_subclass_that_says_what_it_is_may_be_joined() -> None:
    """`affine` of a class that is no less derived than `forward` is believed; any other is not asked for."""
    batch = batch_of((3, 12), 9, same_tokenizer=True)
    linear = loss_of(batch, "linear", "dskd").projectors["t2s"]
    assert linear.is_as_written()  # type: ignore[operator]
    methods = {"forward": type(linear).forward, "affine": type(linear).affine}
    for names, believed in ((["forward"], False), (["affine"], True), (["forward", "affine"], True), ([], True)):
        other = copy.deepcopy(linear)
        other.__class__ = type("Other", (type(linear),), {name: methods[name] for name in names})
        assert other.is_as_written() == believed  # type: ignore[operator]
    handle = linear.register_forward_hook(hook)
    assert not linear.is_as_written()  # type: ignore[operator]
    handle.remove()
    assert linear.is_as_written()  # type: ignore[operator]
