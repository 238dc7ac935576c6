"""Models and tokenizers from folders, and what to do where one is not there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.paper.recipe import PaperError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from examples.paper.recipe import Model


def on_accelerator() -> bool:
    """Return whether models run in bfloat16 on a GPU; else they run in float32 on the CPU."""
    return torch.cuda.is_available()


def load_model(path: str, model: Model, *, frozen: bool) -> PreTrainedModel:
    """Load a model, or adapters together with the model that they belong to.

    Args:
        path: a folder, or a name on the hub where that can be reached.
        model: what the papers have in its place.
        frozen: whether it is only run: then it is in bfloat16 on a GPU; what is trained is in float32.

    Raises:
        PaperError: there is none; the message says where to have it, and what the folder has to hold.
    """
    dtype = torch.bfloat16 if frozen and on_accelerator() else torch.float32
    try:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise PaperError(_missing(path, model, "model", error)) from error
    if frozen:
        loaded.eval().requires_grad_(False)
    return loaded


def load_tokenizer(path: str, model: Model) -> Any:
    """Load a tokenizer; one that has no padding pads with its end of text, as in the releases.

    Args:
        path: as in `load_model`.
        model: what the papers have in its place.

    Raises:
        PaperError: there is none, or it has no end of text, so that answers would never stop.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise PaperError(_missing(path, model, "tokenizer", error)) from error
    if tokenizer.eos_token_id is None:
        raise PaperError(
            f"The tokenizer of {path} has no eos_token, with which answers end. Set it, and save it again."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _missing(path: str, model: Model, what: str, error: Exception) -> str:
    folder = Path(path)
    state = f"holds {_names(folder)}" if folder.is_dir() else "is no folder, and was not found on the hub either"
    name = model.source.removeprefix("huggingface.co/")
    fetch = f": hf download {name} --local-dir {path}" if name != model.source else ""
    return (
        f"No {what} could be loaded from {path}: it {state}. The papers have {model.name} there, from {model.source}"
        f"{fetch}. The folder holds config.json, model.safetensors (or its parts with their index) and tokenizer.json "
        f"with tokenizer_config.json. What transformers said: {str(error).partition(chr(10))[0]}"
    )


def _names(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"


def fingerprint(model: PreTrainedModel) -> str:
    """Return what a model's weights are known by: some numbers of each.

    Args:
        model: on any device.
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(name.encode())
        digest.update(weight.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def longest(models: Sequence[PreTrainedModel], limit: int) -> int:
    """Return how many tokens all models can read, at most `limit`.

    Args:
        models: some.
        limit: of the recipe.
    """
    positions = (getattr(model.config, "max_position_embeddings", None) for model in models)
    return min([limit, *(int(number) for number in positions if number is not None)])
