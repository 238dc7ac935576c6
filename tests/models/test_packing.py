"""Samples of a packed row that see one another are noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, InputError
from dskd_components.models.packing import packing_leaks
from tests.helpers.families import make

LOSS = DSKDLoss(DSKDSpec(), student_hidden_size=32, teacher_hidden_size=32)
IDS = torch.arange(10, 20)[None]
PACKED = {
    "input_ids": IDS,
    "labels": IDS,
    "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]]),
    "segment_ids": torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]),
}


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen3", "Gemma2", "Gemma3", "Phi", "GPT-2", "GPT-NeoX", "OLMo2"])
def test_models_that_keep_samples_apart(name: str) -> None:
    model = make(name)
    assert packing_leaks(model) < 1e-5
    states = LOSS.states(model, PACKED, "student").hidden_states
    with torch.no_grad():
        alone = model(input_ids=IDS[:, 4:], output_hidden_states=True, use_cache=False).hidden_states[-1]
    torch.testing.assert_close(states[:, 4:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["OPT", "Bloom", "Falcon", "Mamba", "RWKV", "BioGPT", "Falcon-H1"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_models_that_do_not_are_refused(name: str, side: Any) -> None:
    model = make(name)
    assert packing_leaks(model) > 1e-2
    with pytest.raises(InputError, match=rf"{type(model).__name__} lets.*change by [\d.]+%.*without packing"):
        LOSS.states(model, PACKED, side)
    one_sample = PACKED | {"segment_ids": torch.zeros_like(IDS), "position_ids": torch.arange(10)[None]}
    wide = DSKDLoss(DSKDSpec(), student_hidden_size=32, teacher_hidden_size=32)
    wide.states(model, one_sample, side)  # one sample a row has nothing to leak


def test_the_remedy_depends_on_the_batch() -> None:
    model = make("Llama")
    with pytest.raises(InputError, match=r"LlamaForCausalLM.*Leave out 'student_attention_mask'"):
        LOSS.states(model, PACKED | {"attention_mask": torch.ones_like(IDS)}, "student")
    without = {name: column for name, column in PACKED.items() if name != "position_ids"}
    with pytest.raises(InputError, match=r"LlamaForCausalLM.*no column 'student_position_ids'"):
        LOSS.states(model, without, "student")
    segments = PACKED["segment_ids"]
    apart = (segments[:, :, None] == segments[:, None, :]).tril()[:, None]
    LOSS.states(model, without | {"attention_mask": apart, "position_ids": PACKED["position_ids"]}, "student")


def test_a_model_is_tried_once() -> None:
    model = make("Llama")
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        LOSS.states(model, PACKED, "student")
    assert len(calls) == 2 + 3


def test_rows_that_are_not_packed_cost_nothing() -> None:
    model = make("OPT")
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    DSKDLoss(DSKDSpec(), student_hidden_size=16, teacher_hidden_size=16).states(
        model, {"input_ids": IDS, "labels": IDS}, "student"
    )
    assert len(calls) == 1


def test_trying_leaves_the_model_as_it_was() -> None:
    model = make("GPT-2").train()
    state = torch.get_rng_state()
    packing_leaks(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
