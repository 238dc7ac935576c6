"""Specs: frozen, strict, readable from and to JSON, and described by a schema that says exactly what is read."""

from __future__ import annotations

import json
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates, get_distance, get_space, list_components
from dskd_components.aligners import CrossModelAttention
from dskd_components.components import Component
from dskd_components.distances import JS, KL, SkewKL
from dskd_components.spaces import StudentSpace, TeacherSpace
from dskd_components.spec.presets import PRESETS
from dskd_components.testing import variants
from tests.helpers.misspellings import misspelt
from tests.helpers.spec_strategies import models, near_documents, paths, schedules, spec_field, specs

if TYPE_CHECKING:
    from dskd_components.components import ComponentInfo

FIELDS = list(DSKDSpec.model_fields)
SCHEMA = DSKDSpec.model_json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
KINDS = {"distance": "distance", "aligner": "aligner", "t2s_projector": "projector", "s2t_projector": "projector"}


def refused(**fields: Any) -> dict[str, Any]:
    """Return the one error of a spec that is not valid."""
    with pytest.raises(ValidationError) as caught:
        DSKDSpec(**fields)
    [error] = caught.value.errors()
    return dict(error)


def label(info: ComponentInfo) -> str:
    return f"{info.kind} {info.name}"


# Reading and writing


@given(specs())
def test_a_spec_goes_through_json_and_back(spec: DSKDSpec) -> None:
    assert DSKDSpec.model_validate_json(spec.model_dump_json()) == spec
    assert DSKDSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    assert DSKDSpec.model_validate(spec.model_dump()) == spec
    assert hash(DSKDSpec.model_validate(spec.model_dump())) == hash(spec)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_goes_through_json_and_back(name: str) -> None:
    spec = DSKDSpec.preset(name)
    document = json.loads(spec.model_dump_json())
    assert DSKDSpec.model_validate(document) == spec
    assert set(document) == set(FIELDS)
    VALIDATOR.validate(document)


@pytest.mark.parametrize("info", list_components(), ids=label)
@settings(max_examples=30)
@given(data=st.data())
def test_a_component_goes_through_json_and_back(info: ComponentInfo, data: st.DataObject) -> None:
    of_kind = schedules().filter(lambda one: type(one) is info.component)  # the order of points is no type's matter
    component = data.draw(of_kind if info.kind == "schedule" else models(info.component))
    assert info.component.model_validate_json(component.model_dump_json()) == component
    assert hash(info.component.model_validate(component.model_dump())) == hash(component)


def test_a_component_is_given_as_instance_name_or_mapping() -> None:
    by_mapping = DSKDSpec(distance={"name": "skew_kl", "alpha": 0.1})
    assert by_mapping == DSKDSpec(distance="skew_kl") == DSKDSpec(distance=SkewKL())
    assert by_mapping == DSKDSpec(distance=MappingProxyType({"name": "skew_kl", "alpha": 0.1}))
    assert hash(by_mapping) == hash(DSKDSpec(distance="skew_kl"))
    assert by_mapping != DSKDSpec(distance=SkewKL(alpha=0.2))
    assert len({by_mapping, DSKDSpec(distance="skew_kl"), DSKDSpec()}) == 2


# Frozen, and validated whichever way it is made


@pytest.mark.parametrize("field", FIELDS)
def test_a_spec_is_frozen(field: str) -> None:
    spec = DSKDSpec()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(spec, field, getattr(spec, field))
    with pytest.raises(ValidationError, match="frozen"):
        delattr(spec, field)


@pytest.mark.parametrize("info", list_components(), ids=label)
def test_a_component_is_frozen(info: ComponentInfo) -> None:
    component = variants(info.component)[0]
    for field in info.component.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(component, field, getattr(component, field))


@pytest.mark.parametrize("preset", PRESETS)
@given(field=st.sampled_from(FIELDS), data=st.data())
def test_a_preset_can_be_overridden_field_by_field(preset: str, field: str, data: st.DataObject) -> None:
    value = data.draw(spec_field(field, DSKDSpec.preset(preset)))
    spec = DSKDSpec.preset(preset, **{field: value})
    assert getattr(spec, field) == value
    assert spec == DSKDSpec.preset(preset).replace(**{field: value})
    others = {name: getattr(DSKDSpec.preset(preset), name) for name in FIELDS if name != field}
    assert {name: getattr(spec, name) for name in others} == others


@pytest.mark.parametrize("make", [DSKDSpec, lambda **f: DSKDSpec.preset("dskd", **f), DSKDSpec().replace])
def test_every_way_to_a_spec_validates(make: Any) -> None:
    with pytest.raises(ValidationError, match=r"unknown field 'temprature' \(did you mean 'temperature'"):
        make(temprature=2.0)
    with pytest.raises(ValidationError, match=r"temperature\n.*greater than 0"):
        make(temperature=0.0)
    with pytest.raises(ValidationError, match="unknown distance 'k1'"):
        make(distance="k1")
    original = DSKDSpec()
    assert make(distance="js").distance == JS()
    assert original == DSKDSpec()


# Refusals: what, where, and what would do instead


