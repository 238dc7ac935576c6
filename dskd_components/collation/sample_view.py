"""`SampleView`: the tokens of a sample as a batch has them, to look at and to compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from dskd_components.collation.reasons import UnpairedReason, UnscoredReason
from dskd_components.tokenization.drawing import Drawing, DrawnToken, visible
from dskd_components.tokenization.figure import plot_alignment
from dskd_components.tokenization.rendering import render_html, render_rich, render_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from rich.console import Console, ConsoleOptions, RenderableType

    from dskd_components.collation.reasons import Unpaired

Positions = tuple[int, ...]

LONGEST_EXCERPT: Final = 24
"""How many letters of several tokens a note has."""
MOST_RUNS: Final = 6
"""How many places a note has."""


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """One token.

    Attributes:
        position: Its place in the row, padding set aside; None for one that is cut off and in no batch.
        id: Its id.
        token: How the vocabulary writes it.
        text: What part of the text it stands for; empty if it stands for none.
        label: Its entry in the labels, which are not shifted.
        group: Its entry in the groups, -1 for none.
        unscored: Why it is not scored; None if it is.
        unpaired: Why it has no group; None if it has one.
    """

    position: int | None
    id: int
    token: str
    text: str
    label: int
    group: int
    unscored: UnscoredReason | None
    unpaired: Unpaired | None

    @property
    def scored(self) -> bool:
        """Whether it is scored."""
        return self.unscored is None

    @property
    def paired(self) -> bool:
        """Whether it has a group."""
        return self.unpaired is None


@dataclass(frozen=True)
class SideView:
    """One side's tokens.

    Attributes:
        name: The student, the teacher, or which of several teachers.
        tokens: All of them, those that are cut off last.
    """

    name: str
    tokens: tuple[TokenView, ...]

    @property
    def kept(self) -> tuple[TokenView, ...]:
        """The tokens that are in the batch."""
        return tuple(token for token in self.tokens if token.position is not None)

    @property
    def scored(self) -> tuple[TokenView, ...]:
        """The tokens that are scored."""
        return tuple(token for token in self.tokens if token.scored)

    def positions(self) -> dict[int, Positions]:
        """The positions of each group's tokens."""
        found: dict[int, list[int]] = {}
        for token in self.kept:
            if token.group >= 0 and token.position is not None:
                found.setdefault(token.group, []).append(token.position)
        return {group: tuple(positions) for group, positions in found.items()}


@dataclass(frozen=True)
class SampleView:
    """A sample as the student and one teacher read it.

    Attributes:
        form: What kind of sample it is, in words.
        alignment: How its tokens were brought together, or why they were not, in words.
        student: The student's tokens.
        teacher: The teacher's tokens.
        has_groups: Whether the batch has groups.
        cuts: Where lone tokens are drawn apart: ``(student, teacher)`` positions.
    """

    form: str
    alignment: str
    student: SideView
    teacher: SideView
    has_groups: bool
    cuts: tuple[tuple[int, int], ...] = ()

    @property
    def sides(self) -> tuple[SideView, SideView]:
        """Both sides."""
        return self.student, self.teacher

    @property
    def groups(self) -> list[tuple[Positions, Positions]]:
        """What belongs together: positions of the student and of the teacher, in the student's order."""
        students, teachers = (side.positions() for side in self.sides)
        found = [(students[group], teachers[group]) for group in students.keys() & teachers.keys()]
        return sorted(found)

    def to_text(self, *, width: int = 100) -> str:
        """Return both rows of tokens, marks for what is scored and what belongs together, and reasons.

        Args:
            width: After how many columns of a terminal the rows are broken.
        """
        return render_text(self._drawing, width=width)

    def to_html(self) -> str:
        """Return the same for a page; whatever the tokens spell is escaped."""
        return render_html(self._drawing)

    def to_dict(self) -> dict[str, Any]:
        """Return all that is known, as plain values for JSON."""
        return {
            "form": self.form,
            "alignment": self.alignment,
            **{key: _side_to_dict(side) for key, side in zip(("student", "teacher"), self.sides, strict=True)},
            "groups": [list(map(list, group)) for group in self.groups],
        }

    def plot(self, ax: Axes | None = None, *, path: str | Path | None = None) -> Axes:
        """Draw both rows and what joins them. Needs matplotlib.

        Args:
            ax: Where to draw; a new figure if left out.
            path: Where to save the figure as well.
        """
        return plot_alignment(self._drawing, ax=ax, path=path)

    def __str__(self) -> str:
        return self.to_text()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.to_html()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield render_rich(self._drawing, width=options.max_width)

    @property
    def _drawing(self) -> Drawing:
        joined, crossing, end = [], [], (0, 0)
        for student, teacher in self.groups:
            if _is_run(student) and _is_run(teacher) and student[0] >= end[0] and teacher[0] >= end[1]:
                end = student[-1] + 1, teacher[-1] + 1
                joined.append(((student[0], end[0]), (teacher[0], end[1])))
            else:
                crossing.append(_crossing(student, teacher))
        return Drawing(
            title=self._title,
            student=[_drawn(token) for token in self.student.tokens],
            teacher=[_drawn(token) for token in self.teacher.tokens],
            groups=joined,
            notes=[*([] if self.has_groups else [self.alignment]), *crossing, *self._notes()],
            names=(self.student.name, self.teacher.name),
            cuts=self.cuts,
            can_join=self.has_groups,
        )

    @property
    def _title(self) -> str:
        lines = [self.form + (f", {self.alignment}" if self.has_groups else "")]
        for side in self.sides:
            cut = len(side.tokens) - len(side.kept)
            counts = [f"{len(side.kept)} tokens", f"{len(side.scored)} scored"]
            counts += [f"{sum(token.paired for token in side.scored)} of these paired"] if self.has_groups else []
            lines.append(f"{side.name}: {', '.join(counts)}" + (f"; {cut} more are cut off" if cut else ""))
        return "\n".join(lines)

    def _notes(self) -> Iterator[str]:
        """For each side and each why, which tokens: first of those that are scored and have no partner."""
        for side in self.sides:
            runs: dict[str, list[str]] = {}
            run: list[TokenView] = []
            for number, token in enumerate(side.tokens):
                run.append(token)
                following = side.tokens[number + 1] if number + 1 < len(side.tokens) else None
                if following is None or _why(following) != _why(token):
                    runs.setdefault(_why(token), []).append(_named(run, number))
                    run = []
            runs.pop("", None)
            for why in sorted(runs, key=lambda why: not why.startswith("not paired")):
                named = runs[why]
                more = [f"{len(named) - MOST_RUNS} more"] if len(named) > MOST_RUNS else []
                yield f"{side.name}, {why}: {', '.join([*named[:MOST_RUNS], *more])}"


