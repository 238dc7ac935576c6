"""Spans, groups and reasons written down by hand for the cases that naive code gets wrong."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizerFast

from dskd_components.aligners.align_text import align_text
from dskd_components.errors import InputError
from dskd_components.tokenization.byte_spans import tokenize_batch_with_spans, tokenize_with_spans
from dskd_components.tokenization.text_alignment import UnalignedReason
from examples.offline import tokenizers as real_tokenizers
from examples.offline.tokenizers import LOADERS

SPANS = [
    ("gpt2", " Hello", [(0, 6)]),
    ("llama2", " Hello", [(0, 0), (0, 6)]),
    ("mon", "Hello", [(0, 0), (0, 5)]),
    ("bert", "a\tb", [(0, 1), (1, 3)]),
    ("j2", "one\r\ntwo\r\n", [(0, 3), (3, 8), (8, 10)]),
    ("j2", "e\u0301x", [(0, 3), (3, 4)]),
    ("j2", "½", [(0, 2)] * 3),
    ("gpt2", "e\u0301", [(0, 1), (1, 2), (2, 3)]),
    ("qwen", "e\u0301", [(0, 3)]),
    ("gpt2", "a 😀", [(0, 1), (1, 5), (5, 6)]),
    ("qwen", "a<|im_end|>", [(0, 1), (1, 11)]),
    ("mistral", "a\nb", [(0, 1), (1, 2), (2, 3)]),
    ("neox", "  é e\u0301", [(0, 1), (1, 4), (4, 8)]),
    ("t5", "a    b", [(0, 1), (1, 6)]),
    ("t5", "a ½", [(0, 1), (1, 4), (2, 4), (2, 4)]),
    ("bert", " ", []),
    ("bert", "x é", [(0, 1), (1, 4)]),
]


@pytest.mark.parametrize(("name", "text", "spans"), SPANS)
def test_spans(name, text, spans):
    assert tokenize_with_spans(LOADERS[name](), text).spans == spans


@pytest.mark.parametrize(
    ("student", "teacher", "text", "groups"),
    [
        ("gpt2", "llama2", " Hello", [((0, 1), (0, 2))]),
        ("gpt2", "mistral", "Hi 123", [((0, 1), (0, 1)), ((1, 2), (1, 5))]),
        ("gpt2", "j2", "e\u0301x", [((0, 3), (0, 1)), ((3, 4), (1, 2))]),
        ("gpt2", "qwen", "x.\n", [((0, 1), (0, 1)), ((1, 3), (1, 2))]),
        ("gpt2", "qwen", "a<|im_end|>b", [((0, 1), (0, 1)), ((1, 8), (1, 2)), ((8, 9), (2, 3))]),
        ("gpt2", "bert", " ", []),
        ("bert", "gpt2", " ", []),
    ],
)
def test_groups(student, teacher, text, groups):
    assert align_text(LOADERS[student](), LOADERS[teacher](), text, "span").groups == groups


def test_a_space_token_and_the_word_after_it_equal_the_word_with_its_space():
    alignment = align_text(LOADERS["gpt2"](), LOADERS["j2"](), "x y")
    assert alignment.pairs == [(0, 0), (1, 2)]
    assert alignment.unaligned_teacher == [(1, UnalignedReason.SPACES)]


def test_template_tokens_pair_by_role():
    alignment = align_text(LOADERS["mistral"](), LOADERS["bert"](), "hello", add_special_tokens=True)
    assert alignment.student.tokens[0] == "<s>"
    assert alignment.pairs[0] == (0, 0)
    assert alignment.unaligned_teacher[-1] == (len(alignment.teacher) - 1, UnalignedReason.TEMPLATE)
    alignment = align_text(LOADERS["t5"](), LOADERS["bert"](), "", add_special_tokens=True)
    assert alignment.pairs == [(0, 1)]
    assert alignment.unaligned_teacher == [(0, UnalignedReason.TEMPLATE)]


def templated(template):
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[": 2, "]": 3}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("[", 2), ("]", 3)])
    return backend


@pytest.mark.parametrize("method", ["exact_match", "span"])
def test_templates_of_other_lengths_pair_from_the_text_outwards(method):
    student, teacher = templated("[ [ [ $A ] ]"), templated("[ [ $A ] ] ]")
    alignment = align_text(student, teacher, "b a", method, add_special_tokens=True)
    assert alignment.pairs == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5)]


@pytest.mark.parametrize(
    ("student", "teacher", "text", "index", "reason"),
    [
        ("mon", "gpt2", "Hello", 0, UnalignedReason.NO_TEXT),
        ("j2", "gpt2", "½", 0, UnalignedReason.REWRITTEN),
        ("j2", "gpt2", "½", 1, UnalignedReason.REWRITTEN),
        ("j2", "gpt2", "½", 2, UnalignedReason.REWRITTEN),
        ("gpt2", "mistral", "x 123", 1, UnalignedReason.SPLIT),
        ("mistral", "gpt2", "x 123", 2, UnalignedReason.MERGED),
        ("gpt2", "bert", " ", 0, UnalignedReason.UNCOVERED),
    ],
)
def test_reasons(student, teacher, text, index, reason):
    unaligned = dict(align_text(LOADERS[student](), LOADERS[teacher](), text).unaligned_student)
    assert unaligned[index] is reason


def test_tokens_without_bytes_to_themselves_have_no_core():
    assert tokenize_with_spans(LOADERS["llama2"](), " Hello").cores.tolist() == [-1, 1]
    assert tokenize_with_spans(LOADERS["j2"](), "½ a").cores.tolist() == [-1, -1, -1, 3]


def test_bytes_inside_a_character_are_shown_as_numbers():
    assert tokenize_with_spans(LOADERS["gpt2"](), "a 😀").surfaces() == ["a", r" \xf0\x9f\x98", r"\x80"]


def test_bare_tokenizers_give_the_same_spans():
    for name in ("gpt2", "mistral", "bert"):
        wrapped = LOADERS[name]()
        for special in (True, False):
            one = tokenize_with_spans(wrapped, "Hello wörld 12", add_special_tokens=special)
            other = tokenize_with_spans(wrapped.backend_tokenizer, "Hello wörld 12", add_special_tokens=special)
            assert one.spans == other.spans
            assert (one.bos_count, one.eos_count) == (other.bos_count, other.eos_count)


def test_truncation_set_on_a_tokenizer_does_not_cut_texts():
    tokenizer = real_tokenizers.gpt2.__wrapped__()
    tokenizer("one two three", truncation=True, max_length=1)
    assert tokenize_with_spans(tokenizer, "one two three").spans == [(0, 3), (3, 7), (7, 13)]
    bare = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    bare.enable_truncation(1)
    with pytest.raises(InputError, match="no_truncation"):
        tokenize_with_spans(bare, "a")


def test_tokens_added_later_are_known():
    tokenizer = real_tokenizers.gpt2.__wrapped__()
    assert len(tokenize_with_spans(tokenizer, "a<tool>b")) > 3
    tokenizer.add_tokens(["<tool>"])
    assert tokenize_with_spans(tokenizer, "a<tool>b").spans == [(0, 1), (1, 7), (7, 8)]


def test_slow_tokenizers_are_refused():
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(InputError, match=r"fast tokenizer.*SlowTokenizer"):
        tokenize_with_spans(SlowTokenizer(), "a")


def test_bad_text_is_refused():
    tokenizer = LOADERS["gpt2"]()
    with pytest.raises(InputError, match=r"lone surrogate.*index 1"):
        tokenize_with_spans(tokenizer, "a\ud800")
    with pytest.raises(InputError, match="str"):
        tokenize_with_spans(tokenizer, b"a")


def test_no_texts_give_no_tokens():
    assert tokenize_batch_with_spans(LOADERS["gpt2"](), []) == []


def test_the_class_of_tokenizer_does_not_matter():
    tokenizer = LOADERS["bert"]()
    named = BertTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    assert tokenize_with_spans(named, "Hello there").spans == [(0, 5), (5, 11)]
