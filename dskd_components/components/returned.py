"""What a component hands back in a loss: held to what its kind promises, before anything is made of it.

A tensor of another shape would be broadcast or cut somewhere further on, and give a number that looks like a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

import torch
from torch import Tensor

from dskd_components.components.component import Component
from dskd_components.components.terms import OF_STUDENT, Denominator, Tally, TokenTerm
from dskd_components.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence

ADVICE: Final = "`dskd check` tries this, and all else that a component promises."
"""What every message ends with."""


def called(owner: object) -> str:
    """Return what messages call a component, or a module that one has built.

    Examples:
        >>> from dskd_components.distances import KL
        >>> called(KL())
        "the distance 'kl' (dskd_components.distances.kl.KL)"
    """
    cls = type(owner)
    place = f"{cls.__module__}.{cls.__qualname__}"
    return f"the {owner.kind} {owner.name!r} ({place})" if isinstance(owner, Component) else f"`{place}`"


def broken_promise(owner: object, expected: str, found: object) -> PluginError:
    """Return the error that says what a component should have handed back.

    Args:
        owner: the component, or the module that it has built.
        expected: what it promises, as it follows "expected".
        found: what came.
    """
    return complaint(owner, f"expected {expected}, got {_described(found)}.")


def complaint(owner: object, sentence: str) -> PluginError:
    """Return the error that says something of a component.

    Args:
        owner: the component, or the module that it has built.
        sentence: what is to be said.
    """
    return PluginError(_capital(f"{called(owner)}: {sentence} {ADVICE}"))


def require_tensor(
    owner: object,
    what: str,
    found: object,
    shape: Sequence[int | torch.SymInt],
    like: Tensor,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return a tensor that a component has handed back, once it is known to be what was promised.

    Only what the host knows is looked at: no value is.

    Args:
        owner: the component, or the module that it has built.
        what: for the message: ``"__call__(...) to return"``.
        found: what came.
        shape: that it should have.
        like: a tensor of the device, and of the dtype unless another is given.
        dtype: that it should have.

    Raises:
        PluginError: it is something else.
    """
    dtype = dtype or like.dtype
    fits = (
        isinstance(found, Tensor)
        and found.dtype == dtype
        and found.device == like.device
        and found.ndim == len(shape)
        and all(size == wanted for size, wanted in zip(found.shape, shape, strict=True))
    )
    if not fits:
        sizes = ", ".join(str(size) for size in shape)
        expected = f"{what} {_of(dtype)} [{sizes}] on {like.device}"
        if isinstance(found, Tensor) and found.is_floating_point() and dtype.is_floating_point and found.dtype != dtype:
            # Not narrowed here: to compute in float64 unawares is slow on accelerators, and some have none.
            narrowed = "Compute in any precision, and return that of the arguments: `.to(dtype)` at the end."
            raise complaint(owner, f"expected {expected}, got {_described(found)}. {narrowed}")
        raise broken_promise(owner, expected, found)
    assert isinstance(found, Tensor)
    return found


class Names:
    """Whose the terms and metrics of a batch are: each name is that of one component."""

    def __init__(self) -> None:
        self._owners: dict[str, Component] = {}

    def claim(self, name: str, owner: Component) -> None:
        """Take note of a name.

        Args:
            name: of a term or metric.
            owner: whose it is.

        Raises:
            PluginError: it is another component's.
        """
        first = self._owners.setdefault(name, owner)
        if first is not owner:
            raise PluginError(
                _capital(f"{called(first)} and {called(owner)} both give {name!r}; one of them would be lost, or both ")
                + "be added up. Have a component's terms and metrics begin with its name."
            )


def require_terms(owner: object, terms: object, rows: int | None, like: Tensor) -> None:
    """Refuse terms that are no values of rows.

    Args:
        owner: the component, or the module that it has built.
        terms: what came in the place of terms by name.
        rows: how many rows there are; None: as many as the values.
        like: a tensor of the device.

    Raises:
        PluginError: they are something else, or have a name that the student's own terms have.
    """
    for name, term in _named(owner, "terms", terms):
        if not isinstance(term, TokenTerm):
            raise broken_promise(owner, f"terms[{name!r}] to be a TokenTerm", term)
        if name in OF_STUDENT:
            raise broken_promise(owner, f"terms of names other than {' and '.join(map(repr, OF_STUDENT))}", name)
        values, what = term.values, f"terms[{name!r}]"
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.ndim != 1:
            sizes = "N" if rows is None else rows
            raise broken_promise(owner, f"{what}.values to be floating-point numbers [{sizes}]", values)
        count = len(values) if rows is None else rows
        require_tensor(owner, f"{what}.values to be", values, [count], like, dtype=values.dtype)
        for mask in ("keep", "eligible"):
            chosen = getattr(term, mask)
            if chosen is not None:
                require_tensor(owner, f"{what}.{mask} to be", chosen, [count], like, dtype=torch.bool)
        if term.denominator not in get_args(Denominator):
            raise broken_promise(
                owner, f"{what}.denominator to be {' or '.join(map(repr, get_args(Denominator)))}", term.denominator
            )


def require_metrics(owner: object, metrics: object) -> None:
    """Refuse metrics that are no sums with counts.

    Args:
        owner: the component, or the module that it has built.
        metrics: what came in the place of metrics by name.

    Raises:
        PluginError: they are something else.
    """
    for name, tally in _named(owner, "metrics", metrics):
        parts = (tally.total, tally.count) if isinstance(tally, Tally) else (tally,)
        for part in parts:
            if len(parts) == 1 or not isinstance(part, Tensor) or part.ndim:
                raise broken_promise(owner, f"metrics[{name!r}] to be a Tally of two scalar tensors", part)


def _named(owner: object, what: str, found: object) -> list[tuple[str, Any]]:
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise broken_promise(owner, f"{what} to be a mapping by name", found)
    return list(found.items())


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _described(found: object) -> str:
    if isinstance(found, Tensor):
        return f"{_of(found.dtype)} {list(found.shape)} on {found.device}"
    if found is None or isinstance(found, str):
        return repr(found)
    return f"the class {found.__name__}" if isinstance(found, type) else f"an object of type {type(found).__name__}"


def _of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
