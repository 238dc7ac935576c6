"""Texts to align: ordinary ones, and those that break naive code."""

import json
from pathlib import Path

from examples.offline.tokenizers import python_help

GOLDEN = Path(__file__).parents[1] / "golden"
TRICKY: dict[str, str] = {
    case["name"]: case["text"] for case in json.loads((GOLDEN / "tricky_texts.json").read_text(encoding="utf-8"))
}
ORDINARY: list[str] = [topic[:700] for topic in python_help() if len(topic) > 1500][:8]
PROSE = (
    "Knowledge distillation trains a small student to imitate a large teacher. When their tokenizers differ, "
    "token boundaries no longer line up, and 12345 things go wrong: naïve code compares strings, not bytes."
)
ALL: list[str] = [*TRICKY.values(), *ORDINARY, PROSE]
