"""Columns of a component's own: from the batch to the aligner and the space, in every layout, on every way."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import torch

from dskd_components import (
    ComparedRows,
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    InputError,
    LMStates,
    MultiTeacherLoss,
    MultiTeacherSpec,
    NonFiniteError,
    Space,
    SpaceResult,
    Tally,
    TokenTerm,
)
from dskd_components.testing import laws_of
from dskd_components.testing.strategies.batches import with_example_columns
from tests.helpers import stores
from tests.helpers.column_readers import Nearby, WorthyInTheTeachersSpace, WorthySpans
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer
from tests.helpers.pairs import look
from tests.helpers.registered import build
from tests.helpers.strategies import Batch, make_batch

if TYPE_CHECKING:
    from pathlib import Path

    from dskd_components import DSKDOutput
    from dskd_components.models.states import Side


class Worth(Space):
    """A cross entropy in which each token has a weight of its own, from a column of two numbers."""

    side: ClassVar[Side] = "student"
    terms: ClassVar[tuple[str, ...]] = ("worth",)
    reads_columns: ClassVar[tuple[str, ...]] = ("student_worth",)

    name: Literal["worth"] = "worth"

    def compare(self, rows: ComparedRows) -> SpaceResult:
        worth = rows.columns["worth"].to(rows.student_logits.dtype)
        values = rows.cross_entropy("student", rows.targets) * worth.abs()
        return SpaceResult(
            terms={"worth": TokenTerm(values=values)},
            metrics={"weight": Tally(worth.sum(), worth.new_ones(len(worth)).sum())},
        )


test_the_laws_hold_for_a_space_with_a_column = laws_of(Worth(), max_examples=5)
test_the_laws_hold_for_groups_with_columns = laws_of(WorthySpans(), max_examples=2)

SPECS = {
    f"{kind} {engine['name']}": DSKDSpec(aligner=aligner, spaces=spaces, engine=engine)
    for kind, aligner, spaces in (
        ("aligner", Nearby(), ("student", "teacher")),
        ("space", "identity", ("student", Worth())),
        ("both", Nearby(), (Worth(), "teacher")),
        ("groups", "span", (WorthySpans(), WorthyInTheTeachersSpace())),
    )
    for engine in ({"name": "eager"}, {"name": "tiled", "memory_budget_mib": 1e-3})
}


def outcome(loss_fn: DSKDLoss, batch: Batch, **options: Any) -> tuple[DSKDOutput, torch.Tensor]:
    states = replace(batch.student, hidden_states=batch.student.hidden_states.detach().requires_grad_())
    out = replace(batch, student=states).loss(loss_fn, **options)
    return out, torch.autograd.grad(out.loss, states.hidden_states)[0]


def batch_for(spec: DSKDSpec, seed: int = 0) -> Batch:
    plain = make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer, student_vocabulary=5, teacher_vocabulary=5)
    return with_example_columns(plain, [spec.aligner, *spec.spaces])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_layouts_and_engines_make_no_difference(spec: DSKDSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_for(spec)
    loss_fn = build(spec, batch)
    plain, gradient = outcome(loss_fn, batch)
    expected, expected_gradient = outcome(build(spec.replace(engine="eager"), batch), batch)
    torch.testing.assert_close(plain.loss, expected.loss)
    torch.testing.assert_close(gradient, expected_gradient)
    torch.testing.assert_close(outcome(loss_fn, batch.spoilt())[0].loss, plain.loss)
    padded, padded_gradient = outcome(loss_fn, batch.padded((1, 2), (1, 2), float("nan")))
    torch.testing.assert_close(padded.loss, plain.loss)
    torch.testing.assert_close(padded_gradient[:, 1:-2], gradient)
    count = batch.student.scored.sum()
    parts = [outcome(loss_fn, batch.rows(rows), num_items_in_batch=count) for rows in (slice(1), slice(1, 3))]
    torch.testing.assert_close(torch.stack([part.loss for part, _ in parts]).sum(), plain.loss)
    torch.testing.assert_close(torch.cat([each for _, each in parts]), gradient)
    for worthwhile in (2**20, 0):  # packed rows as they are, and attention sample by sample
        monkeypatch.setattr("dskd_components.aligners.packed_rows.WORTHWHILE", worthwhile)
        torch.testing.assert_close(outcome(loss_fn, batch.packed())[0].loss, plain.loss)
    changed = {
        side: replace(getattr(batch, side), columns={k: v * 3 for k, v in getattr(batch, side).columns.items()})
        for side in ("student", "teacher")
    }
    assert not torch.isclose(outcome(loss_fn, replace(batch, **changed))[0].loss, plain.loss)


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_columns_by_token_are_shifted_as_labels_are(layout: str) -> None:
    batch = make_batch(1, same_tokenizer=True, batch=2, student_length=6).student
    labels = torch.tensor([[1, 2, 3, 4, -100, -100], [-100, 4, 3, 2, 1, 2]])
    extra: dict[str, Any] = {}
    if layout == "packed":
        extra = {"segment_ids": torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 2]])}
    else:
        mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
        extra = {"attention_mask": mask.flip(1) if layout == "left" else mask}
        labels = labels.flip(1) if layout == "left" else labels
    tokens = labels.clamp_min(0)
    columns = {
        "whole": tokens * 10,
        "half": tokens / 2,
        "flag": tokens > 2,
        "pair": torch.stack([tokens, -tokens], -1).float(),
    }
    states = LMStates.from_labels(
        hidden_states=batch.hidden_states, labels=labels, head=batch.head, columns=columns, **extra
    )
    scored, targets = states.scored, states.targets
    assert scored.any()
    assert torch.equal(states.columns["whole"][scored], targets[scored] * 10)
    assert torch.equal(states.columns["half"][scored], targets[scored] / 2)
    assert torch.equal(states.columns["flag"][scored], targets[scored] > 2)
    assert torch.equal(states.columns["pair"][scored], torch.stack([targets, -targets], -1)[scored].float())
    last = states.columns["whole"][:, -1]
    assert (last == -1).all()
    assert not states.columns["flag"][:, -1].any()


def test_a_missing_column_says_who_reads_it_and_how_to_fill_it(tmp_path: Path) -> None:
    loss_fn = stores.loss_of(DSKDSpec(aligner=Nearby()), stores.teacher())
    learner, samples = stores.student(), stores.samples(4)
    batch = stores.collator(aligner=Nearby())(samples)
    with pytest.raises(
        InputError,
        match=r"no column 'student_byte_starts', which the aligner 'cma_nearby' reads\. .*byte_positions=True",
    ):
        loss_fn.run(learner, stores.teacher(), batch)
    own = loss_fn.collator(metaspace_tokenizer(), byte_level_tokenizer())(samples)
    with pytest.raises(InputError, match="'teacher_byte_starts', which"):
        loss_fn.run(learner, stores.teacher(), {name: own[name] for name in own if name != "teacher_byte_starts"})
    preprocessed = DualTokenizerPreprocessor(metaspace_tokenizer(), byte_level_tokenizer(), aligner=Nearby())
    with pytest.raises(InputError, match=r"needs .*'student_byte_starts'.* Preprocess with byte_positions=True"):
        loss_fn.collator(metaspace_tokenizer(), byte_level_tokenizer())([preprocessed(samples[0])])
    raw = make_batch(0, same_tokenizer=True)
    with pytest.raises(
        InputError, match=r"student\.columns has no 'worth', which the space 'worth' reads; it has none"
    ):
        raw.loss(build(DSKDSpec(spaces=(Worth(),)), raw))


def test_what_is_no_column_is_refused() -> None:
    batch = batch_for(SPECS["space eager"])
    for column, found in ((torch.ones(3, 2), r"shape \[3, 2\]"), ([1], "list")):
        with pytest.raises(InputError, match=rf"LMStates\.columns\['worth'\]: expected a tensor \[3, 6\].*{found}"):
            replace(batch.student, columns={"worth": column})
    for bad in (float("nan"), float("inf")):
        column = torch.full((3, 6), bad).where(batch.student.scored, 1.0)
        with pytest.raises(NonFiniteError, match=r"student\.columns\['worth'\]: .* hold NaN or infinity"):
            replace(batch, student=replace(batch.student, columns={"worth": column})).loss(
                build(SPECS["space eager"], batch)
            )
    labels = batch.student.targets
    with pytest.raises(InputError, match=r"The column 'worth': expected a tensor \[3, 6\]"):
        LMStates.from_labels(
            hidden_states=batch.student.hidden_states,
            labels=labels,
            head=batch.student.head,
            columns={"worth": labels[0]},
        )

    for wrong in ("worth", "teacher_worth", "student_"):

        class Misnamed(Worth):
            name: Literal["misnamed"] = "misnamed"  # type: ignore[assignment]
            reads_columns: ClassVar[tuple[str, ...]] = (wrong,)

        with pytest.raises(ConfigurationError, match=rf"'misnamed'.* has '{wrong}'.*'student_worth' for example"):
            build(DSKDSpec(spaces=(Misnamed(),)), batch)

    class Neither(Nearby):
        name: Literal["neither"] = "neither"  # type: ignore[assignment]
        reads_columns: ClassVar[tuple[str, ...]] = ("byte_starts",)

    with pytest.raises(ConfigurationError, match=r"'neither'.*both sides; .*'student_worth' or 'teacher_worth'"):
        build(DSKDSpec(aligner=Neither()), make_batch(0, same_tokenizer=False))


def test_on_every_way_the_columns_come_along(tmp_path: Path) -> None:
    """From the collator, preprocessed, with a store in the teacher's place, with several teachers."""
    spec = DSKDSpec(aligner=Nearby(slope=0.5))
    learner, samples = stores.student(), stores.samples(4)
    loss_fn = stores.loss_of(spec, stores.teacher())
    tokenizers = metaspace_tokenizer(), byte_level_tokenizer()
    collate = loss_fn.collator(*tokenizers)
    batch = collate(samples)
    expected = stores.stepped(loss_fn, learner, stores.teacher(), batch)
    for side, model in (("student", learner), ("teacher", stores.teacher())):
        states = loss_fn.states(model, batch, side)  # type: ignore[arg-type]
        of_next = batch[f"{side}_byte_starts"].roll(-1, 1)
        assert torch.equal(states.columns["byte_starts"][states.scored], of_next[states.scored])
    preprocess = loss_fn.preprocessor(*tokenizers)
    assert all(torch.equal(batch[name], column) for name, column in collate(list(map(preprocess, samples))).items())
    packed = loss_fn.collator(*tokenizers, packing=True)(samples)
    torch.testing.assert_close(loss_fn.run(learner, stores.teacher(), packed).loss.detach(), expected[0])
    store = stores.build(tmp_path, samples, collate=collate)
    found = stores.stepped(stores.loss_of(spec, store), learner, store, batch)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    several = MultiTeacherSpec(teachers={"one": {"aligner": "cma"}, "two": {"aligner": Nearby(slope=0.5)}})
    models = dict.fromkeys(several.teachers, stores.teacher())
    multi = MultiTeacherLoss.from_models(several, learner, models, tokenizers[0], dict.fromkeys(models, tokenizers[1]))
    multi_batch = multi.collator(tokenizers[0], dict.fromkeys(models, tokenizers[1]))(samples)
    assert torch.equal(multi_batch["two_byte_starts"], batch["teacher_byte_starts"])
    assert multi.run(learner, models, multi_batch).loss.isfinite()
    del multi_batch["two_byte_starts"]
    with pytest.raises(InputError, match=r"Teacher 'two': The batch has no column 'teacher_byte_starts'"):
        multi.run(learner, models, multi_batch)


