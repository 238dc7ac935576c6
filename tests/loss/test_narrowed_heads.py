"""The loss over heads that are cut to some tokens: as if written by hand, in both engines, on every way to the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import (
    CheckpointError,
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    Head,
    InputError,
    MultiTeacherLoss,
    MultiTeacherSpec,
    VocabularySubset,
)
from dskd_components.engines.vocabulary_overlap import KnownOverlap
from tests.helpers import stores
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer, tiny_model
from tests.helpers.registered import vocabulary_map
from tests.helpers.strategies import Batch, make_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from dskd_components import LMStates

ONE: dict[str, DSKDSpec] = {
    "vanilla-kd": DSKDSpec.preset("vanilla-kd", temperature=2.0),
    "dskd": DSKDSpec.preset("dskd"),
    "dskd-v2": DSKDSpec.preset("dskd-v2"),
    "plain": DSKDSpec(distance="js", temperature=1.5),
}
TWO: dict[str, DSKDSpec] = {
    "dskd-cma": DSKDSpec.preset("dskd-cma", distance="skew_kl"),
    "dskd-v2-eta": DSKDSpec.preset("dskd-v2-eta"),
    "shared": DSKDSpec(aligner="span", spaces=("teacher", "uld_hybrid")),
    "mlp": DSKDSpec(aligner="span", t2s_projector="mlp", s2t_projector={"name": "linear"}, spaces=("student", "uld")),
}
SPECS = ONE | TWO
OPTIONS: dict[str, Any] = {"scale": 0.7, "softcap": 4.0}


def options_of(head: Head) -> dict[str, Any]:
    """Biases, a scale and a softcap, so that none of them can hide."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(len(head.weight))
    bias = torch.randn(len(head.weight), generator=generator, dtype=head.weight.dtype)
    return OPTIONS | {"bias": bias.requires_grad_()}


def batch_for(spec: DSKDSpec, seed: int = 0) -> Batch:
    batch = make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer, at_least=3)
    sides = {}
    for side in ("student", "teacher"):
        states: LMStates = getattr(batch, side)
        weight = states.head.weight.detach().requires_grad_(side == "student")
        head = Head(weight, **options_of(states.head))
        hidden_states = states.hidden_states.detach().requires_grad_(side == "student")
        sides[side] = replace(states, head=head, hidden_states=hidden_states)
    return replace(batch, **sides)


def tokens_for(batch: Batch, sides: tuple[str, ...], *, same: bool, all_targets: bool) -> dict[str, list[int]]:
    """Some tokens of each side in an order of their own, those that are targets among them if so asked."""
    found = {}
    targets = {side: getattr(batch, side).targets for side in ("student", "teacher")}
    for side in sides:
        size = getattr(batch, side).head.vocabulary_size
        wanted = torch.cat(list(targets.values())) if same else targets[side]
        used = set(wanted[wanted >= 0].tolist()) if all_targets else set()
        found[side] = sorted(used | set(range(0, size, 3)), key=lambda token: (token * 7) % size)
    return found


def narrowed(batch: Batch, tokens: dict[str, list[int]], others: Any) -> Batch:
    return replace(
        batch,
        **{
            side: replace(getattr(batch, side), head=getattr(batch, side).head.narrowed(ids, others=others))
            for side, ids in tokens.items()
        },
    )


def built(spec: DSKDSpec, batch: Batch, mapping: Tensor | None) -> DSKDLoss:
    torch.manual_seed(0)
    return DSKDLoss(
        spec,
        student_hidden_size=batch.student.head.hidden_size,
        teacher_hidden_size=batch.teacher.head.hidden_size,
        student_head=batch.student.head.detach(),
        teacher_head=batch.teacher.head.detach(),
        teacher_to_student_ids=mapping,
    ).double()


def map_for(spec: DSKDSpec, batch: Batch) -> Tensor | None:
    return None if spec.aligner.same_tokenizer else vocabulary_map(batch.student.head, batch.teacher.head)


def outcome(
    spec: DSKDSpec,
    whole: Batch,
    mapping: Tensor | None,
    narrow: Callable[[Batch], Batch] = lambda batch: batch,
) -> dict[str, Tensor]:
    """Terms, and gradients to the student's states and whole head and to the parameters."""
    batch = narrow(whole)
    loss_fn = built(spec, batch, mapping)
    out = batch.loss(loss_fn)
    leaves = {
        "states": batch.student.hidden_states,
        "weight": whole.student.head.weight,
        "bias": whole.student.head.bias,
        **dict(loss_fn.named_parameters()),
    }
    found = torch.autograd.grad(out.loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"loss": out.loss.detach(), **out.terms, **out.metrics, **dict(zip(leaves, found, strict=True))}


