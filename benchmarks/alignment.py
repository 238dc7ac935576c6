"""What alignment costs, as ratios taken in one run: ``python -m benchmarks.alignment``.

Three questions, for four pairs of real tokenizers (``tests/tokenizer-packages.txt``) on texts of 200 to 600
tokens: how much faster `min_edit_paths` is than dynamic time warping cell by cell, how much faster exact match
is than walking two lists of strings, and how much alignment adds to tokenizing both sides. `min_edit_paths` is
given all texts of a pair in one call, as whoever makes batches has them; beside it stands what the same texts
take one call each.
"""

import argparse
import json
import os
import platform
import pydoc_data.topics
import re
import statistics
import time
from collections.abc import Callable, Sequence, Sized
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.table import Table

from dskd_components.tokenization.byte_spans import tokenize_batch_with_spans
from dskd_components.tokenization.fast_tokenizers import encode_batch
from dskd_components.tokenization.min_edit import min_edit_path, min_edit_paths
from dskd_components.tokenization.span_groups import exact_match_pairs
from examples.offline.tokenizers import LOADERS

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # everything is timed on one thread
PAIRS = (("gpt2", "qwen"), ("llama2", "mistral"), ("gpt2", "mistral"), ("llama2", "qwen"))
MARKERS = {"gpt2": "Ġ", "qwen": "Ġ", "llama2": "▁", "mistral": "▁"}
LENGTHS = (900, 1400, 2000)
"""Lengths of the texts in characters: about 200, 350 and 500 tokens."""


def texts(kind: str) -> list[str]:
    """Texts of the Python manual: ``prose`` with lines joined and code left out, or ``manual`` as it is."""
    chosen: list[str] = []
    for topic in pydoc_data.topics.topics.values():
        if kind == "prose":
            paragraphs = [part for part in topic.split("\n\n") if not part.startswith((" " * 5, "*", "   >>>"))]
            topic = "\n\n".join(re.sub(r"\s+", " ", part).strip() for part in paragraphs)
        if len(topic) > max(LENGTHS) + 300:
            length = LENGTHS[len(chosen) % len(LENGTHS)]
            chosen.append(topic[300 : 300 + length])
    return chosen[:6]


def warp_cell_by_cell(student: list[str], teacher: list[str], student_marker: str, teacher_marker: str) -> float:
    """Plain dynamic time warping, one edit distance a cell, on a matrix."""
    matrix = np.full((len(student) + 1, len(teacher) + 1), np.inf)
    matrix[0, 0] = 0
    for i, one in enumerate(student):
        for j, other in enumerate(teacher):
            cost = Levenshtein.distance(one.replace(student_marker, ""), other.replace(teacher_marker, ""))
            matrix[i + 1, j + 1] = cost + min(matrix[i, j + 1], matrix[i + 1, j], matrix[i, j])
    return float(matrix[-1, -1])


