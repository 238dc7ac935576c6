"""The example of launchers as a launcher starts it: `python -m tests.helpers.launched_on_cpu ENGINE [arguments]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from examples.launchers.train import main
from tests.helpers.trainers_of_ranks import curve_of, engine_on_cpu

if __name__ == "__main__":
    torch.set_num_threads(1)
    engine, *arguments = sys.argv[1:]
    with engine_on_cpu(engine, launched=True):
        trainer = main(arguments)
        if trainer.is_world_process_zero():
            Path(trainer.args.output_dir, "curve.json").write_text(json.dumps(curve_of(trainer)))
    torch.distributed.destroy_process_group()
