"""Maps between vocabularies that are kept on disk: a kept map is the very one that would be made, or is made anew."""

from __future__ import annotations

import hashlib
import threading
import warnings
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dskd_components import DSKDWarning
from dskd_components.tokenization import vocabulary_map
from dskd_components.tokenization.vocabulary_map import VocabularyMap, build_vocabulary_map

if TYPE_CHECKING:
    from pathlib import Path


def fast(model: Any, pre_tokenizer: Any, *special: str, **roles: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def bpe(*tokens: str, **options: Any) -> Any:
    return models.BPE({token: number for number, token in enumerate(tokens)}, [], **options)


def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """One of each way to write a vocabulary, with tokens for every rule by which they are mapped."""
    wordpiece = ["[UNK]", "the", "##the", "colour", "é", "##s", "a", "##zzz"]
    return {
        "byte-level": fast(
            bpe("Ġ", "the", "Ġthe", "color", "Ċ", "Ã©", "s", "Ġa", "qqq", "ĠĠ", "A"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            "<|end|>",
            "<tool>",
            eos_token="<|end|>",
        ),
        "metaspace": fast(
            bpe("<0x0A>", "<0x41>", "▁", "the", "▁the", "▁colours", "é", "s", "▁a", "▁▁", byte_fallback=True),
            pre_tokenizers.Metaspace(),
            "<s>",
            "</s>",
            "<tool>",
            bos_token="<s>",
            eos_token="</s>",
            pad_token="</s>",
        ),
        "wordpiece": fast(
            models.WordPiece({token: number for number, token in enumerate(wordpiece)}, unk_token="[UNK]"),
            pre_tokenizers.Whitespace(),
            "[CLS]",
            "[SEP]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            unk_token="[UNK]",
        ),
        "plain": fast(bpe("the", "colour", "é", "s", "a", "zz"), pre_tokenizers.Whitespace(), "</s>", eos_token="</s>"),
    }


METHODS = ("bytes", "min_edit")


def digest_of(found: VocabularyMap) -> str:
    return hashlib.sha256(found.teacher_to_student.tobytes() + found.same_bytes.tobytes()).hexdigest()


def same(found: VocabularyMap, expected: VocabularyMap) -> bool:
    return (
        np.array_equal(found.teacher_to_student, expected.teacher_to_student)
        and np.array_equal(found.same_bytes, expected.same_bytes)
        and found.teacher_to_student.dtype == expected.teacher_to_student.dtype
        and (found.method, found.student_fingerprint, found.teacher_fingerprint)
        == (expected.method, expected.student_fingerprint, expected.teacher_fingerprint)
    )


class Kept:
    """A map on disk, with what it was made from."""

    def __init__(self, folder: Path, method: Any = "min_edit") -> None:
        known = tokenizers()
        self.student, self.teacher = known["metaspace"], known["byte-level"]
        self.folder, self.method = folder, method
        self.map = self.build()
        (self.path,) = folder.iterdir()
        self.content = self.path.read_bytes()

    def build(self) -> VocabularyMap:
        return build_vocabulary_map(self.student, self.teacher, method=self.method, cache_dir=self.folder)

    def is_used(self) -> bool:
        """Whether the copy on disk is taken, and is right."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vocabulary_map, "_match_bytes", None)
            try:
                return same(self.build(), self.map)
            except TypeError:
                return False

    def is_rebuilt(self, content: bytes) -> bool:
        """Whether a map is made anew in place of a damaged copy, and kept."""
        self.path.write_bytes(content)
        assert not self.is_used()
        assert same(self.build(), self.map)
        return self.is_used()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_is_taken(kept: Kept, place: float, bit: int) -> None:
    content = bytearray(kept.content)
    content[int(place * len(content))] ^= 1 << bit
    assert kept.is_rebuilt(bytes(content))


def test_no_flipped_byte_is_taken(kept: Kept) -> None:
    """Byte by byte, without building anew."""
    for place in range(len(kept.content)):
        kept.path.write_bytes(kept.content[:place] + bytes([kept.content[place] ^ 0xFF]) + kept.content[place + 1 :])
        assert not kept.is_used()
    assert kept.is_rebuilt(b"")


@given(start=st.floats(0, 1), length=st.floats(0, 1), filling=st.binary(max_size=40))
def test_no_other_damage_is_taken(kept: Kept, start: float, length: float, filling: bytes) -> None:
    """Cut short, empty, with a part missing, overwritten or doubled."""
    first = int(start * len(kept.content))
    last = first + int(length * (len(kept.content) - first))
    content = kept.content[:first] + filling + kept.content[last:]
    if content != kept.content:
        assert kept.is_rebuilt(content)


def test_a_copy_of_another_key_is_not_taken(tmp_path: Path) -> None:
    """Whole files, in the place of another map's."""
    known = tokenizers()
    names = ("byte-level", "wordpiece", "plain")
    maps = {}
    for student, teacher in permutations(names, 2):
        for method in METHODS:
            built = build_vocabulary_map(known[student], known[teacher], method=method, cache_dir=tmp_path)
            (path,) = set(tmp_path.iterdir()) - {place for place, *_ in maps.values()}
            maps[student, teacher, method] = path, path.read_bytes(), built
    (first_path, first_content, first), *others = maps.values()
    for _, content, _ in others:
        first_path.write_bytes(content)
        again = build_vocabulary_map(known["byte-level"], known["wordpiece"], method="bytes", cache_dir=tmp_path)
        assert same(again, first)
        assert first_path.read_bytes() == first_content


@pytest.mark.parametrize("version", ["FORMAT", "RULES"])
def test_copies_of_another_format_or_other_rules_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    kept = Kept(tmp_path)
    monkeypatch.setattr(vocabulary_map, version, getattr(vocabulary_map, version) + 1)
    assert not kept.is_used()
    kept.build()
    assert kept.is_used()
    assert len(list(tmp_path.iterdir())) == 2
    # Both versions may use one folder, and a copy under the other's name is not taken.
    (newer,) = set(tmp_path.iterdir()) - {kept.path}
    newer.write_bytes(kept.content)
    assert not kept.is_used()
    monkeypatch.undo()
    assert kept.is_used()


def test_special_tokens_of_other_roles_make_another_map(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.teacher.eos_token = "<tool>"
    assert not kept.is_used()
    changed = kept.build()
    assert same(changed, build_vocabulary_map(kept.student, kept.teacher, method=kept.method))
    assert not same(changed, kept.map)


# Raise RULES in vocabulary_map.py when one of these changes: maps that users have kept are not what they would be.
MAPS_BY_RULES = {
    2: {
        "bytes": "d73a9dd31ffbde0b823d71b9f69dc6d3c7ab611ae2210b78bd19b9a5123b0cc7",
        "min_edit": "1dbc995f782a5aea4777a0cb990e9fb9301eaf078ea7dc9333b6597eda2106a5",
    }
}


@pytest.mark.parametrize("method", METHODS)
def test_maps_change_with_the_number_of_their_rules_alone(method: Any) -> None:
    known = tokenizers()
    found = "".join(
        digest_of(build_vocabulary_map(known[student], known[teacher], method=method))
        for student, teacher in permutations(known, 2)
    )
    digest = hashlib.sha256(found.encode()).hexdigest()
    assert digest == MAPS_BY_RULES[vocabulary_map.RULES][method]


def test_what_cannot_be_read_or_written_is_said_and_not_needed(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "maps")
    kept.path.unlink()
    kept.path.mkdir()
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (kept.folder, file, file / "below"):
        kept.folder = folder
        with pytest.warns(DSKDWarning, match=r"cannot be kept.*folder that can be written to"):
            assert same(kept.build(), kept.map)
    assert file.read_text() == "mine"
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [kept.path.name]


def test_many_write_and_read_at_once(tmp_path: Path) -> None:
    """Among others one that damages the copy again and again: everybody has the right map."""
    kept = Kept(tmp_path)
    found: list[bool] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        def build() -> None:
            found.extend(same(kept.build(), kept.map) for _ in range(15))

        threads = [threading.Thread(target=build) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            kept.path.write_bytes(kept.content[:200])
        for thread in threads:
            thread.join()
    assert found == [True] * 60
    assert [path.name for path in tmp_path.iterdir()] == [kept.path.name]


def test_a_copy_can_be_read_by_whom_the_folder_is_for(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "maps")
    plain = tmp_path / "plain"
    plain.touch()
    assert kept.path.stat().st_mode == plain.stat().st_mode
