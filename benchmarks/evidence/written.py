"""Text that the teacher writes: each training text is begun with the words it has, and the teacher goes on from there.

It is sampled from the teacher's own distribution, at temperature 1: the mean of a student's loss is then the cross
entropy from the teacher's distribution of texts to its own. What a small model finds likeliest, by greedy or beam
search, repeats itself. Batches have the same texts and the same random numbers whenever they are written, so that a
file that was cut by a kill becomes the same one.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from benchmarks.evidence.arms import arms_of
from benchmarks.evidence.journal import Journal
from benchmarks.evidence.models import load_model
from dskd_components.tokenization import vocabulary_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from benchmarks.evidence.bench import Bench
    from benchmarks.evidence.data import Text
    from benchmarks.evidence.plan import Plan
    from benchmarks.evidence.queue import Order

FILE: Final = "written.jsonl"
"""A line for each batch, in the order of the training texts."""

AT_ONCE: Final = 40
"""Texts of a batch. All settings of the plan have a multiple of it, so that none is written that nobody reads."""

GIVEN: Final = 3
"""One part in so many of a plain text, by bytes, is what the teacher goes on from."""

SEED: Final = 0
"""Of the first batch; the next ones have the next seeds."""

TOKENS_PER_BYTE: Final = 2
"""The most that are sampled: a teacher that knows no text may write bytes that are no characters."""


def texts_needed(order: Order, plan: Plan) -> int:
    """Return how many training texts, the first ones, are to be written by the teacher; 0: no arm learns from such.

    Args:
        order: the arms that are compared.
        plan: has how many texts each setting has.
    """
    learned = (
        plan.texts[setting]
        for setting, names in order
        for name in names
        if name in arms_of(setting) and arms_of(setting)[name].teacher_text
    )
    return max(learned, default=0)


def write_as_teacher(bench: Bench, count: int, watch: Callable[[int, int], None]) -> None:
    """Let the teacher write training texts, as far as they are not there; go on where it was stopped.

    One process at a time may do this.

    Args:
        bench: the folder, prepared.
        count: how many, the first ones.
        watch: told how many batches of how many are there.
    """
    left = unwritten(bench, count)
    if not left:
        return
    watch(left.start, left.stop)
    texts = bench.texts["train"]
    journal = Journal(bench.folder / FILE)
    journal.back_to(left.start)
    writer = Writer(load_model(bench.folder / "teacher", torch.bfloat16, bench.device), bench.teacher_tokenizer)
    clock = time.process_time if bench.device.type == "cpu" else time.perf_counter
    for number in left:
        began = clock()
        own = texts[number * AT_ONCE : (number + 1) * AT_ONCE]
        samples = writer.write([text.sample for text in own], seed=SEED + number)
        took = {"seconds": round(clock() - began, 3), "machine": bench.machine}
        journal.add({"kind": "texts", "step": number + 1, **took, "samples": samples})
        watch(number + 1, left.stop)


def unwritten(bench: Bench, count: int) -> range:
    """Return the numbers of the batches that are still to be written.

    Args:
        bench: the folder, prepared if there is to be any text.
        count: how many training texts, the first ones.
    """
    last = -(-min(count, len(bench.texts["train"])) // AT_ONCE) if count else 0
    return range(len(Journal(bench.folder / FILE).rows), last)


def written_texts(bench: Bench, texts: Sequence[Text]) -> list[Text]:
    """Return training texts in the teacher's words.

    Args:
        bench: the folder.
        texts: the first ones of all training texts.

    Raises:
        FileNotFoundError: the teacher has not written them all.
    """
    samples = [sample for row in Journal(bench.folder / FILE).rows for sample in row["samples"]]
    if len(samples) < len(texts):
        raise FileNotFoundError(
            f"{bench.folder / FILE}: expected {len(texts)} texts that the teacher wrote, got {len(samples)}. The stage "
            "'teacher' writes them, with --arms of an arm that learns from them."
        )
    return [replace(text, sample=sample) for text, sample in zip(texts, samples, strict=False)]


def writing(folder: Path) -> dict[str, Any] | None:
    """Return what the writing took: ``texts``, their ``bytes``, ``seconds``, ``machine``.

    Args:
        folder: as of `Bench`.

    Returns:
        None: nothing is written. Seconds of a CPU are those that it computes, summed over threads.
    """
    rows = Journal(folder / FILE).rows
    if not rows:
        return None
    samples = [sample for row in rows for sample in row["samples"]]
    return {
        "texts": len(samples),
        "bytes": sum(len("".join(sample.values()).encode()) for sample in samples),
        "seconds": sum(row["seconds"] for row in rows),
        "machine": "; ".join(sorted({row["machine"] for row in rows})),
    }


class Writer:
    """A model that goes on from the beginnings of samples.

    Args:
        model: a causal model of Hugging Face.
        tokenizer: its tokenizer, of a vocabulary whose tokens are bytes; it puts a token before each text.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._pieces = vocabulary_bytes(tokenizer).pieces
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
        self._marks = sorted(number for number, token in added.items() if token.special)

    def write(self, samples: Sequence[dict[str, str]], *, seed: int) -> list[dict[str, str]]:
        """Return samples, each with the teacher's words for what came after its beginning.

        A text becomes as many UTF-8 bytes long as it was, but for a character that would be cut. A response ends where
        the teacher ends it, and is at most as long as it was.

        Args:
            samples: as of `Text`.
            seed: of the sampling.
        """
        written = [dict(sample) for sample in samples]
        with _seeded(seed, self._model.device):
            for key in ("text", "response"):
                rows = [row for row in written if row.get(key)]
                if rows:
                    begun = [beginning(row["text"]) if key == "text" else row["prompt"] for row in rows]
                    kept = ["" if key == "response" else begin for begin in begun]
                    sizes = [len(row[key].encode()) - len(own.encode()) for row, own in zip(rows, kept, strict=True)]
                    added = self._go_on(begun, sizes, ends=key == "response")
                    for row, own, new in zip(rows, kept, added, strict=True):
                        # Where the teacher writes no character at all, there is nothing else to learn from.
                        row[key] = own + new if new else row[key]
        return written

    @torch.inference_mode()
    def _go_on(self, begun: Sequence[str], sizes: Sequence[int], *, ends: bool) -> list[str]:
        """Return what comes after some beginnings, of so many bytes each, or until an end is written."""
        encoded = self._tokenizer(list(begun), return_tensors="pt", padding=True, padding_side="left")
        encoded = encoded.to(self._model.device)
        start = encoded["input_ids"].shape[1]
        config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=TOKENS_PER_BYTE * max(sizes),
            pad_token_id=self._tokenizer.pad_token_id,
            **({"eos_token_id": self._marks, "min_new_tokens": 1} if ends else {"suppress_tokens": self._marks}),
        )
        enough = _Enough(partial(self._read, start=start), sizes)
        ids = self._model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([enough]),
        )
        # At least a character, also where the given one was shorter.
        return [cut(text, size) or text[:1] for text, size in zip(self._read(ids, start=start), sizes, strict=True)]

    def _read(self, ids: Tensor, *, start: int) -> list[str]:
        """Return the text of each row from a position on, up to a token that is no text."""
        marks, rows = set(self._marks), ids[:, start:].tolist()
        ends = [next((place for place, token in enumerate(row) if token in marks), len(row)) for row in rows]
        joined = (b"".join(self._pieces[token] for token in row[:end]) for row, end in zip(rows, ends, strict=True))
        return [each.decode(errors="ignore") for each in joined]


class _Enough(StoppingCriteria):  # type: ignore[misc]
    """Says of each row whether it has as many bytes as it is to have."""

    def __init__(self, read: Callable[[Tensor], list[str]], sizes: Sequence[int]) -> None:
        self._read, self._sizes = read, sizes

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # noqa: ARG002
        texts = self._read(input_ids)
        enough = [len(text.encode()) >= size for text, size in zip(texts, self._sizes, strict=True)]
        return torch.tensor(enough, device=input_ids.device)


def beginning(text: str) -> str:
    """Return the first third of a text, up to the end of a word if there is one.

    Args:
        text: the text.
    """
    part = cut(text, len(text.encode()) // GIVEN)
    ends = (end for end in range(len(part), 0, -1) if text[end].isspace() and not text[end - 1].isspace())
    return part[: next(ends, len(part))]


def cut(text: str, size: int) -> str:
    """Return the first characters of a text that are at most so many UTF-8 bytes.

    Args:
        text: the text.
        size: bytes.
    """
    return text.encode()[:size].decode(errors="ignore")


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the random numbers, and leave those of others as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
