"""Blocks whose operations are compiled: traced as they are for every distance, and left as written where that fails."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dskd_components.components.space import Measure
from dskd_components.distances import KL
from dskd_components.engines._tiling import compiled_block, compiling
from dskd_components.engines._tiling.compiled_block import CompiledBlock, write_gradients
from dskd_components.engines._tiling.compiling import MOST_VALUES, call
from dskd_components.engines._tiling.compiling import compiles_on as plain_compiles_on
from dskd_components.engines._tiling.half_products import stacked_parts
from dskd_components.engines._tiling.logit_block import LogitBlock
from dskd_components.engines._tiling.row_functions import (
    CrossEntropy,
    Divergence,
    Gradient,
    Reading,
    RowFunction,
    Softcap,
    Split,
    Statistics,
    Values,
    Written,
)
from dskd_components.testing import registered_variants
from tests.helpers.compiled import compiled_anywhere
from tests.helpers.strategies import SEEDS
from tests.helpers.tiled_steps import Watch, batch_and_loss, gradients

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dskd_components import Distance


# One of each class: what options change are numbers in what is compiled.
DISTANCES = {type(distance).__name__: distance for distance in registered_variants("distance")}
STUDENT = Reading(logits=0, largest=1, log_sum=2, temperature=3, all_finite=True)
TEACHER = Reading(logits=4, largest=5, log_sum=6, temperature=None, all_finite=True)
ON_CUDA = torch.get_default_device().type == "cuda"
SMALL: dict[str, Any] = {"name": "tiled", "memory_budget_mib": 1e-3, "compiled": True}


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A compiler that takes no time, but on a device whose own is meant."""
    if not ON_CUDA:
        monkeypatch.setattr(compiling, "BACKEND", "eager")
    with compiled_anywhere(as_written=False), warnings.catch_warnings():
        warnings.filterwarnings("error", "The engine's option")
        yield


