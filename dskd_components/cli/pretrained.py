"""Models and tokenizers by the path of a folder or by a name on the hub, for commands that look at them."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, Final

from dskd_components.errors import ConfigurationError, DSKDWarning, as_sentence


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
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
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
        return AutoConfig.from_pretrained(source, trust_remote_code=False).get_text_config()
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
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False
        )
    except Exception as error:  # whatever is wrong with somebody's files
        raise _unreadable("causal language model", source, error) from error
    model, loading = loaded
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ConfigurationError(
            f"{source}: its files lack {len(missing)} of the model's weights ({missing[0]!r} among them), which would "
            "be random. Give a folder that a causal language model was saved to."
        )
    if loading["mismatched_keys"]:
        name, in_files, by_config = min(loading["mismatched_keys"])
        raise ConfigurationError(
            f"{source}: {name!r} has the shape {list(in_files)} in its files and {list(by_config)} by its config.json "
            f"({len(loading['mismatched_keys'])} weights differ). Give the config.json that belongs to the weights."
        )
    if loading["unexpected_keys"]:
        others = sorted(loading["unexpected_keys"])
        warnings.warn(
            f"{source}: its files have {len(others)} weights that the model has no place for ({others[0]!r} among "
            "them): it is without them. See whether the config.json belongs to the weights.",
            DSKDWarning,
            stacklevel=2,
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
    if not source.strip():
        raise ConfigurationError("expected a folder or a name on the hub, got an empty one.")
    if path.is_file():
        raise ConfigurationError(f"{source}: expected a folder with a model, got a file. Give its folder.")
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", *others)):
            if (path / "adapter_config.json").is_file():
                raise ConfigurationError(
                    f"{source}: this folder holds an adapter, not a model. Merge it into its model first: "
                    "AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(other)."
                )
            raise ConfigurationError(
                f"{source}: there is no config.json in this folder, so it holds no model. Save one there: "
                "model.save_pretrained(folder); tokenizer.save_pretrained(folder)."
            )
    elif path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ConfigurationError(f"{source}: there is no such folder.")


def _unreadable(what: str, source: str, error: Exception) -> ConfigurationError:
    if _wants_own_code(error):
        return ConfigurationError(
            f"{source}: it has code of its own, which no command runs. Load it in Python with trust_remote_code=True; "
            "what commands do is there, too: DSKDLoss.preflight, TeacherStore.build, DualTokenizerCollator.show."
        )
    folder = Path(source)
    if folder.is_dir():
        reason = _damage(folder) or _reason(error)
        if what == "tokenizer" and not any(path for name in OF_TOKENIZERS for path in folder.glob(name)):
            reason = (
                "there are no files of a tokenizer in this folder. Save it there: tokenizer.save_pretrained(folder)"
            )
            return ConfigurationError(f"{source}: {as_sentence(reason)}")
        return ConfigurationError(f"{source}: no {what} can be loaded from this folder: {as_sentence(reason)}")
    if "gated repo" in str(error):
        return ConfigurationError(
            f"{source}: its owner has to give you access. Ask for it on its page on the hub, then log in: "
            "`hf auth login`."
        )
    if "couldn't connect" in str(error) and not _is_offline():
        return ConfigurationError(
            f"{source}: there is no folder of this name here, and the hub cannot be reached. Give the path of a "
            "folder, or see to the connection."
        )
    where = "in the local cache (HF_HUB_OFFLINE is set)" if _is_offline() else "on the hub"
    return ConfigurationError(
        f"{source}: there is no folder of this name here, and no {what} of this name {where}. Check the spelling, or "
        "give the path of a folder."
    )


OF_TOKENIZERS: Final = ("*token*", "vocab*", "merges*", "*.model", "*.tiktoken")
"""Names of files that tokenizers are made from."""

POINTER: Final = b"version https://git-lfs"
"""The beginning of what Git LFS leaves in the place of a file that was not fetched."""


def _wants_own_code(error: Exception) -> bool:
    return "trust_remote_code" in str(error)


def _damage(folder: Path) -> str | None:
    """Return what is wrong with a file of a folder that could not be loaded; None: nothing that is seen here."""
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                begins = file.read(len(POINTER))
        except OSError as error:
            return f"{path.name} cannot be read: {error.strerror}."
        if begins == POINTER:
            return (
                f"{path.name} is a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository, or "
                "download the file."
            )
    for name in ("config.json", *TOKENIZER_FILES):
        path = folder / name
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                return f"{name} is not valid JSON: {as_sentence(error)} Copy it again."
            if not isinstance(found, dict):
                return f"{name} holds no JSON object. Copy it again."
    return None


def _reason(error: Exception) -> str:
    """Return what an error says in one line, whole: some begin with a heading, some are no sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if kind == "SafetensorError":
        return f"a file of its weights is damaged or cut short ({' '.join(lines)}). Copy it again."
    if not lines or isinstance(error, KeyError):
        return f"{kind}: {' '.join(lines)}".rstrip(": ")
    headed = lines[0].endswith(":") and len(lines) > 1
    return " ".join(lines[:2]) if headed else lines[0]


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
