"""Padding anywhere, and packing however it is said, never change loss or gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import DSKDSpec, InputError, LMStates
from dskd_components.spec.presets import PRESETS
from tests.helpers.layouts import Side, batch_of, plain, scattered, sides
from tests.helpers.registered import build, specs
from tests.helpers.strategies import SEEDS

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components import DSKDLoss
    from tests.helpers.strategies import Batch

ALIGNERS = {name: spec for name, spec in specs().items() if name.startswith("aligner")}
SPECS = {f"preset {name}": DSKDSpec.preset(name) for name in PRESETS} | ALIGNERS
# What a sample's standard deviation runs over is the whole batch there, packed or not.
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
few = settings(max_examples=8)


def agree(loss_fn: DSKDLoss, found: Batch, expected: Batch, leaf: Tensor) -> None:
    ours, theirs = found.loss(loss_fn), expected.loss(loss_fn)
    assert ours.counts == theirs.counts
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-9, atol=1e-9)
    for out in (ours, theirs):
        for name, value in out.terms.items():
            torch.testing.assert_close(value, theirs.terms[name], rtol=1e-9, atol=1e-9)
    leaves = [leaf, *loss_fn.parameters()]
    gradients = (
        torch.autograd.grad(out.loss, leaves, allow_unused=True, materialize_grads=True) for out in (ours, theirs)
    )
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


@st.composite
def places(draw: st.DrawFn, length: int, rows: int) -> Tensor:
    """Where the tokens of rows stand among padding: on the left, on the right, between, or all of it."""
    width = length + draw(st.integers(1, 3))
    token = torch.zeros(rows, width, dtype=torch.bool)
    for row in range(rows):
        token[row, sorted(draw(st.permutations(range(width)))[:length])] = True
    return token


def positions(token: Tensor, padding: int) -> Tensor:
    return (token.long().cumsum(1) - 1).where(token, padding)


@every_spec
@few
@given(seed=SEEDS, data=st.data(), bool_mask=st.booleans(), with_positions=st.sampled_from([None, 0, 1]))
def test_padding_is_what_the_mask_says(
    spec: DSKDSpec, seed: int, data: st.DataObject, bool_mask: bool, with_positions: int | None
) -> None:
    found = sides(seed, same_tokenizer=spec.aligner.same_tokenizer)
    built, token = {}, None
    for name, side in found.items():
        if token is None or not spec.aligner.same_tokenizer:
            token = data.draw(places(side.labels.shape[1], 2))
        # At padding there may be anything, labels included.
        filling = {"hidden_states": float("nan"), "input_ids": -1, "labels": 3, "groups": 0}
        layout = {"attention_mask": token if bool_mask else token.long()}
        if with_positions is not None:
            layout["position_ids"] = positions(token, with_positions)
        built[name] = side.built(scattered(side.columns(), token, filling), **layout)
    expected = plain(found)
    agree(build(spec, expected), batch_of(built), expected, found["student"].states.hidden_states)


@every_spec
@few
@given(seed=SEEDS, left=st.integers(0, 3), right=st.integers(0, 3), padding=st.sampled_from([0, 1]))
def test_position_ids_alone_say_what_is_padding_too(
    spec: DSKDSpec, seed: int, left: int, right: int, padding: int
) -> None:
    """As the rows of a batch for generation: no mask, labels of -100, positions that stand still at padding."""
    found = sides(seed, same_tokenizer=spec.aligner.same_tokenizer)
    built = {}
    for name, side in found.items():
        around = (left, right) if name == "student" or spec.aligner.same_tokenizer else (right, left)
        length = side.labels.shape[1]
        token = torch.zeros(2, sum(around) + length, dtype=torch.bool)
        token[:, around[0] : around[0] + length] = True
        filling = {"hidden_states": float("nan"), "input_ids": -1, "labels": -100, "groups": -1}
        built[name] = side.built(scattered(side.columns(), token, filling), position_ids=positions(token, padding))
    expected = plain(found)
    agree(build(spec, expected), batch_of(built), expected, found["student"].states.hidden_states)


def packed(side: Side, how: str) -> tuple[LMStates, Tensor]:
    rows, length = side.labels.shape
    columns = {name: column.reshape(1, rows * length, *column.shape[2:]) for name, column in side.columns().items()}
    sample = torch.arange(rows).repeat_interleave(length)[None]
    start_anew = torch.arange(length).repeat(rows)[None]
    layouts: dict[str, dict[str, Any]] = {
        "position_ids": {"position_ids": start_anew},
        "position_ids and segment_ids": {"position_ids": start_anew, "segment_ids": sample},
        "a square mask": {"attention_mask": (sample[:, :, None] == sample[:, None, :]).tril()[:, None]},
        "a square mask to add": {
            "attention_mask": torch.zeros(1, 1, rows * length, rows * length).masked_fill(
                ~(sample[:, :, None] == sample[:, None, :]).tril()[:, None], torch.finfo(torch.float32).min
            )
        },
        "a mask with numbers": {"attention_mask": sample + 1},
    }
    return side.built(columns, **layouts[how])


@pytest.mark.parametrize("spec", ALIGNERS.values(), ids=ALIGNERS.keys())
@pytest.mark.parametrize(
    "how",
    ["position_ids", "position_ids and segment_ids", "a square mask", "a square mask to add", "a mask with numbers"],
)
def test_packed_rows_are_the_rows_apart(spec: DSKDSpec, how: str) -> None:
    found = sides(1, same_tokenizer=spec.aligner.same_tokenizer, rows=3)
    expected = plain(found)
    together = batch_of({name: packed(side, how) for name, side in found.items()})
    agree(build(spec, expected), together, expected, found["student"].states.hidden_states)


def refused(student: Tensor, teacher: Tensor | None, reason: str, **labels: Tensor) -> None:
    spec = DSKDSpec(aligner="cma")
    found = sides(0, same_tokenizer=False)
    loss_fn = build(spec, plain(found))
    built = {}
    for name, positions_of in (("student", student), ("teacher", teacher)):
        side = found[name]
        columns = {key: column.reshape(1, -1, *column.shape[2:]) for key, column in side.columns().items()}
        columns["labels"] = labels.get(name, columns["labels"])
        built[name] = side.built(columns, **({} if positions_of is None else {"position_ids": positions_of}))
    with pytest.raises(InputError, match=reason):
        batch_of(built).loss(loss_fn)


def test_samples_that_are_known_on_one_side_alone_are_refused() -> None:
    refused(
        torch.arange(4).repeat(2)[None], None, r"row 0.*student has sample 1.*teacher has no segment ids.*Give both"
    )


def test_samples_that_cannot_be_counted_alike_are_refused() -> None:
    three = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 2, 3]])
    refused(torch.arange(4).repeat(2)[None], three, r"teacher has sample 2.*student's row has 2 samples")


def test_padding_at_the_end_is_no_sample_that_is_missed() -> None:
    found = sides(1, same_tokenizer=False, rows=3)
    spec = DSKDSpec(aligner="cma")
    expected = plain(found)
    built = {"teacher": packed(found["teacher"], "position_ids")}
    side = found["student"]
    columns = {name: column.reshape(1, -1, *column.shape[2:]) for name, column in side.columns().items()}
    token = torch.ones(1, 15, dtype=torch.bool)
    token[:, 12:] = False
    filling = {"hidden_states": 0.0, "input_ids": 0, "labels": -100, "groups": -1}
    start_anew = torch.cat([torch.arange(4).repeat(3), torch.arange(3)])[None]
    built["student"] = side.built(scattered(columns, token, filling), position_ids=start_anew)
    agree(build(spec, expected), batch_of(built), expected, side.states.hidden_states)


LABELS = torch.arange(6)[None]
LAYOUTS: dict[str, tuple[dict[str, Tensor], str]] = {
    "positions start anew within a segment": (
        {"segment_ids": torch.zeros(1, 6).long(), "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])},
        r"position_ids begins a new sample at \[row 0, position 3\], where segment_ids goes on",
    ),
    "positions go on in the next segment": (
        {"segment_ids": torch.tensor([[0, 0, 0, 1, 1, 1]]), "position_ids": torch.arange(6)[None]},
        r"segment_ids begins .*position 3\], where position_ids goes on",
    ),
    "a square mask shows one segment to the next": (
        {"segment_ids": torch.tensor([[0, 0, 0, 1, 1, 1]]), "attention_mask": torch.ones(1, 1, 6, 6).bool().tril()},
        r"segment_ids begins .*position 3\], where attention_mask goes on",
    ),
    "a mask of another length": ({"attention_mask": torch.ones(1, 7)}, r"attention_mask: expected \[1, 6\].*\[1, 7\]"),
    "positions of another length": ({"position_ids": torch.ones(1, 7)}, r"position_ids: expected \[1, 6\].*\[1, 7\]"),
}


@pytest.mark.parametrize(("layout", "reason"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_columns_that_contradict_one_another_are_refused(layout: dict[str, Tensor], reason: str) -> None:
    states = sides(0, same_tokenizer=True)["student"].states
    with pytest.raises(InputError, match=reason):
        LMStates.from_labels(hidden_states=torch.zeros(1, 6, 5), labels=LABELS, head=states.head, **layout)


def test_a_contradiction_at_padding_is_none() -> None:
    states = sides(0, same_tokenizer=True)["student"].states
    LMStates.from_labels(
        hidden_states=torch.zeros(1, 6, 5),
        labels=torch.tensor([[-100, -100, -100, 1, 2, 3]]),
        head=states.head,
        segment_ids=torch.tensor([[-1, -1, -1, 0, 0, 0]]),
        position_ids=torch.tensor([[0, 0, 0, 0, 1, 2]]),
    )
