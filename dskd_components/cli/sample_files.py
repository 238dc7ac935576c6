"""Samples from the files that people have: texts, JSON lines, JSON, tables; each with the place where it stands."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dskd_components.cli.terminal import standard_input
from dskd_components.collation.samples import Columns
from dskd_components.errors import ConfigurationError, as_sentence, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

LINES: Final = frozenset({".jsonl", ".ndjson"})
TABLES: Final = {".csv": ",", ".tsv": "\t"}
INVALID: Final = (ValueError, RecursionError)
"""What a parser of JSON raises; the second for what is nested too deeply."""

PLAIN: Final = frozenset({"text", "prompt", "response"})
"""What may be a text by itself."""

NAMED: Final = 3
"""How many bad lines an error names."""


STANDARD_INPUT: Final = "-"
"""In place of a file's path."""


class PlacedSample(NamedTuple):
    """A sample of a file.

    Args:
        place: file and line, in the form in which editors jump to it.
        sample: a mapping, as the collator takes it.
    """

    place: str
    sample: Any


def read_samples(path: Path, most: int, columns: Columns | None = None) -> list[PlacedSample]:
    """Read the first samples of a file.

    What is in the file counts, whatever it is called: JSON is known by how it begins. A text by itself is a sample, and
    so is a list of messages.

    Args:
        path: JSON lines, JSON (a list, or columns), CSV, TSV, Parquet, or a text with blank lines between samples; it
            may be compressed with gzip, if its name ends in ``.gz``. ``-`` is the standard input.
        most: how many samples are read.
        columns: what the keys of a sample are called.

    Raises:
        ConfigurationError: the file cannot be read, holds nothing, or has lines that are no samples; the message names
            file and line.
    """
    name = path.name.lower().removesuffix(".gz")
    suffix = name[name.rfind(".") :] if "." in name else ""
    columns = columns or Columns()
    if suffix == ".parquet":
        found = _parquet(path)
    else:
        text = _text(path)
        if suffix in TABLES:
            found = _table(path, text, TABLES[suffix], columns)
        elif suffix in LINES or suffix == ".json" or _is_json(text):
            found = _json(path, text, columns)
        else:
            found = _paragraphs(path, text)
    samples, faults = [], []
    for place, value in found:
        if isinstance(value, _Fault):
            faults.append(f"{place}: {value.message}")
            continue
        sample = _sample(value, columns)
        if sample is None:
            faults.append(f"{place}: expected an object, a text or a list of messages, got {value!r:.60}")
        else:
            samples.append(PlacedSample(place, sample))
        if len(samples) == most:
            break
    if faults:
        more = f"\n... and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise ConfigurationError("\n".join(faults[:NAMED]) + more)
    if not samples:
        raise ConfigurationError(f"{path}: the file holds no samples.")
    return samples


def columns_named(names: str | None, ignore: str | None = None) -> Columns:
    """Return what keys are called, as ``--columns`` and ``--ignore`` say.

    Args:
        names: ``prompt=question,response=answer``.
        ignore: ``id,source``, or ``unknown`` for all that are not known.

    Raises:
        ConfigurationError: it is of another form, or samples have no such part.
    """
    known = [each.name for each in fields(Columns) if each.init and each.name != "ignore"]
    keys: dict[str, str] = {}
    for entry in _listed(names):
        field, equals, key = (part.strip() for part in entry.partition("="))
        if field not in known or not equals or not key:
            raise ConfigurationError(
                f"--columns {names}: expected NAME=KEY with commas in between, NAME one of {', '.join(known)}"
                f"{did_you_mean(field, known)}."
            )
        if field in keys:
            raise ConfigurationError(f"--columns {names}: {field!r} is named twice, {keys[field]!r} and {key!r}.")
        keys[field] = key
    ignored = _listed(ignore)
    return Columns(**keys, ignore="unknown" if ignored == ["unknown"] else ignored)


def options_hint(messages: Iterable[str]) -> str:
    """Return what the columns that errors of samples speak of are as options; nothing if none does.

    Args:
        messages: of the errors.
    """
    if not any("columns=Columns(" in message for message in messages):
        return ""
    return "On the command line these are --columns NAME=KEY,... and --ignore KEY,..."


def _listed(values: str | None) -> list[str]:
    return [value.strip() for value in (values or "").split(",") if value.strip()]


class _Fault(NamedTuple):
    """What is wrong in place of a sample."""

    message: str


