"""The warping path: golden values of the release, and the whole table filled in cell by cell."""

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from dskd_components.aligners.align_text import align_text, align_texts
from dskd_components.errors import InputError
from dskd_components.tokenization import warping, warping_band
from dskd_components.tokenization.min_edit import min_edit_path, min_edit_paths, path_groups
from dskd_components.tokenization.token_bytes import SPACE_MARKERS, vocabulary_bytes
from examples.offline.tokenizers import LOADERS
from tests.helpers import texts

MARKERS = {"gpt2": "Ġ", "qwen": "Ġ", "tinyllama": "▁", "mistral": "▁"}
CASES = json.loads((texts.GOLDEN / "alignments.json").read_text(encoding="utf-8"))


def table_path(student: list[str], teacher: list[str]) -> list[list[int]]:
    """Every cell of the table, then back from the end: in both, else in the teacher, else in the student."""
    cost: dict[tuple[int, int], int] = {}
    for i, one in enumerate(student):
        for j, other in enumerate(teacher):
            before = [cost[cell] for cell in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if cell in cost]
            cost[i, j] = Levenshtein.distance(one, other) + min(before, default=0)
    path: list[list[int]] = [[] for _ in student]
    cell = (len(student) - 1, len(teacher) - 1)
    while cell in cost:
        i, j = cell
        path[i].insert(0, j)
        cell = min(((i - 1, j - 1), (i, j - 1), (i - 1, j)), key=lambda c: cost.get(c, float("inf")))
    return path


@pytest.mark.parametrize("number", range(len(CASES)))
def test_golden(number):
    case = CASES[number]
    markers = MARKERS[case["student"]], MARKERS[case["teacher"]]
    path = min_edit_path(case["student_tokens"], case["teacher_tokens"], *markers)
    assert path == case["student_to_teacher"]
    student = [token.replace(markers[0], "") for token in case["student_tokens"]]
    teacher = [token.replace(markers[1], "") for token in case["teacher_tokens"]]
    cost = sum(Levenshtein.distance(student[i], teacher[j]) for i, joined in enumerate(path) for j in joined)
    assert cost == case["dtw_cost"]


def token_lists(alphabet: str, longest: int, most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.text(alphabet, max_size=longest), min_size=1, max_size=most)


