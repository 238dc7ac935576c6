"""Specs in files: read without running anything, every problem with the path of its field."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from pydantic import ValidationError

from dskd_components.errors import UnknownComponentError, did_you_mean
from dskd_components.spec.documents import read_json, read_yaml
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.spec.multi_teacher import MultiTeacherSpec, TeacherSpec
from dskd_components.spec.presets import preset_fields
from dskd_components.spec.problems import SpecFileError, SpecProblem, in_file_order, in_one_line, line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from pydantic_core import ErrorDetails

    from dskd_components.spec.documents import ParsedFile
    from dskd_components.spec.dskd_spec import PairSpec

    Spec = TypeVar("Spec")
    Pair = TypeVar("Pair", bound=PairSpec)
    Outcome: TypeAlias = tuple[Spec | None, list[SpecProblem]]
    Place: TypeAlias = tuple[object, ...]


Syntax = Literal["yaml", "json"]
"""What a file is written in."""

PRESET: Final = "preset"
"""The one key of a file that is no field of the spec."""

TEACHERS: Final = "teachers"
"""The key by which a spec of several teachers is known."""

OURS: Final = frozenset({"unknown_field", "unknown_term", "unusable_name", "value_error"})
"""Types of errors whose messages say already what came."""

LISTS: Final = frozenset({"tuple_type", "list_type"})
"""Types of errors of what is no list."""

OF_FILES: Final = {**dict.fromkeys(LISTS, "expected a list"), "dict_type": "expected a mapping, names with values"}
"""By type of an error, what pydantic says in words of Python, in those of files."""


def load_spec(path: str | Path) -> DSKDSpec:
    r"""Read a spec from a file: JSON if its name ends in ``.json``, YAML otherwise.

    A file holds the fields of `DSKDSpec`. It may start from a preset, ``preset: dskd-cma`` for example; its other
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
    text, syntax = read_text(path)
    return parse_spec(text, syntax=syntax, source=str(path))


def read_text(path: str | Path) -> tuple[str, Syntax]:
    """Return what a spec file holds, and the syntax that its name speaks of.

    Args:
        path: the file.

    Raises:
        SpecFileError: the file cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SpecFileError(str(path), [SpecProblem((), f"cannot be read: {error.strerror or error}")]) from error
    except UnicodeDecodeError as error:
        raise SpecFileError(str(path), [SpecProblem((), "cannot be read: it is not text in UTF-8")]) from error
    return text, "json" if path.suffix.lower() == ".json" else "yaml"


@overload
def parse_spec(text: str, *, syntax: Syntax = ..., source: str = ...) -> DSKDSpec: ...


@overload
def parse_spec(text: str, expected: type[Spec], *, syntax: Syntax = ..., source: str = ...) -> Spec: ...


@overload
def parse_spec(
    text: str, expected: None, *, syntax: Syntax = ..., source: str = ...
) -> DSKDSpec | MultiTeacherSpec: ...


def parse_spec(
    text: str,
    expected: Any = DSKDSpec,
    *,
    syntax: Syntax = "yaml",
    source: str = "<text>",
) -> Any:
    r"""Read a spec from a text; see `load_spec` and `load_multi_teacher_spec`.

    Args:
        text: what a file would hold.
        expected: `DSKDSpec` or `MultiTeacherSpec`; None: the latter, if the text has the key ``teachers``.
        syntax: of the text.
        source: what problems name as the file.

    Raises:
        SpecFileError: the text is not a valid spec.

    Examples:
        >>> parse_spec("distance: {name: skew_kl, alpha: 0.3}").distance
        SkewKL(name='skew_kl', alpha=0.3)
        >>> type(parse_spec("teachers: {large: {weight: 0.7}}", None)).__name__
        'MultiTeacherSpec'
        >>> parse_spec("distance: js\nkd_rate: hot", source="spec.yaml")
        Traceback (most recent call last):
        ...
        dskd_components.spec.problems.SpecFileError: spec.yaml:2: kd_rate: expected a number or a schedule: ...
    """
    return _parsed(text, syntax, source, READERS[expected])


def _parsed(text: str, syntax: Syntax, source: str, read: Callable[[ParsedFile], Outcome[Spec]]) -> Spec:
    """Return what a text says, or raise every reason why it says nothing.

    Args:
        text: what a file would hold.
        syntax: of the text.
        source: what problems name as the file.
        read: makes a spec of a document that is a mapping.

    Raises:
        SpecFileError: the text is not a valid spec.
    """
    try:
        document = read_json(text) if syntax == "json" else read_yaml(text)
        if document.problems:
            raise SpecFileError(source, in_file_order(document.problems, document.value))
        if not isinstance(document.value, dict):
            got = "nothing" if document.value is None else shown(document.value)
            message = f"expected the fields of a spec, `temperature: 2` for example, got {got}"
            raise SpecFileError(source, [SpecProblem((), message, 1)])
        spec, problems = read(document)
    except RecursionError:
        raise SpecFileError(source, [SpecProblem((), "nested more deeply than any spec is")]) from None
    if spec is None or problems:
        raise SpecFileError(source, in_file_order(problems, document.value))
    return spec


def _spec(document: ParsedFile) -> Outcome[DSKDSpec]:
    if TEACHERS in document.value:
        message = "this is a spec of several teachers, which load_multi_teacher_spec reads; DSKDSpec has one"
        return None, [SpecProblem((TEACHERS,), message, line_of((TEACHERS,), document.lines))]
    return spec_of(DSKDSpec, document.value, document)


def spec_of(cls: type[Pair], values: Mapping[Any, Any], document: ParsedFile, path: Place = ()) -> Outcome[Pair]:
    """Make a spec of a mapping, which may start from a preset.

    Args:
        cls: the kind of spec.
        values: the mapping.
        document: where it stands.
        path: what leads to it there.

    Returns:
        The spec, or None, and what is wrong.
    """
    fields, problems = dict(values), []
    preset: dict[str, Any] = {}
    if PRESET in fields:
        try:
            preset = preset_fields(_preset_name(fields.pop(PRESET)), cls.model_fields)
        except (UnknownComponentError, TypeError) as error:
            line = line_of((*path, PRESET), document.lines)
            problems.append(SpecProblem((*path, PRESET), in_one_line(str(error)), line))
    # Apart, because an unknown field would hide what is wrong with the others.
    unknown = {key: fields.pop(key) for key in list(fields) if key not in cls.model_fields}
    spec = None
    for part in (unknown, preset | fields):
        try:
            spec = cls.model_validate(part)
        except ValidationError as error:
            problems += problems_of(error, [PRESET, *cls.model_fields], document, path)
    return spec, problems


def _preset_name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected the name of a preset, got {shown(value)}")
    return value


def problems_of(
    error: ValidationError, known: list[str], document: ParsedFile, path: Place = ()
) -> Iterator[SpecProblem]:
    """Yield what is wrong with a mapping, each with its place in the file.

    Args:
        error: of the model that was made of it.
        known: the keys that it may have.
        document: where it stands.
        path: what leads to it there.
    """
    for details in error.errors(include_url=False, include_context=False):
        place = (*path, *(step for step in details["loc"] if step != "[key]"))
        yield SpecProblem(place, in_one_line(_message(details, known)), line_of(place, document.lines))


def _message(details: ErrorDetails, known: list[str]) -> str:
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if details["type"] == "unknown_field" and len(details["loc"]) == 1:
        name = details["loc"][0]
        return f"unknown field {name!r}{did_you_mean(name, known)}; the fields are {', '.join(known)}"
    if details["type"] in {*OURS, "missing"}:
        return message
    found = details["input"]
    message = OF_FILES.get(details["type"], message)
    as_list = f": write [{found}]" if details["type"] in LISTS and isinstance(found, str) else ""
    return f"{message}, got {shown(found)}{as_list}"


def shown(value: object) -> str:
    """Return a value as problems show it, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def load_multi_teacher_spec(path: str | Path) -> MultiTeacherSpec:
    r"""Read a spec of several teachers from a file; see `load_spec`.

    A file holds the fields of `MultiTeacherSpec`. What stands under a teacher's name may start from a preset,
    ``preset: dskd-cma`` for example, as a file of one teacher may.

    Args:
        path: the file.

    Raises:
        SpecFileError: the file cannot be read or is not a valid spec; one line for each problem, with its path.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "spec.yaml")
        ...     _ = file.write_text("teachers:\n  large: {preset: dskd-cma, weight: 0.7}\n  code: {aligner: span}")
        ...     list(load_multi_teacher_spec(file).teachers)
        ['large', 'code']
    """
    text, syntax = read_text(path)
    return parse_spec(text, MultiTeacherSpec, syntax=syntax, source=str(path))


