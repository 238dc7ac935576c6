"""The page of evidence: what is said of the experiment itself, and where each table stands."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.evidence.ablation_page import ablation_tables
from benchmarks.evidence.answer import answer, headline
from benchmarks.evidence.machines import all_tables, state
from benchmarks.evidence.tables import (
    BY_VOCABULARIES,
    costs_table,
    markdown,
    of_vocabularies,
    search_table,
    texts_table,
    title,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from benchmarks.evidence.tables import Found


MEANING: Final = {
    "projected loss": "{:.2f}",
    "projected right": "{:.1%}",
    "student loss": "{:.2f}",
    "student right": "{:.1%}",
    "aligned": "{:.1%}",
    "neighbours": "{:.1%}",
    "round trip": "{:.1%}",
    "cosine": "{:.3f}",
    "inner product": "{:.2e}",
    "cka": "{:.3f}",
}
"""The columns of the tables of meaning, by the names of their numbers."""


def meaning_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of what projections keep.

    Args:
        rows: by arm, or ``start`` and ``random``.
    """
    if not rows:
        return "Not measured yet."
    titles = {"start": "*before training, from the heads*", "random": "*before training, random*"}
    lines = [f"| after | {' | '.join(MEANING)} |", "|---" * (1 + len(MEANING)) + "|"]
    for name, row in rows.items():
        cells = [form.format(row[key]) if key in row else "" for key, form in MEANING.items()]
        lines.append(f"| {titles.get(name, f'`{name}`')} | {' | '.join(cells)} |")
    one = next(iter(rows.values()))
    lines += [
        "",
        f"The teacher itself: {one['teacher loss']:.2f} nats a token, {one['teacher right']:.1%} right, at the same "
        f"{one['positions']:,.0f} positions.",
    ]
    return "\n".join(lines)


def plan_facts(found: Found) -> str:
    """Return the numbers of the experiment.

    Args:
        found: the results.
    """
    plan = found["plan"]
    more = ", ".join(map(str, plan["more_seeds"]))
    steps = {
        name: plan["plentiful_steps"] if name.startswith("plentiful") else plan["steps"] for name in found["settings"]
    }
    rows = (
        (
            title(of),
            f"{plan['texts'][name]:,}",
            f"{steps[name]:,}",
            f"{plan['first_lr'][name]:g}",
            f"{plan['projector_lr'][name]:g}",
        )
        for vocabularies in BY_VOCABULARIES
        for name, of in of_vocabularies(found, vocabularies).items()
    )
    return "\n".join(
        (
            f"- Texts of at most {plan['chunk_bytes']} bytes: {plan['dev_texts']} for choosing rates, "
            f"{plan['test_texts']} for comparing arms.",
            f"- Vocabularies of {plan['vocabulary']:,} tokens; layers {', '.join(map(str, plan['layers']))} of the "
            "teacher make the student.",
            f"- Students are healed by {plan['heal_steps']:,} steps of {plan['batch_size']} texts, at a peak rate of "
            f"{plan['heal_lr']:g}.",
            f"- A run takes steps of {plan['batch_size']} texts. Rates rise over {100 * plan['warm_up']:g} % of the "
            "steps, then fall to zero.",
            f"- Seeds {', '.join(map(str, plan['seeds']))}" + (f"; {more} besides for some arms." if more else "."),
            f"- Rates are tried by factors of 2, at most {plan['farthest']} of them away from the first one.",
            "",
            markdown(("setting", "drawn from", "steps", "first rate tried", "projectors' rate"), rows),
        )
    )


PICTURES: Final = {
    "gains": {"evidence_gains.png": "Every arm against cross entropy alone"},
    "ablation": {"evidence_ablation.png": "What each part changes in the test loss, pair by pair"},
    "texts": {"evidence_texts.png": "Loss and gain over the number of training texts"},
    "curves": {"evidence_curves.png": "Difference to cross entropy alone over the steps"},
    "search": {
        "evidence_search_one.png": "Every way of the search with one vocabulary",
        "evidence_search_two.png": "Every way of the search with two vocabularies",
    },
}
"""What stands in each place, where it was drawn, and what is said of it to those who do not see it."""


def places(found: Found, drawn: Collection[str]) -> dict[str, str]:
    """Return what goes between the comments of the page, by their names.

    Args:
        found: the results.
        drawn: the names of the pictures that there are.
    """
    tables = {
        "answer": answer(found),
        "headline": headline(found),
        "ablation": ablation_tables(found),
        "texts": texts_table(found),
        "tables": all_tables(found),
        "search": search_table(found),
        "plan": plan_facts(found),
        "state": state(found),
        **{f"meaning {name}": meaning_table(found["meaning"].get(name, {})) for name in BY_VOCABULARIES},
        "costs": costs_table(found),
    }
    pictures = {
        name: [f"![{alt}](../images/{file})" for file, alt in files.items() if file in drawn]
        for name, files in PICTURES.items()
    }
    return {
        name: "\n\n".join((*pictures.get(name, ()), *([tables[name]] if name in tables else ())))
        for name in (*tables, *(name for name in PICTURES if name not in tables))
    }


def fill(page: Path, found: Found, drawn: Collection[str]) -> None:
    """Write tables and pictures into the page, between the comments ``<!-- NAME -->`` and ``<!-- end -->``.

    Args:
        page: the page.
        found: the results.
        drawn: the names of the pictures that there are.

    Raises:
        SystemExit: the page has no place for something.
    """
    fill_places(page, places(found, drawn))


def fill_places(page: Path, parts: Mapping[str, str]) -> None:
    """Write texts into a page, each between the comments ``<!-- NAME -->`` and ``<!-- end -->``.

    Args:
        page: the page.
        parts: by name.

    Raises:
        SystemExit: the page has no place for one.
    """
    text = page.read_text(encoding="utf-8")
    for name, content in parts.items():
        text, times = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            partial(_between, content),
            text,
            flags=re.DOTALL,
        )
        if not times:
            raise SystemExit(f"{page}: expected a place for '{name}': <!-- {name} --> and, below, <!-- end -->.")
    page.write_text(text, encoding="utf-8")


def _between(content: str, match: re.Match[str]) -> str:
    return f"{match[1]}\n{content}\n\n{match[2]}" if content else f"{match[1]}{match[2]}"
