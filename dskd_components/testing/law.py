"""`Law`: one claim about components of a kind, with the function that tests it and the cases it is tried on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

Check = Callable[..., None]
"""Takes the component and a case; raises AssertionError where the claim does not hold."""

Cases = Callable[[Any], st.SearchStrategy[Mapping[str, Any]]]
"""Takes the component and returns a strategy of cases: the law's further arguments by name."""

AnyCheck = TypeVar("AnyCheck", bound=Check)


@dataclass(frozen=True, eq=False, kw_only=True)
class Law:
    """One claim, and what tests it.

    Args:
        kind: the kind of component that it is about.
        check: the function that tests it; the first paragraph of its docstring is the claim in words.
        cases: what it is tried on.
        claimed_by: whether a component claims it. A law that is not claimed is not tried.
        at_most: no more cases than this are tried, for laws that cost much or need few.
        always: cases that are tried whatever is drawn.
    """

    kind: str
    check: Check
    cases: Cases
    claimed_by: Callable[[Any], bool]
    at_most: int | None
    always: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The function's name."""
        return self.check.__name__

    @property
    def claim(self) -> str:
        """The first paragraph of the function's docstring, on one line."""
        paragraph, _, _ = (inspect.getdoc(self.check) or "").partition("\n\n")
        return " ".join(paragraph.split())

    @property
    def reason(self) -> str:
        """The rest of the docstring up to its sections: why it matters."""
        _, _, rest = (inspect.getdoc(self.check) or "").partition("\n\n")
        explanation, _, _ = rest.partition("Args:")
        return " ".join(explanation.split())


_catalogue: Final[dict[str, list[Law]]] = {}


def law(
    kind: str,
    *,
    cases: Cases,
    claimed_by: Callable[[Any], bool] = lambda _component: True,
    at_most: int | None = None,
    always: tuple[Mapping[str, Any], ...] = (),
) -> Callable[[AnyCheck], AnyCheck]:
    """Enter a function into the catalogue of laws, and leave it as it is, to be called by anybody.

    Args:
        kind: as in `Law`.
        cases: as in `Law`.
        claimed_by: as in `Law`; every component by default.
        at_most: as in `Law`.
        always: as in `Law`.

    Returns:
        A decorator.
    """

    def enter(check: AnyCheck) -> AnyCheck:
        entry = Law(kind=kind, check=check, cases=cases, claimed_by=claimed_by, at_most=at_most, always=always)
        _catalogue.setdefault(kind, []).append(entry)
        return check

    return enter


def entered_laws(kind: str) -> tuple[Law, ...]:
    """Return the laws about components of a kind that have been entered so far.

    Args:
        kind: ``"distance"``, ``"aligner"``, ``"projector"``, ``"space"`` or ``"schedule"``.
    """
    return tuple(_catalogue.get(kind, ()))