def test_preflight_has_what_a_spec_reads() -> None:
    report = look(spec=DSKDSpec(aligner=Nearby()), tokens_per_step=16)
    assert not [finding for finding in report.findings if finding.severity == "error"], report.to_text()
    assert [start.aligner for start in report.starts if start.of_spec] == ["cma_nearby"]
    unknown = look(spec=DSKDSpec(aligner="cma", spaces=(Worth(),)), tokens_per_step=16)
    assert "no column 'student_worth', which the space 'worth' reads" in unknown.to_text()


TEXT = "In naïve cafés  one 😀 obvious ½ way\n to do it."


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_byte_positions_are_those_of_the_text(side: str) -> None:
    collate = DualTokenizerCollator(
        metaspace_tokenizer(), byte_level_tokenizer(), aligner=None, byte_positions=True, train_on_prompt=True
    )
    prompt, response = TEXT[:13], TEXT[13:]
    whole, parts = collate([{"text": TEXT}]), collate([{"prompt": prompt, "response": response}])
    for batch in (whole, parts):
        starts, ends = (batch[f"{side}_{name}"][0].tolist() for name in ("byte_starts", "byte_ends"))
        inside = [(start, end) for start, end in zip(starts, ends, strict=True) if start >= 0]
        assert inside[0][0] == 0
        assert inside[-1][1] == len(TEXT.encode())
        assert all(before[1] <= after[1] and before[0] <= after[0] for before, after in pairwise(inside))
    own = byte_level_tokenizer() if side == "teacher" else metaspace_tokenizer()
    if side == "teacher":  # which spells each byte
        spelled = own.decode(whole["teacher_input_ids"][0])
        assert spelled == TEXT
        ids = whole["teacher_input_ids"][0].tolist()
        for token, start, end in zip(ids, whole["teacher_byte_starts"][0], whole["teacher_byte_ends"][0], strict=True):
            assert TEXT.encode()[start:end].decode(errors="replace") == own.decode([token])
    assert torch.equal(whole[f"{side}_byte_starts"], parts[f"{side}_byte_starts"])


