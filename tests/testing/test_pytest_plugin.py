"""The plugin of pytest, in a pytest of its own: one line is a test for each law, and failures are readable."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import pytest_dskd

if TYPE_CHECKING:
    from pathlib import Path

AUTHORS_FILE = '''
from typing import Literal

from dskd_components import Distance
from dskd_components.testing import laws_of


class Hello(Distance):
    """Half the sum of absolute differences, but for one thing."""

    name: Literal["hello"] = "hello"

    def __call__(self, student_log_probs, teacher_log_probs):
        if len(student_log_probs) == 0:
            raise ValueError("no rows")
        return (student_log_probs.exp() - teacher_log_probs.exp()).abs().mean(-1)


test_hello = laws_of(Hello())
'''


def run_pytest(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("author")
    (folder / "test_mine.py").write_text(AUTHORS_FILE)
    return run_pytest(folder, "--dskd-max-examples=4", "-v")


def test_one_line_is_a_test_for_each_law(output: str) -> None:
    assert "test_mine.py::test_hello[hello-zero_at_equality] PASSED" in output
    assert "2 failed" in output


def test_failures_are_the_message_alone(output: str) -> None:
    message = (
        "distance hello breaks the law 'tokens_ruled_out_on_both_sides_count_for_nothing': Tokens with logits of "
        "``-inf`` on both sides change neither values nor gradients, and have none themselves."
    )
    assert message in output
    assert "The smallest case found:" in output
    assert "max_examples=4" in output
    assert "def tokens_ruled_out" not in output


def test_what_the_author_raised_is_shown_where_it_was_raised(output: str) -> None:
    assert "raised ValueError: no rows" in output
    assert 'raise ValueError("no rows")' in output
    assert "hypothesis/core.py" not in output


IMPORTED = """
import sys
import pytest_dskd
heavy = {"torch", "hypothesis", "dskd_components", "pydantic"} & set(sys.modules)
assert not heavy, heavy
"""


def test_an_option_that_cannot_be_used_is_said_in_a_line() -> None:
    parser, read = pytest.Parser(_ispytest=True), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytest.OptionGroup, "addoption", lambda _, name, **options: read.update({name: options}))
        pytest_dskd.pytest_addoption(parser)
    number = read["--dskd-max-examples"]["type"]
    assert number("7") == 7
    for wrong in ("0", "-1", "many", "1.5", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"expected an integer, 1 or more, got '{wrong}'"):
            number(wrong)
    config: Any = SimpleNamespace(getoption={"--dskd-device": "abacus"}.get)
    with pytest.raises(
        pytest.UsageError, match=r"^--dskd-device abacus: expected a device that this PyTorch can use"
    ) as e:
        pytest_dskd.pytest_configure(config)
    assert "\n" not in str(e.value)


def test_the_plugin_is_cheap_to_load() -> None:
    [plugin] = [entry_point for entry_point in entry_points(group="pytest11") if entry_point.name == "dskd"]
    assert plugin.value == "pytest_dskd"
    subprocess.run([sys.executable, "-c", IMPORTED], check=True)
