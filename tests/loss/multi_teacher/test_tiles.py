"""Several teachers in tiles: as the sum of single losses, with one gradient of the student's head, made once."""

from __future__ import annotations

import mmap
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from dskd_components import DSKDLoss, Head, InputError, LMStates, MultiTeacherLoss, MultiTeacherSpec, TeacherSpec
from dskd_components.models.states import IGNORE_INDEX
from tests.helpers.registered import build
from tests.helpers.strategies import SEEDS, Batch, make_batch
from tests.helpers.tiled_steps import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

MIB = 2**20
KEPT: dict[str, Any] = {"ce_denominator": "kept", "kd_denominator": "kept"}
CHOOSY: dict[str, Any] = {"name": "student", "targets": "teacher_argmax", "filter": "agreement"}
TEACHERS: dict[str, dict[str, Any]] = {
    "cma": {"aligner": "cma", "distance": "js", "weight": 0.5},
    "span": {"aligner": "span", "temperature": 2.0},
    "kept": {"aligner": "span", "spaces": [CHOOSY | KEPT | {"agreement_threshold": 0.1}, "teacher"]},
    "all kept": {"aligner": "span", "spaces": [{"name": "student"} | KEPT]},
    "min_edit": {"aligner": "min_edit", "spaces": [{"name": "student", "filter": "correct"}], "weight": 0.7},
    "teacher's space": {"aligner": "span", "spaces": ["teacher"]},
    "pinv": {"aligner": "span", "t2s_projector": "pinv", "s2t_projector": "live_pinv"},
    "mlp": {"aligner": "cma", "t2s_projector": "mlp", "spaces": [CHOOSY], "weights": {"t2s_ce": 0.3}},
    "heads": {"aligner": "span", "spaces": ["uld"]},
}


def several_batches(seed: int, count: int, *, silent: float = 0.0, **sizes: Any) -> dict[str, Batch]:
    """A student and teachers of other widths and vocabularies, each with something to say of other positions."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    batches: dict[str, Batch] = {}
    for number in range(count):
        shape = {"teacher_length": 5 + number, "teacher_hidden": 9 - 2 * number, "teacher_vocabulary": 17 - number}
        batch = make_batch(seed + number, same_tokenizer=False, **(shape | sizes))
        targets = batch.teacher.targets
        targets[torch.rand(targets.shape, generator=generator) < silent] = IGNORE_INDEX
        student = batches["t0"].student if batches else learning(batch.student)
        batches[f"t{number}"] = replace(batch, student=student)
    return batches


def learning(states: LMStates) -> LMStates:
    states.hidden_states.requires_grad_()
    states.head.weight.requires_grad_()
    return states


def loss_of(teachers: list[dict[str, Any]], batches: Mapping[str, Batch], **fields: Any) -> MultiTeacherLoss:
    spec = MultiTeacherSpec(
        teachers={name: TeacherSpec(**teacher) for name, teacher in zip(batches, teachers, strict=True)}, **fields
    )
    return MultiTeacherLoss(spec, {name: build(spec.pair(name), batch) for name, batch in batches.items()})


def told(loss_fn: MultiTeacherLoss, batches: Mapping[str, Batch]) -> dict[str, Any]:
    return {name: b.groups for name, b in batches.items() if loss_fn.spec.teachers[name].aligner.text_method}


def run(loss_fn: MultiTeacherLoss, batches: Mapping[str, Batch], **options: Any) -> dict[str, Tensor]:
    """All that comes out, with the gradients."""
    student = batches["t0"].student
    teachers = {name: batch.teacher for name, batch in batches.items()}
    out = loss_fn(student, teachers, alignments=told(loss_fn, batches), **options)
    return {"loss": out.loss, **out.terms, **out.metrics, **gradients(loss_fn, student, out.loss)} | {
        f"{name} count": count.double() for name, count in out.counts.items()
    }


def apart(loss_fn: MultiTeacherLoss, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
    """The same, from a loss for each teacher."""
    student = batches["t0"].student
    found: dict[str, Tensor] = {}
    loss = torch.zeros((), dtype=torch.float64)
    for name, weights in loss_fn.spec.loss_weights().items():
        out = batches[name].loss(loss_fn.pair(name), weights=weights)
        loss = loss + out.loss
        values = out.terms | out.metrics | {f"{term} count": count.double() for term, count in out.counts.items()}
        found |= {key if key.split()[0] == "ce" else f"{name}/{key}": value for key, value in values.items()}
    return {"loss": loss, **found, **gradients(loss_fn, student, loss)}


def gradients(loss_fn: MultiTeacherLoss, student: LMStates, loss: Tensor) -> dict[str, Tensor]:
    inputs = {"hidden": student.hidden_states, "head": student.head.weight} | dict(loss_fn.named_parameters())
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return {f"gradient of {name}": gradient for name, gradient in zip(inputs, found, strict=True)}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@settings(max_examples=25)
@given(
    seed=SEEDS,
    names=st.lists(st.sampled_from(list(TEACHERS)), min_size=1, max_size=3),
    silent=st.sampled_from([0.0, 0.4, 1.0]),
    budget=st.sampled_from([1e-4, 2e-3, 384.0]),
    kd_rate=st.sampled_from([0.5, 1.0]),
)
@example(seed=3, names=["kept", "mlp", "kept"], silent=0.4, budget=2e-3, kd_rate=0.5)
@example(seed=5, names=["all kept", "kept", "kept"], silent=0.0, budget=2e-3, kd_rate=0.5)
@example(seed=4, names=["span", "cma", "heads"], silent=0.4, budget=1e-4, kd_rate=0.5)
@example(seed=5, names=["teacher's space", "min_edit"], silent=0.4, budget=384.0, kd_rate=0.5)
@example(seed=6, names=["span", "pinv"], silent=1.0, budget=1e-4, kd_rate=0.5)
def test_whatever_the_teachers_cover_it_is_the_sum_of_single_losses(
    seed: int, names: list[str], silent: float, budget: float, kd_rate: float
) -> None:
    batches = several_batches(seed, len(names), silent=silent)
    chosen = [TEACHERS[name] for name in names]
    tiled = {"name": "tiled", "memory_budget_mib": budget}
    found = run(loss_of(chosen, batches, engine=tiled, kd_rate=kd_rate), batches)
    same(found, apart(loss_of(chosen, batches, engine=tiled, kd_rate=kd_rate), batches))
    same(found, run(loss_of(chosen, batches, engine="eager", kd_rate=kd_rate), batches))


def test_without_gradients_the_values_are_the_same() -> None:
    batches = several_batches(1, 3, silent=0.4)
    loss_fn = loss_of([TEACHERS[name] for name in ("span", "cma", "kept")], batches)
    trained = run(loss_fn, batches)
    with torch.no_grad():
        teachers = {name: batch.teacher for name, batch in batches.items()}
        out = loss_fn(batches["t0"].student, teachers, alignments=told(loss_fn, batches))
    assert not out.loss.requires_grad
    torch.testing.assert_close(out.loss, trained["loss"].detach())
    assert all(torch.equal(value, trained[name]) for name, value in out.terms.items())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_students_logits_are_made_once(count: int) -> None:
    sizes: dict[str, Any] = {"student_length": 40, "teacher_length": 48, "student_vocabulary": 997}
    batches = several_batches(0, count, silent=0.2, dtype=torch.float32, **sizes)
    loss_fn = loss_of([TEACHERS["cma"]] * count, batches, engine={"name": "tiled", "memory_budget_mib": 0.3})
    with Watch(997) as watch:
        found = run(loss_fn, batches)
    projected = [int(found[f"{name}/t2s_ce count"]) for name in batches]
    assert min(projected) > 0
    assert watch.rows == int(batches["t0"].student.scored.sum()) + sum(projected)


def peak(widths: list[int], budget: float, **fields: Any) -> float:
    """MiB above inputs and gradients, for teachers of some widths."""
    teacher_widths = {f"t{number}": width for number, width in enumerate(widths)}
    spec = MultiTeacherSpec.model_validate(
        {"teachers": dict.fromkeys(teacher_widths, fields), "engine": {"name": "tiled", "memory_budget_mib": budget}}
    )
    pairs = {
        name: DSKDLoss(spec.pair(name), student_hidden_size=400, teacher_hidden_size=width)
        for name, width in teacher_widths.items()
    }
    loss_fn = MultiTeacherLoss(spec, pairs)
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    targets = torch.randint(0, 3000, (2, 64), generator=generator)

    def states(width: int) -> LMStates:
        hidden, weight = (torch.randn(*shape, width, generator=generator) for shape in (targets.shape, (3000,)))
        return LMStates(hidden_states=hidden, targets=targets, head=Head(weight))

    student, teachers = learning(states(400)), {name: states(width) for name, width in teacher_widths.items()}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        loss_fn(student, teachers).loss.backward()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    leaves = [student.hidden_states, student.head.weight, *loss_fn.parameters()]
    learned = sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None)
    return (max(accumulate(changes)) - learned) / MIB


def test_memory_keeps_to_the_budget_however_many_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient of the student's head takes 4.6 MiB: with a second one it would be too much."""
    # Scratch in large pages does not come from torch's allocator, and would not be counted.
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    peaks = [peak([48, 40, 24][:count], budget=8.0, distance="js", temperature=2.0) for count in (1, 2, 3)]
    assert max(peaks) <= 8.0, peaks


