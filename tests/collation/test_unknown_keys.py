"""Columns that are no part of a sample: refused by name with the option that leaves them out, which does so."""

from __future__ import annotations

import copy
import pickle
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import (
    ConfigurationError,
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    InputError,
    MultiTeacherCollator,
)
from dskd_components.collation import Columns, SampleError
from dskd_components.collation.samples import EXTRAS, HINTS, TextSample
from tests.helpers.collating import byte_level, metaspace
from tests.helpers.misspellings import misspelt
from tests.helpers.sample_kinds import ANSWER, OF_ONE_TOKENIZER, OF_TWO_TOKENIZERS, USER, preprocessed

if TYPE_CHECKING:
    from collections.abc import Callable

EXTRA: dict[str, Any] = {"id": 7, "source": "web", "tags": ["a", "b"], "meta": {"score": 0.5, "by": None}}
KINDS = OF_TWO_TOKENIZERS | OF_ONE_TOKENIZER


def as_columns(sample: dict[str, Any]) -> dict[str, Any]:
    return {key: [value] for key, value in sample.items()}


def takers(kind: str) -> dict[str, Callable[[Columns | None], Callable[[dict[str, Any]], Any]]]:
    """Whatever takes samples, by name: given columns, what makes a batch of one sample."""
    student, teacher = byte_level(), metaspace() if kind in OF_TWO_TOKENIZERS else byte_level()
    return {
        "collator": lambda columns: lambda one: DualTokenizerCollator(student, teacher, columns=columns)([one]),
        "skipping": lambda columns: (
            lambda one: DualTokenizerCollator(student, teacher, columns=columns, on_error="skip")([one])
        ),
        "show": lambda columns: (
            lambda one: DualTokenizerCollator(student, teacher, columns=columns).show(one).to_dict()
        ),
        "preprocessor": lambda columns: DualTokenizerPreprocessor(student, teacher, columns=columns),
        "batched": lambda columns: (
            lambda one: DualTokenizerPreprocessor(student, teacher, columns=columns)(as_columns(one))
        ),
        "several": lambda columns: (
            lambda one: MultiTeacherCollator(student, {"large": teacher}, columns=columns)([one])
        ),
    }


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) if isinstance(found[key], torch.Tensor) else found[key] == expected[key]
        for key in found
    )


@pytest.mark.parametrize("taker", takers("text"))
@pytest.mark.parametrize("kind", KINDS)
def test_extra_columns_are_refused_by_name_and_ignored_on_request(kind: str, taker: str) -> None:
    take, sample = takers(kind)[taker], KINDS[kind]
    given_sample = {"id": 7, **sample, **EXTRA}
    before = copy.deepcopy(given_sample)
    with pytest.raises(InputError, match="Unknown key 'id'") as caught:
        take(None)(given_sample)
    assert not isinstance(caught.value, SampleError)
    [advice] = re.findall(r"columns=(Columns\(ignore=\[.*?\]\))", str(caught.value))
    assert advice == f"Columns(ignore={list(EXTRA)})"
    assert "'id': 7" in str(caught.value).partition("The sample: ")[2]
    for columns in (eval(advice), Columns(ignore="unknown"), Columns(ignore=set(EXTRA))):
        assert same(take(columns)(given_sample), take(None)(sample))
    assert given_sample == before


def test_what_stands_beside_preprocessed_columns_is_not_read() -> None:
    collate = DualTokenizerCollator(byte_level(), metaspace())
    assert same(collate([preprocessed() | EXTRA | {"text": "the"}]), collate([preprocessed()]))


@pytest.mark.parametrize("kind", OF_TWO_TOKENIZERS)
@settings(max_examples=10)
@given(data=st.data())
def test_a_slip_of_the_keyboard_is_never_ignored(kind: str, data: st.DataObject) -> None:
    sample = OF_TWO_TOKENIZERS[kind]
    key = data.draw(st.sampled_from(sorted(sample)))
    slip = data.draw(misspelt(key).filter(lambda slip: slip and slip not in sample))
    columns = Columns(ignore="unknown")
    with pytest.raises(InputError) as caught:
        columns.read({slip if name == key else name: value for name, value in sample.items()})
    assert slip in str(caught.value)


