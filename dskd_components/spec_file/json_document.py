"""JSON as plain data. A key that is written twice is a problem here, where Python would keep the last."""

from __future__ import annotations

import json
from typing import Any

from dskd_components.spec_file.document import Document
from dskd_components.spec_file.problems import SpecProblem, in_one_line


def read_json(text: str) -> Document:
    """Read one JSON document.

    Args:
        text: the content of a file.
    """
    try:
        value = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        return Document(problems=[SpecProblem((), f"not valid JSON: {error.msg}", error.lineno)])
    except ValueError as error:  # an integer of more than some thousand digits
        return Document(problems=[SpecProblem((), f"not valid JSON: {in_one_line(str(error))}")])
    document = Document()
    document.value = _plain(value, (), document)
    return document


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of one mapping, in the order of the file."""


def _plain(value: Any, path: tuple[object, ...], document: Document) -> Any:
    if isinstance(value, _Pairs):
        found: dict[str, Any] = {}
        for key, inner in value:
            if key in found:
                document.problems.append(SpecProblem((*path, key), "written twice"))
            else:
                found[key] = _plain(inner, (*path, key), document)
        return found
    if isinstance(value, list):
        return [_plain(inner, (*path, position), document) for position, inner in enumerate(value)]
    return value
