"""Data that comes as a stream: the same losses as of the same samples in a list, in one process and in two."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Any

import datasets
import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader, IterableDataset

from dskd_components import DSKDSpec, DualTokenizerCollator, InputError
from dskd_components.integrations.accelerate import clip_grad_norms, micro_batches
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from examples import plain_loop
from examples.tiny import Pair, tiny_pair
from examples.trainer import new_trainer
from tests.helpers.process_groups import run_on_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SPEC = DSKDSpec.preset("dskd", aligner="exact_match")
STEPS = 4
ONE = {"use_cpu": True, "max_steps": STEPS, "train_sampling_strategy": "sequential"}
TWO = {**ONE, "per_device_train_batch_size": 1, "ddp_backend": "gloo"}


class Stream(IterableDataset[Any]):
    """Samples without a length."""

    def __init__(self, samples: list[Any]) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[Any]:
        return iter(self._samples)


class SizedStream(Stream):
    def __len__(self) -> int:
        return len(self._samples)


def hugging_face(samples: list[Any]) -> Any:
    """Of uneven shards, of which each process would otherwise read some."""
    return datasets.Dataset.from_list(samples).to_iterable_dataset(num_shards=3)


STREAMS: dict[str, Callable[[list[Any]], Any]] = {
    "without length": Stream,
    "with length": SizedStream,
    "of Hugging Face": hugging_face,
}


def collator(pair: Pair, **options: Any) -> DualTokenizerCollator:
    return DualTokenizerCollator(pair.student_tokenizer, pair.teacher_tokenizer, aligner="exact_match", **options)


IN_TWO = ("without length", "of Hugging Face")
COLLATORS: dict[str, Callable[[Pair], Any]] = {
    "padded": collator,
    "packed": lambda pair: collator(pair, packing=True),
}


def streamed(folder: Path | str, stream: str, collate: str = "padded", **options: Any) -> dict[str, Any]:
    """Train on a stream, and evaluate on one that does not fill the last batch of two processes."""
    pair = tiny_pair(spec=SPEC)
    trainer = new_trainer(pair, folder, **(ONE | options))
    trainer.data_collator = COLLATORS[collate](pair)
    trainer.train_dataset = STREAMS[stream](pair.samples)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    results = {"loss": [entry["loss"] for entry in log], "ce": [entry["ce"] for entry in log]}
    results["evaluation"] = [
        trainer.evaluate(STREAMS[stream](pair.samples[:count]))["eval_loss"]
        for count in (5, 6)  # type: ignore[arg-type]
    ]
    return results


def accelerated(collate: Any, pair: Pair, data: Any, batch_size: int, **options: Any) -> list[float]:
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    optimizer = torch.optim.AdamW(model.param_groups(lr=1e-2, projector_lr=2e-2))
    loader: DataLoader[Any] = DataLoader(data, batch_size=batch_size, collate_fn=collate)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    batches = iter(loader)
    while window := list(islice(batches, 2)):
        loss = 0.0
        for batch, num_items in micro_batches(accelerator, model, window):
            out = model(batch, num_items_in_batch=num_items)
            accelerator.backward(out.loss * accelerator.num_processes)
            loss += accelerator.reduce(out.loss.detach(), reduction="sum").item()
        clip_grad_norms(accelerator, model, 0.4)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process makes of a list."""
    pair = tiny_pair(spec=SPEC)
    trainer = new_trainer(pair, tmp_path_factory.mktemp("listed"), **ONE)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    evaluation = [trainer.evaluate(pair.samples[:count])["eval_loss"] for count in (5, 6)]  # type: ignore[arg-type]
    return {
        "loss": [entry["loss"] for entry in log],
        "ce": [entry["ce"] for entry in log],
        "evaluation": evaluation,
        "curve": plain_loop.train(tiny_pair(spec=SPEC)),
    }


def require_same(found: dict[str, Any], listed: dict[str, Any]) -> None:
    for name, values in found.items():
        assert values == pytest.approx(listed[name], rel=1e-4), name


@pytest.mark.parametrize("collate", COLLATORS)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_trainer_reads_streams(stream: str, collate: str, listed: Any, tmp_path: Path) -> None:
    require_same(streamed(tmp_path, stream, collate), listed)


@pytest.mark.parametrize("options", [{}, {"split_batches": True}, {"dispatch_batches": False}])
def test_accelerate_reads_streams(options: Any, listed: Any) -> None:
    for make in COLLATORS.values():
        pair = tiny_pair(spec=SPEC)
        curve = accelerated(make(pair), pair, Stream(pair.samples), 2, **options)
        assert curve == pytest.approx(listed["curve"], rel=1e-4)


def run_rank(rank: int, folder: str) -> None:
    os.environ.update(LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="tests", ACCELERATE_USE_CPU="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29532")
    results: dict[str, Any] = {stream: streamed(folder, stream, **TWO) for stream in IN_TWO}
    results["packed"] = streamed(folder, "without length", "packed", **TWO)
    del results["packed"]["evaluation"]  # samples that are repeated cannot be told apart in packed rows
    split = {"per_device_train_batch_size": 2, "accelerator_config": {"split_batches": True}}
    results["split"] = streamed(folder, "without length", **(TWO | split))
    results["list, split"] = of_list(folder, **(TWO | split))
    results["dispatched"] = dispatched()
    torch.save(results, f"{folder}/results-{rank}.pt")


def of_list(folder: str, **options: Any) -> dict[str, Any]:
    trainer = new_trainer(tiny_pair(spec=SPEC), folder, **options)
    trainer.train()
    return {"loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}


def dispatched() -> dict[str, Any]:
    """What Accelerate makes of streams when the first process reads for all, which takes rows of one length."""
    results = {}
    for name, size, options in (
        ("joined", 1, {"dispatch_batches": True}),
        ("cut", 2, {"dispatch_batches": True, "split_batches": True}),
        ("read by each", 1, {"dispatch_batches": False}),
    ):
        pair = tiny_pair(spec=SPEC)
        padded = collator(pair, pad_to_multiple_of=None if name == "read by each" else 96)
        results[name] = accelerated(padded, pair, Stream(pair.samples), size, **options)
    pair = tiny_pair(spec=SPEC)
    packed = collator(pair, packing=True, pad_to_multiple_of=96)
    results["packed, joined"] = accelerated(packed, pair, Stream(pair.samples), 1, dispatch_batches=True)
    pair = tiny_pair(spec=SPEC)
    packed = collator(pair, packing=True)
    # One packed row for two processes: what is left for one of them is nothing.
    with pytest.raises(InputError, match="has no rows"):
        accelerated(packed, pair, Stream(pair.samples), 2, dispatch_batches=True, split_batches=True)
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    run_on_ranks(run_rank, 2, folder)
    return [torch.load(folder / f"results-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", [*IN_TWO, "packed", "split", "list, split"])
def test_trainers_of_two_processes_read_streams(name: str, ranks: Any, listed: Any) -> None:
    for found in ranks:
        require_same(found[name], listed)


@pytest.mark.parametrize("name", ["joined", "cut", "read by each", "packed, joined"])
def test_accelerate_in_two_processes_reads_streams(name: str, ranks: Any, listed: Any) -> None:
    for found in ranks:
        assert found["dispatched"][name] == pytest.approx(listed["curve"], rel=1e-4)
