"""`dskd new-plugin`: what it writes, and what it does not write over."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from dskd_components import ConfigurationError, __version__
from dskd_components.cli.new_plugin import TEMPLATES, PluginKind, PluginProject

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.commands import Ran

NAMES = {
    "hello-distance": ("hello_distance", "hello", "Hello"),
    "dskd-earth-mover": ("dskd_earth_mover", "earth_mover", "EarthMover"),
    "bregman-divergences": ("bregman_divergences", "bregman", "Bregman"),
    "plain": ("plain", "plain", "Plain"),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items(), ids=NAMES)
def test_what_is_written(dskd: Callable[..., Ran], tmp_path: Path, name: str, expected: tuple[str, str, str]) -> None:
    package, component, class_name = expected
    ran = dskd("new-plugin", name, "--directory", tmp_path)
    assert (ran.code, ran.err) == (0, "")
    folder = tmp_path / name
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {
        "pyproject.toml",
        "README.md",
        ".github/workflows/tests.yml",
        f"src/{package}/__init__.py",
        f"src/{package}/{component}.py",
        f"src/{package}/plugin.py",
        f"src/{package}/py.typed",
        f"tests/test_{component}.py",
    }
    for line in ran.out.splitlines()[1:9]:
        assert line.strip() in written
    assert f"pip install --editable {folder}" in ran.out
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == name
    assert project["entry-points"]["dskd_components"] == {component: f"{package}.plugin"}
    assert Requirement(project["dependencies"][0]).specifier.contains(__version__)
    [distance] = [
        node
        for node in ast.parse((folder / f"src/{package}/{component}.py").read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    assert distance.name == class_name
    assert "$" not in "".join(path.read_text() for path in folder.rglob("*.*") if path.is_file())


@pytest.mark.parametrize("kind", PluginKind)
def test_it_keeps_every_law_and_the_style_of_this_repository(
    dskd: Callable[..., Ran], tmp_path: Path, kind: PluginKind
) -> None:
    """Each kind, as it is written: laws by `dskd check`, its own test by hand, lint and format."""
    folder = tmp_path / f"mine-{kind}"
    assert dskd("new-plugin", folder.name, "--kind", kind, "-d", tmp_path).code == 0
    package = folder / "src" / folder.name.replace("-", "_")
    ran = dskd("check", package / "mine.py", "--max-examples", 2)
    assert (ran.code, ran.err) == (0, ""), ran.out[-2000:]
    configuration = Path(__file__).parents[2] / "pyproject.toml"
    for command in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--config", configuration, "."], cwd=folder, check=True)
    test = (folder / "tests/test_mine.py").read_text()
    assert f'"{package.name}.plugin"' in (folder / "pyproject.toml").read_text()
    names = {"__name__": "written"}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package.parent)
        exec(compile(test, "test_mine.py", "exec"), names)  # what pytest would import
    by_hand = [value for name, value in names.items() if isinstance(value, FunctionType) and name.startswith("test_")]
    [run] = [test for test in by_hand if test.__module__ == "written"]
    run()


def test_nothing_is_written_over(dskd: Callable[..., Ran], tmp_path: Path) -> None:
    folder = tmp_path / "hello-distance"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    ran = dskd("new-plugin", "hello-distance", "-d", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"error: {folder} exists already; nothing was written. Remove it or choose another name.\n"
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    (tmp_path / "plain").write_text("a file")
    assert dskd("new-plugin", "plain", "-d", tmp_path).code == 1
    ran = dskd("new-plugin", "hello-distance", "-d", tmp_path / "plain")
    assert (ran.code, ran.err.count("\n")) == (1, 1)


def test_an_empty_folder_is_filled(dskd: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "hello-distance").mkdir()
    assert dskd("new-plugin", "hello-distance", "-d", tmp_path).code == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Hello_Distance", "got 'Hello_Distance'; did you mean 'hello-distance'?"),
        ("../escape", "got '../escape'; did you mean 'escape'?"),
        ("3-laws", "got '3-laws'; did you mean 'laws'?"),
        ("hello-", "got 'hello-'; did you mean 'hello'?"),
        ("", "got ''"),
        ("torch", "would need the package 'torch', which exists already"),
        ("json", "would need the package 'json', which exists already"),
        ("class-distance", "would need a module 'class', which Python cannot import"),
        ("dskd-plugin", "would need a module 'plugin' of its own beside the one with the hooks"),
        ("none-distance", "would need a class 'None', which Python cannot have"),
        ("kl-distance", "would have the distance 'kl', which dskd-components has already"),
        ("dskd-tvd", "would have the distance 'tvd', which dskd-divergences has already"),
    ],
)
def test_a_name_that_cannot_be_used(dskd: Callable[..., Ran], tmp_path: Path, name: str, message: str) -> None:
    ran = dskd("new-plugin", "-d", tmp_path, "--", name)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert not list(tmp_path.iterdir())


@given(
    name=st.text(max_size=12)
    | st.from_regex(r"(dskd-)?([a-z0-9]{0,5}|plugin|true|none)(-(distance|plugin|3|x))*", fullmatch=True)
)
def test_any_name_makes_modules_that_python_can_import_or_is_refused(name: str) -> None:
    try:
        project = PluginProject.named(name)
    except ConfigurationError:
        return
    assert len(project.files()) == len(TEMPLATES)
    for path, text in project.files().items():
        if path.endswith(".py"):
            ast.parse(text)
            assert Path(path).stem.isidentifier()
    assert tomllib.loads(project.files()["pyproject.toml"])["project"]["name"] == name
