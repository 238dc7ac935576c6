"""Messages that have another message within: one full stop after it, wherever it comes from."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dskd_components
from dskd_components import CheckpointError, DSKDLoss, DSKDSpec
from dskd_components.errors import as_sentence
from tests.helpers.models import tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = sorted(Path(dskd_components.__file__).parent.rglob("*.py"))


@given(st.text())
def test_a_sentence_has_one_full_stop_and_is_one_already(text: str) -> None:
    found = as_sentence(text)
    assert as_sentence(found) == found
    assert found[-1] in ".!?"
    assert found.startswith(text.rstrip().rstrip("."))
    assert re.search(r"(?<!\.)\.\.$", found) is None


def messages_within(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give where a text has an error that was caught, as it is, and what the text has right after it."""
    for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name):
        for text in (node for node in ast.walk(handler) if isinstance(node, ast.JoinedStr)):
            for part, following in zip(text.values, [*text.values[1:], ast.Constant("")], strict=True):
                is_error = isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name)
                if is_error and part.value.id == handler.name:  # type: ignore[attr-defined]
                    yield part.lineno, str(following.value) if isinstance(following, ast.Constant) else ""


def test_no_text_has_a_full_stop_after_an_error_that_may_have_its_own() -> None:
    faults = [
        f"{path.name}:{line}"
        for path in SOURCES
        for line, following in messages_within(ast.parse(path.read_text(encoding="utf-8")))
        if following.startswith(".")
    ]
    assert faults == [], "write {as_sentence(error)} and no full stop after it"


def test_texts_with_an_error_are_seen() -> None:
    source = "try:\n    f()\nexcept ValueError as error:\n    raise E(f'a {error}. b', f'{error}', f'{other}.')\n"
    assert list(messages_within(ast.parse(source))) == [(4, ". b"), (4, "")]


def test_a_component_that_is_not_installed_is_told_in_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = (tiny_model("Llama", hidden_size=size) for size in (16, 32))
    DSKDLoss.from_models(DSKDSpec(distance="js"), student, teacher).save(tmp_path)
    described = {**DSKDSpec(distance="js").model_dump(mode="json"), "distance": {"name": "of_a_plugin"}}
    monkeypatch.setattr(
        "dskd_components.loss.checkpoints.files.Checkpoint.spec",
        _with_spec(described),
    )
    with pytest.raises(CheckpointError, match=r"the saved spec cannot be built here: .*of_a_plugin") as error:
        DSKDLoss.load(tmp_path, student, teacher)
    assert re.search(r"(?<!\.)\.\.(?!\.)|: :|  ", str(error.value)) is None
    assert str(error.value).endswith(".")


def _with_spec(described: dict[str, object]) -> object:
    from dskd_components.loss.checkpoints.files import Checkpoint

    original = Checkpoint.spec

    def spec(checkpoint: Checkpoint) -> DSKDSpec:
        object.__setattr__(checkpoint.description, "spec", described)
        return original(checkpoint)

    return spec
