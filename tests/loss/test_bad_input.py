"""Bad input gives a named error that says which tensor or field, what was expected, and what came."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dskd_components import (
    ConfigurationError,
    DSKDError,
    DSKDLoss,
    DSKDSpec,
    Head,
    InputError,
    LMStates,
    MultiTeacherLoss,
    MultiTeacherSpec,
    TeacherSpec,
    get_projector,
)
from tests.helpers.registered import build
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from collections.abc import Callable

NAN = float("nan")


def call(spec: DSKDSpec | None = None, **changes: Any) -> None:
    """Call a loss on a good batch with some fields of ``student`` or ``teacher`` (prefixed) replaced."""
    spec = spec or DSKDSpec.preset("dskd-cma")
    batch = make_batch(0, same_tokenizer=spec.aligner.same_tokenizer)
    loss_fn = build(spec, batch)
    options = {name: changes.pop(name) for name in ("alignment", "num_items_in_batch") if name in changes}
    sides = {}
    for side in ("student", "teacher"):
        own = {name.removeprefix(f"{side}_"): value for name, value in changes.items() if name.startswith(side)}
        states = getattr(batch, side)
        sides[side] = replace(states, **{n: v(states) if callable(v) else v for n, v in own.items()})
    loss_fn(sides["student"], sides["teacher"], **options)


def with_nan(states: LMStates) -> torch.Tensor:
    hidden = states.hidden_states.clone()
    sample, position = states.scored.nonzero()[0].tolist()
    hidden[sample, position, 0] = NAN
    return hidden


def with_target(value: int) -> Callable[[LMStates], torch.Tensor]:
    def targets(states: LMStates) -> torch.Tensor:
        changed = states.targets.clone()
        sample, position = states.scored.nonzero()[0].tolist()
        changed[sample, position] = value
        return changed

    return targets


IDENTITY = DSKDSpec.preset("dskd")
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "hidden states without batch": (
        {"student_hidden_states": torch.zeros(6, 5)},
        ["hidden_states", "[batch, length, hidden]", "[6, 5]"],
    ),
    "lists as hidden states": ({"student_hidden_states": [[[0.0]]]}, ["LMStates.hidden_states", "a tensor", "list"]),
    "an array as targets": (
        {"student_targets": lambda s: s.targets.numpy()},
        ["LMStates.targets", "a tensor", "ndarray"],
    ),
    "lists as input ids": ({"teacher_input_ids": [[0]]}, ["LMStates.input_ids", "a tensor", "list"]),
    "a module as embedding": (
        {"student_embedding": lambda _: torch.nn.Embedding(11, 5)},
        ["LMStates.embedding", "a tensor", "Embedding", ".weight"],
    ),
    "a module as head": (
        {"student_head": lambda _: torch.nn.Linear(5, 11)},
        ["LMStates.head", "a Head", "Linear", "Head.from_model", "Head(weight"],
    ),
    "a weight as head": ({"teacher_head": torch.zeros(13, 7)}, ["LMStates.head", "a Head", "Tensor"]),
    "lists as alignment": ({"alignment": [[0]]}, ["alignment", "tensor", "TokenGroups", "list"]),
    "integer hidden states": (
        {"student_hidden_states": torch.zeros(3, 6, 5, dtype=torch.int64)},
        ["hidden_states", "floating-point", "int64"],
    ),
    "hidden states of another width": (
        {"teacher_hidden_states": torch.zeros(3, 8, 6)},
        ["head", "width 7", "width 6"],
    ),
    "hidden states and head of another width": (
        {
            "teacher_hidden_states": torch.zeros(3, 8, 6).double(),
            "teacher_head": Head(torch.zeros(13, 6).double()),
        },
        ["teacher.hidden_states", "width 7", "[3, 8, 6]"],
    ),
    "NaN hidden states": ({"student_hidden_states": with_nan}, ["student.hidden_states", "NaN", "sample 0"]),
    "infinite teacher states": (
        {"teacher_hidden_states": lambda s: s.hidden_states * torch.inf},
        ["teacher.hidden_states", "infinity"],
    ),
    "targets of another shape": (
        {"student_targets": torch.zeros(3, 5, dtype=torch.int64)},
        ["targets", "[3, 6]", "[3, 5]"],
    ),
    "targets of another dtype": ({"student_targets": torch.zeros(3, 6)}, ["targets", "int64", "float32"]),
    "target past the vocabulary": ({"student_targets": with_target(11)}, ["student.targets", "0 to 10", "got 11"]),
    "negative target": ({"teacher_targets": with_target(-1)}, ["teacher.targets", "0 to 12", "-100", "got -1"]),
    "missing embedding": ({"student_embedding": None}, ["student.embedding", "missing", "get_input_embeddings"]),
    "missing teacher embedding": ({"teacher_embedding": None}, ["teacher.embedding", "missing"]),
    "missing input ids": ({"teacher_input_ids": None}, ["teacher.input_ids", "missing"]),
    "embedding of another width": (
        {"student_embedding": torch.zeros(11, 4).double()},
        ["student.embedding", "width 5", "got 4", "student_embedding_size=4"],
    ),
    "embedding with too few rows": ({"teacher_embedding": torch.zeros(1, 7).double()}, ["teacher.embedding", "1 rows"]),
    "embedding without rows": ({"teacher_embedding": torch.zeros(7).double()}, ["embedding", "[vocabulary, width]"]),
    "input ids of another shape": (
        {"student_input_ids": torch.zeros(3, 7, dtype=torch.int64)},
        ["input_ids", "[3, 6]", "[3, 7]"],
    ),
    "floating-point input ids": ({"student_input_ids": torch.zeros(3, 6)}, ["input_ids", "integer", "float32"]),
    "segment ids of another shape": (
        {"student_segment_ids": torch.zeros(3, 1, dtype=torch.int64)},
        ["segment_ids", "[3, 6]"],
    ),
    "empty batch": (
        {"student_hidden_states": torch.zeros(0, 6, 5), "student_targets": torch.zeros(0, 6, dtype=torch.int64)},
        ["batch is empty", "[0, 6, 5]"],
    ),
    "batches of different sizes": (
        {
            "student_hidden_states": torch.zeros(2, 6, 5).double(),
            "student_targets": torch.zeros(2, 6, dtype=torch.int64),
            "student_input_ids": None,
        },
        ["2 samples", "teacher's 3", "same texts"],
    ),
    "sum with a denominator": (
        {"spec": DSKDSpec.preset("dskd-cma", reduction="sum"), "num_items_in_batch": 5},
        ["num_items_in_batch", 'reduction="sum"'],
    ),
    "negative denominator": ({"num_items_in_batch": -1}, ["num_items_in_batch", "-1"]),
    "a denominator of 0 for tokens that are scored": ({"num_items_in_batch": 0}, ["num_items_in_batch", "got 0"]),
    "two denominators": ({"num_items_in_batch": torch.ones(2)}, ["num_items_in_batch"]),
    "NaN denominator": ({"num_items_in_batch": NAN}, ["num_items_in_batch", "nan"]),
    "alignment for one tokenizer": (
        {"spec": IDENTITY, "alignment": torch.zeros(3, 6, dtype=torch.int64)},
        ["alignment", "identity", "cma"],
    ),
    "alignment past the teacher": (
        {"alignment": torch.full((3, 6), 8)},
        ["alignment", "0 to 7", "got 8"],
    ),
    "alignment of another dtype": ({"alignment": torch.zeros(3, 6)}, ["int64", "float32"]),
    "aligner that is not told": ({"spec": DSKDSpec(aligner="exact_match")}, ["alignment is missing", "exact_match"]),
    "alignment of another shape": (
        {"alignment": torch.zeros(3, 7, dtype=torch.int64)},
        ["alignment", "[3, 6]", "[3, 7]"],
    ),
    "one tokenizer, two lengths": (
        {
            "spec": IDENTITY,
            "teacher_hidden_states": torch.zeros(3, 9, 7).double(),
            "teacher_targets": torch.zeros(3, 9, dtype=torch.int64),
            "teacher_input_ids": None,
        },
        ["[3, 6]", "[3, 9]", "share a tokenizer"],
    ),
    "one tokenizer, two texts": (
        {"spec": IDENTITY, "teacher_targets": lambda s: torch.where(s.targets > 0, s.targets - 1, s.targets)},
        ["student.targets and teacher.targets differ", "sample", "position"],
    ),
    "shared vocabulary of two sizes": (
        {"spec": DSKDSpec.preset("vanilla-kd"), "teacher_head": lambda s: Head(torch.zeros(12, 7).double())},
        ["11 tokens", "12", "valid_vocabulary_size", "recommended-two-vocabularies", "dskd-cma"],
    ),
    "damaged head": ({"student_head": lambda s: Head(s.head.weight * NAN)}, ["student.head.weight", "NaN"]),
    "damaged teacher head": ({"teacher_head": lambda s: Head(s.head.weight * NAN)}, ["teacher.head.weight", "NaN"]),
    "damaged embedding": ({"teacher_embedding": lambda s: s.embedding * NAN}, ["teacher.embedding", "NaN"]),
    "damaged bias": (
        {"student_head": lambda s: Head(s.head.weight, bias=torch.full((11,), torch.inf).double())},
        ["student.head.bias"],
    ),
    "overflowing logits": (
        {
            "student_hidden_states": lambda s: s.hidden_states * 1e200,
            "student_head": lambda s: Head(s.head.weight * 1e200),
        },
        ["student's logits overflow"],
    ),
    "target ruled out": (
        {
            "student_head": lambda s: Head(
                s.head.weight, bias=torch.full((11,), -torch.inf).double().index_fill(0, torch.tensor([0]), 0.0)
            )
        },
        ["target", "-inf"],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_loss(case: tuple[dict[str, Any], list[str]]) -> None:
    changes, expected = case
    with pytest.raises(InputError) as raised:
        call(**dict(changes))
    for part in expected:
        assert part in str(raised.value)


HEADS: dict[str, tuple[Callable[[], Head], list[str]]] = {
    "module": (lambda: Head(torch.nn.Linear(2, 3)), ["Head.weight", "a tensor", "Linear", ".weight"]),  # type: ignore[arg-type]
    "bias in a list": (lambda: Head(torch.zeros(3, 2), bias=[0.0]), ["Head.bias", "a tensor", "list"]),  # type: ignore[arg-type]
    "vector": (lambda: Head(torch.zeros(3)), ["Head.weight", "[vocabulary, hidden]", "[3]"]),
    "integers": (lambda: Head(torch.zeros(3, 2, dtype=torch.int64)), ["Head.weight", "int64"]),
    "empty": (lambda: Head(torch.zeros(0, 2)), ["Head.weight", "ZeRO-3", "[0, 2]"]),
    "bias": (lambda: Head(torch.zeros(3, 2), bias=torch.zeros(2)), ["Head.bias", "[3]", "[2]"]),
    "softcap": (lambda: Head(torch.zeros(3, 2), softcap=0.0), ["Head.softcap", "positive", "0.0"]),
    "no cap": (lambda: Head(torch.zeros(3, 2), softcap=math.inf), ["Head.softcap", "finite", "None", "inf"]),
    "vocabulary": (
        lambda: Head(torch.zeros(3, 2), valid_vocabulary_size=4),
        ["Head.valid_vocabulary_size", "1 to 3", "4"],
    ),
    "width": (lambda: Head(torch.zeros(3, 2)).logits(torch.zeros(5, 4)), ["width 2", "[5, 4]"]),
}


@pytest.mark.parametrize("case", HEADS.values(), ids=HEADS.keys())
def test_head(case: tuple[Callable[[], Head], list[str]]) -> None:
    make, expected = case
    with pytest.raises(InputError) as raised:
        make()
    for part in expected:
        assert part in str(raised.value)


def construct(spec: DSKDSpec, **options: Any) -> DSKDLoss:
    return DSKDLoss(spec, student_hidden_size=5, teacher_hidden_size=7, **options)


def test_projectors_made_from_heads_need_them() -> None:
    with pytest.raises(ConfigurationError, match=r"t2s_projector 'pinv'.*student_head=.*from_models"):
        construct(DSKDSpec.preset("dskd-v2"))


@pytest.mark.parametrize(
    ("spec", "culprit"),
    [
        (DSKDSpec(aligner="cma", t2s_projector="pinv"), "t2s_projector 'pinv'"),
        (DSKDSpec(aligner="cma", spaces=({"name": "student", "targets": "teacher_argmax"},)), "space 'student'"),
        (DSKDSpec(aligner="cma", spaces=({"name": "student", "filter": "agreement"},)), "space 'student'"),
    ],
)
def test_two_vocabularies_need_a_map(spec: DSKDSpec, culprit: str) -> None:
    with pytest.raises(ConfigurationError, match="teacher_to_student_ids") as raised:
        construct(spec, student_head=Head(torch.ones(11, 5)), teacher_head=Head(torch.ones(13, 7)))
    assert culprit in str(raised.value)


@pytest.mark.parametrize(
    ("mapping", "part"),
    [
        (torch.zeros(13), "int64"),
        (torch.zeros(2, 13, dtype=torch.int64), r"\[2, 13\]"),
        ([0] * 13, "list"),
    ],
)
def test_a_vocabulary_map_is_a_row_of_ids(mapping: Any, part: str) -> None:
    with pytest.raises(InputError, match=f"teacher_to_student_ids.*{part}"):
        construct(DSKDSpec(aligner="cma"), teacher_to_student_ids=mapping)


def test_a_vocabulary_map_must_cover_the_teacher() -> None:
    spec = DSKDSpec(aligner="cma", spaces=({"name": "student", "targets": "teacher_argmax"},))
    batch = make_batch(0, same_tokenizer=False)
    with pytest.raises(InputError, match=r"teacher_to_student_ids.*13.*3"):
        build(spec, batch, mapping=torch.zeros(3, dtype=torch.int64))
    loss_fn = construct(spec, teacher_to_student_ids=torch.zeros(3, dtype=torch.int64)).double()
    with pytest.raises(InputError, match=r"teacher_to_student_ids.*13.*3"):
        loss_fn(batch.student, batch.teacher)


def test_a_map_to_padding_rows_of_the_student_is_a_map_to_nothing() -> None:
    batch = make_batch(0, same_tokenizer=False)
    spec = DSKDSpec(aligner="cma", spaces=({"name": "student", "targets": "teacher_argmax"},))
    out = batch.loss(build(spec, batch, mapping=torch.full((13,), 11)))
    assert out.counts["t2s_ce"] == 0


def test_no_shared_token_is_said() -> None:
    batch = make_batch(0, same_tokenizer=False)
    with pytest.raises(DSKDError, match="share no token"):
        build(DSKDSpec(aligner="cma", t2s_projector="pinv"), batch, mapping=torch.full((13,), -1))


def test_another_head_than_the_projector_was_built_for_is_said() -> None:
    batch = make_batch(0, same_tokenizer=True)
    loss_fn = build(DSKDSpec(s2t_projector="live_pinv"), batch)
    wider = replace(
        batch,
        student=replace(batch.student, head=Head(torch.ones(12, 5).double())),
        teacher=replace(batch.teacher, head=Head(torch.ones(12, 7).double())),
    )
    with pytest.raises(InputError, match=r"live_pinv.*11 tokens.*12"):
        loss_fn(wider.student, wider.teacher)


@pytest.mark.parametrize("sizes", [(0, 7), (5, -1), (5, 7.5)])
def test_hidden_sizes_are_positive_integers(sizes: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="hidden_size"):
        DSKDLoss(DSKDSpec(), student_hidden_size=sizes[0], teacher_hidden_size=sizes[1])


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_heads_have_the_widths_that_the_loss_is_built_for(side: str) -> None:
    heads = {"student_head": Head(torch.ones(11, 5)), "teacher_head": Head(torch.ones(11, 7))}
    heads[f"{side}_head"] = Head(torch.ones(11, 6))
    with pytest.raises(InputError, match=rf"{side}_head.*width 6.*{side}_hidden_size"):
        construct(DSKDSpec.preset("dskd-v2"), **heads)


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize(
    "rate", [-1e-3, NAN, torch.inf, "1e-3", None, True, torch.tensor(-1.0), torch.ones(2)], ids=str
)
def test_a_rate_is_a_number_that_is_not_negative(rate: Any, name: str) -> None:
    """Of a group, torch takes any: below 0 the projectors climbed, without a word."""
    loss_fn = construct(DSKDSpec())
    several = MultiTeacherLoss(MultiTeacherSpec(teachers={"one": {}}), {"one": loss_fn})
    for module in (loss_fn, several):
        with pytest.raises(InputError, match=rf"^{name}: expected .*not negative.*got .*{re.escape(str(rate))}"):
            module.param_groups(**{"lr": 1e-3, name: rate})


@pytest.mark.parametrize("rate", [0, 1, 1e-3, np.float32(0.5), torch.tensor(0.5)], ids=str)
def test_rates_of_any_type_are_taken(rate: Any) -> None:
    (group,) = construct(DSKDSpec()).param_groups(lr=rate, weight_decay=rate)
    assert group["lr"] == rate
    assert group["weight_decay"] == rate


def test_what_yaml_takes_for_text_is_said() -> None:
    with pytest.raises(InputError, match=r"lr: .*got '1e-3'.*YAML.*1\.0e-3"):
        construct(DSKDSpec()).param_groups(lr="1e-3")  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_head_is_a_head(side: str) -> None:
    heads: dict[str, Any] = {"student_head": Head(torch.ones(11, 5)), "teacher_head": Head(torch.ones(11, 7))}
    heads[f"{side}_head"] = torch.nn.Linear(5, 11)
    with pytest.raises(InputError, match=rf"{side}_head: expected a Head, got Linear.*Head\.from_model"):
        construct(DSKDSpec(), **heads)


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("given", [torch.nn.Linear(2, 2), {"hidden_states": 1}, None], ids=["model", "batch", "none"])
def test_what_is_called_without_states_says_how_models_are_run(given: Any, side: str) -> None:
    """Who calls the loss with models or with their outputs meant `run`, or states made of them."""
    batch = make_batch(0, same_tokenizer=True)
    loss_fn = build(IDENTITY, batch)
    sides: dict[str, Any] = {"student": batch.student, "teacher": batch.teacher} | {side: given}
    message = rf"{side}: expected LMStates, got {type(given).__name__}.*loss_fn\.run\("
    for call_it in (loss_fn, loss_fn.align):
        with pytest.raises(InputError, match=message):
            call_it(**sides)
    spec = MultiTeacherSpec(teachers={"one": TeacherSpec.preset("dskd")})
    several = MultiTeacherLoss(spec, {"one": loss_fn})
    with pytest.raises(InputError, match=message):
        several(sides["student"], {"one": sides["teacher"]})


@pytest.mark.parametrize("name", ["pinv", "live_pinv"])
def test_a_projector_made_from_heads_says_so_by_itself(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}'.*heads"):
        get_projector(name).build(source_size=7, target_size=5, heads=None)


def test_a_spec_is_a_spec() -> None:
    with pytest.raises(InputError, match=r"DSKDSpec.*'dskd-cma'.*preset"):
        DSKDLoss("dskd-cma", student_hidden_size=5, teacher_hidden_size=7)  # type: ignore[arg-type]


def test_misspelt_options_of_the_spec_are_named() -> None:
    with pytest.raises(ValidationError, match="did you mean 'temperature'"):
        DSKDSpec(temprature=2.0)  # type: ignore[call-arg]
