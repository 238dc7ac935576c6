"""The commands of `examples/launchers`, started for real: two processes, gloo, no accelerator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.launchers.train import main
from tests.helpers.trainers_of_ranks import curve_of

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.minutes

ROOT = Path(__file__).parents[2]
MODULE = "tests.helpers.launched_on_cpu"
ORDER = ["--train_sampling_strategy=sequential"]
CPU = ["--use_cpu=true", "--ddp_backend=gloo"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def accelerate(file: str) -> list[str]:
    command = "from accelerate.commands.accelerate_cli import main; main()"
    return [
        sys.executable,
        "-c",
        command,
        "launch",
        f"--config_file=examples/launchers/{file}.yaml",
        "--main_process_port=0",
    ]


COMMANDS = {
    "accelerate, DDP": [*accelerate("ddp"), "-m", MODULE, "DDP", *CPU],
    "accelerate, FSDP2": [*accelerate("fsdp2"), "-m", MODULE, "FSDP2"],
    "accelerate, ZeRO-3": [*accelerate("deepspeed"), "-m", MODULE, "ZeRO-3"],
    "torchrun, DDP": [*TORCHRUN, "-m", MODULE, "DDP", *CPU],
    "torchrun, FSDP2": [
        *TORCHRUN, "-m", MODULE, "FSDP2", "--fsdp", "--fsdp_config=examples/launchers/fsdp2.json"
    ],
    "torchrun, ZeRO-2": [*TORCHRUN, "-m", MODULE, "ZeRO-2", "--deepspeed=examples/launchers/zero2.json"],
    "deepspeed, ZeRO-1": [
        sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus=2", "--master_port=29617", "--no_local_rank",
        "--module", MODULE, "ZeRO-1", "--deepspeed=examples/launchers/zero1.json",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    folder = tmp_path_factory.mktemp("one")
    return curve_of(main([*ORDER, "--use_cpu=true", "--per_device_train_batch_size=2", f"--output_dir={folder}"]))


@pytest.mark.parametrize("launcher", COMMANDS)
def test_a_launcher_gives_the_curve_of_one_process(
    launcher: str, tmp_path: Path, expected: list[dict[str, float]]
) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [*COMMANDS[launcher], *ORDER, f"--output_dir={tmp_path}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads((tmp_path / "curve.json").read_text())
    assert len(found) == len(expected) == 4
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, rel=1e-5, abs=1e-7)
    assert (tmp_path / "model.safetensors").is_file()
