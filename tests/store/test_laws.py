"""What is read from a store does not depend on how it was built, nor on what is read beside it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dskd_components import DualTokenizerPreprocessor, ReadAheadCollator, TeacherStore
from dskd_components.errors import StoreError
from dskd_components.store import build as building
from dskd_components.store.batch_samples import BatchSample
from dskd_components.store.files import TensorFile
from dskd_components.store.formats import StoredStates
from dskd_components.store.index import Index, beginning_hashes, entries_of
from dskd_components.store.reader import Reader
from dskd_components.store.shards import StoredSample, write_shard
from dskd_components.store.sizes import measured, planned
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer
from tests.helpers.stores import build, collator, contents, same, samples, teacher

if TYPE_CHECKING:
    from pathlib import Path

# Batches of other shapes round otherwise.
WITHIN = 2e-6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TeacherStore:
    return build(tmp_path_factory.mktemp("whole"))


WAYS: dict[str, dict[str, Any]] = {
    "another order": {"data": samples()[::-1]},
    "one by one": {"batch_size": 1},
    "all at once": {"batch_size": 100},
    "small files": {"shard_bytes": 1},
    "with copies": {"data": [*samples(), *samples()[3:5], *samples()]},
    "padding on the left": {"collate": collator(padding_side="left")},
    "packing": {"collate": collator(packing=True)},
    "a student's limit": {"collate": collator(student_max_length=36)},
    "another aligner": {"collate": collator(aligner="cma")},
    "a plain function": {"collate": lambda data: collator()(data)},
    "a plain function that packs": {"collate": lambda data: collator(packing=True)(data)},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_building_gives_the_same_store(way: str, whole: TeacherStore, tmp_path: Path) -> None:
    store = build(tmp_path, **WAYS[way])
    assert same(store, whole, within=WITHIN)
    assert store.verify(teacher()).passed


@pytest.mark.parametrize("window", [1, 5])
@pytest.mark.parametrize("way", ["another order", "with copies", "small files", "packing"])
def test_windows_make_no_difference(
    window: int, way: str, whole: TeacherStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "WINDOW", window)
    assert same(build(tmp_path, **WAYS[way]), whole, within=WITHIN)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("window", [1, 100])
def test_a_sample_and_its_beginning_are_two(
    order: int, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "WINDOW", window)
    data = [{"text": "never pass silently"}, {"text": "never pass"}][::order]
    assert sorted(len(tokens) for tokens in contents(build(tmp_path, data))) == sorted(
        len(byte_level_tokenizer()(sample["text"])["input_ids"]) for sample in data
    )
    for again in (data, data[::-1]):
        assert len(build(tmp_path, again)) == 2
    build(tmp_path / "cut", data[:1])
    assert len(build(tmp_path / "cut", data)) == 2, "as if it had not been cut short in between"


@pytest.mark.parametrize("window", [1, 100])
def test_a_sample_that_is_scored_in_two_ways_has_the_states_of_both(
    window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "WINDOW", window)
    parted = [{"prompt": "never pass", "response": " silently"}]
    whole_text = [{"text": "never pass silently"}]
    for number, data in enumerate((parted + whole_text, whole_text + parted)):
        store = build(tmp_path / str(number), data)
        for sample in (parted, whole_text):
            ReadAheadCollator(collator(), store)(sample)
    assert len(store) == 1, "what has all of them comes first, so nothing is missing of the other"


def test_preprocessed_samples_give_the_same_store(whole: TeacherStore, tmp_path: Path) -> None:
    preprocess = DualTokenizerPreprocessor(metaspace_tokenizer(), byte_level_tokenizer())
    assert same(build(tmp_path, [preprocess(sample) for sample in samples()]), whole, within=WITHIN)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_parts_make_up_the_whole(parts: int, whole: TeacherStore, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(parts)]
    found = [build(folder, shard=(number, parts)) for number, folder in enumerate(folders)]
    assert sum(map(len, found)) == len(whole), "each sample is one part's"
    merged = TeacherStore.merge(tmp_path / "merged", folders[::-1])
    assert same(merged, whole, within=WITHIN)
    assert merged.verify(teacher()).passed
    together = [build(tmp_path / "together", shard=(number, parts)) for number in range(parts)]
    assert same(together[-1], merged), "in one folder it is the same"
    again = TeacherStore.merge(tmp_path / "merged", folders)
    assert len(again) == len(whole)
    build(tmp_path / "merged")
    assert len(TeacherStore(tmp_path / "merged")) == len(whole), "nothing was left to build"


@pytest.mark.parametrize(("first", "second"), [(range(4), range(2, 6)), (range(3), range(3)), (range(2), range(2, 4))])
def test_what_parts_have_in_common_is_counted(first: range, second: range, tmp_path: Path) -> None:
    data = samples(6, seed=2)
    parts = [
        build(tmp_path / str(number), [data[place] for place in places][::step])
        for number, (places, step) in enumerate([(first, 1), (second, -1)])
    ]
    merged = TeacherStore.merge(tmp_path / "merged", [part.folder for part in parts])
    distinct = contents(parts[0]).keys() | contents(parts[1]).keys()
    assert merged.copies() == len(merged) - len(distinct)
    assert [part.copies() for part in parts] == [0, 0]


def test_a_sample_whose_states_lie_in_two_parts_is_one(tmp_path: Path) -> None:
    data = [{"prompt": "In the face of", "response": " ambiguity, refuse."}]
    whole_text = [{"text": "In the face of ambiguity, refuse."}]
    parts = [build(tmp_path / str(number), each) for number, each in enumerate([data, whole_text])]
    merged = TeacherStore.merge(tmp_path / "merged", [part.folder for part in parts])
    assert (len(merged), merged.copies()) == (2, 1)
    for each in (data, whole_text):
        ReadAheadCollator(collator(), merged)(each)


def test_merging_keeps_what_is_there_and_names_what_does_not_fit(whole: TeacherStore, tmp_path: Path) -> None:
    more = build(tmp_path / "more", samples(4, seed=1))
    merged = TeacherStore.merge(tmp_path / "merged", [whole.folder, more.folder])
    assert contents(merged).keys() == contents(whole).keys() | contents(more).keys()
    other = build(tmp_path / "other", dtype="int8")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=r"(?s)other, put together with .*states are stored in float32 .* int8 here"):
        TeacherStore.merge(tmp_path / "wrong", [whole.folder, other.folder])
    with pytest.raises(StoreError, match="expected the folders of one store or more, got none"):
        TeacherStore.merge(tmp_path / "wrong", [])
    with pytest.raises(StoreError, match=r"manifest\.json"):
        TeacherStore.merge(tmp_path / "wrong", [whole.folder, tmp_path / "nothing"])
    assert sorted(tmp_path.rglob("*")) == before


@settings(max_examples=15)
@given(st.data())
def test_what_is_read_depends_on_the_sample_alone(whole: TeacherStore, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(samples()), min_size=1, max_size=6))
    options = data.draw(
        st.sampled_from([{}, {"packing": True}, {"padding_side": "left"}, {"pad_to_multiple_of": 7}]), label="layout"
    )
    collate = ReadAheadCollator(collator(aligner="cma", **options), whole)
    batch = collate(chosen)
    found = batch["teacher_store_states"].view(torch.float32)[batch["teacher_store_positions"] >= 0]
    alone = [collate([sample])["teacher_store_states"].view(torch.float32)[0] for sample in chosen]
    assert torch.equal(found, torch.cat(alone))


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=70), min_size=1, max_size=8),
    st.data(),
)
def test_the_index_finds_every_beginning(rows: list[list[int]], data: st.DataObject) -> None:
    """Few tokens, so that many samples begin alike."""
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    hashes, numbers = entries_of(np.concatenate([np.array(row) for row in rows]), starts)
    order = np.lexsort((numbers, hashes))
    index = Index(hashes[order], numbers[order], {"one": len(rows)})
    wanted = data.draw(st.sampled_from(range(len(rows))))
    length = data.draw(st.integers(1, len(rows[wanted])))
    found = np.concatenate(list(index.proposed(beginning_hashes(np.array(rows[wanted][:length]))))).tolist()
    if length > 1 or length == len(rows[wanted]):
        assert wanted in found
    assert len(found) == len(set(found))
    shortest = [number for number in found if rows[number] == rows[wanted][:length]]
    assert shortest == found[: len(shortest)] or rows[found[0]] == rows[wanted][:length]


def of_rows(folder: Path, like: TeacherStore, rows: list[list[int]], *, shards: int = 2) -> Reader:
    """A store of given tokens, with a state for each."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(like.folder / "manifest.json", folder)
    width = like.manifest.hidden_size
    stored = [
        StoredSample(np.array(row, dtype=np.int32), np.ones(len(row), bool), StoredStates(torch.ones(len(row), width)))
        for row in rows
    ]
    for number in range(shards):
        if stored[number::shards]:
            write_shard(folder, stored[number::shards])
    return Reader(folder)


