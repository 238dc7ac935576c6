"""One seed and one order of data give one loss curve, whoever runs the loop."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from dskd_components import DSKDSpec, DualTokenizerCollator, InputError, scored_tokens
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from examples import accelerate_loop, lightning_loop, on_policy, plain_loop, sft_trainer, trainer, two_processes
from examples.tiny import Pair, tiny_pair
from tests.helpers.process_groups import start_ranks

if TYPE_CHECKING:
    from collections.abc import Callable


def in_two_processes() -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_processes, "spawn", start_ranks)
        return two_processes.train_in_two_processes()


LOOPS: dict[str, Callable[[], list[float]]] = {
    "Trainer": lambda: trainer.train(tiny_pair()),
    "SFTTrainer": lambda: sft_trainer.train(tiny_pair()),
    "Accelerate": lambda: accelerate_loop.train(tiny_pair()),
    "Lightning": lambda: lightning_loop.train(tiny_pair()),
    "two processes": in_two_processes,
}


@pytest.fixture(scope="module")
def plain_curve() -> list[float]:
    return plain_loop.train(tiny_pair())


def test_the_data_is_what_the_comparison_needs(plain_curve: list[float]) -> None:
    pair = tiny_pair()
    lengths = [int((pair.collate([sample])["student_labels"] != -100).sum()) for sample in pair.samples]
    windows = [lengths[start : start + 4] for start in range(0, len(lengths), 4)]
    assert len(plain_curve) == len(windows) > 3
    assert all(sum(window[:2]) != sum(window[2:]) for window in windows)
    assert len({round(loss, 3) for loss in plain_curve}) == len(plain_curve)


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning, of what newer torch deprecates
@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_gives_the_curve_of_the_plain_one(loop: str, plain_curve: list[float]) -> None:
    assert LOOPS[loop]() == pytest.approx(plain_curve, rel=1e-5)


OWN_LOOPS: dict[str, Callable[[Pair], list[float]]] = {
    "plain": plain_loop.train,
    "Trainer": trainer.train,
    "SFTTrainer": sft_trainer.train,
    "Accelerate": accelerate_loop.train,
    "Lightning": lightning_loop.train,
}


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning, of what newer torch deprecates
@pytest.mark.parametrize("loop", OWN_LOOPS)
def test_no_loop_trains_on_batches_for_another_aligner(loop: str) -> None:
    """Nor does any of them drop the column by which that is seen."""
    pair = tiny_pair(spec=DSKDSpec(aligner="span"))
    collate = DualTokenizerCollator(pair.student_tokenizer, pair.teacher_tokenizer)
    with pytest.raises(InputError, match=r"collated for 'exact_match'.*the loss has the aligner 'span'"):
        OWN_LOOPS[loop](replace(pair, collate=collate))


def wrong_curve(scale: float, *, by_batch: bool) -> list[float]:
    """The plain loop with a mistake: gradients of another scale, or micro-batches divided by their own tokens."""
    pair = tiny_pair()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher).train()
    optimizer = torch.optim.AdamW(model.param_groups(lr=1e-2, projector_lr=2e-2))
    losses = []
    for start in range(0, len(pair.samples), 4):
        window = [pair.collate(pair.samples[first : first + 2]) for first in (start, start + 2)]
        loss = 0.0
        for batch in window:
            out = model(batch, num_items_in_batch=2 * scored_tokens(batch) if by_batch else scored_tokens(window))
            (out.loss * scale).backward()
            loss += out.loss.item()
        for part in (model.student, model.loss_fn):
            torch.nn.utils.clip_grad_norm_(part.parameters(), 0.4)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


@pytest.mark.parametrize(("scale", "by_batch"), [(1.0, True), (0.5, False)])
def test_the_comparison_would_notice(scale: float, by_batch: bool, plain_curve: list[float]) -> None:
    assert wrong_curve(1.0, by_batch=False) == pytest.approx(plain_curve, rel=1e-6)
    assert wrong_curve(scale, by_batch=by_batch) != pytest.approx(plain_curve, rel=5e-5)


def test_what_the_student_writes_both_models_score() -> None:
    pair = tiny_pair()
    torch.manual_seed(0)
    prompts = [sample["prompt"] for sample in pair.samples[:3]]
    samples = on_policy.respond(pair, prompts)
    batch = pair.collate(samples)
    assert {sample["finish_reason"] for sample in samples} <= {"length", "stop"}
    for row, response in enumerate(sample["response"] for sample in samples):
        for side, tokenizer in (("student", pair.student_tokenizer), ("teacher", pair.teacher_tokenizer)):
            labels = batch[f"{side}_labels"][row]
            assert tokenizer.decode(labels[labels != -100]).strip() == response.strip()


def test_the_on_policy_loop_runs() -> None:
    torch.manual_seed(0)
    losses = on_policy.train(tiny_pair())
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))


def test_a_pair_is_the_same_for_the_same_seed() -> None:
    def parameters(pair: Pair) -> list[torch.Tensor]:
        return [*pair.student.parameters(), *pair.teacher.parameters(), *pair.loss_fn.parameters()]

    one, same, other = (parameters(tiny_pair(seed, DSKDSpec.preset("dskd-cma"))) for seed in (0, 0, 1))
    assert all(map(torch.equal, one, same))
    assert not all(map(torch.equal, one, other))