@st.composite
def like_lists(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Two lists that agree for the most part, as two tokenizers do."""
    words = draw(st.lists(st.text("abcdef", max_size=6), min_size=1, max_size=12))
    student = draw(st.lists(st.sampled_from(words), min_size=1, max_size=40))
    teacher: list[str] = []
    for word in student:
        change = draw(st.sampled_from("eeeeeeesrd"))
        teacher += {"e": [word], "s": [word[:2], word[2:]], "r": [draw(st.sampled_from(words))], "d": []}[change]
    return student, teacher or ["a"]


@pytest.fixture(autouse=True, params=[(1, (3, 7)), (4, (6,)), (32, (160, 640))], ids=lambda band: f"block{band[0]}")
def _band(request, monkeypatch):
    """Bands that miss most paths, bands that miss some, and bands as they are."""
    monkeypatch.setattr(warping_band, "BLOCK", request.param[0])
    monkeypatch.setattr(warping, "BAND_WIDTHS", request.param[1])


SAME_BANDS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PANELS = st.sampled_from([1, 20, 1 << 22])


@SAME_BANDS
@given(token_lists("ab", 3, 14), token_lists("ab", 3, 14), PANELS)
def test_any_lists_give_the_path_of_the_whole_table(student, teacher, panel):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warping, "PANEL_CELLS", panel)
        assert min_edit_path(student, teacher) == table_path(student, teacher)


@SAME_BANDS
@given(like_lists(), PANELS)
def test_like_lists_give_the_path_of_the_whole_table(lists, panel):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warping, "PANEL_CELLS", panel)
        assert min_edit_path(*lists) == table_path(*lists)


EMPTY_SIDES = st.sampled_from([([], []), (["a"], []), ([], ["a", "b"])])
MIXED_PAIRS = st.lists(
    st.one_of(like_lists(), st.tuples(token_lists("ab", 3, 20), token_lists("ab", 3, 20)), EMPTY_SIDES), max_size=9
)


@SAME_BANDS
@given(MIXED_PAIRS, st.sampled_from([1, 2, 32]), st.sampled_from([1, 2000, 1 << 22]))
def test_together_pairs_give_the_paths_that_they_give_alone(pairs, tables, cells):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warping, "BAND_TABLES", tables)
        patch.setattr(warping, "BAND_CELLS", cells)
        paths = min_edit_paths([student for student, _ in pairs], [teacher for _, teacher in pairs])
    assert paths == [min_edit_path(*pair) for pair in pairs]
    assert paths == [table_path(*pair) if all(pair) else [[] for _ in pair[0]] for pair in pairs]


@pytest.mark.parametrize("panel", [1, 5, 1 << 22])
@pytest.mark.parametrize(
    ("student", "teacher", "path"),
    [
        (["", "aaa", "aa"], ["", "ba", "", "a"], [[0], [1], [2, 3]]),
        (["", "ba", "", "abb"], ["", "abb", ""], [[0], [0], [0], [1, 2]]),
    ],
)
def test_a_tie_of_single_steps_goes_to_the_teacher(student, teacher, path, panel, monkeypatch):
    monkeypatch.setattr(warping, "PANEL_CELLS", panel)
    assert min_edit_path(student, teacher) == path == table_path(student, teacher)


@pytest.mark.parametrize(("student", "teacher"), [("gpt2", "mistral"), ("llama2", "qwen"), ("bert", "gpt2")])
@pytest.mark.parametrize("text", [texts.PROSE, texts.ORDINARY[0][:400], texts.TRICKY["mixed_all"]])
def test_real_tokens_give_the_path_of_the_whole_table(student, teacher, text):
    tokenizers = LOADERS[student](), LOADERS[teacher]()
    markers = [SPACE_MARKERS[vocabulary_bytes(tokenizer).family] for tokenizer in tokenizers]
    sides = [tokenizer.tokenize(text) for tokenizer in tokenizers]
    bare = [[token.replace(mark, "") for token in side] for side, mark in zip(sides, markers, strict=True)]
    assert min_edit_path(*sides, *markers) == table_path(*bare)


def test_long_texts_stay_within_bounded_memory():
    tokens = [f"{number % 977:x}" for number in range(8000)]
    tracemalloc.start()
    path = min_edit_path(tokens, [*tokens[:4000], "zz", *tokens[4000:]])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path[:3] == [[0], [1], [2]]
    assert path[-1] == [8000]
    assert peak < 200e6


def test_empty_sides_join_nothing():
    assert min_edit_path([], ["a"]) == []
    assert min_edit_path(["a", "b"], []) == [[], []]


def test_both_sides_need_as_many_texts():
    with pytest.raises(InputError, match="1 and 2"):
        min_edit_paths([["a"]], [["a"], ["b"]])


@pytest.mark.parametrize("method", ["exact_match", "span", "min_edit"])
@pytest.mark.parametrize("add_special_tokens", [False, True])
def test_texts_together_are_aligned_as_they_are_alone(method, add_special_tokens):
    tokenizers = LOADERS["llama2"](), LOADERS["gpt2"]()
    chosen = [texts.PROSE, "", texts.ORDINARY[0], texts.TRICKY["mixed_all"]]
    together = align_texts(*tokenizers, chosen, method, add_special_tokens=add_special_tokens)
    for text, found in zip(chosen, together, strict=True):
        alone = align_text(*tokenizers, text, method, add_special_tokens=add_special_tokens)
        assert (found.pairs, found.groups, found.text) == (alone.pairs, alone.groups, text)


def test_a_string_is_not_a_list_of_tokens():
    with pytest.raises(InputError, match="student_tokens"):
        min_edit_path("the", ["the"])


def test_groups_join_what_shares_tokens():
    assert path_groups([[0], [0, 1], [1], [2, 3]]).tolist() == [[0, 3, 0, 2], [3, 4, 2, 4]]
