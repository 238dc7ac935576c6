"""What is lost of a state in each format, and what it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components.errors import ConfigurationError
from dskd_components.store.formats import GROUP, StoredStates, bytes_per_state, state_format

if TYPE_CHECKING:
    from torch import Tensor


@st.composite
def states(draw: st.DrawFn) -> Tensor:
    """States of any width and size, with units much larger than others, zeros, and all alike."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    rows, width = draw(st.integers(0, 5)), draw(st.sampled_from([1, 2, 63, 64, 65, 80, 200]))
    made = torch.randn(rows, width) * 10.0 ** draw(st.integers(-30, 30))
    kind = draw(st.sampled_from(["plain", "outliers", "zeros", "alike"]))
    if kind == "outliers":
        made[:, 0] *= 1000
    elif kind == "zeros":
        made[:, : width // 2 + 1] = 0
    elif kind == "alike":
        made = made[:, :1].expand(rows, width)
    return made


@given(states())
def test_int8_is_within_half_a_step_of_each_group(states: Tensor) -> None:
    stored = StoredStates.encode(states, "int8")
    decoded = stored.decode()
    assert decoded.shape == states.shape
    assert stored.scales is not None
    for first in range(0, states.shape[1], GROUP):
        part, back = states[:, first : first + GROUP], decoded[:, first : first + GROUP]
        # Scales are rounded up by less than a 128th.
        step = part.abs().amax(1) / 127 * (1 + 1 / 128)
        assert bool(((part - back).abs().amax(1) <= step * 0.5001 + 1e-38).all())


@given(states())
def test_float32_is_exact_and_bfloat16_rounds_once(states: Tensor) -> None:
    assert torch.equal(StoredStates.encode(states, "float32").decode(), states)
    assert torch.equal(StoredStates.encode(states, "bfloat16").decode(), states.bfloat16())
    half = states.bfloat16()
    assert torch.equal(StoredStates.encode(half, "bfloat16").decode(), half), "a teacher's own precision is kept"


@given(states(), st.integers(0, 2**16))
def test_rows_know_nothing_of_one_another(states: Tensor, seed: int) -> None:
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(seed))
    whole = StoredStates.encode(states, "int8").decode()
    assert torch.equal(StoredStates.encode(states[order], "int8").decode(), whole[order])


@pytest.mark.parametrize("width", [576, 896, 1024, 2048, 4096, 8192])
def test_int8_takes_little_more_than_a_byte_a_unit(width: int) -> None:
    assert bytes_per_state(width, "int8") / width <= 1.04


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"got 'int4' \(did you mean 'int8'\?\)"):
        state_format("int4")
    with pytest.raises(ConfigurationError, match="'float32', 'bfloat16', 'int8'"):
        state_format(torch.float32)
