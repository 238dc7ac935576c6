"""Trainers under FSDP2 and DeepSpeed, by the configuration that users have, give what one process gives."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dskd_components import ConfigurationError, DSKDLoss, DSKDSpec, DSKDWarning, TeacherStore
from examples.launchers.train import main
from examples.tiny import tiny_pair
from tests.helpers.process_groups import run_on_ranks
from tests.helpers.trainers_of_ranks import (
    curve_of,
    engine_on_cpu,
    environment_of,
    options_of,
    pair_of_rank,
    trainer_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.integrations.transformers import DSKDTrainer
    from examples.tiny import Pair

pytest.importorskip("deepspeed")
# In `make test`, tests/distributed has losses and gradients under each engine.
pytestmark = pytest.mark.minutes

RANKS = 2
# Two checkpoints, of which the first is taken for the best: so the end of training loads it.
BEST: dict[str, Any] = {
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_ce",
    "greater_is_better": True,
}
LAUNCHERS = Path(__file__).parents[2] / "examples/launchers"


def loss_of(pair: Pair) -> Any:
    """A function that makes the loss of a pair for a student, with the same projectors as `tiny_pair`."""

    def make(student: Any) -> DSKDLoss:
        torch.manual_seed(0)
        return DSKDLoss.from_models(
            pair.loss_fn.spec, student, pair.teacher, pair.student_tokenizer, pair.teacher_tokenizer
        )

    return make


def whole_run(engine: str, pair: Pair, folder: str, **options: Any) -> dict[str, Any]:
    """A run with evaluations, checkpoints, the best model and what is saved of it."""
    trainer = trainer_of(engine, pair, folder, **BEST | options)
    trainer.train()
    trainer.save_model()
    return results_of(trainer)


def example(folder: str, file: str | None) -> dict[str, Any]:
    """The same by the example, with adapters, in the environment that a launcher makes of a file; None: one process."""
    own = {"use_cpu": True, "per_device_train_batch_size": 2} if file is None else {}
    options = BEST | own | {"train_sampling_strategy": "sequential", "log_level": "error", "output_dir": folder}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({} if file is None else environment_of(LAUNCHERS / file)).items():
            patch.setenv(name, value)
        return results_of(main(["--lora", *(f"--{name}={value}" for name, value in options.items())]))


def results_of(trainer: DSKDTrainer) -> dict[str, Any]:
    """What is compared with one process."""
    evaluations = [entry["eval_ce"] for entry in trainer.state.log_history if "eval_ce" in entry]
    return {
        "curve": curve_of(trainer),
        "evaluations": evaluations,
        "best": trainer.evaluate()["eval_ce"],
        "teacher": {tuple(parameter.shape) for parameter in trainer.teacher.parameters()},
        "projectors": {name: p.detach().clone() for name, p in trainer.loss_fn.named_parameters()},
    }


def resumed(engine: str, pair: Pair, folder: str, **options: Any) -> list[dict[str, float]]:
    """The curve of a run that goes on after the first checkpoint."""
    trainer = trainer_of(engine, pair, f"{folder}-resumed", **BEST | options)
    trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-2")
    return curve_of(trainer)


def fsdp2(rank: int, folder: str) -> Iterator[tuple[str, Any]]:
    with engine_on_cpu("FSDP2"):
        yield "FSDP2", whole_run("FSDP2", pair_of_rank(rank), f"{folder}/FSDP2")
        again = pair_of_rank(rank)
        if rank:  # as from_pretrained leaves them with cpu_ram_efficient_loading
            again.student.to("meta"), again.teacher.to("meta")
        yield "FSDP2 resumed", resumed("FSDP2", replace(again, loss_fn=loss_of(again)), f"{folder}/FSDP2")
    with engine_on_cpu("FSDP2"):
        yield "FSDP2 LoRA", example(f"{folder}/FSDP2-LoRA", "fsdp2.yaml")


def zero1(rank: int, folder: str) -> Iterator[tuple[str, Any]]:
    with engine_on_cpu("ZeRO-1"):
        # Its own optimizer, which then steps the schedule, too; and a teacher of which the states are stored.
        options = options_of("ZeRO-1")
        rates = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto", "torch_adam": True}
        options["deepspeed"]["optimizer"] = {"type": "AdamW", "params": rates}
        store = TeacherStore(f"{folder}/store")
        yield (
            "ZeRO-1",
            whole_run("ZeRO-1", replace(pair_of_rank(rank), teacher=store), f"{folder}/ZeRO-1", **options),
        )


def zero2(rank: int, folder: str) -> Iterator[tuple[str, Any]]:
    with engine_on_cpu("ZeRO-2"):
        yield "ZeRO-2", whole_run("ZeRO-2", pair_of_rank(rank), f"{folder}/ZeRO-2")
        yield "ZeRO-2 resumed", resumed("ZeRO-2", pair_of_rank(rank), f"{folder}/ZeRO-2")


def zero3(rank: int, folder: str) -> Iterator[tuple[str, Any]]:
    with engine_on_cpu("ZeRO-3"):
        yield "ZeRO-3", whole_run("ZeRO-3", pair_of_rank(rank), f"{folder}/ZeRO-3")
        # While arguments with its configuration live, models are loaded into parts.
        pair = pair_of_rank(rank)
        arguments = trainer_of("ZeRO-3", pair, folder).args
        models = {side: AutoModelForCausalLM.from_pretrained(f"{folder}/{side}") for side in ("student", "teacher")}
        assert {parameter.shape for parameter in models["student"].parameters()} == {torch.Size([0])}
        loaded = replace(pair, **models)
        loaded = replace(loaded, loss_fn=loss_of(loaded)(loaded.student))
        del arguments
        yield "ZeRO-3 resumed", resumed("ZeRO-3", loaded, f"{folder}/ZeRO-3")
    with engine_on_cpu("ZeRO-3"):
        yield "ZeRO-3 LoRA", example(f"{folder}/ZeRO-3-LoRA", "deepspeed.yaml")


def refused(rank: int, folder: str) -> Iterator[tuple[str, Any]]:
    with engine_on_cpu("DDP"):
        pair = pair_of_rank(rank)
        spec = DSKDSpec.preset("dskd-cma", aligner={"name": "cma", "std": "sample"}, kd_rate=0.5 + 0.25 * rank)
        with pytest.raises(ConfigurationError) as other_spec:
            trainer_of("DDP", tiny_pair(spec=spec), folder)
        yield "other spec", str(other_spec.value)
        for name, stores in {"other store": ["store", "small store"], "no store": ["store", None]}.items():
            own = stores[rank]
            with pytest.raises(ConfigurationError) as other_store:
                trainer_of("DDP", replace(pair, teacher=TeacherStore(f"{folder}/{own}")) if own else pair, folder)
            yield name, str(other_store.value)
        with pytest.raises(ConfigurationError) as nothing_shards:
            trainer_of("DDP", pair, folder, shard_teacher=True)
        yield "nothing shards", str(nothing_shards.value)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ACCELERATE_USE_FSDP", "true")
            with pytest.warns(DSKDWarning) as not_sharded:
                trainer_of("DDP", pair, folder)
        ours = [str(each.message) for each in not_sharded if issubclass(each.category, DSKDWarning)]
        yield "FSDP2 without accelerators", "\n".join(ours)
    with engine_on_cpu("DDP"):
        os.environ.pop("ACCELERATE_USE_CPU")
        with pytest.raises(ConfigurationError) as alone:
            trainer_of("ZeRO-2", pair, folder)
    yield "DeepSpeed without accelerators", str(alone.value)


def run_rank(rank: int, folder: str) -> None:
    os.chdir(LAUNCHERS.parents[1])  # the paths in their files begin there
    os.environ.update(LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29535", TORCHELASTIC_RUN_ID="tests")
    results = {}
    for part in (fsdp2, zero1, zero2, zero3, refused):
        results |= dict(part(rank, folder))
    torch.save(results, f"{folder}/results-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("launchers")
    pair = tiny_pair()
    pair.student.save_pretrained(path / "student")
    pair.teacher.save_pretrained(path / "teacher")
    TeacherStore.build(path / "store", pair.teacher, pair.collate, pair.samples, dtype="float32")
    TeacherStore.build(path / "small store", pair.teacher, pair.collate, pair.samples[:3], dtype="float32")
    run_on_ranks(run_rank, RANKS, path)
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"results-{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The runs of one process."""
    path = tmp_path_factory.mktemp("one")
    return {
        "": whole_run("", pair_of_rank(0), f"{path}/full") | {"saved": path / "full"},
        " LoRA": example(f"{path}/lora", None) | {"saved": path / "lora"},
    }


