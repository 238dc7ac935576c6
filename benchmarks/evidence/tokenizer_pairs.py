"""What aligners find between every two of many real tokenizers: ``python -m benchmarks.evidence.tokenizer_pairs``.

The bytes that tokens stand for are the truth. How much of a text exact pairs cover, how many tokens a group of spans
has, and how many of the pairs that warping over edit distances makes are true, and how many true ones it finds.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from benchmarks.alignment import machine
from benchmarks.evidence.attention_pairs import Sizes, Texts, tokenizer_of
from benchmarks.evidence.page import fill_places
from dskd_components.preflight import SAMPLE_TEXTS
from dskd_components.tokenization import tokenize_batch_with_spans
from dskd_components.tokenization.min_edit import warped_groups
from dskd_components.tokenization.span_groups import exact_match_pairs, span_groups
from examples.offline.tokenizers import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dskd_components.tokenization.byte_spans import TokenizedText

OF_FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {**FAMILIES, "bytes": ("bytes",)}

FAMILY_OF: Final = {name: family for family, names in OF_FAMILIES.items() for name in names}

SIZES: Final = Sizes(chunk_bytes=1024, train=0, measured=40)

COUNTS: Final = (
    "bytes",
    "exact bytes",
    "exact",
    "groups",
    "student tokens",
    "teacher tokens",
    "warped",
    "right",
    "same",
)


def texts(sizes: Sizes) -> dict[str, Sequence[str]]:
    """Return the texts by kind.

    Args:
        sizes: how many, and how long.
    """
    return {**Texts.load(sizes).measured, "several scripts": SAMPLE_TEXTS}


def counted(students: Sequence[TokenizedText], teachers: Sequence[TokenizedText]) -> dict[str, int]:
    """Count what aligners find in some texts, tokens of templates left out.

    Args:
        students: each text by one tokenizer.
        teachers: the same by the other.

    Returns:
        ``bytes`` of the texts, and of them ``exact bytes``, those of student tokens in exact pairs; ``exact`` pairs;
        ``groups`` of spans; both sides' tokens; ``warped``: pairs of one token each that warping makes, of which
        ``right`` are exact pairs; ``same``: exact pairs of tokens with the same number.
    """
    found = dict.fromkeys(COUNTS, 0)
    for student, teacher, warped in zip(students, teachers, warped_groups(students, teachers), strict=True):
        exact = exact_match_pairs(student, teacher)
        exact = exact[student.cores[exact[:, 0]] >= 0]
        own = _in_text(span_groups(student, teacher), student)
        singles = _in_text(warped, student)
        singles = singles[(singles[:, 1] - singles[:, 0] == 1) & (singles[:, 3] - singles[:, 2] == 1)]
        true = set(map(tuple, exact.tolist()))
        first = student.text_tokens.start - teacher.text_tokens.start
        lengths = student.ends[exact[:, 0]] - student.starts[exact[:, 0]]
        numbers = (
            len(student.data),
            int(lengths.sum()),
            len(true),
            len(own),
            student.text_tokens.stop - student.text_tokens.start,
            teacher.text_tokens.stop - teacher.text_tokens.start,
            len(singles),
            sum((one, other) in true for one, other in singles[:, [0, 2]].tolist()),
            sum(one - other == first for one, other in true),
        )
        for name, number in zip(COUNTS, numbers, strict=True):
            found[name] += number
    return found


def _in_text(groups: np.ndarray[Any, Any], student: TokenizedText) -> np.ndarray[Any, Any]:
    span = student.text_tokens
    kept: np.ndarray[Any, Any] = groups[(groups[:, 0] >= span.start) & (groups[:, 1] <= span.stop)]
    return kept


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the shares of a pair.

    Args:
        counts: of `counted`.

    Returns:
        ``exact``: of the text's bytes, what exact pairs cover; ``size``: tokens of the larger side in a group of spans;
        ``precision`` and ``recall`` of warping; ``positional``: of the exact pairs, those of tokens with one number.
    """
    return {
        "exact": counts["exact bytes"] / counts["bytes"],
        "size": max(counts["student tokens"], counts["teacher tokens"]) / max(1, counts["groups"]),
        "precision": counts["right"] / max(1, counts["warped"]),
        "recall": counts["right"] / max(1, counts["exact"]),
        "positional": counts["same"] / max(1, counts["exact"]),
    }


