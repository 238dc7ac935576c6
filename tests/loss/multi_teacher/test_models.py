"""Several teachers as Hugging Face models: built, collated, run, optimised; and every way to get it wrong."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dskd_components import (
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    DualTokenizerCollator,
    InputError,
    MultiTeacherCollator,
    MultiTeacherLoss,
    MultiTeacherSpec,
    TeacherSpec,
)
from tests.helpers.collating import byte_level, metaspace, unigram
from tests.helpers.models import tiny_model

SAMPLES = [
    {"prompt": "What is new?", "response": " The statement is the value."},
    {"text": "the statement of a value"},
]
SPEC = MultiTeacherSpec(
    teachers={
        "large": TeacherSpec.preset("dskd-cma", weight=0.7),
        "code": TeacherSpec(aligner="span", weight=0.3),
        "sibling": TeacherSpec(distance="js", weight=0.5),
    }
)
TOKENIZERS = {"large": metaspace, "code": unigram, "sibling": byte_level}
ALIGNERS = {name: teacher.aligner for name, teacher in SPEC.teachers.items()}


@cache
def models() -> tuple[Any, dict[str, Any]]:
    student = tiny_model("GPT2", hidden_size=24, vocabulary=len(byte_level()))
    teachers = {
        "large": tiny_model("Llama", hidden_size=32, vocabulary=len(metaspace()) + 20),
        "code": tiny_model("Mistral", hidden_size=16, head_dim=4, vocabulary=len(unigram())),
        "sibling": tiny_model("Llama", hidden_size=32, vocabulary=len(byte_level())),
    }
    return student, teachers


@cache
def tokenizers() -> dict[str, Any]:
    return {name: make() for name, make in TOKENIZERS.items()}


def loss_of(spec: MultiTeacherSpec = SPEC) -> MultiTeacherLoss:
    student, teachers = models()
    torch.manual_seed(0)
    return MultiTeacherLoss.from_models(spec, student, teachers, byte_level(), tokenizers())


@cache
def batch() -> dict[str, Tensor]:
    return MultiTeacherCollator(byte_level(), tokenizers(), aligners=ALIGNERS)(SAMPLES)


def test_a_run_is_the_weighted_sum_of_runs_with_one_teacher() -> None:
    student, teachers = models()
    loss_fn = loss_of()
    out = loss_fn.run(student, teachers, batch(), num_items_in_batch=9)
    total = 0.5 * out.terms["ce"]
    for name in SPEC.teachers:
        columns = {key: column for key, column in batch().items() if key.startswith("student_")}
        if f"student_groups_{name}" in columns:
            columns["student_groups"] = columns[f"student_groups_{name}"]
        own = {key.replace(name, "teacher", 1): value for key, value in batch().items() if key.startswith(f"{name}_")}
        alone = loss_fn.pair(name).run(student, teachers[name], columns | own, num_items_in_batch=9)
        assert alone.terms["ce"] == out.terms["ce"]
        for term in alone.terms.keys() - {"ce"}:
            torch.testing.assert_close(out.terms[f"{name}/{term}"], alone.terms[term])
        total = total + SPEC.teachers[name].weight * (alone.loss.detach() - 0.5 * alone.terms["ce"])
    torch.testing.assert_close(out.loss.detach(), total)


def test_each_model_runs_once() -> None:
    student, teachers = models()
    calls: list[str] = []
    everyone = {"student": student} | teachers
    hooks = [model.register_forward_hook(lambda *_, n=name: calls.append(n)) for name, model in everyone.items()]
    loss_fn = loss_of()
    calls.clear()
    loss_fn.run(student, teachers, batch())
    for hook in hooks:
        hook.remove()
    assert sorted(calls) == sorted(everyone)


def test_a_teacher_with_the_students_tokenizer_needs_no_columns() -> None:
    student, teachers = models()
    loss_fn = loss_of()
    without = {name: column for name, column in batch().items() if not name.startswith("sibling_")}
    out, expected = loss_fn.run(student, teachers, without), loss_fn.run(student, teachers, batch())
    assert torch.equal(out.loss, expected.loss)


def test_a_single_teacher_may_be_called_so_and_read_the_batch_of_one() -> None:
    student, teachers = models()
    spec = MultiTeacherSpec(teachers={"teacher": {"aligner": "span"}})  # type: ignore[dict-item]
    tokens = byte_level(), unigram()
    columns = DualTokenizerCollator(*tokens, aligner="span")(SAMPLES)
    torch.manual_seed(0)
    one, its = {"teacher": teachers["code"]}, {"teacher": tokens[1]}
    several = MultiTeacherLoss.from_models(spec, student, one, tokens[0], its)
    torch.manual_seed(0)
    alone = DSKDLoss.from_models(DSKDSpec(aligner="span"), student, teachers["code"], *tokens)
    out, expected = several.run(student, one, columns), alone.run(student, teachers["code"], columns)
    assert torch.equal(out.loss, expected.loss)


def test_one_model_under_two_names() -> None:
    student, teachers = models()
    spec = MultiTeacherSpec(teachers={"js": {"distance": "js"}, "kl": {"spaces": ["teacher"]}})  # type: ignore[dict-item]
    same = {"js": teachers["sibling"], "kl": teachers["sibling"]}
    loss_fn = MultiTeacherLoss.from_models(spec, student, same, byte_level(), dict.fromkeys(same, byte_level()))
    out = loss_fn.run(student, same, batch())
    assert [name for name in out.terms if name.startswith("kl")] == ["kl/s2t_kd"]


def test_the_loss_falls_and_every_parameter_learns() -> None:
    student, teachers = models()
    student = type(student)(student.config)
    loss_fn = loss_of()
    spec_rates = {group["lr"] for group in loss_fn.param_groups(lr=1e-2)}
    assert spec_rates == {1e-2}
    optimizer = torch.optim.AdamW([{"params": list(student.parameters()), "lr": 3e-3}, *loss_fn.param_groups(lr=1e-2)])
    losses = []
    for _ in range(8):
        out = loss_fn.run(student, teachers, batch())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in loss_fn.parameters())
    for teacher in teachers.values():
        assert all(parameter.grad is None for parameter in teacher.parameters())


def test_parameter_groups_have_each_parameter_once_at_its_own_rate() -> None:
    spec = MultiTeacherSpec(teachers={"a": {"aligner": "kq"}, "b": {"aligner": "cma"}})  # type: ignore[dict-item]
    sizes: dict[str, Any] = {"student_hidden_size": 4, "teacher_hidden_size": 6}
    loss_fn = MultiTeacherLoss(spec, {name: DSKDLoss(spec.pair(name), **sizes) for name in ("b", "a")})
    rates = {id(p): group["lr"] for group in loss_fn.param_groups(lr=2.0) for p in group["params"]}
    found = [id(p) for group in loss_fn.param_groups(lr=2.0) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in loss_fn.parameters())
    for name in ("a", "b"):
        alone = loss_fn.pair(name)
        for group in alone.param_groups(lr=2.0):
            assert all(rates[id(p)] == group["lr"] for p in group["params"])


def test_models_are_no_part_of_the_loss_and_it_loads_what_it_saved() -> None:
    loss_fn, other = loss_of(), loss_of()
    assert {name.split(".")[1] for name in loss_fn.state_dict()} == set(SPEC.teachers)
    for parameter in loss_fn.parameters():
        nn.init.normal_(parameter)
    reordered = MultiTeacherSpec(teachers=dict(reversed(list(SPEC.teachers.items()))))
    other = MultiTeacherLoss(reordered, {name: other.pair(name) for name in SPEC.teachers})
    other.load_state_dict(loss_fn.state_dict())
    student, teachers = models()
    torch.testing.assert_close(other.run(student, teachers, batch()).loss, loss_fn.run(student, teachers, batch()).loss)


# What goes wrong


def test_missing_and_unknown_teachers() -> None:
    student, teachers = models()
    loss_fn = loss_of()
    with pytest.raises(InputError, match=r"teachers: expected a model for each teacher.*none for 'code', 'sibling'"):
        loss_fn.run(student, {"large": teachers["large"]}, batch())
    with pytest.raises(InputError, match=r"teachers: unknown teacher 'cod' \(did you mean 'code'\?\)"):
        loss_fn.run(student, teachers | {"cod": teachers["code"]}, batch())
    with pytest.raises(InputError, match=r"teachers: expected a mapping by teacher's name, of 'large'.*got Llama"):
        loss_fn.run(student, teachers["large"], batch())
    with pytest.raises(InputError, match=r"alignments: unknown teacher 'lage'"):
        loss_fn(None, dict.fromkeys(SPEC.teachers), alignments={"lage": None})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"teacher_tokenizers: unknown teacher 'x'"):
        MultiTeacherLoss.from_models(SPEC, student, teachers, None, {"x": None})


@pytest.mark.parametrize("column", ["code_input_ids", "code_labels", "student_input_ids", "student_labels"])
def test_a_missing_column_is_named(column: str) -> None:
    student, teachers = models()
    without = {name: values for name, values in batch().items() if name != column}
    with pytest.raises(InputError, match=rf"no column '{column}'; it has .*'large_labels'.*loss_fn.collator"):
        loss_of().run(student, teachers, without)


def test_missing_groups_are_those_of_the_teacher() -> None:
    student, teachers = models()
    without = {name: values for name, values in batch().items() if not name.endswith(("groups", "groups_code"))}
    with pytest.raises(InputError, match=r"Teacher 'code': alignment is missing"):
        loss_of().run(student, teachers, without)
    with pytest.raises(InputError, match=r"groups are needed on both sides"):
        loss_of().run(student, teachers, {name: v for name, v in batch().items() if name != "code_groups"})


def test_a_batch_of_other_tokenizers_is_refused_by_name() -> None:
    student, teachers = models()
    swapped = batch() | {"code_fingerprint": batch()["large_fingerprint"]}
    with pytest.raises(InputError, match=r"Teacher 'code': The batch was collated with another teacher tokenizer"):
        loss_of().run(student, teachers, swapped)


def test_a_schedule_without_a_step_has_the_teachers_name() -> None:
    student, teachers = models()
    scheduled = SPEC.teachers["code"].replace(weight={"name": "linear", "start": 0, "end": 1, "steps": 2})
    late = MultiTeacherSpec(teachers=dict(SPEC.teachers) | {"code": scheduled})
    with pytest.raises(InputError, match=r"step is missing: the spec's teachers.code.weight follows the schedule"):
        loss_of(late).run(student, teachers, batch())
    assert loss_of(late).run(student, teachers, batch(), step=1).loss.isfinite()


def test_pairs_must_be_those_of_the_spec() -> None:
    sizes: dict[str, Any] = {"student_hidden_size": 4, "teacher_hidden_size": 6}
    spec = MultiTeacherSpec(teachers={"a": {}, "b": {"distance": "js"}})  # type: ignore[dict-item]
    a, b = (DSKDLoss(spec.pair(name), **sizes) for name in ("a", "b"))
    with pytest.raises(ConfigurationError, match=r"pairs\['b'\]: it was built from another spec.*spec.pair\('b'\)"):
        MultiTeacherLoss(spec, {"a": a, "b": a})
    with pytest.raises(ConfigurationError, match=r"pairs: expected a DSKDLoss for each teacher.*none for 'b'"):
        MultiTeacherLoss(spec, {"a": a})
    with pytest.raises(InputError, match=r"one student, but their student_hidden_size differs: \{'a': 4, 'b': 5\}"):
        MultiTeacherLoss(spec, {"a": a, "b": DSKDLoss(spec.pair("b"), **(sizes | {"student_hidden_size": 5}))})
    with pytest.raises(InputError, match="expected a MultiTeacherSpec, got DSKDSpec"):
        MultiTeacherLoss(DSKDSpec(), {"a": a})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"pairs\['a'\]: expected a DSKDLoss, got Linear"):
        MultiTeacherLoss(spec, {"a": nn.Linear(1, 1), "b": b})  # type: ignore[dict-item]
