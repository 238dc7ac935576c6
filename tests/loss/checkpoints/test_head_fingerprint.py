"""The precision in which a head is held is no difference between models; everything else about it is one."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components import DSKDLoss, DSKDSpec, Head
from dskd_components.errors import CheckpointError
from dskd_components.loss.checkpoints import HeadFingerprint, describe_loss, require_no_difference

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PAIRS = list(product(DTYPES, DTYPES))


def weight(rows: int, width: int, *, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    return scale * torch.randn(rows, width, generator=generator, dtype=torch.float64)


def of(held: Tensor) -> HeadFingerprint:
    return HeadFingerprint.of(Head(held), frozen=True)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@given(
    rows=st.integers(1, 150),
    width=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 0.02, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_precision_is_no_difference(
    ours: torch.dtype, theirs: torch.dtype, rows: int, width: int, scale: float, seed: int
) -> None:
    for original in (torch.float64, torch.float32, torch.bfloat16):
        stored = weight(rows, width, scale=scale, seed=seed).to(original)
        assert of(stored.to(ours)) == of(stored.to(theirs))
        assert hash(of(stored.to(ours))) == hash(of(stored.to(theirs)))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_precision_that_was_lost_before_is_none_either(ours: torch.dtype, theirs: torch.dtype) -> None:
    """A model that was loaded in one precision and widened for training is the model still."""
    stored = weight(90, 24).float()
    assert of(stored) == of(stored.to(ours).to(theirs))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "another model": lambda held: weight(*held.shape, scale=0.5, seed=1),
    "all a little larger": lambda held: held * 1.01,
    "all shifted a little": lambda held: held + 0.005,
    "trained a little": lambda held: held + weight(*held.shape, scale=0.01, seed=2),
    "its first row": lambda held: torch.cat([held[:1] * 1.1, held[1:]]),
    "its last row": lambda held: torch.cat([held[:-1], held[-1:] + 0.1]),
    "rows changed places": lambda held: held.flip(0),
    "columns changed places": lambda held: held.flip(1),
    "another sign": lambda held: -held,
    "nothing but zeros": torch.zeros_like,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_another_head_is_a_difference_in_any_precision(change: str, ours: torch.dtype, theirs: torch.dtype) -> None:
    stored = weight(300, 48, scale=0.5)
    assert of(stored.to(ours)) != of(CHANGES[change](stored).to(theirs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_one_precision_the_smallest_training_shows(dtype: torch.dtype) -> None:
    """A change of the size that bfloat16 keeps of some entries is seen where both are held alike."""
    stored = weight(300, 48, scale=0.5)
    trained = stored + weight(300, 48, scale=0.5e-3, seed=3)
    assert of(stored.to(dtype)) != of(trained.to(dtype))


def test_files_that_know_no_sample_are_told_apart_as_they_were() -> None:
    """Files of before hold the digest alone."""
    stored = weight(90, 24).float()

    def before(held: Tensor) -> HeadFingerprint:
        found = of(held)
        assert found.weights is not None
        return found.model_copy(update={"weights": found.weights.split()[0]})

    assert before(stored) == of(stored.bfloat16())
    assert before(stored) != of(stored + 1)
    assert of(stored + 1) != before(stored)


@pytest.mark.parametrize("damaged", ["", "no digest", "0 ???", "0 AAAA", "0 float16 AAAA", "0 float16 AAAAAA=="])
def test_a_damaged_fingerprint_is_another_one(damaged: str) -> None:
    found = of(weight(90, 24))
    assert found != found.model_copy(update={"weights": damaged})


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_saved_projectors_fit_a_teacher_in_any_precision(ours: torch.dtype, theirs: torch.dtype) -> None:
    def described(held: Tensor) -> object:
        heads = {"student_head": Head(weight(40, 8)), "teacher_head": Head(held)}
        return describe_loss(DSKDLoss(DSKDSpec(), student_hidden_size=8, teacher_hidden_size=12, **heads))

    stored = weight(40, 12)
    require_no_difference(described(stored.to(ours)), described(stored.to(theirs)))
    with pytest.raises(CheckpointError, match=r"heads\.teacher\.weights: saved '[0-9a-f]{12}\.\.\.', here"):
        require_no_difference(described(stored.to(ours)), described((stored + 1).to(theirs)))
