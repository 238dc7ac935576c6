"""Tiny random causal models of many families, every parameter spread out so that no part of a head can hide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCABULARY = 96

# Whatever of these a configuration has.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "max_seq_len": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is made, and what its head must show."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    """What of bias, scale, softcap the head must have; the others it must not."""


def text(**options: Any) -> dict[str, Any]:
    """The options of the text tower of a multimodal model."""
    wanted = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    kept = {name: SMALL[name] for name in (*wanted, "num_key_value_heads", "head_dim", "max_position_embeddings")}
    return kept | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | options


VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}

FAMILIES: dict[str, Family] = {
    "Llama": Family("LlamaForCausalLM"),
    "Llama, tied": Family("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "Mistral": Family("MistralForCausalLM"),
    "Mixtral": Family("MixtralForCausalLM"),
    "Qwen2": Family("Qwen2ForCausalLM"),
    "Qwen2, tied": Family("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "Qwen2-MoE": Family("Qwen2MoeForCausalLM"),
    "Qwen3": Family("Qwen3ForCausalLM"),
    "Qwen3-MoE": Family("Qwen3MoeForCausalLM"),
    "Gemma": Family("GemmaForCausalLM"),
    "Gemma2": Family("Gemma2ForCausalLM", {"final_logit_softcapping": 3.0}, has=("softcap",)),
    "Gemma3 text": Family("Gemma3ForCausalLM", {"final_logit_softcapping": 3.0}, has=("softcap",)),
    "Gemma3": Family(
        "Gemma3ForConditionalGeneration",
        {
            "text_config": text(),
            "vision_config": VISION,
            "image_token_index": 5,
            "boi_token_index": 6,
            "eoi_token_index": 7,
            "mm_tokens_per_image": 4,
        },
    ),
    "LLaVA": Family(
        "LlavaForConditionalGeneration",
        {
            "text_config": text(model_type="llama"),
            "vision_config": VISION | {"model_type": "clip_vision_model"},
            "image_token_index": 3,
        },
    ),
    "Phi": Family("PhiForCausalLM", has=("bias",)),
    "Phi3": Family("Phi3ForCausalLM"),
    "GPT-2": Family("GPT2LMHeadModel"),
    "GPT-2, untied": Family("GPT2LMHeadModel", {"tie_word_embeddings": False}),
    "GPT-NeoX": Family("GPTNeoXForCausalLM"),
    "GPT-J": Family("GPTJForCausalLM", {"rotary_dim": 4}, has=("bias",)),
    "OPT": Family("OPTForCausalLM", {"word_embed_proj_dim": 16}),
    "Falcon": Family("FalconForCausalLM", leave_out=("head_dim",)),
    "Falcon-H1": Family(
        "FalconH1ForCausalLM",
        {
            "lm_head_multiplier": 0.25,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 4,
        },
        has=("scale",),
    ),
    "Cohere": Family("CohereForCausalLM", {"logit_scale": 0.25}, has=("scale",)),
    "Cohere2": Family("Cohere2ForCausalLM", {"logit_scale": 0.25}, has=("scale",)),
    "Granite": Family("GraniteForCausalLM", {"logits_scaling": 4.0}, has=("scale",)),
    "Granite-MoE": Family("GraniteMoeForCausalLM", {"logits_scaling": 4.0}, has=("scale",)),
    "HyperCLOVA X": Family("HyperCLOVAXForCausalLM", {"logits_scaling": 0.25}, has=("scale",)),
    "MiniCPM3": Family("MiniCPM3ForCausalLM", MLA | {"dim_model_base": 8}, leave_out=("head_dim",), has=("scale",)),
    "OLMo2": Family("Olmo2ForCausalLM"),
    "OLMoE": Family("OlmoeForCausalLM"),
    "SmolLM3": Family("SmolLM3ForCausalLM"),
    "StableLM": Family("StableLmForCausalLM"),
    "StarCoder2": Family("Starcoder2ForCausalLM"),
    "Mamba": Family("MambaForCausalLM", {"state_size": 4}),
    "RecurrentGemma": Family(
        "RecurrentGemmaForCausalLM",
        {"logits_soft_cap": 3.0, "num_hidden_layers": 3, "lru_width": 32},
        leave_out=("head_dim",),
        has=("softcap",),
    ),
    "xLSTM": Family(
        "xLSTMForCausalLM",
        {"num_heads": 4, "output_logit_soft_cap": 3.0},
        has=("softcap",),
    ),
    "Bloom": Family("BloomForCausalLM"),
    "BioGPT": Family("BioGptForCausalLM"),
    "RWKV": Family("RwkvForCausalLM", {"attention_hidden_size": 32}),
    "MPT": Family("MptForCausalLM", {"logit_scale": 0.5}),
    "CTRL": Family("CTRLLMHeadModel", {"dff": 48}, has=("bias",)),
    "GPT-OSS": Family("GptOssForCausalLM"),
    "Nemotron": Family("NemotronForCausalLM"),
    "GLM4": Family("Glm4ForCausalLM"),
}


def make(name: str, *, dtype: torch.dtype = torch.float32, **options: Any) -> PreTrainedModel:
    """A random model in evaluation mode; the same one each time."""
    family = FAMILIES[name]
    model_class = getattr(transformers, family.model)
    default = model_class.config_class()
    fields = {key: value for key, value in SMALL.items() if hasattr(default, key) and key not in family.leave_out}
    if "text_config" in family.options:
        fields = {}
    torch.manual_seed(0)
    model: PreTrainedModel = model_class(model_class.config_class(**(fields | family.options | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        model.get_output_embeddings().weight.normal_(std=0.5)
    return model.to(dtype)
