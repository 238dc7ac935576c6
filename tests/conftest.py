"""Settings that every test shares."""

from __future__ import annotations

import gc

import torch
from hypothesis import Phase, settings

# One thread: two workers share two cores, and results do not depend on how many there are.
torch.set_num_threads(1)

settings.register_profile("default", deadline=None, derandomize=True, print_blob=True, max_examples=50)
# Mutation asks only whether a test fails, not for the smallest case.
settings.register_profile("mutation", settings.get_profile("default"), phases=(Phase.explicit, Phase.generate))
settings.load_profile("default")


def pytest_collection_finish() -> None:
    """Leave out what is imported and collected by now, which stays to the end, when garbage is looked for.

    It takes half a second each time, and trainers look for garbage before each training.
    """
    gc.collect()
    gc.freeze()
