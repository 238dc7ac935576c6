"""How the tokens of texts are brought together: by which aligner, in which groups, and what is recorded of it.

An aligner with a `groups_of_text` is named by its own name wherever texts are aligned: in specs, by collators, on the
command line. The built-in ones have no other way in.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from dskd_components.components.aligner import Aligner
from dskd_components.components.lookup import get_aligner, list_components
from dskd_components.errors import (
    ConfigurationError,
    DSKDError,
    PluginError,
    UnknownComponentError,
    as_sentence,
    class_and_message,
    did_you_mean,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.tokenization.arrays import IntArray
    from dskd_components.tokenization.byte_spans import TokenizedText

ALIGNMENT_RULES: Final = 1
"""The version of the rules by which samples become tokens, labels and groups. It goes up with each change of what they
come to, so that what was made by older rules is not taken for what these make."""

DIGEST_BITS: Final = 40
"""How many bits of a recorded number tell aligners apart; the version of the rules stands above them."""

HOW_TO_BRING_ONE: Final = (
    "Install the distribution that has it, or write it: an Aligner with a groups_of_text, returned by the hook "
    "dskd_aligners (docs/how-to/text-aligners.md)"
)


def text_aligner_names() -> list[str]:
    """Return the names of the installed aligners that make groups of texts.

    Examples:
        >>> set(text_aligner_names()) >= {"exact_match", "min_edit", "span"}
        True
    """
    infos = list_components("aligner")
    return sorted({info.name for info in infos if issubclass(info.component, Aligner) and info.component.makes_groups})


def text_aligner(aligner: object) -> Aligner:
    """Return the aligner that makes groups of texts, for who has only these.

    Args:
        aligner: its name, or an aligner that is told groups.

    Raises:
        UnknownComponentError: no installed aligner has this name; the message has those that make groups.
        ConfigurationError: it is an aligner that is told nothing, or no aligner.

    Examples:
        >>> text_aligner("span")
        Span(name='span', pooling='mean')
    """
    known = f"Those that make groups of texts are {', '.join(text_aligner_names())}. {HOW_TO_BRING_ONE}."
    if isinstance(aligner, str):
        try:
            aligner = get_aligner(aligner)
        except UnknownComponentError as error:
            hint = did_you_mean(aligner, text_aligner_names())
            raise UnknownComponentError(f"Unknown aligner of texts {aligner!r}{hint}. {known} ({error})") from error
    found = maker_of(aligner) if isinstance(aligner, Aligner) else None
    if found is None:
        which = f"the aligner {aligner.name!r}, which reads no texts" if isinstance(aligner, Aligner) else repr(aligner)
        raise ConfigurationError(
            f"Expected an aligner that makes groups of texts, or its name, but got {which}. {known}"
        )
    return found


def maker_of(aligner: Aligner) -> Aligner | None:
    """Return the aligner that makes the groups which an aligner is told: itself, or the one that it names.

    Args:
        aligner: any.

    Returns:
        The aligner, which has a `groups_of_text`. None: it is told nothing.

    Raises:
        UnknownComponentError: its ``text_method`` is the name of no installed aligner.
        ConfigurationError: the aligner of that name makes no groups.

    Examples:
        >>> from dskd_components.aligners import CrossModelAttention, Span
        >>> maker_of(Span(pooling="last")), maker_of(CrossModelAttention())
        (Span(name='span', pooling='last'), None)
    """
    method = aligner.text_method
    if method is None or method == aligner.name:
        return None if method is None else aligner
    known = f"Those that make groups are {', '.join(text_aligner_names())}. {HOW_TO_BRING_ONE}."
    declared = f"The aligner {aligner.name!r} declares text_method = {method!r}"
    try:
        named = get_aligner(method)
    except UnknownComponentError as error:
        hint = did_you_mean(method, text_aligner_names())
        raise UnknownComponentError(f"{declared}, which is no installed aligner{hint}. {known}") from error
    except ValidationError as error:
        raise ConfigurationError(
            f"{declared}, an aligner that has options without defaults, so that its groups are not known by its name. "
            f"Subclass it and have text_method as it is, or make the groups in a groups_of_text of its own: "
            f"{as_sentence(error)}"
        ) from error
    if not named.makes_groups:
        raise ConfigurationError(f"{declared}, an aligner that makes no groups of texts. {known}")
    return named


def groups_of_texts(
    aligner: Aligner, students: Sequence[TokenizedText], teachers: Sequence[TokenizedText]
) -> list[IntArray]:
    """Return the groups that an aligner makes of texts, once they are known to be groups.

    Tokens that a template added are none of its business: it is not shown them, and they have no group.

    Args:
        aligner: of `maker_of`.
        students: the student's tokens of each text.
        teachers: the teacher's tokens of each text.

    Returns:
        For each text, rows ``student start, student stop, teacher start, teacher stop`` in token indices, ascending
        and apart, ``[G, 4]``, int64.

    Raises:
        PluginError: the aligner fails, or what it gives are no such groups; the message has the first text and row.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from dskd_components.aligners import Span
        >>> from dskd_components.tokenization import tokenize_batch_with_spans
        >>> tokenizer = Tokenizer(models.WordLevel({"new": 0, "found": 1}, unk_token="new"))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> texts = tokenize_batch_with_spans(tokenizer, ["new found"])
        >>> groups_of_texts(Span(), texts, texts)[0].tolist()
        [[0, 1, 0, 1], [1, 2, 1, 2]]
    """
    bare = [[text.without_template() for text in side] for side in (students, teachers)]
    try:
        given = aligner.groups_of_texts(*bare)
        found = [np.asarray(groups) for groups in given]
    except DSKDError:
        raise
    except Exception as error:
        which = f" on the text {students[0].text!r:.80}" if len(students) == 1 else ""
        raise PluginError(f"{_named(aligner)} failed{which}: {class_and_message(error)}") from error
    if len(found) != len(students):
        raise PluginError(f"{_named(aligner)}: expected groups for each of {len(students)} texts, got {len(found)}.")
    for groups, text in zip(found, students, strict=True):
        is_integer = groups.dtype == np.int64 or np.issubdtype(groups.dtype, np.integer) or not len(groups)
        if groups.ndim != 2 or groups.shape[1] != 4 or not is_integer:
            raise PluginError(
                f"{_named(aligner)}: expected integers [G, 4], got {groups.dtype} {list(groups.shape)} for the text "
                f"{text.text!r:.80}."
            )
    _require_in_order(aligner, found, *bare)
    return [
        groups.astype(np.int64, copy=False) + np.repeat((student.bos_count, teacher.bos_count), 2)
        if student.bos_count or teacher.bos_count
        else groups.astype(np.int64, copy=False)
        for groups, student, teacher in zip(found, students, teachers, strict=True)
    ]


def _require_in_order(
    aligner: Aligner, found: Sequence[IntArray], students: Sequence[TokenizedText], teachers: Sequence[TokenizedText]
) -> None:
    """Refuse groups that are empty, out of bounds, overlapping or not ascending; all texts are looked at together."""
    filled = [number for number, groups in enumerate(found) if len(groups)]
    if not filled:
        return
    rows = np.concatenate([found[number] for number in filled])
    starts, stops = rows[:, ::2], rows[:, 1::2]
    lasts = np.cumsum([len(found[number]) for number in filled]) - 1
    firsts = np.append(0, lasts[:-1] + 1)
    lengths = [[len(students[number]), len(teachers[number])] for number in filled]
    behind = starts[1:] >= stops[:-1]
    behind[lasts[:-1]] = True  # another text begins there
    if behind.all() and (stops > starts).all() and (starts[firsts] >= 0).all() and (stops[lasts] <= lengths).all():
        return
    for number, limits in zip(filled, lengths, strict=True):
        before: list[int] = [0, 0, 0, 0]
        for row in found[number].tolist():
            for start, stop, reached, limit in zip(row[::2], row[1::2], before[1::2], limits, strict=True):
                if not reached <= start < stop <= limit:
                    raise PluginError(
                        f"{_named(aligner)}: expected rows (student start, student stop, teacher start, teacher stop) "
                        "of one token or more on each side, each behind the one before and within the "
                        f"{limits[0]} and {limits[1]} tokens, got {tuple(row)} after {tuple(before)} for the text "
                        f"{students[number].text!r:.80}."
                    )
            before = row


def _named(aligner: Aligner) -> str:
    cls = type(aligner)
    return f"The aligner {aligner.name!r} ({cls.__module__}.{cls.__qualname__}), groups_of_text"


def method_label(aligner: Aligner) -> str:
    """Return the name of an aligner, with the options that its groups depend on where they are not at their defaults.

    Args:
        aligner: of `maker_of`.

    Examples:
        >>> from dskd_components.aligners import Span
        >>> method_label(Span(pooling="last"))
        'span'
    """
    fields = type(aligner).model_fields
    shown = [
        f"{name}={getattr(aligner, name)!r}"
        for name in aligner.recorded_options
        if fields[name].is_required() or getattr(aligner, name) != fields[name].default
    ]
    return f"{aligner.name}({', '.join(shown)})" if shown else aligner.name


def method_number(aligner: Aligner | None) -> int:
    """Return the number that says how tokens were brought together, by these rules.

    It differs between aligners, between the values of options that groups depend on, and between versions of what makes
    them.

    Args:
        aligner: of `maker_of`; None: they were not.

    Raises:
        ConfigurationError: an option cannot be recorded, because JSON does not know its kind of value.

    Examples:
        >>> from dskd_components.aligners import ExactMatch, Span
        >>> method_number(Span()) == method_number(Span(pooling="last")) != method_number(ExactMatch())
        True
    """
    return (ALIGNMENT_RULES << DIGEST_BITS) | _digest(aligner)


def _digest(aligner: Aligner | None) -> int:
    if aligner is None:
        return 0
    try:
        options: dict[str, Any] = aligner.model_dump(mode="json", include=set(aligner.recorded_options))
        recorded = json.dumps([aligner.name, aligner.groups_version, options], sort_keys=True)
    except (PydanticSerializationError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The options of the aligner {aligner.name!r} cannot be recorded with the groups that it makes: "
            f"{as_sentence(error)} Use types that JSON knows, or name in groups_options those that groups depend on."
        ) from error
    return int.from_bytes(hashlib.sha256(recorded.encode()).digest()[: DIGEST_BITS // 8]) or 1


@dataclass(frozen=True)
class RecordedMethod:
    """What a recorded number says.

    Args:
        label: of the aligner that made the groups; None where none did.
        version: of the rules.
        is_known: whether an aligner was found that records this number.
    """

    label: str | None
    version: int
    is_known: bool = True

    def __str__(self) -> str:
        if not self.is_known:
            return "an aligner that is not known here (not installed, of another version, or with other options)"
        return "no groups" if self.label is None else repr(self.label)


def method_of_number(number: int, *likely: Aligner | None) -> RecordedMethod | None:
    """Return what a number stands for: the aligner, of those that are installed, and the version of the rules.

    Args:
        number: of `method_number`, of any version of the rules.
        likely: aligners that are looked at beside the installed ones, with their options.

    Returns:
        None: it stands for nothing.

    Examples:
        >>> from dskd_components.aligners import Span
        >>> print(method_of_number(method_number(Span())), method_of_number(method_number(None)))
        'span' no groups
        >>> method_of_number(99) is None
        True
    """
    version, digest = number >> DIGEST_BITS, number & ((1 << DIGEST_BITS) - 1)
    if version < 1:
        return None
    if digest == 0:
        return RecordedMethod(None, version)
    for aligner in chain(filter(None, likely), installed_text_aligners()):
        if _digest(aligner) == digest:
            return RecordedMethod(method_label(aligner), version)
    return RecordedMethod(None, version, is_known=False)


def installed_text_aligners() -> list[Aligner]:
    """Return each installed aligner that makes groups of texts, with its defaults, if it has one for each option."""
    made = []
    for name in text_aligner_names():
        try:
            made.append(get_aligner(name))
        except (ValidationError, PluginError):  # options without a default, or a name that is taken twice
            continue
    return made