def measure(names: Sequence[str], of_kind: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Count for every two tokenizers and every kind of text.

    Args:
        names: of the tokenizers.
        of_kind: the texts.
    """
    tokenized = {
        (name, kind): tokenize_batch_with_spans(tokenizer_of(name), list(chunks))
        for name in track(names, description="tokenizers")
        for kind, chunks in of_kind.items()
    }
    return [
        {"student": one, "teacher": other, "texts": kind, **counted(tokenized[one, kind], tokenized[other, kind])}
        for one, other in track(list(combinations(names, 2)), description="pairs")
        for kind in of_kind
    ]


def summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the sums of some rows' counts.

    Args:
        rows: of `measure`.
    """
    return {name: sum(row[name] for row in rows) for name in COUNTS}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw two maps of all pairs: what exact pairs cover, and how many of warping's pairs are true.

    Args:
        rows: of `measure`.
        path: the PNG.
    """
    names = [name for name in FAMILY_OF if any(name in (row["student"], row["teacher"]) for row in rows)]
    figure = Figure(figsize=(15, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {
        "exact": "Bytes of the texts in exact pairs (%)",
        "precision": "min_edit: pairs of one token each that are true (%)",
    }
    for ax, (number, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        values = np.full((len(names), len(names)), np.nan)
        for one, other in combinations(range(len(names)), 2):
            pair = {names[one], names[other]}
            of_pair = [row for row in rows if {row["student"], row["teacher"]} == pair]
            values[one, other] = values[other, one] = 100 * shares(summed(of_pair))[number]
        image = ax.imshow(values, cmap="YlGnBu", vmin=0, vmax=100)
        for one, other in np.argwhere(~np.isnan(values)):
            dark = values[one, other] > 60
            ax.text(
                other,
                one,
                f"{values[one, other]:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if dark else "black",
            )
        labels = [f"{name} ({FAMILY_OF[name]})" if name != "bytes" else name for name in names]
        ax.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=9)
        ax.set_yticks(range(len(names)), labels if number == "exact" else names, fontsize=9)
        ax.set_title(title, fontsize=11)
        figure.colorbar(image, ax=ax, fraction=0.045, pad=0.02)
    figure.savefig(path, dpi=90)


def by_family(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table with a row for every two families, in Markdown.

    Args:
        rows: of `measure`.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((FAMILY_OF[row["student"]], FAMILY_OF[row["teacher"]]), []).append(row)
    return _table("families", {f"{one}, {other}": of_pair for (one, other), of_pair in groups.items()})


def by_kind(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table with a row for each kind of text, in Markdown.

    Args:
        rows: of `measure`.
    """
    kinds = dict.fromkeys(row["texts"] for row in rows)
    return _table("texts, all pairs", {kind: [row for row in rows if row["texts"] == kind] for kind in kinds})


def _table(title: str, groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    head = ("bytes in exact pairs", "tokens in a span", "`min_edit` precision", "recall", "same number")
    lines = [f"| {title} | pairs | {' | '.join(head)} |", "|---" * (2 + len(head)) + "|"]
    for name, of_group in groups.items():
        found = shares(summed(of_group))
        pairs = len({(row["student"], row["teacher"]) for row in of_group})
        cells = [f"{found['exact']:.0%}", f"{found['size']:.2f}"]
        cells += [f"{found[number]:.0%}" for number in ("precision", "recall", "positional")]
        lines.append(f"| {name} | {pairs} | {' | '.join(cells)} |".replace("%", " %"))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print the tables, and write results, picture and page.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("output/tokenizer_pairs"), help="of results and picture")
    parser.add_argument("--quick", action="store_true", help="three tokenizers and few texts, in seconds")
    parser.add_argument("--publish", type=Path, help="a checkout, whose page, picture and results are renewed")
    options = parser.parse_args(arguments)
    names = ("llama2", "bert", "bytes") if options.quick else tuple(FAMILY_OF)
    sizes = Sizes(chunk_bytes=256, max_documents=24, train=0, measured=4) if options.quick else SIZES
    rows = measure(names, texts(sizes))
    checkout = options.publish
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / "tokenizer_pairs.json"
    if checkout is not None:
        file = checkout / "benchmarks/results/tokenizer_pairs.json"
    file.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    draw(rows, (options.folder if checkout is None else checkout / "docs/images") / "tokenizer_pairs.png")
    tables = {"tokenizers": by_family(rows), "texts": by_kind(rows)}
    Console().print("\n\n".join(tables.values()))
    if checkout is not None:
        fill_places(checkout / "docs/explanation/alignment-accuracy.md", tables)


if __name__ == "__main__":
    main()
