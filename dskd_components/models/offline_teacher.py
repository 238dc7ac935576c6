"""`OfflineTeacher`: a teacher whose last hidden states are read rather than computed, where a model could stand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor, nn

from dskd_components.errors import InputError
from dskd_components.models.head import Head
from dskd_components.tokenization.fast_tokenizers import fingerprint_number, require_fast_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.models.row_layout import RowLayout


class OfflineTeacher(nn.Module, ABC):
    """A teacher that is not run. The loss takes its head and embedding, and asks it for the states of each batch.

    It is a module, so that trainers can move it to a device and put it into evaluation mode, but it has no parameters
    and nothing of it is saved: head and embedding are buffers that are not persistent.

    Args:
        head: the teacher's head, with the number of its real tokens.
        embedding: ``[V, width]``: the teacher's input embedding; None: the head's weight, which are one in many models.
        configuration: the class of the model's configuration, by which checkpoints tell models apart.
        tokenizer: the `fingerprint_number` of the tokenizer that its tokens are of; None: not known.
    """

    weight: Tensor
    bias: Tensor | None
    separate_embedding: Tensor | None

    def __init__(
        self, head: Head, embedding: Tensor | None, *, configuration: str | None, tokenizer: int | None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", head.weight.detach(), persistent=False)
        self.register_buffer("bias", None if head.bias is None else head.bias.detach(), persistent=False)
        self.register_buffer("separate_embedding", embedding, persistent=False)
        self._scale, self._softcap, self._vocabulary_size = head.scale, head.softcap, head.vocabulary_size
        self.configuration = configuration
        self.tokenizer = tokenizer
        self.eval()

    @property
    def head(self) -> Head:
        """The teacher's head."""
        return Head(
            self.weight,
            bias=self.bias,
            scale=self._scale,
            softcap=self._softcap,
            valid_vocabulary_size=self._vocabulary_size,
        )

    @property
    def embedding(self) -> Tensor:
        """``[V, width]``: the teacher's input embedding."""
        return self.weight if self.separate_embedding is None else self.separate_embedding

    @abstractmethod
    def hidden_states(self, columns: Mapping[str, Tensor], layout: RowLayout, targets: Tensor) -> Tensor:
        """Return the states of one batch.

        Args:
            columns: the teacher's columns, by name without prefix.
            layout: how samples lie in them.
            targets: ``[B, T]``, int64: the token that each position predicts, -100 where none is scored.

        Returns:
            ``[B, T, d]``, on the device of the columns; positions that are not scored may hold anything finite.

        Raises:
            StoreError: the states of a scored position are not known; the message names the sample.
        """

    def require_tokenizer(self, tokenizer: Any) -> None:
        """Refuse another tokenizer than the one that the states belong to.

        Args:
            tokenizer: the teacher's tokenizer; None: not known, and not refused.

        Raises:
            InputError: it is another one, or none.
        """
        if tokenizer is None or self.tokenizer is None:
            return
        require_fast_tokenizer(tokenizer, "teacher_tokenizer")
        if fingerprint_number(tokenizer) != self.tokenizer:
            raise InputError(
                f"The teacher's tokenizer ({type(tokenizer).__name__}) is not the one that the stored states were made "
                "with, so its token ids mean something else. Pass the tokenizer of the build, or build the store again."
            )

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to be run.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{type(self).__name__} holds states of a teacher and cannot be run. Pass it to the loss in the teacher's "
            "place: loss_fn.run(student, store, batch)."
        )

    def extra_repr(self) -> str:
        """Return what printing shows."""
        return f"hidden_size={self.head.hidden_size}, vocabulary_size={self._vocabulary_size}"
