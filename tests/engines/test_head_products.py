"""Products with a head in parts are those with all of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components import Head
from dskd_components.engines._tiling import head_products
from dskd_components.engines._tiling.head_products import HeadProducts
from dskd_components.engines.workspace import Scratch


@given(
    vocabulary=st.integers(1, 40),
    cached_rows=st.integers(1, 45),
    part_bytes=st.integers(1, 600),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    biased=st.booleans(),
    scale=st.sampled_from([1.0, 0.5]),
    softcap=st.sampled_from([None, 2.0]),
    others=st.integers(0, 3),
)
def test_parts_of_a_head_give_what_all_of_it_gives(
    vocabulary: int,
    cached_rows: int,
    part_bytes: int,
    dtype: torch.dtype,
    biased: bool,
    scale: float,
    softcap: float | None,
    others: int,
) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    weight = torch.randn(vocabulary + others, 3, generator=generator).to(dtype)
    bias = torch.randn(vocabulary + others, generator=generator).to(dtype) if biased else None
    kept = torch.randperm(vocabulary + others, generator=generator)[:vocabulary]
    head = Head(weight, bias, scale=scale, softcap=softcap).narrowed(kept, others="one_outcome")
    states = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_products, "CACHED_ROWS", cached_rows)
        products = HeadProducts(head, torch.float64, part_bytes)
        logits = torch.full((5, head.vocabulary_size), torch.nan, dtype=torch.float64)
        products.logits(states, logits)
        gradient = products.states_gradient(logits)
        projection = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        joined = products.joined(projection, Scratch([]))
    whole = Head(weight.double(), None if bias is None else bias.double(), scale=scale, softcap=softcap)
    torch.testing.assert_close(logits, whole.narrowed(kept, others="one_outcome").logits(states))
    # What comes to the last outcome goes to the others' rows, which are no part of these.
    torch.testing.assert_close(gradient, logits[:, :vocabulary] @ weight[kept].double())
    torch.testing.assert_close(joined, weight[kept].double() @ projection)
