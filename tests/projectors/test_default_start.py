"""What the projectors of a plain spec start from: the heads, as far as these are known and share enough tokens."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch

from dskd_components import (
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    Head,
    InputError,
    Projection,
    Projector,
    ProjectorHeads,
)
from dskd_components.projectors import MLP, Linear, Pinv
from dskd_components.projectors.linear import LinearProjection
from dskd_components.projectors.pinv import ENOUGH, PinvProjection
from tests.helpers.models import tiny_model
from tests.helpers.pairs import look, sound_pair

STUDENT, TEACHER = (300, 8), (320, 12)


def built(aligner: str, *, shared: int | None = None, heads: bool = True, **fields: Any) -> DSKDLoss:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    student, teacher = (torch.randn(size, generator=generator) for size in (STUDENT, TEACHER))
    options: dict[str, Any] = {"student_head": Head(student), "teacher_head": Head(teacher)} if heads else {}
    if shared is not None:
        ids = torch.arange(len(teacher))
        options["teacher_to_student_ids"] = ids.where(ids < shared, -1)
    spec = DSKDSpec(aligner=aligner, **fields)
    return DSKDLoss(spec, student_hidden_size=STUDENT[1], teacher_hidden_size=TEACHER[1], **options)


def kinds(loss_fn: DSKDLoss) -> dict[str, str]:
    names = {PinvProjection: "pinv", LinearProjection: "linear"}
    return {direction: names[type(projection)] for direction, projection in loss_fn.projectors.items()}


ALL, NONE = {"t2s": "pinv", "s2t": "pinv"}, {"t2s": "linear", "s2t": "linear"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"aligner": "identity"}, ALL),
        ({"aligner": "identity", "heads": False}, NONE),
        ({"aligner": "span", "shared": 300}, ALL),
        ({"aligner": "span", "shared": ENOUGH * 12}, ALL),
        ({"aligner": "span", "shared": ENOUGH * 12 - 1}, {"t2s": "pinv", "s2t": "linear"}),
        ({"aligner": "span", "shared": ENOUGH * 8 - 1}, NONE),
        ({"aligner": "span", "shared": 0}, NONE),
        ({"aligner": "span"}, NONE),
        ({"aligner": "span", "heads": False}, NONE),
        ({"aligner": "cma"}, NONE),
        ({"aligner": "cma", "shared": 300}, ALL),
    ],
)
def test_the_heads_decide(options: dict[str, Any], expected: dict[str, str]) -> None:
    assert kinds(built(**options)) == expected


def test_what_falls_back_is_the_calibrated_linear_projector() -> None:
    states = []
    for fields in ({}, {"t2s_projector": "linear", "s2t_projector": Linear()}):
        torch.manual_seed(0)
        states.append(built("span", **fields).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert built("span", t2s_projector=Pinv(otherwise="linear", bias=False)).projectors["t2s"].bias is None


def test_what_is_learned_has_the_same_names_wherever_it_starts() -> None:
    """So that a checkpoint does not depend on what was known when the loss was built."""
    shapes = [
        {name: tensor.shape for name, tensor in loss_fn.projectors.state_dict().items()}
        for loss_fn in (built("span"), built("span", shared=300), built("span", heads=False))
    ]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize(
    ("shared", "at_most"), [(24, 1.05), (ENOUGH * 24 - 1, 1.05), (ENOUGH * 24, 0.75), (2000, 0.65)]
)
def test_too_few_shared_tokens_make_anything_of_the_others(shared: int, at_most: float) -> None:
    """Of two heads that mean the same but for noise; in multiples of a uniform guess, of which the teacher has 0.54."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    meaning, ids = random(2000, 12), torch.arange(shared)
    source, target = (Head(meaning @ random(12, width) + random(2000, width)) for width in (32, 24))
    states = random(200, 32)
    states = states * (3 / source.logits(states).std(-1).mean())
    labels = torch.multinomial(source.logits(states).softmax(-1), 1, generator=generator).squeeze(1)
    heads = ProjectorHeads(source=source, target=target, source_ids=ids, target_ids=ids)

    def start(**options: Any) -> float:
        projection = Pinv(**options).build(source_size=32, target_size=24, heads=heads)
        projected = projection(states, heads).detach()
        return float(torch.nn.functional.cross_entropy(target.logits(projected), labels)) / math.log(2000)

    assert start(otherwise="linear") <= at_most
    if shared == 24:
        assert start(otherwise="error") > 2


