"""Which tokens of the two sides belong together, as a number for each token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dskd_components.collation.side_tokens import SideTokens
from dskd_components.collation.truncation import TruncatedLengths, common_cuts
from dskd_components.components.aligner import TextMethod
from dskd_components.tokenization.align_text import warped_groups
from dskd_components.tokenization.arrays import BoolArray, IntArray
from dskd_components.tokenization.byte_spans import TokenizedText
from dskd_components.tokenization.span_groups import exact_match_pairs, span_groups


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a text that both sides have whole tokens for, from one common border to another.

    Attributes:
        student: The student's tokens of it.
        teacher: The teacher's tokens of it.
        first: Which token of its text is the first, on either side.
    """

    student: TokenizedText
    teacher: TokenizedText
    first: tuple[int, int]


def stretches_of(student: SideTokens, teacher: SideTokens, kept: TruncatedLengths) -> list[Stretch]:
    """What there is to align in a sample: of each content, what both sides keep and have borders around.

    Args:
        student: The student's tokens.
        teacher: The teacher's tokens.
        kept: How many of them are kept.
    """
    found = [
        _stretch(student, teacher, number, kept) for number, content in enumerate(student.contents) if content.text
    ]
    return [stretch for stretch in found if stretch is not None]


def align_stretches(stretches: Sequence[Stretch], method: TextMethod, markers: tuple[str, str]) -> list[IntArray]:
    """Bring together the tokens of stretches of many samples at once, which is quicker than one by one.

    Args:
        stretches: What to align.
        method: How tokens are brought together.
        markers: What marks a space in the student's and in the teacher's tokens.

    Returns:
        For each stretch, rows ``student start, student stop, teacher start, teacher stop`` in tokens of its text
        ``[G, 4]``.
    """
    if method == "min_edit":
        found = warped_groups([part.student for part in stretches], [part.teacher for part in stretches], *markers)
    elif method == "span":
        found = [span_groups(part.student, part.teacher) for part in stretches]
    else:
        found = [
            exact_match_pairs(part.student, part.teacher)[:, [0, 0, 1, 1]] + np.array([0, 1, 0, 1])
            for part in stretches
        ]
    return [groups + np.repeat(part.first, 2) for groups, part in zip(found, stretches, strict=True)]


def number_tokens(
    student: SideTokens, teacher: SideTokens, kept: TruncatedLengths, aligned: Sequence[IntArray], method: TextMethod
) -> tuple[IntArray, IntArray]:
    """Number the tokens of a sample that belong together.

    Tokens of a template have no group. The tokens that end a turn or a text on both sides are a group. A group that is
    scored in part only is left out: what it stands for is not what the model is asked for.

    Args:
        student: The student's tokens.
        teacher: The teacher's tokens.
        kept: How many of them are kept.
        aligned: The groups of each of its stretches.
        method: How they were made.

    Returns:
        The group of each kept token, -1 for none, ``[Ts]`` and ``[Tt]``.
    """
    groups = np.concatenate([np.zeros((0, 4), dtype=np.int64), *aligned])
    closings = [
        (ends[0], ends[0] + 1, ends[1], ends[1] + 1)
        for ends in zip(student.closings, teacher.closings, strict=True)
        if min(ends) >= 0
        and len(student.before) + ends[0] < kept.student
        and len(teacher.before) + ends[1] < kept.teacher
    ]
    if closings:
        groups = np.concatenate([groups, np.array(closings, dtype=np.int64)])
    numbered = _numbers(student, groups[:, :2], kept.student), _numbers(teacher, groups[:, 2:], kept.teacher)
    if method == "exact_match":
        return numbered
    partial = _is_partial(student, numbered[0], len(groups)) | _is_partial(teacher, numbered[1], len(groups))
    if partial.any():
        dropped = np.append(np.where(partial, -1, np.arange(len(groups))), -1)  # -1 reads the last entry
        numbered = dropped[numbered[0]], dropped[numbered[1]]
    return numbered


def _stretch(student: SideTokens, teacher: SideTokens, number: int, kept: TruncatedLengths) -> Stretch | None:
    """The part of a content that is aligned, None if both sides have no common border before its end."""
    text = student.contents[number].text
    if kept.is_whole and student.text.text is text and teacher.text.text is text:
        first, last = (0, 0), (len(student.text), len(teacher.text))
    else:
        cuts = common_cuts(student, teacher, number)
        kept_cuts = (cuts[0] + len(student.before) <= kept.student) & (cuts[1] + len(teacher.before) <= kept.teacher)
        students, teachers = cuts[0][kept_cuts], cuts[1][kept_cuts]
        if len(students) < 2:
            return None
        # Between the first and the last common cut, both sides have the very same bytes.
        first, last = (int(students[0]), int(teachers[0])), (int(students[-1]), int(teachers[-1]))
    return Stretch(student.view(number, first[0], last[0]), teacher.view(number, first[1], last[1]), first)


def _numbers(side: SideTokens, groups: IntArray, length: int) -> IntArray:
    """The group of each token, from the rows ``start, stop`` of the groups."""
    numbers = np.full(length, -1, dtype=np.int64)
    sizes = groups[:, 1] - groups[:, 0]
    shift = len(side.before)
    if (sizes == 1).all():
        numbers[groups[:, 0] + shift] = np.arange(len(groups))
        return numbers
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    numbers[np.repeat(groups[:, 0] + shift, sizes) + within] = np.repeat(np.arange(len(groups)), sizes)
    return numbers


def _is_partial(side: SideTokens, numbers: IntArray, groups: int) -> BoolArray:
    """Which groups have scored tokens and others that are not ``[G]``."""
    member = numbers >= 0
    members = np.bincount(numbers[member], minlength=groups)
    scored = np.bincount(numbers[member & side.scored[: len(numbers)]], minlength=groups)
    partial: BoolArray = (scored > 0) & (scored < members)
    return partial
