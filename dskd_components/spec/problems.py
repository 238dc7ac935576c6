"""What is wrong in a spec file: one problem a line, each with file, line and path of the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Path = tuple[object, ...]


@dataclass(frozen=True)
class SpecProblem:
    """One problem of a spec file.

    Args:
        path: keys and positions that lead to the value, from the outside in; empty if it concerns the whole file.
        message: what was expected and what came, in one line.
        line: the line of the file, from 1; None where it is not known, as in JSON.

    Examples:
        >>> print(SpecProblem(("spaces", 1, "distance", "alpha"), "expected a number below 1, got 2"))
        spaces[1].distance.alpha: expected a number below 1, got 2
    """

    path: Path
    message: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {self.message}" if self.path else self.message


class SpecFileError(ConfigurationError):
    """A spec file cannot be read, or what it says is not a spec. The text has one line for each problem.

    Args:
        source: name of the file.
        problems: what is wrong, at least one.
    """

    def __init__(self, source: str, problems: Iterable[SpecProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(source, self.problems)

    def __str__(self) -> str:
        return "\n".join(f"{self.place(problem)}: {problem}" for problem in self.problems)

    def place(self, problem: SpecProblem) -> str:
        """Return file and line of a problem, in the form in which editors jump to it."""
        return self.source if problem.line is None else f"{self.source}:{problem.line}"


def path_text(path: Path) -> str:
    r"""Return a path as it is written in Python and most tools.

    Examples:
        >>> path_text(("spaces", 0, "distance", "alpha"))
        'spaces[0].distance.alpha'
        >>> path_text(("two words", None))
        "['two words'][None]"
    """
    steps = (f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]" for step in path)
    return "".join(steps).removeprefix(".")


def in_one_line(text: str) -> str:
    """Return a text without line breaks and other characters that move a cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def in_file_order(problems: Iterable[SpecProblem], value: object) -> list[SpecProblem]:
    """Return problems in the order in which a file has what they are about; whatever concerns all of it comes first.

    Args:
        problems: in any order.
        value: what the file says, its mappings in the order of the file.
    """
    return sorted(problems, key=lambda problem: (problem.line or 0, _position(problem.path, value)))


def _position(path: Path, value: object) -> tuple[int, ...]:
    """Return where a path leads to, step by step; a key that is missing stands behind those that are there."""
    position = []
    for step in path:
        inner: dict[object, object] = value if isinstance(value, dict) else {}
        if isinstance(value, list):
            inner = dict(enumerate(value))
        position.append(list(inner).index(step) if step in inner else len(inner))
        value = inner.get(step)
    return tuple(position)


def line_of(path: Path, lines: Mapping[Path, int]) -> int | None:
    """Return the line of a value, or that of the nearest thing around it that is in the file."""
    for length in range(len(path), -1, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None
