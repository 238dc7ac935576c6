"""What holds for every text: spans as the ruler, loops as the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import DualTokenizerCollator
from dskd_components.collation import SampleError
from tests.helpers.collating import KINDS, PAIRS, TEXTS, core, members, row_of, spans_of

METHODS = ("exact_match", "span", "min_edit")
# Fewer examples than elsewhere for laws that collate each of them several times; there are four pairs of tokenizers.
fewer = settings(max_examples=25)
both_sides = pytest.mark.parametrize("names", PAIRS, ids="-".join)

# A third of the samples is text, the others prompt and response; some of them cannot be used.
SAMPLES = st.one_of(
    TEXTS.map(lambda text: {"text": text}),
    st.tuples(TEXTS, TEXTS).map(lambda pair: {"prompt": pair[0], "response": pair[1]}),
    st.tuples(TEXTS, TEXTS).map(lambda pair: {"prompt": pair[0], "response": pair[1]}),
)


def collator(names: tuple[str, str], **options: Any) -> DualTokenizerCollator:
    key = (names, tuple(sorted(options.items())))
    if key not in COLLATORS:
        COLLATORS[key] = DualTokenizerCollator(KINDS[names[0]](), KINDS[names[1]](), **options)
    return COLLATORS[key]


COLLATORS: dict[Any, DualTokenizerCollator] = {}


def usable(collate: DualTokenizerCollator, sample: dict[str, str]) -> dict[str, Any] | None:
    try:
        return collate([sample])
    except SampleError:
        return None


def whole_text(sample: dict[str, str]) -> str:
    return sample.get("text", sample.get("prompt", "") + sample.get("response", ""))


def text_spans(name: str, sample: dict[str, str], ids: list[int]) -> tuple[int, list[tuple[int, int]]]:
    """How many tokens stand before the text, and the spans of the text's tokens that are left."""
    tokenized, spans = spans_of(KINDS[name](), whole_text(sample))
    text_ids = tokenized.token_ids.tolist()
    before = {"byte_level": 0, "metaspace": 1, "unigram": 0, "wordpiece": 1}[name]
    assert ids[before : before + len(text_ids)] == text_ids[: len(ids) - before]
    return before, spans


@both_sides
@pytest.mark.parametrize("method", METHODS[:2])
@given(sample=SAMPLES)
def test_what_belongs_together_is_the_same_bytes(names: tuple[str, str], method: str, sample: dict[str, str]) -> None:
    batch = usable(collator(names, aligner=method), sample)
    if batch is None:
        return
    data = whole_text(sample).encode()
    bytes_of: list[dict[int, tuple[int, int]]] = []
    for name, side in zip(names, ("student", "teacher"), strict=True):
        row = row_of(batch, side)
        before, spans = text_spans(name, sample, row["input_ids"])
        found = {}
        for group, tokens in members(row["groups"]).items():
            inside = [spans[token - before] for token in tokens if 0 <= token - before < len(spans)]
            assert len(inside) in (0, len(tokens)), "the end of a text in one group with its tokens"
            assert tokens == list(range(tokens[0], tokens[-1] + 1))
            if method == "exact_match":
                assert len(tokens) == 1
            found[group] = core(data, (inside[0][0], inside[-1][1])) if inside else (len(data), -1)
        bytes_of.append(found)
    assert bytes_of[0] == bytes_of[1]
    assert list(bytes_of[0]) == sorted(bytes_of[0])


@both_sides
@given(sample=SAMPLES, train_on_prompt=st.booleans())
def test_labels_score_exactly_the_response(
    names: tuple[str, str], sample: dict[str, str], train_on_prompt: bool
) -> None:
    batch = usable(collator(names, train_on_prompt=train_on_prompt), sample)
    if batch is None:
        return
    data = whole_text(sample).encode()
    response = 0 if train_on_prompt else len(sample.get("prompt", "").encode())
    for name, side in zip(names, ("student", "teacher"), strict=True):
        row = row_of(batch, side)
        before, spans = text_spans(name, sample, row["input_ids"])
        after = row["input_ids"][before + len(spans) :]
        ends = {"byte_level": ["<|im_end|>"], "metaspace": ["</s>"], "unigram": ["</s>"], "wordpiece": ["[SEP]"]}
        assert KINDS[name]().convert_ids_to_tokens(after) in (ends[name], [])
        expected = [-100] * before
        for token, span in enumerate(spans):
            start = core(data, span)[0]
            scored = start >= response and not (start == span[1] == len(data))
            expected.append(row["input_ids"][before + token] if scored else -100)
        expected += [number if name != "wordpiece" else -100 for number in after]
        expected[0] = -100
        assert row["labels"] == expected


@both_sides
@fewer
@given(samples=st.lists(SAMPLES, min_size=1, max_size=4))
def test_padding_and_company_change_no_sample(names: tuple[str, str], samples: list[dict[str, str]]) -> None:
    samples = [sample for sample in samples if usable(collator(names), sample)]
    if not samples:
        return
    alone = [collator(names)([sample]) for sample in samples]
    for padding_side in ("right", "left"):
        batch = collator(names, padding_side=padding_side, pad_to_multiple_of=8)(samples)
        for side in ("student", "teacher"):
            assert batch[f"{side}_input_ids"].shape[1] % 8 == 0
            mask = batch[f"{side}_attention_mask"]
            steps = mask.diff(dim=1)
            assert (steps <= 0).all() if padding_side == "right" else (steps >= 0).all()
            assert (batch[f"{side}_labels"][mask == 0] == -100).all()
            assert (batch[f"{side}_groups"][mask == 0] == -1).all()
            for number, expected in enumerate(alone):
                assert row_of(batch, side, number) == row_of(expected, side)
                if padding_side == "left":
                    positions = batch[f"{side}_position_ids"][number][mask[number].bool()]
                    assert positions.tolist() == list(range(len(positions)))


