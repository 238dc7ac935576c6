"""Text that the teacher writes, by a tiny teacher: what is kept, how long it becomes, and that it is the same."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.evidence import written
from benchmarks.evidence.__main__ import _write
from benchmarks.evidence.arms import ORDER
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.data import Text, write_texts
from benchmarks.evidence.models import load_model, tiny_teacher
from benchmarks.evidence.plan import Plan
from benchmarks.evidence.pool import alone_in
from benchmarks.evidence.prepare import _narrow
from benchmarks.evidence.written import Writer, beginning, texts_needed, write_as_teacher, writing, written_texts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PROSE = "A student learns from text that its teacher wrote, word by word, and the teacher learns from nobody at all. "
TEXTS = (
    PROSE,
    PROSE[:70] + "\r\n\tnaïve 漢字 🙂 " * 6,
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "漢字" * 20,
    "🙂",
    "a",
    "   \n\n leading spaces, and a word or two",
)
CHATS = (
    {"prompt": "What is a teacher?", "response": " One who knows " + PROSE},
    {"prompt": "Say é.", "response": "é"},
    {"prompt": "Say nothing.", "response": ""},
    {"prompt": "A letter?", "response": "x"},
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("written")
    samples: list[dict[str, str]] = [*({"text": text} for text in TEXTS), *CHATS]
    write_texts({"train": [Text(*each) for each in enumerate(samples)], "heal": []}, folder / "texts.json")
    tiny_teacher(folder / "whole", TEXTS)
    prepared = Bench(folder, replace(Plan.quick(), vocabulary=300))
    _narrow(prepared, folder / "whole")
    return prepared


@pytest.fixture(scope="module")
def writer(bench: Bench) -> Writer:
    return Writer(load_model(bench.folder / "teacher", torch.float32, bench.device), bench.teacher_tokenizer)


@pytest.fixture
def elsewhere(bench: Bench, tmp_path: Path) -> Bench:
    shutil.copytree(bench.folder, tmp_path / "folder")
    return Bench(tmp_path / "folder", bench.plan)


def rows(bench: Bench) -> list[dict[str, Any]]:
    lines = (bench.folder / written.FILE).read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_a_beginning_is_at_most_a_third_and_ends_with_a_word(text: str) -> None:
    begun = beginning(text)
    assert text.startswith(begun)
    assert 3 * len(begun.encode()) <= len(text.encode())
    longest = text.encode()[: len(text.encode()) // 3].decode(errors="ignore")
    ends = [end for end in range(1, len(longest) + 1) if text[end].isspace() and not text[end - 1].isspace()]
    assert len(begun) == max(ends, default=len(longest))


def test_a_text_keeps_its_beginning_and_its_length(writer: Writer) -> None:
    for text, row in zip(TEXTS, writer.write([{"text": text} for text in TEXTS], seed=0), strict=True):
        assert row["text"].startswith(beginning(text))
        assert row["text"] != text
        if len(text) > 1:
            assert len(text.encode()) - 4 < len(row["text"].encode()) <= len(text.encode())


def test_a_response_is_the_teachers_and_no_longer_than_it_was(writer: Writer) -> None:
    found = writer.write(CHATS, seed=0)
    for sample, row in zip(CHATS, found, strict=True):
        assert row["prompt"] == sample["prompt"]
        assert bool(row["response"]) == bool(sample["response"])
        assert len(row["response"].encode()) <= len(sample["response"].encode()) or len(row["response"]) == 1
    assert len(found[0]["response"].encode()) > len(CHATS[0]["response"].encode()) - 4
    assert not found[0]["response"].startswith(CHATS[0]["response"][:8])


def with_bias(writer: Writer, tokens: Iterable[int], bias: float) -> Writer:
    """Return a writer that likes or dislikes some tokens."""
    other = copy.deepcopy(writer)
    head = torch.nn.Linear(32, len(writer._pieces))
    with torch.no_grad():
        head.weight.copy_(writer._model.lm_head.weight)
        head.bias.zero_()[list(tokens)] = bias
    other._model.lm_head = head
    return other


def test_the_teacher_ends_a_response_and_never_a_text(writer: Writer) -> None:
    ending = with_bias(writer, [writer._tokenizer.bos_token_id], 1000.0)
    texts, chats = ending.write([{"text": PROSE}], seed=0), ending.write([CHATS[0]] * 20, seed=0)
    assert len(texts[0]["text"].encode()) > len(PROSE) - 4
    # A first token that is no character leaves the response as it was.
    ended = [row["response"] for row in chats if row != CHATS[0]]
    assert len(set(ended)) > 3
    assert all(len(response) == 1 for response in ended)


def test_text_is_sampled_from_the_whole_distribution_of_the_teacher(writer: Writer) -> None:
    starts = [piece.decode(errors="ignore")[:1] for piece in writer._pieces]
    characters = with_bias(writer, [token for token, start in enumerate(starts) if not start], -1000.0)
    times, prompt = 2000, CHATS[0]["prompt"]
    drawn = Counter(row["response"] for row in characters.write([{"prompt": prompt, "response": "x"}] * times, seed=0))
    logits = characters._model(torch.tensor([writer._tokenizer(prompt)["input_ids"]])).logits[0, -1].detach()
    logits[writer._marks] = -torch.inf
    expected: Counter[str] = Counter()
    for start, probability in zip(starts, logits.softmax(0).tolist(), strict=True):
        expected[start] += times * probability
    often = [start for start in expected if expected[start] >= 5]
    cells = [(expected[start], drawn[start]) for start in often]
    cells.append((times - sum(mean for mean, _ in cells), times - sum(found for _, found in cells)))
    assert len(cells) > 20
    # Pearson's statistic: its mean is the degrees of freedom, its variance twice that.
    assert sum((found - mean) ** 2 / mean for mean, found in cells) < len(cells) + 4 * (2 * len(cells)) ** 0.5


def test_what_a_kill_has_cut_becomes_the_same_file(elsewhere: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "AT_ONCE", 4)
    file, state, seen = elsewhere.folder / written.FILE, torch.random.get_rng_state(), []
    with pytest.raises(FileNotFoundError, match="expected 11 texts that the teacher wrote, got 0"):
        written_texts(elsewhere, elsewhere.texts["train"])
    write_as_teacher(elsewhere, 3, lambda *at: seen.append(at))
    assert seen == [(0, 1), (1, 1)]
    first = file.read_bytes()
    write_as_teacher(elsewhere, 99, lambda *at: seen.append(at))  # more than there are
    assert seen[2:] == [(1, 3), (2, 3), (3, 3)]
    whole, lines = rows(elsewhere), file.read_bytes().splitlines(keepends=True)
    assert lines[0] == first
    assert [len(row["samples"]) for row in whole] == [4, 4, 3]
    for cut in (lines[0] + lines[1][:-9], lines[0] + lines[1][:-1]):
        file.write_bytes(cut)
        write_as_teacher(elsewhere, 11, lambda *at: None)
        assert rows(elsewhere) == whole
    write_as_teacher(elsewhere, 11, lambda *at: pytest.fail("it is written again"))
    assert torch.equal(torch.random.get_rng_state(), state)  # so that no other arm begins otherwise
    texts = written_texts(elsewhere, elsewhere.texts["train"][:10])
    assert [text.sample for text in texts] == [sample for row in whole for sample in row["samples"]][:10]
    assert [text.document for text in texts] == list(range(10))
    took = writing(elsewhere.folder)
    assert took is not None
    assert (took["texts"], took["bytes"]) == (11, sum(len(text.whole.encode()) for text in written_texts(
        elsewhere, elsewhere.texts["train"]
    )))  # fmt: skip
    assert took["seconds"] > 0


def test_nothing_is_written_twice_at_once_nor_where_nothing_is_to_be_written(elsewhere: Bench) -> None:
    with alone_in(elsewhere.folder):
        _write(elsewhere, 0, Console())
        with pytest.raises(SystemExit, match="another process trains there"):
            _write(elsewhere, 3, Console())
    _write(elsewhere, 3, Console(quiet=True))
    with alone_in(elsewhere.folder):
        _write(elsewhere, 3, Console())


def test_what_is_compared_says_how_many_texts_are_written() -> None:
    plan = Plan()
    assert texts_needed((("two", ("ce", "of the search")), ("one", ("dskd",))), plan) == 0
    assert texts_needed((("two", ("ce",)), ("scarce", ("ce", "teacher-text"))), plan) == plan.texts["scarce"]
    assert texts_needed(ORDER, plan) == plan.texts["two"]
    assert all(texts % written.AT_ONCE == 0 for texts in plan.texts.values())
