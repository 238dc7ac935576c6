"""Maps between vocabularies, their fingerprints, and the copies kept on disk."""

import subprocess
import sys
from functools import cache
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from tokenizers import Tokenizer, models, pre_tokenizers

from dskd_components.errors import InputError
from dskd_components.tokenization.fast_tokenizers import tokenizer_fingerprint
from dskd_components.tokenization.nearest_token import nearest_tokens
from dskd_components.tokenization.vocabulary_map import build_vocabulary_map
from examples.offline import tokenizers as real_tokenizers
from examples.offline.tokenizers import LOADERS, wrap


def ids(tokenizer, *tokens):
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def test_bytes_meet_across_families():
    gpt2, mistral, bert = (LOADERS[name]() for name in ("gpt2", "mistral", "bert"))
    found = build_vocabulary_map(gpt2, mistral).teacher_to_student
    assert found[ids(mistral, "▁the", "the", "<0x0A>", "é")].tolist() == ids(gpt2, "Ġthe", "the", "Ċ", "Ã©")
    assert found[mistral.eos_token_id] == gpt2.eos_token_id
    found = build_vocabulary_map(bert, gpt2).teacher_to_student
    assert found[ids(gpt2, "Ġthe", "ing")].tolist() == ids(bert, "the", "##ing")
    found = build_vocabulary_map(mistral, bert).teacher_to_student
    assert found[ids(bert, "the", "##ing")].tolist() == ids(mistral, "▁the", "ing")


def test_shared_is_one_to_one_and_true():
    gpt2, deepseek = LOADERS["gpt2"](), LOADERS["deepseek"]()
    shared = build_vocabulary_map(gpt2, deepseek).shared
    assert shared.dtype == np.int64
    assert len(set(shared[:, 0].tolist())) == len(set(shared[:, 1].tolist())) == len(shared) > 40_000
    plain = shared[shared[:, 0] != gpt2.eos_token_id]
    assert gpt2.convert_ids_to_tokens(plain[:, 0].tolist()) == deepseek.convert_ids_to_tokens(plain[:, 1].tolist())


def test_the_map_covers_ids_beyond_the_vocabulary_size():
    tekken = LOADERS["tekken"]()
    found = build_vocabulary_map(LOADERS["llama2"](), tekken).teacher_to_student
    assert len(found) == max(tekken.get_vocab().values()) + 1


def test_the_same_vocabulary_maps_to_itself():
    gpt2 = LOADERS["gpt2"]()
    assert build_vocabulary_map(gpt2, gpt2).teacher_to_student.tolist() == list(range(len(gpt2)))


def word_tokenizer(*words):
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def test_min_edit_takes_the_nearest_of_lowest_id():
    student = word_tokenizer("zz", "dolour", "color", "colors", "Ġ")
    teacher = word_tokenizer("colour", "color", "qqq", "Ġ", "ĠĠ")
    mapped = build_vocabulary_map(student, teacher, method="min_edit")
    assert mapped.teacher_to_student.tolist() == [1, 2, -1, 4, -1]
    assert mapped.same_bytes.tolist() == [False, True, False, True, False]
    assert mapped.shared.tolist() == [[2, 1], [4, 3]]
    assert mapped.coverage == 3 / 5


def shared_pairs(student, teacher):
    return set(map(tuple, build_vocabulary_map(student, teacher).shared.tolist()))


@cache
def shared_of(student, teacher):
    return shared_pairs(LOADERS[student](), LOADERS[teacher]())


@pytest.mark.parametrize(
    ("one", "other"), [("gpt2", "llama2"), ("llama2", "mistral"), ("llama2", "bert"), ("llama2", "t5"), ("bert", "t5")]
)
def test_what_is_shared_does_not_depend_on_who_teaches(one, other):
    assert shared_of(one, other) == {(student, teacher) for teacher, student in shared_of(other, one)}


def test_of_several_tokens_for_the_same_bytes_the_one_that_is_written_is_shared():
    """Byte tokens come before letters in SentencePiece vocabularies, and are never written for them."""
    gpt2, llama2 = LOADERS["gpt2"](), LOADERS["llama2"]()
    letters = [chr(code) for code in range(0x21, 0x7F)]
    written = set(zip(*(tokenizer.convert_tokens_to_ids(letters) for tokenizer in (gpt2, llama2)), strict=True))
    assert written <= shared_of("gpt2", "llama2")
    assert (gpt2.eos_token_id, llama2.eos_token_id) in shared_of("gpt2", "llama2")


