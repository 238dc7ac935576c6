"""`VocabularySubset`: some tokens of a vocabulary, and what becomes of all others where a head is narrowed to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dskd_components.errors import ConfigurationError, InputError, as_sentence, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

Others = Literal["one_outcome", "left_out"]
"""What becomes of the tokens that are not kept: one more outcome, which has the probability of all of them together; or
nothing, and the kept tokens' probabilities add up to 1."""

LEFT_OUT: Final = -1
"""The outcome of a token that has none."""


class Outcomes(NamedTuple):
    """What a narrowed head gives, on a device.

    Args:
        token_ids: ``[K]``, int64: the token of each outcome but that of the others.
        other_ids: ``[V - K]``, int64, ascending: all other tokens.
        of_tokens: ``[V]``, int64: the outcome of each token; K, or `LEFT_OUT`, for the others.
    """

    token_ids: Tensor
    other_ids: Tensor
    of_tokens: Tensor


class VocabularySubset:
    """Tokens of a vocabulary that a head is narrowed to, in the order of its outcomes.

    Args:
        token_ids: ``[K]``, different integers from 0 to one less than the size: the tokens that are kept.
        vocabulary_size: V: the number of real tokens of the whole head.
        others: what becomes of all others.

    Raises:
        InputError: an id is outside of the vocabulary, or there twice, or there is none.
        ConfigurationError: others has no such value.

    Examples:
        >>> subset = VocabularySubset([7, 2], 9, others="one_outcome")
        >>> len(subset), subset.outcome_count
        (2, 3)
        >>> subset.outcomes_of(torch.tensor([2, 7, 5, -100]))
        tensor([   1,    0,    2, -100])
    """

    def __init__(self, token_ids: Tensor | Sequence[int], vocabulary_size: int, *, others: Others) -> None:
        if others not in get_args(Others):
            known = list(get_args(Others))
            raise ConfigurationError(
                f"others: expected {' or '.join(map(repr, known))}, got {others!r}{did_you_mean(others, known)}."
            )
        try:
            ids = torch.as_tensor(token_ids, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            ordered = " Put them into an order: sorted(...)." if isinstance(token_ids, set | frozenset) else ""
            raise InputError(
                "token_ids: expected one row of integers, one at least, got "
                f"{type(token_ids).__name__}, of which no tensor can be made: {as_sentence(error)}{ordered}"
            ) from error
        if ids.ndim != 1 or ids.is_floating_point() or ids.dtype == torch.bool or not len(ids):
            raise InputError(
                f"token_ids: expected one row of integers, one at least, got shape {list(ids.shape)}, dtype "
                f"{str(ids.dtype).removeprefix('torch.')}."
            )
        ids = ids.long()
        wrong = ids[(ids < 0) | (ids >= vocabulary_size)]
        if len(wrong):
            raise InputError(
                f"token_ids: expected ids from 0 to {vocabulary_size - 1}, the head's real tokens, got {int(wrong[0])}."
            )
        counts = torch.bincount(ids, minlength=vocabulary_size)
        if int(counts.max()) > 1:
            raise InputError(f"token_ids: expected each token once, got {int(counts.argmax())} twice or more.")
        self.token_ids = ids
        self.vocabulary_size = vocabulary_size
        self.others: Others = others
        self._on_devices: dict[torch.device, Outcomes] = {}

    def __len__(self) -> int:
        """Return K, the number of tokens that are kept."""
        return len(self.token_ids)

    def __repr__(self) -> str:
        return f"VocabularySubset({len(self)} of {self.vocabulary_size} tokens, others={self.others!r})"

    def __getstate__(self) -> dict[str, object]:
        """Leave out what is made anew on each device."""
        return {**self.__dict__, "_on_devices": {}}

    @property
    def has_rest(self) -> bool:
        """Whether there is an outcome for the others: not if they are left out, nor if there are none."""
        return self.others == "one_outcome" and len(self) < self.vocabulary_size

    @property
    def outcome_count(self) -> int:
        """How many logits a narrowed head gives."""
        return len(self) + self.has_rest

    @torch.inference_mode(mode=False)  # an evaluation may find out what training uses
    def on(self, device: torch.device) -> Outcomes:
        """Return the outcomes on a device, made there once.

        Args:
            device: the device.
        """
        if device not in self._on_devices:
            ids = self.token_ids
            of_tokens = torch.full((self.vocabulary_size,), LEFT_OUT, device="cpu")
            of_tokens[ids] = torch.arange(len(ids), device="cpu")
            other_ids = (of_tokens < 0).nonzero().squeeze(1)
            if self.has_rest:
                of_tokens[other_ids] = len(ids)
            self._on_devices[device] = Outcomes(ids.to(device), other_ids.to(device), of_tokens.to(device))
        return self._on_devices[device]

    def outcomes_of(self, tokens: Tensor) -> Tensor:
        """Return the outcome of each token; what is no token of the vocabulary stays as it is.

        Args:
            tokens: of any shape, int64.

        Returns:
            Of the same shape: from 0 to K, or `LEFT_OUT`.
        """
        known = (tokens >= 0) & (tokens < self.vocabulary_size)
        return self.on(tokens.device).of_tokens[tokens.where(known, 0)].where(known, tokens)

    def is_like(self, other: VocabularySubset | None) -> bool:
        """Return whether another subset has the same outcomes.

        Args:
            other: of the same vocabulary, or None for all of it.
        """
        if other is None:
            return False
        same = self is other or torch.equal(self.token_ids, other.token_ids)
        return same and self.has_rest == other.has_rest
