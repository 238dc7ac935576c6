"""What spaces and distances build is a part of the loss: saved, moved, at a rate of its own, told what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from dskd_components import CheckpointError, ConfigurationError, Distance, DSKDLoss, DSKDSpec, ProjectorHeads
from tests.helpers.correct_components import LearnedScale, LearnedWeights, SpaceWithModule, SpanLikelihood
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer, tiny_model
from tests.helpers.registered import build
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from pathlib import Path

    from dskd_components.components import ComparedTokens


def test_it_is_saved_and_restored(tmp_path: Path) -> None:
    batch = make_batch(0, same_tokenizer=True)
    spec = DSKDSpec(distance=LearnedWeights())
    first, second = build(spec, batch), build(spec, batch)
    with torch.no_grad():
        for tensor in (*first.spaces.parameters(), *first.spaces.buffers()):
            tensor.add_(torch.rand(tensor.shape))
    expected = batch.loss(first).loss
    first.save(tmp_path)
    assert not torch.equal(batch.loss(second).loss, expected)
    second.restore(tmp_path)
    assert torch.equal(batch.loss(second).loss, expected)
    with pytest.raises(CheckpointError):
        build(DSKDSpec(), batch).restore(tmp_path)


def test_it_has_a_learning_rate_of_its_own() -> None:
    class Slow(LearnedScale):
        name: Literal["slow"] = "slow"  # type: ignore[assignment]
        learning_rate_factor: ClassVar[float] = 0.25

    batch = make_batch(0, same_tokenizer=True)
    loss_fn = build(DSKDSpec(distance=Slow()), batch)
    common, slow = loss_fn.param_groups(lr=4.0)
    assert (common["lr"], slow["lr"]) == (4.0, 1.0)
    assert {id(parameter) for parameter in slow["params"]} == {id(leaf) for leaf in loss_fn.spaces.parameters()}


class Told(Distance):
    """Notes what it was told."""

    name: Literal["told"] = "told"

    def build(self, *, tokens: ComparedTokens | None, heads: ProjectorHeads | None) -> nn.Module:
        return Note(self.required(tokens), self.required(heads))


class Note(nn.Module):
    def __init__(self, tokens: ComparedTokens, heads: ProjectorHeads) -> None:
        super().__init__()
        self.tokens, self.heads = tokens, heads

    def forward(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        assert student_log_probs.shape[1] == len(self.tokens)
        return (student_log_probs.exp() - teacher_log_probs.exp()).square().sum(-1)


def notes(loss_fn: DSKDLoss) -> dict[str, Any]:
    return {name: module.distances["told"] for name, module in loss_fn.spaces.items()}  # type: ignore[union-attr, operator]


def test_models_tell_what_tokens_stand_for() -> None:
    ours, theirs = byte_level_tokenizer(), metaspace_tokenizer()
    student, teacher = (
        tiny_model(family, vocabulary=len(tokenizer.get_vocab()))
        for family, tokenizer in (("GPT2", ours), ("Llama", theirs))
    )

    class TellingSpace(SpaceWithModule):
        inner: ClassVar[Distance] = Told()

    spaces = ["student", "teacher", TellingSpace()]
    loss_fn = DSKDLoss.from_models(
        DSKDSpec(distance=Told(), aligner="span", spaces=spaces), student, teacher, ours, theirs
    )
    found = notes(loss_fn)
    heads = found["student"].heads
    assert (heads.vocabulary("student").tokenizer, heads.vocabulary("teacher").tokenizer) == (ours, theirs)
    assert found["student"].tokens.side == "student"
    assert found["teacher"].tokens.side == "teacher"
    shared = found["space_with_module"].tokens
    assert 0 < len(shared) < len(found["student"].tokens)
    pieces = {side: heads.vocabulary(side).token_bytes for side in ("student", "teacher")}
    ids = {side: heads.shared_ids(side).tolist() for side in ("student", "teacher")}
    assert [pieces["student"][number] for number in ids["student"]] == [
        pieces["teacher"][number] for number in ids["teacher"]
    ]
    assert set(shared.token_bytes) == {pieces["student"][number] for number in ids["student"]}


def test_without_heads_what_needs_them_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="The distance 'told' is made from the models' heads: build it with"):
        DSKDLoss(DSKDSpec(distance=Told()), student_hidden_size=3, teacher_hidden_size=4)
    loss_fn = DSKDLoss(DSKDSpec(distance=LearnedScale()), student_hidden_size=3, teacher_hidden_size=4)
    assert len(list(loss_fn.spaces.parameters())) == 4


def test_what_is_built_must_be_a_module_that_can_be_called() -> None:
    class Wrong(LearnedScale):
        name: Literal["wrong"] = "wrong"  # type: ignore[assignment]

        def build(self, *, tokens: Any, heads: Any) -> nn.Module:
            return torch.ones(1)  # type: ignore[return-value]

    class NoCompare(SpaceWithModule):
        name: Literal["no_compare"] = "no_compare"  # type: ignore[assignment]

        def build(self, *, heads: Any) -> nn.Module:
            return nn.Linear(1, 1)

    class NoCombine(SpanLikelihood):
        name: Literal["no_combine"] = "no_combine"  # type: ignore[assignment]

        def build(self, *, heads: Any) -> nn.Module:
            return nn.Linear(1, 1)

    sizes = {"student_hidden_size": 3, "teacher_hidden_size": 4}
    with pytest.raises(
        ConfigurationError, match=r"'wrong': expected build.* to return an nn.Module or None, got Tensor"
    ):
        DSKDLoss(DSKDSpec(distance=Wrong()), **sizes)  # type: ignore[arg-type]
    for space, method in ((NoCompare(), "compare"), (NoCombine(), "combine")):
        batch = make_batch(0, same_tokenizer=False)
        with pytest.raises(ConfigurationError, match=rf"needs a method {method}\(...\); Linear has none"):
            build(DSKDSpec(spaces=[space], aligner="span"), batch)


def test_a_specs_distances_go_through_json_and_its_spaces_have_their_own() -> None:
    """Equal distances in two spaces are two modules, whether the spec holds one object or two."""
    batch = make_batch(0, same_tokenizer=True)
    one = LearnedScale()
    spec = DSKDSpec(spaces=[{"name": "student", "distance": one}, {"name": "teacher", "distance": one}])
    loss_fn = build(spec, batch)
    assert len(list(loss_fn.spaces.parameters())) == 4
    assert len({id(leaf) for leaf in loss_fn.spaces.parameters()}) == 4


def test_it_moves_with_the_loss() -> None:
    loss_fn = build(DSKDSpec(distance=LearnedWeights()), make_batch(0, same_tokenizer=True)).to("meta")
    assert {leaf.device.type for leaf in (*loss_fn.spaces.parameters(), *loss_fn.spaces.buffers())} == {"meta"}
