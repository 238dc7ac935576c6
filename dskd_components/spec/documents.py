"""Files of YAML or JSON as plain data, each value with its place in the file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml

from dskd_components.spec.problems import SpecProblem, in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class ParsedFile:
    """What a file says.

    Args:
        value: mappings, lists, strings, numbers, truth values and None.
        lines: the line of the value at each path, as far as it is known.
        problems: what could not be read.
    """

    value: Any = None
    lines: dict[tuple[object, ...], int] = field(default_factory=dict)
    problems: list[SpecProblem] = field(default_factory=list)


def read_json(text: str) -> ParsedFile:
    """Read one JSON document.

    Args:
        text: the content of a file.
    """
    try:
        value = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        return ParsedFile(problems=[SpecProblem((), f"not valid JSON: {error.msg}", error.lineno)])
    except ValueError as error:  # an integer of more than some thousand digits
        return ParsedFile(problems=[SpecProblem((), f"not valid JSON: {in_one_line(str(error))}")])
    document = ParsedFile()
    document.value = _plain(value, (), document)
    return document


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of one mapping, in the order of the file."""


def _plain(value: Any, path: tuple[object, ...], document: ParsedFile) -> Any:
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


PREFIX: Final = "tag:yaml.org,2002:"


class PlainLoader(yaml.SafeLoader):
    """Recognises the words of YAML 1.2 that are not strings."""

    yaml_implicit_resolvers: Final = {}  # type: ignore[misc]


WORDS: Final[dict[str, tuple[str, str, Callable[[str], Any]]]] = {
    "null": (r"~|null|Null|NULL|", "~nN", lambda _: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+", "-+0123456789", int),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        lambda text: float(re.sub(r"\.(?=[inIN])", "", text)),
    ),
    # JSON writes some characters as two escapes, which YAML keeps apart.
    "str": (r"(?!)", "", lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")),
}
"""Of each type: what it looks like, how it begins, and what it means."""

for _name, (_pattern, _first, _) in WORDS.items():
    PlainLoader.add_implicit_resolver(
        PREFIX + _name, re.compile(f"^(?:{_pattern})$"), [*_first, *([""] if _name == "null" else [])]
    )


def read_yaml(text: str) -> ParsedFile:
    """Read one YAML document.

    Args:
        text: the content of a file.
    """
    try:
        root = PlainLoader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not valid YAML: {in_one_line(error.problem or error.context or str(error))}"
        return ParsedFile(problems=[SpecProblem((), message, mark.line + 1 if mark else None)])
    except yaml.YAMLError as error:
        return ParsedFile(problems=[SpecProblem((), f"not valid YAML: {in_one_line(str(error))}")])
    reader = _Reader()
    value = None if root is None else reader.value(root, ())
    return ParsedFile(value, reader.lines, reader.problems)


class _Reader:
    """Turns the nodes of one document into values."""

    def __init__(self) -> None:
        self.lines: dict[tuple[object, ...], int] = {}
        self.problems: list[SpecProblem] = []
        self._seen: set[yaml.Node] = set()

    def value(self, node: yaml.Node, path: tuple[object, ...], line: int | None = None) -> Any:
        self.lines[path] = line or node.start_mark.line + 1
        if node in self._seen:
            return self._problem(path, "expected a value, got an alias of one further up; write the value again")
        self._seen.add(node)
        name = node.tag.removeprefix(PREFIX)
        if isinstance(node, yaml.ScalarNode) and name in WORDS:
            return self._word(node, name, path)
        if isinstance(node, yaml.SequenceNode) and name == "seq":
            return [self.value(item, (*path, position)) for position, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and name == "map":
            return self._mapping(node, path)
        return self._problem(path, f"expected a plain value, got one with the tag {node.tag!r}; tags are not read")

    def _word(self, node: yaml.ScalarNode, name: str, path: tuple[object, ...]) -> Any:
        pattern, _, meaning = WORDS[name]
        text = node.value
        try:
            # Only a tag can give a word a type that it does not look like.
            if name != "str" and not re.fullmatch(pattern, text):
                raise ValueError
            return meaning(text)
        except ValueError:  # among others, Python reads no integer of more than some thousand digits
            return self._problem(path, f"expected a value of type {name}, got {text[:50]!r}")

    def _mapping(self, node: yaml.MappingNode, path: tuple[object, ...]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(path, f"expected a word as the key in line {line}, got a structure")
                continue
            key = self.value(key_node, (*path, key_node.value), line)
            if key in found:
                self._problem((*path, key), "written twice")
            else:
                found[key] = self.value(value_node, (*path, key), line)
        return found

    def _problem(self, path: tuple[object, ...], message: str) -> None:
        self.problems.append(SpecProblem(path, message, self.lines.get(path)))
