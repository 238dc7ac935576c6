"""Options that the built-in components do not happen to have: required, structured, or components themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field, ValidationError, create_model

from dskd_components import Aligner, Distance, DSKDSpec, Projector, Schedule, Space, components, get_distance
from dskd_components.distances import JS
from dskd_components.testing import check_distance, variants
from tests.helpers.fake_distributions import FakeDistribution

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = """
from collections.abc import Callable
from enum import Enum
from typing import Annotated
from pydantic import Field
from dskd_components.components.component import FrozenModel
from dskd_components.components import AnyDistance

class Silent(Distance):
    def __call__(self, student_log_probs, teacher_log_probs):
        return (student_log_probs * 0).nan_to_num().sum(-1)

class Needy(Silent):
    name: Literal["needy"] = "needy"
    order: Annotated[float, Field(gt=0)]

class Side(Enum):
    LEFT = "left"
    RIGHT = "right"

class Band(FrozenModel):
    low: float
    high: float = 1.0

class Structured(Silent):
    name: Literal["structured"] = "structured"
    bands: tuple[Band, ...] = (Band(low=0.0), Band(low=0.5, high=0.7))
    side: Side = Side.LEFT

class Mixture(Silent):
    name: Literal["mixture"] = "mixture"
    parts: Annotated[tuple[AnyDistance, ...], Field(min_length=1)] = ("kl",)

class Renamed(Silent):
    name: Literal["renamed"] = "renamed"
    strength: Annotated[float, Field(ge=0, alias="lambda")] = 1.0

class Custom(Silent):
    name: Literal["custom"] = "custom"
    weigh: Callable[[float], float] | None = None

@hookimpl
def dskd_distances():
    return [Needy, Structured, Mixture, Renamed, Custom]
"""


@pytest.fixture(autouse=True)
def installed(install: Callable[..., None]) -> None:
    install(FakeDistribution("many-options", SOURCE))


def is_described(distance: Any) -> bool:
    schema = DSKDSpec.model_json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema).is_valid({"distance": distance})


def is_read(distance: Any) -> bool:
    try:
        spec = DSKDSpec(distance=distance)
    except ValidationError:
        return False
    assert DSKDSpec.model_validate_json(spec.model_dump_json()) == spec
    assert DSKDSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert hash(spec) == hash(DSKDSpec.model_validate(spec.model_dump()))
    return True


READ = {
    "required": {"name": "needy", "order": 2.0},
    "structured by name": "structured",
    "structured": {"name": "structured", "bands": [{"low": 0.1}], "side": "right"},
    "mixture by name": "mixture",
    "mixture": {"name": "mixture", "parts": ["js", {"name": "skew_kl", "alpha": 0.3}]},
    "not for JSON": "custom",
    "not for JSON, with its name": {"name": "custom"},
    "mixture of mixtures": {"name": "mixture", "parts": [{"name": "mixture", "parts": ["tvd"]}]},
}
REFUSED = {
    "required by name": ("needy", ("distance", "order")),
    "required without it": ({"name": "needy"}, ("distance", "order")),
    "structured inside": ({"name": "structured", "bands": [{"lo": 1}]}, ("distance", "bands", 0, "lo")),
    "structured without": ({"name": "structured", "bands": [{}]}, ("distance", "bands", 0, "low")),
    "enumeration": ({"name": "structured", "side": "up"}, ("distance", "side")),
    "unknown part": ({"name": "mixture", "parts": ["kl", "k1"]}, ("distance", "parts", 1)),
    "nameless part": ({"name": "mixture", "parts": ["kl", {"alpha": 0.1}]}, ("distance", "parts", 1)),
}


@pytest.mark.parametrize("distance", READ.values(), ids=READ)
def test_it_is_described_and_read(distance: Any) -> None:
    assert is_described(distance)
    assert is_read(distance)


@pytest.mark.parametrize(("distance", "path"), REFUSED.values(), ids=REFUSED)
def test_it_is_neither_described_nor_read(distance: Any, path: tuple[Any, ...]) -> None:
    assert not is_described(distance)
    with pytest.raises(ValidationError) as caught:
        DSKDSpec(distance=distance)
    [error] = caught.value.errors()
    assert error["loc"] == path


def test_an_option_of_a_part_is_refused_with_its_path() -> None:
    with pytest.raises(ValidationError) as caught:
        DSKDSpec(distance={"name": "mixture", "parts": ["kl", {"name": "skew_kl", "alpha": 2}]})
    [error] = caught.value.errors()
    assert error["loc"] == ("distance", "parts", 1, "alpha")


def test_a_required_option_is_asked_for() -> None:
    with pytest.raises(ValidationError, match=r"order\n.*[Rr]equired"):
        get_distance("needy")


BASES: dict[str, Any] = {"Distance": Distance, "Aligner": Aligner, "Projector": Projector, "Space": Space}
AROUND: dict[str, Any] = {
    "itself": lambda base: base,
    "or None": lambda base: base | None,
    "several": lambda base: tuple[base, ...],  # type: ignore[valid-type]
    "by name": lambda base: dict[str, base],  # type: ignore[valid-type]
    "with a bound": lambda base: Annotated[tuple[base, ...], Field(min_length=1)],  # type: ignore[valid-type]
    "annotated": lambda base: Annotated[base, "of whatever"] | None,
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("name", BASES)
def test_an_option_that_holds_a_component_must_be_able_to_read_and_write_it(name: str, around: Any) -> None:
    """Pydantic would make an instance of the base class of a mapping, and write the base class's fields alone."""
    fields = {"name": (Literal["holder"], "holder"), "base": (around(BASES[name]), None)}
    with pytest.raises(TypeError, match=rf"^Holder.base: expected Any{name}, .*, got {name}"):
        create_model("Holder", __base__=Schedule, **fields)  # type: ignore[call-overload]
    fields["base"] = (around(getattr(components, f"Any{name}")), None)
    create_model("Holder", __base__=Schedule, **fields)  # type: ignore[call-overload]


