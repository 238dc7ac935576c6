"""The head of the page of evidence: the answer, in sentences whose every number is of the results, and its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.evidence.machines import is_complete
from benchmarks.evidence.results import RIVALS
from benchmarks.evidence.tables import (
    BY_VOCABULARIES,
    SHORT,
    base_of,
    difference,
    incomplete,
    markdown,
    of_vocabularies,
    title,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.evidence.tables import Found

OVER_TEXTS: Final = {"one": ("ce", "vanilla-kd"), "two": ("ce",)}
"""What recommended arms are held against for each number of texts."""

BRINGS: Final = {
    ("dskd", "dskd-heads"): "projectors that start from the heads instead of at random",
    ("exact-linear", "exact-heads"): "the same with two vocabularies",
    ("vanilla-kd", "dskd-vanilla"): "both spaces added to vanilla KD",
    ("strict", "exact-strict"): "both spaces added to the tokens that both vocabularies have",
    ("strict", "exact-+-hybrid-kd-0.3"): "both spaces and hybrid ULD added to the tokens that both vocabularies have",
    ("strict", "strict-T-4"): "a temperature of 4 for the tokens that both vocabularies have",
}
"""Which pairs of the ablation say what the recommended arms owe to what."""


def answer(found: Found) -> str:
    """Return what there is to know first, as a list: one line for each question that there are results for.

    Arms that are not complete are left out.

    Args:
        found: the results.
    """
    lines = [
        *(_recommended(found, name) for name in BY_VOCABULARIES),
        _texts(found),
        _others(found),
        _parts(found),
        _time(found),
        _tokens(found),
    ]
    return "\n".join(f"- {line}" for line in lines if line) or "No run is finished."


def headline(found: Found) -> str:
    """Return the tables of recommended arms, against what others offer.

    Args:
        found: the results.
    """
    parts = []
    for name, rivals in RIVALS.items():
        rows = [
            (title(setting).partition(", ")[2] + ("" if source is found else f", on {source['machine']}"), arm)
            for source in (found, *found["others"])
            for setting in of_vocabularies(source, name).values()
            for arm in setting["arms"].values()
            if arm["recommended"] and arm["mean"] is not None
        ]
        shown = [rival for rival in rivals if any(rival in arm["minus"] for _, arm in rows)]
        if rows:
            parts.append(
                markdown(
                    (BY_VOCABULARIES[name], "learned from", "nats a byte", *(f"minus {SHORT[each]}" for each in shown)),
                    (
                        (
                            texts,
                            arm["title"] + incomplete(arm),
                            f"{arm['mean']:.4f}",
                            *(difference(arm["minus"].get(each)) for each in shown),
                        )
                        for texts, arm in rows
                    ),
                )
            )
    if not parts:
        return "No arm is recommended yet."
    note = (
        "Nats a byte of test text, mean over seeds; differences are seed by seed, at equal steps, less is better. In "
        "brackets 95 %, over seeds and documents. Bold: better in every seed, and the whole interval is below 0."
    )
    if found["others"]:
        note += (
            f" Rows without a machine are of {found['machine']}. Students of two machines differ, so that only "
            "differences compare."
        )
    return "\n\n".join((*parts, note))


def _recommended(found: Found, name: str) -> str:
    """Return what the recommended arm is better than, on each machine."""
    said = []
    for source in (found, *found["others"]):
        arms = _arms(source, name)
        for arm in arms.values():
            against: dict[str, list[str]] = {"better": [], "not clear": [], "worse": []}
            for rival in RIVALS[name]:
                if arm["recommended"] and rival in arm["minus"] and rival in arms:
                    minus = arm["minus"][rival]
                    against[verdict(minus)].append(f"{SHORT[rival]} ({_percent(minus['mean'], base_of(arm, rival))})")
            parts = [
                f"{label} {_listed(rivals)}"
                for label, rivals in (
                    ("better than", against["better"]),
                    ("no clear difference to", against["not clear"]),
                    ("worse than", against["worse"]),
                )
                if rivals
            ]
            if parts:
                subject = "it" if said else arm["title"]
                where = "" if source is found else f"on {source['machine']}, with another student, "
                said.append(f"{where[:1].upper()}{where[1:]}{subject} is {'; '.join(parts)}.")
    return f"**{BY_VOCABULARIES[name]}**: {' '.join(said)}" if said else ""


def _texts(found: Found) -> str:
    """Return what the recommended arm gains where there are few texts and where there are many."""
    said = []
    for name, label in BY_VOCABULARIES.items():
        for rival in OVER_TEXTS[name]:
            steps = [
                f"{_percent(arm['minus'][rival]['mean'], base_of(arm, rival))} with {setting['texts']:,}"
                + ("" if verdict(arm["minus"][rival]) != "not clear" else " (not clear)")
                for setting in of_vocabularies(found, name).values()
                for arm in setting["arms"].values()
                if arm["recommended"] and is_complete(arm) and rival in arm["minus"]
            ]
            if len(steps) > 1:
                said.append(f"{label.lower()}, against {SHORT[rival]}: {_listed(steps)}")
    return f"**Number of texts**: {'; '.join(said)}." if said else ""


def _others(found: Found) -> str:
    """Return what others offer is worth, against cross entropy alone, each on the first machine that has it."""
    names = []
    for name, label in BY_VOCABULARIES.items():
        shown: dict[str, str] = {}
        for source in (found, *found["others"]):
            where = "" if source is found else f"on {source['machine']} "
            for rival in RIVALS[name]:
                arms = _arms(source, name)
                arm = arms.get(rival)
                if rival not in shown and arm and "ce" in arms and "ce" in arm["minus"]:
                    of = f"{SHORT[rival]} {_percent(arm['minus']['ce']['mean'], base_of(arm, 'ce'))}"
                    shown[rival], where = where + of, ""
        if shown:
            names.append(f"{label.lower()}: {_listed(shown.values())}")
    return f"**What others offer**, minus cross entropy alone: {'; '.join(names)}." if names else ""


def _parts(found: Found) -> str:
    """Return which part brings how much."""
    shown = []
    for (before, after), words in BRINGS.items():
        for pair in found["ablation"]:
            if (pair["before"], pair["after"]) == (before, after):
                shown += [
                    f"{words}, {_percent(row['minus']['mean'], row['before'])}"
                    + ("" if verdict(row["minus"]) != "not clear" else ", which is not clear")
                    for row in [row for row in pair["measured"] if row["complete"]][:1]
                ]
    return f"**[What brings it](#what-each-part-brings)**: {'; '.join(shown)}." if shown else ""


def _time(found: Found) -> str:
    """Return how much longer a step of what is recommended takes."""
    shown = []
    for name, label in BY_VOCABULARIES.items():
        for arm, of in _arms(_with_recommended(found, name), name).items():
            ratio = found["costs"][name].get(arm, {}).get("ratio")
            if of["recommended"] and ratio is not None:
                shown.append(f"{ratio:.1f} times as long with {label.lower()}")
    if not shown:
        return ""
    return (
        f"**Time**: all this is at equal steps, and a step of what is recommended takes {_listed(shown)} as one of "
        "cross entropy alone, on a CPU, with the teacher's states read from a store ([costs](#what-it-costs))."
    )


def _tokens(found: Found) -> str:
    """Return how many tokens are right."""
    shown = []
    for name, label in BY_VOCABULARIES.items():
        arms = _arms(_with_recommended(found, name), name)
        rows = [
            f"{100 * of['accuracy']:.1f} % after {of['title'] if of['recommended'] else SHORT[arm]}"
            for arm, of in arms.items()
            if (of["recommended"] or arm in ("ce", "ce-longer", "vanilla-kd")) and of["accuracy"] is not None
        ]
        if any(of["recommended"] for of in arms.values()):
            shown.append(f"{label.lower()}: {_listed(rows)}")
    return f"**Tokens right**: {'; '.join(shown)}." if shown else ""


def _with_recommended(found: Found, name: str) -> Found:
    """Return the first machine on which what is recommended is complete; the first one where it is on none."""
    machines = (found, *found["others"])
    return next((each for each in machines if any(of["recommended"] for of in _arms(each, name).values())), found)


def _arms(source: Found, name: str) -> Found:
    """Return the arms of a main setting that are complete."""
    arms = source["settings"].get(name, {"arms": {}})["arms"]
    return {arm: of for arm, of in arms.items() if is_complete(of)}


def _percent(difference: float, base: float) -> str:
    return f"{100 * difference / base:+.1f} %"


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)
