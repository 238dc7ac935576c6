"""Batches in models and in the loss: every aligner, padding on either side, packed and separate."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator
from dskd_components.models.hidden_states import last_hidden_states
from tests.helpers.collating import byte_level, metaspace
from tests.helpers.models import tiny_model
from tests.helpers.registered import names

SAMPLES: list[dict[str, Any]] = [
    {"prompt": "What is new?", "response": " The statement is the value."},
    {"text": "e\u0301 😀  the statement"},
    {
        "messages": [
            {"role": "user", "content": "Name a statement."},
            {"role": "assistant", "content": "The value of the statement is a name, e\u0301."},
        ]
    },
    {"prompt": "", "response": "the"},
]

# OPT fills in a mask of its own where it is given none, and so lets packed samples see each other.
PACKABLE = ["Llama", "GPT2", "Mistral", "Qwen2", "Gemma2", "Cohere", "Granite", "Phi"]


@cache
def models(student: str = "GPT2", teacher: str = "Llama") -> tuple[Any, Any]:
    return (
        tiny_model(student, hidden_size=24 if student == "GPT2" else 32, vocabulary=len(byte_level())),
        tiny_model(teacher, hidden_size=32, vocabulary=len(metaspace()) + 20),
    )


def collator(**options: Any) -> DualTokenizerCollator:
    return DualTokenizerCollator(byte_level(), metaspace(), **options)


def loss_of(spec: DSKDSpec, student: Any, teacher: Any) -> DSKDLoss:
    torch.manual_seed(0)
    return DSKDLoss.from_models(spec, student, teacher, byte_level(), metaspace())


def outcome(loss_fn: DSKDLoss, student: Any, teacher: Any, batches: list[Any]) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of batches accumulated under one token count."""
    items = sum(int((batch["student_labels"] >= 0).sum()) for batch in batches)
    student.zero_grad()
    loss_fn.zero_grad()
    total = 0.0
    for batch in batches:
        out = loss_fn.run(student, teacher, batch, num_items_in_batch=items)
        out.loss.backward()
        total += out.loss.item()
    parameters = [*student.parameters(), *loss_fn.parameters()]
    return total, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def aligners() -> list[str]:
    return [name for name in names("aligner") if name != "identity"]


def test_one_tokenizer_is_collated_like_two() -> None:
    """Groups that join each position to itself tell the aligner 'identity' what it presumes."""
    student, teacher = (tiny_model("GPT2", hidden_size=width, vocabulary=len(byte_level())) for width in (24, 32))
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd"), student, teacher, byte_level(), byte_level())
    told, untold = (
        DualTokenizerCollator(byte_level(), byte_level(), aligner=aligner)(SAMPLES[:2])
        for aligner in ("exact_match", "identity")
    )
    assert "student_groups" in told
    torch.testing.assert_close(loss_fn.run(student, teacher, told).loss, loss_fn.run(student, teacher, untold).loss)


@pytest.mark.parametrize("aligner", aligners())
def test_every_aligner_learns_from_collated_samples(aligner: str) -> None:
    student, teacher = models()
    loss_fn = loss_of(DSKDSpec(aligner=aligner), student, teacher)
    out = loss_fn.run(student, teacher, collator(aligner=aligner)(SAMPLES))
    out.loss.backward()
    assert out.loss.isfinite()
    assert out.loss.item() > 0
    if loss_fn.spec.aligner.text_method:
        assert 0.3 < out.metrics["student_coverage"].item() <= 1
        assert out.terms["t2s_kd"].item() > 0


def test_one_tokenizer_and_the_identity() -> None:
    student, _ = models()
    teacher = tiny_model("Llama", hidden_size=32, vocabulary=len(byte_level()))
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd"), student, teacher, byte_level(), byte_level())
    batch = DualTokenizerCollator(byte_level(), byte_level(), aligner="identity")(SAMPLES)
    assert loss_fn.run(student, teacher, batch).loss.isfinite()


def test_cross_model_attention_measures_itself_by_exact_pairs() -> None:
    student, teacher = models()
    loss_fn = loss_of(DSKDSpec(aligner="cma"), student, teacher)
    assert "alignment_accuracy" in loss_fn.run(student, teacher, collator()(SAMPLES)).metrics


def test_the_preset_of_exact_pairs_runs() -> None:
    student, teacher = models()
    loss_fn = loss_of(DSKDSpec.preset("dskd-v2-eta"), student, teacher)
    assert loss_fn.run(student, teacher, collator()(SAMPLES)).loss.isfinite()


@pytest.mark.parametrize("aligner", aligners())
@pytest.mark.parametrize("way", ["left", "packed", "one by one"])
def test_the_loss_does_not_depend_on_how_samples_share_a_batch(aligner: str, way: str) -> None:
    student, teacher = models()
    loss_fn = loss_of(DSKDSpec(aligner=aligner), student, teacher)
    expected = outcome(loss_fn, student, teacher, [collator(aligner=aligner)(SAMPLES)])
    batches = {
        "left": lambda: [collator(aligner=aligner, padding_side="left", pad_to_multiple_of=8)(SAMPLES)],
        "packed": lambda: [collator(aligner=aligner, packing=True, pad_to_multiple_of=16)(SAMPLES)],
        "one by one": lambda: [collator(aligner=aligner)([sample]) for sample in SAMPLES],
    }[way]()
    loss, gradients = outcome(loss_fn, student, teacher, batches)
    assert loss == pytest.approx(expected[0], rel=1e-4)
    for ours, theirs in zip(gradients, expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-5)


def furthest_from_separate(family: str) -> float:
    """The largest difference between a packed last hidden state and the one of the sample alone."""
    model = tiny_model(family, vocabulary=len(byte_level()))
    furthest = 0.0
    packed = collator(packing=True, pad_to_multiple_of=8)(SAMPLES)
    with torch.no_grad():
        together = last_hidden_states(
            model, {name: packed[f"student_{name}"] for name in ("input_ids", "position_ids")}
        )
        for number, sample in enumerate(SAMPLES):
            batch = collator()([sample])
            alone = last_hidden_states(
                model, {name: batch[f"student_{name}"] for name in ("input_ids", "attention_mask")}
            )
            segment = together[packed["student_segment_ids"] == number]
            furthest = max(furthest, (segment - alone[0]).abs().max().item())
    return furthest


@pytest.mark.parametrize("family", PACKABLE)
def test_models_read_packed_samples_as_separate_ones(family: str) -> None:
    assert furthest_from_separate(family) < 1e-4


def test_opt_cannot_read_packed_samples() -> None:
    # The documentation says so; if this changes, so should it.
    assert furthest_from_separate("OPT") > 1e-2


@pytest.mark.parametrize("family", [*PACKABLE, "OPT"])
def test_models_read_left_padded_samples_as_right_padded_ones(family: str) -> None:
    model = tiny_model(family, vocabulary=len(byte_level()))
    states = []
    for padding_side in ("right", "left"):
        batch = collator(padding_side=padding_side)(SAMPLES)
        columns = ("input_ids", "attention_mask", "position_ids")
        inputs = {name: batch[f"student_{name}"] for name in columns if f"student_{name}" in batch}
        with torch.no_grad():
            states.append(last_hidden_states(model, inputs)[inputs["attention_mask"].bool()])
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-4)