RUNS = ["FSDP2", "FSDP2 LoRA", "ZeRO-1", "ZeRO-2", "ZeRO-3", "ZeRO-3 LoRA"]


def of_one_process(run: str, expected: dict[str, Any]) -> dict[str, Any]:
    return expected[" LoRA" if run.endswith("LoRA") else ""]


@pytest.mark.parametrize("run", RUNS)
def test_the_curve_is_that_of_one_process(run: str, results: Any, expected: Any) -> None:
    for found in results:
        for step, whole in zip(found[run]["curve"], of_one_process(run, expected)["curve"], strict=True):
            assert step == pytest.approx(whole, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("run", RUNS)
def test_evaluations_and_the_best_model_are_those_of_one_process(run: str, results: Any, expected: Any) -> None:
    whole = of_one_process(run, expected)
    for found in results:
        assert found[run]["evaluations"] == pytest.approx(whole["evaluations"], rel=1e-5)
        assert found[run]["best"] == pytest.approx(whole["best"], rel=1e-5)
        assert found[run]["best"] > found[run]["evaluations"][1] + 1e-4, "of the checkpoint, not of the end"


@pytest.mark.parametrize("run", RUNS)
def test_the_student_is_saved_alone(run: str, folder: Path, expected: Any) -> None:
    whole = of_one_process(run, expected)
    own = folder / run.replace(" ", "-")
    name = "adapter_model.safetensors" if run.endswith("LoRA") else "model.safetensors"
    found, wanted = load_file(own / name), load_file(whole["saved"] / name)
    assert found.keys() == wanted.keys()
    assert not any("projector" in name for name in found)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("run", RUNS)
def test_projectors_are_the_same_on_all_ranks_and_those_of_one_process(run: str, results: Any, expected: Any) -> None:
    whole = of_one_process(run, expected)["projectors"]
    for name, parameter in results[0][run]["projectors"].items():
        assert torch.equal(parameter, results[1][run]["projectors"][name]), name
        torch.testing.assert_close(parameter, whole[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("engine", ["FSDP2", "ZeRO-2", "ZeRO-3"])
def test_a_run_is_resumed_to_the_same_curve(engine: str, results: Any) -> None:
    for found in results:
        assert len(found[f"{engine} resumed"]) == 4
        for step, whole in zip(found[f"{engine} resumed"], found[engine]["curve"], strict=True):
            assert step == pytest.approx(whole, rel=1e-6)


def test_ranks_share_a_teacher_where_they_share_the_student(results: Any) -> None:
    for found in results:
        assert found["ZeRO-3"]["teacher"] == {(0,)}
        assert found["ZeRO-1"]["teacher"] == set(), "a store"
        assert (320, 64) in found["ZeRO-2"]["teacher"]


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("other spec", ["Rank 1 has built another loss", "spec.kd_rate", "rank 0 0.5", "rank 1 0.75"]),
        ("other store", ["Rank 1 reads another store", "samples: rank 0 16, rank 1 3"]),
        ("no store", ["rank 0 reads its teacher from a store"]),
        ("nothing shards", ["shard_teacher=True", "FSDP2", "ZeRO-3"]),
        ("FSDP2 without accelerators", ["FSDP was asked for", "does not shard on 'cpu'", "whole student"]),
        ("DeepSpeed without accelerators", ["2 processes were started", "DeepSpeed on accelerators alone"]),
    ],
)
def test_ranks_that_do_not_agree_and_engines_that_are_not_there_are_named(
    what: str, parts: list[str], results: Any
) -> None:
    for found in results:
        for part in parts:
            assert part in found[what]