def wanting_all(row: list[int]) -> BatchSample:
    return BatchSample(0, np.arange(len(row)), np.array(row, dtype=np.int32), np.ones(len(row), bool))


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=20, max_size=40), st.data())
def test_of_many_samples_that_begin_alike_the_right_one_is_found(
    whole: TeacherStore, tmp_path_factory: pytest.TempPathFactory, ends: list[list[int]], data: st.DataObject
) -> None:
    rows = [[*[7] * 34, *end] for end in ends]
    reader = of_rows(tmp_path_factory.mktemp("alike"), whole, rows)
    sought = [*data.draw(st.sampled_from(rows)), *data.draw(st.sampled_from([(), (0,), (1,)]))]
    sought = sought[: data.draw(st.integers(33, len(sought)))]
    found = {way: reader.find(wanting_all(sought), whole=way) for way in (True, False)}
    for way, number in found.items():
        begins = [row for row in rows if row[: len(sought)] == sought and (not way or row == sought)]
        assert (number is not None) == bool(begins)
        assert number is None or reader.sample(number).input_ids.tolist() in begins


@pytest.mark.parametrize("whole_samples", [True, False])
def test_looking_for_a_sample_takes_no_longer_the_more_begin_alike(
    whole_samples: bool, whole: TeacherStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chats with one system prompt begin alike, all of them: they were compared one by one, for each sample anew."""
    rows = [[*range(70), 100 + number, 99] for number in range(200)]
    reader = of_rows(tmp_path, whole, rows)
    reads: list[str] = []
    read = TensorFile.rows
    monkeypatch.setattr(TensorFile, "rows", lambda self, name, *part: reads.append(name) or read(self, name, *part))
    for number in range(300, 310):
        assert reader.find(wanting_all([*range(70), number]), whole=whole_samples) is None
    assert len(reads) <= 2, "the tokens of each file, once"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_plan_is_what_a_build_takes(dtype: Any, tmp_path: Path) -> None:
    size = measured(build(tmp_path, samples(60), dtype=dtype).reader)
    plan = planned(80, size.tokens, dtype=dtype, scored=size.states / size.tokens, tokens_per_sample=size.tokens // 60)
    assert (plan.states, plan.state_bytes) == (size.states, size.state_bytes)
    headers = 4000
    assert plan.other_bytes == pytest.approx(size.other_bytes - headers / 2, abs=headers / 2)


def test_an_index_that_is_missing_or_old_is_made_up_for(whole: TeacherStore, tmp_path: Path) -> None:
    store = build(tmp_path, samples(5), shard_bytes=1)
    (tmp_path / "index.safetensors").rename(tmp_path / "old")
    assert same(TeacherStore(tmp_path), store)
    build(tmp_path)
    (tmp_path / "old").replace(tmp_path / "index.safetensors")
    assert same(TeacherStore(tmp_path), whole, within=WITHIN)
    next(iter(tmp_path.glob("states-*"))).unlink()
    assert len(TeacherStore(tmp_path)) < len(whole)
    assert same(build(tmp_path), whole, within=WITHIN), "a build fills the gap"


def test_a_store_can_be_read_without_the_library(tmp_path: Path) -> None:
    """As docs/how-to/teacher-store.md says: JSON and safetensors, and nothing else."""
    found = contents(build(tmp_path, dtype="int8"))
    seen = 0
    for path in tmp_path.glob("states-*.safetensors"):
        shard = load_file(path)
        for number in range(len(shard["checksums"])):
            tokens = slice(shard["token_start"][number], shard["token_start"][number + 1])
            rows = slice(shard["state_start"][number], shard["state_start"][number + 1])
            scales = shard["scales"][rows].float().repeat_interleave(64, dim=1)[:, :80]
            sample = found[tuple(shard["input_ids"][tokens].tolist())]
            assert torch.equal(shard["states"][rows].float() * scales, sample.states.decode())
            assert shard["stored"][tokens].tolist() == sample.stored.tolist()
            seen += 1
    assert seen == len(found)
