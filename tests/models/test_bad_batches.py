"""What is no batch of tensors is refused by the name of the column, on every way to the loss."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import (
    DSKDLoss,
    DSKDSpec,
    InputError,
    MultiTeacherLoss,
    MultiTeacherSpec,
    TeacherSpec,
    scored_tokens,
)
from tests.helpers.models import TEXTS, byte_level_tokenizer, encode, metaspace_tokenizer, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "lists": (lambda column: column.tolist(), "list"),
    "an array": (lambda column: column.numpy(), "ndarray"),
    "a text": (lambda _: "text", "str"),
}
ONE = DSKDSpec.preset("vanilla-kd")
TWO = DSKDSpec.preset("recommended-two-vocabularies")


@cache
def pair(spec: DSKDSpec) -> tuple[Any, Any, DSKDLoss, dict[str, torch.Tensor]]:
    """Models, loss, and a batch: without prefixes for one tokenizer."""
    own, other = metaspace_tokenizer(), byte_level_tokenizer()
    student = tiny_model("Llama", vocabulary=len(own))
    if spec is ONE:
        teacher = tiny_model("GPT2", vocabulary=len(own))
        return student, teacher, DSKDLoss.from_models(spec, student, teacher, own, own), encode(own, "")
    teacher = tiny_model("Llama", vocabulary=len(other))
    loss_fn = DSKDLoss.from_models(spec, student, teacher, own, other)
    return student, teacher, loss_fn, loss_fn.collator(own, other)([{"text": text} for text in TEXTS[:2]])


def several(spec: DSKDSpec, batch: Any) -> None:
    student, teacher, loss_fn, _ = pair(spec)
    of_teacher = TeacherSpec(**{field: getattr(spec, field) for field in TeacherSpec.model_fields if field != "weight"})
    both = MultiTeacherSpec(teachers={"teacher": of_teacher}, kd_rate=spec.kd_rate)
    MultiTeacherLoss(both, {"teacher": loss_fn}).run(student, {"teacher": teacher}, batch)


def run(spec: DSKDSpec, batch: Any) -> None:
    student, teacher, loss_fn, _ = pair(spec)
    loss_fn.run(student, teacher, batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "column", ["input_ids", "labels", "attention_mask", "student_input_ids", "teacher_labels", "teacher_groups"]
)
def test_a_column_that_is_no_tensor_is_named(column: str, kind: str) -> None:
    spec = TWO if "_" in column.removesuffix("_mask").removesuffix("_ids") else ONE
    made, called = KINDS[kind]
    batch = pair(spec)[3]
    with pytest.raises(InputError, match=rf"The column '{column}'.*expected a tensor.*got {called}"):
        run(spec, {**batch, column: made(batch[column])})
    with pytest.raises(InputError, match=rf"'{'' if spec is TWO else 'student_'}{column}'.*got {called}"):
        several(
            spec,
            {f"student_{name}" if spec is ONE else name: value for name, value in batch.items()}
            | {column if spec is TWO else f"student_{column}": made(batch[column])},
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [ONE, TWO], ids=["one", "two"])
def test_nor_is_a_batch_without_any(spec: DSKDSpec, kind: str) -> None:
    """Not that it is of another tokenizer, which its fingerprints, compared as lists, seemed to say."""
    batch = {name: KINDS[kind][0](column) for name, column in pair(spec)[3].items()}
    for way in (run, *([several] if spec is TWO else [])):
        with pytest.raises(InputError, match=rf"The column '\w+'.*expected a tensor.*got {KINDS[kind][1]}"):
            way(spec, batch)
    with pytest.raises(InputError, match=rf"labels.*got {KINDS[kind][1]}"):
        scored_tokens(batch)


@pytest.mark.parametrize(
    "batch", [None, [{"text": "a"}], torch.ones(1, 2), "text"], ids=["none", "list", "ids", "text"]
)
def test_what_is_no_mapping_of_columns_is_refused(batch: Any) -> None:
    for way in (run, several):
        with pytest.raises(InputError, match=rf"batch: expected .*columns.*got {type(batch).__name__}"):
            way(TWO, batch)
    given = batch if batch is None or isinstance(batch, torch.Tensor) else [batch]
    with pytest.raises(InputError, match=r"scored_tokens: expected .*got (NoneType|Tensor|list|str)"):
        scored_tokens(given)


@pytest.mark.parametrize(
    ("column", "made", "expected"),
    [
        ("input_ids", lambda column: None, "has no column 'student_input_ids'"),
        ("labels", lambda column: None, "has no column 'student_labels'"),
        ("input_ids", lambda column: column[0], r"'input_ids'.*\[batch, length\].*shape \[\d+\]"),
        ("labels", lambda column: column[0], r"'labels'.*\[batch, length\].*shape \[\d+\]"),
        ("input_ids", lambda column: column.float(), r"'input_ids'.*integers.*float32"),
        ("labels", lambda column: column.int(), r"'labels'.*int64.*int32"),
        ("labels", lambda column: column.double(), r"'labels'.*int64.*float64"),
    ],
)
def test_tokens_of_another_form_are_refused(column: str, made: Any, expected: str) -> None:
    batch = pair(ONE)[3]
    with pytest.raises(InputError, match=expected):
        run(ONE, {**batch, column: made(batch[column])})


def test_a_mask_that_is_no_tensor_is_not_passed_over_in_counting() -> None:
    mask = [[1, 1, 0, 0]]
    labels = torch.ones(1, 4, dtype=torch.int64)
    assert int(scored_tokens({"labels": labels, "attention_mask": torch.tensor(mask)})) == 1
    with pytest.raises(InputError, match=r"attention_mask'.*expected a tensor.*got list"):
        scored_tokens({"labels": labels, "attention_mask": mask})  # type: ignore[dict-item]
