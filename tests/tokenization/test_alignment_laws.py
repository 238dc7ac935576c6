"""What holds for every text: spans cover it, pairs are true and never cross, groups cover both sides."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components.aligners.align_text import align_text
from dskd_components.tokenization.byte_spans import core_starts
from examples.offline.tokenizers import LOADERS
from tests.helpers import texts

FAST = ("gpt2", "neox", "claude", "llama2", "mon", "bert", "t5")
AWKWARD = "\u0301\u0327e½ﬁ한\u1112\u1161ｶﾞĠ▁İẞ\u200d\u00ad\u0958😀我\x00\r\n\t \u00a0#<s>/ Ǯ"
anything = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(AWKWARD), st.sampled_from("ab 1")), max_size=40
)


def check(alignment):
    data = alignment.text.encode()
    for side in (alignment.student, alignment.teacher):
        spans = [span for span in side.spans if span is not None]
        assert all(0 <= start <= stop <= len(data) for start, stop in spans)
        assert all(one[0] <= two[0] and one[1] <= two[1] for one, two in pairwise(spans))
        if spans:
            assert spans[0][0] == 0
            assert spans[-1][1] == len(data)
            assert all(two[0] <= one[1] for one, two in pairwise(spans))
    pairs = alignment.pairs
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    groups = alignment.groups
    for (one, other), (after, other_after) in pairwise(groups):
        assert one[0] < one[1] <= after[0]
        assert other[0] < other[1] <= other_after[0]
    assert len({index for index, _ in alignment.unaligned_student}) == len(alignment.unaligned_student)


def covered(side, start, stop):
    return min(side.starts[start:stop]), max(side.ends[start:stop])


@settings(max_examples=150, deadline=None)
@given(anything, st.sampled_from(FAST), st.sampled_from(FAST), st.booleans())
def test_exact_match(text, student, teacher, special):
    alignment = align_text(LOADERS[student](), LOADERS[teacher](), text, add_special_tokens=special)
    check(alignment)
    one, other = alignment.student, alignment.teacher
    cores = [core_starts(side.data, side.starts, side.ends) for side in (one, other)]
    for i, j in alignment.pairs:
        if one.starts[i] < 0:
            assert (i < one.bos_count) == (j < other.bos_count)
        else:
            assert (cores[0][i], one.ends[i]) == (cores[1][j], other.ends[j])
            assert one.data[cores[0][i] : one.ends[i]].strip(b" ") or one.starts[i] == other.starts[j]


@settings(max_examples=150, deadline=None)
@given(anything, st.sampled_from(FAST), st.sampled_from(FAST))
def test_span_groups_cover_the_same_bytes(text, student, teacher):
    alignment = align_text(LOADERS[student](), LOADERS[teacher](), text, "span")
    check(alignment)
    one, other = alignment.student, alignment.teacher
    for student_range, teacher_range in alignment.groups:
        assert covered(one, *student_range) == covered(other, *teacher_range)
    if len(one) and len(other):
        assert alignment.unaligned_student == alignment.unaligned_teacher == []
        assert alignment.groups[0][0][0] == alignment.groups[0][1][0] == 0
        assert alignment.groups[-1][0][1] == len(one)
        assert alignment.groups[-1][1][1] == len(other)
    # No group could be split further: no byte is a border of both sides inside a group.
    for student_range, teacher_range in alignment.groups:
        inner = [
            {
                int(side.starts[k])
                for k in range(start + 1, stop)
                if side.starts[k] < side.ends[k]
                and side.starts[k] >= max(side.ends[start:k]) > min(side.starts[start:k])
            }
            for side, (start, stop) in ((one, student_range), (other, teacher_range))
        ]
        assert not inner[0] & inner[1]


@settings(max_examples=60, deadline=None)
@given(anything, st.sampled_from(FAST), st.sampled_from(FAST))
def test_min_edit_groups_cover_both_sides(text, student, teacher):
    alignment = align_text(LOADERS[student](), LOADERS[teacher](), text, "min_edit")
    check(alignment)
    if len(alignment.student) and len(alignment.teacher):
        for column, side in ((0, alignment.student), (1, alignment.teacher)):
            bounds = [group[column] for group in alignment.groups]
            assert bounds[0][0] == 0
            assert bounds[-1][1] == len(side)
            assert all(one[1] == two[0] for one, two in pairwise(bounds))


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("method", ["exact_match", "span"])
def test_a_tokenizer_aligns_with_itself_one_to_one(name, method):
    for text in texts.ALL:
        alignment = align_text(LOADERS[name](), LOADERS[name](), text, method, add_special_tokens=True)
        check(alignment)
        assert all(i == j for i, j in alignment.pairs)
        assert [index for index, _ in alignment.unaligned_student] == [i for i, _ in alignment.unaligned_teacher]
