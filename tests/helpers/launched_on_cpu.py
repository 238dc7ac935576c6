"""The example of launchers as a launcher starts it: `python -m tests.helpers.launched_on_cpu ENGINE [arguments]`."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch

from examples.launchers.train import main
from tests.helpers.trainers_of_ranks import curve_of, engine_on_cpu


def run(engine: str, arguments: list[str]) -> None:
    with engine_on_cpu(engine, launched=True):
        trainer = main(arguments)
        if trainer.is_world_process_zero():
            Path(trainer.args.output_dir, "curve.json").write_text(json.dumps(curve_of(trainer)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[1], sys.argv[2:])
    # An engine has groups of its own, whose threads must have ended before the interpreter does.
    gc.collect()
    torch.distributed.destroy_process_group()
