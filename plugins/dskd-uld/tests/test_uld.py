"""What holds for these spaces in particular; the laws of every space are tested in the library."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from dskd_uld import HybridSpace, Positional, sorted_difference
from safetensors.torch import load_file
from torch import Tensor

from dskd_components import ConfigurationError, DSKDLoss, DSKDSpec, Head, LMStates
from dskd_components.distances import KL

GOLDEN = Path(__file__).parent / "golden"
engines = pytest.mark.parametrize("engine", ["eager", "tiled"])


def states(logits: Tensor, targets: Tensor) -> LMStates:
    """Logits as hidden states, read by a head that changes nothing."""
    return LMStates(hidden_states=logits, targets=targets, head=Head(torch.eye(logits.shape[-1], dtype=logits.dtype)))


def loss_of(spec: DSKDSpec, student: Tensor, teacher: Tensor, mapping: Tensor | None = None) -> Any:
    """The outcome for rows that all belong to one sample, place by place."""
    sides = [states(side[None], torch.zeros(1, len(side), dtype=torch.int64)) for side in (student, teacher)]
    sizes = {"student_hidden_size": student.shape[-1], "teacher_hidden_size": teacher.shape[-1]}
    return DSKDLoss(spec, **sizes, teacher_to_student_ids=mapping)(*sides)


def logits(seed: int, tokens: int, rows: int = 4) -> Tensor:
    return torch.randn(
        rows, tokens, generator=torch.Generator(torch.get_default_device()).manual_seed(seed), dtype=torch.float64
    ).mul(2)


@engines
def test_it_is_the_released_value_and_gradient(engine: str) -> None:
    data = load_file(GOLDEN / "uld.safetensors")
    student_logits = data["student_logits"].requires_grad_()
    spec = DSKDSpec(spaces=["uld"], aligner="positional", kd_rate=1.0, reduction="sum", engine=engine)
    out = DSKDLoss(spec, student_hidden_size=19, teacher_hidden_size=29)(
        states(student_logits, data["labels"]), states(data["teacher_logits"], data["teacher_labels"])
    )
    out.loss.backward()
    torch.testing.assert_close(out.terms["uld"], data["value"], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(student_logits.grad, data["grad"], rtol=1e-4, atol=1e-6)


def test_no_pairing_of_tokens_is_nearer_than_that_by_size() -> None:
    student, teacher = logits(0, 4).softmax(-1), logits(1, 5).softmax(-1)
    padded = torch.cat([student, torch.zeros(4, 1)], -1)
    pairings = [(padded[:, list(order)] - teacher).abs().sum(-1) for order in itertools.permutations(range(5))]
    torch.testing.assert_close(sorted_difference(student, teacher), torch.stack(pairings).min(0).values)


def test_the_names_of_tokens_do_not_matter_to_it() -> None:
    student = logits(0, 7)
    spec = DSKDSpec(spaces=["uld"], aligner="positional")
    assert loss_of(spec, student, student[:, torch.randperm(7)]).terms["uld"] < 1e-12
    assert loss_of(spec, student, logits(1, 5)).terms["uld"] > 0.1


# Tokens 0, 2 and 3 of the teacher are tokens 4, 1 and 0 of the student; token 5 is token 4 once more.
MAPPING = torch.tensor([4, -1, 1, 0, -1, 4])
STUDENT_IDS, TEACHER_IDS = [0, 1, 4], [3, 2, 0]


@engines
def test_the_hybrid_compares_shared_tokens_by_name_and_others_by_size(engine: str) -> None:
    student, teacher = logits(0, 5).requires_grad_(), logits(1, 6)
    spec = DSKDSpec(spaces=["uld_hybrid"], aligner="positional", temperature=2.0, engine=engine)
    out = loss_of(spec, student, teacher, MAPPING)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    p_shared, q_shared = p[:, TEACHER_IDS], q[:, STUDENT_IDS]
    mass = p_shared.sum(-1, keepdim=True)
    matched = (p_shared * ((p_shared / mass) / (q_shared / q_shared.sum(-1, keepdim=True))).log()).sum(-1)
    unmatched = sorted_difference(q[:, [2, 3]], p[:, [1, 4, 5]])
    torch.testing.assert_close(out.terms["uld_matched"], matched.mean())
    torch.testing.assert_close(out.terms["uld_unmatched"], unmatched.mean())
    expected = torch.autograd.grad(0.5 * (matched + unmatched).mean() + 0.5 * out_ce(student), student)
    torch.testing.assert_close(torch.autograd.grad(out.loss, student), expected)


def out_ce(student: Tensor) -> Tensor:
    return -student.log_softmax(-1)[:, 0].mean()


def test_with_one_vocabulary_the_hybrid_is_the_distance_itself() -> None:
    student, teacher = logits(0, 6), logits(1, 6)
    out = loss_of(DSKDSpec(spaces=["uld_hybrid"], aligner="positional"), student, teacher, torch.arange(6))
    expected = KL()(student.log_softmax(-1), teacher.log_softmax(-1)).mean()
    torch.testing.assert_close(out.terms["uld_matched"], expected)
    assert out.terms["uld_unmatched"] == 0


def test_released_weights_are_the_shares_of_the_teachers_vocabulary() -> None:
    student, teacher = logits(0, 5), logits(1, 6)
    space = HybridSpace(matched_weight=None, unmatched_weight=None)
    out = loss_of(DSKDSpec(spaces=[space], aligner="positional", kd_rate=1.0), student, teacher, MAPPING)
    torch.testing.assert_close(out.loss, (out.terms["uld_matched"] + out.terms["uld_unmatched"]) / 2)


def test_a_map_without_shared_tokens_and_a_missing_map_are_refused() -> None:
    spec = DSKDSpec(spaces=["uld_hybrid"], aligner="positional")
    with pytest.raises(ConfigurationError, match=r"'uld_hybrid' needs 1 or more tokens .* have 0 in common"):
        loss_of(spec, logits(0, 5), logits(1, 6), torch.full((6,), -1))
    with pytest.raises(ConfigurationError, match="space 'uld_hybrid' must know which tokens"):
        loss_of(spec, logits(0, 5), logits(1, 6))


def test_places_are_counted_within_each_sample() -> None:
    targets = torch.tensor([[-100, 1, 1, -100, 1, 1, 1, -100]])
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2]])
    student = LMStates(
        hidden_states=torch.randn(1, 8, 3), targets=targets, head=Head(torch.eye(3)), segment_ids=segments
    )
    teacher = LMStates(
        hidden_states=torch.randn(1, 6, 3),
        targets=torch.tensor([[1, 1, 1, 1, -100, 1]]),
        head=Head(torch.eye(3)),
        segment_ids=torch.tensor([[0, 0, 0, 1, 2, 2]]),
    )
    aligned = Positional().build(student_embedding_size=3, teacher_embedding_size=3)(student, teacher, None)
    assert aligned.teacher_index().tolist() == [[-1, 0, 1, -1, 3, -1, 5, -1]]
