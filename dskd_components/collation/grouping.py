"""Which tokens of the two sides belong together, as a number for each token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dskd_components.collation.side_tokens import SideTokens
from dskd_components.collation.truncation import TruncatedLengths, common_cuts
from dskd_components.components.aligner import Aligner
from dskd_components.components.text_methods import groups_of_texts
from dskd_components.tokenization.arrays import BoolArray, IntArray
from dskd_components.tokenization.byte_spans import TokenizedText
from dskd_components.tokenization.span_groups import single_groups


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a text that both sides have whole tokens for, from one common border to another.

    Attributes:
        student: The student's tokens of it.
        teacher: The teacher's tokens of it.
        first: Which token of its text is the first, on either side.
        in_tokens: Whether it came in tokens, the same for both sides, of which no text is known.
    """

    student: TokenizedText
    teacher: TokenizedText
    first: tuple[int, int]
    in_tokens: bool = False


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


def align_stretches(stretches: Sequence[Stretch], aligner: Aligner) -> list[IntArray]:
    """Bring together the tokens of stretches of many samples at once, which is quicker than one by one.

    Tokens of which no text is known belong to themselves: both sides have the same.

    Args:
        stretches: What to align.
        aligner: What makes the groups.

    Returns:
        For each stretch, rows ``student start, student stop, teacher start, teacher stop`` in tokens of its text
        ``[G, 4]``.

    Raises:
        PluginError: The aligner fails, or does not give groups.
    """
    texts = [part for part in stretches if not part.in_tokens]
    found = iter(groups_of_texts(aligner, [part.student for part in texts], [part.teacher for part in texts]))
    return [
        (_of_themselves(len(part.student)) if part.in_tokens else next(found)) + np.repeat(part.first, 2)
        for part in stretches
    ]


def _of_themselves(length: int) -> IntArray:
    """Each token with the same one of the other side."""
    return single_groups(np.arange(length)[:, None].repeat(2, axis=1))


def number_tokens(
    student: SideTokens, teacher: SideTokens, kept: TruncatedLengths, aligned: Sequence[IntArray]
) -> tuple[IntArray, IntArray]:
    """Number the tokens of a sample that belong together.

    Tokens of a template have no group. The tokens that end a turn or a text on both sides are a group. A group that is
    scored in part only is left out: what it stands for is not what the model is asked for.

    Args:
        student: The student's tokens.
        teacher: The teacher's tokens.
        kept: How many of them are kept.
        aligned: The groups of each of its stretches.

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
    if (groups[:, 1::2] - groups[:, ::2] == 1).all():  # a token cannot be scored in part
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
    parts = student.view(number, first[0], last[0]), teacher.view(number, first[1], last[1])
    return Stretch(*parts, first, in_tokens=student is teacher)


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
