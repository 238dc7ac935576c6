"""What is published: the sdist, the wheel, and the wheel in an environment that has nothing else."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from dskd_components import __version__, list_components

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))


@dataclass(frozen=True)
class Built:
    """An sdist and the wheel that was built from it."""

    sdist: Path
    wheel: Path

    @property
    def sdist_files(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            return {name.partition("/")[2] for name in archive.getnames()}

    @property
    def wheel_files(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    def in_wheel(self, pattern: str) -> str:
        """Return the text of the one file whose name ends so."""
        with zipfile.ZipFile(self.wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(pattern)]
            return archive.read(name).decode()

    @property
    def metadata(self) -> Metadata:
        return Metadata.from_email(self.in_wheel(".dist-info/METADATA"))


def build(project: Path, folder: Path) -> Built:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(project)]
    subprocess.run(command, check=True, capture_output=True)
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(ROOT, tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return {path.name: build(path, tmp_path_factory.mktemp(path.name)) for path in PLUGINS}


def sources(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder.parent).as_posix() for path in files}


def test_the_wheel_has_the_package_and_nothing_else(library: Built) -> None:
    package = {name for name in library.wheel_files if not name.startswith(f"dskd_components-{__version__}.dist-info/")}
    assert package == sources(ROOT / "dskd_components") | sources(ROOT / "pytest_dskd")
    assert "dskd_components/py.typed" in package
    assert library.in_wheel(".dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    assert library.in_wheel(".dist-info/entry_points.txt").split("\n") == [
        "[console_scripts]",
        "dskd = dskd_components.cli:main",
        "",
        "[dskd_components]",
        "builtin = dskd_components.builtin",
        "",
        "[pytest11]",
        "dskd = pytest_dskd",
        "",
    ]


def test_the_sdist_has_what_building_and_testing_need(library: Built) -> None:
    files = library.sdist_files
    assert sources(ROOT / "dskd_components") | sources(ROOT / "pytest_dskd") <= files
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "Makefile", "tests/conftest.py"} <= files
    left_behind = {"__pycache__", ".venv", "output", "dist", "build", ".mypy_cache", ".hypothesis", ".git", ".ci"}
    assert not [name for name in files if left_behind & set(name.split("/"))]


def test_the_metadata(library: Built) -> None:
    metadata = library.metadata
    assert (metadata.name, str(metadata.version)) == ("dskd-components", __version__)
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.license_files == ["LICENSE"]
    assert metadata.summary
    assert metadata.description_content_type == "text/markdown"
    assert (metadata.description or "").strip() == (ROOT / "README.md").read_text().strip()
    assert metadata.requires_python == SpecifierSet(">=3.11")
    assert "Typing :: Typed" in (metadata.classifiers or [])


def test_what_the_library_imports_is_what_it_depends_on(library: Built) -> None:
    requirements = library.metadata.requires_dist or []
    core = {requirement.name for requirement in requirements if applies(requirement)}
    extras = set(library.metadata.provides_extra or []) - {"dev"}
    optional = {r.name for r in requirements if any(applies(r, extra) for extra in extras)}
    distributions = packages_distributions()
    modules = {module.partition(".")[0] for path in ROOT.glob("dskd_components/**/*.py") for module in imported(path)}
    third_party = modules - set(sys.stdlib_module_names) - {"dskd_components"}
    needed = {canonicalize_name(distributions[module][0]) for module in third_party}
    comes_with_pydantic = {"pydantic-core"}
    users_bring_their_models = {"transformers"}
    and_what_reads_their_files = {"pyarrow"}
    and_the_loops_that_there_are_integrations_for = {"accelerate", "lightning", "trl"}
    brought_along = and_the_loops_that_there_are_integrations_for | and_what_reads_their_files
    assert needed - comes_with_pydantic - brought_along <= optional
    assert core - users_bring_their_models <= needed


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


@pytest.mark.parametrize("name", [path.name for path in PLUGINS])
def test_a_plugin_is_a_distribution_of_its_own(plugins: dict[str, Built], name: str) -> None:
    built = plugins[name]
    package = name.replace("-", "_")
    inside = {file for file in built.wheel_files if ".dist-info/" not in file}
    assert inside == sources(ROOT / "plugins" / name / "src" / package)
    assert f"{package}/py.typed" in inside
    assert "[dskd_components]" in built.in_wheel(".dist-info/entry_points.txt")
    [library] = [requirement for requirement in built.metadata.requires_dist or [] if applies(requirement)]
    assert library.name == "dskd-components"
    assert library.specifier.contains(__version__)
    assert built.metadata.license_expression == "Apache-2.0"
    assert {"pyproject.toml", "README.md"} <= built.sdist_files


def closure(requirements: Iterable[Requirement]) -> list[Distribution]:
    """The distributions that requirements ask for, and those that these ask for in turn."""
    found: dict[tuple[str, str], Distribution] = {}
    left = [
        (requirement, extra) for requirement in requirements if applies(requirement) for extra in asked(requirement)
    ]
    while left:
        requirement, extra = left.pop()
        key = (canonicalize_name(requirement.name), extra)
        if key not in found:
            found[key] = distribution(requirement.name)
            inner = (Requirement(text) for text in found[key].requires or [])
            left += [(one, wanted) for one in inner if applies(one, extra) for wanted in asked(one)]
    return list(found.values())


def asked(requirement: Requirement) -> set[str]:
    """The extras that a requirement asks for, and none at all."""
    return {"", *requirement.extras}


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder of its own, far from the repository."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def link(self, requirements: Iterable[Requirement]) -> None:
        """Bring in what is required, and what that requires, from the environment of the tests without copying it."""
        [packages] = self.folder.glob("venv/[Ll]ib/**/site-packages")
        for found in closure(requirements):
            for name in {file.parts[0] for file in found.files or [] if ".." not in file.parts}:
                if name != "__pycache__" and not (packages / name).exists():
                    (packages / name).symlink_to(Path(str(found.locate_file(name))))

    def install(self, *wheels: Path) -> None:
        self.pip("install", "--quiet", "--no-deps", "--no-index", *wheels)

    def pip(self, *arguments: str | Path) -> str:
        """Run the pip of the tests on it: to bring one of its own takes longer than all that it is asked for."""
        return self._output(sys.executable, "-m", "pip", "--python", self.python, *arguments)

    def run(self, *arguments: str | Path) -> str:
        return self._output(self.python, *arguments)

    def _output(self, *command: str | Path) -> str:
        clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        found = subprocess.run(command, cwd=self.folder, env=clean, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, library: Built) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment.folder / "venv"], check=True)
    environment.link(library.metadata.requires_dist or [])
    environment.install(library.wheel)
    return environment


LIST_COMPONENTS = """
from importlib.util import find_spec
import dskd_components
assert "site-packages" in dskd_components.__file__
assert not [name for name in ("hypothesis", "pytest", "jsonschema", "matplotlib", "mypy") if find_spec(name)]
for info in dskd_components.list_components():
    print(info.kind, info.name)
