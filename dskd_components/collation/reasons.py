"""Why a token of a sample is not scored, and why it belongs to no token of the other side."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dskd_components.collation.messages import is_cut
from dskd_components.collation.samples import ChatSample
from dskd_components.collation.token_samples import TokenSample
from dskd_components.tokenization.byte_spans import core_starts
from dskd_components.tokenization.text_alignment import UnalignedReason, unaligned_reasons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.collation.dual_encoder import Prepared
    from dskd_components.collation.grouping import Stretch
    from dskd_components.collation.samples import Sample
    from dskd_components.collation.side_tokens import SideTokens
    from dskd_components.tokenization.arrays import IntArray


class UnscoredReason(StrEnum):
    """Why a token is not scored; these are all the reasons there are."""

    FIRST = "the first token, which nothing predicts"
    PROMPT = "prompt"
    ROLE = "message of a role that is not learned"
    WEIGHT = "message of weight 0"
    BORDER = "starts before what is learned"
    TEMPLATE = "chat template"
    ADDED = "special token that the tokenizer adds"
    UNKNOWN = "template token that the tokenizer does not know"
    MASKED = "labels or masks of the sample"
    AFTER_CUT = "follows an answer that was cut, so nobody wrote it"
    CUT = "cut off by the maximum length"
    PREPROCESSED = "preprocessed columns do not say why"


class UnpairedReason(StrEnum):
    """Why a token has no group, beside the reasons of the alignment itself (`UnalignedReason`)."""

    ALIGNER = "the aligner is told no pairs"
    TEMPLATE = "chat template"
    ADDED = "special token that the tokenizer adds"
    OWN_PROMPT = "prompt that the other side does not read"
    NO_END = "the other side has no token that ends this turn"
    OVERLAPS = "also spells what stands beside the content"
    JOINED = "the other side joins it to what stands beside the content"
    PARTLY_SCORED = "its group is scored in part only"
    UNSCORED = "of samples in tokens only scored ones are paired"
    CUT = "cut off by the maximum length"
    PREPROCESSED = "preprocessed columns do not say why"


Unpaired = UnpairedReason | UnalignedReason


@dataclass(frozen=True, eq=False)
class SideReasons:
    """What can be said of one side's tokens, whole, in their order.

    Args:
        tokens: The tokens.
        sample: The sample that they were made from.
    """

    tokens: SideTokens
    sample: Sample

    @cached_property
    def contents(self) -> IntArray:
        """The number of the content that each token starts in, leading spaces set aside; -1 for none ``[T]``."""
        text, first = self.tokens.text, len(self.tokens.before)
        cores = core_starts(text.data, text.starts, text.ends)
        found = np.full(len(self.tokens), -1, dtype=np.int64)
        for number, place in enumerate(self.tokens.places):
            inside = (cores >= place.start) & (cores < place.stop)
            found[first : first + len(text)][inside] = number
        return found

    @property
    def has_own_prompt(self) -> bool:
        """Whether what stands before the first content is for this side alone."""
        return getattr(self.sample, "teacher_prompt", None) is not None

    def unscored(self) -> list[UnscoredReason]:
        """Why each token is not scored, if it is not ``[T]``."""
        learned = self._learned_starts()
        reasons = [self._unscored(index, learned) for index in range(len(self.tokens))]
        would_be = self.tokens.of_content | self.tokens.of_template
        if len(would_be) and not len(self.tokens.before) and (would_be[0] or 0 in self.tokens.closings):
            reasons[0] = UnscoredReason.FIRST
        return reasons

    def _learned_starts(self) -> list[int]:
        """Where in the text something begins that is learned, in bytes."""
        tokens = self.tokens
        starts = [turn[0] for turn in tokens.turns if turn is not None]
        for content, place in zip(tokens.contents, tokens.places, strict=True):
            if content.scored_from is not None:
                starts.append(place.start + max(content.scored_from - place.first, 0))
        return starts

    def _unscored(self, index: int, learned: Sequence[int]) -> UnscoredReason:
        tokens, inner = self.tokens, index - len(self.tokens.before)
        if not 0 <= inner < len(tokens.text):
            return UnscoredReason.ADDED
        if isinstance(self.sample, TokenSample):
            return UnscoredReason.MASKED
        start, end = int(tokens.text.starts[inner]), int(tokens.text.ends[inner])
        if any(start < place < end for place in learned):
            return UnscoredReason.BORDER
        # What ends a turn goes with its message, wherever it stands.
        number = tokens.closings.index(inner) if inner in tokens.closings else int(self.contents[index])
        if not isinstance(self.sample, ChatSample) or (self.has_own_prompt and start < tokens.places[0].start):
            return UnscoredReason.PROMPT
        if number >= 0 and tokens.contents[number].scored_from is None:
            return _of_message(self.sample, number - len(tokens.contents))
        if self._follows_a_cut(self.sample, start):
            return UnscoredReason.AFTER_CUT
        in_turn = any(turn is not None and turn[0] <= start < turn[1] for turn in tokens.turns)
        is_unknown = tokens.unknown_id is not None and int(tokens.text.token_ids[inner]) == tokens.unknown_id
        return UnscoredReason.UNKNOWN if in_turn and is_unknown else UnscoredReason.TEMPLATE

    def _follows_a_cut(self, sample: ChatSample, start: int) -> bool:
        """Whether the chat ends with an answer that somebody broke off, and this place is behind it."""
        answer = sample.messages[-1]
        is_learned = bool(self.tokens.places) and self.tokens.contents[-1].scored_from is not None
        return is_learned and start >= self.tokens.places[-1].stop and is_cut("", answer.get("finish_reason"))

    def unpaired(self) -> list[Unpaired]:
        """Why each token has no group, if it has none and its content was not aligned ``[T]``."""
        closings = {len(self.tokens.before) + closing for closing in self.tokens.closings if closing >= 0}
        return [
            UnpairedReason.NO_END if index in closings else self._unpaired(index) for index in range(len(self.tokens))
        ]

    def _unpaired(self, index: int) -> Unpaired:
        inner = index - len(self.tokens.before)
        if not 0 <= inner < len(self.tokens.text):
            return UnpairedReason.ADDED
        if self.contents[index] >= 0:
            stop = self.tokens.places[int(self.contents[index])].stop
            return UnpairedReason.OVERLAPS if self.tokens.text.ends[inner] > stop else UnpairedReason.JOINED
        if isinstance(self.sample, TokenSample):
            return UnpairedReason.UNSCORED
        if self.has_own_prompt and self.tokens.text.starts[inner] < self.tokens.places[0].start:
            return UnpairedReason.OWN_PROMPT
        return UnpairedReason.TEMPLATE


def _of_message(sample: ChatSample, number: int) -> UnscoredReason:
    """Why a message is not learned, counted from the last one."""
    message, position = sample.messages[number], len(sample.messages) + number
    if message.get("weight") == 0:
        return UnscoredReason.WEIGHT
    return UnscoredReason.PROMPT if position < sample.prompt_length else UnscoredReason.ROLE


def unpaired_reasons(
    prepared: Prepared, aligned: Sequence[IntArray], sample: Sample
) -> tuple[list[Unpaired], list[Unpaired]]:
    """Why the tokens of both sides have no group, if they have none ``[Ts]`` and ``[Tt]``.

    Args:
        prepared: The sample's tokens.
        aligned: The groups of each of its stretches.
        sample: The sample.
    """
    sides = prepared.student, prepared.teacher
    reasons = tuple(SideReasons(side, sample).unpaired() for side in sides)
    for stretch, groups in zip(prepared.stretches, aligned, strict=True):
        for number, side in enumerate(sides):
            first = len(side.before) + stretch.first[number]
            rows = groups[:, 2 * number : 2 * number + 2] - stretch.first[number]
            for index, reason in _of_stretch(stretch, number, rows):
                reasons[number][first + index] = reason
    return reasons[0], reasons[1]


def _of_stretch(stretch: Stretch, number: int, rows: IntArray) -> list[tuple[int, Unpaired]]:
    """The tokens of one side of a stretch; those in a group lack it only if the group was left out."""
    side, other = (stretch.student, stretch.teacher) if number == 0 else (stretch.teacher, stretch.student)
    member = np.zeros(len(side), dtype=np.bool_)
    for start, stop in rows.tolist():
        member[start:stop] = True
    left_out: list[tuple[int, Unpaired]] = [
        (index, UnpairedReason.PARTLY_SCORED) for index in np.flatnonzero(member).tolist()
    ]
    return [*left_out, *unaligned_reasons(side, other, member)]