def test_one_who_asks_for_a_pseudo_inverse_gets_it_or_an_error() -> None:
    with pytest.raises(ConfigurationError, match="t2s_projector 'pinv' must know which tokens"):
        built("span", t2s_projector="pinv")
    with pytest.raises(ConfigurationError, match="made from the models' heads"):
        built("identity", t2s_projector="pinv", heads=False)
    with pytest.raises(InputError, match="share no token"):
        built("span", t2s_projector="pinv", shared=0)
    assert kinds(built("span", t2s_projector="pinv", shared=3))["t2s"] == "pinv"


def test_presets_start_as_published() -> None:
    for name in ("dskd", "dskd-cma"):
        spec = DSKDSpec.preset(name)
        assert {spec.t2s_projector, spec.s2t_projector} == {Linear(init="torch")}
        assert not spec.uses_vocabulary_map
    assert DSKDSpec.preset("dskd-v2").t2s_projector == Pinv()
    assert DSKDSpec.preset("dskd", t2s_projector="linear").t2s_projector == Linear(init="calibrated")


@pytest.mark.parametrize("name", ["dskd", "dskd-cma"])
def test_a_published_start_does_not_depend_on_heads(name: str) -> None:
    states = []
    for heads in (True, False):
        torch.manual_seed(0)
        spec = DSKDSpec.preset(name)
        fields = {"t2s_projector": spec.t2s_projector, "s2t_projector": spec.s2t_projector}
        states.append(built(spec.aligner.name, heads=heads, **fields).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_from_models_looks_for_the_tokens_that_both_have() -> None:
    pair = sound_pair()
    found = DSKDLoss.from_models(DSKDSpec(aligner="span"), *pair.values())
    assert kinds(found) == ALL
    assert found.same_token is not None
    assert kinds(DSKDLoss.from_models(DSKDSpec(aligner="cma"), pair["student"], pair["teacher"])) == NONE
    random = DSKDSpec(aligner="span", t2s_projector=MLP(), s2t_projector="linear")
    assert DSKDLoss.from_models(random, *pair.values()).teacher_to_student_ids is None


def test_tokenizers_that_cannot_be_mapped_are_no_error_where_there_is_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise InputError("expected a fast tokenizer")

    monkeypatch.setattr("dskd_components.loss.vocabularies.build_vocabulary_map", refused)
    pair = sound_pair()
    assert kinds(DSKDLoss.from_models(DSKDSpec(aligner="cma"), *pair.values())) == NONE
    with pytest.raises(InputError, match="fast tokenizer"):
        DSKDLoss.from_models(DSKDSpec(aligner="cma", t2s_projector="pinv"), *pair.values())


class Third(Projector):
    """Written before projectors were told of anything but widths and heads."""

    name: Literal["third"] = "third"

    def build(self, *, source_size: int, target_size: int, heads: Any) -> Projection:
        return LinearProjection(source_size, target_size)


def test_a_projector_of_somebody_else_goes_on_working() -> None:
    spec = DSKDSpec(aligner="span", t2s_projector=Third(), s2t_projector=Third())
    assert not spec.uses_vocabulary_map
    report = look(spec=spec)
    assert report.passed
    [own] = [start for start in report.starts if start.of_spec]
    assert (own.t2s_projector, own.s2t_projector) == ("third", "third")


def test_the_same_pair_starts_the_same_way() -> None:
    pair = {"student": tiny_model("Llama", hidden_size=8, vocabulary=64), "teacher": tiny_model("Llama", vocabulary=64)}
    torch.manual_seed(0)
    first = DSKDLoss.from_models(DSKDSpec(), **pair).state_dict()
    torch.manual_seed(0)
    second = DSKDLoss.from_models(DSKDSpec(), **pair).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
