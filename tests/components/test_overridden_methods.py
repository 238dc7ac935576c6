"""A method that a subclass overrides counts, whatever quicker way to the same a base class has beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from dskd_components import Distance
from dskd_components.aligners import MinEdit
from dskd_components.aligners.identity import IdentityAlignment
from dskd_components.components.text_methods import groups_of_texts
from dskd_components.spaces import StudentSpace
from dskd_components.testing import registered_variants
from dskd_components.tokenization import tokenize_batch_with_spans
from tests.helpers.tiled_steps import batch_and_loss, gradients

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components import TokenizedText
    from dskd_components.components import DistanceGradients, Distribution

CLOSED: list[type[Distance]] = sorted(
    {type(one) for one in registered_variants("distance") if isinstance(one, Distance) and one.has_closed_form()},
    key=lambda cls: cls.__name__,
)


def twice(base: Any) -> Any:
    class Twice(base):  # type: ignore[misc]
        name: Literal["twice"] = "twice"

        def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
            values: Tensor = super().__call__(student_log_probs, teacher_log_probs)
            return 2 * values

    return Twice


@pytest.mark.parametrize("base", CLOSED, ids=lambda base: base.__name__)
def test_a_distance_is_what_its_call_gives_in_either_engine(base: type[Distance]) -> None:
    batch, loss_fn = batch_and_loss(distance=twice(base)(), kd_rate=1.0)
    found = batch.loss(loss_fn)
    of_found = gradients(found.loss, batch, loss_fn)
    loss_fn.spec = loss_fn.spec.replace(engine="eager")
    expected = batch.loss(loss_fn)
    torch.testing.assert_close(found.terms, expected.terms)
    torch.testing.assert_close(of_found, gradients(expected.loss, batch, loss_fn))


@pytest.mark.parametrize("base", [cls for cls in CLOSED if cls.sums_over_vocabulary], ids=lambda base: base.__name__)
def test_so_it_is_where_a_head_is_cut(base: type[Distance]) -> None:
    """What the parts of the base class add up to is nothing of its, so that a head is gathered; or it says so anew."""
    assert not twice(base).sums_over_vocabulary
    assert twice(base).over_part is Distance.over_part


def test_what_a_subclass_writes_anew_or_leaves_alone_stays() -> None:
    [base] = [cls for cls in CLOSED if cls.__name__ == "KL"]

    class Other(base):  # type: ignore[misc, valid-type]
        margin: float = 0.0

    twofold = twice(base)

    class Both(twofold):  # type: ignore[misc, valid-type]
        def value_and_gradients(self, *sides: Distribution, **asked: bool) -> DistanceGradients:
            return Distance.value_and_gradients(self, *sides, **asked)  # type: ignore[arg-type]

    assert Other.value_and_gradients is base.value_and_gradients
    assert Other.sums_over_vocabulary
    assert Both.has_closed_form()
    assert not twice(Both).has_closed_form()


def test_groups_of_one_text_are_those_of_several() -> None:
    class First(MinEdit):
        def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> Any:
            return np.array([[0, 1, 0, 1]])

    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1}, unk_token="one"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = tokenize_batch_with_spans(tokenizer, ["one two one", "two two"])
    assert [groups.tolist() for groups in groups_of_texts(First(), texts, texts)] == [[[0, 1, 0, 1]]] * 2


def test_a_space_with_a_comparison_of_its_own_reads_logits_unless_it_says_otherwise() -> None:
    class Reading(StudentSpace):
        def compare(self, rows: Any) -> Any:
            return super().compare(rows)

    class Asking(Reading):
        reads_logits: ClassVar[bool] = False

    assert Reading().reads_logits
    assert not Asking().reads_logits


def test_an_alignment_that_changes_states_is_not_said_to_move_them() -> None:
    @dataclass(frozen=True, eq=False, kw_only=True)
    class Halved(IdentityAlignment):
        def to_student(self, teacher_side: Tensor) -> Tensor:
            return teacher_side / 3

    assert not Halved.moves_states
    assert IdentityAlignment.moves_states