def _text(path: Path) -> str:
    try:
        content = standard_input() if str(path) == STANDARD_INPUT else path.read_bytes()
        return (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(
            f"{path}:{line}: expected text in UTF-8, got other bytes. Save it as UTF-8."
        ) from error
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{path}: cannot be read: {as_sentence(reason)}") from error


def _is_json(text: str) -> bool:
    """Whether a text is JSON, or lines of it, rather than words that begin with a bracket."""
    first, _, _ = text.lstrip().partition("\n")
    if first[:1] not in {"{", "["}:
        return first[:1] == '"' and _loads(first) is not None and _loads(text.strip().rpartition("\n")[2]) is not None
    return isinstance(_loads(first), dict | list) or isinstance(_loads(text), dict | list)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except INVALID:
        return None


def _json(path: Path, text: str, columns: Columns) -> Iterator[tuple[str, Any]]:
    """Values of a file that is one JSON document, or has one on each line."""
    try:
        document = json.loads(text)
    except INVALID as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and (path.suffix.lower() != ".json" or _loads(lines[0]) is not None):
            yield from _json_lines(path, text)
            return
        line, message = (getattr(error, name, None) for name in ("lineno", "msg"))
        yield f"{path}:{line or 1}", _Fault(f"not valid JSON: {message or error}")
        return
    if isinstance(document, list) and not _is_chat(document):
        yield from zip(_lines_of_elements(path, text), document, strict=True)
    elif isinstance(document, dict):
        yield from _of_object(path, document, columns)
    else:
        yield f"{path}:1", document


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines: JSON may have other line separators within a text.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except INVALID as error:
                yield f"{path}:{number}", _Fault(f"not valid JSON: {error}")


def _lines_of_elements(path: Path, text: str) -> Iterator[str]:
    """Where each element of a list begins."""
    decoder, blanks = json.JSONDecoder(), re.compile(r"[\s,]*")
    place = text.index("[") + 1
    line, counted = 1, 0
    while True:
        place = blanks.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing at all, too
        if text[place] == "]":
            return
        line, counted = line + text.count("\n", counted, place), place
        yield f"{path}:{line}"
        _, place = decoder.raw_decode(text, place)


def _of_object(path: Path, document: dict[str, Any], columns: Columns) -> Iterator[tuple[str, Any]]:
    """An object is one sample, or has columns of samples, or a list of samples under a name of its own."""
    known = {key: value for key, value in document.items() if columns.meaning_of(key) or key == "input_ids"}
    lists = [value for value in document.values() if isinstance(value, list)]
    if known:
        if any(_is_column(key, value, columns) for key, value in known.items()):
            yield from _of_columns(path, document)
        else:
            yield f"{path}:1", document
    elif len(lists) == 1:
        [(name, values)] = [(key, value) for key, value in document.items() if isinstance(value, list)]
        yield from ((f"{path}:{name}[{number}]", value) for number, value in enumerate(values))
    else:
        yield f"{path}:1", document


def _is_column(key: str, value: Any, columns: Columns) -> bool:
    """Whether a value is one for each of several samples."""
    if not isinstance(value, list) or not value:
        return False
    if columns.meaning_of(key) in PLAIN:
        return not _is_chat(value)
    return isinstance(value[0], list) and columns.meaning_of(key) != "tools"


def _of_columns(path: Path, document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    lengths = {key: len(value) if isinstance(value, list) else None for key, value in document.items()}
    if len(set(lengths.values())) > 1:
        yield f"{path}:1", _Fault(f"expected columns of one length, got {lengths}")
        return
    for number, row in enumerate(zip(*document.values(), strict=True)):
        yield f"{path}:[{number}]", dict(zip(document, row, strict=True))


def _table(path: Path, text: str, delimiter: str, columns: Columns) -> Iterator[tuple[str, Any]]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    last = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"{path}:{last + 1}", _Fault(f"not a valid table: {error}")
            return
        place, last = f"{path}:{last + 1}", rows.line_num
        if names is None:
            names = row
        elif row and len(row) != len(names):
            yield place, _Fault(f"expected {len(names)} cells ({', '.join(names)}), got {len(row)}")
        elif row:
            # An empty cell of what a sample need not have is none.
            cells = zip(names, row, strict=True)
            yield place, {name: cell for name, cell in cells if cell or columns.meaning_of(name) in PLAIN}


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigurationError(
            f"{path}: to read Parquet, pyarrow is needed: pip install pyarrow. Or write JSON lines: "
            f"pandas.read_parquet({path.name!r}).to_json('samples.jsonl', orient='records', lines=True)."
        ) from error
    try:
        file = parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                yield f"{path}:[{number}]", row
                number += 1
    except (OSError, ValueError) as error:  # among them pyarrow's own
        raise ConfigurationError(f"{path}: cannot be read: {str(error).splitlines()[0]}.") from error


def _paragraphs(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    line = 1
    for number, part in enumerate(re.split(r"(\n[^\S\n]*\n\s*)", text)):
        if number % 2 == 0 and part.strip():
            yield f"{path}:{line + part[: len(part) - len(part.lstrip())].count(chr(10))}", part
        line += part.count("\n")


def _sample(value: Any, columns: Columns) -> Any:
    """What the collator takes for a value; None for what can be no sample."""
    if isinstance(value, str):
        return {columns.text: value}
    if isinstance(value, list) and _is_chat(value):
        return {columns.messages: value}
    return value if isinstance(value, Mapping) else None


def _is_chat(values: Iterable[Any]) -> bool:
    """Whether a list has messages, rather than samples."""
    return all(isinstance(value, Mapping) and ("role" in value or "from" in value) for value in values) and bool(values)
