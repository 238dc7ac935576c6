"""From files of instructions to prompts and responses: the papers' template, and parts that have no text in common."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict

from examples.paper.recipe import PaperError, common

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

WITHOUT_INPUT: Final = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
WITH_INPUT: Final = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
"""Alpaca's templates, which MiniLLM and then the papers took for Dolly."""

INPUTS: Final = ("input", "context")
RESPONSES: Final = ("output", "response")

DOWNLOAD: Final = (
    "Training texts: databricks-dolly-15k.jsonl of huggingface.co/datasets/databricks/databricks-dolly-15k, or "
    "train.jsonl, dev.jsonl and valid.jsonl of the data that github.com/songmzhang/DSKD links to, which has all five "
    "test sets."
)


class Sample(BaseModel):
    """A prompt and what may be answered.

    Args:
        prompt: the instruction in its template.
        response: what is learned.
        references: all good answers, where there are several.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str
    response: str
    references: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """What an answer is compared with."""
        return self.references or (self.response,)

    def pair(self) -> dict[str, str]:
        """Return it as collators read it."""
        return {"prompt": self.prompt, "response": self.response}


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSONL file with the numbers of their lines.

    Args:
        path: the file.

    Raises:
        PaperError: there is no such file, or a line of it is no JSON object.
    """
    if not path.is_file():
        raise PaperError(f"There is no file {path}. {DOWNLOAD}")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise PaperError(f"{path}:{number}: not JSON ({error.msg}). Expected one object a line.") from error
            if not isinstance(value, dict):
                raise PaperError(f"{path}:{number}: expected an object, got {type(value).__name__}.")
            yield number, value


def read_instructions(path: Path) -> list[Sample]:
    """Read a file of instructions; those without any answer are left out.

    A line has ``instruction``, perhaps ``input`` or ``context``, and ``output`` or ``response``, a text or a list of
    them. One that has a ``prompt``, as processed files do, keeps it.

    Args:
        path: the file.

    Raises:
        PaperError: the file is missing, or a line has other columns; the message says which.
    """
    samples = []
    for number, fields in read_lines(path):
        place = f"{path}:{number}"
        found = next((fields[name] for name in RESPONSES if fields.get(name) is not None), None)
        has_prompt = isinstance(fields.get("prompt"), str) or isinstance(fields.get("instruction"), str)
        answers = [found] if isinstance(found, str) else found
        if not (has_prompt and isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)):
            raise PaperError(
                f"{place}: expected 'instruction' (or 'prompt') and 'output' (or 'response'), texts or for the latter "
                f"a list of texts; the columns are {', '.join(map(repr, fields)) or 'none'}. {DOWNLOAD}"
            )
        usable = tuple(answer for answer in answers if answer.strip())
        if usable:
            references = usable if len(usable) > 1 else ()
            samples.append(Sample(prompt=_prompt(fields), response=usable[0], references=references))
    if not samples:
        raise PaperError(f"{path} has no text with an answer. {DOWNLOAD}")
    return samples


def _prompt(fields: Mapping[str, Any]) -> str:
    if isinstance(fields.get("prompt"), str):
        return str(fields["prompt"])
    given = next((fields[name] for name in INPUTS if fields.get(name)), "")
    template = WITH_INPUT if given else WITHOUT_INPUT
    return template.format(instruction=fields["instruction"], input=given)


def prepare(
    train: Path, output: Path, *, dev: Path | None, tests: Mapping[str, Path], sizes: tuple[int, int] | None = None
) -> dict[str, int]:
    """Write ``train.jsonl``, ``dev.jsonl`` and ``tests/NAME.jsonl``; return how many texts each has.

    Parts that are not given come out of the training file, in an order that a seed settles: the test set ``dolly``,
    then dev. A prompt that is in one of these is not trained on, wherever it came from.

    Args:
        train: file of instructions.
        output: the folder.
        dev: file of instructions on which checkpoints are chosen; None: a part of `train`.
        tests: files of test sets, by name; without ``dolly``, a part of `train`.
        sizes: texts of the test set and of dev that come out of `train`; None: the papers'.

    Raises:
        PaperError: a file is missing or has other columns, or `train` has too few texts.
    """
    texts = common().texts
    pool = read_instructions(train)
    random.Random(texts.seed).shuffle(pool)
    of_test, of_dev = sizes or (texts.test, texts.dev)
    if min(of_test, of_dev) < 1:
        raise PaperError(f"--sizes: expected two numbers of at least 1, got {of_test} and {of_dev}.")
    wanted = (of_test if "dolly" not in tests else 0, of_dev if dev is None else 0)
    if sum(wanted) >= len(pool):
        raise PaperError(
            f"{train} has {len(pool)} texts; {wanted[0]} are to be taken out for the test set and {wanted[1]} for dev, "
            "so that none is left to train on. Give --dev and --test dolly=FILE, or smaller --sizes TEST DEV."
        )
    parts = {name: read_instructions(path) for name, path in tests.items()}
    if "dolly" not in tests:
        parts = {"dolly": pool[: wanted[0]], **parts}
    dev_part = read_instructions(dev) if dev is not None else pool[wanted[0] : sum(wanted)]
    held_out = {sample.prompt for part in (dev_part, *parts.values()) for sample in part}
    train_part = [sample for sample in pool[sum(wanted) :] if sample.prompt not in held_out]
    if not train_part:
        raise PaperError(f"All prompts of {train} are in a test set or in dev, so that none is left to train on.")
    files = {"train": train_part, "dev": dev_part, **{f"tests/{name}": part for name, part in parts.items()}}
    for name, samples in files.items():
        _write(output / f"{name}.jsonl", samples)
    return {name: len(samples) for name, samples in files.items()}


def _write(path: Path, samples: Sequence[Sample]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part")
    whole.write_text("".join(f"{sample.model_dump_json()}\n" for sample in samples), encoding="utf-8")
    whole.replace(path)  # a file that is there is whole


def read_part(folder: Path, name: str) -> list[Sample]:
    """Read what `prepare` has written.

    Args:
        folder: what it was given as output.
        name: ``train``, ``dev`` or ``tests/NAME``.

    Raises:
        PaperError: it is not there.
    """
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        raise PaperError(
            f"There is no {path}. Make it by: python -m examples.paper prepare --train FILE "
            f"[--dev FILE] [--test NAME=FILE ...] --output {folder}. {DOWNLOAD}"
        )
    return [Sample.model_validate(fields) for _, fields in read_lines(path)]


def names_of_tests(folder: Path) -> list[str]:
    """Return the names of the test sets in a prepared folder, the papers' in their order first.

    Args:
        folder: what `prepare` was given as output.
    """
    there = {path.stem for path in (folder / "tests").glob("*.jsonl")}
    return [*(name for name in common().tests if name in there), *sorted(there - set(common().tests))]
