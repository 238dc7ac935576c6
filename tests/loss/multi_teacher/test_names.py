"""Names of teachers that begin alike: their columns are told apart, or the names are refused with the reason."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from dskd_components import InputError, MultiTeacherCollator, MultiTeacherLoss, MultiTeacherSpec
from dskd_components.models.batch import columns_of_pair, columns_of_several
from tests.helpers.models import tiny_model

COLUMNS = ("input_ids", "labels", "attention_mask", "position_ids", "groups", "fingerprint")
ALIKE = ("a", "a_b", "a_b_c", "ab", "A_b2", "labels", "a_labels", "teacher")


def pair_of(name: str) -> dict[str, str]:
    """What the student and one teacher read, each column with a content of its own."""
    student = {f"student_{column}": f"s.{column}" for column in COLUMNS} | {"student_groups": f"s.groups with {name}"}
    own = {f"teacher_{column}": f"{name}.{column}" for column in COLUMNS}
    return student | own | {"groups_method": f"how {name} is aligned"}


@pytest.mark.parametrize("order", [ALIKE, ALIKE[::-1]])
def test_each_teacher_gets_back_its_own_columns(order: tuple[str, ...]) -> None:
    batch = columns_of_several({name: pair_of(name) for name in order})
    for name in order:
        assert columns_of_pair(batch, name, names=order, same_tokenizer=False) == pair_of(name)


def test_a_teacher_without_columns_does_not_take_those_of_a_longer_name() -> None:
    batch = columns_of_several({name: pair_of(name) for name in ("a_b", "a_b_c")})
    found = columns_of_pair(batch, "a", names=("a", "a_b", "a_b_c"), same_tokenizer=True)
    assert found["teacher_input_ids"] == "s.input_ids"
    assert not any("groups_" in column for column in found)
    with pytest.raises(InputError, match="no column 'a_input_ids'"):
        columns_of_pair(batch, "a", names=("a", "a_b", "a_b_c"), same_tokenizer=False)


def test_losses_of_models_are_the_same_under_any_names() -> None:
    ids = torch.arange(3, 13).reshape(2, 5)
    models = [tiny_model("Llama", hidden_size=width) for width in (16, 24, 32)]
    own = torch.arange(23, 33).reshape(2, 5)
    values = []
    for first, second in (("large", "code"), *permutations(("large", "large_v2")), ("a", "b"), ("b", "a")):
        # The first reads the student's columns, the second has its own and groups.
        spec = MultiTeacherSpec(teachers={first: {}, second: {"aligner": "span"}})
        torch.manual_seed(0)
        teachers = dict(zip((first, second), models[1:], strict=True))
        loss_fn = MultiTeacherLoss.from_models(spec, models[0], teachers)
        batch = {
            "student_input_ids": ids,
            "student_labels": ids,
            f"student_groups_{second}": torch.arange(5).repeat(2, 1),
            f"{second}_groups": torch.arange(5).repeat(2, 1),
            f"{second}_input_ids": own,
            f"{second}_labels": own,
        }
        values.append(loss_fn.run(models[0], teachers, batch).loss.item())
    assert values == values[:1] * len(values)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("x", "x_position"), r"'x'.*'x_position'.*'x_position_ids'"),
        (("x_token", "x"), r"'x'.*'x_token'.*'x_token_type_ids'"),
        (("x", "x_cu_seq_lens"), "x_cu_seq_lens_q"),
        (("x", "x_groups"), "x_groups_method"),
        (("x", "x_image"), "x_image_grid_thw"),
        (("input",), "'input'.*'input_ids'"),
        (("Large", "large"), "'Large'.*'large'.*case"),
        (("student_b",), "student_b"),
    ],
)
def test_names_that_clash_are_refused_with_the_reason(names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        MultiTeacherSpec(teachers={name: {} for name in names})
    tokenizers: dict[str, Any] = dict.fromkeys(names)
    with pytest.raises(InputError, match=reason):
        MultiTeacherCollator(None, tokenizers)
