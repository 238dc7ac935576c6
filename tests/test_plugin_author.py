"""The way of a plugin's author as the documentation shows it, command by command, in an environment of its own."""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCS = Path(__file__).parents[1] / "docs"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.minutes,
    pytest.mark.skipif(os.name == "nt", reason="the commands are those of a Unix shell"),
]

SITE = "import site; site.addsitedir({!r})\n"
SCRIPT = "#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"


@dataclass(frozen=True)
class Shell:
    """A shell in an empty folder, whose Python sees what is installed for the tests and can have more installed."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, command: str) -> str:
        """Return what a command writes; it must succeed."""
        found = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert found.returncode == 0, f"$ {command}\n{found.stdout}"
        return found.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "of_the_tests.pth").write_text("".join(SITE.format(path) for path in site.getsitepackages()))
    for name, module in {"dskd": "dskd_components.cli", "pip": "pip._internal.cli.main"}.items():
        script = venv / "bin" / name
        script.write_text(SCRIPT.format(python=venv / "bin" / "python", module=module))
        script.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "COLUMNS"}}
    for_speed = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}  # "0" is pip's own oddity
    environment = {
        **kept,
        **for_speed,
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(venv),
    }
    return Shell(tmp_path_factory.mktemp("empty"), environment)


def blocks(document: str, language: str) -> list[str]:
    text = (DOCS / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_four_commands_from_an_empty_folder_to_training(shell: Shell) -> None:
    new, install, check, train = blocks("tutorial/write-a-distance.md", "sh")[0].splitlines()
    assert "hello-distance/ with the distance 'hello'" in shell.run(new)
    shell.run(install)
    assert "hello-distance: every law holds" in shell.run(check)
    (shell.folder / "train.py").write_text(blocks("tutorial/write-a-distance.md", "python")[0])
    losses = [float(loss) for loss in re.findall(r"loss (\S+),", shell.run(train))]
    assert len(losses) == 20
    assert losses[-1] < losses[0]


def test_what_is_to_be_done_before_a_release(shell: Shell) -> None:
    folder = shell.folder / "hello-distance"
    here = Shell(folder, shell.environment)
    check, test, build = blocks("how-to/publishing.md", "sh")[0].splitlines()
    here.run(check.replace("500", "3"))
    assert re.search(r"\d+ passed", here.run(f"python -m {test} --dskd-max-examples 3"))
    here.run(f"{build} --no-isolation")
    assert {path.suffix for path in (folder / "dist").iterdir()} == {".whl", ".gz"}
    assert "Author" not in (folder / "pyproject.toml").read_text()


# One interpreter for both: to import takes longer than what is asked.
LIST_AND_SHOW = """
from dskd_components.cli import main

for arguments in (["list"], ["show", "hello"]):
    try:
        main(arguments)
    except SystemExit as left:
        print(*arguments, "ended with", left.code or 0)
"""


def test_it_is_listed_shown_and_kept_out(shell: Shell) -> None:
    (shell.folder / "list_and_show.py").write_text(LIST_AND_SHOW)
    found = shell.run("python list_and_show.py")
    assert re.search(r"^distance +hello +hello-distance +0\.1\.0 +symmetric, ≤ 1 ", found, re.MULTILINE)
    assert "Squared Hellinger distance" in found
    assert "list ended with 0\n" in found
    assert "show hello ended with 0\n" in found
    disabled = Shell(shell.folder, {**shell.environment, "DSKD_DISABLE_PLUGINS": "hello-distance"})
    left_out = disabled.run("python list_and_show.py")
    assert "disabled: plugin 'hello' of distribution hello-distance 0.1.0" in left_out
    assert "plugin 'hello' of distribution hello-distance 0.1.0 may have it" in left_out
    assert "list ended with 0\n" in left_out
    assert "show hello ended with 0\n" not in left_out
