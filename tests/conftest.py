"""Settings that every test shares."""

from __future__ import annotations

import torch
from hypothesis import settings

# One thread: two workers share two cores, and results do not depend on how many there are.
torch.set_num_threads(1)

settings.register_profile("default", deadline=None, derandomize=True, print_blob=True, max_examples=50)
settings.load_profile("default")
