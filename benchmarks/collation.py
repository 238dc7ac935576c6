"""What collating with alignment costs beside tokenizing both sides alone; ``python -m benchmarks.collation``.

The baseline calls both tokenizers on the same texts, for chats after rendering them. Rounds of all contestants are
interleaved, and the median ratio of a round is reported, so that a busy machine weighs on all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pydoc_data.topics
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.clock import seconds
from dskd_components import DualTokenizerCollator

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 32
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def documentation() -> list[str]:
    """The texts of Python's own help, which come with Python."""
    return [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]


def byte_level_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, as GPT-2 and Qwen have."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["<|im_end|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHATML)


def metaspace_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A SentencePiece-like BPE tokenizer, as Llama 2 and Mistral have."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=6000, special_tokens=["<unk>", "<s>", "</s>", "<|im_end|>", "<|im_start|>"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=CHATML
    )


def batches(texts: list[str], characters: int) -> list[list[str]]:
    """Stretches of text of about one length, in batches."""
    pieces = [text[start : start + characters] for text in texts for start in range(0, len(text), characters)]
    pieces = [piece for piece in pieces if len(piece) == characters][: 6 * BATCH]
    return [pieces[start : start + BATCH] for start in range(0, len(pieces), BATCH)]


def as_pair(text: str) -> dict[str, Any]:
    """A prompt and a response: the first third, and the rest."""
    return {"prompt": text[: len(text) // 3], "response": text[len(text) // 3 :]}


def as_chat(text: str) -> dict[str, Any]:
    """The same as a chat."""
    pair = as_pair(text)
    roles = (("user", pair["prompt"]), ("assistant", pair["response"]))
    return {"messages": [{"role": role, "content": content} for role, content in roles]}


def measure(characters: int, form: str, rounds: int) -> dict[str, Any]:
    """Time the baseline and the collator with each alignment on texts of one length."""
    texts = documentation()
    student, teacher = byte_level_tokenizer(texts), metaspace_tokenizer(texts)
    wrap = {"text": lambda text: {"text": text}, "prompt/response": as_pair, "chat": as_chat}[form]
    stretches = batches(texts, characters)
    samples = [[wrap(text) for text in batch] for batch in stretches]

    def tokenize_alone() -> int:
        count = 0
        for raw, batch in zip(stretches, samples, strict=True):
            for tokenizer in (student, teacher):
                if form == "chat":
                    chats = [sample["messages"] for sample in batch]
                    raw = tokenizer.apply_chat_template(chats, tokenize=False)
                count += sum(map(len, tokenizer(raw, add_special_tokens=form != "chat")["input_ids"]))
        return count

    contestants: dict[str, Callable[[], object]] = {"tokenizing alone": tokenize_alone}
    for aligner in (None, "exact_match", "span", "min_edit"):
        collate = DualTokenizerCollator(student, teacher, aligner=aligner)
        contestants[aligner or "no groups"] = lambda collate=collate: [collate(batch) for batch in samples]
    tokens = tokenize_alone()
    for work in contestants.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            times[name].append(seconds(work))
    base = times["tokenizing alone"]
    return {
        "form": form,
        "characters": characters,
        "samples": sum(map(len, samples)),
        "tokens_of_both_sides": tokens,
        "microseconds_per_token": {
            name: round(statistics.median(found) / tokens * 1e6, 3) for name, found in times.items()
        },
        "ratio_to_tokenizing_alone": {
            name: round(statistics.median(a / b for a, b in zip(found, base, strict=True)), 3)
            for name, found in times.items()
        },
    }


def report(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results with what they were measured on."""
    return {
        "benchmark": "collation",
        "texts": "topics of Python's help (pydoc_data.topics), cut to equal lengths",
        "tokenizers": "byte-level BPE 8000, Metaspace BPE 6000, trained on them",
        "batch": BATCH,
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": sys.version.split()[0]}
        | {name: version(name) for name in ("tokenizers", "transformers", "numpy", "torch")},
        "results": results,
    }


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the numbers there as JSON")
    options = parser.parse_args()
    # One thread on both sides of the comparison: the collator's own work is not threaded either.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    cases = [(400, "text"), (1200, "text"), (1200, "prompt/response"), (1200, "chat"), (4000, "text")]
    results = [measure(characters, form, options.rounds) for characters, form in cases]
    full = report(results)
    names = list(results[0]["ratio_to_tokenizing_alone"])
    table = Table(title="Collating beside tokenizing both sides alone: ratio (microseconds a token)")
    for heading in ("form", "characters", *names):
        table.add_column(heading)
    for result in results:
        ratios, costs = result["ratio_to_tokenizing_alone"], result["microseconds_per_token"]
        cells = [f"{ratios[name]:.2f} ({costs[name]:.2f})" for name in names]
        table.add_row(result["form"], str(result["characters"]), *cells)
    console = Console()
    console.print(table)
    console.print(f"{full['machine']}  {full['versions']}")
    if options.json:
        options.json.write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
