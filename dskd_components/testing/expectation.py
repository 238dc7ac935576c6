"""Expectations that a law states: what was expected and what was found, in words, where they part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.testing.printing import number, numbers_apart

if TYPE_CHECKING:
    from torch import Tensor


def expect(holds: bool | Tensor, message: str) -> None:
    """Raise AssertionError with a message unless something holds.

    Args:
        holds: a truth, or a bool tensor of which all entries must be true.
        message: what was expected and what came.

    Examples:
        >>> expect(1 + 1 == 2, "expected arithmetic to hold")
    """
    __tracebackhide__ = True
    if not bool(holds if isinstance(holds, bool) else holds.all()):
        raise AssertionError(message)


def expect_finite(found: Tensor, what: str) -> None:
    """Raise AssertionError that names the first entry which is NaN or infinite, if there is one.

    Args:
        found: any tensor.
        what: what the tensor is, in words.
    """
    __tracebackhide__ = True
    bad = ~found.isfinite()
    if bad.any():
        place = bad.nonzero()[0].tolist()
        raise AssertionError(f"{what}: expected finite numbers, found {number(found[tuple(place)])} at {place}.")


def expect_close(found: Tensor, expected: Tensor, what: str, *, rtol: float = 1e-7, atol: float = 1e-9) -> None:
    """Raise AssertionError that names the entry which is furthest off, if one is off by more than the tolerance.

    Args:
        found: any tensor.
        expected: what it should be, of the same shape.
        what: what the tensor is, in words.
        rtol: tolerance relative to the expected entry.
        atol: tolerance on top of that.

    Examples:
        >>> expect_close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), "the distance of each row")
        Traceback (most recent call last):
            ...
        AssertionError: the distance of each row: expected 3, found 2 at [1].
    """
    __tracebackhide__ = True
    if found.shape != expected.shape:
        raise AssertionError(f"{what}: expected shape {list(expected.shape)}, found {list(found.shape)}.")
    if found.dtype == torch.bool or not found.is_floating_point():
        wrong = found != expected
        excess = wrong.double()
    else:
        found, expected = found.detach().double(), expected.detach().double()
        excess = ((found - expected).abs() - atol - rtol * expected.abs()).where(found != expected, -1.0)
        excess = excess.nan_to_num(nan=torch.inf)
        wrong = excess > 0
    if wrong.any():
        place = [int(index) for index in torch.unravel_index(excess.argmax(), excess.shape)]
        off, wanted = numbers_apart(found[tuple(place)], expected[tuple(place)])
        raise AssertionError(f"{what}: expected {wanted}, found {off} at {place}.")


def expect_equal(found: Tensor, expected: Tensor, what: str) -> None:
    """Raise AssertionError that names the first entry which differs; NaN equals NaN here.

    Args:
        found: any tensor.
        expected: what it should be, bit by bit.
        what: what the tensor is, in words.
    """
    __tracebackhide__ = True
    if found.dtype != expected.dtype:
        raise AssertionError(f"{what}: expected dtype {expected.dtype}, found {found.dtype}.")
    if found.is_floating_point():
        both_nan = found.isnan() & expected.isnan() if found.shape == expected.shape else None
        found = found if both_nan is None else found.masked_fill(both_nan, 0.0)
        expected = expected if both_nan is None else expected.masked_fill(both_nan, 0.0)
    expect_close(found, expected, what, rtol=0.0, atol=0.0)
