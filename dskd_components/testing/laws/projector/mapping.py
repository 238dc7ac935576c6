"""Laws about what a projection gives."""

from __future__ import annotations

from dataclasses import replace
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

    The target's head reads them next. As it is built, and with parameters that have moved.
    """
    for fresh in (True, False):
        projection, hidden_states = built(projector, ends, seed, fresh=fresh), ends.hidden_states.to(dtype)
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
        named_dtypes = {part.dtype for part in affine if part is not None}
        expect(
            named_dtypes <= {ends.hidden_states.dtype},
            f"what affine names: expected {ends.hidden_states.dtype}, as the states are, found {named_dtypes}.",
        )
        named = torch.nn.functional.linear(ends.hidden_states, affine.weight, affine.bias)
        expect_close(named, projection(ends.hidden_states, ends.heads), "what the named weight and bias give")


@law("projector", cases=end_cases(different_vocabularies=True))
def the_order_of_shared_tokens_does_not_matter(projector: Projector, ends: Ends, seed: int) -> None:
    """Naming the shared tokens in another order, alike on both sides, changes nothing.

    The k-th token of one side is the k-th of the other. A projector that pairs them otherwise is made from the wrong
    rows of the heads.
    """
    heads = ends.heads
    assert heads.source_ids is not None
    assert heads.target_ids is not None
    order = torch.arange(len(heads.source_ids)).roll(1)
    other = replace(heads, source_ids=heads.source_ids[order], target_ids=heads.target_ids[order])
    _expect_the_same(projector, ends, replace(ends, heads=other), seed, "with the shared tokens in another order")


@law("projector", cases=end_cases(different_vocabularies=True))
def token_numbers_do_not_matter(projector: Projector, ends: Ends, seed: int) -> None:
    """Numbering the tokens of a vocabulary otherwise, in its head and among the shared tokens, changes nothing.

    A projector that takes rows of a head by their place, and not by the ids of the shared tokens, breaks this.
    """
    heads = ends.heads
    assert heads.source_ids is not None
    assert heads.target_ids is not None
    other = replace(
        heads,
        source=replace(heads.source, weight=heads.source.weight.flip(0)),
        target=replace(heads.target, weight=heads.target.weight.roll(1, 0)),
        source_ids=heads.source.vocabulary_size - 1 - heads.source_ids,
        target_ids=(heads.target_ids + 1) % heads.target.vocabulary_size,
    )
    _expect_the_same(projector, ends, replace(ends, heads=other), seed, "with the tokens numbered otherwise")


def _expect_the_same(projector: Projector, ends: Ends, other: Ends, seed: int, where: str) -> None:
    expected = built(projector, ends, seed)(ends.hidden_states, ends.heads)
    found = built(projector, other, seed)(ends.hidden_states, other.heads)
    scale = float(expected.detach().abs().max().clamp_min(1.0))
    # A projector that is solved for from few tokens may be ill-conditioned.
    expect_close(found, expected, f"the projected states {where}", rtol=1e-5, atol=1e-5 * scale)


@law("projector", cases=end_cases(), at_most=5)
def everything_is_made_where_the_states_are(projector: Projector, ends: Ends, seed: int) -> None:
    """Tensors that a projection makes are on the device of the states, whatever the default device is.

    One made on the default device fails as soon as the models are elsewhere. No accelerator is needed to try it.
    """
    projection = built(projector, ends, seed)
    try:
        with torch.device("meta"):
            projected = projection(ends.hidden_states, ends.heads)
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(f"with another default device than that of the states: {error}") from error
    expected = ends.hidden_states.device
    expect(projected.device == expected, f"expected {expected}, as the states, found {projected.device}.")
