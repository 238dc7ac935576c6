"""One tokenizer, but each model with added tokens of its own: shared ids are distilled, the rest is left out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from dskd_components import (
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    DualTokenizerCollator,
    MultiTeacherLoss,
    MultiTeacherSpec,
    scored_tokens,
)
from dskd_components.tokenization.shared_ids import shared_ids
from tests.helpers.models import TEXTS, byte_level_tokenizer, metaspace_tokenizer, tiny_model
from tests.helpers.pairs import finding, look, tokenizer

BASE = 280
ROWS = 296
"""Of both heads: more than any tokenizer has, as in padded checkpoints, so that a lacking id is no error by itself."""

# What student and teacher have added to the same tokenizer.
ADDED: dict[str, tuple[list[str], list[str]]] = {
    "the student one": (["<new>"], []),
    "the teacher one": ([], ["<new>"]),
    "each its own under one id": (["<new>"], ["<other>"]),
    "the student more": (["<same>", "<new>", "<newer>"], ["<same>"]),
    "the teacher more": (["<same>"], ["<same>", "<other>", "<another>"]),
    "one token under two ids": (["<new>", "<same>"], ["<same>"]),
}
STUDENT_HAS_OTHERS = [name for name in ADDED if not name.startswith("the teacher")]
PRESETS = ["vanilla-kd", "dskd", "dskd-v2", "recommended-one-vocabulary"]
SIDES: Any = ("student", "teacher")


def with_added(tokens: list[str], **roles: str) -> Any:
    made = tokenizer(BASE)
    made.add_special_tokens({"additional_special_tokens": tokens})
    for role, token in roles.items():
        setattr(made, role, token)
    return made


class Pair:
    """Models and tokenizers with added tokens, and the loss of them."""

    def __init__(self, added: str, spec: DSKDSpec) -> None:
        ours, theirs = ADDED[added]
        self.tokenizers = (with_added(ours), with_added(theirs))
        self.student = tiny_model("Llama", hidden_size=24, vocabulary=ROWS)
        self.teacher = tiny_model("Llama", hidden_size=32, vocabulary=ROWS).requires_grad_(False)
        torch.manual_seed(0)
        self.loss_fn = DSKDLoss.from_models(spec, self.student, self.teacher, *self.tokenizers)
        vocabularies = [each.get_vocab() for each in self.tokenizers]
        self.shared = {number for token, number in vocabularies[0].items() if vocabularies[1].get(token) == number}

    def batch(self, *, lacking: bool) -> dict[str, torch.Tensor]:
        """Tokens of the student's that serve both; with `lacking`, some that the teacher does not have."""
        ids = torch.tensor(self.tokenizers[0](list(TEXTS), padding=True)["input_ids"])
        if lacking:
            unshared = [number for number in range(len(self.tokenizers[0])) if number not in self.shared]
            ids[0, 5], ids[1, 3], ids[1, 4] = unshared[0], unshared[-1], unshared[0]
        return {"input_ids": ids, "labels": ids.clone()}

    def run(self, batch: dict[str, torch.Tensor]) -> Any:
        return self.loss_fn.run(self.student, self.teacher, batch)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("added", ADDED)
