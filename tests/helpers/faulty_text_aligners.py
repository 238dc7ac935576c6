"""Faulty aligners of texts: spans, with one thing changed in the groups that they make, or in what they claim."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import PrivateAttr

from dskd_components import TextAligner
from dskd_components.aligners import CrossModelAttention
from dskd_components.aligners.grouped import GroupedModule
from dskd_components.tokenization import exact_match_pairs, single_groups, span_groups
from tests.helpers.fault import Fault, collected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components import ProjectorHeads, TokenizedText
    from dskd_components.components.aligner import AlignerModule
    from dskd_components.tokenization.arrays import IntArray

TEXT_ALIGNER_FAULTS: list[Fault] = []
fault = functools.partial(collected, TEXT_ALIGNER_FAULTS)


class ChangedGroups(TextAligner):
    """Spans, which subclasses change."""

    name: Literal["changed_groups"] = "changed_groups"

    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return self.changed(span_groups(student, teacher), student, teacher)

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return groups


@fault("stops are inclusive", "groups_of_tokens_are_in_order")
class InclusiveStops(ChangedGroups):
    name: Literal["inclusive_stops"] = "inclusive_stops"

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return groups - np.array([0, 1, 0, 1])


@fault("a token is in two groups", "groups_of_tokens_are_in_order")
class Overlapping(ChangedGroups):
    name: Literal["overlapping"] = "overlapping"

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return groups + np.array([0, 1, 0, 0]) * (groups[:, 1:2] < len(student))


@fault("pairs in the place of groups", "groups_of_tokens_are_in_order")
class PairsAlone(ChangedGroups):
    name: Literal["pairs_alone"] = "pairs_alone"

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return exact_match_pairs(student, teacher)


@fault("the last group comes first", "groups_of_tokens_are_in_order")
class Backwards(ChangedGroups):
    name: Literal["backwards"] = "backwards"

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return groups[::-1]


@fault("as many groups as the shortest text of a batch has", "texts_know_nothing_of_one_another")
class ShortestOfBatch(ChangedGroups):
    name: Literal["shortest_of_batch"] = "shortest_of_batch"

    def groups_of_texts(self, students: Sequence[TokenizedText], teachers: Sequence[TokenizedText]) -> list[IntArray]:
        found = super().groups_of_texts(students, teachers)
        return [groups[: min(map(len, found))] for groups in found]


@fault("it remembers the last text", "texts_know_nothing_of_one_another")
class Remembers(ChangedGroups):
    name: Literal["remembers"] = "remembers"
    _seen: list[str] = PrivateAttr(default_factory=list)

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        is_new = student.text not in self._seen
        self._seen.append(student.text)
        return groups if is_new else groups[:0]


@fault("spans are moved in place", "texts_are_not_changed")
class InPlace(ChangedGroups):
    name: Literal["in_place"] = "in_place"

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        student.starts[:] = np.maximum(student.cores, student.starts)
        return groups


@fault("off by one token", "one_tokenization_belongs_to_itself")
class OffByOneToken(ChangedGroups):
    name: Literal["off_by_one_token"] = "off_by_one_token"

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        moved = groups + np.array([0, 0, 1, 1])
        return moved[moved[:, 3] <= len(teacher)]


@fault("nothing is brought together", "some_text_is_aligned")
class Nothing(ChangedGroups):
    name: Literal["nothing"] = "nothing"

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return groups[:0]


@fault("tokens are paired by their number", "groups_stand_for_the_same_text")
class ByNumber(ChangedGroups):
    name: Literal["by_number"] = "by_number"

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return single_groups(np.arange(min(len(student), len(teacher)))[:, None].repeat(2, axis=1))


@fault("offsets in characters, not bytes", "groups_stand_for_the_same_text")
class InCharacters(ChangedGroups):
    name: Literal["in_characters"] = "in_characters"

    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        places = {len(teacher.data[:start].decode(errors="ignore")): n for n, start in enumerate(teacher.starts)}
        pairs = [[n, places[start]] for n, start in enumerate(student.starts.tolist()) if start in places]
        ascending = [pair for n, pair in enumerate(pairs) if n == 0 or pair[1] > max(one[1] for one in pairs[:n])]
        return single_groups(np.array(ascending, dtype=np.int64).reshape(-1, 2))


@fault("what it claims to cover it leaves out", "every_token_has_a_group")
class ClaimsToCover(ChangedGroups):
    covers_text: ClassVar[bool] = True

    name: Literal["claims_to_cover"] = "claims_to_cover"

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return groups[(np.diff(groups)[:, [0, 2]] <= 1).all(1)]


@fault("an option that groups depend on is not recorded", "what_is_recorded_tells_groups_apart")
class Unrecorded(ChangedGroups):
    groups_options: ClassVar[tuple[str, ...] | None] = ()

    name: Literal["unrecorded"] = "unrecorded"
    longest: Literal[1, 9] = 9

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return groups[groups[:, 1] - groups[:, 0] <= self.longest]


@fault("a function in a private attribute", "a_copy_in_a_worker_makes_the_same_groups")
class Unpicklable(ChangedGroups):
    name: Literal["unpicklable"] = "unpicklable"
    _change: Any = PrivateAttr(default_factory=lambda: lambda groups: groups)

    def changed(self, groups: IntArray, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        return self._change(groups)


@fault("groups of several count, and it says that they do not", "groups_of_several_do_not_count")
class CountsAll(ChangedGroups):
    name: Literal["counts_all"] = "counts_all"

    @property
    def one_to_one(self) -> bool:
        return True

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return GroupedModule(self.name, one_to_one=False, pooling="mean")


@fault("attention that claims to be settled", "a_hard_alignment_is_settled")
class SoftOne(CrossModelAttention):
    name: Literal["soft_one"] = "soft_one"
    std: Literal["sample"] = "sample"

    @property
    def is_hard(self) -> bool:
        return True
