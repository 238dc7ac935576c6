"""The router's loss of a student that is a mixture of experts: part of the loss as the model weighs it, by any loop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from dskd_components import (
    AuxLoss,
    DSKDLoss,
    DSKDSpec,
    InputError,
    MultiTeacherLoss,
    MultiTeacherSpec,
    scored_tokens,
)
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from tests.helpers.families import make
from tests.helpers.models import TEXTS, byte_level_tokenizer, encode, tiny_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = 300
FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": {},
    "Qwen2-MoE": {},
    "Qwen3-MoE": {},
    "OLMoE": {},
    "Granite-MoE": {},
    "GPT-OSS": {},
}
PLAIN = DSKDSpec(kd_rate=0.0)


def batch_of(rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    return {name: column[rows] for name, column in encode(byte_level_tokenizer(VOCABULARY), "").items()}


def student_of(family: str = "Mixtral", *, router: bool = True, **options: Any) -> PreTrainedModel:
    # A weight that shows, and is none of the defaults.
    fields = {"vocab_size": VOCABULARY, "output_router_logits": router, "router_aux_loss_coef": 0.37}
    return make(family, **(fields | options))


def teacher_of(**options: Any) -> PreTrainedModel:
    return tiny_model("Llama", vocabulary=VOCABULARY, **options).requires_grad_(False)


def built(spec: DSKDSpec, student: Any, teacher: Any) -> DSKDLoss:
    torch.manual_seed(0)
    return DSKDLoss.from_models(spec, student, teacher)


def gradients(loss: torch.Tensor, model: nn.Module) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("engine", ["eager", "tiled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_the_models_own(family: str, engine: str) -> None:
    """Without distillation the loss is that which the model computes from the labels by itself."""
    student, teacher, batch = student_of(family), teacher_of(), batch_of()
    out = built(PLAIN.replace(engine=engine), student, teacher).run(student, teacher, batch)
    own = student(**batch)
    assert own.aux_loss > 0
    torch.testing.assert_close(out.terms["aux_loss"], own.aux_loss.detach())
    torch.testing.assert_close(out.loss, own.loss)
    torch.testing.assert_close(gradients(out.loss, student), gradients(own.loss, student), rtol=1e-4, atol=1e-6)
    assert int(out.counts["aux_loss"]) == int(scored_tokens(batch))


@pytest.mark.parametrize("preset", ["vanilla-kd", "dskd", "dskd-v2"])
@pytest.mark.parametrize("kd_rate", [0.5, 1.0])
def test_it_has_its_own_weight_whatever_the_rate_of_distillation(preset: str, kd_rate: float) -> None:
    teacher, batch = teacher_of(), batch_of()
    spec = DSKDSpec.preset(preset, kd_rate=kd_rate)
    with_it, without = (
        built(spec, student, teacher).run(student, teacher, batch)
        for student in (student_of(router=True), student_of(router=False))
    )
    assert "aux_loss" not in without.terms
    assert dict(with_it.terms).keys() - dict(without.terms).keys() == {"aux_loss"}
    torch.testing.assert_close(with_it.loss, without.loss + 0.37 * with_it.terms["aux_loss"])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_micro_batches_weigh_it_by_their_scored_tokens(reduction: str) -> None:
    """It is a statistic of its batch, so only its weight can add up: to the same as that of one batch."""
    student, teacher = student_of(), teacher_of()
    loss_fn = built(PLAIN.replace(reduction=reduction), student, teacher)
    parts = [batch_of(slice(0, 1)), batch_of(slice(1, 3))]
    counts = [int(scored_tokens(part)) for part in parts]
    assert counts[0] != counts[1]
    total = sum(counts)
    own = [student(**{**part, "labels": None}).aux_loss for part in parts]
    num_items = {} if reduction == "sum" else {"num_items_in_batch": total}
    found = [loss_fn.run(student, teacher, part, **num_items) for part in parts]
    wanted = sum(count * value for count, value in zip(counts, own, strict=True))
    wanted = wanted if reduction == "sum" else wanted / total
    torch.testing.assert_close(sum(out.terms["aux_loss"] for out in found), wanted.detach())


def test_a_batch_without_scored_tokens_has_none_of_it() -> None:
    student, teacher, batch = student_of(), teacher_of(), batch_of()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    out = built(PLAIN, student, teacher).run(student, teacher, batch)
    assert out.loss == 0


def test_several_teachers_count_it_once() -> None:
    spec = MultiTeacherSpec(teachers={"one": {"weight": 0.5}, "two": {"weight": 0.5}})
    teachers = {"one": teacher_of(), "two": teacher_of(hidden_size=16, head_dim=4)}
    losses = []
    for router in (True, False):
        student = student_of(router=router)
        torch.manual_seed(0)
        loss_fn = MultiTeacherLoss.from_models(spec, student, teachers)
        batch = {f"student_{name}": column for name, column in batch_of().items()}
        losses.append(loss_fn.run(student, teachers, batch))
    with_it, without = losses
    assert [name for name in with_it.terms if "aux_loss" in name] == ["aux_loss"]
    torch.testing.assert_close(with_it.loss, without.loss + 0.37 * with_it.terms["aux_loss"])


def test_that_of_a_teacher_is_not_used() -> None:
    student, batch = tiny_model("Llama", vocabulary=VOCABULARY), batch_of()
    found = [
        built(DSKDSpec(), student, teacher).run(student, teacher, batch)
        for teacher in (student_of(router=router) for router in (True, False))
    ]
    assert "aux_loss" not in found[0].terms
    assert torch.equal(found[0].loss, found[1].loss)


def test_without_being_asked_for_it_is_not_there() -> None:
    student, teacher = student_of(router=False), teacher_of()
    assert "aux_loss" not in built(PLAIN, student, teacher).run(student, teacher, batch_of()).terms
    student.config.output_router_logits = True
    student.router_aux_loss_coef = 0
    out = built(PLAIN, student, teacher).run(student, teacher, batch_of())
    torch.testing.assert_close(out.loss, out.terms["ce"])


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.module(*arguments, **options)


def test_wrappers_are_looked_into() -> None:
    student, teacher, batch = student_of(), teacher_of(), batch_of()
    expected = built(PLAIN, student, teacher).run(student, teacher, batch)
    wrapped: Any = Wrapped(Wrapped(student))
    found = built(PLAIN, wrapped, teacher).run(wrapped, teacher, batch)
    assert torch.equal(found.loss, expected.loss)
    stepped = StudentWithProjectors(student, built(PLAIN, student, teacher), teacher)(batch)
    assert torch.equal(stepped.loss, expected.loss)


class ByArgument(nn.Module):
    """Looks at the argument alone, as models that take images do."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self.config, self.router_aux_loss_coef = model, model.config, model.router_aux_loss_coef

    def get_output_embeddings(self) -> Any:
        return self.inner.get_output_embeddings()

    def get_input_embeddings(self) -> Any:
        return self.inner.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        return self.inner(input_ids, **({"output_router_logits": False} | options))


