"""Spec files of several teachers, known by the key ``teachers``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from dskd_components.multi_teacher_spec import MultiTeacherSpec, TeacherSpec
from dskd_components.spec import DSKDSpec
from dskd_components.spec_file.problems import SpecProblem, line_of
from dskd_components.spec_file.reading import PRESET, TEACHERS, parsed, problems_of, read_text, shown, spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from dskd_components.spec_file.document import Document
    from dskd_components.spec_file.reading import Outcome, Syntax


def load_multi_teacher_spec(path: str | Path) -> MultiTeacherSpec:
    r"""Read a spec of several teachers from a file; see `load_spec`.

    A file holds the fields of `MultiTeacherSpec`. What stands under a teacher's name may start from a published method
    with ``preset: dskd-cma``, as a file of one teacher may.

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
    return parse_multi_teacher_spec(text, syntax=syntax, source=str(path))


def parse_multi_teacher_spec(text: str, *, syntax: Syntax = "yaml", source: str = "<text>") -> MultiTeacherSpec:
    """Read a spec of several teachers from a text; see `load_multi_teacher_spec`.

    Args:
        text: what a file would hold.
        syntax: of the text.
        source: what problems name as the file.

    Raises:
        SpecFileError: the text is not a valid spec.
    """
    return parsed(text, syntax, source, _multi_teacher_spec)


def parse_either_spec(text: str, *, syntax: Syntax = "yaml", source: str = "<text>") -> DSKDSpec | MultiTeacherSpec:
    """Read a spec of either kind: of several teachers, if there is the key ``teachers``.

    Args:
        text: what a file would hold.
        syntax: of the text.
        source: what problems name as the file.

    Raises:
        SpecFileError: the text is not a valid spec.

    Examples:
        >>> type(parse_either_spec("kd_rate: 0.3")).__name__
        'DSKDSpec'
    """
    return cast("DSKDSpec | MultiTeacherSpec", parsed(text, syntax, source, _either))


def _either(document: Document) -> Outcome[DSKDSpec | MultiTeacherSpec]:
    of_several = TEACHERS in document.value
    return _multi_teacher_spec(document) if of_several else spec_of(DSKDSpec, document.value, document)


def _multi_teacher_spec(document: Document) -> Outcome[MultiTeacherSpec]:
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


def _teachers(values: dict[Any, Any], document: Document) -> tuple[dict[Any, TeacherSpec], list[SpecProblem]]:
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
