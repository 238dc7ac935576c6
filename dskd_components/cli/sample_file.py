"""Samples in files: JSON Lines, a JSON list, or the standard input."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDARD_INPUT: Final = "-"


def read_samples(source: str, *, start: int = 0, count: int | None = None) -> list[Any]:
    """Return some samples of a file, each as its JSON says; what a sample is like, the collator knows.

    Args:
        source: The path of a file of JSON Lines, or of a JSON list if its name ends in ``.json``; ``-`` reads lines
            from the standard input.
        start: Which sample is the first.
        count: How many there are at most; None: all.

    Raises:
        ConfigurationError: It cannot be read, a line is no JSON, or there is no such sample.
    """
    if source == STANDARD_INPUT:
        return _some(_lines("<stdin>", sys.stdin), source, start, count)
    path = Path(source)
    try:
        with path.open(encoding="utf-8") as file:
            samples = _list(source, file) if path.suffix == ".json" else _lines(source, file)
            return _some(samples, source, start, count)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source}: expected a file of samples, JSON Lines in UTF-8: {error}") from error


def _some(samples: Iterator[Any], source: str, start: int, count: int | None) -> list[Any]:
    found = list(islice(samples, start, None if count is None else start + count))
    if not found:
        raise ConfigurationError(f"{source}: there is no sample {start}; the first one is sample 0.")
    return found


def _lines(source: str, file: TextIO) -> Iterator[Any]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield _parsed(source, line, number)


def _list(source: str, file: TextIO) -> Iterator[Any]:
    samples = _parsed(source, file.read(), 1)
    if not isinstance(samples, list):
        raise ConfigurationError(
            f"{source}: expected a JSON list of samples, got {type(samples).__name__}. A file with a sample on each "
            "line is called .jsonl."
        )
    yield from samples


def _parsed(source: str, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{source}:{line + error.lineno - 1}: expected a sample as JSON: {error.msg}, column {error.colno}."
        ) from error
