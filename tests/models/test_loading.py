"""Models that were not loaded or are offloaded: used where only layers are, else refused in words, by every way in."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import cpu_offload

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator, Head, InputError
from tests.helpers.models import TEXTS
from tests.helpers.pairs import look, sound_pair, trained_teacher

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = DSKDSpec.preset("dskd-cma")


def offloaded(*parts: str) -> Callable[[Any], Any]:
    def offload(model: Any) -> Any:
        for part in parts:
            cpu_offload(model.get_submodule(part), execution_device=torch.device("cpu"))
        return model

    return offload


# What has no numbers, and what the message says of it.
AWAY: dict[str, tuple[Callable[[Any], Any], str]] = {
    "not loaded": (lambda model: model.to("meta"), r"21 of its parameters \('model.embed_tokens.weight' among them\)"),
    "a layer not loaded": (
        lambda model: (model.model.layers[1].to("meta"), model)[1],
        r"9 of its parameters \('model.layers.1",
    ),
    "the head not loaded": (
        lambda model: (model.lm_head.to("meta"), model)[1],
        r"1 of its parameters \('lm_head.weight",
    ),
    "offloaded": (offloaded(""), "its head is offloaded"),
    "the head offloaded": (offloaded("lm_head"), "its head is offloaded"),
    "the embedding offloaded": (offloaded("model.embed_tokens"), "its input embedding is offloaded"),
}
HERE = {
    "a layer offloaded": offloaded("model.layers.0"),
    "all layers offloaded": offloaded("model.layers.0", "model.layers.1", "model.norm"),
}


@cache
def whole() -> tuple[dict[str, Any], DSKDLoss, dict[str, torch.Tensor]]:
    pair = sound_pair()
    torch.manual_seed(0)
    loss_fn = DSKDLoss.from_models(SPEC, **pair)
    collate = DualTokenizerCollator(pair["student_tokenizer"], pair["teacher_tokenizer"])
    return pair, loss_fn, collate([{"text": text} for text in TEXTS])


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_what_has_no_numbers_is_refused_everywhere_in_the_same_words(side: str, away: str) -> None:
    make, words = AWAY[away]
    pair, loss_fn, batch = whole()
    model = make(sound_pair()[side])
    refused = rf"The {side} \(LlamaForCausalLM\) cannot be used: {words}.*'meta', which holds no numbers.* Do: load"
    with pytest.raises(InputError, match=refused):
        DSKDLoss.from_models(SPEC, **(pair | {side: model}))
    models = {"student": pair["student"], "teacher": pair["teacher"]} | {side: model}
    with pytest.raises(InputError, match=refused):
        loss_fn.run(models["student"], models["teacher"], batch)
    if "embedding" not in away:  # which a head can do without
        with pytest.raises(InputError, match=rf"^LlamaForCausalLM cannot be used: {words}.*holds no numbers"):
            Head.from_model(model)
    report = look(**{side: model})
    [error] = report.of_severity("error")
    assert error.component == f"{side} device", "one cause, one finding"
    assert "holds no numbers" in error.found
    assert error.advice


@pytest.mark.parametrize("offload", HERE)
def test_a_teacher_whose_layers_are_offloaded_is_used(offload: str) -> None:
    pair, loss_fn, batch = whole()
    expected = loss_fn.run(pair["student"], pair["teacher"], batch)
    teacher = HERE[offload](trained_teacher())
    torch.manual_seed(0)
    made = DSKDLoss.from_models(SPEC, **(pair | {"teacher": teacher}))
    for found in (made.run(pair["student"], teacher, batch), loss_fn.run(pair["student"], teacher, batch)):
        torch.testing.assert_close(found.loss, expected.loss)
    report = look(teacher=teacher, tokens_per_step=32)
    assert report.passed, report.to_text()
    [warning] = [finding for finding in report.of_severity("warning") if finding.component == "teacher device"]
    assert "offloaded" in warning.found
    assert report.costs


@pytest.mark.parametrize("offload", HERE)
def test_a_student_is_not_trained_where_an_optimizer_cannot_reach_it(offload: str) -> None:
    student = HERE[offload](sound_pair()["student"])
    with pytest.raises(InputError, match=r"^The student .* it is trained, but \d+ of its parameters .* are offloaded"):
        DSKDLoss.from_models(SPEC, **(whole()[0] | {"student": student}))
    [error] = look(student=student).of_severity("error")
    assert error.component == "student device"
