"""What the documentation shows of the command line is what the command line writes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.pairs import sound_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.commands import Ran

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def steps(document: Path) -> Iterator[tuple[str, str]]:
    """Commands of a document's console blocks and the output below each."""
    text = document.read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = step.partition("\n")
            yield command, output


def pattern(output: str) -> str:
    """Three dots stand for anything: within a line, or for any number of lines if they are alone in it.

    How many spaces there are between columns depends on what else is installed, so it makes no difference.
    """
    lines = [r"(?:.*\n)*?" if line == "..." else _line(line) for line in output.splitlines()]
    return "".join(lines)


def _line(line: str) -> str:
    words = [[re.escape(word) for word in part.split(" ") if word] for part in line.split("...")]
    return " *" + " *.*?".join(" +".join(part) for part in words) + r" *\n"


def save_pair() -> None:
    """Put the two models that `dskd doctor` is shown with into the current folder."""
    pair = sound_pair()
    for side in ("student", "teacher"):
        pair[side].save_pretrained(side)
        pair[f"{side}_tokenizer"].save_pretrained(side)


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if list(steps(path))], ids=lambda path: path.name)
def test_it_is_what_is_written(
    document: Path,
    dskd: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for command, output in steps(document):
        program, *arguments = shlex.split(command)
        if program == "cat":
            Path(arguments[0]).write_text(output, encoding="utf-8")
            continue
        assert program == "dskd"
        if arguments[0] in ("doctor", "plan", "show-sample"):
            save_pair()
            capsys.readouterr()  # progress bars, and what imports have to say
        ran = dskd(*arguments, columns=80)
        assert re.fullmatch(pattern(output), ran.out + ran.err), f"$ {command}\n{ran.out}{ran.err}"


def test_there_is_something_to_compare() -> None:
    shown = {command.split()[1] for document in DOCUMENTS for command, _ in steps(document) if command[:4] == "dskd"}
    assert {"list", "show", "validate", "check", "doctor", "plan", "show-sample"} <= shown
