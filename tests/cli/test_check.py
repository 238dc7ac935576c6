"""`dskd check`: the laws of a distribution or a file, as a table and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.helpers.fake_distributions import FakeDistribution, offering

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.commands import Ran

HEADER = """
from typing import Literal
from dskd_components import Distance
"""
GOOD = """
class Good(Distance):
    name: Literal["good"] = "good"
    def __call__(self, student_log_probs, teacher_log_probs):
        return (student_log_probs.exp() - teacher_log_probs.exp()).square().sum(-1)
"""
BAD = GOOD.replace("Good", "Bad").replace("good", "bad").replace(".square()", "")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(source: str) -> Path:
        file = tmp_path / "my_distance.py"
        file.write_text(HEADER + source)
        return file

    return write_file


def test_a_distribution(dskd: Callable[..., Ran], install: Callable[..., None]) -> None:
    install(offering("good-plugin", "good"))
    ran = dskd("check", "good-plugin", "-n", 5)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("distance: good\n")
    assert "good-plugin: every law holds" in ran.out.splitlines()[-1]
    for line in ("non_negative", "not claimed  metric"):
        assert line in ran.out


def test_an_aligner_that_reads_texts(dskd: Callable[..., Ran], install: Callable[..., None], tmp_path: Path) -> None:
    install(FakeDistribution("whole-words", "", value="tests.helpers.whole_words"))
    ran = dskd("check", "whole-words", "-n", 1)
    assert (ran.code, ran.err) == (0, "")
    for law in ("groups_of_tokens_are_in_order", "every_token_has_a_group", "a_copy_in_a_worker_makes_the_same_groups"):
        assert law in ran.out
    file = tmp_path / "my_aligner.py"
    file.write_text(
        """
from typing import Literal
from tests.helpers.whole_words import WholeWords

class Backwards(WholeWords):
    name: Literal["backwards"] = "backwards"
    def groups_of_text(self, student, teacher):
        return super().groups_of_text(student, teacher)[::-1]
"""
    )
    ran = dskd("check", file, "-n", 1)
    assert ran.code == 1
    assert "breaks the law 'groups_of_tokens_are_in_order'" in ran.words


def test_a_distribution_whose_plugin_is_broken(dskd: Callable[..., Ran], install: Callable[..., None]) -> None:
    install(FakeDistribution("broken-plugin", "raise RuntimeError('boom')"))
    ran = dskd("check", "broken-plugin")
    assert ran.code == 1
    assert "the_plugin_loads" in ran.out
    assert "RuntimeError: boom" in ran.out


def test_an_unknown_distribution(dskd: Callable[..., Ran]) -> None:
    ran = dskd("check", "dskd-divergance")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")
    assert "did you mean 'dskd-divergences'" in ran.err


def test_a_disabled_distribution(dskd: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSKD_DISABLE_PLUGINS", "all")
    ran = dskd("check", "dskd-divergences")
    assert (ran.code, ran.out) == (1, "")
    assert "DSKD_DISABLE_PLUGINS=all" in ran.err


@pytest.mark.parametrize("columns", [80, 120])
def test_a_file(dskd: Callable[..., Ran], write: Callable[[str], Path], columns: int) -> None:
    file = write(GOOD)
    ran = dskd("check", file, "-n", 5, columns=columns)
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines()[:-1])) <= columns
    assert ("Values are never negative" in ran.out) == (columns == 120)


def test_a_file_with_a_fault(dskd: Callable[..., Ran], write: Callable[[str], Path]) -> None:
    file = write(GOOD + BAD)
    ran = dskd("check", file, "-n", 5, columns=80)
    assert ran.code == 1
    assert ran.out.startswith("distance: good, bad\n")
    assert "✗ bad" in ran.out
    assert "✗ distance bad: non_negative" in ran.out
    assert "The smallest case found" in ran.out
    assert ran.out.splitlines()[-1].startswith(f"{file}: ")
    assert ran.out.splitlines()[-1].endswith("are failures.")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_there_at_all", "cannot be run: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("raise SystemExit(0)", "cannot be run: SystemExit: 0"),
        ("def (:", "cannot be run: SyntaxError"),
        ("", "defines no component: expected a subclass of Distance, Aligner, Projector, Space or Schedule."),
        ("from dskd_components.distances import KL", "defines no component"),
        ("class Unfinished(Distance):\n    name: Literal['x'] = 'x'", "Unfinished must still define __call__."),
        (GOOD.replace('    name: Literal["good"] = "good"\n', ""), "Good has no name: add `name: Literal["),
        (GOOD.replace('Literal["good"]', "str"), "cannot be run: TypeError: Good.name: expected"),
    ],
)
def test_a_file_without_a_component(
    dskd: Callable[..., Ran], write: Callable[[str], Path], source: str, message: str
) -> None:
    ran = dskd("check", write(source))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")
    assert message in ran.err


def test_a_component_that_cannot_be_made(dskd: Callable[..., Ran], write: Callable[[str], Path]) -> None:
    fragile = GOOD + "    def model_post_init(self, context):\n        raise ZeroDivisionError('alpha')\n"
    ran = dskd("check", write(fragile))
    assert ran.code == 1
    assert "its constructor failed: ZeroDivisionError: alpha" in ran.out


def test_no_file(dskd: Callable[..., Ran], tmp_path: Path) -> None:
    ran = dskd("check", tmp_path / "absent.py")
    assert ran.err == f"error: {tmp_path / 'absent.py'} is not a file.\n"


def test_without_the_extra(dskd: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dskd_components.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    ran = dskd("check", "dskd-divergences")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "error: `dskd check` needs 'hypothesis', which is not installed: pip install "
        '"dskd-components[testing]" brings it along.\n'
    )


def test_a_number_of_examples_that_is_none(dskd: Callable[..., Ran]) -> None:
    ran = dskd("check", "dskd-divergences", "-n", "0")
    assert ran.code == 2
    assert "--max-examples" in ran.err
