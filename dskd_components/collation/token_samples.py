"""Samples that are in tokens already, which two models with one tokenizer can both read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dskd_components.collation.plain_values import integers, items_of, plain
from dskd_components.errors import InputError, did_you_mean
from dskd_components.models.states import IGNORE_INDEX
from dskd_components.tokenization.arrays import BoolArray, IntArray

MASKS: Final = ("completion_mask", "assistant_masks")
TOKEN_KEYS: Final = ("input_ids", "labels", *MASKS, "attention_mask")
"""Columns of data sets that are in tokens, as TRL names them."""


@dataclass(frozen=True, eq=False)
class TokenSample:
    """Tokens of one tokenizer.

    Attributes:
        input_ids: The tokens ``[T]``.
        scored: Which are scored ``[T]``.
        said_by: Which columns say so: labels, or masks that set prompts apart.
    """

    input_ids: IntArray
    scored: BoolArray
    said_by: tuple[str, ...]

    @property
    def has_labels(self) -> bool:
        """Whether labels say what is scored, and not masks that set prompts apart."""
        return self.said_by == ("labels",)


def read_tokens(raw: Mapping[str, Any]) -> TokenSample:
    """Return the tokens that a sample has.

    Labels say what is scored; without them, all that ``completion_mask`` and ``assistant_masks`` leave.

    Raises:
        InputError: A column is unknown, is of another length, or is no such column; or there is padding.
    """
    present = {key: value for key, value in raw.items() if value is not None}
    for key in present:
        if key == "finish_reason":
            raise InputError(
                "It has 'finish_reason' beside 'input_ids'. Nothing is added to tokens, so their end is scored only if "
                "it is among them and labels or masks say so. Remove it."
            )
        if key not in TOKEN_KEYS:
            unknown = [str(other) for other in present if other not in TOKEN_KEYS]
            raise InputError(
                f"Unknown key {key!r} in a sample with 'input_ids'{did_you_mean(key, TOKEN_KEYS)}. It may have "
                f"{', '.join(map(repr, TOKEN_KEYS[1:]))}. To leave others out: columns=Columns(ignore={unknown!r})."
            )
    columns = {key: integers(key, _as_numbers(value)) for key, value in present.items()}
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1 or not lengths["input_ids"]:
        raise InputError(f"Expected columns of tokens to be of one length, 1 or more, but got {lengths}.")
    for key in set(columns) - {"input_ids", "labels"}:
        if not np.isin(columns[key], (0, 1)).all():
            raise InputError(f"Expected {key!r} to be 0 or 1 for each token, but got {present[key]!r:.80}.")
    if "attention_mask" in columns and not columns["attention_mask"].all():
        raise InputError("Its 'attention_mask' has zeros. The collator pads: give tokens without padding.")
    input_ids = columns["input_ids"]
    if "labels" in columns:
        return TokenSample(input_ids, _scored(input_ids, columns["labels"]), ("labels",))
    scored, masks = np.ones(len(input_ids), dtype=np.bool_), tuple(key for key in MASKS if key in columns)
    for key in masks:
        scored &= columns[key] != 0
    return TokenSample(input_ids, scored, masks)


def _as_numbers(value: Any) -> Any:
    """Masks may be truth values."""
    entries = items_of(value)
    if entries is None or not all(isinstance(plain(entry), bool) for entry in entries):
        return value
    return [int(entry) for entry in entries]


def _scored(input_ids: IntArray, labels: IntArray) -> BoolArray:
    scored: BoolArray = labels != IGNORE_INDEX
    wrong = np.flatnonzero(scored & (labels != input_ids))
    if len(wrong):
        position = int(wrong[0])
        raise InputError(
            f"Expected 'labels' to be -100 or the token at the same position, but labels[{position}] is "
            f"{labels[position]} and input_ids[{position}] is {input_ids[position]}. Labels are not shifted here."
        )
    return scored
