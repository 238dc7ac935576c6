"""Last hidden states without the price of all logits, from the inputs that a model is meant to get."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dskd_components import DSKDLoss, DSKDSpec, Head, InputError
from dskd_components.models.hidden_states import last_hidden_states
from tests.helpers.families import FAMILIES, make

# PEFT and gradient checkpointing still go by a name that transformers has given up.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

IDS = torch.arange(10, 24).reshape(2, 7)


def rows_computed(model: Any, run: Any) -> list[int]:
    """How many positions the head was called with, at each of its calls."""
    rows: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _, arguments, output: rows.append(output.numel() // output.shape[-1])
    )
    run()
    handle.remove()
    return rows


def read_by_the_head(model: Any) -> list[torch.Tensor]:
    """What the head was given at each of its calls."""
    read: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    call = head.forward
    head.forward = lambda states: (read.append(states), call(states))[1]
    last_hidden_states(model, {"input_ids": IDS})
    del head.forward
    return read


@pytest.mark.parametrize("name", FAMILIES)
def test_one_position_of_logits_is_computed(name: str) -> None:
    model = make(name)
    rows = rows_computed(model, lambda: last_hidden_states(model, {"input_ids": IDS}))
    assert rows == [len(IDS)]
    assert all(states.is_contiguous() for states in read_by_the_head(model)), "or a CPU copies the weight by sample"
    assert model(input_ids=IDS, use_cache=False).logits.shape[:2] == IDS.shape  # later calls are as ever


def test_a_model_without_the_option_pays_for_one_position_too() -> None:
    class Plain(nn.Module):
        """A model of one's own: it takes nothing but tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = make("Llama")
            self.config = self.inner.config

        def get_output_embeddings(self) -> nn.Module:
            return self.inner.get_output_embeddings()

        def forward(self, input_ids: torch.Tensor, output_hidden_states: int, use_cache: bool) -> Any:
            return self.inner(input_ids=input_ids, output_hidden_states=output_hidden_states, use_cache=use_cache)

    model: Any = Plain().eval()
    found: list[torch.Tensor] = []
    rows = rows_computed(model, lambda: found.append(last_hidden_states(model, {"input_ids": IDS})))
    assert rows == [2]
    expected = last_hidden_states(model.inner, {"input_ids": IDS})
    assert torch.equal(found[0], expected)
    Head.from_model(model)


def batch(side: str = "", **columns: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{side}{name}": column for name, column in {"input_ids": IDS, "labels": IDS, **columns}.items()}


def recorded(loss_fn: DSKDLoss, model: Any, columns: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a model is called with."""
    seen: dict[str, Any] = {}
    handle = model.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    loss_fn.states(model, columns, "student")
    handle.remove()
    return seen


LOSS = DSKDLoss(DSKDSpec(), student_hidden_size=32, teacher_hidden_size=32)


def test_a_model_gets_what_it_names_and_nothing_else() -> None:
    mask, positions = torch.ones_like(IDS), torch.arange(7).expand(2, 7)
    columns = batch("student_", attention_mask=mask, position_ids=positions, token_type_ids=0 * IDS, note=IDS)
    seen = recorded(LOSS, make("Gemma3"), columns)
    assert {"input_ids", "attention_mask", "position_ids", "token_type_ids"} <= seen.keys()
    assert not {"labels", "note", "groups"} & seen.keys()
    assert "token_type_ids" not in recorded(LOSS, make("Llama"), columns)
    assert seen["use_cache"] is False


def test_attention_mask_and_positions_are_honoured() -> None:
    """Padding on the left changes nothing, given both."""
    model = make("Llama")
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), IDS], dim=1)
    mask = torch.cat([torch.zeros(2, 3, dtype=torch.int64), torch.ones_like(IDS)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    columns = batch() | {"input_ids": padded, "labels": padded}
    plain = LOSS.states(model, batch(), "student").hidden_states
    masked = LOSS.states(model, columns | {"attention_mask": mask, "position_ids": positions}, "student").hidden_states
    torch.testing.assert_close(masked[:, 3:], plain)
    assert not torch.allclose(LOSS.states(model, columns, "student").hidden_states[:, 3:], plain, atol=1e-2)


def test_images_reach_the_model() -> None:
    """A batch for a vision-language model has its images as one more column."""
    model = make("LLaVA")
    ids = torch.tensor([[10, 3, 3, 3, 3, 11, 12]])  # 3 stands for a patch of the image
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator(torch.get_default_device()).manual_seed(0))
    columns = {"student_input_ids": ids, "student_labels": ids}
    found = LOSS.states(model, columns | {"student_pixel_values": images}, "student").hidden_states
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=images, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(LOSS.states(model, columns, "student").hidden_states, expected, atol=1e-2)


def test_gradient_checkpointing() -> None:
    gradients = []
    for checkpointed in (False, True):
        model = make("Llama").train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        last_hidden_states(model, {"input_ids": IDS}).square().sum().backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_misspelt_column_is_refused() -> None:
    for wrong, right in (("atention_mask", "attention_mask"), ("position_id", "position_ids"), ("lables", "labels")):
        columns = {name: column for name, column in batch("student_").items() if not name.endswith(right)}
        with pytest.raises(InputError, match=f"'student_{wrong}'.*Did you mean 'student_{right}'"):
            LOSS.states(make("Llama"), columns | {f"student_{wrong}": torch.ones_like(IDS)}, "student")


def test_tokens_in_front_are_refused() -> None:
    import peft

    model = peft.get_peft_model(make("Llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(InputError, match=r"LlamaForCausalLM returned.*\[2, 10, 32\].*\[2, 7\].*prompt tuning"):
        last_hidden_states(model, {"input_ids": IDS})
