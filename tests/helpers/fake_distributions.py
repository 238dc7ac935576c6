"""Distributions as an installer leaves them on disk: a module and a folder of metadata that declares its plugin."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PREAMBLE = """
from typing import Literal
from dskd_components import Aligner, Distance, Projector, Schedule, Space, hookimpl

def distance_class(label):
    class Some(Distance):
        name: Literal[label] = label
        def __call__(self, student_log_probs, teacher_log_probs):
            return (student_log_probs.exp() - teacher_log_probs.exp()).square().sum(-1)
    return Some

"""


@dataclass(frozen=True)
class FakeDistribution:
    """A distribution with one module, ``<name>`` with underscores, that is its plugin.

    Args:
        name: name of the distribution.
        source: what the module does after `PREAMBLE`.
        version: version of the distribution.
        value: what the entry point names; None: the module.
        metadata: the text of METADATA; None: the usual one, "": no such file.
        preamble: whether the module starts with `PREAMBLE`.
    """

    name: str
    source: str
    version: str = "1.0"
    value: str | None = None
    metadata: str | None = None
    preamble: bool = True

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    @property
    def plugin(self) -> str:
        """Name of the entry point; unlike the distribution's, so that a message can be seen to have both."""
        return f"{self.name}-entry"

    def install(self, folder: Path) -> None:
        source = PREAMBLE * self.preamble + textwrap.dedent(self.source)
        (folder / f"{self.module}.py").write_text(source, encoding="utf-8")
        info = folder / f"{self.module}-{self.version}.dist-info"
        info.mkdir()
        metadata = self.metadata
        if metadata is None:
            metadata = f"Metadata-Version: 2.4\nName: {self.name}\nVersion: {self.version}\n"
        if metadata:
            (info / "METADATA").write_text(metadata, encoding="utf-8")
        value = self.value or self.module
        (info / "entry_points.txt").write_text(f"[dskd_components]\n{self.plugin} = {value}\n", encoding="utf-8")


def offering(name: str, *labels: str, version: str = "1.0") -> FakeDistribution:
    """Return a healthy distribution with one distance a label."""
    classes = ", ".join(f"distance_class({label!r})" for label in labels)
    return FakeDistribution(name, f"@hookimpl\ndef dskd_distances():\n    return [{classes}]\n", version=version)
