"""``dskd new-plugin``: a plugin's project, written from templates."""

from __future__ import annotations

import keyword
import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer
from packaging.utils import canonicalize_name
from rich.text import Text

from dskd_components._version import __version__
from dskd_components.cli.terminal import console
from dskd_components.components.lookup import default_registry
from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

TEMPLATES: Final = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".github/workflows/tests.yml": "tests.yml",
    "src/{package}/__init__.py": "init.py",
    "src/{package}/{module}.py": "{kind}.py",
    "src/{package}/plugin.py": "plugin.py",
    "src/{package}/py.typed": "py.typed",
    "tests/test_{module}.py": "test_{kind}.py",
}
"""Where each file of the distribution comes from; names of templates end in ``.template`` besides."""


class PluginKind(StrEnum):
    """What a plugin can be written for."""

    DISTANCE = "distance"
    ALIGNER = "aligner"
    TEXT_ALIGNER = "text-aligner"
    PROJECTOR = "projector"
    SPACE = "space"
    SCHEDULE = "schedule"


class _Words(NamedTuple):
    """What templates say of a kind.

    Args:
        kind: what the registry calls it.
        words: what a reader does.
        base: the class that is imported.
        hook: the hook that hands it over.
        usage: the argument of a spec; the name goes into it.
    """

    kind: str
    words: str
    base: str
    hook: str
    usage: str


KINDS: Final[Mapping[PluginKind, _Words]] = {
    PluginKind.DISTANCE: _Words("distance", "distance", "Distance", "dskd_distances", 'distance="{}"'),
    PluginKind.ALIGNER: _Words("aligner", "aligner", "Aligner", "dskd_aligners", 'aligner="{}"'),
    PluginKind.TEXT_ALIGNER: _Words("aligner", "aligner of texts", "Aligner", "dskd_aligners", 'aligner="{}"'),
    PluginKind.PROJECTOR: _Words("projector", "projector", "Projector", "dskd_projectors", 't2s_projector="{}"'),
    PluginKind.SPACE: _Words("space", "space", "Space", "dskd_spaces", 'spaces=["{}"]'),
    PluginKind.SCHEDULE: _Words("schedule", "schedule", "Schedule", "dskd_schedules", 'kd_rate="{}"'),
}

ENDINGS: Final = "distance|divergence|loss|plugin|aligner|alignment|projector|projection|space|schedule"
"""What a distribution's name may end in that its component's name leaves out."""


@dataclass(frozen=True)
class PluginProject:
    """A distribution to be written.

    Args:
        distribution: its name, as installers know it.
        component: the name of its component, as specs know it.
        kind: what the component is.
    """

    distribution: str
    component: str
    kind: PluginKind = PluginKind.DISTANCE

    @classmethod
    def named(cls, name: str, kind: PluginKind = PluginKind.DISTANCE) -> PluginProject:
        """Return the project for a name: ``hello-distance`` has the distance ``hello``.

        Args:
            name: name of the distribution.
            kind: what its component is.

        Raises:
            ConfigurationError: the name is not one, or something installed has it or what follows from it.

        Examples:
            >>> PluginProject.named("hello-distance")
            PluginProject(distribution='hello-distance', component='hello', kind=<PluginKind.DISTANCE: 'distance'>)
        """
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
            likely = re.sub(r"[^a-z0-9]+", "-", canonicalize_name(name)).strip("-0123456789")
            hint = f"; did you mean {likely!r}?" if re.fullmatch(r"[a-z].*", likely) else ""
            raise ConfigurationError(
                "expected the name of a distribution in small letters, digits and single '-', beginning with a letter, "
                f"got {name!r}{hint}"
            )
        component = re.sub(rf"^dskd-|-(text-)?({ENDINGS})s?$", "", name).replace("-", "_")
        project = cls(name, component, kind)
        project._require_free_names()
        return project

    @property
    def package(self) -> str:
        """Name of the package that is imported."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """Name of the component's class."""
        return "".join(part.capitalize() for part in self.component.split("_"))

    def files(self) -> dict[str, str]:
        """Return the text of every file by its path in the distribution."""
        folder = files("dskd_components.cli") / "plugin_template"
        words = {
            "distribution": self.distribution,
            "package": self.package,
            "component": self.component,
            "class_name": self.class_name,
            "library_version": ".".join(__version__.split(".")[:2]),
            **KINDS[self.kind]._asdict(),
            "usage": KINDS[self.kind].usage.format(self.component),
        }
        found = {}
        for path, template in TEMPLATES.items():
            source = folder / f"{template.format(kind=self.kind.replace('-', '_'))}.template"
            text = Template(source.read_text(encoding="utf-8")).substitute(words)
            found[path.format(package=self.package, module=self.component)] = text
        return found

    def write(self, folder: Path) -> None:
        """Write all files into a folder that does not exist yet, or is empty.

        Args:
            folder: where to.

        Raises:
            ConfigurationError: there is something already, or the folder cannot be made.
        """
        try:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise ConfigurationError(
                    f"{folder} exists already; nothing was written. Remove it or choose another name."
                )
            for path, text in self.files().items():
                file = folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{folder} cannot be written: {error.strerror or error}.") from error

    def _require_free_names(self) -> None:
        for name in (self.package, self.component):
            if keyword.iskeyword(name) or not name.isidentifier():
                raise ConfigurationError(
                    f"{self.distribution!r} would need a module {name!r}, which Python cannot import."
                )
        if keyword.iskeyword(self.class_name):
            raise ConfigurationError(
                f"{self.distribution!r} would need a class {self.class_name!r}, which Python cannot have; choose "
                "another name."
            )
        if self.component == "plugin":
            raise ConfigurationError(
                f"{self.distribution!r} would need a module 'plugin' of its own beside the one with the hooks; choose "
                "another name, such as 'hello-plugin'."
            )
        if self.package in sys.stdlib_module_names or find_spec(self.package) is not None:
            raise ConfigurationError(
                f"{self.distribution!r} would need the package {self.package!r}, which exists already; choose another "
                "name."
            )
        kind = KINDS[self.kind].kind
        takers = [info for info in default_registry().components(kind) if info.name == self.component]
        if takers:
            raise ConfigurationError(
                f"{self.distribution!r} would have the {kind} {self.component!r}, which {takers[0].distribution} has "
                "already; choose another name."
            )


def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the distribution, such as hello-distance.", show_default=False)],
    kind: Annotated[
        PluginKind, typer.Option("--kind", "-k", help="What the plugin is to have one of.")
    ] = PluginKind.DISTANCE,
    directory: Annotated[
        Path, typer.Option("--directory", "-d", help="The folder in which to make the distribution's own.")
    ] = Path(),
) -> None:
    """Write a complete plugin: one component with package, tests, README and CI; it passes `dskd check` as it is."""
    project = PluginProject.named(name, kind)
    folder = directory / project.distribution
    project.write(folder)
    out = console()
    out.print(
        Text.assemble("Wrote ", (f"{folder}/", "bold"), f" with the {KINDS[kind].words} {project.component!r}:"),
        soft_wrap=True,
    )
    for path in sorted(project.files()):
        out.print(Text(f"  {path}"), soft_wrap=True)
    out.print()
    out.print(Text("Next:"))
    for command in (
        f"pip install --editable {folder if folder.is_absolute() else f'./{folder}'}",
        f"dskd check {project.distribution}",
        f"dskd show {project.component}",
    ):
        out.print(Text(f"  {command}", "cyan"), soft_wrap=True)
