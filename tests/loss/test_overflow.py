"""A model that overflows, in float16 or otherwise: the error names the tensor, and float16 if that is why."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, InputError, MultiTeacherLoss, MultiTeacherSpec
from dskd_components.errors import NonFiniteError
from dskd_components.models.run_model import groups_of_batch
from examples.tiny import Pair, tiny_pair

FLOAT16 = r"float16 holds no number above 65504.*dtype=torch.bfloat16.*GradScaler"
SPECS = ("exact_match", "cma")


@pytest.fixture(scope="module")
def _pair() -> Pair:
    return tiny_pair(spec=DSKDSpec.preset("dskd", aligner="exact_match"))


@pytest.fixture
def pair(_pair: Pair) -> Pair:
    return copy.deepcopy(_pair)


def student_of(pair: Pair, dtype: torch.dtype) -> Any:
    return pair.student.to(dtype).eval()


def loss_of(pair: Pair, aligner: str = "exact_match") -> DSKDLoss:
    spec = DSKDSpec.preset("dskd", aligner=aligner)
    return DSKDLoss.from_models(spec, pair.student, pair.teacher, pair.student_tokenizer, pair.teacher_tokenizer)


def run(pair: Pair, loss_fn: DSKDLoss, student: Any, teacher: Any = None) -> Any:
    return loss_fn.run(student, teacher or pair.teacher, pair.collate(pair.samples[:4]))


def layer_norms(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if "norm" in name or "ln_" in name]


@torch.no_grad()
def overflow_inside(model: Any) -> None:
    """Activations that float16 does not hold, from parameters that it holds."""
    for parameter in layer_norms(model)[:-1]:
        parameter.fill_(6e4)
    layer_norms(model)[-1].fill_(1.0)


@pytest.mark.parametrize("aligner", SPECS)
def test_hidden_states_that_overflow_float16_are_named(pair: Pair, aligner: str) -> None:
    student = student_of(pair, torch.float16)
    loss_fn = loss_of(pair, aligner)
    overflow_inside(student)
    with pytest.raises(
        NonFiniteError, match=rf"student\.hidden_states: .*NaN or infinity.*overflowed.*{FLOAT16}"
    ) as found:
        run(pair, loss_fn, student)
    assert "parameter" not in str(found.value).replace("optimizers break parameters", "")
    with pytest.raises(NonFiniteError, match=rf"gives hidden states with NaN or infinity.*{FLOAT16}"):
        loss_of(pair, aligner)


def test_logits_that_overflow_float16_are_not_taken_for_a_head_that_is_not_known(pair: Pair) -> None:
    student = student_of(pair, torch.float16)
    with torch.no_grad():
        student.get_output_embeddings().weight.mul_(3e4)
        layer_norms(student)[-1].fill_(100.0)
    with pytest.raises(
        InputError, match=rf"The model's own logits overflow float16: they reach \d.*{FLOAT16}"
    ) as found:
        loss_of(pair)
    assert "Head.from_model does not know" not in str(found.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_step_that_breaks_parameters_is_named_in_the_next_one(pair: Pair, dtype: torch.dtype) -> None:
    student, loss_fn = student_of(pair, dtype), loss_of(pair)
    optimizer = torch.optim.AdamW([*student.parameters(), *loss_fn.parameters()], lr=1e-3)
    run(pair, loss_fn, student).loss.backward()
    optimizer.step()
    if dtype != torch.float16:
        assert run(pair, loss_fn, student).loss.isfinite()
        return
    with pytest.raises(
        NonFiniteError, match=rf"{FLOAT16}.*The parameter '.*' of the student holds NaN or infinity itself"
    ):
        run(pair, loss_fn, student)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("which", [0, -1])
def test_a_damaged_parameter_is_named_for_either_model(pair: Pair, side: str, which: int, dtype: torch.dtype) -> None:
    student, teacher = student_of(pair, dtype), pair.teacher.to(dtype)
    loss_fn = loss_of(pair)
    model = {"student": student, "teacher": teacher}[side]
    name, parameter = list(model.named_parameters())[which]
    with torch.no_grad():
        parameter.view(-1)[0] = torch.nan
        if parameter.ndim == 2:
            parameter.fill_(torch.nan)
    with pytest.raises(
        NonFiniteError, match=f"The parameter '{name}' of the {side} holds NaN or infinity itself"
    ) as found:
        run(pair, loss_fn, student, teacher)
    assert ("float16 holds" in str(found.value)) == (dtype == torch.float16)


def test_of_several_teachers_the_one_at_fault_is_named(pair: Pair) -> None:
    spec = MultiTeacherSpec.model_validate({"teachers": {name: {"aligner": "identity"} for name in "ab"}})
    student, teachers = pair.student, {name: copy.deepcopy(pair.student).eval() for name in "ab"}
    tokenizers = dict.fromkeys("ab", pair.student_tokenizer)
    loss_fn = MultiTeacherLoss.from_models(spec, student, teachers, pair.student_tokenizer, tokenizers)
    columns = {
        k: v for k, v in pair.collate(pair.samples[:2]).items() if k.startswith("student_") and "groups" not in k
    }
    name, parameter = next(iter(teachers["b"].named_parameters()))
    with torch.no_grad():
        parameter.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=f"The parameter '{name}' of the teacher 'b' holds NaN or infinity itself"):
        loss_fn.run(student, teachers, columns)


def test_raw_states_have_no_parameters_to_name(pair: Pair) -> None:
    loss_fn, batch = loss_of(pair), pair.collate(pair.samples[:2])
    states = {side: loss_fn.states(getattr(pair, side), batch, side) for side in ("student", "teacher")}  # type: ignore[arg-type]
    broken = torch.full_like(states["student"].hidden_states, torch.inf).half()
    damaged = copy.copy(states["student"])
    object.__setattr__(damaged, "hidden_states", broken)
    with pytest.raises(
        NonFiniteError, match=rf"student\.hidden_states.*{FLOAT16}$|student\.hidden_states.*Trainer\)\.$"
    ):
        loss_fn(damaged, states["teacher"], alignment=groups_of_batch(batch))
