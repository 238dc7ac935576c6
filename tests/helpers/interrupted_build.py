"""Builds small stores in processes of their own, which may be killed; run by `tests.store.test_killed_build`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.helpers.stores import build, samples

OPTIONS = {"batch_size": 2, "shard_bytes": 1500, "dtype": "int8"}
COUNT = 24

if __name__ == "__main__":
    torch.set_num_threads(1)
    print("ready", flush=True)  # noqa: T201
    for folder in sys.stdin:
        # A fork starts at once, where a new interpreter would import for seconds.
        child = os.fork()
        if not child:
            build(Path(folder.strip()), samples(COUNT), **OPTIONS)
            os._exit(0)
        print(child, flush=True)  # noqa: T201
        os.waitpid(child, 0)
        print("ended", flush=True)  # noqa: T201
