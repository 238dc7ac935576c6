"""A sample of each kind that the collators take."""

from __future__ import annotations

import json
from typing import Any

from dskd_components import DualTokenizerPreprocessor
from tests.helpers.collating import byte_level, metaspace

USER = {"role": "user", "content": "What is the statement?"}
ANSWER = {"role": "assistant", "content": " The statement is the value of é 12345."}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}

OF_TWO_TOKENIZERS: dict[str, dict[str, Any]] = {
    "text": {"text": "the statement is the value of é 12345"},
    "prompt and response": {"prompt": "the statement? ", "response": "is the value 😀"},
    "prompt and completion": {"prompt": "the statement?", "completion": " is the value"},
    "the teacher's own prompt": {"prompt": "the", "teacher_prompt": "the statement. the", "response": " value is new"},
    "chat": {"messages": [USER, ANSWER, {**USER, "content": "More of it"}, ANSWER]},
    "weighted chat": {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]},
    "tools": {"messages": [USER, ANSWER], "tools": json.dumps([TOOL])},
    "template options": {"messages": [USER, ANSWER], "chat_template_kwargs": {"enable_thinking": False}},
    "conversational pair": {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]},
    "conversational pair, the teacher's own prompt": {
        "prompt": [USER], "teacher_prompt": [{**USER, "content": "the statement, a value"}], "completion": [ANSWER]
    },
    "conversations": {"conversations": [{"from": m["role"], "value": m["content"]} for m in (USER, ANSWER)]},
    "text parts": {"messages": [USER, {**ANSWER, "content": [{"type": "text", "text": "the value"}]}]},
}  # fmt: skip
"""Raw samples that any two tokenizers can read."""

OF_ONE_TOKENIZER: dict[str, dict[str, Any]] = {
    "tokens": {"input_ids": [5, 100, 200, 210, 220]},
    "tokens and labels": {"input_ids": [5, 100, 200, 210, 220], "labels": [-100, -100, 200, -100, 220]},
    "tokens and completion_mask": {"input_ids": [5, 100, 200, 210, 220], "completion_mask": [0, 0, 1, 1, 1]},
    "tokens and assistant_masks": {"input_ids": [5, 100, 200, 210, 220], "assistant_masks": [1, 1, 0, 1, 1]},
}
"""Raw samples that two models with one tokenizer can read."""


def preprocessed(**options: Any) -> dict[str, Any]:
    """A sample that was preprocessed for the tokenizers `byte_level` and `metaspace`."""
    preprocess = DualTokenizerPreprocessor(byte_level(), metaspace(), **options)
    return preprocess(OF_TWO_TOKENIZERS["prompt and response"])