@dataclass(frozen=True)
class MultiTeacherSampleView:
    """A sample as the student and each of several teachers read it.

    Attributes:
        by_teacher: What the student and this teacher read, by the teacher's name.
    """

    by_teacher: Mapping[str, SampleView]

    def to_text(self, *, width: int = 100) -> str:
        """Return the views one below the other.

        Args:
            width: After how many columns of a terminal the rows are broken.
        """
        return "\n\n".join(view.to_text(width=width) for view in self.by_teacher.values())

    def to_html(self) -> str:
        """Return the same for a page."""
        return "<hr>".join(view.to_html() for view in self.by_teacher.values())

    def to_dict(self) -> dict[str, Any]:
        """Return all that is known, by teacher, as plain values for JSON."""
        return {name: view.to_dict() for name, view in self.by_teacher.items()}

    def __str__(self) -> str:
        return self.to_text()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.to_html()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for number, view in enumerate(self.by_teacher.values()):
            if number:
                yield ""
            yield view


def _is_run(positions: Positions) -> bool:
    """Whether tokens follow one another."""
    return positions[-1] - positions[0] + 1 == len(positions)


def _crossing(student: Positions, teacher: Positions) -> str:
    places = (", ".join(map(str, positions)) for positions in (student, teacher))
    return "student {} and teacher {} belong together, which is not drawn: other tokens are between".format(*places)


def _drawn(token: TokenView) -> DrawnToken:
    where = "cut off" if token.position is None else f"position {token.position}"
    said = [f"{where}, id {token.id}, {visible(token.token)}", f"group {token.group}" if token.paired else ""]
    hint = "; ".join(part for part in ("scored" if token.scored else "", *said, _why(token)) if part)
    return DrawnToken(visible(token.text or token.token), token.scored, hint)


def _why(token: TokenView) -> str:
    """Why a token is not scored or not paired; that nothing is paired at all is said once, not here."""
    unscored = token.unscored
    unpaired = None if token.unpaired is UnpairedReason.ALIGNER else token.unpaired
    if unscored is not None and unpaired is not None and str(unscored) == str(unpaired):
        return f"neither scored nor paired: {unscored}"
    parts = (("not scored", unscored), ("not paired", unpaired))
    return "; ".join(f"{what}: {reason}" for what, reason in parts if reason is not None)


def _named(run: Sequence[TokenView], last: int) -> str:
    """The places of tokens that follow one another, and what they spell."""
    text = "".join(visible(token.text or token.token) for token in run)
    shown = text if len(text) <= LONGEST_EXCERPT else text[: LONGEST_EXCERPT - 1] + "…"
    first = last - len(run) + 1
    return f"{first} '{shown}'" if len(run) == 1 else f"{first} to {last} '{shown}'"


def _side_to_dict(side: SideView) -> dict[str, Any]:
    return {"name": side.name, "tokens": [asdict(token) for token in side.tokens]}