def test_one_class_may_be_an_option_that_is_read_by_its_own_fields() -> None:
    class Scaled(Distance):
        name: Literal["scaled"] = "scaled"
        base: JS = JS()

        def __call__(self, student_log_probs: Any, teacher_log_probs: Any) -> Any:
            return 2 * self.base(student_log_probs, teacher_log_probs)

    assert Scaled.model_validate_json(Scaled(base=JS(beta=0.1)).model_dump_json()).base.beta == 0.1


def test_an_option_may_have_a_name_in_files_that_python_cannot_have() -> None:
    spec = DSKDSpec(distance={"name": "renamed", "lambda": 0.5})
    distance: Any = spec.distance
    assert distance.strength == 0.5
    assert distance.model_dump() == {"name": "renamed", "lambda": 0.5}
    assert is_described(distance.model_dump())
    assert is_read(distance.model_dump())
    assert type(distance)(strength=0.5) == get_distance("renamed", strength=0.5) == distance
    with pytest.raises(ValidationError, match=r"unknown field 'lamda' \(did you mean 'lambda'\?\)"):
        DSKDSpec(distance={"name": "renamed", "lamda": 0.5})
    assert [one.strength for one in variants(type(distance))] == [1.0, 0.75, 2.25]  # type: ignore[attr-defined]
    assert check_distance(type(distance)(), max_examples=1).results[-1].outcome == "passed"


DECLARED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no side": (Space, {}, "side: expected 'student' or 'teacher', .* got None"),
    "a misspelt side": (Space, {"side": "studnet"}, "side: expected 'student' or 'teacher', .* got 'studnet'"),
    "away from its side": (
        Space,
        {"side": "student", "projector": "s2t"},
        "projector: expected 't2s' or None, .*'s2t'",
    ),
    "no direction": (
        Space,
        {"side": "teacher", "projector": "linear"},
        "projector: expected 's2t' or None, .*'linear'",
    ),
    "a term alone": (
        Space,
        {"side": "student", "terms": ("a_kd")},
        r"terms: expected a tuple of names.*'a_kd'.*\('a_kd',\)",
    ),
    "a distance term": (Space, {"side": "student", "distance_terms": "a"}, "distance_terms: expected a tuple of names"),
    "a column": (Space, {"side": "student", "reads_columns": "student_x"}, "reads_columns: expected a tuple of names"),
    "an aligner's term": (Aligner, {"terms": "a"}, "terms: expected a tuple of names"),
    "numbers": (Aligner, {"terms": (1, 2)}, r"terms: expected a tuple of names.* got \(1, 2\)"),
}


@pytest.mark.parametrize(("base", "declared", "message"), DECLARED.values(), ids=DECLARED)
def test_what_a_class_declares_is_checked_when_it_is_made(base: Any, declared: dict[str, Any], message: str) -> None:
    """A side or direction that there is not was one engine's error, and another loss in the other."""
    members = {
        "__module__": __name__,
        "__annotations__": {"name": Literal["declaring"]} | dict.fromkeys(declared, ClassVar[Any]),
        "name": "declaring",
        "compare": lambda self, rows: None,
        "build": lambda self, **given: None,
        **declared,
    }
    with pytest.raises(TypeError, match=f"^Declaring.{message}"):
        type("Declaring", (base,), members)
