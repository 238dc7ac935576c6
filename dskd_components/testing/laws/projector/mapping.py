"""Laws about what a projection gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

from dskd_components.testing.expectation import expect, expect_close, expect_equal, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.projector.setting import TRIES, built, end_cases
from dskd_components.testing.strategies.logits import normal

if TYPE_CHECKING:
    from dskd_components.components.projector import Projector
    from dskd_components.testing.laws.projector.setting import Ends


@law("projector", cases=end_cases(dtype=st.sampled_from([torch.float64, torch.float32])))
def the_width_is_the_targets(projector: Projector, ends: Ends, seed: int, dtype: torch.dtype) -> None:
    """Finite numbers of the target's width come back, in the dtype that went in.

    The target's head reads them next.
    """
    projection, hidden_states = built(projector, ends, seed), ends.hidden_states.to(dtype)
    projected = projection(hidden_states, ends.heads)
    expected = [*hidden_states.shape[:-1], ends.target_size]
    expect(list(projected.shape) == expected, f"expected shape {expected}, found {list(projected.shape)}.")
    expect(projected.dtype == dtype, f"expected dtype {dtype}, as given, found {projected.dtype}.")
    expect_finite(projected, "the projected states")


@law("projector", cases=end_cases(), at_most=5)
def no_positions_no_states(projector: Projector, ends: Ends, seed: int) -> None:
    """No positions give no projected states, and no error.

    A batch in which nothing is scored is an ordinary one.
    """
    nothing = ends.hidden_states.new_zeros(0, ends.source_size)
    projected = built(projector, ends, seed)(nothing, ends.heads)
    expected = [0, ends.target_size]
    expect(list(projected.shape) == expected, f"expected shape {expected}, found {list(projected.shape)}.")


@law("projector", cases=end_cases())
def positions_know_nothing_of_one_another(projector: Projector, ends: Ends, seed: int) -> None:
    """A position is projected alike whatever is beside it.

    So padding, packing and splitting a batch cannot matter, and unscored positions can be left out.
    """
    projection = built(projector, ends, seed)
    together = projection(ends.hidden_states, ends.heads)
    for sample, row in enumerate(ends.hidden_states):
        for position, state in enumerate(row):
            alone = projection(state, ends.heads)
            expect_close(alone, together[sample, position], f"position {position} of sample {sample} alone")


@law("projector", cases=end_cases(narrowest=3), at_most=20)
def what_comes_in_decides_what_goes_out(projector: Projector, ends: Ends, seed: int) -> None:
    """Other hidden states give other projected states, and finite gradients pass through to them.

    A projection that ignores what comes in, or cuts it off, trains nothing on the other side.
    """
    differ, learns = False, False
    for number in range(TRIES):
        hidden_states = normal(seed + number, 16, ends.source_size).requires_grad_()
        projected = built(projector, ends, seed + number)(hidden_states, ends.heads)
        differ = differ or bool((projected != projected[:1]).any())
        if projected.requires_grad:
            (gradient,) = torch.autograd.grad(
                projected.square().sum(), hidden_states, allow_unused=True, materialize_grads=True
            )
            expect_finite(gradient, "the gradient of the hidden states")
            learns = learns or bool(gradient.any())
        if differ and learns:
            return
    expect(differ, "the projected states: expected different ones for different inputs, found all the same.")
    expect(learns, "the gradient of the hidden states: expected some, found none.")


@law("projector", cases=end_cases(different_vocabularies=True))
def any_number_of_shared_tokens_will_do(projector: Projector, ends: Ends, seed: int) -> None:
    """Between vocabularies that share some tokens, one at least, projected states are finite.

    Two tokenizers may have little in common.
    """
    projected = built(projector, ends, seed)(ends.hidden_states, ends.heads)
    expect_finite(projected, "the projected states")


@law("projector", cases=end_cases())
def float32_is_near_float64(projector: Projector, ends: Ends, seed: int) -> None:
    """In float32, projected states are near those of float64.

    For one set of parameters and heads, rounded to float32.
    """
    single = ends.to(torch.float32)
    projection = built(projector, single, seed)
    found = projection(single.hidden_states, single.heads)
    wide = single.to(torch.float64)
    # Buffers may come from the heads; the module itself is widened, so that both are computed from the same numbers.
    exact = projection.double()(wide.hidden_states, wide.heads)
    scale = float(exact.detach().abs().max().clamp_min(1.0))
    expect_close(found, exact.float(), "the projected states in float32", rtol=1e-4, atol=1e-4 * scale)


@law("projector", cases=end_cases(), at_most=20)
def results_repeat(projector: Projector, ends: Ends, seed: int) -> None:
    """Built with the same seed, a projector does the same; called twice, too.

    Dropout or noise inside would make runs that nobody can repeat.
    """
    projection = built(projector, ends, seed)
    first = projection(ends.hidden_states, ends.heads)
    expect_equal(projection(ends.hidden_states, ends.heads), first, "the projected states at the second call")
    again = built(projector, ends, seed)(ends.hidden_states, ends.heads)
    expect_equal(again, first, "the projected states of one built with the same seed")


@law("projector", cases=end_cases())
def an_affine_projection_is_what_it_says(projector: Projector, ends: Ends, seed: int) -> None:
    """Weight and bias that a projection names are what it multiplies with and adds.

    An engine may join them with the head behind it and leave the projection out.
    """
    projection = built(projector, ends, seed)
    affine = projection.affine(ends.heads)
    if affine is not None:
        named = torch.nn.functional.linear(ends.hidden_states, affine.weight, affine.bias)
        expect_close(named, projection(ends.hidden_states, ends.heads), "what the named weight and bias give")
