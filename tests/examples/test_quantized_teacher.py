"""The example with a teacher in few bits, by the library that makes it so."""

from __future__ import annotations

import pytest

from examples.quantized_teacher import main

# Its library is large, so that `make test` goes without.
pytestmark = pytest.mark.minutes


@pytest.mark.parametrize(("bits", "tolerance"), [(4, 1e-3), (8, 1e-4)])
def test_a_student_learns_from_it_as_from_the_whole_one(bits: int, tolerance: float) -> None:
    losses = main(bits)
    assert losses[-1][1] < losses[0][1]
    assert any(in_few_bits != as_trained for as_trained, in_few_bits in losses)
    for as_trained, in_few_bits in losses:
        assert abs(in_few_bits - as_trained) < tolerance
