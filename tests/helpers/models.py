"""Tiny random causal models of Hugging Face, and tokenizers trained on the spot."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dskd_components.aligners import align_text

TEXTS = (
    "Errors should never pass silently. Unless explicitly silenced.",
    "In the face of ambiguity, refuse the temptation to guess.",
    "There should be one, and preferably only one, obvious way to do it.",
)

SIZES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2: dict[str, Any] = {"n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}

# Family, and its configuration where it is not like Llama's.
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {},
    "Qwen2": {},
    "Gemma2": {"final_logit_softcapping": 3.0},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0},
    "Phi": {},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "GPT2": GPT2,
}


def tiny_model(family: str, *, hidden_size: int = 32, vocabulary: int = 64, **options: Any) -> PreTrainedModel:
    """A random model in evaluation mode; the same one each time."""
    torch.manual_seed(0)
    fields = SIZES | {"hidden_size": hidden_size} | FAMILIES[family]
    if family == "GPT2":
        fields = GPT2 | {"n_embd": hidden_size}
    config = getattr(transformers, f"{family}Config")(vocab_size=vocabulary, **(fields | options))
    suffix = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model: PreTrainedModel = getattr(transformers, family + suffix)(config).eval()
    # Random models have nearly equal logits; spread out, a wrong scale or softcap shows.
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(std=0.5)
    return model


@cache
def byte_level_tokenizer(size: int = 300) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


@cache
def metaspace_tokenizer(size: int = 60) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<pad>", "<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def encode(tokenizer: PreTrainedTokenizerFast, side: str) -> dict[str, torch.Tensor]:
    """The columns of one side of a batch of the texts above."""
    batch = tokenizer(list(TEXTS), return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return {
        f"{side}input_ids": batch["input_ids"],
        f"{side}attention_mask": batch["attention_mask"],
        f"{side}labels": labels,
    }


def groups(
    student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast, batch: dict[str, torch.Tensor], method: str
) -> dict[str, torch.Tensor]:
    """Which tokens of both sides of that batch belong together."""
    found = {side: torch.full_like(batch[f"{side}_input_ids"], -1) for side in ("student", "teacher")}
    for row, text in enumerate(TEXTS):
        aligned = align_text(student, teacher, text, method)  # type: ignore[arg-type]
        for number, ((start, stop), (their_start, their_stop)) in enumerate(aligned.groups):
            found["student"][row, start:stop] = number
            found["teacher"][row, their_start:their_stop] = number
    return {f"{side}_groups": numbers for side, numbers in found.items()}
