"""A trainer that makes its student anew for each training: nothing of the last one stays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import BestRun, HPSearchBackend

from dskd_components import DSKDLoss, DSKDSpec, InputError, MultiTeacherLoss, MultiTeacherSpec, TeacherSpec
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from dskd_components.integrations.transformers import DSKDTrainer
from examples.tiny import Pair, tiny_pair
from examples.two_tokenizers.models import new_student

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPECS = {
    "dskd-cma": DSKDSpec.preset("dskd-cma", aligner={"name": "cma", "std": "sample"}),
    "dskd-v2": DSKDSpec.preset("dskd-v2-eta"),
}


def fresh_student(pair: Pair, width: int = 32) -> Any:
    """Random weights, by the seed that the trainer has set."""
    return new_student(pair.student_tokenizer, width=width, layers=1, max_length=128, seed=torch.initial_seed())


def made_anew(pair: Pair) -> Callable[[Any], DSKDLoss]:
    def make(student: Any) -> DSKDLoss:
        tokenizers = (pair.student_tokenizer, pair.teacher_tokenizer)
        return DSKDLoss.from_models(pair.loss_fn.spec, student, pair.teacher, *tokenizers)

    return make


GIVEN: dict[str, Callable[[Pair], Any]] = {"a loss": lambda pair: pair.loss_fn, "a function": made_anew}


def trainer_of(pair: Pair, folder: Path, loss_fn: Any, model_init: Any = None, **options: Any) -> DSKDTrainer:
    defaults: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "logging_steps": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
    }
    return DSKDTrainer(
        args=TrainingArguments(output_dir=str(folder), **(defaults | options)),
        model_init=model_init or (lambda: fresh_student(pair)),
        data_collator=pair.collate,
        train_dataset=pair.samples[:8],
        eval_dataset=pair.samples[:4],
        loss_fn=loss_fn,
        teacher=pair.teacher,
    )


def parameters_of(trainer: DSKDTrainer) -> list[torch.Tensor]:
    assert trainer.model is not None
    return [tensor.detach().clone() for tensor in (*trainer.model.parameters(), *trainer.loss_fn.parameters())]


def run(trainer: DSKDTrainer) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    """Train once; return what was logged but for times, and the parameters."""
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: value for name, value in entry.items() if "_per_" not in name} for entry in log], parameters_of(
        trainer
    )


def same(one: Any, other: Any) -> bool:
    return one[0] == other[0] and all(map(torch.equal, one[1], other[1]))


@pytest.fixture(scope="module", params=SPECS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return tiny_pair(spec=SPECS[request.param])


@pytest.mark.parametrize("given", GIVEN)
def test_each_training_begins_anew(pair: Pair, given: str, tmp_path: Path) -> None:
    trainer = trainer_of(pair, tmp_path, GIVEN[given](pair))
    first = run(trainer)
    trainer.args.learning_rate = 5e-2
    assert not same(run(trainer), first)
    trainer.args.learning_rate = 1e-2
    assert same(run(trainer), first)
    if given == "a function":  # as in a new trainer
        assert same(run(trainer_of(pair, tmp_path, made_anew(pair))), first)


def test_a_training_that_was_broken_off_leaves_nothing(pair: Pair, tmp_path: Path) -> None:
    class PrunedError(Exception):
        pass

    class Prune(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            raise PrunedError

    trainer = trainer_of(pair, tmp_path, pair.loss_fn)
    first = run(trainer)
    trainer.add_callback(Prune())
    with pytest.raises(PrunedError):
        trainer.train()
    trainer.remove_callback(Prune)
    assert same(run(trainer), first)


def test_a_training_without_model_init_goes_on(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = trainer_of(pair, tmp_path, pair.loss_fn)
    trainer.model_init = None
    first = run(trainer)
    assert not same(run(trainer), first)


def test_a_function_makes_projectors_by_the_seed(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = trainer_of(pair, tmp_path, made_anew(pair), lambda: pair.student)
    pair.student.requires_grad_(False)
    starts = []
    for seed in (1, 2, 1):
        trainer.args.seed = seed
        transformers.set_seed(seed)
        trainer.call_model_init()
        starts.append([parameter.detach().clone() for parameter in trainer.loss_fn.parameters()])
    assert all(map(torch.equal, starts[0], starts[2]))
    assert not any(map(torch.equal, starts[0], starts[1]))


def test_projectors_that_were_restored_are_what_each_training_begins_with(tmp_path: Path) -> None:
    pair = tiny_pair()
    with torch.no_grad():
        for parameter in pair.loss_fn.parameters():
            parameter.fill_(0.125)
    trainer = trainer_of(pair, tmp_path, pair.loss_fn)
    trainer.train()
    trainer.call_model_init()
    assert all((parameter == 0.125).all() for parameter in pair.loss_fn.parameters())


def test_students_of_other_widths_need_a_function(tmp_path: Path) -> None:
    pair = tiny_pair()
    widths = iter([32, 32, 48, 32, 32, 48])
    trainer = trainer_of(pair, tmp_path, made_anew(pair), lambda: fresh_student(pair, next(widths)))
    run(trainer)
    run(trainer)
    assert trainer.loss_fn.hidden_sizes["student"] == 48
    trainer = trainer_of(pair, tmp_path, pair.loss_fn, lambda: fresh_student(pair, next(widths)))
    run(trainer)
    with pytest.raises(InputError, match=r"student\.hidden_states: expected width 32.*48"):
        trainer.train()


def test_a_student_that_shares_with_the_teacher_is_refused_each_time(tmp_path: Path) -> None:
    pair = tiny_pair()
    students = iter([fresh_student(pair), pair.teacher])
    trainer = trainer_of(pair, tmp_path, pair.loss_fn, lambda: next(students).requires_grad_(True))
    with pytest.raises(InputError, match="share parameters"):
        trainer.train()


@pytest.mark.parametrize("wrong", [{}, "dskd", lambda student: student, lambda student: None])
def test_what_is_no_loss_is_refused(wrong: Any, tmp_path: Path) -> None:
    pair = tiny_pair()
    with pytest.raises(InputError, match=r"loss_fn: expected a DSKDLoss"):
        trainer_of(pair, tmp_path, wrong)


def test_a_loss_of_several_teachers_is_refused_with_where_it_is_run(tmp_path: Path) -> None:
    pair = tiny_pair()
    spec = MultiTeacherSpec(teachers={"one": TeacherSpec.preset("dskd-cma")})
    several: Any = MultiTeacherLoss.from_models(
        spec, pair.student, {"one": pair.teacher}, pair.student_tokenizer, {"one": pair.teacher_tokenizer}
    )
    teachers: Any = {"one": pair.teacher}
    for given in (several, lambda student: several):
        with pytest.raises(InputError, match=r"MultiTeacherLoss.*loop of your own.*teachers\.md"):
            DSKDTrainer(
                pair.student,
                TrainingArguments(output_dir=str(tmp_path), report_to="none"),
                loss_fn=given,
                teacher=teachers,
            )
    with pytest.raises(InputError, match=r"MultiTeacherLoss.*loop of your own.*teachers\.md"):
        StudentWithProjectors(pair.student, several, teachers)


def test_a_function_serves_a_given_student(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = DSKDTrainer(
        pair.student,
        TrainingArguments(output_dir=str(tmp_path), report_to="none"),
        data_collator=pair.collate,
        loss_fn=made_anew(pair),
        teacher=pair.teacher,
    )
    assert trainer.loss_fn.hidden_sizes == pair.loss_fn.hidden_sizes


class FakeSearch:
    """As the search by optuna, which is not installed, but with given trials."""

    RATES = (1e-2, 5e-2, 1e-2)

    def ensure_available(self) -> None: ...

    def default_hp_space(self, trial: Any) -> dict[str, float]:
        return dict(trial.params)

    def run(self, trainer: DSKDTrainer, n_trials: int, direction: str, **_: Any) -> BestRun:
        assert direction == "minimize"
        objectives = []
        for number in range(n_trials):
            trial = SimpleNamespace(number=number, params={"learning_rate": self.RATES[number]})
            trainer.objective = None
            trainer.train(trial=trial)  # type: ignore[arg-type]
            metrics = trainer.evaluate()
            objectives.append((trainer.compute_objective(dict(metrics)), metrics["eval_loss"]))
            trainer.model_wrapped = trainer.model = None  # type: ignore[assignment]
            trainer.accelerator.clear()
        return BestRun("0", objectives, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("given", GIVEN)
def test_a_search_for_hyper_parameters_compares_losses_of_fresh_projectors(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tiny_pair()
    backends = {HPSearchBackend.OPTUNA: FakeSearch}
    monkeypatch.setattr("transformers.trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS", backends)
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    trainer = trainer_of(pair, tmp_path, GIVEN[given](pair))
    best = trainer.hyperparameter_search(n_trials=3, backend="optuna")
    (first, loss), (other, _), (again, _) = best.objective  # type: ignore[union-attr]
    assert first == loss == again != other


def test_the_objective_of_a_search_is_of_metrics_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = {HPSearchBackend.OPTUNA: FakeSearch}
    monkeypatch.setattr("transformers.trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS", backends)
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    pair = tiny_pair()
    trainer = trainer_of(pair, tmp_path, pair.loss_fn, max_steps=1)
    trainer.compute_metrics = lambda _: {"mine": 3.0}
    best = trainer.hyperparameter_search(n_trials=1, backend="optuna")
    assert best.objective[0][0] == 3.0  # type: ignore[index]
    best = trainer.hyperparameter_search(None, lambda metrics: metrics["eval_ce"], 1, backend="optuna")
    assert 0 < best.objective[0][0] != best.objective[0][1]  # type: ignore[index]
