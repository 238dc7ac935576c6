"""Rows that are longer than a model's table of positions are refused before they fail in it, on either side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator, InputError
from dskd_components.models.positions import has_position_table, position_limit, positions_in
from tests.helpers.families import make
from tests.helpers.models import TEXTS, tiny_model
from tests.helpers.pairs import finding, look, sound_pair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WITH_TABLE = ("GPT-2", "GPT-J", "OPT", "BioGPT", "CTRL")
WITHOUT_TABLE = ("Llama", "LLaVA", "Gemma3", "GPT-NeoX", "Falcon", "Bloom", "MPT", "Mamba", "RWKV")
LIMIT = 64


def ids_of(length: int) -> torch.Tensor:
    return torch.randint(8, 90, (2, length), generator=torch.Generator(torch.get_default_device()).manual_seed(0))


class Run:
    """A loss whose one side is a model, the other a model that can read on and on."""

    def __init__(self, model: PreTrainedModel, side: str) -> None:
        other = make("Llama", max_position_embeddings=4 * LIMIT)
        self.models = {"student": other, "teacher": other} | {side: model}
        self.loss_fn = DSKDLoss.from_models(DSKDSpec(), self.models["student"], self.models["teacher"])

    def __call__(self, length: int, **columns: torch.Tensor) -> torch.Tensor:
        ids = ids_of(length)
        batch = {"input_ids": ids, "labels": ids, **columns}
        return self.loss_fn.run(self.models["student"], self.models["teacher"], batch).loss


@pytest.mark.parametrize("family", [*WITH_TABLE, *WITHOUT_TABLE])
def test_which_models_have_a_table(family: str) -> None:
    model = make(family)
    for _ in range(2):  # found, and remembered
        assert has_position_table(model) == (family in WITH_TABLE)
    assert position_limit(model) == LIMIT or family not in WITH_TABLE


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("family", WITH_TABLE)
def test_the_last_position_is_read_and_none_beyond(family: str, side: str) -> None:
    model = make(family)
    run = Run(model, side)
    assert run(LIMIT).isfinite()
    called: list[object] = []
    model.register_forward_pre_hook(lambda *_: called.append(1))
    words = rf"rows of 65 positions \(column '{side}_input_ids'\), but .* has 64\. .*{side}_max_length=64"
    with pytest.raises(InputError, match=words):
        run(LIMIT + 1)
    assert not called, "refused before the model is called: on a GPU it would be lost"


@pytest.mark.parametrize("family", ["Llama", "GPT-NeoX", "Bloom"])
def test_models_without_a_table_read_on(family: str) -> None:
    assert Run(make(family), "student")(LIMIT + 8).isfinite()


def test_what_fails_without_a_table_is_explained_as_well() -> None:
    """MPT's slopes are made for as many positions as it has, and fail to spread over more."""
    with pytest.raises(InputError, match=r"rows of 72 positions .*MptForCausalLM has 64"):
        Run(make("MPT"), "student")(LIMIT + 8)


def test_failures_for_other_reasons_keep_their_own_words() -> None:
    model = make("GPT-2")
    run = Run(model, "student")

    def fail(*_: object) -> None:
        raise RuntimeError("something else")

    model.transformer.h[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        run(LIMIT)


def test_positions_that_start_anew_do_not_add_up() -> None:
    """Rows that are packed may be longer than the table, as long as no position is."""
    positions = torch.arange(40).repeat(2)[None].expand(2, -1)
    run = Run(make("GPT-2"), "student")
    assert run(80, position_ids=positions).isfinite()
    with pytest.raises(InputError, match="rows of 66 positions"):
        run(20, position_ids=torch.arange(46, 66)[None].expand(2, -1))


def test_padding_counts_where_it_has_positions() -> None:
    mask = torch.ones(2, LIMIT + 8, dtype=torch.int64)
    mask[:, LIMIT:] = 0
    assert Run(make("OPT"), "student")(LIMIT + 8, attention_mask=mask).isfinite()
    with pytest.raises(InputError, match="rows of 72 positions"):
        Run(make("GPT-2"), "student")(LIMIT + 8, attention_mask=mask)
    inputs = {"input_ids": ids_of(5), "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])}
    assert (positions_in(inputs), positions_in(inputs, counts_padding=False)) == (5, 4)


def test_preflight_says_that_texts_are_too_long() -> None:
    student = tiny_model("GPT2", hidden_size=24, vocabulary=280, n_positions=16)
    found = finding(look(student=student), "student positions", "warning")
    assert found.found == "16, but 3 of 3 samples have more tokens, up to 45, so they will be refused"
    assert found.advice == "cut samples: DualTokenizerCollator(student_max_length=16)"
    report = look(student=student, tokens_per_step=32)
    assert report.passed, "its own batch is cut"
    assert report.costs
    rotary = sound_pair()["student"]
    rotary.config.max_position_embeddings = 16
    assert "may predict badly" in finding(look(student=rotary), "student positions", "warning").found


def test_texts_of_the_librarys_own_are_cut_to_what_a_model_reads() -> None:
    student = tiny_model("GPT2", hidden_size=24, vocabulary=280, n_positions=16)
    report = look(student=student, texts=None, tokens_per_step=32)
    assert report.passed, report.to_text()
    assert not [each for each in report.findings if "positions" in each.component]


def test_preflight_refuses_a_batch_that_is_too_long() -> None:
    pair = sound_pair()
    batch = DualTokenizerCollator(pair["student_tokenizer"], pair["teacher_tokenizer"])([{"text": TEXTS[0]}])
    student = tiny_model("GPT2", hidden_size=24, vocabulary=280, n_positions=16)
    assert "student_max_length=16" in finding(look(student=student, batch=batch), "batch", "error").found