class NotByArgument(ByArgument):
    """Takes no such argument."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: Any = None,
        output_hidden_states: Any = None,
        use_cache: Any = None,
    ) -> Any:
        return self.inner(input_ids, attention_mask, output_hidden_states=output_hidden_states, use_cache=use_cache)


@pytest.mark.parametrize("kind", [ByArgument, NotByArgument])
def test_models_are_asked_in_the_way_that_they_take(kind: type[ByArgument]) -> None:
    student, teacher, batch = student_of(), teacher_of(), batch_of()
    expected = built(PLAIN, student, teacher).run(student, teacher, batch)
    model: Any = kind(student).eval()
    assert torch.equal(built(PLAIN, model, teacher).run(model, teacher, batch).loss, expected.loss)


def test_a_model_that_does_not_say_how_it_weighs_it() -> None:
    student, teacher = student_of(), teacher_of()
    loss_fn = built(PLAIN, student, teacher)
    del student.router_aux_loss_coef
    vars(student.config)["router_aux_loss_coef"] = None
    with pytest.raises(InputError, match=r"MixtralForCausalLM returned an aux_loss, but.*router_aux_loss_coef"):
        loss_fn.run(student, teacher, batch_of())
    student.config.router_aux_loss_coef = 0.25
    out = loss_fn.run(student, teacher, batch_of())
    torch.testing.assert_close(out.loss, out.terms["ce"] + 0.25 * out.terms["aux_loss"])


def test_raw_states_may_have_one() -> None:
    student, teacher, batch = student_of(), teacher_of(), batch_of()
    loss_fn = built(PLAIN, student, teacher)
    states, theirs = loss_fn.states(student, batch, "student"), loss_fn.states(teacher, batch, "teacher")
    assert states.aux_loss is not None
    assert theirs.aux_loss is None
    plain = loss_fn(replace(states, aux_loss=None), theirs)
    value = torch.tensor(2.0, dtype=torch.bfloat16, requires_grad=True)
    out = loss_fn(replace(states, aux_loss=AuxLoss(value=value, weight=0.5)), theirs)
    torch.testing.assert_close(out.loss, plain.loss + 1.0)
    out.loss.backward()
    assert value.grad == 0.5
    with pytest.raises(InputError, match=r"LMStates\.aux_loss: expected a value that is one number"):
        replace(states, aux_loss=AuxLoss(value=torch.ones(2), weight=0.5))
    with pytest.raises(InputError, match=r"student\.aux_loss is NaN or infinite"):
        loss_fn(replace(states, aux_loss=AuxLoss(value=torch.tensor(torch.nan), weight=0.5)), theirs)


@pytest.mark.parametrize("spaces", [["student"], [{"name": "uld"}]])
def test_a_spec_has_no_weight_for_it(spaces: list[Any]) -> None:
    with pytest.raises(ValueError, match="'aux_loss', the loss of the student's router"):
        DSKDSpec(spaces=spaces, weights={"aux_loss": 2.0})


def test_preflight_shows_it() -> None:
    student, teacher = student_of(), teacher_of()
    tokenizer = byte_level_tokenizer(VOCABULARY)
    report = DSKDLoss.preflight(student, teacher, tokenizer, tokenizer, texts=TEXTS, tokens_per_step=32)
    assert report.passed, report.to_text()
    assert report.costs
    [batch] = [finding for finding in report.findings if finding.component == "batch"]
    assert "aux_loss" in batch.found