@both_sides
@pytest.mark.parametrize("multiple", [None, 8])
@fewer
@given(samples=st.lists(SAMPLES, min_size=1, max_size=4))
def test_packed_samples_are_the_separate_ones(
    names: tuple[str, str], multiple: int | None, samples: list[dict[str, str]]
) -> None:
    samples = [sample for sample in samples if usable(collator(names), sample)]
    if not samples:
        return
    packed = collator(names, packing=True, pad_to_multiple_of=multiple)(samples)
    assert not any("attention_mask" in name for name in packed)
    seen: dict[str, set[int]] = {"student": set(), "teacher": set()}
    for number, sample in enumerate(samples):
        alone = collator(names)([sample])
        numbers_of: list[dict[int, int]] = []
        for side in ("student", "teacher"):
            inside = packed[f"{side}_segment_ids"][0] == number
            cut = {
                name: packed[f"{side}_{name}"][0][inside].tolist() for name in ("input_ids", "labels", "position_ids")
            }
            expected = row_of(alone, side)
            assert cut["position_ids"] == list(range(len(expected["input_ids"])))
            assert cut["input_ids"] == expected["input_ids"]
            assert cut["labels"] == expected["labels"]
            groups = packed[f"{side}_groups"][0][inside].tolist()
            assert [group < 0 for group in groups] == [group < 0 for group in expected["groups"]]
            used = {group for group in groups if group >= 0}
            assert not used & seen[side]
            seen[side] |= used
            numbers_of.append(dict(zip(expected["groups"], groups, strict=True)))
        shared = numbers_of[0].keys() & numbers_of[1].keys() - {-1}
        assert all(numbers_of[0][group] == numbers_of[1][group] for group in shared)
    for side in ("student", "teacher"):
        padding = packed[f"{side}_segment_ids"][0] < 0
        assert packed[f"{side}_input_ids"].shape[1] % (multiple or 1) == 0
        assert (packed[f"{side}_labels"][0][padding] == -100).all()
        assert (packed[f"{side}_groups"][0][padding] == -1).all()


def cuts(spans: list[tuple[int, int]]) -> dict[int, int]:
    """Where tokens can be parted, and how many tokens stand before: by a loop over all borders."""
    found = {}
    for count in range(len(spans) + 1):
        left = max((end for _, end in spans[:count]), default=0)
        filled = [span for span in spans[count:] if span[1] > span[0]]
        right = filled[0][0] if filled else left
        if left <= right and any(end > start for start, end in spans[:count]):
            found.setdefault(left, count)
    return found


@both_sides
@given(sample=SAMPLES, limits=st.tuples(st.integers(2, 14), st.integers(2, 14)))
def test_both_sides_are_cut_at_one_border_of_the_text(
    names: tuple[str, str], sample: dict[str, str], limits: tuple[int, int]
) -> None:
    whole = usable(collator(names, aligner="span"), sample)
    if whole is None:
        return
    options = {"student_max_length": limits[0], "teacher_max_length": limits[1], "aligner": "span"}
    batch = usable(collator(names, **options), sample)
    rows = [row_of(whole, side) for side in ("student", "teacher")]
    sides = [text_spans(name, sample, row["input_ids"]) for name, row in zip(names, rows, strict=True)]
    fits = all(len(row["input_ids"]) <= limit for row, limit in zip(rows, limits, strict=True))
    room = [limit - before for limit, (before, _) in zip(limits, sides, strict=True)]
    borders = [cuts(spans) for _, spans in sides]
    common = [byte for byte, count in borders[0].items() if count <= room[0] and borders[1].get(byte, 10**9) <= room[1]]
    if batch is None:
        assert not fits
        kept = [borders[side][max(common)] + sides[side][0] if common else 0 for side in (0, 1)]
        left = [any(label >= 0 for label in row["labels"][:count]) for row, count in zip(rows, kept, strict=True)]
        assert not all(left)
        return
    for side, name in enumerate(("student", "teacher")):
        row = row_of(batch, name)
        length = len(row["input_ids"])
        assert length <= limits[side]
        assert row["input_ids"] == rows[side]["input_ids"][:length]
        assert row["labels"] == rows[side]["labels"][:length]
        if fits:
            assert length == len(rows[side]["input_ids"])
        else:
            assert length - sides[side][0] == borders[side][max(common)]
    groups = [row_of(batch, side)["groups"] for side in ("student", "teacher")]
    expected = [row["groups"][: len(found)] for row, found in zip(rows, groups, strict=True)]
    pairs = [
        {(tuple(a), tuple(members(side[1]).get(group, ()))) for group, a in members(side[0]).items()}
        for side in (groups, expected)
    ]
    assert pairs[0] == pairs[1]


@both_sides
@pytest.mark.parametrize("method", METHODS)
@fewer
@given(sample=SAMPLES)
def test_groups_are_scored_as_wholes_and_collating_is_deterministic(
    names: tuple[str, str], method: str, sample: dict[str, str]
) -> None:
    batch = usable(collator(names, aligner=method), sample)
    if batch is None:
        return
    again = DualTokenizerCollator(KINDS[names[0]](), KINDS[names[1]](), aligner=method)([sample])
    assert batch.keys() == again.keys()
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    for side in ("student", "teacher"):
        row = row_of(batch, side)
        for tokens in members(row["groups"]).values():
            assert len({row["labels"][token] >= 0 for token in tokens}) == 1
