"""An unknown name or field is an error that says which ones there are, the nearest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from dskd_components import (
    DSKDSpec,
    UnknownComponentError,
    get_aligner,
    get_distance,
    get_projector,
    get_schedule,
    get_space,
    list_components,
)
from dskd_components.spec.presets import PRESETS
from tests.helpers.misspellings import misspelt

if TYPE_CHECKING:
    from dskd_components.components import ComponentInfo

GETTERS: dict[str, Any] = {
    "distance": get_distance,
    "aligner": get_aligner,
    "projector": get_projector,
    "space": get_space,
    "schedule": get_schedule,
}


def names(kind: str) -> list[str]:
    return [info.name for info in list_components(kind)]


def label(info: ComponentInfo) -> str:
    return f"{info.kind} {info.name}"


@given(kind=st.sampled_from(sorted(GETTERS)), data=st.data())
def test_a_misspelt_name_answers_with_the_right_one(kind: str, data: st.DataObject) -> None:
    right = data.draw(st.sampled_from(names(kind)))
    wrong = data.draw(misspelt(right))
    assume(wrong not in names(kind))
    with pytest.raises(UnknownComponentError) as error:
        GETTERS[kind](wrong)
    message = str(error.value)
    assert message.startswith(f"unknown {kind} {wrong!r} (did you mean ")
    assert f"installed: {', '.join(names(kind))}" in message
    if len(right) >= 4:  # a slip in two letters leaves too little to go by
        assert repr(right) in message.partition("; installed")[0]


@given(kind=st.sampled_from(sorted(GETTERS)), wrong=st.text())
def test_any_other_text_answers_with_all_names(kind: str, wrong: str) -> None:
    assume(wrong not in names(kind))
    with pytest.raises(UnknownComponentError) as error:
        GETTERS[kind](wrong)
    assert f"unknown {kind} {wrong!r}" in str(error.value)
    assert f"installed: {', '.join(names(kind))}" in str(error.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("KL", "kl"), ("Reverse-KL", "reverse_kl"), ("skew kl", "skew_kl"), ("SkewReverseKL", "skew_reverse_kl")],
)
def test_another_way_to_write_a_name_is_recognised(typed: str, meant: str) -> None:
    with pytest.raises(UnknownComponentError, match=f"did you mean '{meant}'"):
        get_distance(typed)


@pytest.mark.parametrize("info", list_components(), ids=label)
def test_a_name_of_another_kind_says_so(info: ComponentInfo) -> None:
    for kind, get in GETTERS.items():
        if info.name in names(kind):
            continue
        with pytest.raises(UnknownComponentError, match=f"unknown {kind} '{info.name}'") as error:
            get(info.name)
        _, _, named = str(error.value).partition(f"'{info.name}' is the name of ")
        assert f"{'an' if info.kind == 'aligner' else 'a'} {info.kind}" in named


def test_an_unknown_kind() -> None:
    with pytest.raises(UnknownComponentError, match=r"'distanse' .did you mean 'distance'.*aligner, projector, space"):
        list_components("distanse")


@given(name=st.sampled_from(sorted(PRESETS)), data=st.data())
def test_an_unknown_preset(name: str, data: st.DataObject) -> None:
    wrong = data.draw(misspelt(name))
    assume(wrong not in PRESETS)
    with pytest.raises(UnknownComponentError) as error:
        DSKDSpec.preset(wrong)
    assert repr(name) in str(error.value).partition("; the presets")[0]
    assert all(preset in str(error.value) for preset in PRESETS)


@pytest.mark.parametrize("info", list_components(), ids=label)
@given(data=st.data())
def test_an_unknown_option(info: ComponentInfo, data: st.DataObject) -> None:
    fields = list(info.component.model_fields)
    field = data.draw(st.sampled_from(fields))
    wrong = data.draw(misspelt(field))
    assume(wrong not in fields)
    with pytest.raises(ValidationError) as error:
        GETTERS[info.kind](info.name, **{wrong: 1})
    [only] = error.value.errors()
    assert only["loc"] == (wrong,)
    assert only["type"] == "unknown_field"
    assert f"unknown field {wrong!r} (did you mean " in only["msg"]
    assert repr(field) in only["msg"].partition("; the fields")[0]
    assert only["msg"].endswith(f"the fields are {', '.join(fields)}")


def test_a_listed_component_prints_as_one_readable_line() -> None:
    [line] = [str(info) for info in list_components("distance") if info.name == "tvd"]
    assert line.startswith("distance 'tvd' (dskd-divergences 0.1.0): Total variation")
    assert "\n" not in line
    assert [info.kind for info in list_components("aligner")] == ["aligner"] * len(names("aligner"))
