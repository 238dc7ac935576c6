"""The tables of what was found: arms beside one another, over texts, in the search, and what they cost."""

from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Found = Mapping[str, Any]

BY_VOCABULARIES: Final = {"one": "One vocabulary", "two": "Two vocabularies"}

SHORT: Final = {
    "ce": "cross entropy alone",
    "ce-longer": "cross entropy alone with 1.5 times the steps",
    "ce-same-time": "cross entropy alone with 1.15 times the steps",
    "teacher-text": "cross entropy on the teacher's text",
    "vanilla-kd": "vanilla KD",
    "vanilla-T-2": "vanilla KD at temperature 2",
    "vanilla-longer": "vanilla KD with 1.5 times the steps",
    "dskd": "DSKD as published",
    "dskd-v2": "DSKD v2 as published",
    "uld": "ULD",
    "uld-hybrid": "hybrid ULD",
    "hybrid-T-4": "hybrid ULD at temperature 4",
    "min-edit": "MinED",
    "min_edit-T-4": "MinED at temperature 4",
    "dskd-cma": "CMA as published",
}
"""Rivals, for heads of columns and, so without a comma, for lists."""

OVER_TEXTS: Final = {"one": ("ce", "vanilla-kd", "dskd-heads"), "two": ("ce", "uld-hybrid", "exact-heads")}
"""What stands beside recommended arms where the number of texts changes."""

BEST: Final = 10
"""How many ways of the search the page lists."""


def title(setting: Found) -> str:
    """Return what a setting is called.

    Args:
        setting: of the results.
    """
    over = setting["times over"]
    passes = "" if over == 1 else f", {over:.3g} times over"
    return f"{BY_VOCABULARIES[setting['vocabularies']]}, {setting['texts']:,} texts{passes}"


def of_vocabularies(found: Found, vocabularies: str) -> dict[str, Any]:
    """Return the settings with one vocabulary or with two, those with few texts first.

    Args:
        found: the results.
        vocabularies: ``"one"`` or ``"two"``.
    """
    chosen = {name: of for name, of in found["settings"].items() if of["vocabularies"] == vocabularies}
    return dict(sorted(chosen.items(), key=lambda item: item[1]["texts"]))


def over_texts(found: Found, vocabularies: str) -> dict[str, str]:
    """Return the arms, with their titles, that are shown over the number of texts.

    Args:
        found: the results.
        vocabularies: ``"one"`` or ``"two"``.
    """
    settings = of_vocabularies(found, vocabularies).values()
    titles = {arm: of["title"] for setting in settings for arm, of in setting["arms"].items()}
    times = Counter(arm for setting in settings for arm, of in setting["arms"].items() if of["recommended"])
    most = max(times.values(), default=0)
    # Those that only the main setting has would be points without a line.
    recommended = [arm for arm, count in times.items() if count > 1 or most == 1]
    return {arm: SHORT.get(arm, titles[arm]) for arm in (*OVER_TEXTS[vocabularies], *recommended) if arm in titles}


def difference(minus: Found | None) -> str:
    """Return the cell of a difference, with its interval; bold if it is surely an improvement.

    Args:
        minus: of the results; None: there is none.
    """
    if minus is None:
        return ""
    interval = minus["interval"]
    between = "" if interval is None else f" ({interval[0]:+.4f} to {interval[1]:+.4f})"
    return f"**{minus['mean']:+.4f}**{between}" if verdict(minus) == "better" else f"{minus['mean']:+.4f}{between}"


def verdict(minus: Found) -> str:
    """Return ``"better"`` or ``"worse"`` where every seed and the whole interval say so, else ``"not clear"``.

    Args:
        minus: a difference, of the results.
    """
    low, high = minus["interval"] or (float("-inf"), float("inf"))
    if max(minus["to"], high) < 0:
        return "better"
    return "worse" if min(minus["from"], low) > 0 else "not clear"


def base_of(arm: Found, rival: str) -> float:
    """Return nats a byte of what is subtracted from an arm, over the seeds that both have.

    Args:
        arm: of the results.
        rival: of its differences.
    """
    minus = arm["minus"][rival]
    return fmean(arm["test"][seed] for seed in minus["seeds"]) - float(minus["mean"])


def texts_table(found: Found) -> str:
    """Return the tables of what a teacher brings over the number of texts.

    Args:
        found: the results.
    """
    parts = []
    for name in BY_VOCABULARIES:
        settings = {key: of for key, of in of_vocabularies(found, name).items() if "ce" in of["arms"]}
        arms = over_texts(found, name)
        if settings:
            rows = (
                (title(of).partition(", ")[2], *(_over_texts(of["arms"].get(arm)) for arm in arms))
                for of in settings.values()
            )
            parts.append(markdown((BY_VOCABULARIES[name], *arms.values()), rows))
    note = (
        "Nats a byte of test text, mean over seeds; in brackets the seeds' differences to cross entropy alone, in %: "
        "mean and range."
    )
    return "\n\n".join((*parts, note)) if parts else "No run is finished."


def _over_texts(arm: Found | None) -> str:
    if arm is None or arm["mean"] is None:
        return ""
    minus = arm["minus"].get("ce")
    if minus is None:
        return f"{arm['mean']:.4f}"
    base = base_of(arm, "ce") / 100
    return f"{arm['mean']:.4f} ({minus['mean'] / base:+.2f}: {minus['from'] / base:+.2f} to {minus['to'] / base:+.2f})"


