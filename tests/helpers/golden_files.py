"""Values of the released implementations on seeded data, by case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


def cases(kind: str) -> list[dict[str, Any]]:
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    return [case for case in manifest["cases"] if case["kind"] == kind]


def tensors(case: dict[str, Any]) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{case['name']}.safetensors", device=str(torch.get_default_device()))


# The releases' names of the distances, and ours.
DISTANCES: dict[str, dict[str, Any]] = {
    "forward_kl": {"name": "kl"},
    "reverse_kl": {"name": "reverse_kl"},
    "js_divergence": {"name": "js"},
    "skewed_forward_kl": {"name": "skew_kl", "alpha": 0.1},
    "skewed_reverse_kl": {"name": "skew_reverse_kl", "alpha": 0.1},
    "adaptive_kl": {"name": "adaptive_kl", "alpha": 0.5},
}
