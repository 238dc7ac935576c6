"""For how many causal models of transformers a head is read rightly; ``python -m benchmarks.head_sweep``.

Every model type of its mapping of causal language models is built tiny, its parameters spread out at random. Then the
head is read, verified, and compared once more with logits of other tokens: a head that passes its own check and is
wrong would show there.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dskd_components import Head, InputError
from dskd_components.models.hidden_states import last_hidden_states
from dskd_components.models.packing import leak_tolerance, packing_leaks

LARGEST = 5_000_000
WIDTHS = {
    32: "hidden_size n_embd d_model embedding_size emb_dim embedding_dim lru_width mamba_d_ssm attention_hidden_size",
    48: "intermediate_size ffn_dim d_ff decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dim_ff dff",
    64: "max_position_embeddings n_positions n_ctx max_seq_len",
    16: "word_embed_proj_dim moe_intermediate_size shared_expert_intermediate_size q_lora_rank kv_lora_rank "
    "mamba_d_head expert_ffn_hidden_size dim_model_base",
    8: "head_dim state_size mamba_d_state qk_rope_head_dim qk_nope_head_dim",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts mamba_n_heads logits_scaling",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_key_value_heads eos_token_id "
    "num_experts_per_tok mamba_expand",
    1: "bos_token_id n_group topk_group n_shared_experts first_k_dense_replace mamba_n_groups",
    0: "pad_token_id",
}
SMALL: dict[str, Any] = {name: size for size, names in WIDTHS.items() for name in names.split()}
SMALL |= {"vocab_size": 99, "final_logit_softcapping": 3.0, "logits_soft_cap": 3.0, "logit_scale": 0.25}


def tiny_model(model_type: str, class_name: str) -> Any:
    """A random model of a type, or the error or size that stands in the way."""
    config_class = CONFIG_MAPPING[model_type]
    default = config_class()
    fields = {name: value for name, value in SMALL.items() if hasattr(default, name)}
    read_only = {name for name in fields if isinstance(getattr(config_class, name, None), property)}
    config = config_class(**{name: value for name, value in fields.items() if name not in read_only})
    model_class = getattr(transformers, class_name)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size} parameters")
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        model(input_ids=torch.arange(10, 24).reshape(2, 7))
    return model


def outcome(model_type: str, class_name: str) -> dict[str, Any]:
    """What becomes of one model type."""
    try:
        model = tiny_model(model_type, class_name)
    except Exception as error:
        return {"outcome": "not built", "why": f"{type(error).__name__}: {error}".partition("\n")[0][:160]}
    try:
        head = Head.from_model(model)
    except InputError as error:
        return {"outcome": "refused", "why": str(error)[:160]}
    inputs = {"input_ids": torch.arange(10, 24).reshape(2, 7)}
    with torch.no_grad():
        difference = (head.logits(last_hidden_states(model, inputs)) - model(**inputs).logits).abs().max().item()
    try:
        apart = packing_leaks(model) <= leak_tolerance(torch.float32)
    except InputError:
        apart = False
    return {"outcome": "verified" if difference < 1e-3 else "wrong", "difference": difference, "packed apart": apart}


def main() -> None:
    """Try every model type, print the numbers, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()

    results = {}
    for model_type, class_name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        results[model_type] = outcome(model_type, class_name)
    console = Console()
    for model_type, found in results.items():
        if found["outcome"] != "verified":
            console.print(f"{model_type}: {found['outcome']}. {found.get('why', '')}", markup=False)
    counts = Counter(found["outcome"] for found in results.values())
    counts["verified, packed samples kept apart"] = sum(found.get("packed apart", False) for found in results.values())
    console.print(dict(counts))
    if options.json:
        versions = {name: version(name) for name in ("dskd-components", "torch", "transformers")}
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        content = {"machine": machine, "versions": versions, "counts": counts, "results": results}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
