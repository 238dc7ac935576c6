"""A tokenizer that changes after it was used is read as a fresh one: spans, bytes, templates, special ids."""

import copy
import pickle

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from dskd_components.collation.collator import DualTokenizerCollator
from dskd_components.collation.preprocessor import DualTokenizerPreprocessor
from dskd_components.errors import InputError
from dskd_components.tokenization.byte_spans import tokenize_batch_with_spans, tokenize_with_spans
from dskd_components.tokenization.token_bytes import read_vocabulary_bytes, vocabulary_bytes
from tests.helpers.changes import CHANGES, swap_words_outside
from tests.helpers.collating import CHATML, KINDS

TEXT = "The Statement  is the\n12345 é<|tool|> the statement s a user b aa aaa <|im_end|>x"
CHAT = {"messages": [{"role": "user", "content": "the statement"}, {"role": "assistant", "content": " value 12 is "}]}
SAMPLES = [{"text": TEXT}, {"prompt": "a 12 ", "response": TEXT}, CHAT]


def used(kind):
    """A tokenizer of a kind, with all that the library keeps of it."""
    tokenizer = copy.deepcopy(KINDS[kind]())
    tokenizer.add_tokens(["<|im_end|>"])
    tokenize_batch_with_spans(tokenizer, [TEXT])
    return tokenizer


def fresh(tokenizer):
    return pickle.loads(pickle.dumps(tokenizer))


def outcome(work, *args):
    try:
        return work(*args)
    except InputError as error:
        return str(error)


def same(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return torch.equal(one, other) if torch.is_tensor(one) and torch.is_tensor(other) else one == other


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_spans_and_bytes_are_those_of_a_fresh_tokenizer(kind, change):
    tokenizer = used(kind)
    CHANGES[change](tokenizer)
    texts = [*TEXT.split("\n"), TEXT]
    for found, right in zip(
        *(tokenize_batch_with_spans(it, texts) for it in (tokenizer, fresh(tokenizer))), strict=True
    ):
        assert (found.spans, found.token_ids.tolist()) == (right.spans, right.token_ids.tolist())
        assert found.cores.tolist() == right.cores.tolist()
    found, right = vocabulary_bytes(tokenizer), read_vocabulary_bytes(tokenizer.backend_tokenizer)
    assert (found.family, found.pieces, found.trimming) == (right.family, right.pieces, right.trimming)
    for name in ("added", "special", "continues_word", "byte_tokens"):
        assert getattr(found, name).tolist() == getattr(right, name).tolist()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_a_fresh_collator(kind, change):
    student, teacher = used(kind), used("byte_level")
    collate = DualTokenizerCollator(student, teacher, aligner="span")
    preprocess = DualTokenizerPreprocessor(student, teacher, aligner="span")
    for sample in SAMPLES:
        collate([sample])
        preprocess(sample)
    CHANGES[change](student)
    CHANGES[change](teacher)
    collate_anew = DualTokenizerCollator(fresh(student), fresh(teacher), aligner="span")
    preprocess_anew = DualTokenizerPreprocessor(fresh(student), fresh(teacher), aligner="span")
    for sample in SAMPLES:
        assert same(outcome(collate, [sample]), outcome(collate_anew, [sample]))
        assert outcome(preprocess, sample) == outcome(preprocess_anew, sample)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_no_text_has_change_no_more_than_the_fingerprint(kind):
    student, teacher = used(kind), used("byte_level")
    collate = DualTokenizerCollator(student, teacher)
    collate(SAMPLES)
    swap_words_outside(student, TEXT + str(CHAT) + CHATML)
    found, right = collate(SAMPLES), DualTokenizerCollator(fresh(student), fresh(teacher))(SAMPLES)
    del found["student_fingerprint"], right["student_fingerprint"]
    assert same(found, right)
    assert vocabulary_bytes(student).pieces == read_vocabulary_bytes(student.backend_tokenizer).pieces


def test_two_tokens_that_spell_the_text_either_way_are_told_apart():
    words = [f"{number:03}" for number in range(300)]
    tokenizers = [
        Tokenizer(models.BPE({word: number for number, word in enumerate(order)}, [("a", "a")]))
        for order in (["0", "a", "aa", *words], ["0", "aa", "a", *words])
    ]
    for tokenizer in tokenizers:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    changed, right = tokenizers
    assert tokenize_with_spans(changed, "aaa").spans == [(0, 2), (2, 3)]
    changed.model = right.model
    assert tokenize_with_spans(changed, "aaa").spans == [(0, 2), (2, 3)]


def test_a_token_made_special_among_many_ends_a_turn():
    tokenizer = used("byte_level")
    tokenizer.add_tokens([*(f"<|reserved_{number}|>" for number in range(100)), "<|end|>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    collate = DualTokenizerCollator(tokenizer, tokenizer)
    collate([CHAT])
    tokenizer.backend_tokenizer.add_special_tokens(["<|end|>"])
    right = DualTokenizerCollator(fresh(tokenizer), fresh(tokenizer))([CHAT])
    assert same(collate([CHAT]), right)
    assert tokenizer.convert_tokens_to_ids("<|end|>") in right["student_labels"]


def test_a_template_that_reads_a_clock_does_not_alter_messages():
    tokenizer = copy.deepcopy(KINDS["byte_level"]())
    render, today = tokenizer.apply_chat_template, ["Monday"]
    tokenizer.apply_chat_template = lambda *args, **kwargs: f"{today[0]}, s a\n" + render(*args, **kwargs)
    collate = DualTokenizerCollator(tokenizer, tokenizer)
    chat = {"messages": [{"role": "user", "content": "s"}, {"role": "assistant", "content": "a"}]}
    counts = []
    for day in ("Monday", "Tuesday"):
        today[:] = [day]
        counts.append(int((collate([chat])["student_labels"] >= 0).sum()))
    assert counts == [2, 2]
