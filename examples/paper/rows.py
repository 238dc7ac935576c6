"""The rows of the papers' tables: a pair of models, a method, a distance."""

from __future__ import annotations

import json
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

from dskd_components.errors import did_you_mean
from dskd_components.spec import parse_spec
from examples.paper.recipe import Frozen, Method, Model, Pair, PaperError, Training, common, pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components import DSKDSpec

UNNAMED: Final = "kl"
"""The distance of a row whose name has none."""


class Row(Frozen):
    """A row of a table: a pair, a method, and a distance if the method has several.

    Args:
        pair_name: as the file is called.
        pair: the models.
        method_name: of the method.
        method: what it is.
        distance: its suffix; None: the method has one of its own.
    """

    pair_name: str
    pair: Pair
    method_name: str
    method: Method
    distance: str | None = None

    @property
    def short_name(self) -> str:
        """The name within the pair, ``dskd-rkl``."""
        suffix = "" if self.distance in (None, UNNAMED) else f"-{self.distance}"
        return f"{self.method_name}{suffix}"

    @property
    def name(self) -> str:
        """The whole name, ``gpt2-gpt2/dskd-rkl``."""
        return f"{self.pair_name}/{self.short_name}"

    @property
    def title(self) -> str:
        """What tables say."""
        return self.method.title if self.distance is None else f"{self.method.title}, {self.distance.upper()}"

    @property
    def trains_teacher(self) -> bool:
        """Whether it is the teacher that is trained, and nothing distilled."""
        return self.method_name == "teacher"

    @property
    def model(self) -> Model:
        """The model that is trained."""
        return self.pair.teacher if self.trains_teacher else self.pair.student

    @property
    def training(self) -> Training:
        """How it is trained.

        Raises:
            PaperError: it is taken ready.
        """
        training = self.pair.teacher_training if self.trains_teacher else self.pair.training
        if training is None:
            raise PaperError(
                f"{self.name}: {self.model.name} is taken ready from {self.model.source}, so there is nothing to "
                f"train. Go on with: generate --row {self.name} --model PATH"
            )
        size = self.pair.micro_batch_sizes.get(self.method_name, training.micro_batch_size)
        return training.model_copy(update={"micro_batch_size": size})

    @cached_property
    def spec(self) -> DSKDSpec | None:
        """The spec of the loss; None: cross entropy alone.

        Raises:
            SpecFileError: the spec is not valid, as where a plugin that it names is not installed.
        """
        if self.method.spec is None:
            return None
        fields = dict(self.method.spec)
        if self.distance is not None:
            fields["distance"] = dict(common().distances[self.distance])
        return parse_spec(json.dumps(fields), syntax="json", source=f"spec of {self.name}")

    @property
    def published(self) -> float | None:
        """The published average over the five test sets, if the recipe has it."""
        return self.pair.published.get(self.short_name)


@cache
def rows() -> Mapping[str, Row]:
    """Return all rows, by name, in the order of the tables."""
    found = {}
    for pair_name, pair in pairs().items():
        for name in pair.methods:
            method = common().methods[name]
            for distance in common().distances if method.every_distance else (None,):
                row = Row(pair_name=pair_name, pair=pair, method_name=name, method=method, distance=distance)
                found[row.name] = row
    return found


def row_of(name: str) -> Row:
    """Return a row.

    Args:
        name: as ``gpt2-qwen/dskd-cma``, or ``gpt2-gpt2/kd-rkl`` with another distance than KL.

    Raises:
        PaperError: there is none of this name; the message names the nearest.
    """
    known = rows()
    if name not in known:
        raise PaperError(
            f"There is no row {name!r}{did_you_mean(name, list(known))}. `python -m examples.paper rows` lists all."
        )
    return known[name]