def test_an_added_token_is_written_before_a_piece_of_the_same_bytes():
    plain, added = word_tokenizer("ĠĠ", "a"), word_tokenizer("a", "ĠĠ")
    added.add_tokens(["  "])
    assert shared_pairs(plain, added) == {(0, 2), (1, 0)}
    assert shared_pairs(added, plain) == {(2, 0), (0, 1)}


@pytest.mark.parametrize("order", [*permutations(["<eos>", "<bos>", "<pad>"])], ids="".join)
def test_a_token_of_several_roles_is_shared_by_the_first(order):
    roles = {f"{token[1:-1]}_token": token for token in order}
    several = wrap(word_tokenizer("a", "<end>"), **dict.fromkeys(roles, "<end>"))
    single = wrap(word_tokenizer(*order, "a"), **roles)
    assert shared_pairs(several, single) == {(0, 3), (1, order.index("<eos>"))}
    assert shared_pairs(single, several) == {(3, 0), (order.index("<eos>"), 1)}


def test_letters_come_before_byte_tokens():
    student = Tokenizer(models.BPE({"<0x41>": 0, "A": 1, "<0x42>": 2}, [], byte_fallback=True))
    student.pre_tokenizer = pre_tokenizers.Metaspace()
    assert build_vocabulary_map(student, word_tokenizer("A", "B")).teacher_to_student.tolist() == [1, 2]


words = st.lists(st.text("abcéяß", min_size=1, max_size=5), min_size=1, max_size=12, unique=True)


@settings(max_examples=200, deadline=None)
@given(words, words)
def test_nearest_tokens_against_all_pairs(tokens, vocabulary):
    tokens = [token for token in tokens if token not in vocabulary]
    expected = []
    for token in tokens:
        scored = [(Levenshtein.distance(token, other), number) for number, other in enumerate(vocabulary)]
        near = [(cost, n) for cost, n in scored if cost < max(len(token), len(vocabulary[n]))]
        expected.append(min(near)[1] if near else -1)
    assert nearest_tokens(tokens, vocabulary) == expected


def test_maps_are_kept_and_found_again(tmp_path, monkeypatch):
    student, teacher = LOADERS["bert"](), LOADERS["t5"]()
    built = build_vocabulary_map(student, teacher, method="min_edit", cache_dir=tmp_path / "maps")
    monkeypatch.setattr("dskd_components.tokenization.vocabulary_map._match_bytes", None)
    kept = build_vocabulary_map(student, teacher, method="min_edit", cache_dir=tmp_path / "maps")
    assert kept.teacher_to_student.tolist() == built.teacher_to_student.tolist()
    assert kept.shared.tolist() == built.shared.tolist()
    assert [path.suffix for path in (tmp_path / "maps").iterdir()] == [".map"]


def test_unknown_methods_are_refused():
    with pytest.raises(InputError, match="bytes, min_edit"):
        build_vocabulary_map(LOADERS["bert"](), LOADERS["t5"](), method="exact")


def test_fingerprints_tell_tokenizers_apart():
    prints = {name: tokenizer_fingerprint(loader()) for name, loader in LOADERS.items()}
    assert len(set(prints.values())) == len(prints)
    changed = real_tokenizers.gpt2.__wrapped__()
    assert tokenizer_fingerprint(changed) == prints["gpt2"]
    changed.backend_tokenizer.enable_truncation(3)
    assert tokenizer_fingerprint(changed) == prints["gpt2"]
    changed.add_tokens(["<tool>"])
    assert tokenizer_fingerprint(changed) != prints["gpt2"]


def test_fingerprints_are_the_same_in_another_process():
    """Whatever order a vocabulary comes in; of so many tokens no two processes have the same by accident."""
    script = (
        "from tokenizers import Tokenizer, models\n"
        "from dskd_components.tokenization.fast_tokenizers import tokenizer_fingerprint\n"
        "print(tokenizer_fingerprint(Tokenizer(models.WordLevel({f't{n}': n for n in range(50)}, unk_token='t0'))))"
    )
    vocabulary = {f"t{number}": number for number in reversed(range(50))}
    here = tokenizer_fingerprint(Tokenizer(models.WordLevel(vocabulary, unk_token="t0")))
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env={"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here