def _either(document: ParsedFile) -> Outcome[DSKDSpec | MultiTeacherSpec]:
    of_several = TEACHERS in document.value
    return _multi_teacher_spec(document) if of_several else spec_of(DSKDSpec, document.value, document)


def _multi_teacher_spec(document: ParsedFile) -> Outcome[MultiTeacherSpec]:
    fields, problems = dict(document.value), []
    if PRESET in fields:
        del fields[PRESET]
        message = f"a preset is a teacher's own; write it below each of them, {TEACHERS}.NAME.{PRESET}"
        problems.append(SpecProblem((PRESET,), message, line_of((PRESET,), document.lines)))
    if isinstance(fields.get(TEACHERS), dict):
        fields[TEACHERS], found = _teachers(fields[TEACHERS], document)
        problems += found
    known = list(MultiTeacherSpec.model_fields)
    # Apart, because an unknown field would hide what is wrong with the others.
    unknown = {key: fields.pop(key) for key in list(fields) if key not in known}
    spec = None
    for part in ({TEACHERS: {"any": TeacherSpec()}} | unknown, fields):
        try:
            spec = MultiTeacherSpec.model_validate(part)
        except ValidationError as error:
            problems += problems_of(error, known, document)
    return spec, problems


def _teachers(values: dict[Any, Any], document: ParsedFile) -> tuple[dict[Any, TeacherSpec], list[SpecProblem]]:
    """Return the teachers; in place of one that is not valid, another, so that the rest is still looked at."""
    teachers, problems = {}, []
    for name, fields in values.items():
        path = (TEACHERS, name)
        spec = None
        if isinstance(fields, dict):
            spec, found = spec_of(TeacherSpec, fields, document, path)
            problems += found
        else:
            message = f"expected the fields of a teacher, `weight: 0.5` for example, got {shown(fields)}"
            problems.append(SpecProblem(path, message, line_of(path, document.lines)))
        teachers[name] = spec or TeacherSpec()
    return teachers, problems


READERS: Final[Mapping[type[DSKDSpec | MultiTeacherSpec] | None, Callable[[ParsedFile], Outcome[Any]]]] = {
    DSKDSpec: _spec,
    MultiTeacherSpec: _multi_teacher_spec,
    None: _either,
}
"""By what is expected, how a spec is made of a file."""
