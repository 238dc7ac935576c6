"""Files of samples: whatever they are called and however they are written, the same samples come out."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from dskd_components import ConfigurationError
from dskd_components.cli.sample_files import read_samples
from dskd_components.collation.samples import Columns

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES = [{"role": "user", "content": "What\u2028counts?"}, {"role": "assistant", "content": "Readability."}]
SAMPLES: dict[str, list[Any]] = {
    "texts": [{"text": "Simple is\n\nbetter."}, {"text": '"Quoted", he said.'}],
    "pairs": [{"prompt": "a, b", "response": " c"}, {"prompt": "d", "response": ""}],
    "completions": [{"prompt": "a", "completion": " b"}, {"prompt": "ü", "completion": " 东京"}],
    "chats": [{"messages": MESSAGES}, {"messages": MESSAGES, "tools": [{"type": "function"}]}],
    "conversational pairs": [{"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}] * 2,
    "conversations": [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}] * 2,
    "tokens": [{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [3]}],
    "mixed": [{"text": "a"}, {"messages": MESSAGES}, {"prompt": "a", "response": "b"}],
}
COLUMNS_OF_ONE_LENGTH = sorted(set(SAMPLES) - {"mixed", "chats", "tokens"})


def wrote_lines(samples: list[Any]) -> str:
    return "\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples) + "\n"


WAYS = {
    "lines.jsonl": wrote_lines,
    "lines.ndjson": lambda samples: "\n" + wrote_lines(samples).replace("\n", "\r\n\r\n"),
    "lines.json": wrote_lines,
    "lines.txt": wrote_lines,
    "list.json": json.dumps,
    "pretty.json": lambda samples: json.dumps(samples, indent=2),
    "pretty.jsonl": lambda samples: json.dumps(samples, indent=2),
    "wrapped.json": lambda samples: json.dumps({"version": "1.0", "data": samples}),
    "no_suffix": json.dumps,
    "with_mark.jsonl": lambda samples: "\ufeff" + wrote_lines(samples),
}


def read(path: Path, most: int = 1000, columns: Columns | None = None) -> list[Any]:
    return [each.sample for each in read_samples(path, most, columns)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_every_way_of_writing_every_kind(tmp_path: Path, kind: str, way: str) -> None:
    file = tmp_path / way
    file.write_text(WAYS[way](SAMPLES[kind]), encoding="utf-8", newline="")
    assert read(file) == SAMPLES[kind]
    zipped = tmp_path / f"{way}.gz"
    zipped.write_bytes(gzip.compress(file.read_bytes()))
    assert read(zipped) == SAMPLES[kind]


@pytest.mark.parametrize("kind", COLUMNS_OF_ONE_LENGTH)
def test_columns(tmp_path: Path, kind: str) -> None:
    samples = SAMPLES[kind]
    file = tmp_path / "columns.json"
    file.write_text(json.dumps({key: [sample[key] for sample in samples] for key in samples[0]}))
    assert read(file) == samples


@pytest.mark.parametrize("way", ["lines.jsonl", "list.json", "pretty.json", "lines.txt"])
def test_bare_texts_and_bare_lists_of_messages(tmp_path: Path, way: str) -> None:
    file = tmp_path / way
    file.write_text(WAYS[way](["a text", "another"]))
    assert read(file) == [{"text": "a text"}, {"text": "another"}]
    file.write_text(WAYS[way]([MESSAGES, MESSAGES]))
    assert read(file) == [{"messages": MESSAGES}] * 2
    assert read(file, columns=Columns(messages="turns")) == [{"turns": MESSAGES}] * 2


def test_one_chat_alone_and_one_sample_alone(tmp_path: Path) -> None:
    for way, written in (("one.json", json.dumps), ("one.jsonl", json.dumps)):
        file = tmp_path / way
        for value, expected in ((MESSAGES, {"messages": MESSAGES}), ({"messages": MESSAGES}, {"messages": MESSAGES})):
            file.write_text(written(value))
            assert read(file) == [expected]


def test_tables(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text('question,response,tools\n"What, now?","It\nis",\nd,,x\n', encoding="utf-8", newline="")
    found = read_samples(file, 10, Columns(prompt="question"))
    assert [each.sample for each in found] == [
        {"question": "What, now?", "response": "It\nis"},
        {"question": "d", "response": "", "tools": "x"},
    ]
    assert [each.place for each in found] == [f"{file}:2", f"{file}:4"]
    tabs = tmp_path / "table.tsv"
    tabs.write_text("prompt\tcompletion\na\t b\n")
    assert read(tabs) == [{"prompt": "a", "completion": " b"}]


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    file = tmp_path / "samples.parquet"
    parquet.write_table(pa.Table.from_pylist(SAMPLES["conversational pairs"]), file)
    assert read(file) == SAMPLES["conversational pairs"]
    file.write_bytes(b"no table")
    with pytest.raises(ConfigurationError, match=r"samples\.parquet: cannot be read"):
        read(file)


def test_texts_between_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "text.md"
    file.write_text("\n\n[1] A note.\nIt goes on.\n \n\n{no json}\n\n\nThe end.", encoding="utf-8")
    found = read_samples(file, 10)
    assert [each.sample["text"] for each in found] == ["[1] A note.\nIt goes on.", "{no json}", "The end."]
    assert [each.place for each in found] == [f"{file}:{line}" for line in (3, 7, 10)]
    assert len(read(file, most=2)) == 2


def test_places_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "pretty.json"
    file.write_text(json.dumps(SAMPLES["texts"], indent=1))
    assert [each.place for each in read_samples(file, 10)] == [f"{file}:2", f"{file}:5"]
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n" + wrote_lines(SAMPLES["texts"]))
    assert [each.place for each in read_samples(lines, 10)] == [f"{lines}:2", f"{lines}:3"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b"\n{"text": "c"}\n', ":2: not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n3\n', ":2: expected an object, a text or a list of messages, got 3"),
        ("a.jsonl", 'null\n{"text": "a"}\n', ":1: expected an object, .* got None"),
        ("a.json", '[{"text": "a"},\n 1.5]', ":2: expected an object, .* got 1.5"),
        ("a.json", '[{"text": "a"},\n {"text": }]', ":2: not valid JSON"),
        ("a.json", '{"text": ["a", "b"], "id": [1]}', ":1: expected columns of one length"),
        ("a.csv", "prompt,response\na,b,c\n", r":2: expected 2 cells \(prompt, response\), got 3"),
        ("a.csv", 'prompt,response\na,"b\n', ":2: not a valid table"),
        ("a.csv", "prompt,response\n", "holds no samples"),
        ("a.txt", " \n\n ", "holds no samples"),
        ("a.jsonl", "[" * 100_000, ":1: not valid JSON"),
        ("a.jsonl", "\n".join(["1"] * 9), r"(?s):1: .*:3: .*\.\.\. and 6 more"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        read(file)
    assert str(caught.value).startswith(str(file))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        read(tmp_path)
    file = tmp_path / "latin.txt"
    file.write_bytes("a\nü".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"latin\.txt:2: expected text in UTF-8"):
        read(file)
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(b"not zipped")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read(zipped)
