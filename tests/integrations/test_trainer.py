"""The mixin in `transformers.Trainer`."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

from dskd_components import CheckpointError, ConfigurationError, DSKDLoss, DSKDSpec, InputError
from dskd_components.integrations.trainer_checks import require_hooks
from dskd_components.integrations.transformers import DSKDTrainer
from examples.tiny import Pair, tiny_pair
from examples.trainer import new_trainer

if TYPE_CHECKING:
    from pathlib import Path


def trainer_of(pair: Pair, folder: Path, **options: Any) -> DSKDTrainer:
    """A trainer of which tests may set everything; nothing is trained yet."""
    keys = ("compute_loss_func", "optimizers", "eval_dataset", "compute_metrics", "projector_lr", "teacher", "loss_fn")
    given = {name: options.pop(name) for name in keys if name in options}
    arguments = TrainingArguments(
        output_dir=str(folder),
        **({"report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False} | options),
    )
    defaults = {"loss_fn": pair.loss_fn, "teacher": pair.teacher}
    return DSKDTrainer(
        pair.student, arguments, data_collator=pair.collate, train_dataset=pair.samples, **(defaults | given)
    )


def parameters_of(pair: Pair) -> list[torch.Tensor]:
    return [p.detach().clone() for p in (*pair.student.parameters(), *pair.loss_fn.parameters())]


def log_of(trainer: DSKDTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("spec", [None, DSKDSpec.preset("dskd-cma", aligner="exact_match", reduction="sum")])
def test_accumulated_micro_batches_train_as_one_batch_does(tmp_path: Path, spec: DSKDSpec | None) -> None:
    runs = []
    for size, steps in ((8, 1), (2, 4), (1, 8)):
        pair = tiny_pair(spec=spec)
        trainer = new_trainer(pair, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
        trainer.train()
        runs.append((log_of(trainer), parameters_of(pair)))
    (whole, whole_parameters), *parts = runs
    assert len(whole) == 2
    for log, parameters in parts:
        for ours, theirs in zip(log, whole, strict=True):
            for name in ("loss", "grad_norm", "ce", "t2s_kd", "s2t_kd"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6)
        for ours, theirs in zip(parameters, whole_parameters, strict=True):
            # Adam turns rounding at gradients of nearly nothing into steps of its own.
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_terms_are_logged_by_tokens_and_make_up_the_loss(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = new_trainer(pair, tmp_path)
    trainer.train()
    rate = pair.loss_fn.spec.kd_rate
    for entry in log_of(trainer):
        distilled = entry["t2s_ce"] + entry["t2s_kd"] + entry["s2t_kd"]
        assert entry["loss"] == pytest.approx((1 - rate) * entry["ce"] + rate * distilled, rel=1e-5)
    every_step = log_of(trainer)
    pair = tiny_pair()
    trainer = new_trainer(pair, tmp_path, logging_steps=4)
    trainer.train()
    (entry,) = log_of(trainer)
    scored = [int((pair.collate(pair.samples[i : i + 4])["student_labels"] != -100).sum()) for i in range(0, 16, 4)]
    by_tokens = np.average([logged["ce"] for logged in every_step], weights=scored)
    assert entry["ce"] == pytest.approx(by_tokens, rel=1e-5)
    assert entry["ce"] != pytest.approx(np.mean([logged["ce"] for logged in every_step]), rel=1e-4)


def test_evaluation_is_a_mean_over_tokens_whatever_the_batches(tmp_path: Path) -> None:
    pair = tiny_pair()
    with torch.no_grad():
        whole = pair.loss_fn.run(pair.student.eval(), pair.teacher, pair.collate(pair.samples[:7]))
    for size in (1, 3, 7):
        trainer = trainer_of(pair, tmp_path, eval_dataset=pair.samples[:7], per_device_eval_batch_size=size)
        metrics = trainer.evaluate()
        assert metrics["eval_loss"] == pytest.approx(whole.loss.item(), rel=1e-5)
        for name in whole.terms:
            assert metrics[f"eval_{name}"] == pytest.approx(whole.terms[name].item(), rel=1e-5)
        assert set(whole.metrics) <= {name.removeprefix("eval_") for name in metrics}


def test_metrics_of_ones_own_get_the_students_logits(tmp_path: Path) -> None:
    pair = tiny_pair()
    seen: dict[str, Any] = {}

    def compute_metrics(prediction: Any) -> dict[str, float]:
        seen.update(logits=prediction.predictions, labels=prediction.label_ids)
        return {"mine": 1.0}

    trainer = trainer_of(
        pair,
        tmp_path,
        eval_dataset=pair.samples[:4],
        compute_metrics=compute_metrics,
        per_device_eval_batch_size=4,
    )
    assert trainer.evaluate()["eval_mine"] == 1.0
    batch = pair.collate(pair.samples[:4])
    with torch.no_grad():
        expected = pair.student(
            input_ids=batch["student_input_ids"], attention_mask=batch["student_attention_mask"]
        ).logits
    kept = batch["student_attention_mask"].bool()
    torch.testing.assert_close(torch.from_numpy(seen["logits"])[kept], expected[kept])
    assert np.array_equal(seen["labels"], batch["student_labels"].numpy())


def test_projectors_learn_at_their_rate_with_the_trainers_weight_decay(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = trainer_of(pair, tmp_path, learning_rate=1e-3, projector_lr=5e-3, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in pair.loss_fn.named_parameters():
        assert settings[id(parameter)] == (5e-3, 0.0 if name.endswith("bias") else 0.1)
    for parameter in pair.student.parameters():
        assert settings[id(parameter)][0] == 1e-3
    assert trainer_of(tiny_pair(), tmp_path, learning_rate=1e-3).create_optimizer().param_groups[-1]["lr"] == 1e-3


def test_gradients_do_not_outlive_their_step(tmp_path: Path) -> None:
    pair = tiny_pair()
    for parameter in pair.loss_fn.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    trainer = new_trainer(pair, tmp_path)
    trainer.train()
    clean = new_trainer(tiny_pair(), tmp_path)
    clean.train()
    assert [entry["grad_norm"] for entry in log_of(trainer)] == [entry["grad_norm"] for entry in log_of(clean)]
    assert all(parameter.grad is None for parameter in pair.loss_fn.parameters())


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2, "lr_scheduler_type": "linear"}
    whole_pair = tiny_pair()
    whole = new_trainer(whole_pair, tmp_path / "whole", **options)
    whole.train()
    # Another seed: nothing but what the checkpoint holds makes them one.
    pair = tiny_pair(seed=7)
    pair.teacher.load_state_dict(whole_pair.teacher.state_dict())
    tokenizers = (pair.student_tokenizer, pair.teacher_tokenizer)
    loss_fn = DSKDLoss.from_models(pair.loss_fn.spec, pair.student, pair.teacher, *tokenizers)
    pair = replace(pair, loss_fn=loss_fn)
    resumed = new_trainer(pair, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert len(log_of(whole)) == 8
    assert [entry["loss"] for entry in log_of(resumed)] == [entry["loss"] for entry in log_of(whole)]
    assert all(map(torch.equal, parameters_of(pair), parameters_of(whole_pair)))


def test_a_checkpoint_without_fitting_projectors_is_refused(tmp_path: Path) -> None:
    trainer = new_trainer(tiny_pair(), tmp_path, save_strategy="steps", save_steps=4)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-4"
    other = tiny_pair(spec=DSKDSpec.preset("dskd-cma", aligner="exact_match"))
    with pytest.raises(CheckpointError, match=r"spec\.aligner\.name: saved 'cma', here 'exact_match'"):
        new_trainer(other, tmp_path).train(resume_from_checkpoint=str(checkpoint))
    shutil.rmtree(checkpoint / "projectors")
    with pytest.raises(CheckpointError, match=r"checkpoint-4.*cannot be resumed"):
        new_trainer(tiny_pair(), tmp_path).train(resume_from_checkpoint=str(checkpoint))


def test_the_best_model_comes_back_with_its_projectors(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = trainer_of(
        pair,
        tmp_path,
        eval_dataset=pair.samples[:4],
        learning_rate=1e-2,
        max_steps=3,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # the first step's, so that going on has changed them
    )
    before = parameters_of(pair)
    trainer.train()
    best = trainer.state.best_metric
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-6)
    assert not any(map(torch.equal, before, parameters_of(pair)))


def test_the_saved_student_has_no_trace_of_the_projectors(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = new_trainer(pair, tmp_path / "run")
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    written = {path.name for path in (tmp_path / "student").rglob("*")}
    assert not any("projector" in name for name in written)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert loaded.state_dict().keys() == pair.student.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, pair.student.state_dict()[name])
    assert "dskd" not in json.dumps(json.loads((tmp_path / "student" / "config.json").read_text())).lower()


def test_the_teacher_is_a_constant(tmp_path: Path) -> None:
    pair = tiny_pair()
    pair.teacher.train()
    before = copy.deepcopy(pair.teacher.state_dict())
    new_trainer(pair, tmp_path).train()
    assert not pair.teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair.teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in pair.teacher.parameters())


def test_set_ups_in_which_the_loss_would_be_wrong_are_refused(tmp_path: Path) -> None:
    pair = tiny_pair()
    with pytest.raises(ConfigurationError, match="compute_loss_func"):
        trainer_of(pair, tmp_path, compute_loss_func=lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match=r"label_smoothing_factor=0\.1"):
        trainer_of(pair, tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(InputError, match=r"share parameters.*deepcopy"):
        trainer_of(pair, tmp_path, teacher=pair.student)
    with pytest.raises(InputError, match=r"loss_fn: expected a DSKDLoss, got dict"):
        trainer_of(pair, tmp_path, loss_fn={})
    with pytest.raises(InputError, match=r"teacher: expected a causal language model, got str"):
        trainer_of(pair, tmp_path, teacher="a-name")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("is_fsdp_xla_enabled", True, "FSDP of XLA.*StudentWithProjectors"),
        ("get_tp_size", lambda self: 2, r"tensor parallelism of size 2.*head, 400 x 32, is whole on each rank"),
        ("get_sp_size", lambda self: 4, "sequence parallelism of size 4"),
    ],
)
def test_engines_that_cut_the_student_or_its_texts_apart_are_refused(
    tmp_path: Path, attribute: str, value: Any, message: str
) -> None:
    from dskd_components.integrations.trainer_checks import require_plain_set_up

    trainer = trainer_of(tiny_pair(), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DSKDTrainer, attribute, value, raising=False)
        trainer.__dict__.pop(attribute, None)
        with pytest.raises(ConfigurationError, match=message):
            require_plain_set_up(trainer)


def test_optimizers_of_ones_own_must_fit(tmp_path: Path) -> None:
    pair = tiny_pair()
    alone = torch.optim.AdamW(pair.student.parameters())
    with pytest.raises(ConfigurationError, match=r"no parameter 'aligner\.query\.weight'.*param_groups"):
        trainer_of(pair, tmp_path, optimizers=(alone, None)).create_optimizer()
    everything = [
        {"params": [*pair.student.parameters(), *pair.teacher.parameters()]},
        *pair.loss_fn.param_groups(lr=1),
    ]
    with pytest.raises(ConfigurationError, match="teacher's parameter"):
        trainer_of(pair, tmp_path, optimizers=(torch.optim.SGD(everything, lr=1), None)).create_optimizer()
    own = torch.optim.SGD([{"params": pair.student.parameters()}, *pair.loss_fn.param_groups(lr=1)], lr=1)
    assert trainer_of(pair, tmp_path, optimizers=(own, None)).create_optimizer() is own


def test_a_loss_that_hangs_on_the_student_is_refused(tmp_path: Path) -> None:
    pair = tiny_pair()
    pair.student.add_module("loss_fn", pair.loss_fn)
    with pytest.raises(ConfigurationError, match="part of the student"):
        trainer_of(pair, tmp_path).create_optimizer()


def test_a_trainer_without_the_hooks_is_refused() -> None:
    class Older:
        def compute_loss(self) -> None: ...

    with pytest.raises(ImportError, match=r"_clip_grad_norm.*transformers 5\.8 to 5\.23"):
        require_hooks(Older, DSKDTrainer.__mro__[1])