@given(field=st.sampled_from(FIELDS), data=st.data())
def test_a_misspelt_field_is_refused(field: str, data: st.DataObject) -> None:
    wrong = data.draw(misspelt(field))
    assume(wrong not in FIELDS)
    error = refused(**{wrong: 1})
    assert error["loc"] == (wrong,)
    assert repr(field) in error["msg"].partition("; the fields")[0]
    assert error["msg"].endswith(f"; the fields are {', '.join(FIELDS)}")


@pytest.mark.parametrize("key", [None, True, 2.5, 3, ("a", 1), b"x", ""], ids=repr)
def test_a_key_of_any_type_is_refused(key: Any) -> None:
    """YAML has keys that are not strings."""
    for document in ({key: 1}, {"distance": {"name": "kl", key: 1}}):
        with pytest.raises(ValidationError, match="unknown field"):
            DSKDSpec.model_validate(document)


@given(data=st.data())
def test_an_unknown_option_is_refused_with_its_path(data: st.DataObject) -> None:
    document = data.draw(specs()).model_dump(mode="json")
    at = {path[:-1] for path in paths(document) if path and path[-1] == "name"}
    path = data.draw(st.sampled_from(sorted(at, key=str)))
    inner = document
    for step in path:
        inner = inner[step]
    field = data.draw(st.sampled_from(sorted(inner)))
    wrong = data.draw(misspelt(field))
    assume(wrong not in inner)
    inner[wrong] = 1
    for read in (DSKDSpec.model_validate, lambda d: DSKDSpec.model_validate_json(json.dumps(d))):
        with pytest.raises(ValidationError) as caught:
            read(document)
        [error] = caught.value.errors()
        assert error["loc"] == (*path, wrong)
        assert f"unknown field {wrong!r} (did you mean" in error["msg"]
        assert f"the fields are {', '.join(inner)}".startswith(error["msg"].partition("; ")[2])


@pytest.mark.parametrize(
    ("teacher", "path", "message"),
    [
        ({"name": "teacher", "distance": {"name": "skew_kl", "alpha": 2}}, ("distance", "alpha"), "less than 1"),
        ({"name": "teacher", "distance": {"name": "skew_kl", "alpah": 0.2}}, ("distance", "alpah"), "'alpha'"),
        ({"name": "teacher", "distance": {"name": "scew_kl"}}, ("distance", "name"), "'skew_kl'"),
        ({"name": "teacher", "distance": "scew_kl"}, ("distance",), "'skew_kl'"),
        ({"name": "teacher", "distance": {"alpha": 0.2}}, ("distance",), "name under 'name'"),
        ({"name": "teacher", "weight": -1}, ("weight",), "greater than or equal to 0"),
        ({"name": "techer"}, ("name",), "'teacher'"),
        ("techer", (), "'teacher'"),
        (TeacherSpace, (), "TeacherSpace()"),
    ],
    ids=repr,
)
def test_an_error_inside_a_space_has_its_path(teacher: Any, path: tuple[str, ...], message: str) -> None:
    error = refused(spaces=["student", teacher])
    assert error["loc"] == ("spaces", 1, *path)
    assert message in error["msg"]


def test_all_errors_come_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        DSKDSpec(temperature=-1, kd_rate=2, distance="k1", spaces=["student", "techer"])
    assert {error["loc"] for error in caught.value.errors()} == {
        ("temperature",),
        ("kd_rate",),
        ("distance",),
        ("spaces", 1),
    }


NUMBERS = ["temperature", "teacher_temperature", "kd_rate"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -1e-300, "warm", None, [1.0]], ids=repr)
@pytest.mark.parametrize("field", NUMBERS)
def test_what_is_not_a_number_in_range_is_refused(field: str, value: Any) -> None:
    assert refused(**{field: value})["loc"] == (field,)


@pytest.mark.parametrize("info", list_components(), ids=label)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=repr)
def test_no_component_has_an_option_that_is_not_finite(info: ComponentInfo, value: float) -> None:
    for field in info.component.model_fields:
        with pytest.raises(ValidationError) as caught:
            info.component.model_validate(dict(variants(info.component)[0]) | {field: value})
        assert caught.value.errors()[0]["loc"][0] == field


WRONG_VALUES: dict[str, tuple[Any, str]] = {
    "None": (None, "got None"),
    "number": (3, "got int 3"),
    "list": (["kl"], "got list ['kl']"),
    "class of the library": (DSKDSpec, "got the class DSKDSpec"),
    "mapping without a name": ({}, "got {}"),
    "mapping with a number for a name": ({"name": 3}, "got {'name': 3}"),
}


