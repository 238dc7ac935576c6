"""Exact match against the oracle: every ordered pair of real tokenizers, on every text."""

from functools import cache

import pytest

from dskd_components.tokenization.byte_spans import TokenizedText, tokenize_batch_with_spans
from dskd_components.tokenization.span_groups import exact_match_pairs
from examples.offline.tokenizers import FAMILIES, LOADERS
from tests.helpers import span_oracle as oracle
from tests.helpers import texts


@cache
def tokenized(name: str) -> list[TokenizedText]:
    return tokenize_batch_with_spans(LOADERS[name](), texts.ALL)


@cache
def right(name: str) -> list[list[tuple[int, int]]]:
    return [oracle.right_spans(LOADERS[name](), text) for text in texts.ALL]


def test_there_are_enough_tokenizers_and_families():
    assert len(LOADERS) >= 8
    assert len(FAMILIES) >= 4
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(LOADERS)


@cache
def right_cores(name: str) -> list[list[tuple[int, int] | None]]:
    return [oracle.lone_cores(text, spans) for text, spans in zip(texts.ALL, right(name), strict=True)]


@pytest.mark.parametrize("name", LOADERS)
def test_spans_are_right(name):
    for text, found, expected in zip(texts.ALL, tokenized(name), right(name), strict=True):
        assert found.spans == expected, text


@pytest.mark.parametrize("student", LOADERS)
def test_precision_and_recall_are_one(student):
    for teacher in LOADERS:
        if teacher == student:
            continue
        hits = found_count = expected_count = 0
        sides = zip(tokenized(student), tokenized(teacher), right_cores(student), right_cores(teacher), strict=True)
        for one, other, one_right, other_right in sides:
            pairs = exact_match_pairs(one, other).tolist()
            assert pairs == sorted(pairs)
            found = {(i, j) for i, j in pairs}
            expected = oracle.right_pairs(one_right, other_right)
            hits += len(found & expected)
            found_count += len(found)
            expected_count += len(expected)
        assert hits == found_count == expected_count, (student, teacher)
        assert expected_count > 300
