"""Pairs of small models whose tokenizers are real ones of several families, and the texts that they read.

A model has a row for each token that the texts use, so that one of 3 million numbers can have the tokenizer of one
of billions. What it reads is what the tokenizer writes; ids alone are numbered anew.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dskd_components import DualTokenizerCollator
from dskd_components.tokenization import build_vocabulary_map
from examples.offline.tokenizers import LOADERS
from examples.two_tokenizers.text import SPLIT_SEED, load_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

STUDENTS: Final[Mapping[str, str]] = {
    "gpt2": "byte-level BPE",
    "llama2": "SentencePiece BPE",
    "j2": "Unigram",
    "bert": "WordPiece",
    "bytes": "bytes",
}
"""The students' tokenizers, each of another family."""

CODE: Final = ("argparse", "textwrap", "statistics", "zipfile", "smtplib", "mailbox", "tarfile", "pprint")
"""Modules whose code is measured on; nothing is learned from code."""

SHARES: Final = {"held_out": 0.08, "train": 0.92}
"""Of the documents: what alignment is measured on, and what is learned from."""

EMBEDDING_STD: Final = 0.5
"""Of new models: with the usual 0.02 what layers add drowns the tokens, and hundreds of steps go by."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much text there is, and how large models are.

    Args:
        chunk_bytes: the most UTF-8 bytes of a text.
        max_documents: how many documents are used; None: all.
        train: texts that models and aligners learn from.
        measured: texts of other documents, and as many of another kind, on which alignment is measured.
        student: width and layers of students.
        teacher: width and layers of the teacher.
        steps: of cross entropy, with which each model begins.
        batch_size: texts of a step of these.
    """

    chunk_bytes: int = 256
    max_documents: int | None = None
    train: int = 800
    measured: int = 96
    student: tuple[int, int] = (64, 2)
    teacher: tuple[int, int] = (128, 3)
    steps: int = 300
    batch_size: int = 8


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer by its name in `examples.offline.tokenizers`; ``bytes``: one with a token for each byte."""
    if name != "bytes":
        return LOADERS[name]()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@dataclass(frozen=True)
class Texts:
    """What is learned from, and what is measured on.

    Args:
        train: chunks of Python's documentation.
        measured: by kind, ``documentation``, chunks of other documents, and ``code``, of another kind of text.
    """

    train: tuple[str, ...]
    measured: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, sizes: Sizes) -> Texts:
        """Read the texts; the same sizes give the same ones.

        Args:
            sizes: how many.
        """
        parts = load_parts(SHARES, chunk_bytes=sizes.chunk_bytes, max_documents=sizes.max_documents)
        chunks = {name: tuple(chain.from_iterable(documents)) for name, documents in parts.items()}
        draw = random.Random(SPLIT_SEED)
        train = draw.sample(chunks["train"], min(sizes.train, len(chunks["train"])))
        held_out = draw.sample(chunks["held_out"], min(sizes.measured, len(chunks["held_out"])))
        modules = CODE if sizes.max_documents is None else CODE[1:2]
        code = draw.sample(code_chunks(modules, sizes.chunk_bytes), sizes.measured)
        return cls(tuple(train), {"documentation": tuple(held_out), "code": tuple(code)})

    @property
    def all(self) -> list[str]:
        """Every text."""
        return [*self.train, *chain.from_iterable(self.measured.values())]


@cache
def code_chunks(modules: tuple[str, ...], chunk_bytes: int) -> list[str]:
    """Return pieces of the standard library's code, whole lines each, without docstrings and comments.

    Args:
        modules: their names.
        chunk_bytes: the most UTF-8 bytes of a piece.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    chunks = []
    for name in modules:
        tree = ast.parse((folder / f"{name}.py").read_bytes())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and len(body) > 1:
                body.pop(0)
        chunk = ""
        for line in ast.unparse(tree).splitlines():
            if len(f"{chunk}\n{line}".encode()) > chunk_bytes:
                chunks.append(chunk)
                chunk = ""
            chunk = f"{chunk}\n{line}" if chunk else line
    return [chunk for chunk in chunks if 64 <= len(chunk.encode()) <= chunk_bytes]


