"""What the states of a store are not of is refused by name: teachers, tokenizers, templates, samples."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dskd_components import (
    DSKDLoss,
    DSKDSpec,
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    ReadAheadCollator,
    TeacherStore,
)
from dskd_components.errors import ConfigurationError, DSKDError, InputError, StoreError
from dskd_components.store import build as building
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer, tiny_model
from tests.helpers.pairs import CHATML, OTHER, tokenizer
from tests.helpers.stores import build, collator, loss_of, samples, stepped, student, teacher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Of peft, of what newer transformers deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

SPEC = DSKDSpec.preset("dskd-cma", aligner={"name": "cma", "std": "sample"})


def with_lora() -> Any:
    torch.manual_seed(0)
    adapted = get_peft_model(copy.deepcopy(teacher()), LoraConfig(target_modules=["q_proj"], r=2))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return adapted


def with_disabled_lora() -> Any:
    adapted = with_lora()
    adapted.base_model.disable_adapter_layers()
    return adapted


def with_other_layer() -> Any:
    changed = copy.deepcopy(teacher())
    with torch.no_grad():
        changed.model.layers[0].mlp.down_proj.weight.mul_(1.01)
    return changed


def with_other_head() -> Any:
    changed = copy.deepcopy(teacher())
    with torch.no_grad():
        changed.lm_head.weight.add_(0.1)
    return changed


CHANGED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a layer's weights": (lambda: {"teacher": with_other_layer()}, "weights: the teacher has other weights"),
    "an adapter": (lambda: {"teacher": with_lora()}, "weights: the teacher has other weights or adapters"),
    "the head": (lambda: {"teacher": with_other_head()}, "head: the teacher's head is another one"),
    "the precision": (
        lambda: {"teacher": copy.deepcopy(teacher()).bfloat16()},
        "the teacher computes in float32 in the store, bfloat16 here",
    ),
    "the width": (
        lambda: {"teacher": tiny_model("Llama", hidden_size=32, vocabulary=320)},
        "the states' width is 80 in the store, 32 here",
    ),
    "the format": (lambda: {"dtype": "int8"}, "states are stored in float32 in the store, int8 here"),
    "the positions": (lambda: {"positions": "all"}, "states are stored of scored in the store, all here"),
    "the tokenizer": (
        lambda: {"collate": DualTokenizerCollator(metaspace_tokenizer(), byte_level_tokenizer(290))},
        "tokenizer: its fingerprint is [0-9a-f]{16} in the store",
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_build_of_something_else_is_refused(what: str, tmp_path: Path) -> None:
    store = build(tmp_path, samples(3))
    before = sorted(path.name for path in tmp_path.iterdir())
    options, message = CHANGED[what]
    with pytest.raises(StoreError, match=message):
        build(tmp_path, samples(), **options())
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert store.verify(teacher()).passed


@pytest.mark.parametrize("change", [with_other_layer, with_lora, with_other_head])
def test_verify_tells_of_another_teacher(change: Callable[[], Any], tmp_path: Path) -> None:
    report = build(tmp_path).verify(change())
    assert any("other weights or adapters" in problem for problem in report.problems)
    assert not report.passed


@pytest.mark.parametrize("change", [{"hidden_size": 64}, {"vocabulary": 40}], ids=["wider", "fewer tokens"])
def test_verify_tells_of_a_teacher_that_cannot_read_the_samples_or_has_other_states(
    change: dict[str, int], tmp_path: Path
) -> None:
    report = build(tmp_path).verify(tiny_model("Llama", **({"hidden_size": 32, "vocabulary": 300} | change)))
    assert any("other weights or adapters" in problem for problem in report.problems)
    assert report.recomputed == 0


def test_an_adapter_that_is_off_is_not_the_adapter(tmp_path: Path) -> None:
    build(tmp_path, teacher=with_lora())
    build(tmp_path, teacher=with_lora())
    with pytest.raises(StoreError, match="other weights or adapters"):
        build(tmp_path, teacher=with_disabled_lora())


def test_another_tokenizer_is_refused_wherever_it_is_given(tmp_path: Path) -> None:
    store, other = build(tmp_path), byte_level_tokenizer(290)
    with pytest.raises(InputError, match=r"not the one that the stored states were made with"):
        DSKDLoss.from_models(SPEC, student(), store, metaspace_tokenizer(), other)
    with pytest.raises(InputError, match=r"not the one that the stored states were made with"):
        ReadAheadCollator(DualTokenizerCollator(metaspace_tokenizer(), other), store)
    learner = student()
    batch = DualTokenizerCollator(metaspace_tokenizer(), other, aligner="cma")(samples())
    with pytest.raises(InputError, match=r"another teacher tokenizer"):
        loss_of(SPEC, store, learner=learner).run(learner, store, batch)


def test_a_missing_sample_is_named(tmp_path: Path) -> None:
    store, learner = build(tmp_path), student()
    loss_fn = loss_of(SPEC, store, learner=learner)
    strange = {"prompt": "Nobody has", "response": " seen this text"}
    batch = collator(aligner="cma")([*samples(3), strange])
    ids = batch["teacher_input_ids"][3][:12].tolist()
    with pytest.raises(StoreError) as refused:
        loss_fn.run(learner, store, batch)
    assert (
        f"row 3 of the batch: {int(batch['teacher_attention_mask'][3].sum())} tokens [{', '.join(map(str, ids))}, ...]"
        in str(refused.value)
    )
    assert "the store, of 12 samples, does not have the sample" in str(refused.value)
    assert "Run TeacherStore.build once more with these samples" in str(refused.value)
    with pytest.raises(StoreError, match="row 3 of the batch"):
        ReadAheadCollator(collator(aligner="cma"), store)([*samples(3), strange])
    build(tmp_path, [strange])
    loss_fn.run(learner, TeacherStore(tmp_path), batch)


def test_a_missing_sample_of_a_packed_row_is_named(tmp_path: Path) -> None:
    store, learner = build(tmp_path, samples(3)), student()
    batch = collator(aligner="cma", packing=True)(samples(4))
    start = int((batch["teacher_segment_ids"] == 3).nonzero()[0, 1])
    with pytest.raises(StoreError, match=rf"row 0 of the batch, from its position {start} on: "):
        loss_of(SPEC, store, learner=learner).run(learner, store, batch)


def test_a_longer_sample_than_the_stored_one_is_named(tmp_path: Path) -> None:
    fitting = [sample for sample in samples() if len(sample["prompt"]) < 20]
    store = build(tmp_path, fitting, collate=collator(teacher_max_length=24, on_error="skip"))
    with pytest.raises(StoreError, match=r"begins with its first 16 tokens.* teacher_max_length was 24 .* is None now"):
        ReadAheadCollator(collator(aligner="cma"), store)(fitting)


def test_positions_that_were_not_scored_are_named(tmp_path: Path) -> None:
    store, everything = build(tmp_path / "scored"), build(tmp_path / "all", positions="all")
    learner = student()
    batch = collator(aligner="cma", train_on_prompt=True)(samples(2))
    labels = collator()(samples(2))["teacher_labels"][0]
    last = int((labels != -100).nonzero()[0]) - 2
    with pytest.raises(StoreError, match=rf"not the states of its positions 0 to {last}, .*train_on_prompt"):
        loss_of(SPEC, store, learner=learner).run(learner, store, batch)
    ours = stepped(loss_of(SPEC, everything, learner=learner), learner, everything, batch)
    theirs = stepped(loss_of(SPEC, everything, learner=learner), learner, teacher(), batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_another_chat_template_is_named(tmp_path: Path) -> None:
    chats = [{"messages": [{"role": "user", "content": "Guess"}, {"role": "assistant", "content": "refuse to guess"}]}]
    first, second = tokenizer(300, template=CHATML), tokenizer(300, template=OTHER)
    own = tokenizer(280, template=CHATML)
    store = TeacherStore.build(tmp_path, tiny_model("Llama", vocabulary=320), DualTokenizerCollator(own, first), chats)
    ReadAheadCollator(DualTokenizerCollator(own, first), store)(chats)
    with pytest.raises(StoreError, match=r"Here the teacher's chat template is another one than that of the build"):
        ReadAheadCollator(DualTokenizerCollator(own, second), store)(chats)


READ_OTHERWISE: dict[str, tuple[dict[str, Any], str]] = {
    "positions from 5 on": ({"teacher_position_ids": torch.arange(5, 105)[None]}, "its token 0 at position 5"),
    "a mask of query by key": ({"teacher_attention_mask": torch.ones(2, 1, 1, 1)}, "has 4 dimensions"),
    "positions of three kinds": ({"teacher_position_ids": torch.zeros(3, 2, 100)}, "position_ids has 3 dimensions"),
    "images": ({"teacher_pixel_values": torch.ones(2, 3, 4, 4)}, "a column 'pixel_values'"),
    "types of tokens": ({"teacher_token_type_ids": torch.ones(2, 100)}, "a column 'token_type_ids'"),
}


@pytest.mark.parametrize("what", READ_OTHERWISE)
def test_a_batch_that_the_teacher_would_read_otherwise_is_refused(what: str, tmp_path: Path) -> None:
    store, learner = build(tmp_path, samples(2)), student()
    batch = collator(aligner="cma", pad_to_multiple_of=100)(samples(2))
    columns, message = READ_OTHERWISE[what]
    with pytest.raises(StoreError, match=message):
        loss_of(SPEC, store, learner=learner).run(learner, store, batch | columns)


def test_padding_on_the_left_without_positions_is_refused(tmp_path: Path) -> None:
    store, learner = build(tmp_path, samples(2)), student()
    batch = collator(aligner="cma", padding_side="left")(samples(2))
    del batch["teacher_position_ids"]
    with pytest.raises(StoreError, match=r"at position \d+, .*Give the batch a column 'teacher_position_ids'"):
        loss_of(SPEC, store, learner=learner).run(learner, store, batch)


def test_states_of_another_store_in_a_batch_are_refused(tmp_path: Path) -> None:
    stores = {dtype: build(tmp_path / dtype, dtype=dtype) for dtype in ("float32", "int8")}
    learner = student()
    batch = ReadAheadCollator(collator(aligner="cma"), stores["int8"])(samples())
    with pytest.raises(StoreError, match="read ahead from another store"):
        loss_of(SPEC, stores["float32"], learner=learner).run(learner, stores["float32"], batch)


def test_teachers_whose_states_depend_on_the_length_have_no_beginnings(tmp_path: Path) -> None:
    scaled = tiny_model(
        "Llama",
        hidden_size=80,
        vocabulary=320,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    )
    store = build(tmp_path, teacher=scaled)
    assert not store.manifest.beginnings
    assert build(tmp_path / "plain").manifest.beginnings
    ReadAheadCollator(collator(), store)(samples())
    with pytest.raises(StoreError, match="Beginnings of longer samples are not used"):
        ReadAheadCollator(collator(teacher_max_length=24, on_error="skip"), store)(samples())


WRONG: dict[str, tuple[dict[str, Any], type[DSKDError], str]] = {
    "batch_size": ({"batch_size": 0}, ConfigurationError, "batch_size: expected a positive integer, got 0"),
    "shard_bytes": ({"shard_bytes": -1}, ConfigurationError, "shard_bytes: expected a positive integer, got -1"),
    "positions": ({"positions": "some"}, ConfigurationError, "positions: expected 'scored' or 'all', got 'some'"),
    "shard": ({"shard": (4, 4)}, ConfigurationError, r"part i of n counted from 0, got \(4, 4\)"),
    "dtype": ({"dtype": "float16"}, ConfigurationError, "dtype: expected one of 'float32'"),
    "samples": ({"data": [{"txt": "?"}]}, InputError, "Unknown key 'txt'"),
    "columns": ({"data": {"text": ["never"]}}, InputError, "Expected a list of samples, but got one dict"),
    "a file's name": ({"data": "samples.jsonl"}, InputError, "Expected a list of samples, but got str"),
    "a sample": ({"data": [*samples(1), {"text": ""}]}, InputError, "^Sample 1: .*empty"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_named(what: str, tmp_path: Path) -> None:
    options, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        build(tmp_path, **options)


UNUSABLE: dict[str, Any] = {
    "empty": {"text": ""},
    "of no form": {"txt": "?"},
    "of another tokenizer": DualTokenizerPreprocessor(byte_level_tokenizer(), metaspace_tokenizer())({"text": "never"}),
}


@pytest.mark.parametrize("collate", [collator(), lambda data: collator()(data)], ids=["own", "a function"])
@pytest.mark.parametrize("what", UNUSABLE)
def test_a_sample_that_cannot_be_used_is_found_in_the_data(
    what: str, collate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows are the build's affair; raw and preprocessed samples are counted together."""
    monkeypatch.setattr(building, "WINDOW", 3)
    ready = DualTokenizerPreprocessor(metaspace_tokenizer(), byte_level_tokenizer())(samples(1)[0])
    data = [*samples(3), ready, UNUSABLE[what]]
    named = "^Sample 4: " if isinstance(collate, DualTokenizerCollator) else "^Among the samples from 3 on: Sample 1: "
    with pytest.raises(InputError, match=named):
        build(tmp_path, data, collate=collate)


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"expected a folder with manifest.json"):
        TeacherStore(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds other files \('notes.txt' among them\)"):
        build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    store = build(tmp_path / "store", samples(2))
    with pytest.raises(StoreError, match=r"there is one in .*store"):
        TeacherStore(tmp_path)
    written = json.loads((store.folder / "manifest.json").read_text())
    (store.folder / "manifest.json").write_text(json.dumps(written | {"format": 2}))
    with pytest.raises(StoreError, match="expected format 1, got 2"):
        TeacherStore(store.folder)


def test_a_teacher_that_overflows_stores_nothing(tmp_path: Path) -> None:
    broken = copy.deepcopy(teacher())
    last = byte_level_tokenizer()(samples()[5]["response"])["input_ids"][-1]
    with torch.no_grad():
        broken.model.embed_tokens.weight[last] = torch.nan
    with pytest.raises(StoreError, match=r"states with NaN or infinity for the sample of row 0"):
        build(tmp_path, [samples()[5]], teacher=broken)
    assert not list(tmp_path.glob("states-*"))


def test_a_store_is_no_model(tmp_path: Path) -> None:
    store, learner = build(tmp_path, samples(2)), student()
    with pytest.raises(InputError, match="cannot be run"):
        store(input_ids=torch.ones(1, 2))
    with pytest.raises(
        InputError, match="preflight: it runs the teacher to look at it, and TeacherStore cannot be run"
    ):
        DSKDLoss.preflight(learner, store)
    with pytest.raises(InputError, match="student: expected a causal language model, got TeacherStore"):
        loss_of(SPEC, store, learner=learner).run(store, store, collator(aligner="cma")(samples(2)))


def test_a_loss_that_is_not_finite_is_explained_with_a_store_too(tmp_path: Path) -> None:
    store, learner = build(tmp_path, samples(2)), student()
    loss_fn = loss_of(SPEC, store, learner=learner)
    with torch.no_grad():
        loss_fn.projectors["t2s"].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="a parameter of a projector or of the aligner is NaN"):
        loss_fn.run(learner, store, collator(aligner="cma")(samples(2)))
