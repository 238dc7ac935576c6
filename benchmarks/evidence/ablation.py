"""What one part of a method brings: pairs of arms that differ in it, and the difference of what they reach."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.evidence.plan import Run
from benchmarks.evidence.search import arm_of, title_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.evidence.arms import Arm
    from benchmarks.evidence.folder import Folder
    from benchmarks.evidence.plan import SettingName


@dataclass(frozen=True)
class Pair:
    """Two arms of a setting that differ in one thing, as far as there are such.

    Args:
        part: what they differ in.
        setting: the setting.
        before: the arm without it, or with the usual one.
        after: the arm with it.
        through: an arm between the two. A folder that has it shows both steps instead.
    """

    part: str
    setting: SettingName
    before: str
    after: str
    through: str | None = None

    @property
    def steps(self) -> tuple[Pair, ...]:
        """The pair, or, with an arm between, the two that it is made of."""
        if self.through is None:
            return (self,)
        return (
            Pair(self.part, self.setting, self.before, self.through),
            Pair(self.part, self.setting, self.through, self.after),
        )


DISTANCES: Final = ("reverse_kl", "js", "skew_kl", "skew_reverse_kl", "adaptive_kl")

PAIRS: Final = (
    Pair("projectors", "one", "dskd", "dskd-heads"),
    Pair("projectors", "two", "exact-linear", "exact-heads"),
    Pair("alignment", "two", "dskd-cma", "exact-linear"),
    Pair("alignment", "two", "cma-shared", "exact-heads"),
    Pair("alignment", "two", "dskd-cma", "kq"),
    Pair("alignment", "two", "span-heads", "exact-heads"),
    Pair("alignment", "two", "min-edit", "strict"),
    Pair("alignment", "two", "min_edit-T-4", "strict-T-4"),
    Pair("spaces", "one", "teacher-space", "dskd-heads"),
    Pair("spaces", "two", "teacher-space", "exact-strict", through="exact-heads"),
    Pair("spaces", "one", "dskd-heads", "dskd-vanilla"),
    Pair("spaces", "two", "exact-heads", "exact-+-hybrid-kd-0.3", through="exact-+-hybrid"),
    Pair("spaces", "one", "vanilla-kd", "dskd-vanilla"),
    Pair("spaces", "two", "strict", "exact-+-hybrid-kd-0.3", through="exact-strict"),
    Pair("temperature", "two", "strict", "strict-T-4"),
    Pair("temperature", "two", "strict", "shared-T-2"),
    Pair("temperature", "two", "min-edit", "min_edit-T-4"),
    Pair("temperature", "two", "uld-hybrid", "hybrid-T-4"),
    Pair("temperature", "one", "vanilla-kd", "vanilla-T-2"),
    Pair("temperature", "one", "dskd-vanilla", "dskd-+-vanilla-T-2"),
    Pair("temperature", "two", "exact-+-hybrid-kd-0.3", "strict-T-4"),
    Pair("version", "one", "dskd-heads", "dskd-v2"),
    Pair("version", "two", "dskd-cma", "dskd-v2-eta"),
    *(Pair("distance", "one", "dskd-heads", f"dskd-{name}") for name in DISTANCES),
)
"""What the page of evidence compares, by what the arms differ in."""

PROJECTED: Final = {"t2s_projector": "student", "s2t_projector": "teacher"}
"""Which space reads which projector."""


def ablation(folders: Mapping[str, Folder]) -> list[dict[str, Any]]:
    """Return each pair of arms, and what changes from the first to the second.

    Args:
        folders: by the name of the machine; each difference is of arms of one of them.

    Returns:
        For each pair, ``measured`` has a row for each folder that has both arms: the difference on the test texts, over
        the seeds that both arms have, each at its own best rate. A pair that no folder has is in the list, too, and so
        are steps of one, unless the pair as a whole is known.
    """
    measured: dict[Pair, list[dict[str, Any]]] = {}
    for pair in PAIRS:
        found: dict[Pair, list[dict[str, Any]]] = {}
        for machine, folder in folders.items():
            rows = {step: row for step in pair.steps if (row := _difference(folder, step))}
            if len(rows) < len(pair.steps) and (whole := _difference(folder, pair)):
                rows[pair] = whole
            for step, row in rows.items():
                found.setdefault(step, []).append({"machine": machine, **row})
        for step in found if pair in found else dict.fromkeys((*pair.steps, *found)):
            measured.setdefault(step, []).extend(found.get(step, []))
    return [
        {
            **{name: getattr(pair, name) for name in ("part", "setting", "before", "after")},
            "titles": [title_of(pair.setting, arm) for arm in (pair.before, pair.after)],
            "changes": changes(*(arm_of(Run(pair.setting, arm, 0.0, 0)) for arm in (pair.before, pair.after))),
            "measured": rows,
        }
        for pair, rows in measured.items()
    ]


def _difference(folder: Folder, pair: Pair) -> dict[str, Any] | None:
    """Return what changes in one folder; None: it has not both arms, with a seed that is finished in both."""
    arms = (pair.before, pair.after)
    minus = folder.minus(pair.setting, pair.after, pair.before)
    if minus is None:
        return None
    before = folder.ends(pair.setting, pair.before)
    return {
        "minus": minus,
        "before": statistics.fmean(before[int(seed)]["nats_per_byte"] for seed in minus["seeds"]),
        "rates": [folder.at_best_rate(pair.setting, arm)[0] for arm in arms],
        "complete": all(folder.tuned(pair.setting, arm) for arm in arms)
        and {str(seed) for seed in folder.plan.seeds} <= minus["seeds"].keys(),
    }


def changes(before: Arm, after: Arm) -> list[str]:
    """Return in what two arms differ, as their specs and their training say it.

    Args:
        before: the arm.
        after: another one of the same setting.
    """
    was, now = (arm.spec.model_dump(mode="json") for arm in (before, after))
    of_before, of_after = ({space["name"]: space for space in spec["spaces"]} for spec in (was, now))
    found = [
        *(f"space `{name}` added" for name in of_after if name not in of_before),
        *(f"space `{name}` left out" for name in of_before if name not in of_after),
    ]
    both = [name for name in of_before if name in of_after]
    # What no common space reads says nothing; a space that is added brings what it needs.
    read = [name for name, space in PROJECTED.items() if space in both]
    for name in ("aligner", *read):
        found += _changed(name, was[name], now[name])
    for name in both:
        own, other = (
            {"distance": spec["distance"], **_given(of[name])} for spec, of in ((was, of_before), (now, of_after))
        )
        found += _changed("distance", own.pop("distance"), other.pop("distance"))
        found += _changed(name, own, other)
    others = was.keys() - {"spaces", "distance", "aligner", "engine", *PROJECTED}
    for name in sorted(others):
        found += _options(was[name], now[name], f"`{name}`")
    for name in ("projector_lr", "held", "longer"):
        found += _options(getattr(before, name), getattr(after, name), f"`{name}` of training")
    return list(dict.fromkeys(found))


def _given(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return a space without a distance of its own where it has that of the spec."""
    return {name: value for name, value in space.items() if name != "distance" or value is not None}


def _changed(what: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how a component differs: one of another name is another one, whatever its options are."""
    if was["name"] != now["name"]:
        return _options(was["name"], now["name"], f"`{what}`")
    names = dict.fromkeys((*was, *now))
    return [each for name in names for each in _options(was.get(name), now.get(name), f"`{what}.{name}`")]


def _options(was: Any, now: Any, what: str) -> list[str]:
    return [] if was == now else [f"{what}: `{was}` to `{now}`"]
