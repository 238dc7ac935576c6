"""What a store says of itself: which teacher has made its states, of which tokens, in which format."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from pydantic import Field, ValidationError
from torch import nn

from dskd_components._version import __version__
from dskd_components.components.component import FrozenModel
from dskd_components.errors import InputError, StoreError, as_sentence
from dskd_components.loss.checkpoints import HeadFingerprint
from dskd_components.loss.checkpoints.tensors import whole
from dskd_components.models.wrappers import unwrapped
from dskd_components.store.files import naming, write_text
from dskd_components.store.formats import StateFormat
from dskd_components.tokenization.fast_tokenizers import fingerprint_number

if TYPE_CHECKING:
    from pathlib import Path

    from dskd_components.models.wrappers import CausalLM

FILE: Final = "manifest.json"

SAMPLED: Final = 4096
"""How many entries of each parameter are hashed, evenly spread."""

Positions = Literal["scored", "all"]
"""Which states are stored: those of positions that predict a scored token, or those of all."""


class Manifest(FrozenModel):
    """What a store is of. None stands for what is not known, and is never compared."""

    format: Literal[1] = 1
    """How the files are laid out; docs/how-to/teacher-store.md describes it."""
    library_version: str = __version__
    """The version of this library that began the store."""
    states: StateFormat
    """How hidden states are stored."""
    hidden_size: int
    """Their width."""
    head: HeadFingerprint
    """What tells the teacher's head from others."""
    teacher: str
    """SHA-256 over entries of all parameters of the teacher, adapters included."""
    computed_in: str
    """The precision that the teacher has computed in."""
    tokenizer: str | None
    """What tells the teacher's tokenizer from others, in hexadecimal."""
    chat_template: str | None = None
    """SHA-256 of its chat template, if it has one."""
    positions: Positions = "scored"
    """Which states are stored of a sample."""
    options: dict[str, Any] = Field(default_factory=dict)
    """How samples became tokens, for messages: it makes no difference as long as their tokens are the same."""
    beginnings: bool = True
    """Whether the beginning of a sample has the states that it has as a sample of its own."""

    @property
    def tokenizer_number(self) -> int | None:
        """The tokenizer's fingerprint as batches carry it."""
        return None if self.tokenizer is None else int(self.tokenizer, 16)

    def write(self, folder: Path) -> None:
        """Put it in place.

        Args:
            folder: of the store.

        Raises:
            StoreError: it cannot be written.
        """
        write_text(folder / FILE, json.dumps(self.model_dump(mode="json"), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Return the manifest of a store.

        Args:
            folder: of the store.

        Raises:
            StoreError: there is none, it is damaged, or a newer version of this library has written it.
        """
        file = folder / FILE
        if not file.is_file():
            near = sorted(str(path.parent) for path in folder.glob(f"*/{FILE}"))
            raise StoreError(
                f"{folder}: expected a folder with {FILE}, as TeacherStore.build writes it, but there is none"
                f"{f' (there is one in {near[0]})' if near else ''}."
            )
        with naming(file, "it cannot be read"):
            text = file.read_text(encoding="utf-8", errors="replace")
        try:
            content = json.loads(text)
            if isinstance(content, dict) and content.get("format") != 1:
                raise StoreError(
                    f"{file}: expected format 1, got {content.get('format')!r}, written by dskd_components "
                    f"{content.get('library_version')}; this is {__version__}. Install that version."
                )
            return cls.model_validate(content)
        except ValidationError as error:
            which = ", ".join(".".join(map(str, part["loc"])) for part in error.errors())
            raise StoreError(f"{file}: it is damaged: {which} cannot be read. Build the store again.") from error
        except json.JSONDecodeError as error:
            raise StoreError(
                f"{file}: it is damaged, and no JSON: {as_sentence(error)} Build the store again."
            ) from error

    def require_same(self, other: Manifest, *, source: str) -> None:
        """Refuse states of another teacher, or of the same one read otherwise.

        Args:
            other: what is to go into the store, or is to be compared with it.
            source: what it is of, for the message.

        Raises:
            StoreError: they differ; the message names everything that does.
        """
        lines = [f"  {line}" for line in self._differences(other)]
        if lines:
            raise StoreError(
                f"{source} does not go together with this store:\n" + "\n".join(lines) + "\nUse the teacher, the "
                "tokenizer and the options that the store was built with, or build another store in a new folder."
            )

    def _differences(self, other: Manifest) -> list[str]:
        fields = {
            "states": "dtype: states are stored in",
            "hidden_size": "hidden_size: the states' width is",
            "positions": "positions: states are stored of",
            "computed_in": "precision: the teacher computes in",
            "tokenizer": "tokenizer: its fingerprint is",
        }
        found = [
            f"{what} {ours} in the store, {theirs} here"
            for name, what in fields.items()
            if (ours := getattr(self, name)) != (theirs := getattr(other, name)) and None not in (ours, theirs)
        ]
        if self.head != other.head:
            found.append("head: the teacher's head is another one: its weight, scale, softcap or vocabulary")
        if self.teacher != other.teacher:
            found.append("weights: the teacher has other weights or adapters than the one that made the states")
        return found


def teacher_fingerprint(model: CausalLM) -> str:
    """Return a SHA-256 over names, shapes and some entries of all parameters, in hexadecimal.

    Entries are compared as float32, so that a model is the same when it is loaded in a wider precision. Adapters count:
    they have parameters of their own, and whether they are at work, too.

    Args:
        model: a causal language model, or a wrapper of one.

    Examples:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1))
        >>> before = teacher_fingerprint(model)
        >>> _ = model.lm_head.weight.data.add_(1)
        >>> teacher_fingerprint(model) == before
        False
    """
    inner = unwrapped(model)
    found = hashlib.sha256()
    assert isinstance(inner, nn.Module)
    for name, parameter in inner.named_parameters():
        found.update(f"{name} {list(parameter.shape)}\n".encode())
        if not parameter.is_meta:
            found.update(_entries(parameter))
    for name, module in inner.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "active_adapters"):
            state = [getattr(module, field, None) for field in ("active_adapters", "disable_adapters", "merged")]
            found.update(f"{name} {state}\n".encode())
    return found.hexdigest()


@torch.no_grad()
def _entries(parameter: torch.Tensor) -> bytes:
    flat = whole(parameter).detach().reshape(-1)
    count = min(SAMPLED, len(flat))
    places = torch.linspace(0, max(len(flat) - 1, 0), count, dtype=torch.float64, device="cpu").long()
    sample = flat[places.to(flat.device)].cpu()
    return bytes((sample.float() if sample.is_floating_point() else sample).contiguous().view(torch.uint8).numpy())


def tokenizer_facts(tokenizer: object) -> dict[str, str | None]:
    """Return what a manifest says of a tokenizer.

    Args:
        tokenizer: the teacher's; None: nothing is known.
    """
    if tokenizer is None:
        return {"tokenizer": None, "chat_template": None}
    template = getattr(tokenizer, "chat_template", None)
    text = json.dumps(template, sort_keys=True) if template else None
    try:
        number = f"{fingerprint_number(tokenizer):016x}"
    except InputError:  # a slow tokenizer has none
        number = None
    return {
        "tokenizer": number,
        "chat_template": None if text is None else hashlib.sha256(text.encode()).hexdigest(),
    }
