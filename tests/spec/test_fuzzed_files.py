"""Whatever is in a spec file, it is read, or every problem is one line that names the path of the field."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dskd_components import DSKDSpec, SpecFileError
from dskd_components.spec import SpecProblem, parse_spec
from tests.helpers.misspellings import misspelt
from tests.helpers.spec_strategies import near_documents, paths, specs

FORMS = {
    "yaml block": lambda document: (yaml.safe_dump(document, allow_unicode=True), "yaml"),
    "yaml flow": lambda document: (yaml.safe_dump(document, default_flow_style=True, width=40), "yaml"),
    "json": lambda document: (json.dumps(document, indent=1), "json"),
    "json as yaml": lambda document: (json.dumps(document), "yaml"),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def read(text: str, syntax: Any) -> DSKDSpec | tuple[SpecProblem, ...]:
    """The spec or its problems; anything else that is raised fails the test."""
    try:
        return parse_spec(text, syntax=syntax, source="f")
    except SpecFileError as caught:
        error = caught
    lines = str(error).splitlines()
    assert 0 < len(lines) == len(error.problems)
    assert all(line.startswith("f:") for line in lines)
    assert all(problem.message.strip() and problem.message.isprintable() for problem in error.problems)
    for problem in error.problems:
        assert problem.line is None or 1 <= problem.line <= len(re.split("[\n\r\x85\u2028\u2029]", text))
    return error.problems


@forms
@given(spec=specs())
def test_every_spec_goes_through_a_file_and_back(form: Any, spec: DSKDSpec) -> None:
    assert read(*form(spec.model_dump(mode="json"))) == spec


@forms
@settings(max_examples=100)
@given(document=near_documents())
@example(document={"weights": {"ce": {"name": "piecewise", "points": [[0.0]]}}})
def test_a_file_is_read_exactly_if_it_is_a_spec_and_problems_have_the_paths_of_pydantic(
    form: Any, document: Any
) -> None:
    found = read(*form(document))
    try:
        assert found == DSKDSpec.model_validate(document)
        return
    except ValidationError as error:
        expected = [details["loc"] for details in error.errors()]
    assert isinstance(found, tuple)
    # In the order of the file, where pydantic names what is in a list before the list.
    paths = Counter(problem.path for problem in found)
    assert Counter(expected) <= paths
    # An unknown field hides the problems of the others from pydantic, but not from the reader of a file.
    assert paths == Counter(expected) or set(document) - set(DSKDSpec.model_fields)


@forms
@given(data=st.data())
def test_one_wrong_value_has_its_path(form: Any, data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(specs()).model_dump(mode="json"))
    *parents, last = data.draw(st.sampled_from([path for path in paths(document) if path]))
    inner: Any = document
    for step in parents:
        inner = inner[step]
    inner[last] = data.draw(st.sampled_from(["no such thing", {"no": "such thing"}, [[3]], -7.5, {}]))
    assume((last, inner[last]) != ("weights", {}))  # there need not be any
    found = read(*form(document))
    assert isinstance(found, tuple)
    path = (*parents, last)
    assert all(problem.path[: len(path)] == path or path[: len(problem.path)] == problem.path for problem in found)
    assert all(problem.path for problem in found)


@forms
@given(data=st.data())
def test_one_misspelt_key_has_its_path(form: Any, data: st.DataObject) -> None:
    document = data.draw(specs()).model_dump(mode="json")
    path = data.draw(st.sampled_from([p for p in paths(document) if p and isinstance(p[-1], str) and p[-1] != "name"]))
    inner: Any = document
    for step in path[:-1]:
        inner = inner[step]
    wrong = data.draw(misspelt(str(path[-1])).filter(lambda word: word not in inner))
    inner[wrong] = inner.pop(path[-1])
    found = read(*form(document))
    assert isinstance(found, tuple)
    assert (*path[:-1], wrong) in [problem.path for problem in found]


WORDS = st.sampled_from(
    [*DSKDSpec.model_fields, "preset", "name", "kl", "student", "dskd-cma", "js", "beta", "~", "true", "1e3", ".inf"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | WORDS
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@forms
@settings(max_examples=200)
@given(document=ANYTHING)
def test_no_data_is_a_traceback(form: Any, document: Any) -> None:
    found = read(*form(document))
    if isinstance(found, tuple) and isinstance(document, dict) and document:
        assert all(problem.path for problem in found)


SCRAPS = st.sampled_from(
    [
        *(
            ": ",
            "- ",
            "? ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "&a ",
            "*a",
            "<<",
            "| \n",
            "'",
            '"',
            "#",
            "---\n",
            "...\n",
            "\n",
            "\n  ",
        ),
        *("!!int ", "!!float ", "!!null ", "!!map ", "!!seq ", "!!set ", "!!binary ", "!!timestamp ", "%YAML 9.9\n"),
        *(
            "!!python/name:os.system ",
            "\t",
            "\\",
            "\ufeff",
            "\x00",
            "\u2028",
            "\ud800",
            "=",
            "0x",
            "1_000",
            "12:30",
            "+.inf",
        ),
    ]
)
TEXTS = st.lists(SCRAPS | WORDS | st.text(max_size=3), max_size=25).map("".join)


@settings(max_examples=500)
@given(text=TEXTS, syntax=st.sampled_from(["yaml", "json"]))
@example(text="!!float : 1", syntax="yaml")
@example(text="temperature: !!float ''", syntax="yaml")
@example(text="{&a a: *a, *a : 1}", syntax="yaml")
def test_no_text_is_a_traceback(text: str, syntax: str) -> None:
    read(text, syntax)
