"""Models and tokenizers by the path of a folder or by a name on the hub, for commands that look at them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from dskd_components.errors import ConfigurationError


def load_tokenizer(source: str) -> Any:
    """Load a tokenizer.

    Args:
        source: a folder, or a name on the hub.

    Raises:
        ConfigurationError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    _require_folder(source, *TOKENIZER_FILES)
    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:  # whatever is wrong with somebody's files
        raise _unreadable("tokenizer", source, error) from error


def load_config(source: str) -> Any:
    """Load the configuration of a model's language part.

    Args:
        source: a folder, or a name on the hub.

    Raises:
        ConfigurationError: there is none, or it cannot be read.
    """
    from transformers import AutoConfig

    _require_folder(source)
    try:
        return AutoConfig.from_pretrained(source).get_text_config()
    except Exception as error:  # whatever is wrong with somebody's files
        raise _unreadable("configuration", source, error) from error


def load_model(source: str, device: str) -> Any:
    """Load a causal language model in the precision of its files, in evaluation mode.

    Args:
        source: a folder, or a name on the hub.
        device: where to put it.

    Raises:
        ConfigurationError: there is none, it cannot be read, or its files lack weights.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    _require_folder(source)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto", output_loading_info=True)
    except Exception as error:  # whatever is wrong with somebody's files
        raise _unreadable("causal language model", source, error) from error
    model, loading = loaded
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ConfigurationError(
            f"{source}: its files lack {len(missing)} of the model's weights ({missing[0]!r} among them), which would "
            "be random. Give a folder that a causal language model was saved to."
        )
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(f"--device {device}: {str(error).splitlines()[0]}") from error


def load_on_meta(source: str, dtype: str, attention: str) -> Any:
    """Build the causal language model of a configuration on the meta device: no weights are read, none are made.

    Args:
        source: a folder, or a name on the hub; a ``config.json`` is all that is read.
        dtype: of the parameters.
        attention: the kind that the model is asked for, as ``sdpa``.

    Raises:
        ConfigurationError: there is none, or no causal language model can be made from it.
    """
    config = load_config(source)

    try:
        return _on_meta(config, dtype, attention)
    except Exception as error:  # whatever is wrong with somebody's files
        try:
            name = type(_on_meta(config, dtype, EVERYBODYS_ATTENTION)).__name__
        except Exception:  # then the first one says what is wrong
            raise _unreadable("causal language model", source, error) from error
        raise ConfigurationError(
            f"{source}: {name} has no attention of the kind {attention!r}. Give --attention {EVERYBODYS_ATTENTION}."
        ) from error


def _on_meta(config: Any, dtype: str, attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention)


EVERYBODYS_ATTENTION: Final = "eager"
"""The kind that each model has."""


TOKENIZER_FILES: Final = ("tokenizer_config.json", "tokenizer.json")
"""A folder with one of them has a tokenizer, if no model."""


def _require_folder(source: str, *others: str) -> None:
    """Name a path that is wrong, before it is taken for a name on the hub; other files than a model's may do, too."""
    path = Path(source)
    if path.is_file():
        raise ConfigurationError(f"{source}: expected a folder with a model, got a file. Give its folder.")
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", *others)):
            raise ConfigurationError(
                f"{source}: there is no config.json in this folder, so it holds no model. Save one there: "
                "model.save_pretrained(folder); tokenizer.save_pretrained(folder)."
            )
    elif path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ConfigurationError(f"{source}: there is no such folder.")


def _unreadable(what: str, source: str, error: Exception) -> ConfigurationError:
    if Path(source).is_dir():
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return ConfigurationError(f"{source}: no {what} can be loaded from this folder: {reason}")
    where = "in the local cache (HF_HUB_OFFLINE is set)" if _is_offline() else "on the hub"
    return ConfigurationError(
        f"{source}: there is no folder of this name here, and no {what} of this name {where}. Check the spelling, or "
        "give the path of a folder."
    )


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
