"""A document as plain values, with the line of each, and whatever kept a value from being read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dskd_components.spec_file.problems import SpecProblem


@dataclass
class Document:
    """What a file says.

    Args:
        value: mappings, lists, strings, numbers, truth values and None.
        lines: the line of the value at each path, as far as it is known.
        problems: what could not be read.
    """

    value: Any = None
    lines: dict[tuple[object, ...], int] = field(default_factory=dict)
    problems: list[SpecProblem] = field(default_factory=list)
