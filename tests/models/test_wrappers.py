"""Heads and hidden states through PEFT, `torch.compile`, data parallelism, Accelerate, and several of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import accelerate
import peft
import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dskd_components import DSKDLoss, DSKDSpec, Head, InputError
from dskd_components.models.hidden_states import last_hidden_states
from dskd_components.models.run_model import input_embedding
from dskd_components.models.wrappers import layers, unwrapped
from tests.helpers.families import make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    # PEFT still goes by a name that transformers has given up.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    # An adapter on one of two tied layers is meant.
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

IDS = torch.arange(10, 24).reshape(2, 7)


def adapted(name: str = "Llama", *, layers: int = 2, **options: Any) -> Any:
    """A model with an adapter whose parameters are not zero."""
    model = peft.get_peft_model(
        make(name, num_hidden_layers=layers), peft.LoraConfig(r=4, lora_alpha=8, **options)
    ).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def require_equal_logits(model: Any) -> None:
    head = Head.from_model(model)
    with torch.no_grad():
        found = head.logits(last_hidden_states(model, {"input_ids": IDS}))
        expected = model(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def fresh_state() -> Iterator[None]:
    """Accelerate keeps its settings for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


LORA: dict[str, dict[str, Any]] = {
    "backbone": {"target_modules": ["q_proj"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["embed_tokens"]},
    "both": {"target_modules": ["lm_head", "embed_tokens"]},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [11, 12]}},
}


@pytest.mark.parametrize("where", LORA)
def test_lora(where: str) -> None:
    model = adapted(**LORA[where])
    require_equal_logits(model)
    with torch.no_grad():
        expected = model.get_input_embeddings()(torch.arange(96))
    torch.testing.assert_close(input_embedding(model), expected)
    with model.disable_adapter():
        require_equal_logits(model)
    if where in ("head", "both"):
        assert not torch.equal(Head.from_model(model).weight, model.get_output_embeddings().weight)
        model.merge_adapter()
        require_equal_logits(model)
        model.unmerge_adapter()
    require_equal_logits(model)


@pytest.mark.parametrize("name", ["Phi", "Gemma2", "Granite"])
def test_lora_beside_bias_softcap_and_scale(name: str) -> None:
    require_equal_logits(adapted(name, target_modules=["lm_head"]))


def test_two_adapters_on_one_head() -> None:
    model = adapted(target_modules=["lm_head"])
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    require_equal_logits(model)
    model.set_adapter("other")
    require_equal_logits(model)
    model.base_model.set_adapter(["default", "other"])
    require_equal_logits(model)


def test_gradients_reach_the_adapter_of_the_head() -> None:
    """They are those of the model's own logits, and the base weight gets none."""
    model = adapted(target_modules=["lm_head"])
    layer = model.get_output_embeddings()
    parts = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    expected = torch.autograd.grad(model(input_ids=IDS).logits.logsumexp(-1).sum(), parts)
    hidden_states = last_hidden_states(model, {"input_ids": IDS})
    head = Head.from_model(model, verify=False)
    found = torch.autograd.grad(head.logits(hidden_states).logsumexp(-1).sum(), parts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def batch() -> dict[str, torch.Tensor]:
    return {"input_ids": IDS, "labels": IDS, "attention_mask": torch.ones_like(IDS)}


def test_a_step_trains_the_adapter_of_the_head() -> None:
    student, teacher = adapted(target_modules=["lm_head"]), make("Llama")
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd"), student, teacher)
    optimizer = torch.optim.SGD([parameter for parameter in student.parameters() if parameter.requires_grad], lr=0.1)
    losses = []
    for _ in range(3):
        out = loss_fn.run(student, teacher, batch())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.terms["ce"].item())
    assert losses[2] < losses[1] < losses[0]
    base = student.get_output_embeddings().base_layer.weight
    assert base.grad is None
    assert teacher.lm_head.weight.grad is None


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_adapters_that_are_no_added_matrix_are_refused(options: dict[str, Any]) -> None:
    model = adapted("Phi", target_modules=["lm_head"], **options)
    with pytest.raises(InputError, match=r"PhiForCausalLM: the adapter 'default'.*modules_to_save"):
        Head.from_model(model)


def test_adapters_that_multiply_the_weight_are_refused() -> None:
    model = peft.get_peft_model(make("Llama"), peft.OFTConfig(r=0, oft_block_size=8, target_modules=["lm_head"]))
    with pytest.raises(InputError, match=r"LlamaForCausalLM: the adapter 'default'.*oft.*merge the adapter"):
        Head.from_model(model)


class Plain(nn.Module):
    """A model that does not take ``logits_to_keep``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make("Llama", num_hidden_layers=1)
        self.config = self.inner.config

    def get_output_embeddings(self) -> nn.Module:
        return self.inner.get_output_embeddings()

    def forward(self, input_ids: torch.Tensor, output_hidden_states: int = 0, use_cache: bool = False) -> Any:
        return self.inner(input_ids=input_ids, output_hidden_states=output_hidden_states, use_cache=use_cache)


# A compiler takes a second for each layer, and every one is compiled as the first.
def test_compiled() -> None:
    model: Any = torch.compile(make("Gemma2", num_hidden_layers=1), backend="eager")
    require_equal_logits(model)
    without_option: Any = torch.compile(Plain().eval(), backend="eager")
    require_equal_logits(without_option)
    in_place: Any = Plain().eval()
    in_place.compile(backend="eager")
    require_equal_logits(in_place)  # its last call gives all logits: nothing that cuts them was compiled in


def test_data_parallel_and_nested(one_process: None) -> None:
    inner = adapted(layers=1, target_modules=["lm_head"])
    nested: Any = DistributedDataParallel(torch.compile(inner, backend="eager"))
    chain = ["DistributedDataParallel", "OptimizedModule", "PeftModel", "LoraModel", "LlamaForCausalLM"]
    assert [type(layer).__name__ for layer in layers(nested)] == chain
    require_equal_logits(DistributedDataParallel(make("Qwen2, tied")))
    require_equal_logits(nested)


def test_the_call_goes_through_every_wrapper(one_process: None) -> None:
    wrapped = DistributedDataParallel(make("Llama"))
    seen: list[str] = []
    for layer in layers(wrapped):  # type: ignore[arg-type]
        layer.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))  # type: ignore[attr-defined]
    last_hidden_states(wrapped, {"input_ids": IDS})  # type: ignore[arg-type]
    assert seen == ["LlamaForCausalLM", "DistributedDataParallel"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_prepared_by_accelerate(precision: str, fresh_state: None) -> None:
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    model = accelerator.prepare(make("Granite"))
    head = Head.from_model(model)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        found = head.logits(last_hidden_states(model, {"input_ids": IDS}))
    torch.testing.assert_close(found, expected.float(), rtol=2e-2, atol=1e-1)


def test_what_holds_no_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"Sequential: found no causal language model.*module, _orig_mod, base_model"):
        Head.from_model(nn.Sequential(make("Llama")))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="int: found no causal language model"):
        Head.from_model(3)  # type: ignore[arg-type]


def test_a_model_is_its_own_innermost_layer() -> None:
    model = make("Llama")
    assert unwrapped(model) is model