def rows_of(count: int, tokens: int = 11) -> list[Tensor]:
    """What the functions of two sides read: logits with what normalises them, targets, and factors."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(count)
    student, teacher = (3 * torch.randn(count, tokens, generator=generator) for _ in range(2))
    temperature = torch.full((count, 1), 2.0)
    targets = torch.randint(tokens, (count, 1), generator=generator)
    factors = [torch.rand(count, 1, generator=generator) for _ in range(3)]
    of_student, of_teacher = Statistics()(student, temperature), Statistics()(teacher)
    return [student, *of_student, temperature, teacher, *of_teacher, targets, *factors]


def functions_of(distance: Distance) -> list[RowFunction]:
    gradient = Gradient(
        blocks=(Written(0, None, 0.5, 30.0, 10), Written(4, None, 1.0, None, 11)),
        divergences=(Divergence(distance, STUDENT, TEACHER, of_student=8, of_teacher=9),),
        cross_entropies=(CrossEntropy(STUDENT, targets=7, factor=10),),
    )
    return [Values(distance, STUDENT, TEACHER), gradient]


def outcome(function: RowFunction, tensors: Sequence[Tensor], *, compiled: bool) -> list[Tensor]:
    tensors = [tensor.clone() for tensor in tensors]
    found = call(function, tensors) if compiled else function(*tensors)
    return [*found, *tensors]


def test_only_a_device_that_gains_by_it_compiles() -> None:
    assert plain_compiles_on(torch.device("cuda"))
    assert not any(plain_compiles_on(torch.device(name)) for name in ("cpu", "meta"))


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES.keys())
def test_every_distance_is_compiled_once_for_any_number_of_rows(
    distance: Distance, monkeypatch: pytest.MonkeyPatch
) -> None:
    if distance.build(tokens=None, heads=None) is not None:
        pytest.skip("it has parameters")
    if not ON_CUDA:  # what is traced is what counts here
        monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)
    for function in functions_of(distance):
        for count in (7, 40):
            tensors = rows_of(count)
            expected = outcome(function, tensors, compiled=False)
            torch.testing.assert_close(outcome(function, tensors, compiled=True), expected, rtol=1e-5, atol=1e-6)
    assert len(compiling._functions) == 2
    assert None not in compiling._functions.values()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11])
def test_rows_that_are_few_or_as_many_as_tokens(count: int) -> None:
    tensors = rows_of(count)
    for function, given_to in ((Statistics(), [tensors[0], tensors[3]]), (Softcap(3.0), [tensors[0]])):
        expected = outcome(function, given_to, compiled=False)
        torch.testing.assert_close(outcome(function, given_to, compiled=True), expected)
        # What was compiled for so many rows is not for another number of them.
        more = [tensor.repeat(3, 1) for tensor in given_to]
        expected = outcome(function, more, compiled=False)
        torch.testing.assert_close(outcome(function, more, compiled=True), expected)


@given(seed=SEEDS, exponent=st.integers(-60, 60))
def test_parts_are_those_that_are_split_without(seed: int, exponent: int) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    numbers = torch.randn(3, 8, generator=generator) * 2.0**exponent
    # A number as near to one as to the other is rounded to the even one.
    numbers[:, :4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0])
    [found] = call(Split(), [numbers[:, :7]])
    assert torch.equal(found.transpose(0, 1).flatten(0, 1), stacked_parts(numbers[:, :7]))


@dataclass(frozen=True)
class Doubled(RowFunction):
    """Writes over its rows; what it does besides is what a test is about."""

    way: str = "plainly"
    option: Any = None

    @property
    def kind(self) -> str:
        return f"twice the rows, {self.way}"

    @property
    def written(self) -> tuple[int, ...]:
        return (0,)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        [rows] = tensors
        if self.way == "by their values" and bool(rows.sum() > 1e9):
            return (rows,)
        if self.way == "by their number" and len(rows) > 100:
            return (rows,)
        if self.way == "with a tensor of its own":
            rows.mul_(OTHER)
        rows.copy_(2 * rows)
        return (rows.sum(1),)


OTHER = torch.ones(5)


@pytest.mark.parametrize("way", ["by their values", "by their number", "with a tensor of its own"])
def test_what_cannot_be_traced_is_called_as_it_is_written(way: str) -> None:
    rows = torch.randn(8, 5)
    expected = outcome(Doubled(way), [rows], compiled=False)
    with pytest.warns(UserWarning, match=f"no effect on twice the rows, {way}.*Results are the same"):
        torch.testing.assert_close(outcome(Doubled(way), [rows], compiled=True), expected)
    torch.testing.assert_close(outcome(Doubled(way), [rows], compiled=True), expected)  # it is said once
    assert compiling.description() == "0 compiled functions, 1 that could not be compiled"


@pytest.mark.parametrize("fault", ["other numbers", "an error", "written before an error"])
def test_a_compiler_that_fails_changes_nothing(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiles(forward: Any, **_: Any) -> Any:
        def faulty(rows: Tensor) -> Any:
            if fault == "an error":
                raise KeyError("buf1")
            found = forward(rows)
            if fault == "written before an error":
                raise RuntimeError("no such kernel")
            rows[-1] += 1
            return found

        return faulty

    monkeypatch.setattr(torch, "compile", compiles)
    rows = torch.randn(8, 5)
    expected = outcome(Doubled(), [rows], compiled=False)
    with pytest.warns(UserWarning, match="no effect on twice the rows"):
        torch.testing.assert_close(outcome(Doubled(), [rows], compiled=True), expected)


def test_a_device_without_memory_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiles(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(torch, "compile", compiles)
    with pytest.raises(torch.OutOfMemoryError, match="tried to allocate"):
        call(Doubled(), [torch.randn(8, 5)])


def test_options_that_change_with_each_step_are_not_compiled_for_ever() -> None:
    rows = torch.randn(8, 5)
    for step in range(MOST_VALUES):
        call(Doubled(option=step), [rows.clone()])
    with pytest.warns(
        UserWarning, match=f"no effect on twice the rows, plainly: {MOST_VALUES} of it with other options"
    ):
        call(Doubled(option=MOST_VALUES), [rows.clone()])
    for step in range(2 * MOST_VALUES):  # it is said once
        call(Doubled(option=step), [rows.clone()])
    assert compiling.description() == f"{MOST_VALUES} compiled functions"


@pytest.mark.parametrize("option", [[1, 2], {"a": 1}, {1, 2}], ids=["list", "dict", "set"])
def test_an_option_that_cannot_be_looked_for_is_said_to_be_slow(option: Any) -> None:
    rows = torch.randn(8, 5)
    expected = outcome(Doubled(option=option), [rows], compiled=False)
    with pytest.warns(UserWarning, match="no effect on twice the rows, plainly: .* cannot be hashed.* a tuple"):
        torch.testing.assert_close(outcome(Doubled(option=option), [rows], compiled=True), expected)
    call(Doubled(option=option), [rows])
    assert not compiling._functions


def test_who_watches_operations_sees_them() -> None:
    with Watch(5) as watch:
        call(Doubled(), [torch.randn(8, 5)])
    assert watch.largest
    assert not compiling._functions


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma", "dskd-v2"])
def test_a_step_is_the_same(preset: str) -> None:
    batch, loss_fn = batch_and_loss(preset, engine=SMALL | {"compiled": False}, temperature=2.0)
    expected = batch.loss(loss_fn)
    of_expected = gradients(expected.loss, batch, loss_fn)
    loss_fn.spec = loss_fn.spec.replace(engine=SMALL)
    out = batch.loss(loss_fn)
    torch.testing.assert_close(out.loss, expected.loss)
    torch.testing.assert_close(out.terms, expected.terms)
    torch.testing.assert_close(out.metrics, expected.metrics)
    torch.testing.assert_close(gradients(out.loss, batch, loss_fn), of_expected)
    before = compiling.description()
    assert before in loss_fn.spec.engine.kernels()
    assert "could not" not in before
    with torch.inference_mode():
        torch.testing.assert_close(batch.loss(loss_fn).loss, expected.loss.detach())
    torch.testing.assert_close(gradients(batch.loss(loss_fn).loss, batch, loss_fn), of_expected)
    assert compiling.description() == before


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
@pytest.mark.parametrize("blocks", [False, True])
def test_in_a_loss_that_is_compiled_itself(blocks: bool) -> None:
    batch, loss_fn = batch_and_loss("dskd", engine=SMALL | {"compiled": blocks})
    expected = batch.loss(loss_fn).loss
    compiled = torch.compile(loss_fn, backend="eager")
    loss = compiled(batch.student, batch.teacher).loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, batch, loss_fn), gradients(expected, batch, loss_fn))


@pytest.mark.parametrize("tokens", [9, 8], ids=["", "others together"])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_block_gives_what_one_that_is_not_compiled_gives(
    wanted: bool, softcap: float | None, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At temperatures of its own, as what reads groups has it; with a gradient of the logits themselves; of a part."""
    measure = Measure(distance=KL(), temperature=2.0, teacher_temperature=3.0, scale=5.0)
    logits = [torch.randn(6, 9, dtype=torch.float64) for _ in range(2)]
    targets, columns = torch.tensor([0, 8, -100, 3, 3, 1]), torch.tensor([7, 1, 4])
    found = []
    for kind in (LogitBlock, CompiledBlock):
        if not ON_CUDA:
            monkeypatch.setattr(compiled_block, "call", lambda function, tensors: function(*tensors))
        weight = torch.zeros(tokens, 1, dtype=torch.float64)
        # What a block reads of a head, which is narrowed where the last logit is no product.
        head: Any = SimpleNamespace(
            weight=weight, scale=0.5, softcap=softcap, has_rest=tokens < 9, token_count=tokens, vocabulary_size=9
        )
        student, teacher = (
            kind(each.clone(), head=head, all_finite=True, requires_grad=learns)
            for each, learns in zip(logits, (True, wanted), strict=True)
        )
        of_part = student.among(columns).divergence_from(
            teacher.among(columns), measure.distance, measure, teacher_gradient=True
        )
        values = [
            student.cross_entropy(targets),
            student.cross_entropy(targets, 2.0),
            student.divergence_from(teacher, measure.distance, measure, teacher_gradient=True),
            of_part,
            student.leaf[:, :2].sum(1),
            student.log_normaliser(2.0),
        ]
        loss = torch.stack([number * each.sum() for number, each in enumerate(values[:5], start=1)]).sum()
        leaves = list({id(leaf): leaf for block in (student, teacher) for leaf in block.leaves}.values())
        of_leaves = torch.autograd.grad(loss, leaves, allow_unused=True)
        learning = [block for block in (student, teacher) if block.requires_grad]
        write_gradients(learning, {id(leaf): each for leaf, each in zip(leaves, of_leaves, strict=True)})
        found.append([*(each.detach() for each in values), *(block._logits for block in learning)])
    torch.testing.assert_close(found[1], found[0])
