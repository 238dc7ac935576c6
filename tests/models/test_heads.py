"""Heads of many families give the logits of their models, and a mistake in any part of them shows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import pytest
import torch
from torch import nn

from dskd_components import Head, InputError
from dskd_components.models.hidden_states import last_hidden_states
from dskd_components.models.run_model import input_embedding
from dskd_components.models.verification import ordinary_tokens
from tests.helpers.families import FAMILIES, make

if TYPE_CHECKING:
    from collections.abc import Callable

IDS = torch.arange(10, 24).reshape(2, 7)
TOLERANCES = {torch.float32: {"rtol": 1e-5, "atol": 2e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 1e-1}}


def mistakes(head: Head) -> dict[str, Head]:
    """The head with one part of it wrong each."""
    found = {
        "scale": replace(head, scale=head.scale * 1.1),
        "weight": replace(head, weight=head.weight * 1.1),
        "softcap": replace(head, softcap=5.0 if head.softcap is None else head.softcap * 1.2),
        "bias": replace(head, bias=torch.ones(len(head.weight)) if head.bias is None else None),
    }
    if head.softcap is not None:
        found["no softcap"] = replace(head, softcap=None)
    if head.scale != 1:
        found["no scale"] = replace(head, scale=1.0)
    return found


def verify(head: Head, model: Any, part: str) -> None:
    head.verify(model)
    pytest.fail(f"A wrong {part} was not noticed.")


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_are_those_of_their_models(name: str) -> None:
    model = make(name)
    head = Head.from_model(model)
    parts = {"bias": head.bias is not None, "scale": head.scale != 1, "softcap": head.softcap is not None}
    assert {part for part, found in parts.items() if found} == set(FAMILIES[name].has)
    for part, wrong in mistakes(head).items():
        with pytest.raises(InputError, match=f"{FAMILIES[name].model}.*differ.*by up to"):
            verify(wrong, model, part)
    for dtype, tolerance in TOLERANCES.items():
        model = model.to(dtype)
        head = Head.from_model(model)
        with torch.no_grad():
            expected = model(input_ids=IDS, use_cache=False).logits.float()
            found = head.logits(last_hidden_states(model, {"input_ids": IDS}))
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("xLSTM", "RecurrentGemma")])
def test_states_before_the_final_norm_would_be_noticed(name: str) -> None:
    """Random norms are far from the identity, so the states of another layer give other logits."""
    model = make(name)
    head = Head.from_model(model)
    with torch.no_grad():
        output = model(input_ids=IDS, output_hidden_states=True, use_cache=False)
        earlier = output.hidden_states[-2]
    assert earlier.shape[-1] != head.hidden_size or (head.logits(earlier) - output.logits).abs().max() > 0.1


def everything_in(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@pytest.mark.parametrize("name", FAMILIES)
def test_verification_leaves_the_model_as_it_was(name: str) -> None:
    model = make(name).train()
    next(model.children()).eval()  # a part that is frozen stays in its mode
    modes = [module.training for module in model.modules()]
    before, state = everything_in(model), torch.get_rng_state()
    Head.from_model(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    after = everything_in(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    head = model.get_output_embeddings()
    assert not head._forward_hooks
    assert not head._forward_pre_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_verification_holds_with_dropout() -> None:
    model = make("GPT-2", resid_pdrop=0.9, embd_pdrop=0.9, attn_pdrop=0.9).train()
    Head.from_model(model).verify(model)
    assert model.training


class Failing(nn.Module):
    """A model that fails when it is run, after using random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make("Llama")
        self.config = self.inner.config

    def get_output_embeddings(self) -> nn.Module:
        return self.inner.get_output_embeddings()

    def forward(self, **inputs: Any) -> Any:
        torch.rand(1)
        raise KeyError("pixel_values")


def test_a_probe_that_fails_is_a_named_error_and_leaves_no_trace() -> None:
    model = Failing().train()
    state = torch.get_rng_state()
    with pytest.raises(InputError, match=r"Failing failed on.*KeyError.*pixel_values.*verify=False") as info:
        Head.from_model(model)  # type: ignore[arg-type]
    assert isinstance(info.value.__cause__, KeyError)
    assert model.training
    assert model.inner.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.inner.get_output_embeddings()._forward_hooks


def test_damaged_weights_are_no_agreement() -> None:
    model = make("Llama")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(InputError, match=r"LlamaForCausalLM gives hidden states with NaN"):
        Head.from_model(model)


