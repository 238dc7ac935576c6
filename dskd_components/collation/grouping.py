"""Which tokens of the two sides belong together, as a number for each token."""

import numpy as np
import numpy.typing as npt

from dskd_components.collation.side_tokens import SideTokens
from dskd_components.collation.truncation import Kept, common_cuts
from dskd_components.contracts.aligner import TextMethod
from dskd_components.tokenization.byte_spans import TokenizedText
from dskd_components.tokenization.exact_match import exact_match_pairs
from dskd_components.tokenization.min_edit import SPACE_MARKERS, min_edit_path, path_groups
from dskd_components.tokenization.span_groups import span_groups

IntArray = npt.NDArray[np.int64]


def group_tokens(student: SideTokens, teacher: SideTokens, kept: Kept, method: TextMethod) -> tuple[IntArray, IntArray]:
    """Number the tokens that belong together, content by content.

    Tokens of a template have no group. The tokens that end a turn or a text on both sides are a group. A group that is
    scored in part only is left out: what it stands for is not what the model is asked for.

    Args:
        student: The student's tokens.
        teacher: The teacher's tokens.
        kept: How many of them are kept.
        method: How tokens are brought together.

    Returns:
        The group of each kept token, -1 for none, ``[Ts]`` and ``[Tt]``.
    """
    rows = [
        _groups_of_content(student, teacher, number, kept, method)
        for number, content in enumerate(student.contents)
        if content.text
    ]
    groups = rows[0] if len(rows) == 1 else np.concatenate(rows)
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


def _groups_of_content(
    student: SideTokens, teacher: SideTokens, number: int, kept: Kept, method: TextMethod
) -> IntArray:
    """Rows ``student start, student stop, teacher start, teacher stop`` in tokens of the texts ``[G, 4]``."""
    text = student.contents[number].text
    if kept.is_whole and student.text.text is text and teacher.text.text is text:
        first, last = (0, 0), (len(student.text), len(teacher.text))
    else:
        cuts = common_cuts(student, teacher, number)
        kept_cuts = (cuts[0] + len(student.before) <= kept.student) & (cuts[1] + len(teacher.before) <= kept.teacher)
        students, teachers = cuts[0][kept_cuts], cuts[1][kept_cuts]
        if len(students) < 2:
            return np.zeros((0, 4), dtype=np.int64)
        # Between the first and the last common cut, both sides have the very same bytes.
        first, last = (int(students[0]), int(teachers[0])), (int(students[-1]), int(teachers[-1]))
    views = student.view(number, first[0], last[0]), teacher.view(number, first[1], last[1])
    if method == "exact_match":
        pairs: IntArray = exact_match_pairs(*views)[:, [0, 0, 1, 1]]
        pairs += np.array([first[0], first[0] + 1, first[1], first[1] + 1])
        return pairs
    if method == "span":
        groups = span_groups(*views)
    else:
        markers = (SPACE_MARKERS[side.vocabulary.family] for side in (student, teacher))
        groups = _warped(*views, *markers)
    shifted: IntArray = groups + np.array([first[0], first[0], first[1], first[1]])
    return shifted


def _warped(student: TokenizedText, teacher: TokenizedText, student_marker: str, teacher_marker: str) -> IntArray:
    return path_groups(min_edit_path(student.tokens, teacher.tokens, student_marker, teacher_marker))


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


def _is_partial(side: SideTokens, numbers: IntArray, groups: int) -> npt.NDArray[np.bool_]:
    """Which groups have scored tokens and others that are not ``[G]``."""
    member = numbers >= 0
    members = np.bincount(numbers[member], minlength=groups)
    scored = np.bincount(numbers[member & side.scored[: len(numbers)]], minlength=groups)
    partial: npt.NDArray[np.bool_] = (scored > 0) & (scored < members)
    return partial
