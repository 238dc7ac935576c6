"""Rouge-L as the papers have it: stemmed, of the best reference, in percent; and their tables."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from rich.table import Table

from examples.paper.answers import digest_of, read_answers
from examples.paper.recipe import PaperError, common
from examples.paper.rows import rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from examples.paper.data import Sample
    from examples.paper.rows import Row


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise PaperError("Rouge-L is of the package rouge-score: pip install 'dskd-components[paper]'") from error
    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """Return the F-measure of Rouge-L with the reference that is nearest, from 0 to 100.

    Args:
        answer: a text.
        references: one or more.
    """
    scorer = _scorer()
    return 100.0 * max(float(scorer.score(target=text, prediction=answer)["rougeL"].fmeasure) for text in references)


def mean_rouge_l(answers: Sequence[str], samples: Sequence[Sample]) -> float:
    """Return the mean over samples.

    Args:
        answers: one for each sample.
        samples: with the references.
    """
    scored = [rouge_l(answer, sample.answers) for answer, sample in zip(answers, samples, strict=True)]
    return sum(scored) / len(samples)


class Scores:
    """The scores of a row's answers, in a file that is brought up to date.

    Args:
        folder: of the row, with ``answers/TEST/SEED.jsonl``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "scores.json"
        self.entries: dict[str, dict[str, dict[str, Any]]] = {}
        if self.path.is_file():
            self.entries = json.loads(self.path.read_text(encoding="utf-8"))

    def files(self) -> list[Path]:
        """Return the files of answers."""
        return sorted(self.folder.glob("answers/*/*.jsonl"), key=lambda path: (path.parent.name, int(path.stem)))

    def update(self, path: Path, samples: Sequence[Sample]) -> Iterator[int]:
        """Score a file of answers, unless that was done; yield how many are scored.

        Args:
            path: one of `files`.
            samples: the test set, of which the first may have been asked alone.

        Raises:
            PaperError: answers are missing, or are of other prompts.
        """
        test, seed = path.parent.name, path.stem
        settings, answers = read_answers(path)
        asked = samples[: settings["asked"]]
        if settings["prompts"] != digest_of([sample.prompt for sample in asked]):
            raise PaperError(f"{path} answers other prompts than {test} has now. Remove it, and generate anew.")
        if len(answers) != len(asked):
            raise PaperError(
                f"{path} has {len(answers)} answers to {len(asked)} prompts. Write the others by the same `generate` "
                "as before, which goes on where it stopped."
            )
        compared = json.dumps([answers, [sample.answers for sample in asked]])
        digest = hashlib.sha256(compared.encode()).hexdigest()[:16]
        if self.entries.get(test, {}).get(seed, {}).get("digest") != digest:
            total = 0.0
            for number, (answer, sample) in enumerate(zip(answers, asked, strict=True), start=1):
                total += rouge_l(answer, sample.answers)
                yield number
            counts = {"answers": len(asked), "texts": len(samples)}
            self.entries.setdefault(test, {})[seed] = {"rouge_l": total / len(asked), **counts, "digest": digest}
            self.path.write_text(json.dumps(self.entries, indent=1) + "\n", encoding="utf-8")
        yield len(samples)

    def partly(self, test: str) -> bool:
        """Return whether some texts of a test set were left out.

        Args:
            test: its name.
        """
        return any(entry["answers"] < entry["texts"] for entry in self.entries[test].values())

    def by_test(self) -> dict[str, list[float]]:
        """Return the scores of each test set, one for each seed."""
        return {
            test: [entry["rouge_l"] for _, entry in sorted(seeds.items(), key=lambda item: int(item[0]))]
            for test, seeds in self.entries.items()
        }


def tables(output: Path) -> list[Table]:
    """Return a table for each pair of models of which something is scored.

    Args:
        output: folder of all rows.

    Raises:
        PaperError: nothing is scored.
    """
    there = {name: row for name, row in rows().items() if (output / name / "scores.json").is_file()}
    if not there:
        raise PaperError(f"Nothing is scored in {output}. In this order: prepare, train, generate, score, table.")
    names = {row.pair_name for row in there.values()}
    return [_table(output, [row for row in there.values() if row.pair_name == name]) for name in sorted(names)]


def _table(output: Path, its_rows: Sequence[Row]) -> Table:
    scores = [Scores(output / row.name) for row in its_rows]
    known, there = common().tests, {test for its_scores in scores for test in its_scores.entries}
    tests = [*(test for test in known if test in there), *sorted(there - set(known))]
    pair = its_rows[0].pair
    table = Table(
        title=f"{pair.student.name} from {pair.teacher.name}: Rouge-L, mean ± standard deviation over seeds",
        caption="Published: the average over five test sets; (n): of n test sets, not to be compared with it. "
        "*: not trained by the recipe, see run.json. †: not all texts.",
    )
    table.add_column("row", no_wrap=True)
    for heading in (*(known[test].title if test in known else test for test in tests), "average", "published"):
        table.add_column(heading, justify="right")
    for row, its_scores in zip(its_rows, scores, strict=True):
        by_test = its_scores.by_test()
        cells = [_cell(its_scores, test) if test in by_test else "" for test in tests]
        published = "" if row.published is None else f"{row.published:.2f}"
        table.add_row(f"{row.short_name}{_mark(output / row.name)}", *cells, average(by_test), published)
    return table


def average(by_test: Mapping[str, Sequence[float]]) -> str:
    """Return the mean over test sets; if these are not the papers', with their number.

    Args:
        by_test: scores of each test set.
    """
    number = "" if set(by_test) == set(common().tests) else f" ({len(by_test)})"
    return f"{mean(mean(values) for values in by_test.values()):.2f}{number}"


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation; the mean alone of a single value.

    Args:
        values: one for each seed.

    Examples:
        >>> spread([20.0, 22.0]), spread([20.0])
        ('21.00 ± 1.41', '20.00')
    """
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _cell(scores: Scores, test: str) -> str:
    return spread(scores.by_test()[test]) + ("†" if scores.partly(test) else "")


def _mark(folder: Path) -> str:
    path = folder / "run.json"
    return "*" if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["differs_from_recipe"] else ""