def test_in_chats_bytes_are_counted_in_what_both_sides_read() -> None:
    from tests.helpers.collating import byte_level, metaspace

    collate = DualTokenizerCollator(metaspace(), byte_level(), aligner="span", byte_positions=True)
    contents = ["  how is it?", "as it should be", "and now", "better"]
    chat = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, contents, strict=True)]
    batch = collate([{"messages": chat}, {"text": "short"}])
    joined = "".join(contents).encode()
    for side, tokenizer in (("student", metaspace()), ("teacher", byte_level())):
        ids, starts, ends = (batch[f"{side}_{name}"][0] for name in ("input_ids", "byte_starts", "byte_ends"))
        known = starts >= 0
        assert known.any()
        assert (~known).any()
        assert torch.equal(known, ends >= 0)
        for token, start, end in zip(ids[known].tolist(), starts[known].tolist(), ends[known].tolist(), strict=True):
            assert joined[start:end].decode().strip() in tokenizer.decode([token])
    # What belongs together ends at one byte, whatever the templates put between.
    for group in range(int(batch["student_groups"][0].max()) + 1):
        reached = {
            int(batch[f"{side}_byte_ends"][0][batch[f"{side}_groups"][0] == group].max())
            for side in ("student", "teacher")
        }
        assert len(reached) == 1, group


def test_samples_in_tokens_are_measured_by_what_their_tokens_spell() -> None:
    tokenizer = byte_level_tokenizer()
    collate = DualTokenizerCollator(tokenizer, tokenizer, aligner=None, byte_positions=True)
    ids = tokenizer("one obvious way")["input_ids"]
    batch = collate([{"input_ids": [1, *ids, 2], "labels": [-100, *ids, 2]}])
    plain = collate([{"text": "one obvious way"}])
    assert batch["student_byte_ends"][0].tolist() == [-1, *plain["student_byte_ends"][0].tolist(), -1]