@pytest.mark.parametrize("key", HINTS)
def test_what_means_something_elsewhere_is_ignored_only_by_its_name(key: str) -> None:
    sample = {"text": "the statement", key: "x"}
    with pytest.raises(InputError, match=f"Unknown key '{key}'"):
        Columns(ignore="unknown").read(sample)
    assert Columns(ignore=[key]).read(sample) == TextSample("the statement")


def test_known_keys_can_be_ignored_too() -> None:
    chat = {"messages": [USER, ANSWER], "tools": "no JSON", "text": "the", "prompt": "p", "input_ids": [1]}
    read = Columns(ignore=["tools", "text", "prompt", "input_ids"]).read(chat)
    assert read == Columns().read({"messages": [USER, ANSWER]})
    several = MultiTeacherCollator(byte_level(), {"large": metaspace()}, columns=Columns(ignore=["teacher_prompt"]))
    sample = {"prompt": "the", "response": " value"}
    assert same(several([sample | {"teacher_prompt": {"nobody": "x"}}]), several([sample]))


def test_columns_with_ignored_keys_are_values() -> None:
    columns = Columns(ignore=["b", "a"])
    assert columns == Columns(ignore={"a", "b"}) == pickle.loads(pickle.dumps(columns))
    assert hash(columns) == hash(Columns(ignore=("a", "b", "a")))
    for ignore in ("id", [3], "unknwon"):
        with pytest.raises(ConfigurationError, match="ignore to be a list of keys or 'unknown'"):
            Columns(ignore=ignore)  # type: ignore[arg-type]


MESSAGE = [USER]


@pytest.mark.parametrize(
    ("sample", "columns", "message"),
    [
        ({"completion": "b"}, {}, "'completion' lacks its 'prompt', which may be empty"),
        ({"prompt": "a"}, {}, r"'prompt' lacks its 'response' \(or 'completion'\)"),
        ({"prompt": "a", "completion": None}, {}, "'prompt' lacks its 'response'"),
        ({"q": "a"}, {"prompt": "q", "response": "r"}, "'q' lacks its 'r'"),
        ({"text": "a", "completion": "b"}, {}, r"'text' and 'completion'.*of different ones.*Columns\(ignore="),
        ({"messages": MESSAGE, "completion": "b"}, {}, r"'messages' and 'completion'.*of different ones"),
        ({"prompt": "a", "completion": "b", "response": "c"}, {}, r"mean the same.*Columns\(ignore=\['response'\]\)"),
        ({"prompt": "a", "completions": "b"}, {}, "'completions'.*did you mean 'completion'"),
        ({"prompt": "a", "completion": ["b"]}, {}, r"'completion' to be a text.*list \['b'\].*are several samples"),
        ({"prompt": MESSAGE, "completion": "b"}, {}, r"messages and a text\. A message is"),
        ({"prompt": "a", "completion": [ANSWER]}, {}, r"a text and messages\. A message is"),
        ({"prompt": MESSAGE, "completion": ANSWER}, {}, r"'completion' to be a text.*One message is a list of one"),
        ({"input_ids": [1], "completion": "b"}, {}, r"'completion' in a sample with.*ignore=\['completion'\]"),
        ({"prompt_ids": [1, 2], "completion_ids": [3]}, {}, "Unknown key 'prompt_ids'.*Nor known: 'completion_ids'"),
        ({"question": "a", "completion": "b"}, {}, r"If it is the prompt, say so: .*Columns\(prompt='question'\)"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "q"}, "'prompt' in a sample. It is called 'q' here"),
        ({"id": 3, "prompt": "a"}, {"ignore": ["id"]}, r"'prompt' \('id' ignored\) has no known form"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("taker", takers("text"))
def test_a_completion_that_is_not_expected_is_explained(
    taker: str, sample: dict[str, Any], columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        takers("text")[taker](Columns(**columns))(sample)
    assert not isinstance(caught.value, SampleError)


def test_every_extra_goes_by_its_own_name() -> None:
    for name in EXTRAS:
        renamed = Columns(**{name: "mine"})
        with pytest.raises(InputError, match=f"'{name}' in a sample. It is called 'mine' here"):
            renamed.read({"text": "a", name: "b"})
