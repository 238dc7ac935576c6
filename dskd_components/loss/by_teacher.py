"""What is given, and given back, by the names of a spec's teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from dskd_components.components.terms import OF_STUDENT
from dskd_components.errors import InputError
from dskd_components.models.batch import require_known_teachers

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.errors import ConfigurationError
    from dskd_components.spec.multi_teacher import MultiTeacherSpec

Given = TypeVar("Given")


def for_some(spec: MultiTeacherSpec, argument: str, given: Mapping[str, Given] | None) -> Mapping[str, Given]:
    """Return what is given for some of the teachers, once it is known to be for no others; nothing for None.

    Args:
        spec: has the teachers.
        argument: what the message calls it.
        given: by teacher.

    Raises:
        InputError: it is no mapping, or has a name that is no teacher's.
    """
    if given is None:
        return {}
    _require_known(spec, argument, given)
    return given


def require_all(
    spec: MultiTeacherSpec,
    argument: str,
    given: Mapping[str, object],
    what: str,
    error: type[InputError] | type[ConfigurationError] = InputError,
) -> None:
    """Refuse what is not given for each of the teachers, or is for others.

    Args:
        spec: has the teachers.
        argument: what the message calls it.
        given: by teacher.
        what: what there must be for each.
        error: what is raised where there is none for a teacher.

    Raises:
        InputError: it is no mapping, or has a name that is no teacher's, or lacks a teacher.
        ConfigurationError: it lacks a teacher, and that is to be raised.
    """
    _require_known(spec, argument, given)
    missing = [repr(name) for name in spec.teachers if name not in given]
    if missing:
        raise error(
            f"{argument}: expected {what} for each teacher of the spec, but there is none for {', '.join(missing)}."
        )


def _require_known(spec: MultiTeacherSpec, argument: str, given: object) -> None:
    names = list(spec.teachers)
    if not isinstance(given, Mapping):
        raise InputError(
            f"{argument}: expected a mapping by teacher's name, of {', '.join(map(repr, names))}, got "
            f"{type(given).__name__}."
        )
    require_known_teachers(argument, given, names, source="the spec's teachers are", error=InputError)


def merged_values(by_teacher: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return all values; each teacher's under its name, but for those of the student alone.

    Args:
        by_teacher: values by term, by teacher.

    Examples:
        >>> import torch
        >>> merged_values({"large": {"ce": torch.tensor(1), "kd": torch.tensor(2)}})
        {'ce': tensor(1), 'large/kd': tensor(2)}
    """
    return {
        term if term in OF_STUDENT else f"{name}/{term}": value
        for name, values in by_teacher.items()
        for term, value in values.items()
    }
