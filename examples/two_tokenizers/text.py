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
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Document = Callable[[], str]

SPLIT_SEED: Final = 0
"""Which documents are held out is the same in every run, so that runs can be compared."""

NO_DOCUMENTATION: Final = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3"})
"""Folders of the standard library whose modules document nothing, or are not its own."""

SHORTEST_CHUNK: Final = 32
"""Bytes; what is shorter, the end of a document as a rule, is left out."""


@dataclass(frozen=True)
class Corpus:
    """Chunks of text of two kinds. No document and no paragraph is in two of the parts.

    Args:
        docstrings: of one half of the modules.
        more_docstrings: of the other half.
        chapters: of the language reference, for training.
        dev: other chapters, for choosing settings.
        test: other chapters again, for comparing models.
    """

    docstrings: tuple[str, ...]
    more_docstrings: tuple[str, ...]
    chapters: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


def load_corpus(*, chunk_bytes: int, held_out_share: float = 0.2, max_documents: int | None = None) -> Corpus:
    """Read the text, split it by document, remove repetitions, and cut it into chunks.

    Args:
        chunk_bytes: the most UTF-8 bytes that a chunk has.
        held_out_share: share of the chapters that is in `Corpus.dev`, and in `Corpus.test`.
        max_documents: use only so many chapters, and so many modules, for quick runs.
    """
    seen: set[str] = set()
    shares = {"test": held_out_share, "dev": held_out_share, "chapters": 1 - 2 * held_out_share}
    parts = {
        **_split(_topics(), shares, seen, chunk_bytes=chunk_bytes, max_documents=max_documents),
        **_split(
            _modules(packages=False),
            {"docstrings": 0.5, "more_docstrings": 0.5},
            seen,
            chunk_bytes=chunk_bytes,
            max_documents=max_documents,
        ),
    }
    return Corpus(**{name: tuple(chunk for document in part for chunk in document) for name, part in parts.items()})


def load_parts(
    shares: Mapping[str, float], *, chunk_bytes: int, max_documents: int | None = None, packages: bool = False
) -> dict[str, list[tuple[str, ...]]]:
    """Read the text, and return parts of it that have no document and no paragraph in common.

    Python's reference repeats itself: whole sections stand under several topics. A paragraph is therefore kept only
    where it occurs first, and documents of an earlier part come first.

    Args:
        shares: by name of a part, its share of the documents; the last one has all that are left.
        chunk_bytes: the most UTF-8 bytes that a chunk has.
        max_documents: use only so many documents, for quick runs.
        packages: whether to read the modules of packages, too.

    Returns:
        By name of a part, the chunks of each document; documents without any are there, empty.
    """
    documents = [*_topics(), *_modules(packages=packages)]
    return _split(documents, shares, set(), chunk_bytes=chunk_bytes, max_documents=max_documents)


def _split(
    documents: list[Document],
    shares: Mapping[str, float],
    seen: set[str],
    *,
    chunk_bytes: int,
    max_documents: int | None,
) -> dict[str, list[tuple[str, ...]]]:
    """Return parts of documents as `load_parts` does, without the paragraphs that are in `seen`, and add theirs."""
    random.Random(SPLIT_SEED).shuffle(documents)
    texts = [read() for read in documents[:max_documents]]
    pieces = [tuple(_chunks(_unseen_paragraphs(text, seen), chunk_bytes)) for text in texts]
    parts: dict[str, list[tuple[str, ...]]] = {}
    for name, share in shares.items():
        first = sum(map(len, parts.values()))
        end = None if len(parts) == len(shares) - 1 else first + max(1, round(len(texts) * share))
        parts[name] = pieces[first:end]
    return parts


def normalised(paragraph: str) -> str:
    """Return the paragraph without regard to its line breaks and indentation, to tell repetitions."""
    return " ".join(paragraph.split())


def _topics() -> list[Document]:
    """Return the topics of `help()`: chapters of the language reference."""
    return [partial(topics.__getitem__, name) for name in sorted(topics)]


def _modules(*, packages: bool) -> list[Document]:
    """Return the modules of the standard library, each read as its docstrings one after the other."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = folder.rglob("*.py") if packages else folder.glob("*.py")
    own = [path for path in sorted(paths) if NO_DOCUMENTATION.isdisjoint(path.relative_to(folder).parts)]
    return [partial(_docstrings, path) for path in own]


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
