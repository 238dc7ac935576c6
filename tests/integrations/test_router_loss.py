"""Every loop trains a student's router by the loss that the student has for it, at the same weight."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from dskd_components import DSKDLoss
from examples import accelerate_loop, lightning_loop, plain_loop, sft_trainer, trainer
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPS: dict[str, Callable[[Pair], list[float]]] = {
    "Trainer": trainer.train,
    "SFTTrainer": sft_trainer.train,
    "Accelerate": accelerate_loop.train,
    "Lightning": lightning_loop.train,
}


def pair_with_experts(*, router: bool = True) -> Pair:
    pair = tiny_pair()
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(pair.student_tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        output_router_logits=router,
        router_aux_loss_coef=0.5 if router else 0.0,
    )
    student = MixtralForCausalLM(config)
    torch.manual_seed(0)
    tokenizers = (pair.student_tokenizer, pair.teacher_tokenizer)
    loss_fn = DSKDLoss.from_models(pair.loss_fn.spec, student, pair.teacher, *tokenizers)
    return replace(pair, student=student, loss_fn=loss_fn, samples=pair.samples[:8])


@cache
def plain_curve(*, router: bool) -> list[float]:
    return plain_loop.train(pair_with_experts(router=router))


def test_the_router_shows_in_the_curve() -> None:
    assert min(a - b for a, b in zip(plain_curve(router=True), plain_curve(router=False), strict=True)) > 0.1


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning, of what newer torch deprecates
@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_gives_the_curve_of_the_plain_one(loop: str) -> None:
    assert LOOPS[loop](pair_with_experts()) == pytest.approx(plain_curve(router=True), rel=1e-5)


def test_the_weight_that_trl_is_given_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base class writes it into the configuration alone, where the student has read it already."""
    original = sft_trainer.SFTConfig

    def configured(**options: Any) -> Any:
        return original(**options, router_aux_loss_coef=0.5)

    monkeypatch.setattr(sft_trainer, "SFTConfig", configured)
    pair = pair_with_experts()
    pair.student.router_aux_loss_coef = 0.25  # type: ignore[assignment]
    assert sft_trainer.train(pair) == pytest.approx(plain_curve(router=True), rel=1e-5)