def table(setting: Found, found: Found) -> str:
    """Return the table of a setting, the best arm first, with teacher and student as they are.

    Args:
        setting: of the results.
        found: the results.
    """
    own = found["costs"][setting["vocabularies"]]
    arms = sorted(setting["arms"].items(), key=lambda item: _place(*item))
    if not arms:
        return "No run is finished."
    rows = [_row(arm, own.get(name)) for name, arm in arms]
    for name, label in ((setting["vocabularies"], "*the student before*"), ("teacher", "*the teacher*")):
        if name in found["baselines"]:
            test = found["baselines"][name]["test"]
            # Shares of tokens compare where tokens are the same ones.
            right = "" if name == "teacher" and setting["vocabularies"] == "two" else f"{100 * test['accuracy']:.2f} %"
            rows.append((label, f"{test['nats_per_byte']:.4f}", "", "", right, "", ""))
    return markdown(
        (
            "learned from",
            "nats a byte, test",
            "minus cross entropy alone, seed by seed",
            "95 %",
            "tokens right",
            "rate",
            "seconds a step",
        ),
        rows,
    )


def _place(name: str, arm: Found) -> tuple[bool, float]:
    """Return what a table is sorted by: the difference to cross entropy alone, since not all arms have equal seeds."""
    if name == "ce":
        return False, 0.0
    against = arm["minus"].get("ce")
    return (True, 0.0) if against is None else (False, against["mean"])


def _row(arm: Found, cost: Found | None) -> tuple[str, ...]:
    against = arm["minus"].get("ce")
    seeds, interval = "", ""
    if against is not None:
        seeds = ", ".join(f"{value:+.4f}" for value in against["seeds"].values())
        if against["interval"] is not None:
            interval = "{:+.4f} to {:+.4f}".format(*against["interval"])
    mean, right = (
        ("no number any more", "") if arm["mean"] is None else (f"{arm['mean']:.4f}", f"{100 * arm['accuracy']:.2f} %")
    )
    name = f"**{arm['title']}**" if arm["recommended"] else arm["title"]
    return name + incomplete(arm), mean, seeds, interval, right, f"{arm['lr']:.2g}", _cost(cost)


def incomplete(arm: Found) -> str:
    """Return what an arm still lacks.

    Args:
        arm: of the results.
    """
    seeds = len(arm["test"])
    notes = [
        *([f"{seeds} seed{'s' * (seeds != 1)} so far"] if arm["seeds missing"] else []),
        *(["rate not tuned yet"] if not arm["tuned"] else []),
        *([f"given up in seed {', '.join(map(str, arm['given up']))}"] if arm["given up"] else []),
    ]
    return f" *({'; '.join(notes)})*" if notes else ""


def _cost(cost: Found | None) -> str:
    if cost is None:
        return ""
    return f"{cost['seconds']:.2f}" + ("" if cost["ratio"] is None else f" (x {cost['ratio']:.2f})")


def search_table(found: Found) -> str:
    """Return what the search has found, its best ways by name.

    Args:
        found: the results.
    """
    parts = _ways(found["search"], BEST)
    for other in found["others"]:
        there = _ways(other["search"], len(other["search"]))
        if there:
            parts += [f"On {other['machine']}, with another student, and all that is compared there:", *there]
    return (
        "\n\n".join((*parts, "An asterisk: higher or lower rates are not tried yet."))
        if parts
        else "Nothing is searched yet."
    )


def _ways(rows: Sequence[Found], most: int) -> list[str]:
    """Return for one machine the ways that are best."""
    parts = []
    for name, label in BY_VOCABULARIES.items():
        own = [row for row in rows if row["setting"] == name and row["minus ce"] is not None]
        if not own:
            continue
        better = [row for row in own if row["minus ce"] < 0]
        base = next((row["dev"] for row in own if row["arm"] == "ce"), None)
        parts.append(
            f"{label}: {len(own)} ways, {sum(len(row['rates']) for row in own)} runs with one seed; better than cross "
            f"entropy alone: {len(better)}"
            + ("" if base is None else f" ({base:.4f} nats a byte, dev)")
            + f". The best {min(most, len(own))}:"
        )
        parts.append(
            markdown(
                ("way", "dev, minus cross entropy alone", "rate", "rates tried"),
                (
                    (
                        f"`{row['title']}`",
                        f"{row['minus ce']:+.4f}",
                        f"{row['lr']:.2g}" + "*" * (not row["tuned"]),
                        str(len(row["rates"])),
                    )
                    for row in own[:most]
                ),
            )
        )
    return parts


def costs_table(found: Found) -> str:
    """Return what a step of each arm costs, the cheapest first.

    Args:
        found: the results.
    """
    costs = found["costs"]
    parts = []
    for name, label in BY_VOCABULARIES.items():
        titles = {
            arm: of["title"]
            for source in (*found["others"], found)
            for setting in of_vocabularies(source, name).values()
            for arm, of in setting["arms"].items()
        }
        if costs[name]:
            parts.append(
                markdown(
                    (label, "seconds a step", "times cross entropy alone"),
                    (
                        (
                            titles.get(arm, f"`{arm}`"),
                            f"{cost['seconds']:.3f}",
                            "" if cost["ratio"] is None else f"{cost['ratio']:.2f}",
                        )
                        for arm, cost in sorted(costs[name].items(), key=lambda item: float(item[1]["seconds"]))
                    ),
                )
            )
    timed = (f"On one thread of {costs['machine']}.", *parts) if parts else ("No step is timed yet.",)
    return "\n\n".join((*timed, *_writing(found["written"])))


def _writing(written: Found | None) -> tuple[str, ...]:
    if written is None:
        return ()
    seconds, texts = written["seconds"], written["texts"]
    return (
        f"The teacher's text, written once for all runs: {texts:,} texts, {written['bytes']:,} bytes, {seconds:,.0f} "
        f"seconds, {seconds / texts:.2f} a text, on {written['machine']}.",
    )


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table.

    Args:
        head: of the columns.
        rows: of cells.
    """
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
