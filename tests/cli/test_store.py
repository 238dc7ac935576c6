"""``dskd store``: from a folder with a model and a file of samples to a store that trains."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from dskd_components import DSKDSpec, ReadAheadCollator, TeacherStore
from tests.helpers.models import byte_level_tokenizer
from tests.helpers.stores import collator, loss_of, samples, student, teacher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.commands import Ran


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    teacher().save_pretrained(root / "teacher")
    byte_level_tokenizer().save_pretrained(root / "teacher")
    (root / "data.jsonl").write_text("\n".join(map(json.dumps, samples())), encoding="utf-8")
    (root / "data.txt").write_text("Never pass silently.\n\nNow is better\nthan never.\n", encoding="utf-8")
    return root


def test_from_files_to_a_loss(dskd: Callable[..., Ran], files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    ran = dskd("store", "build", folder, files / "teacher", files / "data.jsonl", "--dtype", "int8")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{folder}: 12 samples.\n"
    store, learner = TeacherStore(folder), student()
    batch = ReadAheadCollator(collator(aligner="cma"), store)(samples())
    loss_of(DSKDSpec.preset("dskd-cma"), store, learner=learner).run(learner, store, batch)

    shown = dskd("store", "show", folder)
    assert "LlamaConfig, width 80, computed in float32" in shown.out
    assert re.search(r"tokens +[\d,]+, [\d,]+ with states\n", shown.out)
    facts = json.loads(dskd("store", "show", folder, "--json").out)
    assert (facts["size"]["samples"], facts["states"], facts["shards"]) == (12, "int8", 1)

    verified = dskd("store", "verify", folder, "--teacher", files / "teacher", "--samples", 5)
    assert verified.code == 0, verified.out
    assert re.match(r"5 samples computed again: states differ by 0\.00\d+ of their length on average", verified.out)
    (shard,) = folder.glob("states-*")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    damaged = dskd("store", "verify", folder)
    assert damaged.code == 1
    assert f"✗ {shard.name}: its content has changed since it was written" in damaged.out


def test_parts_and_their_whole(dskd: Callable[..., Ran], files: Path, tmp_path: Path) -> None:
    for number in range(2):
        arguments = (tmp_path / str(number), files / "teacher", files / "data.jsonl", "--shard", f"{number}/2")
        assert dskd("store", "build", *arguments).code == 0
    ran = dskd("store", "merge", tmp_path / "whole", tmp_path / "0", tmp_path / "1")
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'whole'}: 12 samples.\n")
    assert dskd("store", "verify", tmp_path / "whole").code == 0


def test_what_parts_have_in_common_is_told(dskd: Callable[..., Ran], files: Path, tmp_path: Path) -> None:
    lines = (files / "data.jsonl").read_text(encoding="utf-8").splitlines()
    for name, part in (("a", lines[:8]), ("b", lines[6:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part), encoding="utf-8")
        assert dskd("store", "build", tmp_path / name, files / "teacher", tmp_path / f"{name}.jsonl").code == 0
    ran = dskd("store", "merge", tmp_path / "whole", tmp_path / "a", tmp_path / "b")
    assert (ran.code, ran.out) == (
        0,
        f"{tmp_path / 'whole'}: 12 samples. 2 further copies, of samples that several parts have, take up space "
        "there.\n",
    )


def test_texts_and_samples_that_are_left_out(dskd: Callable[..., Ran], files: Path, tmp_path: Path) -> None:
    assert "2 samples." in dskd("store", "build", tmp_path / "texts", files / "teacher", files / "data.txt").out
    (tmp_path / "some.jsonl").write_text('{"text": "Beautiful"}\n\n{"text": ""}\n')
    refused = dskd("store", "build", tmp_path / "some", files / "teacher", tmp_path / "some.jsonl")
    assert refused.code == 1
    assert "Sample 1: Its text is empty" in refused.err
    ran = dskd("store", "build", tmp_path / "some", files / "teacher", tmp_path / "some.jsonl", "--skip")
    assert ran.out == f"{tmp_path / 'some'}: 1 samples, 1 left out.\n"


def test_a_plan(dskd: Callable[..., Ran], files: Path) -> None:
    ran = dskd("store", "plan", 4096, "--tokens", "10M")
    lines = [line.split() for line in ran.out.splitlines()]
    assert [line[0] for line in lines] == ["format", "float32", "bfloat16", "int8"]
    assert lines[2][-2:] == ["82.0", "GB"]
    assert lines[3][-2:] == ["42.3", "GB"]
    planned = json.loads(dskd("store", "plan", files / "teacher", "--tokens", "2k", "--json").out)
    assert planned["int8"]["state_bytes"] == 2000 * (80 + 4)
    assert planned["int8"]["teacher_bytes"] == 2 * 320 * 80 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nothing"), "expected a folder with manifest.json"),
        (("build", "store", "{teacher}", "nothing.jsonl"), "nothing.jsonl: expected a text file"),
        (("build", "store", "{teacher}", "{data}", "--shard", "2"), "--shard 2: expected i/n"),
        (("build", "store", "{teacher}", "{data}", "--dtype", "int9"), "did you mean 'int8'?"),
        (("build", "store", "nothing/at/all", "{data}"), "nothing/at/all: there is no such folder."),
        (("plan", "4096", "--tokens", "many"), "--tokens many: expected a number such as"),
        (("plan", "4096", "--scored", "2"), "scored: expected a share above 0"),
        (("merge", "whole", "nothing"), "nothing: expected a folder with manifest.json"),
    ],
)
def test_what_is_wrong_is_named(
    arguments: tuple[str, ...],
    message: str,
    dskd: Callable[..., Ran],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"teacher": files / "teacher", "data": files / "data.jsonl"}
    ran = dskd("store", *(argument.format(**places) for argument in arguments))
    assert ran.code == 1
    assert message in ran.err
    assert not list(tmp_path.iterdir())
