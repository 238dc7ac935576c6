"""The part of a teacher that training needs beside its states: its head, and its input embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError, safe_open

from dskd_components.errors import StoreError, as_sentence
from dskd_components.models.head import Head
from dskd_components.models.loading import require_loaded
from dskd_components.models.run_model import input_embedding
from dskd_components.store.files import TensorFile, digest_of_file, naming, write_tensors
from dskd_components.tokenization.fast_tokenizers import require_tokenizer

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Self

    from torch import Tensor

    from dskd_components.models.wrappers import CausalLM

NAME: Final = "teacher-{digest}.safetensors"
PATTERN: Final = "teacher-*.safetensors"


@dataclass(frozen=True, eq=False)
class TeacherTensors:
    """A teacher's head and embedding.

    Args:
        head: with the number of its real tokens.
        embedding: ``[V, width]``; None: the head's weight.
    """

    head: Head
    embedding: Tensor | None

    @classmethod
    def of_model(cls, teacher: CausalLM, tokenizer: Any = None) -> Self:
        """Read them from a model, once its head is known to give its logits.

        Args:
            teacher: the model.
            tokenizer: tells how many rows of the head are real tokens; None: all.

        Raises:
            InputError: the head's logits differ from the model's, or model or tokenizer is none.
            StoreError: the tokenizer has more tokens than the head.
        """
        require_loaded(teacher, "teacher")
        head = Head.from_model(teacher)
        if tokenizer is not None:
            require_tokenizer(tokenizer, "tokenizer")
            size = max(tokenizer.get_vocab().values()) + 1
            if size > len(head.weight):
                raise StoreError(
                    f"The teacher's tokenizer has ids up to {size - 1}, but its head has only {len(head.weight)} rows. "
                    "The tokenizer belongs to another model."
                )
            head = head.with_vocabulary(size)
        embedding = input_embedding(teacher).detach()
        weight = head.weight.detach()
        tied = embedding.shape == weight.shape and embedding.dtype == weight.dtype and torch.equal(embedding, weight)
        return cls(head.detach(), None if tied else embedding)

    def write(self, folder: Path) -> None:
        """Put them in place.

        Args:
            folder: of the store.

        Raises:
            StoreError: they cannot be written.
        """
        tensors = {"weight": self.head.weight, "bias": self.head.bias, "embedding": self.embedding}
        write_tensors(
            folder,
            NAME,
            {name: tensor.detach().cpu() for name, tensor in tensors.items() if tensor is not None},
            {
                "kind": "teacher",
                "scale": self.head.scale,
                "softcap": self.head.softcap,
                "vocabulary_size": self.head.vocabulary_size,
            },
        )

    def require_width(self, hidden_size: int, folder: Path) -> None:
        """Refuse a head that reads states of another width than those of the store.

        Args:
            hidden_size: the width of the states.
            folder: of the store.

        Raises:
            StoreError: it does.
        """
        if self.head.hidden_size != hidden_size:
            raise StoreError(
                f"{folder}: the store is damaged: its manifest tells of states of width {hidden_size}, but the head "
                f"reads width {self.head.hidden_size}. Build the store again."
            )

    @classmethod
    def read(cls, folder: Path, *, check: bool = True) -> Self:
        """Read them from a store; the file is mapped, so that this takes no time but for the check.

        Args:
            folder: of the store.
            check: whether the file is compared with its digest.

        Raises:
            StoreError: they are not there, or damaged.
        """
        path = teacher_file(folder)
        if check and problems_of_teacher(folder):
            raise TensorFile(path).damaged("its content has changed since it was written")
        about = TensorFile(path).about
        try:
            with naming(path, "it cannot be read"), safe_open(path, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
            head = Head(
                tensors["weight"],
                bias=tensors.get("bias"),
                scale=about["scale"],
                softcap=about["softcap"],
                valid_vocabulary_size=about["vocabulary_size"],
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise StoreError(
                f"{path}: the teacher's head in this store is damaged: {as_sentence(error)} Delete the file and run "
                "the same build again: it is written anew."
            ) from error
        return cls(head, tensors.get("embedding"))


def teacher_file(folder: Path) -> Path:
    """Return the file with the head and the embedding.

    Args:
        folder: of the store.

    Raises:
        StoreError: there is none.
    """
    found = sorted(folder.glob(PATTERN))
    if not found:
        raise StoreError(
            f"{folder}: expected a file {PATTERN} with the teacher's head, but there is none. Run the same build again."
        )
    return found[0]


def problems_of_teacher(folder: Path) -> list[str]:
    """Return what is wrong with that file, after reading all of it.

    Args:
        folder: of the store.
    """
    try:
        path = teacher_file(folder)
    except StoreError as error:
        return [str(error)]
    if digest_of_file(path) == path.stem.removeprefix("teacher-"):
        return []
    return [f"{path.name}: its content has changed since it was written"]
