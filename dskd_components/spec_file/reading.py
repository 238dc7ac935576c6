"""`load_spec`: from a file to a `DSKDSpec`, or to every reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from dskd_components.contracts.component import did_you_mean
from dskd_components.errors import UnknownComponentError
from dskd_components.presets import preset_fields
from dskd_components.spec import DSKDSpec
from dskd_components.spec_file.json_document import read_json
from dskd_components.spec_file.problems import SpecFileError, SpecProblem, in_one_line, line_of
from dskd_components.spec_file.yaml_document import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_core import ErrorDetails

    from dskd_components.spec_file.document import Document

PRESET: Final = "preset"
"""The one key of a file that is no field of the spec."""

OURS: Final = frozenset({"unknown_field", "unusable_name", "value_error"})
"""Types of errors whose messages say already what came."""


def load_spec(path: str | Path) -> DSKDSpec:
    r"""Read a spec from a file: JSON if its name ends in ``.json``, YAML otherwise.

    A file holds the fields of `DSKDSpec`. It may start from a published method with ``preset: dskd-cma``; its other
    fields then replace those of the preset. Nothing in a file is ever executed or imported: components are found by
    name among the installed plugins.

    Args:
        path: the file.

    Raises:
        SpecFileError: the file cannot be read or is not a valid spec; one line for each problem, with its path.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "spec.yaml")
        ...     _ = file.write_text("preset: dskd-cma\ntemperature: 2")
        ...     load_spec(file) == DSKDSpec.preset("dskd-cma", temperature=2)
        True
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SpecFileError(str(path), [SpecProblem((), f"cannot be read: {error.strerror or error}")]) from error
    except UnicodeDecodeError as error:
        raise SpecFileError(str(path), [SpecProblem((), "cannot be read: it is not text in UTF-8")]) from error
    return parse_spec(text, syntax="json" if path.suffix.lower() == ".json" else "yaml", source=str(path))


def parse_spec(text: str, *, syntax: Literal["yaml", "json"] = "yaml", source: str = "<text>") -> DSKDSpec:
    r"""Read a spec from a text; see `load_spec`.

    Args:
        text: what a file would hold.
        syntax: of the text.
        source: what problems name as the file.

    Raises:
        SpecFileError: the text is not a valid spec.

    Examples:
        >>> parse_spec("distance: {name: skew_kl, alpha: 0.3}").distance
        SkewKL(name='skew_kl', alpha=0.3)
        >>> parse_spec("distance: js\nkd_rate: hot", source="spec.yaml")
        Traceback (most recent call last):
        ...
        dskd_components.spec_file.problems.SpecFileError: spec.yaml:2: kd_rate: Input should be ...
    """
    try:
        document = read_json(text) if syntax == "json" else read_yaml(text)
        spec, problems = _spec(document)
    except RecursionError:
        raise SpecFileError(source, [SpecProblem((), "nested more deeply than any spec is")]) from None
    if spec is None or problems:
        raise SpecFileError(source, problems)
    return spec


def _spec(document: Document) -> tuple[DSKDSpec | None, list[SpecProblem]]:
    if document.problems:
        return None, document.problems
    if not isinstance(document.value, dict):
        got = "nothing" if document.value is None else _shown(document.value)
        return None, [SpecProblem((), f"expected the fields of a spec, `temperature: 2` for example, got {got}", 1)]
    fields, problems = dict(document.value), []
    preset: dict[str, Any] = {}
    if PRESET in fields:
        try:
            preset = preset_fields(_preset_name(fields.pop(PRESET)))
        except (UnknownComponentError, TypeError) as error:
            line = line_of((PRESET,), document.lines)
            problems.append(SpecProblem((PRESET,), in_one_line(str(error)), line))
    # Apart, because an unknown field would hide what is wrong with the others.
    unknown = {key: fields.pop(key) for key in list(fields) if key not in DSKDSpec.model_fields}
    spec = None
    for part in (unknown, preset | fields):
        try:
            spec = DSKDSpec.model_validate(part)
        except ValidationError as error:
            problems += _problems(error, document)
    return spec, problems


def _preset_name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected the name of a preset, got {_shown(value)}")
    return value


def _problems(error: ValidationError, document: Document) -> Iterator[SpecProblem]:
    for details in error.errors(include_url=False, include_context=False):
        path = details["loc"]
        yield SpecProblem(path, in_one_line(_message(details)), line_of(path, document.lines))


def _message(details: ErrorDetails) -> str:
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if details["type"] == "unknown_field" and len(details["loc"]) == 1:
        known = [PRESET, *DSKDSpec.model_fields]
        name = details["loc"][0]
        return f"unknown field {name!r}{did_you_mean(name, known)}; the fields are {', '.join(known)}"
    return message if details["type"] in {*OURS, "missing"} else f"{message}, got {_shown(details['input'])}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