def expect_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, msg=lambda text, name=name: f"{name}: {text}")


SIDES = {"student": ("student",), "teacher": ("teacher",), "both": ("student", "teacher")}


def sides_of(spec: DSKDSpec, which: str) -> tuple[str, ...]:
    return SIDES["both"] if any(space.one_vocabulary for space in spec.spaces) else SIDES[which]


@pytest.mark.parametrize("which", SIDES)
@pytest.mark.parametrize("others", ["one_outcome", "left_out"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_tiles_give_what_all_logits_at_once_give(spec: DSKDSpec, others: Any, which: str) -> None:
    whole = batch_for(spec)
    one = spec.aligner.same_tokenizer
    tokens = tokens_for(whole, sides_of(spec, which), same=one, all_targets=others == "left_out")
    mapping = map_for(spec, whole)

    def narrow(batch: Batch) -> Batch:
        return narrowed(batch, tokens, others)

    expected = outcome(spec.replace(engine="eager"), whole, mapping, narrow)
    assert expected["loss"].isfinite()
    for budget in (1e-3, 384):
        tiled = spec.replace(engine={"name": "tiled", "memory_budget_mib": budget})
        expect_same(outcome(tiled, whole, mapping, narrow), expected)


@pytest.mark.parametrize("others", ["one_outcome", "left_out"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_with_all_tokens_kept_nothing_changes(spec: DSKDSpec, others: Any) -> None:
    whole = batch_for(spec)
    everything = {side: list(range(getattr(whole, side).head.vocabulary_size)) for side in ("student", "teacher")}
    mapping = map_for(spec, whole)
    expected = outcome(spec, whole, mapping)
    expect_same(outcome(spec, whole, mapping, lambda batch: narrowed(batch, everything, others)), expected)


BY_HAND = {
    f"{name} {which}": (spec, which)
    for name, spec in SPECS.items()
    for which in SIDES
    # The identity aligner compares targets, so that by hand both sides have to be numbered anew.
    if not spec.aligner.reads_embeddings and (which == "both" or not spec.aligner.same_tokenizer)
}


@pytest.mark.parametrize(("spec", "which"), BY_HAND.values(), ids=BY_HAND)
def test_without_the_others_it_is_as_heads_of_these_rows_alone(spec: DSKDSpec, which: str) -> None:
    whole = batch_for(spec)
    one = spec.aligner.same_tokenizer
    tokens = tokens_for(whole, sides_of(spec, which), same=one, all_targets=True)
    mapping = map_for(spec, whole)
    expected = outcome(spec, whole, mapping, lambda batch: narrowed(batch, tokens, "left_out"))
    by_hand = {}
    places = {}
    for side in ("student", "teacher"):
        states: LMStates = getattr(whole, side)
        size = states.head.vocabulary_size
        ids = torch.tensor(tokens.get(side, list(range(size))))
        place = torch.full((size,), -1)
        place[ids] = torch.arange(len(ids))
        assert states.head.bias is not None
        head = Head(states.head.weight[ids], bias=states.head.bias[ids], **OPTIONS)
        targets = torch.where(states.scored, place[states.targets.clamp_min(0)], -100)
        by_hand[side], places[side] = replace(states, head=head, targets=targets), (ids, place)
    ids, (_, place) = places["teacher"][0], places["student"]
    full = torch.arange(len(places["teacher"][1])) if mapping is None else mapping
    own = full[ids]
    new_map = torch.where(own >= 0, place[own.clamp_min(0)], -1)
    expect_same(outcome(spec, whole, None if one else new_map, lambda batch: replace(batch, **by_hand)), expected)


def test_a_target_among_the_others_is_their_outcome_or_refused() -> None:
    spec = DSKDSpec(engine="eager")
    batch = batch_for(spec)
    kept = [token for token in range(11) if token != int(batch.student.targets[batch.student.scored][0])]
    row, position = batch.student.scored.nonzero()[0].tolist()
    as_one = narrowed(batch, {"student": kept}, "one_outcome")
    loss_fn = built(spec, as_one, None)
    nats = -batch.student.head.logits(batch.student.hidden_states)[batch.student.scored].log_softmax(-1)
    expected = nats.gather(1, batch.student.targets[batch.student.scored][:, None]).mean()
    torch.testing.assert_close(as_one.loss(loss_fn).terms["ce"], expected.detach())  # the one left out is alone
    out = narrowed(batch, {"student": kept}, "left_out")
    with pytest.raises(
        InputError,
        match=rf"student\.targets: at \[sample {row}, position {position}\] the target is token .* the 10 tokens that",
    ):
        out.loss(built(spec, out, None))
    wrong = replace(out, student=replace(out.student, targets=out.student.targets.where(~out.student.scored, 11)))
    with pytest.raises(InputError, match=r"student\.targets: expected ids from 0 to 10"):
        wrong.loss(built(spec, out, None))


def test_maps_follow() -> None:
    student, teacher = Head(torch.zeros(5, 1)), Head(torch.zeros(6, 1))
    ids = torch.tensor([1, -1, 3, 0, 4, 2])
    expected: dict[Any, tuple[list[int], list[int]]] = {
        ("one_outcome", "one_outcome"): ([1, 0, 2, -1], [0, 1]),
        ("one_outcome", "left_out"): ([1, 0, 2], [0, 1]),
        ("left_out", "one_outcome"): ([1, 0, -1, -1], [0, 1]),
        (None, "left_out"): ([1, 3, 4], [0, 1, 2]),
        ("left_out", None): ([1, -1, 0, -1, -1, -1], [0, 2]),
    }
    for (ours, theirs), (mapped, shared) in expected.items():
        narrow = student if ours is None else student.narrowed([3, 1], others=ours)
        other = teacher if theirs is None else teacher.narrowed([0, 2, 4], others=theirs)
        overlap = KnownOverlap().of(narrow, other, ids, None, same_tokenizer=False)
        assert overlap.teacher_to_student_ids is not None
        assert overlap.teacher_to_student_ids.tolist() == mapped
        assert overlap.pairs is not None
        assert overlap.pairs.teacher_ids.tolist() == shared
        assert overlap.pairs.student_ids.tolist() == [mapped[token] for token in shared]
        unknown = KnownOverlap().of(narrow, other, None, None, same_tokenizer=False)
        assert unknown.pairs is not None
        assert len(unknown.pairs.teacher_ids) == 0
    alike = (head.narrowed([3, 1], others="one_outcome") for head in (student, Head(torch.zeros(5, 2))))
    one = KnownOverlap().of(*alike, None, None, same_tokenizer=True)
    assert one.teacher_to_student_ids is None
    assert one.shared_tokens.student_ids.tolist() == [0, 1]
    same = torch.tensor([False, True, True, True, True, True])
    overlap = KnownOverlap().of(student, teacher.narrowed([0, 2], others="left_out"), ids, same, same_tokenizer=False)
    assert overlap.pairs is not None
    assert overlap.pairs.teacher_ids.tolist() == [1]


def test_one_vocabulary_is_narrowed_alike() -> None:
    spec = DSKDSpec.preset("vanilla-kd")
    batch = batch_for(spec)
    for tokens in ({"student": [0, 1]}, {"student": [0, 1], "teacher": [1, 0]}):
        uneven = narrowed(batch, tokens, "one_outcome")
        with pytest.raises(ConfigurationError, match=r"The space 'shared_vocabulary' .*narrowed to the same tokens"):
            built(spec, uneven, None)


SAMPLES = stores.samples(6)


def used_tokens(batch: Any, side: str) -> list[int]:
    return sorted(set(batch[f"{side}_labels"][batch[f"{side}_labels"] >= 0].tolist()) | {0, 5, 9})


@pytest.mark.parametrize("others", ["one_outcome", "left_out"])
@pytest.mark.parametrize(
    "spec", [DSKDSpec.preset("dskd-cma"), DSKDSpec(aligner="span", spaces=("student", "uld_hybrid"))], ids=str
)
def test_models_stores_and_several_teachers(spec: DSKDSpec, others: Any, tmp_path: Path) -> None:
    learner = tiny_model("Llama", hidden_size=24, vocabulary=64, tie_word_embeddings=True)
    tokenizers = metaspace_tokenizer(), byte_level_tokenizer()
    collate = stores.collator(aligner=spec.aligner)
    batch = collate(SAMPLES)
    tokens: dict[str, Any] = {f"{side}_tokens": used_tokens(batch, side) for side in ("student", "teacher")}

    def loss_of(teacher: Any, engine: str = "tiled", **changes: Any) -> DSKDLoss:
        torch.manual_seed(1)
        given = tokens | {"other_tokens": others} | changes
        return DSKDLoss.from_models(spec.replace(engine=engine), learner, teacher, *tokenizers, **given)

    loss_fn = loss_of(stores.teacher())
    expected = stores.stepped(loss_of(stores.teacher(), "eager"), learner, stores.teacher(), batch)
    found = stores.stepped(loss_fn, learner, stores.teacher(), batch)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert learner.lm_head.weight.grad.shape == (64, 24)
    store = stores.build(tmp_path / "store", SAMPLES, collate=collate)
    of_store = stores.stepped(loss_of(store), learner, store, batch)
    for ours, theirs in zip(of_store, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)

    assert "student_kept_mass" not in loss_fn.run(learner, stores.teacher(), batch).metrics
    with torch.no_grad():
        metrics = loss_fn.run(learner, stores.teacher(), batch).metrics
        whole = DSKDLoss.from_models(spec, learner, stores.teacher(), *tokenizers).run(learner, stores.teacher(), batch)
    for side, model in (("student", learner), ("teacher", stores.teacher())):
        states = loss_fn.states(model, batch, side)  # type: ignore[arg-type]
        assert states.head.whole is not None
        probs = states.head.whole.logits(states.hidden_states)[states.scored].softmax(-1)
        torch.testing.assert_close(
            metrics[f"{side}_kept_mass"], probs[:, tokens[f"{side}_tokens"]].sum(-1).mean().detach()
        )
    assert not any("kept_mass" in name for name in whole.metrics)

    loss_fn.save(tmp_path / "saved")
    again = DSKDLoss.load(tmp_path / "saved", learner, stores.teacher(), *tokenizers, **tokens, other_tokens=others)
    torch.testing.assert_close(again.run(learner, stores.teacher(), batch).loss.detach(), found[0])
    with pytest.raises(CheckpointError, match=r"kept_tokens\.student: saved .*, here 'all'(.|\n)*Narrow the heads"):
        DSKDLoss.load(tmp_path / "saved", learner, stores.teacher(), *tokenizers)

    several = MultiTeacherSpec(teachers={"one": {f: getattr(spec, f) for f in ("aligner", "spaces", "distance")}})
    torch.manual_seed(1)
    multi = MultiTeacherLoss.from_models(
        several.replace(
            teachers={
                name: pair.replace(
                    **{
                        f: getattr(spec, f)
                        for f in ("t2s_projector", "s2t_projector", "temperature", "teacher_temperature")
                    }
                )
                for name, pair in several.teachers.items()
            }
        ),
        learner,
        {"one": stores.teacher()},
        tokenizers[0],
        {"one": tokenizers[1]},
        student_tokens=tokens["student_tokens"],
        teacher_tokens={"one": tokens["teacher_tokens"]},
        other_tokens=others,
    )
    multi_batch = multi.collator(tokenizers[0], {"one": tokenizers[1]})(SAMPLES)
    torch.testing.assert_close(multi.run(learner, {"one": stores.teacher()}, multi_batch).loss.detach(), found[0])


def test_what_becomes_of_the_others_is_to_be_said() -> None:
    learner, teacher = stores.student(), stores.teacher()
    tokenizers = metaspace_tokenizer(), byte_level_tokenizer()
    with pytest.raises(
        ConfigurationError, match=r"student_tokens: say what becomes of all other tokens.*'one_outcome'"
    ):
        DSKDLoss.from_models(DSKDSpec(aligner="span"), learner, teacher, *tokenizers, student_tokens=[1])
    with pytest.raises(
        InputError, match=r"teacher_tokens: expected ids from 0 to 2\d\d, the head's real tokens, got 319"
    ):
        DSKDLoss.from_models(
            DSKDSpec(aligner="span"), learner, teacher, *tokenizers, teacher_tokens=[319], other_tokens="left_out"
        )


def test_a_subset_made_once_serves_every_step() -> None:
    spec = DSKDSpec(aligner="span")
    batch = batch_for(spec)
    subset = VocabularySubset(range(11), 11, others="left_out")
    loss_fn = built(spec, batch, map_for(spec, batch))
    once = replace(batch, student=replace(batch.student, head=batch.student.head.narrowed_to(subset)))
    first = loss_fn._overlap_of(once.student.head, once.teacher.head)
    assert loss_fn._overlap_of(once.student.head, once.teacher.head) is first
    again = replace(batch.student.head, weight=batch.student.head.weight + 1).narrowed_to(subset)
    assert loss_fn._overlap_of(again, once.teacher.head) is first
    assert loss_fn._overlap_of(batch.student.head, batch.teacher.head) is not first
