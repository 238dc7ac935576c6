"""What the page says of arms setting by setting, on the first machine and on others, and of what is complete where."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.evidence.tables import BY_VOCABULARIES, markdown, of_vocabularies, table, title

if TYPE_CHECKING:
    from benchmarks.evidence.tables import Found


def all_tables(found: Found) -> str:
    """Return a heading and the tables of each setting that has runs, the two main ones first.

    Args:
        found: the results.
    """
    settings = [name for kind in BY_VOCABULARIES for name in of_vocabularies(found, kind)]
    parts = []
    for name in sorted(settings, key=lambda name: name not in BY_VOCABULARIES):
        own, others = found["settings"][name], [other for other in found["others"] if name in other["settings"]]
        if own["arms"] or others:
            parts.append(f"### {title(own)}")
        if own["arms"]:
            parts.append(table(own, found))
        for other in others:
            # A step costs the same wherever runs are made: costs are measured apart from them.
            there = {**other, "costs": found["costs"]}
            parts += [
                f"The same on {other['machine']}, where the student was healed again and is another one. Differences "
                "are to what was trained there:",
                table(other["settings"][name], there),
                *agreement(found, other, name),
            ]
    return "\n\n".join(parts) if parts else "No run is finished."


def agreement(found: Found, other: Found, name: str) -> list[str]:
    """Return in words and as a table how far the differences of two machines agree; nothing if no arm is on both.

    Args:
        found: the results.
        other: one of its ``others``.
        name: the setting.
    """
    both = [source["settings"][name]["arms"] for source in (found, other)]
    rows = []
    for arm in both[0]:
        minus = [arms[arm]["minus"].get("ce") if arm in arms else None for arms in both]
        if None in minus:
            continue
        seeds = sorted(set.intersection(*(set(each["seeds"]) for each in minus)))
        if seeds:
            rows.append(
                (both[0][arm]["title"], *(fmean(each["seeds"][seed] for seed in seeds) for each in minus), seeds)
            )
    if not rows:
        return []
    machines = (found["machine"], other["machine"])
    alike = sum(ours * theirs > 0 for _, ours, theirs, _ in rows)
    farthest = max(abs(ours - theirs) for _, ours, theirs, _ in rows)
    return [
        f"How far {machines[0]} and {machines[1]} agree, over the seeds that both have, each with the same texts on "
        f"both: for {alike} of {len(rows)} arms the difference to cross entropy alone has the same sign, and for all "
        f"it is at most {farthest:.4f} apart.",
        markdown(
            ("minus cross entropy alone", *machines, "seeds"),
            ((name, f"{ours:+.4f}", f"{theirs:+.4f}", ", ".join(seeds)) for name, ours, theirs, seeds in rows),
        ),
    ]


def state(found: Found) -> str:
    """Return where the runs were made, and what is complete and what is not.

    Args:
        found: the results.
    """
    machines = (found, *found["others"])
    made_on = [("compared", source["made on"]) for source in machines]
    searched_on = [("searched", source["searched on"]) for source in machines]
    lines = [
        f"- {kind}: {row['runs']:,} runs on {row['machine']}, {row['hours']:.1f} hours of training, summed over runs"
        + (", several of which share the GPU." if "NVIDIA" in row["machine"] else ".")
        for kind, rows in (*made_on, *searched_on)
        for row in rows
    ]
    if not found["intervals"]:
        lines.append("- The texts are not at hand, so that there are no intervals.")
    seeds = len(found["plan"]["seeds"])
    lines += ["", f"An arm is complete with its rate tuned and {seeds} seeds.", ""]
    for name, setting in found["settings"].items():
        parts = _progress(setting["arms"])
        there = set()
        for other in found["others"]:
            arms = other["settings"].get(name, {"arms": {}})["arms"]
            there |= arms.keys()
            parts += [f"on {other['machine']} {part}" for part in _progress(arms)]
        missing = [arm for arm in setting["not begun"] if arm not in there]
        if missing:
            parts.append(f"not begun: {_listed(missing)}")
        if parts:
            lines.append(f"- {title(setting)}: {'; '.join(parts)}.")
    return "\n".join(lines)


def is_complete(arm: Found) -> bool:
    """Return whether an arm's rate is tuned, and all seeds that every arm has are finished.

    Args:
        arm: of the results.
    """
    return bool(arm["tuned"] and not arm["seeds missing"])


def _progress(arms: Found) -> list[str]:
    whole = [arm for arm, of in arms.items() if is_complete(of)]
    partly = [arm for arm in arms if arm not in whole]
    return [f"{label} {_listed(some)}" for label, some in (("complete:", whole), ("begun:", partly)) if some]


def _listed(arms: list[str]) -> str:
    return ", ".join(f"`{arm}`" for arm in arms)