class Vocabulary:
    """The tokens of a tokenizer that the texts use, numbered from 0.

    Args:
        tokenizer: the tokenizer.
        texts: the texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
        self.ids = torch.tensor(sorted(set(chain.from_iterable(tokenizer(list(texts))["input_ids"]))))
        self._number = torch.full((int(self.ids[-1]) + 1,), -1)
        self._number[self.ids] = torch.arange(len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    def renumbered(self, ids: Tensor) -> Tensor:
        """Return the numbers of tokens; what is negative stays, and padding, of whatever id, is 0.

        Args:
            ids: ``[...]``: the tokenizer's.
        """
        known = self._number[ids.clamp(0, len(self._number) - 1)]
        return known.clamp_min(0).where(ids >= 0, ids)


class Pair:
    """A student and the teacher.

    Args:
        student: the name of its tokenizer.
        teacher: the name of its tokenizer.
        texts: what both read.
        sizes: of the models.
    """

    def __init__(self, student: str, teacher: str, texts: Texts, sizes: Sizes) -> None:
        self.names, self.texts, self.sizes = {"student": student, "teacher": teacher}, texts, sizes
        self.tokenizers = {side: tokenizer_of(name) for side, name in self.names.items()}

    @cached_property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """Both sides' tokens in use."""
        return {side: Vocabulary(tokenizer, self.texts.all) for side, tokenizer in self.tokenizers.items()}

    @cached_property
    def teacher_to_student(self) -> tuple[Tensor, Tensor]:
        """The student's token of each of the teacher's, -1 for none, and whether it is the very same."""
        found = build_vocabulary_map(self.tokenizers["student"], self.tokenizers["teacher"])
        ours, theirs = self.vocabularies["student"], self.vocabularies["teacher"]
        mapped = torch.from_numpy(found.teacher_to_student)[theirs.ids]
        same = torch.from_numpy(found.same_bytes)[theirs.ids]
        used = torch.isin(mapped, ours.ids)
        return ours.renumbered(mapped).where(used, -1), same & used

    def batch(self, texts: Sequence[str], aligner: str = "exact_match") -> dict[str, Tensor]:
        """Return the columns of a batch, without those that say which tokenizer wrote it.

        Args:
            texts: the texts.
            aligner: which pairs or groups of tokens it tells.
        """
        collate = self._collators[aligner]
        made = collate([{"text": text} for text in texts])
        batch = {}
        for side, vocabulary in self.vocabularies.items():
            for column in ("input_ids", "labels"):
                batch[f"{side}_{column}"] = vocabulary.renumbered(made[f"{side}_{column}"])
            for column in ("attention_mask", "groups"):
                batch[f"{side}_{column}"] = made[f"{side}_{column}"]
        return batch

    @cached_property
    def _collators(self) -> dict[str, DualTokenizerCollator]:
        ours, theirs = self.tokenizers["student"], self.tokenizers["teacher"]
        return {
            aligner: DualTokenizerCollator(ours, theirs, aligner=aligner, append_eos=False)
            for aligner in ("exact_match", "span")
        }

    def draw(self, seed: int, batch_size: int) -> Iterator[list[str]]:
        """Yield the texts of each step, passes over the training texts; the same seed gives the same ones.

        Args:
            seed: of the order.
            batch_size: texts in a step.
        """
        order = random.Random(seed)
        texts = chain.from_iterable(order.sample(self.texts.train, len(self.texts.train)) for _ in iter(int, 1))
        while True:
            yield [next(texts) for _ in range(batch_size)]

    def model(self, side: str, folder: Path) -> Any:
        """Return a model that has learned from the training texts, made once for a folder.

        Args:
            side: the student or the teacher.
            folder: where it is kept.
        """
        model = new_model(len(self.vocabularies[side]), *getattr(self.sizes, side))
        file = folder / "models" / f"{side}-{self.names[side]}.pt"
        if not file.is_file():
            self._train(model, side)
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_suffix(".unfinished")
            torch.save(model.state_dict(), unfinished)
            unfinished.replace(file)
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval()

    def _train(self, model: Any, side: str) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
        steps = self.sizes.steps
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
        for _, texts in zip(range(steps), self.draw(0, self.sizes.batch_size), strict=False):
            batch = self.batch(texts)
            targets = batch[f"{side}_labels"][:, 1:]
            states = model.model(
                input_ids=batch[f"{side}_input_ids"], attention_mask=batch[f"{side}_attention_mask"], use_cache=False
            ).last_hidden_state[:, :-1]
            scored = targets != -100
            F.cross_entropy(model.lm_head(states[scored]), targets[scored]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def new_model(vocabulary: int, width: int, layers: int) -> Any:
    """Return an untrained Llama; the same sizes give the same one.

    Args:
        vocabulary: tokens.
        width: of hidden states, a multiple of 32.
        layers: their number.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=EMBEDDING_STD)
    return model