"""


@pytest.mark.slow
@pytest.mark.minutes
def test_the_wheel_alone_lists_its_components(environment: Environment) -> None:
    expected = [f"{info.kind} {info.name}" for info in list_components() if info.distribution == "dskd-components"]
    assert environment.run("-W", "error", "-c", LIST_COMPONENTS).splitlines() == expected


# One interpreter for all three: to import takes longer than what is asked.
COMMANDS = """
from dskd_components.cli import main
for arguments in (["list", "distance"], ["new-plugin", "wheel-distance"], ["check", "dskd-components"]):
    try:
        main(arguments)
    except SystemExit as left:
        print(arguments[0], "ended with", left.code or 0)
"""


@pytest.mark.slow
@pytest.mark.minutes
def test_the_wheel_alone_has_the_command_line(environment: Environment) -> None:
    written = environment.run("-W", "error", "-c", COMMANDS)
    assert "kl" in written.split()
    assert (environment.folder / "wheel-distance" / "src" / "wheel_distance" / "py.typed").is_file()
    ended = [line for line in written.splitlines() if "ended with" in line]
    without_the_extra = "check ended with 1"
    assert ended == ["list ended with 0", "new-plugin ended with 0", without_the_extra]


@pytest.mark.slow
@pytest.mark.minutes
def test_the_wheel_alone_runs_the_first_example_of_the_readme(environment: Environment) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    environment.run("-c", examples[0])


USE_TVD = """
import torch
from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates
spec = DSKDSpec(distance="tvd")
assert DSKDSpec.model_validate_json(spec.model_dump_json()) == spec
targets = torch.randint(0, 9, (2, 5))
student, teacher = (
    LMStates(hidden_states=torch.randn(2, 5, width), targets=targets, head=Head(torch.randn(9, width)))
    for width in (4, 6)
)
out = DSKDLoss(spec, student_hidden_size=4, teacher_hidden_size=6)(student, teacher)
out.loss.backward()
assert 0 < float(out.terms["t2s_kd"]) <= 1
print(spec.distance)
"""


@pytest.mark.slow
@pytest.mark.minutes
def test_a_plugin_installed_beside_it_works(environment: Environment, plugins: dict[str, Built]) -> None:
    environment.install(*(built.wheel for built in plugins.values()))
    assert environment.run("-W", "error", "-c", USE_TVD).strip() == "name='tvd'"
    environment.pip("check")
