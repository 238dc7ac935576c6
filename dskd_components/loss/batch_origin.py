"""Whether a batch was made for the loss that reads it: by the same tokenizers, for its aligner, with its columns."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dskd_components.components.column_reader import how_to_fill
from dskd_components.components.text_methods import (
    ALIGNMENT_RULES,
    maker_of,
    method_label,
    method_number,
    method_of_number,
)
from dskd_components.errors import ConfigurationError, InputError
from dskd_components.models.batch import METHOD_COLUMN
from dskd_components.models.row_layout import require_column

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from dskd_components.components.aligner import Aligner
    from dskd_components.models.states import Side
    from dskd_components.spec.dskd_spec import PairSpec


def require_origin(
    batch: Mapping[str, Tensor],
    fingerprints: Mapping[Side, int | None],
    aligner: Aligner,
    *,
    teacher: str | None = None,
) -> None:
    """Refuse a batch that was collated with other tokenizers than the loss's, or for another aligner.

    An aligner that reads no groups takes any. Batches without these columns are taken as they are.

    Args:
        batch: may have columns ``student_fingerprint``, ``teacher_fingerprint`` and ``groups_method``, each one number
            for all or one a row.
        fingerprints: by side, the number of the loss's own tokenizer, if it knows it.
        aligner: the loss's.
        teacher: which of several teachers it is, for messages.

    Raises:
        InputError: they differ; the message names the side, or both aligners.
    """
    own = {f"{side}_fingerprint": number for side, number in fingerprints.items()}
    maker = maker_of(aligner)
    own[METHOD_COLUMN] = None if maker is None else method_number(maker)
    given = {
        name: (batch[name], number)
        for name, number in own.items()
        if number is not None and batch.get(name) is not None
    }
    for name in given:
        column: object = batch[name]
        if not isinstance(column, Integral):
            require_column(name, column)
    differing = _differing(given)
    for side in fingerprints:
        if f"{side}_fingerprint" in differing:
            raise InputError(
                f"The batch was collated with another {side} tokenizer than the loss was built with, so its token ids "
                "mean something else. Give the collator and the loss the same tokenizers; loss_fn.collator(...) sees "
                "to it."
            )
    if METHOD_COLUMN in differing:
        raise InputError(_misaligned(batch[METHOD_COLUMN], aligner, teacher))


def _differing(given: Mapping[str, tuple[Tensor | int, int]]) -> list[str]:
    """Return the names of columns that are not all of their number, with one transfer from an accelerator."""
    # Not as_tensor: it moves tensors to the default device.
    found = {name: numbers != number for name, (numbers, number) in given.items() if not isinstance(numbers, Tensor)}
    flags = {
        name: (numbers != number).any() for name, (numbers, number) in given.items() if isinstance(numbers, Tensor)
    }
    for device in {flag.device for flag in flags.values()}:
        there = [name for name, flag in flags.items() if flag.device == device]
        found |= dict(zip(there, torch.stack([flags[name] for name in there]).tolist(), strict=True))
    return [name for name in given if found[name]]


def _misaligned(column: Tensor | int, aligner: Aligner, teacher: str | None) -> str:
    """Return how a batch was aligned, how it should be, and what to do."""
    numbers = torch.unique(column).tolist() if isinstance(column, Tensor) else [column]
    maker = maker_of(aligner)
    wanted = None if maker is None else method_label(maker)
    needs = "" if wanted == aligner.name else f", which needs groups of {wanted!r}"
    made = [method_of_number(int(number), maker) for number in numbers]
    if None in made:
        number = numbers[made.index(None)]
        return (
            f"The column {METHOD_COLUMN!r} of the batch has {number}, which stands for no alignment. The collators and "
            "the preprocessor make it; leave it out of batches of your own."
        )
    recorded = [each for each in made if each is not None]
    # What differs comes first.
    methods = sorted(dict.fromkeys(map(str, recorded)), key=lambda method: method == repr(wanted))
    if methods == [repr(wanted)]:
        versions = ", ".join(str(each.version) for each in recorded)
        return (
            f"The batch was aligned by version {versions} of the rules, and this library has version "
            f"{ALIGNMENT_RULES}. Collate or preprocess its samples again."
        )
    described = " and ".join(methods)
    default = " (a collator without aligner= has 'exact_match')" if methods == ["'exact_match'"] else ""
    option = f'aligner="{aligner.name}"' if teacher is None else f'aligners={{"{teacher}": "{aligner.name}"}}'
    return (
        f"The batch was collated for {described}{default}, but the loss has the aligner {aligner.name!r}{needs}. Make "
        f"the collator with loss_fn.collator(...), which has the loss's aligner, or give yours {option}. If the groups "
        f"are your own, leave out the column {METHOD_COLUMN!r}."
    )


def require_tokenizers(
    fingerprints: Mapping[Side, int | None], found: Mapping[Side, int], *, teacher: str | None = None
) -> None:
    """Refuse other tokenizers for a collator than those that the loss was built with.

    Args:
        fingerprints: by side, the number of the loss's own tokenizer, if it knows it.
        found: by side, that of the collator's.
        teacher: which of several teachers it is, for messages.

    Raises:
        InputError: they differ; the message names the argument.
    """
    for side, own in fingerprints.items():
        if own is not None and own != found[side]:
            several = side == "teacher" and teacher is not None
            argument = f"teacher_tokenizers[{teacher!r}]" if several else f"{side}_tokenizer"
            raise InputError(
                f"{argument}: this is not the tokenizer that the loss was built with, so its token ids mean something "
                "else. Give both the same one, after all tokens are added to it."
            )


def refuse_aligner(options: Collection[str], argument: str, owned: object) -> None:
    """Refuse an aligner for a collator that has the loss's own.

    Args:
        options: the names of what is given to it.
        argument: what collators call theirs.
        owned: the loss's aligner, or its teachers' aligners.

    Raises:
        ConfigurationError: there is one.
    """
    if argument in options:
        raise ConfigurationError(
            f"{argument}: what the loss makes has the loss's own, {owned}, so that the two cannot disagree. Leave the "
            "option out, or choose another aligner in the spec."
        )


def reasons_for_columns(specs: Iterable[PairSpec], side: Side) -> dict[str, str]:
    """Return the columns of one side that components read, without the side, each with what is wrong if it is missing.

    Args:
        specs: one for each teacher.
        side: whose.
    """
    return {
        name: f"which {readers} reads. {how_to_fill(name)}"
        for spec in specs
        for name, readers in spec.columns_read(side).items()
    }
