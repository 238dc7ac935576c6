"""One side of a document in tokens: which are scored, and which stand for which content."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dskd_components.collation.content_places import Place
from dskd_components.collation.documents import Content
from dskd_components.tokenization.arrays import BoolArray, IntArray
from dskd_components.tokenization.byte_spans import TokenizedText, TokenStrings, core_starts
from dskd_components.tokenization.token_bytes import VocabularyBytes


@dataclass(frozen=True, eq=False)
class SideTokens:
    """One side's tokens of a document, whole.

    Attributes:
        text: The tokens that the text gave, and their spans; indices below count these ``[T]``.
        before: Ids that the tokenizer puts before the text.
        after: Ids that end it.
        contents: The contents of the document.
        places: Where the text has them.
        turns: For each content, where the text has all that is scored of its turn; None for the content alone.
        closings: For each content, the token that ends its turn, -1 for none. It may be one of `after`.
        vocabulary: What the tokenizer's tokens stand for.
        unknown_id: The id of what the tokenizer does not know, None if there is none.
        own_spans: Where the tokens of the text start and end, ``[T]`` each, if not where they stand in the contents:
            of a sample that is in tokens already, and has no text.
    """

    text: TokenizedText
    before: IntArray
    after: IntArray
    contents: Sequence[Content]
    places: Sequence[Place]
    turns: Sequence[tuple[int, int] | None]
    closings: Sequence[int]
    vocabulary: VocabularyBytes
    unknown_id: int | None
    own_spans: tuple[IntArray, IntArray] | None = None

    def __len__(self) -> int:
        return len(self.before) + len(self.text) + len(self.after)

    @cached_property
    def of_content(self) -> BoolArray:
        """Which tokens of the text start in the scored part of a content ``[T]``."""
        if len(self.places) == 1:
            return self._starts_in(0)
        scored = np.zeros(len(self.text), dtype=np.bool_)
        for number, content in enumerate(self.contents):
            if content.scored_from is not None:
                scored |= self._starts_in(number)
        return scored

    def _starts_in(self, number: int) -> BoolArray:
        place, scored_from = self.places[number], self.contents[number].scored_from
        if scored_from is None:
            return np.zeros(len(self.text), dtype=np.bool_)
        inside = self._starts_between(place.start + max(scored_from - place.first, 0), place.stop)
        return inside if self.contents[number].breaks_off_after is None else inside & self._ends_by(place.stop)

    def _ends_by(self, stop: int) -> BoolArray:
        """Which tokens spell nothing of what stands after a byte ``[T]``."""
        found: BoolArray = self.text.ends <= stop
        return found

    def _starts_between(self, start: int, stop: int) -> BoolArray:
        starts, ends = self.text.starts, self.text.ends
        inside: BoolArray = (starts >= start) & (starts < stop)
        # Tokens that begin before it may do so with spaces alone; there is one at most, or a few on one character.
        first = int(np.searchsorted(starts, start))
        for token in range(first - 1, -1, -1):
            if ends[token] <= start:
                break
            leading = self.text.data[int(starts[token]) : int(ends[token])]
            core = int(starts[token]) + len(leading) - len(leading.lstrip(b" "))
            inside[token] = start <= core < min(int(ends[token]), stop)
        return inside

    @cached_property
    def of_template(self) -> BoolArray:
        """Which tokens of the text start in a scored turn, but not in a content ``[T]``.

        Those that the tokenizer does not know are left out: a model is not to learn to write them.
        """
        found = np.zeros(len(self.text), dtype=np.bool_)
        if not any(self.turns):
            return found
        for turn, content in zip(self.turns, self.contents, strict=True):
            if turn is not None:
                inside = self._starts_between(*turn)
                found |= inside if content.breaks_off_after is None else inside & self._ends_by(turn[1])
        if self.unknown_id is not None:
            found &= self.text.token_ids != self.unknown_id
        return found & ~self.of_content

    @cached_property
    def scored(self) -> BoolArray:
        """Which tokens, those before and after the text included, are scored ``[before + T + after]``.

        The first token of all is not: nothing stands before it that could predict it.
        """
        first = len(self.before)
        scored = np.zeros(len(self), dtype=np.bool_)
        of_text = scored[first : first + len(self.text)]
        of_text[:] = self.of_content
        if any(self.turns):
            of_text |= self.of_template
        for content, closing in zip(self.contents, self.closings, strict=True):
            if closing >= 0 and content.scored_from is not None:
                scored[first + closing] = True
        scored[:1] = False
        return scored

    @cached_property
    def input_ids(self) -> IntArray:
        """All ids ``[before + T + after]``."""
        return np.concatenate([self.before, self.text.token_ids, self.after])

    @cached_property
    def byte_positions(self) -> tuple[IntArray, IntArray]:
        """Where all tokens start and end, in bytes of the contents joined together ``[before + T + after]`` each.

        Contents are what both sides read, so that their positions can be compared. A token that stands for nothing of
        them, as what a template or a tokenizer adds does, has -1 twice; one that begins before a content begins with
        it.
        """
        starts, ends = self._spans_in_contents() if self.own_spans is None else self.own_spans
        around = len(self.before), len(self.after)
        return np.pad(starts, around, constant_values=-1), np.pad(ends, around, constant_values=-1)

    def _spans_in_contents(self) -> tuple[IntArray, IntArray]:
        own_starts, own_ends = self.text.starts, self.text.ends
        starts, ends = np.full(len(self.text), -1, dtype=np.int64), np.full(len(self.text), -1, dtype=np.int64)
        first = 0
        for content, place in zip(self.contents, self.places, strict=True):
            low, high = np.maximum(own_starts, place.start), np.minimum(own_ends, place.stop)
            # A token that stands for no text stands where it is.
            inside = (low < high) | ((low == high) & (own_starts == own_ends) & (place.start < place.stop))
            shift = first + place.first - place.start
            starts = np.where(inside & (starts < 0), low + shift, starts)
            ends = np.where(inside, high + shift, ends)
            first += content.size
        return starts, ends

    @cached_property
    def _cuts(self) -> tuple[IntArray, IntArray, IntArray]:
        """Where tokens of the text can be parted: the byte, the first token after it, and where that starts.

        Tokens that share the bytes of one character are not parted. A token that stands for no text goes with the
        one after it. Both ends of the text are cuts.
        """
        starts, ends = self.text.starts, self.text.ends
        filled = np.flatnonzero(ends > starts)
        if len(filled) == 0:
            empty = np.zeros(0, dtype=np.int64)
            return empty, empty, empty
        cores = core_starts(self.text.data, starts, ends)
        solid = np.flatnonzero(ends[filled][:-1] <= starts[filled][1:])
        after = filled[solid + 1]
        return (
            np.concatenate([starts[filled[:1]], starts[after], ends[-1:]]),
            np.concatenate([np.zeros(1, dtype=np.int64), filled[solid] + 1, np.array([len(starts)])]),
            np.concatenate([cores[filled[:1]], cores[after], ends[-1:]]),
        )

    def cuts_in(self, number: int) -> tuple[IntArray, IntArray]:
        """Where tokens can be parted within a content: bytes of the content, and the first token after each.

        The spaces before a content that its first token has swallowed do not count as part of it.
        """
        place = self.places[number]
        positions, tokens, _ = self._cuts
        inside = self._cuts_of(number)
        relative = np.maximum(positions[inside] - place.start, 0) + place.first
        return relative, tokens[inside]

    def _cuts_of(self, number: int) -> slice:
        place = self.places[number]
        positions, _, cores = self._cuts
        first = int(np.searchsorted(cores, place.start))
        return slice(first, int(np.searchsorted(positions, place.stop, side="right")))

    def cores_in(self, number: int, count: int | None) -> IntArray:
        """Where the tokens after the first so many cuts of a content (None: all) start, leading spaces set aside.

        Those that lie beyond the content are left out.
        """
        place = self.places[number]
        cores: IntArray = self._cuts[2][self._cuts_of(number)][:count]
        return cores[cores < place.stop] - place.start + place.first

    def view(self, number: int, first: int, last: int) -> TokenizedText:
        """Some tokens of a content, as tokens of a text that is the content."""
        place = self.places[number]
        if self.contents[number].text is self.text.text and last - first == len(self.text):
            return self.text
        shift = place.first - place.start
        cores = self.text.cores[first:last]
        return TokenizedText(
            self.contents[number].text,
            self.text.token_ids[first:last],
            np.maximum(self.text.starts[first:last], place.start) + shift,
            np.maximum(self.text.ends[first:last], place.start) + shift,
            np.where(cores < 0, -1, np.maximum(cores, place.start) + shift),
            0,
            0,
            TokenStrings(self.text, slice(first, last)),
            space_marker=self.text.space_marker,
        )
