"""Any pair of floating-point types is computed, by either engine, in the one precision that is documented."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from dskd_components import DSKDSpec, InputError
from dskd_components.spec.presets import PRESETS
from tests.helpers.leaves import gradients, with_leaves
from tests.helpers.registered import build, names, towards_student
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from dskd_components import LMStates

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PAIRS = list(product(DTYPES, DTYPES))
# All states are in float32 there, and parameters have one type.
PAIRS_OF = {"parameters": list(product([torch.float32], DTYPES))}
SPECS = (
    {f"preset {name}": DSKDSpec.preset(name, temperature=1.5) for name in PRESETS}
    | {f"aligner {name}": DSKDSpec(aligner=name) for name in names("aligner")}
    | {
        f"projector {name}": DSKDSpec(t2s_projector=towards_student(name), s2t_projector=name)
        for name in names("projector")
    }
    | {f"space {name}": DSKDSpec(spaces=(name,)) for name in names("space")}
)
# Recommended presets have nothing but what others have, part by part.
PARTS = [
    pytest.param(of, spec, id=f"{of}-{name}")
    for of in ("states", "heads", "embeddings", "parameters", "everything")
    for name, spec in SPECS.items()
    if of == "everything" or not name.startswith("preset recommended")
]


def in_dtypes(states: LMStates, hidden: torch.dtype, head: torch.dtype, embedding: torch.dtype) -> LMStates:
    assert states.embedding is not None
    return replace(
        states,
        hidden_states=states.hidden_states.to(hidden),
        embedding=states.embedding.to(embedding),
        head=replace(states.head, weight=states.head.weight.to(head)),
    )


@pytest.mark.parametrize(("of", "spec"), PARTS)
def test_all_pairs_of_dtypes(of: str, spec: DSKDSpec) -> None:
    exact = make_batch(0, same_tokenizer=spec.aligner.same_tokenizer, dtype=torch.float16)
    for ours, theirs in PAIRS_OF.get(of, PAIRS):
        sides = {}
        for side, dtype in (("student", ours), ("teacher", theirs)):
            parts = (
                dtype if of in (part, "everything") else torch.float32 for part in ("states", "heads", "embeddings")
            )
            sides[side] = in_dtypes(getattr(exact, side), *parts)
        batch, leaves = with_leaves(replace(exact, **sides))
        expected_dtype = torch.float64 if batch.student.hidden_states.dtype == torch.float64 else torch.float32
        losses, of_engines = [], []
        loss_fn = build(spec, replace(exact, student=in_dtypes(exact.student, *[torch.float32] * 3)))
        if of in ("parameters", "everything"):
            loss_fn.to(theirs)
        for engine in ("eager", "tiled"):
            loss_fn.spec = spec.replace(engine=engine)
            out = batch.loss(loss_fn)
            assert {value.dtype for value in (out.loss, *out.terms.values())} == {expected_dtype}
            losses.append(out.loss)
            of_engines.append(gradients(loss_fn, out, leaves))
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
        for eager, tiled in zip(*of_engines, strict=True):
            tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(eager.dtype, 1e-4)
            torch.testing.assert_close(eager, tiled, rtol=tolerance, atol=tolerance / 10)


NUMBERS: dict[str, Any] = {
    "int": 20,
    "float": 20.0,
    "bool": True,
    "Decimal": Decimal(20),
    "Fraction": Fraction(20),
    **{
        f"numpy {name}": getattr(np, name)(20) for name in ("float64", "float32", "float16", "int64", "int32", "uint64")
    },
    **{f"numpy array {name}": np.array(20, dtype=name) for name in ("float64", "int32", "uint16")},
    **{
        f"torch {str(dtype).removeprefix('torch.')}": torch.tensor(20, dtype=dtype)
        for dtype in (*DTYPES, torch.int64, torch.int32, torch.uint8, torch.uint16, torch.uint64)
    },
    "one entry": torch.tensor([20]),
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS.keys())
@pytest.mark.parametrize("engine", ["eager", "tiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_divides(number: Any, engine: str, dtype: torch.dtype) -> None:
    spec = DSKDSpec.preset("dskd-v2", engine=engine)
    batch = make_batch(0, same_tokenizer=True, dtype=dtype)
    loss_fn = build(spec, batch)
    out = batch.loss(loss_fn, num_items_in_batch=number)
    expected = batch.loss(loss_fn, num_items_in_batch=float(number))
    assert {value.dtype for value in (out.loss, *out.terms.values())} == {dtype}
    assert {count.dtype for count in out.counts.values()} == {torch.int64}
    torch.testing.assert_close(out.loss, expected.loss)


@pytest.mark.parametrize("engine", ["eager", "tiled"])
def test_a_share_of_one_token_divides(engine: str) -> None:
    """Counts divided by a number of ranks are below 1 where there are fewer tokens than ranks."""
    batch = make_batch(0, same_tokenizer=True)
    loss_fn = build(DSKDSpec.preset("dskd-v2", engine=engine), batch)
    one, quarter = (batch.loss(loss_fn, num_items_in_batch=number) for number in (1, 0.25))
    torch.testing.assert_close(quarter.loss, 4 * one.loss)
    torch.testing.assert_close(quarter.terms, {name: 4 * value for name, value in one.terms.items()})


def test_a_large_number_is_not_rounded() -> None:
    batch = make_batch(0, same_tokenizer=True, dtype=torch.float64)
    loss_fn = build(DSKDSpec(), batch)
    number = 2**24 + 1  # the first that float32 cannot hold
    found = [batch.loss(loss_fn, num_items_in_batch=given).loss for given in (number, torch.tensor(number))]
    torch.testing.assert_close(found[0] * number, batch.loss(loss_fn, num_items_in_batch=1).loss, rtol=1e-12, atol=0)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "number", ["20", np.str_("20"), None, 1j, [20], torch.tensor(1j), np.array([1, 2]), np.float64("nan"), object]
)
def test_what_is_no_number_is_refused(number: Any) -> None:
    batch = make_batch(0, same_tokenizer=True)
    loss_fn = build(DSKDSpec(), batch)
    if number is None:
        batch.loss(loss_fn, num_items_in_batch=None)
        return
    with pytest.raises(InputError, match="num_items_in_batch: expected the number of scored"):
        batch.loss(loss_fn, num_items_in_batch=number)


@pytest.mark.parametrize("engine", ["eager", "tiled"])
@pytest.mark.parametrize("name", PRESETS)
def test_the_default_dtype_of_torch_changes_nothing(name: str, engine: str) -> None:
    spec = DSKDSpec.preset(name, engine=engine)
    batch = make_batch(0, same_tokenizer=spec.aligner.same_tokenizer, dtype=torch.float32)
    loss_fn = build(spec, batch)
    expected = batch.loss(loss_fn, num_items_in_batch=7)
    before = torch.get_default_dtype()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        torch.set_default_dtype(dtype)
        try:
            found = batch.loss(loss_fn, num_items_in_batch=7)
        finally:
            torch.set_default_dtype(before)
        assert torch.equal(found.loss, expected.loss)
        for name_of, values in (("terms", expected.terms), ("counts", expected.counts), ("metrics", expected.metrics)):
            for key, value in values.items():
                other = getattr(found, name_of)[key]
                assert other.dtype == value.dtype, key
                assert torch.equal(other, value), key
