"""Laws about the groups that an aligner makes of texts, for those with a `groups_of_text`."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from hypothesis import strategies as st

from dskd_components.components.text_methods import method_number
from dskd_components.testing.expectation import expect
from dskd_components.testing.law import law
from dskd_components.testing.laws.component import one_case
from dskd_components.testing.strategies.tokenized_texts import TRICKY_TEXTS, pairs_of, small_tokenizer, text_pairs
from dskd_components.testing.variants import variants
from dskd_components.tokenization.byte_spans import core_starts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dskd_components.components.aligner import Aligner
    from dskd_components.testing.strategies.tokenized_texts import TextPair
    from dskd_components.tokenization.byte_spans import TokenizedText

    Rows = list[list[int]]

TYPED_IN: Final = ("__main__", "builtins")
"""Modules of classes that are in no file which a worker process could import by name."""


def makes_groups(aligner: Aligner) -> bool:
    """Return whether an aligner makes groups of texts itself."""
    return aligner.makes_groups


def text_cases(_aligner: Aligner) -> st.SearchStrategy[Mapping[str, Any]]:
    """Cases of ``texts`` in the tokens of two tokenizers."""
    return st.fixed_dictionaries({"texts": text_pairs()})


def one_tokenizer_cases(_aligner: Aligner) -> st.SearchStrategy[Mapping[str, Any]]:
    """Cases of ``texts`` that both sides cut alike."""
    return st.fixed_dictionaries({"texts": text_pairs(one_tokenizer=True)})


def rows_of(aligner: Aligner, texts: Sequence[TextPair]) -> list[Rows]:
    """Return the groups that an aligner makes of texts, as lists.

    Args:
        aligner: the aligner.
        texts: in the tokens of both sides.
    """
    found = aligner.groups_of_texts([pair.student for pair in texts], [pair.teacher for pair in texts])
    return [np.asarray(groups).tolist() for groups in found]


@law("aligner", cases=text_cases, claimed_by=makes_groups)
def groups_of_tokens_are_in_order(aligner: Aligner, texts: Sequence[TextPair]) -> None:
    """`groups_of_text` gives integers ``[G, 4]``: each group has a token on either side and stands behind the last.

    No token is in two groups, and none lies outside of the text. Positions are numbered by these rows.
    """
    for pair in texts:
        groups = np.asarray(aligner.groups_of_text(pair.student, pair.teacher))
        is_table = groups.ndim == 2 and groups.shape[1] == 4
        expect(is_table, f"the groups of {pair}: expected shape [G, 4], found {list(groups.shape)}.")
        is_integer = np.issubdtype(groups.dtype, np.integer) or not len(groups)
        expect(is_integer, f"the groups of {pair}: expected integers, found {groups.dtype}.")
        reached = (0, 0)
        for row in groups.tolist():
            start, stop = (row[0], row[2]), (row[1], row[3])
            ahead = all(before <= first < last for before, first, last in zip(reached, start, stop, strict=True))
            within = stop[0] <= len(pair.student) and stop[1] <= len(pair.teacher)
            expect(ahead and within, f"the groups of {pair}: expected another place than {row}, in {groups.tolist()}.")
            reached = stop


@law("aligner", cases=text_cases, claimed_by=makes_groups)
def texts_know_nothing_of_one_another(aligner: Aligner, texts: Sequence[TextPair]) -> None:
    """A text has the same groups alone, beside others, in any order, and when it comes again.

    Batches are shuffled and shared out to workers.
    """
    alone = [rows_of(aligner, [pair])[0] for pair in texts]
    single = [np.asarray(aligner.groups_of_text(pair.student, pair.teacher)).tolist() for pair in texts]
    orders = {
        "beside the others": rows_of(aligner, texts),
        "in reverse order": rows_of(aligner, texts[::-1])[::-1],
        "by groups_of_text": single,
    }
    for where, found in orders.items():
        expect(len(found) == len(alone), f"{where}: expected groups of {len(alone)} texts, found {len(found)}.")
        for pair, ours, theirs in zip(texts, found, alone, strict=True):
            expect(ours == theirs, f"the groups of {pair} {where}: expected {theirs}, as alone, found {ours}.")


@law("aligner", cases=text_cases, claimed_by=makes_groups, at_most=20)
def texts_are_not_changed(aligner: Aligner, texts: Sequence[TextPair]) -> None:
    """The tokens and spans that `groups_of_text` is given are as they were.

    They are read again: for labels, and to say why a token has no partner.
    """
    sides = [side for pair in texts for side in (pair.student, pair.teacher)]
    names = ("token_ids", "starts", "ends", "cores")
    before = [[getattr(side, name).copy() for name in names] for side in sides]
    rows_of(aligner, texts)
    for side, copies in zip(sides, before, strict=True):
        for name, copy in zip(names, copies, strict=True):
            now, then = getattr(side, name).tolist(), copy.tolist()
            expect(now == then, f"{name} of {side.text!r}: expected {then}, as given, found {now}.")


@law("aligner", cases=one_tokenizer_cases, claimed_by=makes_groups)
def one_tokenization_belongs_to_itself(aligner: Aligner, texts: Sequence[TextPair]) -> None:
    """Where both sides cut a text alike, each group has the same tokens on both.

    Being off by a token breaks this, and sides that are exchanged in a part of the rows.
    """
    for pair, rows in zip(texts, rows_of(aligner, texts), strict=True):
        for row in rows:
            expect(row[:2] == row[2:], f"the groups of {pair}: expected the same tokens on both sides, found {row}.")


@law("aligner", cases=one_case, claimed_by=makes_groups, at_most=1)
def some_text_is_aligned(aligner: Aligner) -> None:
    """Of several ordinary texts that both sides cut alike, some tokens are brought together.

    An aligner that leaves out everything breaks no other law, and distils nothing.
    """
    tokenizer = small_tokenizer("byte_level")
    found = rows_of(aligner, pairs_of(tokenizer, tokenizer, TRICKY_TEXTS))
    expect(any(found), f"the groups of {len(found)} texts: expected some, found none.")


@law("aligner", cases=text_cases, claimed_by=lambda aligner: aligner.makes_groups and aligner.follows_text)
def groups_stand_for_the_same_text(aligner: Aligner, texts: Sequence[TextPair]) -> None:
    """Both sides of a group stand for the same bytes of the text, leading spaces set aside.

    Claimed by `follows_text`. Only then have both models read the same and are asked for the same.
    """
    for pair, rows in zip(texts, rows_of(aligner, texts), strict=True):
        for row in rows:
            ours, theirs = _bytes_of(pair.student, *row[:2]), _bytes_of(pair.teacher, *row[2:])
            expect(
                ours == theirs,
                f"the group {row} of {pair}: expected the same bytes on both sides, found {_shown(pair, ours)} and "
                f"{_shown(pair, theirs)}.",
            )


@law("aligner", cases=text_cases, claimed_by=lambda aligner: aligner.makes_groups and aligner.covers_text)
def every_token_has_a_group(aligner: Aligner, texts: Sequence[TextPair]) -> None:
    """Every token that stands for text is in a group, if the other side has tokens.

    Claimed by `covers_text`. What is left out teaches nothing.
    """
    for pair, rows in zip(texts, rows_of(aligner, texts), strict=True):
        if not (len(pair.student) and len(pair.teacher)):
            continue
        for name, side, columns in (("student", pair.student, slice(0, 2)), ("teacher", pair.teacher, slice(2, 4))):
            members = {token for row in rows for token in range(*row[columns])}
            missing = set(np.flatnonzero(side.ends > side.starts).tolist()) - members
            if missing:
                expect(False, f"the {name}'s token {min(missing)} of {pair}: expected a group, found none in {rows}.")


@law("aligner", cases=one_case, claimed_by=makes_groups, at_most=1)
def what_is_recorded_tells_groups_apart(aligner: Aligner) -> None:
    """Two values of an option that lead to other groups are recorded as two ways to make them.

    Claimed by `groups_options`. Otherwise a data set that was made with another value is taken for one that fits.
    """
    texts = fixed_texts()
    for other in variants(type(aligner)):
        assert isinstance(other, type(aligner))
        if method_number(other) == method_number(aligner):
            ours, theirs = rows_of(aligner, texts), rows_of(other, texts)
            same = ours == theirs
            expect(same, f"{other!r}: expected the groups of {aligner!r}, since both are recorded alike, found others.")


@law("aligner", cases=one_case, claimed_by=makes_groups, at_most=1)
def a_copy_in_a_worker_makes_the_same_groups(aligner: Aligner) -> None:
    """A pickled copy makes the same groups, so that collators can work in other processes.

    A function in a private attribute breaks this, and a class that is defined inside of a function.
    """
    if type(aligner).__module__ in TYPED_IN:
        return
    texts = fixed_texts()
    copy = pickle.loads(pickle.dumps(aligner))
    expect(rows_of(copy, texts) == rows_of(aligner, texts), "a pickled copy: expected the same groups, found others.")


def fixed_texts() -> list[TextPair]:
    """Return texts in the tokens of two pairs of tokenizers, the same each time."""
    sides = (("byte_level", "metaspace"), ("wordpiece", "rewriting"))
    return [
        pair
        for student, teacher in sides
        for pair in pairs_of(small_tokenizer(student), small_tokenizer(teacher), TRICKY_TEXTS)
    ]


def _bytes_of(side: TokenizedText, start: int, stop: int) -> tuple[int, int]:
    """The bytes that some tokens stand for, without leading spaces; those of tokens without text are none."""
    first, last = side.starts[start:stop].min(), side.ends[start:stop].max()
    core = core_starts(side.data, np.array([first]), np.array([last]))
    return int(core[0]), int(last)


def _shown(pair: TextPair, span: tuple[int, int]) -> str:
    return repr(pair.student.data[slice(*span)].decode(errors="backslashreplace"))