def test_joint_matrices_of_several_teachers_share_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A joint matrix and its gradient take 2.2 MiB: there is room for those of one teacher, not of three."""
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert peak([80, 80, 80], budget=6.0) <= 6.0


@pytest.mark.parametrize("engine", ["tiled", "eager"])
@pytest.mark.parametrize("at_fault", ["t0", "t1"])
def test_what_a_teachers_space_refuses_is_said_of_that_teacher(engine: str, at_fault: str) -> None:
    """The heads have different numbers of tokens, which shows while the teachers are compared together."""
    good: dict[str, Any] = {"spaces": ["shared_vocabulary"]}
    batches = {name: make_batch(0, same_tokenizer=True) for name in ("t0", "t1")}
    student = batches["t0"].student
    other = make_batch(1, same_tokenizer=False).teacher.head
    batches = {name: replace(batch, student=student) for name, batch in batches.items()}
    loss_fn = loss_of([good, good], batches, engine=engine)
    head = other if other.vocabulary_size != student.head.vocabulary_size else other.with_vocabulary(3)
    batches[at_fault] = replace(batches[at_fault], teacher=replace(batches[at_fault].teacher, head=head))
    with pytest.raises(InputError, match=rf"^Teacher '{at_fault}': .*the student's head has 11") as caught:
        loss_fn(student, {name: batch.teacher for name, batch in batches.items()})
    assert str(caught.value).count("Teacher '") == 1


@pytest.mark.parametrize("engine", ["tiled", "eager"])
def test_a_loss_that_is_not_finite_is_said_of_the_teacher_at_fault(engine: str) -> None:
    batches = several_batches(0, 2)
    loss_fn = loss_of([TEACHERS["span"], TEACHERS["span"]], batches, engine=engine)
    with torch.no_grad():
        loss_fn.pair("t1").projectors["t2s"].weight.fill_(torch.inf)
    with pytest.raises(InputError, match=r"^Teacher 't1': .*Terms at fault: t2s_ce"):
        run(loss_fn, batches)
