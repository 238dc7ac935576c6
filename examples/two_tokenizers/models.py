"""A Llama-style teacher and a GPT-2-style student, small enough to be trained in a minute."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

EMBEDDING_STD: Final = 0.5

Model = TypeVar("Model", bound="PreTrainedModel")


def new_teacher(
    tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int, max_length: int, seed: int
) -> LlamaForCausalLM:
    """Build an untrained teacher: rotary positions, RMSNorm, gated MLP.

    Args:
        tokenizer: gives the vocabulary.
        width: of the hidden states, a multiple of 32.
        layers: number of them.
        max_length: tokens that it can read.
        seed: of the initial weights.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=max_length,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _with_wide_embedding(LlamaForCausalLM(config))


def new_student(
    tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int, max_length: int, seed: int
) -> GPT2LMHeadModel:
    """Build an untrained student: learned positions, LayerNorm, plain MLP; no dropout.

    Args:
        tokenizer: gives the vocabulary.
        width: of the hidden states, a multiple of 32.
        layers: number of them.
        max_length: tokens that it can read.
        seed: of the initial weights.
    """
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=width,
        n_layer=layers,
        n_head=width // 32,
        n_positions=max_length,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    student = _with_wide_embedding(GPT2LMHeadModel(config))
    student.loss_type = "ForCausalLM"  # the class name does not tell, and transformers would warn of it
    return student


def _with_wide_embedding(model: Model) -> Model:
    """Draw the input embedding anew with a larger spread.

    With the usual 0.02 what the layers add drowns the tokens, and a small model needs hundreds of steps to find them.
    """
    with torch.no_grad():
        input_embedding(model).normal_(std=EMBEDDING_STD)
    return model


def input_embedding(model: PreTrainedModel) -> Tensor:
    """Return ``[V, width]``: the model's input embedding."""
    module = model.get_input_embeddings()
    assert isinstance(module, torch.nn.Embedding)
    return module.weight


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return a short digest of the values of tensors, to show that two runs began with the same ones."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
