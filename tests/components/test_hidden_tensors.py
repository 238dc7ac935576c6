"""Components hold no tensor, parameter or module in whatever attribute: what has those is built."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic import ConfigDict, ValidationError
from torch import Tensor, nn

from dskd_components import (
    Aligner,
    AlignerModule,
    ConfigurationError,
    Distance,
    Projection,
    Projector,
    Space,
    SpaceResult,
)

HELD = {
    "Tensor": lambda: torch.ones(2),
    "Parameter": lambda: nn.Parameter(torch.ones(())),
    "Linear": lambda: nn.Linear(1, 1),
}
AROUND = {
    "as it is": lambda held: held,
    "in a list": lambda held: [1, held],
    "in a dictionary": lambda held: {"a": {"b": held}},
    "in an object": lambda held: SimpleNamespace(inner=held),
}


class Holding(Distance):
    name: Literal["holding"] = "holding"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return (student_log_probs.exp() - teacher_log_probs.exp()).square().sum(-1)


def in_post_init(value: Any) -> type[Distance]:
    class Made(Holding):
        _kept: Any = None

        def model_post_init(self, _context: Any, /) -> None:
            self._kept = value

    return Made


def past_pydantic(value: Any) -> type[Distance]:
    class Made(Holding):
        def model_post_init(self, _context: Any, /) -> None:
            object.__setattr__(self, "_kept", value)

    return Made


def by_default(value: Any) -> type[Distance]:
    class Made(Holding):
        _kept: Any = value

    return Made


def in_a_field(value: Any) -> type[Distance]:
    class Made(Holding):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        kept: Any = value

    return Made


WAYS = {"in model_post_init": in_post_init, "past pydantic": past_pydantic, "by default": by_default}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_kept_in_a_private_attribute_is_refused(way: str, held: str, around: str) -> None:
    made = WAYS[way](AROUND[around](HELD[held]()))
    with pytest.raises((ConfigurationError, ValidationError), match=rf"holds a {held} in '_kept'.*build\(...\)"):
        made()


def test_so_is_what_a_field_or_the_class_has() -> None:
    with pytest.raises((ConfigurationError, ValidationError), match="holds a Tensor in 'kept'"):
        in_a_field(torch.ones(1))()
    with pytest.raises(ConfigurationError, match="holds a Tensor in 'table'"):

        class OfTheClass(Holding):
            table: ClassVar[Tensor] = torch.ones(3)


def test_so_is_what_is_set_later() -> None:
    class Lazy(Holding):
        _scale: Any = None

        def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
            self._scale = self._scale or nn.Parameter(torch.ones(()))
            return super().__call__(student_log_probs, teacher_log_probs)

    rows = torch.randn(2, 3).log_softmax(-1)
    with pytest.raises(ConfigurationError, match="'holding' holds a Parameter in '_scale'"):
        Lazy()(rows, rows)


def test_every_kind_is_held_to_it() -> None:
    class OneSpace(Space):
        side: ClassVar[Any] = "student"
        name: Literal["one"] = "one"
        _kept: Any = torch.ones(1)

        def compare(self, rows: Any) -> SpaceResult:
            raise NotImplementedError

    class OneProjector(Projector):
        name: Literal["one"] = "one"
        _kept: Any = torch.ones(1)

        def build(self, *, source_size: int, target_size: int, heads: Any) -> Projection:
            raise NotImplementedError

    class OneAligner(Aligner):
        name: Literal["one"] = "one"
        _kept: Any = torch.ones(1)

        def build(self, **options: Any) -> AlignerModule:
            raise NotImplementedError

    for made, kind in ((OneSpace, "space"), (OneProjector, "projector"), (OneAligner, "aligner")):
        with pytest.raises((ConfigurationError, ValidationError), match=f"The {kind} 'one' holds a Tensor"):
            made()


def test_options_are_no_tensors() -> None:
    class Optional(Holding):
        _known: Any = None
        names: tuple[str, ...] = ("a",)

        def model_post_init(self, _context: Any, /) -> None:
            self._known = {"text": ["x"], "function": len, "class": nn.Linear}

    assert Optional() == Optional()


def test_one_that_builds_cannot_be_called_itself() -> None:
    class Built(Distance):
        name: Literal["built"] = "built"

        def build(self, *, tokens: Any, heads: Any) -> nn.Module:
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match=r"'built' has parameters.*rows\.function_of"):
        Built()(torch.zeros(1, 2), torch.zeros(1, 2))


def test_a_class_with_neither_is_abstract() -> None:
    class Neither(Distance):
        name: Literal["neither"] = "neither"

    with pytest.raises(TypeError, match=r"abstract.*__call__"):
        Neither()
