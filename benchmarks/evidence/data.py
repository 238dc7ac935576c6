"""The texts: parts without a document in common, from Python's own documentation or from a file."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from examples.two_tokenizers.text import SPLIT_SEED, load_parts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.evidence.plan import Plan, Run

SHARES: Final = {"test": 0.08, "dev": 0.05, "train": 0.35, "heal": 0.52}
"""Of the documents: what arms are compared by, what rates are chosen by, what students learn from, and what heals a
student that was given another tokenizer."""

LONGEST: Final = 1024
"""Bytes of a sample of a file; longer ones are left out, so that texts are whole for both tokenizers."""


@dataclass(frozen=True)
class Text:
    """One sample.

    Args:
        document: where it is from; samples of one document belong to one part.
        sample: as the collator takes it, ``{"text": ...}`` or ``{"prompt": ..., "response": ...}``.
    """

    document: int
    sample: dict[str, str]

    @property
    def scored_bytes(self) -> int:
        """How many UTF-8 bytes are predicted: all of a text, or those of a response."""
        return len(self.sample.get("text", self.sample.get("response", "")).encode())

    @property
    def whole(self) -> str:
        """All of its text."""
        return "".join(self.sample.values())


Parts = dict[str, list[Text]]


def load_texts(plan: Plan, file: Path | None) -> Parts:
    """Return the texts of each part.

    Args:
        plan: how many.
        file: JSON lines with ``text``, or ``prompt`` and ``response``, a document each; None: Python's documentation.

    Raises:
        SystemExit: the file has too few samples, or something that is none.
    """
    if file is None:
        parts = load_parts(
            SHARES, chunk_bytes=plan.chunk_bytes, max_documents=plan.max_documents, packages=plan.packages
        )
        texts = _numbered({name: [[{"text": each} for each in of] for of in part] for name, part in parts.items()})
    else:
        texts = _of_file(file)
    order = random.Random(SPLIT_SEED)
    sizes = {
        "test": plan.test_texts,
        "dev": plan.dev_texts,
        "train": plan.train_texts,
        "heal": plan.heal_steps * plan.batch_size,
    }
    return {name: order.sample(texts[name], min(size, len(texts[name]))) for name, size in sizes.items()}


def _numbered(parts: dict[str, list[list[dict[str, str]]]]) -> Parts:
    """Return samples with the number of their document, which is no other part's."""
    texts: Parts = {}
    first = 0
    for name, documents in parts.items():
        texts[name] = [Text(number, sample) for number, document in enumerate(documents, first) for sample in document]
        first += len(documents)
    return texts


def _of_file(file: Path) -> Parts:
    samples = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        read: Any = json.loads(line)
        keys = {"text"} if "text" in read else {"prompt", "response"}
        if not keys <= set(read) or not all(isinstance(read[key], str) for key in keys):
            raise SystemExit(f"{file}:{number}: expected 'text', or 'prompt' and 'response', got {sorted(read)}.")
        samples.append({key: read[key] for key in sorted(keys)})
    samples = [sample for sample in samples if len("".join(sample.values()).encode()) <= LONGEST]
    if len(samples) < 4 * len(SHARES):
        raise SystemExit(f"{file}: {len(samples)} samples of at most {LONGEST} bytes, too few for {len(SHARES)} parts.")
    random.Random(SPLIT_SEED).shuffle(samples)
    rest = iter(samples)
    parts = {name: [[each] for each in islice(rest, round(share * len(samples)))] for name, share in SHARES.items()}
    return _numbered(parts)


def write_texts(parts: Parts, file: Path) -> None:
    """Keep the texts, so that all stages have the same.

    Args:
        parts: of `load_texts`.
        file: the file.
    """
    content = {name: [asdict(text) for text in texts] for name, texts in parts.items()}
    file.write_text(json.dumps(content, ensure_ascii=False, indent=0), encoding="utf-8")


def read_texts(file: Path) -> Parts:
    """Return what `write_texts` has kept.

    Args:
        file: the file.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    return {name: [Text(**text) for text in texts] for name, texts in content.items()}


def texts_of_steps(texts: Sequence[Text], seed: int, steps: int, batch_size: int) -> list[list[Text]]:
    """Return the texts of each step: shuffled passes over them. The same seed gives the same ones.

    Args:
        texts: the training texts.
        seed: of the order.
        steps: number of steps.
        batch_size: texts in a step.
    """
    order = random.Random(seed)
    passes = chain.from_iterable(order.sample(texts, len(texts)) for _ in iter(int, 1))
    return [list(islice(passes, batch_size)) for _ in range(steps)]


def training_texts(parts: Parts, run: Run, plan: Plan) -> list[Text]:
    """Return the texts that a run's student learns from.

    Args:
        parts: all texts.
        run: the run.
        plan: has how many each setting has.
    """
    return parts["train"][: plan.texts[run.setting]]
