"""A fault on purpose: something faulty, and the law that is there to catch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Fault:
    """What is faulty, and which law catches it."""

    what: str
    faulty: Any
    law: str


def collected(faults: list[Fault], what: str, law: str) -> Callable[[Any], Any]:
    """A decorator that adds a function, or an instance of a class, to a list of faults."""

    def collect(faulty: Any) -> Any:
        faults.append(Fault(what, faulty() if isinstance(faulty, type) else faulty, law))
        return faulty

    return collect