@pytest.mark.parametrize("field", KINDS)
@pytest.mark.parametrize(("value", "message"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_what_is_no_component_is_refused(field: str, value: Any, message: str) -> None:
    kind = KINDS[field]
    error = refused(**{field: value})
    assert error["loc"] == (field,)
    assert error["msg"].endswith(message)
    assert (f"expected a{'n' * (kind == 'aligner')} {kind}: an instance, a name, or a mapping" in error["msg"]) or (
        f"expected a mapping with the {kind}'s name under 'name'" in error["msg"]
    )


@pytest.mark.parametrize("field", KINDS)
@pytest.mark.parametrize("info", list_components(), ids=label)
def test_a_class_for_an_instance_and_a_wrong_kind_are_refused(field: str, info: ComponentInfo) -> None:
    article = "an" if KINDS[field] == "aligner" else "a"
    of_class = refused(**{field: info.component})
    assert f"expected {article} {KINDS[field]}" in of_class["msg"]
    assert f"got the class {info.component.__name__}" in of_class["msg"]
    assert (f"did you mean {info.component.__name__}()?" in of_class["msg"]) == (info.kind == KINDS[field])
    if info.kind != KINDS[field]:
        of_instance = refused(**{field: variants(info.component)[0]})
        assert f"got the {info.kind} {info.name!r}" in of_instance["msg"]


@pytest.mark.parametrize("value", [None, "student", 3, [], {}, [None]], ids=repr)
def test_what_is_no_list_of_spaces_is_refused(value: Any) -> None:
    assert refused(spaces=value)["loc"][0] == "spaces"


def test_a_space_twice_is_refused() -> None:
    error = refused(spaces=["student", "teacher", StudentSpace(filter="correct")])
    assert error["loc"] == ("spaces",)
    assert "expected different spaces, got 'student' twice" in error["msg"]


def test_an_empty_list_of_spaces_is_refused() -> None:
    error = refused(spaces=[])
    assert error["loc"] == ("spaces",)
    assert "expected at least one space" in error["msg"]


@pytest.mark.parametrize("document", [None, 3, "dskd", [], [("distance", "kl")]], ids=repr)
def test_what_is_no_mapping_is_refused(document: Any) -> None:
    with pytest.raises(ValidationError, match="valid dictionary"):
        DSKDSpec.model_validate(document)


def test_an_overridden_field_that_is_not_used_is_still_checked() -> None:
    assert refused(aligner=CrossModelAttention, distance="kl")["loc"] == ("aligner",)


# The schema


def test_the_schema_is_a_json_schema_with_everything_installed() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    text = json.dumps(SCHEMA)
    for info in list_components():
        assert f'"const": {json.dumps(info.name)}' in text
    assert {"tvd", "kl"} <= set(SCHEMA["properties"]["distance"]["anyOf"][0]["enum"])


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_both_schemas_describe_every_option(mode: Any) -> None:
    properties = DSKDSpec.model_json_schema(mode=mode)["properties"]
    assert set(properties) == set(FIELDS)
    assert all("description" in described for described in properties.values())
    [skew_kl] = [option for option in properties["distance"]["anyOf"] if option.get("title") == "SkewKL"]
    assert skew_kl["properties"]["alpha"]["description"] == "The share of the teacher that is mixed into the student."
    assert skew_kl["required"] == ["name"]


@settings(max_examples=200)
@given(near_documents())
def test_the_schema_accepts_exactly_what_is_read(document: Any) -> None:
    described = VALIDATOR.is_valid(document)
    try:
        spec, refusal = DSKDSpec.model_validate_json(json.dumps(document)), ""
    except ValidationError as error:
        spec, refusal = None, str(error)
    assert described == (spec is not None), refusal
    if spec is not None:
        assert VALIDATOR.is_valid(spec.model_dump(mode="json"))


# A distance from another distribution


def test_a_distance_of_a_plugin_is_used_by_name() -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    spec = DSKDSpec.preset("vanilla-kd", distance="tvd", kd_rate=1.0)
    targets = torch.randint(0, 11, (2, 5), generator=generator)
    targets[0, 3:] = -100
    h_s, w_s = torch.randn(2, 5, 4, generator=generator, requires_grad=True), torch.randn(11, 4, generator=generator)
    h_t, w_t = torch.randn(2, 5, 6, generator=generator), torch.randn(11, 6, generator=generator)
    out = DSKDLoss(spec, student_hidden_size=4, teacher_hidden_size=6)(
        LMStates(hidden_states=h_s, targets=targets, head=Head(w_s)),
        LMStates(hidden_states=h_t, targets=targets, head=Head(w_t)),
    )
    gaps = ((h_s @ w_s.T).softmax(-1) - (h_t @ w_t.T).softmax(-1)).abs().sum(-1) / 2
    torch.testing.assert_close(out.loss, gaps[targets >= 0].mean())
    out.loss.backward()
    assert h_s.grad is not None
    assert h_s.grad.isfinite().all()
    assert h_s.grad.any()


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma"])
def test_a_distance_of_a_plugin_works_in_both_spaces(preset: str) -> None:
    spaces = [get_space("student", distance="tvd"), {"name": "teacher", "distance": {"name": "tvd"}}]
    assert DSKDSpec.preset(preset, spaces=spaces) == DSKDSpec.preset(
        preset, spaces=[StudentSpace(distance=get_distance("tvd")), TeacherSpace(distance=get_distance("tvd"))]
    )
    assert isinstance(DSKDSpec(distance="tvd").distance, Component)
    assert DSKDSpec(distance="tvd") != DSKDSpec(distance=KL())