def test_small_logits_hide_nothing() -> None:
    """A freshly initialised model has logits near zero; a wrong scale still shows, in half precision as well."""
    for dtype in (torch.float32, torch.bfloat16):
        model = make("Llama", dtype=dtype)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1e-3)
        head = Head.from_model(model)
        with pytest.raises(InputError, match=r"times 0\.5|another scale"):
            replace(head, scale=2.0).verify(model)


@pytest.mark.parametrize("copied", ["weight", "bias"])
def test_stale_cached_head_after_an_optimizer_step(copied: str) -> None:
    model = make("Phi")
    live = Head.from_model(model)
    cached = replace(live, **{copied: getattr(live, copied).detach().clone()})
    cached.verify(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    live.verify(model)
    with pytest.raises(InputError, match=rf"PhiForCausalLM.*another {copied}\..*stale after an optimizer step.*anew"):
        cached.verify(model)


def test_a_head_with_another_scale_is_told_which() -> None:
    class Doubled(Failing):
        """Logits that are doubled, which no configuration tells."""

        def forward(self, **inputs: Any) -> Any:
            output = self.inner(**inputs)
            output.logits = output.logits * 2
            return output

    with pytest.raises(InputError, match=r"Doubled.*the head's times 2; pass scale"):
        Head.from_model(Doubled())  # type: ignore[arg-type]


def test_something_between_states_and_head_is_told() -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, is_decoder=True
    )
    model = transformers.BertLMHeadModel(config).eval()
    with pytest.raises(InputError, match=r"BertLMHeadModel.*not what its output embeddings read"):
        Head.from_model(model)


def test_padding_that_the_model_cuts_off_is_no_part_of_its_head() -> None:
    import transformers

    config = transformers.InklingTextConfig(vocab_size=96, unpadded_vocab_size=90)
    assert config.unpadded_vocab_size == 90
    model = make("Llama")
    model.config.unpadded_vocab_size = 90
    head = Head.from_model(model, verify=False)
    assert head.vocabulary_size == 90
    with pytest.raises(InputError, match="the model gives 96 logits, the head's weight has 90 rows"):
        head.verify(model)


class EightBits(torch.Tensor):
    """A weight of 8 bits that calls itself bfloat16 and knows few operations, as those of torchao."""

    codes: torch.Tensor

    @staticmethod
    def __new__(cls, codes: torch.Tensor) -> Self:
        made: Self = torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.bfloat16)  # type: ignore[attr-defined]
        made.codes = codes
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, torch.Tensor], *_: object) -> Self:
        return cls(inner["codes"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].codes)
        raise NotImplementedError(f"{func} of a weight of 8 bits")


@pytest.mark.parametrize(
    ("form", "weight"),
    [("int8", torch.zeros), ("EightBits", lambda *size, dtype: EightBits(torch.zeros(size, dtype=dtype)))],
)
@pytest.mark.parametrize("layer", ["head", "input embedding"])
def test_quantized_weights_are_refused(form: str, weight: Callable[..., torch.Tensor], layer: str) -> None:
    model = make("Llama")
    module = model.lm_head if layer == "head" else model.model.embed_tokens
    module.weight = nn.Parameter(weight(96, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        InputError, match=rf"LlamaForCausalLM.* its {layer} is quantized \({form}\).*llm_int8_skip_modules"
    ):
        Head.from_model(model) if layer == "head" else input_embedding(model)
    with pytest.raises(InputError, match=rf"{form}"):
        Head(module.weight)


def test_several_language_parts_are_refused_by_name() -> None:
    model = make("Llama")

    class Config:
        def get_text_config(self) -> Any:
            raise ValueError("several")

    model.config = Config()
    with pytest.raises(InputError, match=r"LlamaForCausalLM: its configuration has several language parts"):
        Head.from_model(model, verify=False)


def test_ordinary_tokens_have_no_role() -> None:
    model = make("Gemma3")
    assert ordinary_tokens(model, 4, torch.device("cpu")).tolist() == [[3, 4, 8, 9]]
    model = make("Llama", pad_token_id=3, bos_token_id=0, eos_token_id=[1, 5])
    assert ordinary_tokens(model, 6, torch.device("cpu")).tolist() == [[2, 4, 6, 7, 8, 9]]
    model.config.vocab_size = 4
    assert ordinary_tokens(model, 3, torch.device("cpu")).tolist() == [[2, 2, 2]]
