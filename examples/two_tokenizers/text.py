"""Real text that ships with Python: the language reference and the docstrings of the standard library."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Document = Callable[[], str]

SPLIT_SEED: Final = 0
"""Which documents are held out is the same in every run, so that runs can be compared."""

SHORTEST_CHUNK: Final = 32
"""Bytes; what is shorter, the end of a document as a rule, is left out."""


@dataclass(frozen=True)
class Corpus:
    """Chunks of text. No paragraph that is held out occurs in the training text.

    Args:
        train: training chunks.
        held_out: chunks of other documents, on which models are measured.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def load_corpus(*, chunk_bytes: int, held_out_share: float = 0.08, max_documents: int | None = None) -> Corpus:
    """Read the text, split it by document, remove repetitions, and cut it into chunks.

    Python's reference repeats itself: whole sections stand under several topics. A paragraph is therefore kept only
    where it occurs first, and the held-out documents come first.

    Args:
        chunk_bytes: the most UTF-8 bytes that a chunk has.
        held_out_share: share of the documents that is held out.
        max_documents: use only so many documents, for quick runs.
    """
    documents = [*_topics(), *_modules()]
    random.Random(SPLIT_SEED).shuffle(documents)
    texts = [read() for read in documents[:max_documents]]
    held_out_count = max(1, round(len(texts) * held_out_share))

    seen: set[str] = set()
    pieces = [tuple(_chunks(_unseen_paragraphs(text, seen), chunk_bytes)) for text in texts]
    return Corpus(
        train=tuple(chunk for chunks in pieces[held_out_count:] for chunk in chunks),
        held_out=tuple(chunk for chunks in pieces[:held_out_count] for chunk in chunks),
    )


def normalised(paragraph: str) -> str:
    """Return the paragraph without regard to its line breaks and indentation, to tell repetitions."""
    return " ".join(paragraph.split())


def _topics() -> list[Document]:
    """Return the topics of `help()`: chapters of the language reference."""
    return [partial(topics.__getitem__, name) for name in sorted(topics)]


def _modules() -> list[Document]:
    """Return the top-level modules of the standard library, each read as its docstrings one after the other."""
    return [partial(_docstrings, path) for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]


def _docstrings(module: Path) -> str:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(module.read_bytes()))
    docstrings = [ast.get_docstring(node) for node in nodes if isinstance(node, documented)]
    return "\n\n".join(filter(None, docstrings))


def _unseen_paragraphs(text: str, seen: set[str]) -> Iterator[str]:
    """Yield the paragraphs that are not in `seen`, without their indentation, and add them to it."""
    for paragraph in re.split(r"\n\s*\n", text):
        key = normalised(paragraph)
        if key and key not in seen:
            seen.add(key)
            yield textwrap.dedent(paragraph).strip()


def _chunks(paragraphs: Iterable[str], chunk_bytes: int) -> Iterator[str]:
    """Join lines into chunks that are as long as allowed; a longer line stands cut."""
    chunk = ""
    for line in "\n\n".join(paragraphs).splitlines():
        longer = f"{chunk}\n{line}" if chunk else line
        if len(longer.encode()) <= chunk_bytes:
            chunk = longer
            continue
        yield from _long_enough(chunk)
        chunk = line.encode()[:chunk_bytes].decode(errors="ignore")
    yield from _long_enough(chunk)


def _long_enough(chunk: str) -> Iterator[str]:
    chunk = chunk.strip()
    if len(chunk.encode()) >= SHORTEST_CHUNK:
        yield chunk
