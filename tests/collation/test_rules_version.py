"""The version of the rules goes up when what samples come to changes, so that preprocessed data sets are not mixed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dskd_components import DualTokenizerPreprocessor
from dskd_components.components.text_methods import ALIGNMENT_RULES

RECORDED = {1: "cdcb4b74985d71af"}
"""By version, what the samples below come to."""

MERGES = ["t h", "th e", "Ġ the", "Ġ i", "Ġi s", "i s", "Ċ Ċ", ". Ċ", "Ġ Ġ", "1 2", "Ġ n", "e w", "Ġn ew"]
KEEPS = "{% for m in messages %}<|s|>{{ m.role }}\n{{ m.content }}<|e|>\n{% endfor %}"
STRIPS = "{% for m in messages %}<|s|>{{ m.role }}: {{ m.content | trim }} <|e|>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|s|>assistant{{ OPENING }}{% endif %}"


def byte_level(merges: list[str], template: str, opening: str) -> PreTrainedTokenizerFast:
    """Written down rather than trained, so that it is the same whoever reads it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, *(pair.replace(" ", "") for pair in merges)])}
    backend = Tokenizer(models.BPE(vocabulary, [(left, right) for left, right in map(str.split, merges)]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<|s|>", "<|e|>")])
    prompt = PROMPT.replace("{{ OPENING }}", f"{{{{ '{opening}' }}}}")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|e|>", chat_template=template + prompt)


CHAT = [
    {"role": "system", "content": " is the\n"},
    {"role": "user", "content": "12 the new?  "},
    {"role": "assistant", "content": " the new is the.\n"},
    {"role": "user", "content": "\nthe"},
    {"role": "assistant", "content": "  the é 12.\n", "finish_reason": "length"},
]
SAMPLES: list[dict[str, Any]] = [
    {"text": "the  new is e\u0301 12.\n\n the"},
    {"prompt": "the new", "response": " is the. 12"},
    {"prompt": "the ", "teacher_prompt": "is", "response": "  the new", "finish_reason": "length"},
    {"messages": CHAT[:3]},
    {"messages": CHAT},
    {"messages": [*CHAT[:2], CHAT[2] | {"weight": 0}, *CHAT[3:]]},
]


def come_to() -> str:
    """A digest of the labels and groups of the samples, aligned in each way, whole and cut."""
    sides = (byte_level(MERGES, KEEPS, "\\n"), byte_level(MERGES[:3] + MERGES[8:10], STRIPS, ":"))
    rows = []
    for method in (None, "exact_match", "span", "min_edit"):
        for options in ({}, {"train_on_prompt": True}, {"student_max_length": 70}):
            preprocess = DualTokenizerPreprocessor(*sides, aligner=method, **options)  # type: ignore[arg-type]
            for sample in SAMPLES:
                if "teacher_prompt" in sample and options.get("train_on_prompt"):
                    continue
                row = preprocess(sample)
                rows.append([value for name, value in sorted(row.items()) if isinstance(value, list)])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def test_what_samples_come_to_is_that_of_this_version() -> None:
    found = come_to()
    assert RECORDED[ALIGNMENT_RULES] == found, (
        f"Samples come to something else ({found}) than by the rules of version {ALIGNMENT_RULES}. If that is meant, "
        "add 1 to ALIGNMENT_RULES and record this value for it, so that preprocessed data sets are seen to be of older "
        "rules."
    )
    assert len(set(RECORDED.values())) == len(RECORDED)
