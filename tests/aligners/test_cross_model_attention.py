"""What is particular to cross-model attention: its weights, its metrics, its standard deviations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components import InputError, Tally, TokenGroups, get_aligner
from dskd_components.aligners.cross_model_attention import scored_std
from tests.helpers.strategies import SEEDS, make_batch


@given(seed=SEEDS)
def test_both_matrices_come_from_the_same_scores(seed: int) -> None:
    batch = make_batch(seed, same_tokenizer=False)
    torch.manual_seed(seed)
    module = get_aligner("cma").build(student_embedding_size=5, teacher_embedding_size=7).double()
    found = module(batch.student, batch.teacher, None)
    forth, back = found.student_to_teacher, found.teacher_to_student
    reachable = found.student_covered[:, :, None] & found.teacher_covered[:, None, :]
    assert ((forth > 0) == reachable).all()
    # Row softmax and column softmax of one matrix: the ratio is a product of a row factor and a column factor.
    ratio = (forth.log() - back.transpose(1, 2).log()).where(reachable, 0.0)
    for b in range(len(ratio)):
        block = ratio[b][found.student_covered[b]][:, found.teacher_covered[b]]
        centred = block - block.mean(0, keepdim=True) - block.mean(1, keepdim=True) + block.mean()
        torch.testing.assert_close(centred, torch.zeros_like(centred), atol=1e-9, rtol=0)


def test_metrics_are_entropy_and_accuracy() -> None:
    batch = make_batch(0, same_tokenizer=False)
    module = get_aligner("cma").build(student_embedding_size=5, teacher_embedding_size=7).double()
    torch.nn.init.zeros_(module.query.weight)
    torch.nn.init.zeros_(module.query.bias)
    found = module(batch.student, batch.teacher, None)
    keys = batch.teacher.scored.sum(1)
    queries = batch.student.scored.sum(1)
    uniform = sum(math.log(k) * q for k, q in zip(keys.tolist(), queries.tolist(), strict=True)) / queries.sum()
    assert found.metrics["attention_entropy"].mean().item() == pytest.approx(float(uniform))
    true = found.teacher_index()

    def accuracy(index: torch.Tensor) -> Tally:
        groups = TokenGroups.from_index(index, batch.teacher.targets.shape[1])
        return module(batch.student, batch.teacher, groups).metrics["alignment_accuracy"]

    assert (accuracy(true).mean(), accuracy(true).count) == (1, queries.sum())
    assert accuracy(torch.where(true > 0, true - 1, true + 1).where(true >= 0, -1)).mean() == 0
    assert accuracy(torch.zeros_like(true)).count == queries.sum()
    unknown = accuracy(torch.full_like(true, -1))
    assert (unknown.count, unknown.mean()) == (0, 0)


@given(seed=SEEDS, scope=st.sampled_from(["sample", "batch"]))
def test_spread_is_the_standard_deviation_of_the_scored_entries(seed: int, scope: str) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    values = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    scored = torch.rand(2, 6, generator=generator) < 0.6
    samples = torch.tensor([[0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 2, 2]])
    found = scored_std(lambda rows: values[rows], 3, scored, samples, scope)  # type: ignore[arg-type]
    for sample in range(3):
        own = scored & (samples == sample)
        group = scored if scope == "batch" else own
        if own.any():
            torch.testing.assert_close(found[own], values[group].std().expand(int(own.sum())))
    assert (found[~scored] == 1).all()


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_entries_without_spread_are_not_divided(scope: str) -> None:
    values = torch.full((1, 2, 3), 4.0)
    scored, samples = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2).long()
    found = scored_std(lambda rows: values[rows], 3, scored, samples, scope)  # type: ignore[arg-type]
    assert torch.equal(found, torch.ones(1, 2))


def test_samples_are_attended_to_a_few_at_a_time_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(3, same_tokenizer=False, batch=5)
    torch.manual_seed(0)
    module = get_aligner("cma").build(student_embedding_size=5, teacher_embedding_size=7).double()

    def outcome() -> list[torch.Tensor]:
        found = module(batch.student, batch.teacher, None)
        picked = found.student_to_teacher * torch.arange(8)
        return [found.teacher_values, *torch.autograd.grad(picked.square().sum(), list(module.parameters()))]

    together = outcome()
    monkeypatch.setattr("dskd_components.aligners.cross_model_attention.CHUNK", 1)
    torch.testing.assert_close(outcome(), together)


def test_the_models_embeddings_may_be_of_different_precision() -> None:
    batch = make_batch(3, same_tokenizer=False)
    torch.manual_seed(0)
    module = get_aligner("cma").build(student_embedding_size=5, teacher_embedding_size=7).double()
    assert batch.teacher.embedding is not None
    teacher = replace(batch.teacher, embedding=batch.teacher.embedding.float())
    expected, found = module(batch.student, batch.teacher, None), module(batch.student, teacher, None)
    torch.testing.assert_close(found.student_to_teacher, expected.student_to_teacher, rtol=1e-4, atol=1e-5)


def test_neither_queries_nor_keys_are_kept_for_the_gradient() -> None:
    batch = make_batch(3, same_tokenizer=False)
    module = get_aligner("cma").build(student_embedding_size=5, teacher_embedding_size=7).double()
    widths = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        widths.add(tensor.shape[-1])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = module(batch.student, batch.teacher, None)
    assert found.student_to_teacher.requires_grad
    assert widths
    assert not widths & {2 * 5, 2 * 7}


def test_a_teacher_whose_embeddings_are_narrower_than_its_states_is_refused() -> None:
    batch = make_batch(0, same_tokenizer=False)
    assert batch.teacher.embedding is not None
    narrow = replace(batch.teacher, embedding=batch.teacher.embedding[:, :4])
    module = get_aligner("cma").build(student_embedding_size=5, teacher_embedding_size=4).double()
    words = r"teacher\.embedding has width 4, teacher\.hidden_states 7: .* Use another aligner for this teacher"
    with pytest.raises(InputError, match=words):
        module(batch.student, narrow, None)