def walk_strings(
    student: list[str], teacher: list[str], student_marker: str, teacher_marker: str
) -> list[tuple[int, int]]:
    """A plain walk over two lists of strings that pairs equal ones and lets the shorter side catch up."""
    student = [token.replace(student_marker, " ") for token in student]
    teacher = [token.replace(teacher_marker, " ") for token in teacher]
    pairs = []
    i = j = 0
    left, right = "", ""
    while i < len(student) and j < len(teacher):
        if left == right and student[i] == teacher[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif len(left) <= len(right):
            left += student[i]
            i += 1
        else:
            right += teacher[j]
            j += 1
        if left == right:
            left = right = ""
    return pairs


def best(call: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs, in seconds of this thread alone, whatever else the machine does."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return min(times)


def weighted_mean(times: list[float], tokenized: Sequence[Sized]) -> float:
    """Microseconds per token over all texts, from those of each."""
    return sum(one * len(tokens) for one, tokens in zip(times, tokenized, strict=True)) / sum(map(len, tokenized))


def measure(kind: str, student_name: str, teacher_name: str) -> dict[str, Any]:
    """All three ratios for one pair of tokenizers; times in microseconds per student token."""
    student_tokenizer, teacher_tokenizer = LOADERS[student_name](), LOADERS[teacher_name]()
    markers = MARKERS[student_name], MARKERS[teacher_name]
    chosen = texts(kind)
    student, teacher = (tokenize_batch_with_spans(side, chosen) for side in (student_tokenizer, teacher_tokenizer))
    tokens_in_all = sum(map(len, student)) / 1e6
    token_lists = [list(one.tokens) for one in student], [list(other.tokens) for other in teacher]
    warp = best(partial(min_edit_paths, *token_lists, *markers), 25) / tokens_in_all
    single_warp, plain_warp, match, walk = [], [], [], []
    for one, other in zip(student, teacher, strict=True):
        tokens = list(one.tokens), list(other.tokens)
        count = len(one) / 1e6
        single_warp.append(best(partial(min_edit_path, *tokens, *markers), 7) / count)
        plain_warp.append(best(partial(warp_cell_by_cell, *tokens, *markers), 2) / count)
        match.append(best(partial(exact_match_pairs, one, other), 20) / count)
        walk.append(best(partial(walk_strings, *tokens, *markers), 20) / count)

    plain_in_all = weighted_mean(plain_warp, student)

    def tokenize() -> None:
        for tokenizer in (student_tokenizer, teacher_tokenizer):
            tokenizer(chosen, add_special_tokens=False)

    def align() -> None:
        sides = [tokenize_batch_with_spans(side, chosen) for side in (student_tokenizer, teacher_tokenizer)]
        for one, other in zip(*sides, strict=True):
            exact_match_pairs(one, other)

    encode_batch(student_tokenizer, chosen, add_special_tokens=False)
    tokenized, aligned = best(tokenize, 15) / tokens_in_all, best(align, 15) / tokens_in_all
    shared = [len(exact_match_pairs(one, other)) / len(one) for one, other in zip(student, teacher, strict=True)]
    return {
        "texts": kind,
        "student": student_name,
        "teacher": teacher_name,
        "student_tokens": [len(one) for one in student],
        "paired": statistics.mean(shared),
        "min_edit_us": warp,
        "min_edit_one_text_us": single_warp,
        "cell_by_cell_us": plain_warp,
        "min_edit_one_text_mean_us": weighted_mean(single_warp, student),
        "cell_by_cell_mean_us": plain_in_all,
        "min_edit_times_faster": plain_in_all / warp,
        "min_edit_one_text_times_faster": plain_in_all / weighted_mean(single_warp, student),
        "exact_match_us": statistics.mean(match),
        "string_walk_us": statistics.mean(walk),
        "exact_match_share_of_walk": sum(match) / sum(walk),
        "tokenize_us": tokenized,
        "tokenize_and_align_us": aligned,
        "align_share_of_tokenize": aligned / tokenized,
    }


def machine() -> dict[str, str]:
    """What the numbers were taken on."""
    packages = ("numpy", "rapidfuzz", "tokenizers", "transformers")
    return {
        "machine": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print a table, and write the numbers as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args(arguments)
    rows = [measure(kind, *pair) for kind in ("prose", "manual") for pair in PAIRS]
    table = Table(title="Alignment, microseconds per student token")
    names = (
        "texts",
        "student / teacher",
        "min_edit",
        "cell by cell",
        "ratio",
        "one text",
        "ratio",
        "exact",
        "walk",
        "share",
    )
    for name in names:
        table.add_column(name, justify="left" if name.startswith(("texts", "student")) else "right")
    table.add_column("tokenize", justify="right")
    table.add_column("+ align", justify="right")
    table.add_column("ratio", justify="right")
    for row in rows:
        table.add_row(
            row["texts"],
            f"{row['student']} / {row['teacher']}",
            f"{row['min_edit_us']:.2f}",
            f"{row['cell_by_cell_mean_us']:.0f}",
            f"{row['min_edit_times_faster']:.0f}",
            f"{row['min_edit_one_text_mean_us']:.1f}",
            f"{row['min_edit_one_text_times_faster']:.0f}",
            f"{row['exact_match_us']:.2f}",
            f"{row['string_walk_us']:.2f}",
            f"{row['exact_match_share_of_walk']:.2f}",
            f"{row['tokenize_us']:.2f}",
            f"{row['tokenize_and_align_us']:.2f}",
            f"{row['align_share_of_tokenize']:.2f}",
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
