"""A sample in the tokens of both sides, and the plain columns that it travels in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from dskd_components.collation.plain_values import integer, integers
from dskd_components.components.aligner import Aligner
from dskd_components.components.text_methods import ALIGNMENT_RULES, method_label, method_number, method_of_number
from dskd_components.errors import InputError
from dskd_components.models.batch import METHOD_COLUMN
from dskd_components.models.states import IGNORE_INDEX, Side
from dskd_components.tokenization.arrays import BoolArray, IntArray

SIDES: Final[tuple[Side, Side]] = ("student", "teacher")


@dataclass(frozen=True, eq=False)
class EncodedSide:
    """One side of a sample.

    Attributes:
        input_ids: Its tokens ``[T]``.
        labels: The same where they are scored, -100 elsewhere; not shifted ``[T]``.
        groups: The group of each token, -1 for none ``[T]``; None without alignment.
        further: Further columns by name ``[T]``, filled with -1 where there is no token.
    """

    input_ids: IntArray
    labels: IntArray
    groups: IntArray | None
    further: Mapping[str, IntArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """Both sides of a sample."""

    student: EncodedSide
    teacher: EncodedSide

    def side(self, side: Side) -> EncodedSide:
        """Return one of the two."""
        return self.student if side == "student" else self.teacher


def labels_of(input_ids: IntArray, scored: BoolArray) -> IntArray:
    """The tokens where they are scored, -100 elsewhere."""
    return np.where(scored, input_ids, IGNORE_INDEX)


def column_names(*, has_groups: bool, further: Iterable[str] = ()) -> list[str]:
    """The columns of a preprocessed sample."""
    groups = ("groups",) if has_groups else ()
    per_side = ("input_ids", "labels", *groups, *further, "fingerprint")
    return [f"{side}_{name}" for side in SIDES for name in per_side] + [METHOD_COLUMN]


def to_columns(sample: EncodedSample, fingerprints: Mapping[Side, int], aligner: Aligner | None) -> dict[str, Any]:
    """A sample as plain lists of integers and integers, by column name.

    Args:
        sample: The sample.
        fingerprints: Those of the tokenizers.
        aligner: What has made its groups; None: it has none.
    """
    columns: dict[str, Any] = {}
    for side in SIDES:
        encoded = sample.side(side)
        columns[f"{side}_input_ids"] = encoded.input_ids.tolist()
        columns[f"{side}_labels"] = encoded.labels.tolist()
        if encoded.groups is not None:
            columns[f"{side}_groups"] = encoded.groups.tolist()
        columns |= {f"{side}_{name}": column.tolist() for name, column in encoded.further.items()}
        columns[f"{side}_fingerprint"] = fingerprints[side]
    return columns | {METHOD_COLUMN: method_number(aligner)}


def is_preprocessed(raw: Any) -> bool:
    """Whether a sample is one that was preprocessed."""
    return isinstance(raw, Mapping) and METHOD_COLUMN in raw


def from_columns(
    columns: Mapping[str, Any],
    fingerprints: Mapping[Side, int],
    aligner: Aligner | None,
    further: Iterable[str] = (),
) -> EncodedSample:
    """A preprocessed sample, once it is known to belong to these tokenizers.

    Args:
        columns: The columns that `to_columns` made.
        fingerprints: Those of the tokenizers at hand.
        aligner: What is to have made the groups; None: there are to be none.
        further: Further columns that are read, without the side.

    Raises:
        InputError: A column is missing or does not fit, or other tokenizers or another alignment made them.
    """
    missing = [name for name in column_names(has_groups=False) if columns.get(name) is None]
    if missing:
        raise InputError(f"A preprocessed sample lacks {', '.join(map(repr, missing))}; it has {sorted(columns)}.")
    for side in SIDES:
        if integer(f"{side}_fingerprint", columns[f"{side}_fingerprint"]) != fingerprints[side]:
            raise InputError(
                f"The samples were preprocessed with another tokenizer for the {side} than this collator has. "
                "Preprocess them again, or give the collator the tokenizers that were used."
            )
    _require_method(integer(METHOD_COLUMN, columns[METHOD_COLUMN]), aligner)
    further = tuple(further)
    return EncodedSample(*(_side_from_columns(columns, side, aligner is not None, further) for side in SIDES))


def _require_method(number: int, aligner: Aligner | None) -> None:
    """Refuse samples of another alignment, or of other rules."""
    if number == method_number(aligner):
        return
    made, wanted = method_of_number(number, aligner), None if aligner is None else method_label(aligner)
    if made is None:
        raise InputError(f"Expected {METHOD_COLUMN!r} to be as DualTokenizerPreprocessor makes it, but got {number}.")
    if made.is_known and made.label == wanted:
        raise InputError(
            f"The samples were preprocessed by version {made.version} of the rules for labels and groups, and this "
            f"library has version {ALIGNMENT_RULES}. Preprocess them again."
        )
    raise InputError(
        f"The samples were aligned by {made}, but this collator is for {wanted!r}. Give the preprocessor and the "
        "collator the same aligner: loss_fn.preprocessor(...) and loss_fn.collator(...) have the loss's."
    )


def _side_from_columns(
    columns: Mapping[str, Any], side: Side, has_groups: bool, further: tuple[str, ...]
) -> EncodedSide:
    own = (*("input_ids", "labels", "groups")[: 3 if has_groups else 2], *further)
    names = [f"{side}_{name}" for name in own]
    arrays = {
        name: integers(column, columns[column])
        for name, column in zip(own, names, strict=True)
        if columns.get(column) is not None
    }
    if len(arrays) < len(names) or len({array.shape for array in arrays.values()}) > 1:
        asked = " Preprocess with byte_positions=True, as this collator has it." if set(further) - set(arrays) else ""
        raise InputError(f"A preprocessed sample needs {', '.join(map(repr, names))}, all of one length.{asked}")
    return EncodedSide(
        arrays["input_ids"], arrays["labels"], arrays.get("groups"), {name: arrays[name] for name in further}
    )