def test_presets_of_one_tokenizer_take_both_and_engines_agree(added: str, preset: str) -> None:
    found = []
    for engine in ("eager", "tiled"):
        pair = Pair(added, DSKDSpec.preset(preset, engine=engine))
        out = pair.run(pair.batch(lacking=added in STUDENT_HAS_OTHERS))
        parameters = [*pair.student.parameters(), *pair.loss_fn.parameters()]
        found.append((out.loss, dict(out.terms), torch.autograd.grad(out.loss, parameters, allow_unused=True)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["eager", "tiled"])
@pytest.mark.parametrize("added", ADDED)
def test_distributions_are_compared_over_shared_ids(added: str, engine: str) -> None:
    """The oracle: log-probabilities over the logits of the shared ids alone, renormalised."""
    pair = Pair(added, DSKDSpec.preset("vanilla-kd", engine=engine, temperature=2.0))
    batch = pair.batch(lacking=False)
    out = pair.run(batch)
    kept = torch.tensor(sorted(pair.shared))
    assert len(kept) < max(map(len, pair.tokenizers))
    logits = [model(batch["input_ids"]).logits[:, :-1, kept] for model in (pair.student, pair.teacher)]
    ours, theirs = (each.div(2.0).log_softmax(-1).flatten(0, 1) for each in logits)
    expected = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    torch.testing.assert_close(out.terms["kd"], expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("added", STUDENT_HAS_OTHERS)
def test_positions_that_read_or_predict_a_lacking_token_are_left_out(added: str, preset: str) -> None:
    pair = Pair(added, DSKDSpec.preset(preset))
    whole, batch = pair.batch(lacking=False), pair.batch(lacking=True)
    assert not torch.equal(whole["input_ids"], batch["input_ids"])
    before = {name: column.clone() for name, column in batch.items()}
    out = pair.run(batch)
    assert all(torch.equal(batch[name], before[name]) for name in batch), "the caller's columns stay as they are"
    assert int(out.counts["ce"]) == int(scored_tokens(batch)), "the student learns its own tokens all the same"
    aligned = pair.loss_fn.align(*(pair.loss_fn.states(getattr(pair, side), batch, side) for side in SIDES))
    left_out = (~aligned.student_covered[:, :-1]).nonzero().tolist()
    assert left_out == [[0, 4], [0, 5], [1, 2], [1, 3], [1, 4]]
    # Nothing of the teacher's rows for ids that are not its own comes through.
    with torch.no_grad():
        for number in set(range(ROWS)) - pair.shared:
            pair.teacher.get_input_embeddings().weight[number] = 100.0
    assert torch.equal(pair.run(batch).loss, out.loss)


@pytest.mark.parametrize("added", ADDED)
def test_a_batch_that_has_only_shared_ids_loses_nothing(added: str) -> None:
    pair = Pair(added, DSKDSpec.preset("dskd"))
    batch = pair.batch(lacking=False)
    out = pair.run(batch)
    scored = int(scored_tokens(batch))
    assert [int(count) for count in out.counts.values()] == [scored] * len(out.counts)


def test_each_sides_own_end_of_text_is_left_out() -> None:
    """Each side reads its own columns; where they end by tokens of their own, there is nothing to compare."""
    pair = Pair("the student one", DSKDSpec.preset("dskd"))
    ours, theirs = with_added(["<new>"], eos_token="<new>"), with_added([])
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd"), pair.student, pair.teacher, ours, theirs)
    batch = DualTokenizerCollator(ours, theirs, aligner="identity")([{"text": text} for text in TEXTS])
    out = loss_fn.run(pair.student, pair.teacher, batch)
    assert int(out.counts["ce"]) - int(out.counts["s2t_kd"]) == len(TEXTS)


def test_padding_by_an_added_token_is_read_by_nobody() -> None:
    """Fine-tuned models often have a padding token of their own, which the teacher has no row for."""
    pair = Pair("the student one", DSKDSpec.preset("dskd"))
    teacher = tiny_model("Llama", hidden_size=32, vocabulary=BASE).requires_grad_(False)
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd"), pair.student, teacher, *pair.tokenizers)
    student_tokenizer = with_added(["<new>"], pad_token="<new>")
    encoded = student_tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    assert int(encoded["input_ids"].max()) == BASE
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    out = loss_fn.run(pair.student, teacher, {**encoded, "labels": labels})
    assert int(out.counts["s2t_kd"]) == int(scored_tokens({"labels": labels}))


def test_several_teachers_may_have_tokens_of_their_own() -> None:
    spec = MultiTeacherSpec(teachers={"plain": {"weight": 1.0}, "other": {"weight": 1.0}})
    pair = Pair("each its own under one id", DSKDSpec.preset("dskd"))
    teachers = {"plain": pair.teacher, "other": pair.teacher}
    tokenizers = {"plain": with_added([]), "other": pair.tokenizers[1]}
    loss_fn = MultiTeacherLoss.from_models(spec, pair.student, teachers, pair.tokenizers[0], tokenizers)
    batch = {f"student_{name}": column for name, column in pair.batch(lacking=True).items()}
    out = loss_fn.run(pair.student, teachers, batch)
    scored = int(scored_tokens(batch))
    assert int(out.counts["ce"]) == scored
    assert {int(out.counts[f"{name}/s2t_kd"]) for name in teachers} == {scored - 5}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("other", [byte_level_tokenizer(290), metaspace_tokenizer()], ids=["grown", "another"])
def test_tokenizers_of_another_base_are_two(other: Any, preset: str) -> None:
    student, teacher = (tiny_model("Llama", vocabulary=ROWS) for _ in range(2))
    ours = copy.deepcopy(byte_level_tokenizer(BASE))
    with pytest.raises(
        ConfigurationError, match=r"these are two: \d+ of the .*'s tokens \('.*' among.*recommended-two-vocab"
    ):
        DSKDLoss.from_models(DSKDSpec.preset(preset), student, teacher, ours, other)


@pytest.mark.parametrize("added", ADDED)
def test_what_is_shared_is_told_by_ids_and_tokens(added: str) -> None:
    pair = Pair(added, DSKDSpec.preset("dskd"))
    found = shared_ids(*pair.tokenizers)
    assert found.of_one_base
    assert not found.all_shared
    assert set(found.ids.tolist()) == pair.shared
    assert shared_ids(pair.tokenizers[0], pair.tokenizers[0]).all_shared


def test_preflight_says_so() -> None:
    ours, theirs = ADDED["the student more"]
    options = {"student_tokenizer": with_added(ours), "teacher_tokenizer": with_added(theirs)}
    options |= {"student": tiny_model("Llama", hidden_size=24, vocabulary=ROWS)}
    report = look(**options, tokens_per_step=32)
    assert report.passed, report.to_text()
    found = finding(report, "tokenizers", "ok").found
    assert "the same but for added tokens, 2 of the student's ('<new>', '<newer>'): the 281 ids" in found
    assert "'dskd'" in report.recommendation
    assert report.costs
    same = look(**(options | {"teacher_tokenizer": with_added(ours)}))
    assert "positions belong together" in finding(same, "tokenizers", "ok").found
