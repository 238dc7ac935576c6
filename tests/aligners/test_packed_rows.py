"""Attention of packed rows, sample by sample: what it gives, when it is used, and what it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator, Head, LMStates, TokenGroups
from dskd_components.aligners import CrossModelAttention, packed_rows
from dskd_components.aligners.packed_rows import PackedAlignment
from dskd_components.errors import InputError
from dskd_components.models.states import UNSCORED_SAMPLE
from tests.helpers.pairs import sound_pair
from tests.helpers.registered import build
from tests.helpers.strategies import SEEDS, Batch

LENGTHS = ((3, 2), (9, 12), (1, 1), (4, 0), (0, 3), (5, 6))
"""Of the samples of a row, in tokens of student and teacher; some are on one side alone."""


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples get rows of their own however small the batch is."""
    monkeypatch.setattr(packed_rows, "WORTHWHILE", 0)


def side(seed: int, width: int, vocabulary: int, rows: list[list[tuple[int, int]]]) -> LMStates:
    """States of rows, each of samples: its name and length."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    length = max(sum(size for _, size in row) for row in rows) + 2
    segments = torch.full((len(rows), length), -1)
    targets = torch.randint(0, vocabulary, segments.shape, generator=generator)
    for number, row in enumerate(rows):
        ids = [name for name, size in row for _ in range(size)]
        segments[number, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        targets[number, len(ids) :] = -100
    targets = targets.where(torch.rand(targets.shape, generator=generator) < 0.8, -100)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    hidden = torch.randn(*targets.shape, width, generator=generator, dtype=torch.float64)
    hidden = hidden.masked_fill((targets == -100)[..., None], torch.nan)
    return LMStates(
        hidden_states=hidden.requires_grad_(),
        targets=targets,
        head=Head(weight),
        input_ids=torch.randint(0, vocabulary, targets.shape, generator=generator),
        embedding=torch.randn(vocabulary, width, generator=generator, dtype=torch.float64),
        segment_ids=segments,
    )


def packed(seed: int, order: list[list[int]], names: tuple[int, ...] = (7, -2, 0, 2**40, 5, 6)) -> Batch:
    rows = [[[(names[one], LENGTHS[one][which]) for one in row] for row in order] for which in (0, 1)]
    student, teacher = side(seed, 4, 89, rows[0]), side(seed + 1, 6, 97, rows[1])
    teacher = replace(teacher, hidden_states=teacher.hidden_states.detach())
    groups = (torch.arange(states.targets.numel()).view_as(states.targets) % 9 for states in (student, teacher))
    return Batch(student, teacher, TokenGroups(*groups))


def step(loss_fn: Any, batch: Batch) -> list[torch.Tensor]:
    out = loss_fn(batch.student, batch.teacher, alignment=batch.groups)
    found = torch.autograd.grad(out.loss, [batch.student.hidden_states, *loss_fn.parameters()])
    return [out.loss.detach(), *found, *(out.metrics[name] for name in sorted(out.metrics))]


def known_on_host(batch: Batch) -> Batch:
    sides = (replace(each, samples_on_host=each.scored_samples()) for each in (batch.student, batch.teacher))
    return Batch(*sides, batch.groups)


@given(
    seed=SEEDS,
    order=st.permutations(range(6)),
    on_host=st.booleans(),
    std=st.sampled_from(["sample", "batch"]),
    engine=st.sampled_from(["eager", "tiled"]),
)
def test_samples_in_rows_of_their_own_give_what_packed_rows_give(
    seed: int, order: list[int], on_host: bool, std: Any, engine: str
) -> None:
    batch = packed(seed, [order[:4], order[4:]])
    loss_fn = build(DSKDSpec(aligner=CrossModelAttention(std=std), engine=engine), batch)
    batch = known_on_host(batch) if on_host else batch
    found = {}
    for worthwhile in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packed_rows, "WORTHWHILE", worthwhile)
            found[worthwhile] = loss_fn.align(batch.student, batch.teacher), step(loss_fn, batch)
    (aligned, ours), (plain, expected) = found.values()
    torch.testing.assert_close(ours, expected)
    assert isinstance(aligned, PackedAlignment) or std == "batch"
    for row in range(2):
        torch.testing.assert_close(aligned.weights(row), plain.weights(row))
    assert torch.equal(aligned.teacher_index(), plain.teacher_index())


@pytest.mark.usefixtures("always")
def test_what_the_host_is_wrong_about_is_said() -> None:
    batch = known_on_host(packed(0, [[0, 1, 4], [5, 1, 0]]))
    loss_fn = build(DSKDSpec(aligner="cma"), batch)
    step(loss_fn, batch)
    known = batch.student.samples_on_host
    assert known is not None
    scored = (known != UNSCORED_SAMPLE).nonzero()[0].tolist()
    others = {
        "left out": known.index_put(
            (torch.tensor(scored[:1]), torch.tensor(scored[1:])), torch.tensor(UNSCORED_SAMPLE)
        ),
        "split": known.index_put((torch.tensor(scored[:1]), torch.tensor(scored[1:])), torch.tensor(99)),
        "mixed": known.where(known != 7, -2),
    }
    for wrong in others.values():
        student = replace(batch.student, samples_on_host=wrong)
        with pytest.raises(InputError, match="samples_on_host: expected the samples"):
            loss_fn(student, batch.teacher, alignment=batch.groups)


@pytest.mark.usefixtures("always")
def test_attention_is_as_large_as_its_samples() -> None:
    """40 samples of about 10 tokens: 40 times 16 squared at the most, where a row has 400 squared."""
    row = [(number, 8 + number % 5) for number in range(40)]
    student, teacher = side(0, 4, 89, [row]), side(1, 6, 97, [row])
    batch = Batch(student, replace(teacher, hidden_states=teacher.hidden_states.detach()), packed(0, [[0]]).groups)
    loss_fn = build(DSKDSpec(aligner="cma"), batch)
    aligned = loss_fn.align(batch.student, batch.teacher)
    squares = [tensor for tensor in aligned.tensors if tensor.ndim == 3 and tensor.shape[1] == tensor.shape[2]]
    assert 0 < sum(tensor.numel() for tensor in squares) <= 2 * 40 * 16**2


@pytest.mark.usefixtures("always")
def test_one_long_sample_leaves_the_rows_as_they_are() -> None:
    batch = packed(0, [[1]])
    loss_fn = build(DSKDSpec(aligner="cma"), batch)
    assert not isinstance(loss_fn.align(batch.student, batch.teacher), PackedAlignment)


def test_small_batches_are_left_as_they_are() -> None:
    batch = packed(0, [[0, 1, 4], [5, 1, 0]])
    loss_fn = build(DSKDSpec(aligner="cma"), batch)
    assert not isinstance(loss_fn.align(batch.student, batch.teacher), PackedAlignment)


@pytest.mark.usefixtures("always")
def test_a_run_knows_where_samples_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout is on the host before the models run: attention does not read it again."""
    pair = sound_pair()
    models, tokenizers = [[pair[side + end] for side in ("student", "teacher")] for end in ("", "_tokenizer")]
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd-cma"), *models, *tokenizers)
    collate = DualTokenizerCollator(*tokenizers, aligner=loss_fn.spec.aligner, packing=True)
    texts = ["One text.", "Another one", "and a third, which is longer", "four"]
    batch = collate([{"text": text} for text in texts])
    expected = loss_fn.run(*models, batch)
    monkeypatch.setattr(packed_rows, "on_host", lambda *_: pytest.fail("read"))
    torch.testing.assert_close(loss_fn.run(*models, batch).loss, expected.loss)
