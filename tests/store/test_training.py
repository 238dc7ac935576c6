"""A store stands where the teacher stands: the same loss, the same gradients, whatever the spec and the batch."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from dskd_components import (
    DSKDLoss,
    DSKDSpec,
    DualTokenizerCollator,
    MultiTeacherCollator,
    MultiTeacherLoss,
    MultiTeacherSpec,
    ReadAheadCollator,
    TeacherStore,
)
from dskd_components.errors import InputError, StoreError
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer, tiny_model
from tests.helpers.stores import build, collator, loss_of, samples, stepped, student, teacher

TWO_TOKENIZERS = {
    "cma": DSKDSpec.preset("dskd-cma"),
    "cma by sample": DSKDSpec.preset("dskd-cma", aligner={"name": "cma", "std": "sample"}),
    "v2, exact match": DSKDSpec.preset("dskd-v2-eta"),
    "span": DSKDSpec.preset("dskd-v2-eta", aligner="span"),
    "min_edit, all spaces": DSKDSpec(aligner="min_edit"),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "right": {},
    "left": {"padding_side": "left"},
    "packed": {"packing": True},
    "filled up": {"pad_to_multiple_of": 16, "packing": True},
}
# Loss and gradients may differ by so much of the largest, as rows of other batches round otherwise.
WITHIN = {"float32": 2e-6, "bfloat16": 2e-2, "int8": 4e-2}
LOSS_WITHIN = {"float32": 1e-6, "bfloat16": 1e-4, "int8": 1e-3}


@cache
def store_of(dtype: str) -> TeacherStore:
    return build(Path(mkdtemp()), dtype=dtype)


def named_collate(data: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    """A collator that pickles as its name alone."""
    return collator(aligner="cma")(data)


def require_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], dtype: str = "float32") -> None:
    assert len(ours) == len(theirs)
    torch.testing.assert_close(ours[0], theirs[0], rtol=LOSS_WITHIN[dtype], atol=0)
    for one, two in zip(ours[1:], theirs[1:], strict=True):
        assert (one - two).abs().max() <= WITHIN[dtype] * two.abs().max() + 1e-7


@pytest.mark.parametrize("name", TWO_TOKENIZERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_spec_learns_the_same(name: str, dtype: str) -> None:
    spec, store, learner = TWO_TOKENIZERS[name], store_of(dtype), student()
    batch = collator(aligner=spec.aligner)(samples())
    live = stepped(loss_of(spec, teacher(), learner=learner), learner, teacher(), batch)
    require_close(stepped(loss_of(spec, store, learner=learner), learner, store, batch), live, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ahead", [False, True])
def test_every_layout_reads_the_same(layout: str, ahead: bool) -> None:
    spec, store, learner = TWO_TOKENIZERS["cma by sample"], store_of("float32"), student()
    loss_fn = loss_of(spec, store, learner=learner)
    collate = collator(aligner="cma", **LAYOUTS[layout])
    # Padding on the left moves positions of a GPT-2, which its collator makes up for.
    live = stepped(loss_fn, learner, teacher(), collate(samples()[3:9]))
    made: Any = ReadAheadCollator(collate, store) if ahead else collate
    require_close(stepped(loss_fn, learner, store, made(samples()[3:9])), live)


def test_the_same_batch_gives_the_same_bits(tmp_path: Path) -> None:
    data = sorted(samples(), key=lambda sample: -len(collator()([sample])["teacher_input_ids"][0]))
    spec, learner = TWO_TOKENIZERS["cma"], student()
    batch = collator(aligner="cma")(data)
    store = build(tmp_path, data, batch_size=len(data))
    loss_fn = loss_of(spec, store, learner=learner)
    for ours, theirs in zip(
        stepped(loss_fn, learner, store, batch), stepped(loss_fn, learner, teacher(), batch), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_another_student_needs_no_other_store() -> None:
    store = store_of("float32")
    for own in (byte_level_tokenizer(280), metaspace_tokenizer(50)):
        learner = tiny_model("Llama", hidden_size=16, vocabulary=300)
        spec = TWO_TOKENIZERS["v2, exact match"]
        batch = DualTokenizerCollator(own, byte_level_tokenizer(), student_max_length=36, on_error="skip")(samples())
        loss_fn = loss_of(spec, store, learner=learner, own=own)
        require_close(stepped(loss_fn, learner, store, batch), stepped(loss_fn, learner, teacher(), batch))


def test_texts_cut_at_any_place_find_their_states() -> None:
    spec, store, learner = TWO_TOKENIZERS["cma by sample"], store_of("float32"), student()
    loss_fn = loss_of(spec, store, learner=learner)
    whole = collator()(samples())["teacher_attention_mask"].sum(1).tolist()
    for limit in {*range(12, 20), 31, 32, 33, 63, 64, 65, max(whole) - 1}:
        collate = collator(aligner="cma", teacher_max_length=limit, on_error="skip")
        try:
            batch = collate(samples())
        except InputError:  # nothing of any sample is left
            continue
        assert batch["teacher_input_ids"].shape[1] <= limit
        require_close(stepped(loss_fn, learner, store, batch), stepped(loss_fn, learner, teacher(), batch))


@pytest.mark.parametrize("prefixed", [True, False])
def test_one_tokenizer(tmp_path: Path, prefixed: bool) -> None:
    own = byte_level_tokenizer()
    learner = tiny_model("Llama", hidden_size=16, vocabulary=320)
    collate = DualTokenizerCollator(own, own, aligner="identity")
    store = TeacherStore.build(tmp_path, teacher(), collate, samples(), dtype="float32")
    batch = collate(samples())
    if not prefixed:
        batch = {name: batch[f"student_{name}"] for name in ("input_ids", "labels", "attention_mask")}
    for preset in ("vanilla-kd", "dskd", "dskd-v2", "recommended-one-vocabulary"):
        loss_fn = loss_of(DSKDSpec.preset(preset), store, learner=learner, own=own)
        live = stepped(loss_fn, learner, teacher(), batch)
        require_close(stepped(loss_fn, learner, store, batch), live)
        ahead = ReadAheadCollator(lambda _: dict(batch), store)
        require_close(stepped(loss_fn, learner, store, ahead([])), live)


def test_several_teachers_and_stores(tmp_path: Path) -> None:
    small = tiny_model("GPT2", hidden_size=32, vocabulary=300)
    own, tokenizers = metaspace_tokenizer(), {"large": byte_level_tokenizer(), "large_v2": byte_level_tokenizer(290)}
    spec = MultiTeacherSpec(
        teachers={"large": {"aligner": {"name": "cma", "std": "sample"}}, "large_v2": {"aligner": "exact_match"}}
    )
    models = {"large": teacher(), "large_v2": small}
    stores = {
        name: TeacherStore.build(
            tmp_path / name, model, DualTokenizerCollator(own, tokenizers[name]), samples(), dtype="float32"
        )
        for name, model in models.items()
    }
    learner = student()
    collate = MultiTeacherCollator(own, tokenizers, aligners={"large": "cma"})
    torch.manual_seed(1)
    loss_fn = MultiTeacherLoss.from_models(spec, learner, stores, own, tokenizers)
    live = stepped(loss_fn, learner, models, collate(samples()))
    require_close(stepped(loss_fn, learner, stores, collate(samples())), live)
    require_close(stepped(loss_fn, learner, stores, ReadAheadCollator(collate, stores)(samples())), live)
    mixed = {"large": models["large"], "large_v2": stores["large_v2"]}
    ahead = ReadAheadCollator(collate, {"large_v2": stores["large_v2"]})
    require_close(stepped(loss_fn, learner, mixed, ahead(samples())), live)
    strange = [{"text": "nobody has seen this"}]
    for attempt in (
        lambda: stepped(loss_fn, learner, models | {"large_v2": stores["large_v2"]}, collate(strange)),
        lambda: ahead(strange),
    ):
        with pytest.raises(StoreError, match=r"Teacher 'large_v2': .* does not have the sample at row 0"):
            attempt()


def test_workers_read_ahead() -> None:
    store = store_of("int8")
    collate = ReadAheadCollator(collator(aligner="cma"), store)
    loader = DataLoader(samples(), batch_size=5, collate_fn=collate, num_workers=2)
    for batch, expected in zip(loader, (collate(samples()[first : first + 5]) for first in (0, 5, 10)), strict=True):
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_what_goes_to_a_worker_is_small() -> None:
    store = store_of("int8")
    collate = ReadAheadCollator(named_collate, store)
    sent = pickle.dumps(collate)
    assert len(sent) < 10_000, "neither head nor index go along"
    batch, expected = pickle.loads(sent)(samples()), collate(samples())
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_a_loss_that_learned_from_the_teacher_goes_on_with_the_store(tmp_path: Path) -> None:
    spec, store, learner = TWO_TOKENIZERS["cma"], store_of("float32"), student()
    loss_of(spec, teacher(), learner=learner).save(tmp_path / "live")
    tokenizers = metaspace_tokenizer(), byte_level_tokenizer()
    loaded = DSKDLoss.load(tmp_path / "live", learner, store, *tokenizers)
    loaded.save(tmp_path / "offline")
    DSKDLoss.load(tmp_path / "offline", learner, teacher(), *tokenizers)
    assert loaded.vocabularies.sizes["teacher"] == 300, "as the tokenizer says, not the head's 320 rows"


def test_a_batch_with_nothing_scored() -> None:
    store, learner = store_of("int8"), student()
    loss_fn = loss_of(TWO_TOKENIZERS["v2, exact match"], store, learner=learner)
    batch = collator(aligner="exact_match")(samples(2))
    for side in ("student", "teacher"):
        batch[f"{side}_labels"] = torch.full_like(batch[f"{side}_labels"], -100)
    for made in (batch, ReadAheadCollator(lambda _: batch, store)([])):
        loss = loss_fn.run(learner, store, made).loss
        loss.backward()
        assert loss == 0


def test_no_tokenizer_is_needed_to_train() -> None:
    store, learner = store_of("float32"), student()
    torch.manual_seed(1)
    loss_fn = DSKDLoss.from_models(TWO_TOKENIZERS["cma"], learner, store, metaspace_tokenizer())
    batch = collator(aligner="cma")(samples())
    known = loss_of(TWO_TOKENIZERS["cma"], store, learner=learner)
    require_close(stepped(loss_fn, learner, store, batch), stepped(known, learner, store, batch))
    assert loss_fn.vocabularies.sizes["teacher"] == 300
