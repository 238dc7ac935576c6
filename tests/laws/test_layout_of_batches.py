"""Batches of models: padding and packing as users have them change neither loss, gradients nor counts."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, Head, InputError, MultiTeacherLoss, MultiTeacherSpec, scored_tokens
from dskd_components.spec.presets import PRESETS
from tests.helpers.models import tiny_model
from tests.helpers.registered import specs, vocabulary_map

if TYPE_CHECKING:
    from torch import Tensor

ALIGNERS = {name: spec for name, spec in specs().items() if name.startswith("aligner")}
SPECS = {f"preset {name}": DSKDSpec.preset(name) for name in PRESETS} | ALIGNERS
LENGTHS = (5, 3, 6)
PAD = 0


@cache
def model(width: int) -> Any:
    return tiny_model("Llama", hidden_size=width, vocabulary=20)


@cache
def loss_of(spec: DSKDSpec) -> DSKDLoss:
    torch.manual_seed(0)
    heads = {side: Head.from_model(model(width)) for side, width in (("student", 24), ("teacher", 32))}
    return DSKDLoss(
        spec,
        student_hidden_size=24,
        teacher_hidden_size=32,
        student_head=heads["student"],
        teacher_head=heads["teacher"],
        teacher_to_student_ids=None if spec.aligner.same_tokenizer else vocabulary_map(*heads.values()),
    )


def rows(side: str, *, same_tokenizer: bool) -> list[dict[str, Tensor]]:
    """The samples of a side by token; the first of each is a prompt."""
    longer = 1 if side == "teacher" and not same_tokenizer else 0
    found = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(
            3, 20, (length + longer,), generator=torch.Generator(torch.get_default_device()).manual_seed(number)
        )
        labels = ids.clone()
        labels[: number % 2] = -100  # in the others the first token has a label, which nothing predicts
        groups = torch.arange(length + longer).clamp_max(length - 1)
        found.append({"input_ids": ids, "labels": labels, "groups": groups})
    return found


def padded(side: list[dict[str, Tensor]], where: str, extra: int) -> dict[str, Tensor]:
    width = max(len(row["labels"]) for row in side) + extra
    filling = {"input_ids": PAD, "labels": -100, "groups": -1, "attention_mask": 0, "position_ids": 0}
    columns = {name: torch.full((len(side), width), value) for name, value in filling.items()}
    for number, row in enumerate(side):
        length = len(row["labels"])
        places = {
            "left": range(width - length, width),
            "right": range(length),
            "middle": [*range(2), *range(width - length + 2, width)],
        }[where]
        all_of_row = row | {"attention_mask": torch.ones(length).long(), "position_ids": torch.arange(length)}
        for name, values in all_of_row.items():
            columns[name][number, list(places)] = values
    return columns


def run(spec: DSKDSpec, batch: dict[str, Tensor]) -> tuple[Any, list[Tensor]]:
    loss_fn, student = loss_of(spec), model(24)
    student.zero_grad()
    if spec.aligner.text_method is None:
        batch = {name: column for name, column in batch.items() if "groups" not in name}
    out = loss_fn.run(student, model(32), batch)
    assert scored_tokens(batch) == out.counts["ce"]
    parameters = [student.get_output_embeddings().weight, model(24).model.layers[0].mlp.up_proj.weight]
    leaves = [*parameters, *loss_fn.parameters()]
    return out, list(torch.autograd.grad(out.loss, leaves, allow_unused=True, materialize_grads=True))


def both(spec: DSKDSpec, make: Any) -> dict[str, Tensor]:
    found = {}
    for side in ("student", "teacher"):
        made = make(rows(side, same_tokenizer=spec.aligner.same_tokenizer), side)
        found |= {f"{side}_{name}": column for name, column in made.items()}
    return found


def agree(found: tuple[Any, list[Tensor]], expected: tuple[Any, list[Tensor]]) -> None:
    torch.testing.assert_close(found[0].loss, expected[0].loss, rtol=1e-5, atol=1e-5)
    assert found[0].counts == expected[0].counts
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@cache
def expected_of(spec: DSKDSpec) -> tuple[Any, list[Tensor]]:
    """As little padding as rows of several lengths take, on the right, where causal models do not see it."""
    return run(spec, both(spec, lambda side, _: padded(side, "right", 0)))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize(
    ("ours", "theirs"), [("left", "left"), ("right", "left"), ("left", "right"), ("middle", "left")]
)
def test_padding_anywhere(spec: DSKDSpec, ours: str, theirs: str) -> None:
    if spec.aligner.same_tokenizer:
        theirs = ours
    batch = both(spec, lambda side, name: padded(side, ours if name == "student" else theirs, 2))
    agree(run(spec, batch), expected_of(spec))


def test_only_tokens_that_something_predicts_are_counted() -> None:
    batch = both(DSKDSpec(), lambda side, _: padded(side, "left", 1))
    # The first row's and the last's first token have a label, but only padding before them.
    assert scored_tokens(batch) == sum(length - 1 for length in LENGTHS)


def packed(side: list[dict[str, Tensor]], how: str) -> dict[str, Tensor]:
    columns = {name: torch.cat([row[name] for row in side])[None] for name in side[0]}
    lengths = torch.tensor([len(row["labels"]) for row in side])
    positions = {"position_ids": torch.cat([torch.arange(length) for length in lengths])[None]}
    ends = torch.cat([torch.zeros(1).long(), lengths.cumsum(0)]).int()
    sample = torch.arange(len(side)).repeat_interleave(lengths)[None]
    square = (sample[:, :, None] == sample[:, None, :]).tril()[:, None]
    return (
        columns
        | {
            "position_ids": positions,
            "segment_ids": positions | {"segment_ids": sample * 2**40 - 2**62},
            "cu_seq_lens": positions | {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": lengths.max()},
            "seq_idx": positions | {"seq_idx": sample.int()},
            "a square mask": positions | {"attention_mask": square},
            "lengths without positions": {"cu_seq_lens_q": ends},
            "a mask of ones": positions | {"attention_mask": torch.ones_like(sample)},
            "a mask with numbers": positions | {"attention_mask": sample + 1},
            "positions that go on": {"position_ids": torch.arange(len(sample[0]))[None], "segment_ids": sample},
        }[how]
    )


# Standard deviations over the batch, thresholds and the like do not tell rows from samples, so presets may be packed.
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("how", ["position_ids", "segment_ids", "cu_seq_lens", "seq_idx", "a square mask"])
def test_packed_rows_are_the_rows_apart(spec: DSKDSpec, how: str) -> None:
    agree(run(spec, both(spec, lambda side, _: packed(side, how))), expected_of(spec))


@pytest.mark.parametrize("spec", ALIGNERS.values(), ids=ALIGNERS.keys())
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("lengths without positions", "no column 'student_position_ids' that starts anew"),
        ("a mask of ones", "'student_attention_mask' the model would not look.*Leave the mask out"),
        ("a mask with numbers", "'student_attention_mask' the model would not look.*Leave the mask out"),
        ("positions that go on", "student_segment_ids begins .* student_position_ids goes on"),
    ],
)
def test_packed_rows_that_a_model_would_read_as_one_are_refused(spec: DSKDSpec, how: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run(spec, both(spec, lambda side, _: packed(side, how)))


@pytest.mark.parametrize("spec", ALIGNERS.values(), ids=ALIGNERS.keys())
def test_rows_that_are_packed_for_one_model_alone_are_refused(spec: DSKDSpec) -> None:
    batch = both(spec, lambda side, name: packed(side, "position_ids"))
    del batch["teacher_position_ids"]
    with pytest.raises(InputError, match=r"student has sample 1.*teacher has no segment ids"):
        run(spec, batch)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_models_that_do_not_look_at_positions_are_refused(side: Any) -> None:
    loss_fn = loss_of(DSKDSpec())
    opt = tiny_model("OPT", hidden_size=16, vocabulary=20)
    columns = packed(rows("student", same_tokenizer=True), "position_ids")
    with pytest.raises(InputError, match="OPTForCausalLM lets the samples of a packed row see one another"):
        loss_fn.states(opt, columns, side)
    # Plain positions are no packing.
    count = columns["labels"].shape[1]
    loss_fn.states(opt, columns | {"position_ids": torch.arange(count)[None]}, side)


def test_a_column_of_neither_tokenizer_is_refused() -> None:
    spec = DSKDSpec(aligner="cma")
    batch = both(spec, lambda side, _: padded(side, "left", 1))
    batch["attention_mask"] = batch.pop("student_attention_mask")
    with pytest.raises(InputError, match=r"'attention_mask'.*'student_attention_mask' or 'teacher_attention_mask'"):
        loss_of(spec).run(model(24), model(32), batch)


def test_several_teachers_read_padding_and_packing_alike() -> None:
    spec = MultiTeacherSpec(teachers={"large": {"aligner": "cma"}, "large_v2": {}})
    loss_fn = MultiTeacherLoss(spec, {name: loss_of(spec.pair(name)) for name in spec.teachers})
    losses = []
    for make in (lambda side: padded(side, "right", 0), lambda side: padded(side, "left", 2), packed_by_position):
        batch = both(DSKDSpec(), lambda side, _: make(side))  # noqa: B023
        teacher = {name: column for name, column in batch.items() if name.startswith("teacher_")}
        batch |= {name.replace("teacher", "large"): column for name, column in teacher.items()}
        out = loss_fn.run(model(24), dict.fromkeys(spec.teachers, model(32)), batch)
        assert scored_tokens(batch) == out.counts["ce"]
        losses.append(out.loss)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-5, atol=1e-5)


def packed_by_position(side: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return packed(side, "position_ids")
