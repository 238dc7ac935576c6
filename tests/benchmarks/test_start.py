"""The benchmark of starts runs on saved models, in the way that its page says."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from benchmarks import start
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_both_directions_are_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"small": byte_level_tokenizer(), "large": metaspace_tokenizer()}
    for name, tokenizer in folders.items():
        tiny_model("Llama", hidden_size=16, vocabulary=len(tokenizer)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    monkeypatch.setattr(start, "TEXTS", 1)
    written = tmp_path / "start.json"
    monkeypatch.setattr(sys, "argv", ["start", *(str(tmp_path / name) for name in folders), "--json", str(written)])
    start.main()
    results = json.loads(written.read_text())["results"]
    assert set(results) == {"small <- large", "large <- small"}
    for found in results.values():
        assert {"exact_match with linear, as torch", "span with mlp", "cma with linear"} <= set(found)
        assert sum(choice["recommended"] for choice in found.values()) == 1
