"""What a loss is given to be built from: a vocabulary map of one's own, and heads and embeddings for an aligner."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pytest
import torch

import dskd_components
from dskd_components import (
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    Head,
    InputError,
    LMStates,
    MultiTeacherLoss,
    MultiTeacherSpec,
    ProjectorHeads,
    TokenGroups,
    VocabularyMap,
    build_vocabulary_map,
)
from dskd_components.aligners import CrossModelAttention, CrossModelAttentionModule
from dskd_components.models.run_model import groups_of_batch
from dskd_components.testing import check_aligner
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from pathlib import Path

    from dskd_components.components.aligner import AlignerModule


@cache
def pair() -> Pair:
    return tiny_pair()


def models() -> tuple[Any, Any, Any, Any]:
    return pair().student, pair().teacher, pair().student_tokenizer, pair().teacher_tokenizer


@cache
def known_map() -> VocabularyMap:
    return build_vocabulary_map(pair().student_tokenizer, pair().teacher_tokenizer)


SPEC = DSKDSpec(aligner="span", spaces=[{"name": "student", "targets": "teacher_argmax"}, "teacher"])


# ---- a map of one's own


def test_a_known_map_takes_the_place_of_one_that_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = DSKDLoss.from_models(SPEC, *models())
    monkeypatch.setattr("dskd_components.loss.vocabularies.build_vocabulary_map", None)
    given = DSKDLoss.from_models(SPEC, *models(), vocabulary_map=known_map())
    for ours, theirs in zip(given.buffers(), found.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert given.vocabularies.fingerprints == found.vocabularies.fingerprints
    without = DSKDLoss.from_models(SPEC, *models()[:2], vocabulary_map=known_map())
    assert torch.equal(without.teacher_to_student_ids, found.teacher_to_student_ids)  # type: ignore[arg-type]


def test_a_map_that_was_changed_is_what_counts_and_is_saved(tmp_path: Path) -> None:
    ids, same = known_map().teacher_to_student.copy(), known_map().same_bytes.copy()
    dropped = np.flatnonzero(same)[::2]
    ids[dropped], same[dropped] = -1, False
    own = replace(known_map(), teacher_to_student=ids, same_bytes=same, method=None)
    loss_fn = DSKDLoss.from_models(SPEC, *models(), vocabulary_map=own)
    assert torch.equal(loss_fn.teacher_to_student_ids, torch.from_numpy(ids))  # type: ignore[arg-type]
    assert torch.equal(loss_fn.same_token, torch.from_numpy(same))  # type: ignore[arg-type]
    loss_fn.save(tmp_path)
    DSKDLoss.load(tmp_path, *models(), vocabulary_map=own)
    with pytest.raises(dskd_components.CheckpointError, match="vocabulary"):
        DSKDLoss.load(tmp_path, *models())


def test_each_of_several_teachers_may_have_one() -> None:
    spec = MultiTeacherSpec(teachers={"a": {"aligner": "span"}})
    student, teacher, ours, theirs = models()
    loss_fn = MultiTeacherLoss.from_models(
        spec, student, {"a": teacher}, ours, {"a": theirs}, vocabulary_maps={"a": known_map()}
    )
    assert loss_fn.pair("a").teacher_to_student_ids is not None
    with pytest.raises(InputError, match=r"vocabulary_maps: unknown teacher 'b'"):
        MultiTeacherLoss.from_models(spec, student, {"a": teacher}, vocabulary_maps={"b": known_map()})


WRONG: dict[str, tuple[Any, str]] = {
    "ids alone": (
        lambda: known_map().teacher_to_student,
        "expected a VocabularyMap.*ndarray.*teacher_to_student_ids",
    ),
    "of the other student": (
        lambda: replace(known_map(), student_fingerprint=known_map().teacher_fingerprint),
        "another student tokenizer",
    ),
    "of the other teacher": (
        lambda: replace(known_map(), teacher_fingerprint=known_map().student_fingerprint),
        "another teacher tokenizer",
    ),
    "too large an id": (
        lambda: replace(known_map(), teacher_to_student=known_map().teacher_to_student + 9999),
        "student's ids from 0 to",
    ),
    "an id below -1": (
        lambda: replace(known_map(), teacher_to_student=np.minimum(known_map().teacher_to_student, -2)),
        r"or -1, got -2",
    ),
    "of another length": (lambda: replace(known_map(), same_bytes=known_map().same_bytes[:-1]), "same_bytes bool"),
    "of another dtype": (
        lambda: replace(known_map(), teacher_to_student=known_map().teacher_to_student.astype(np.int32)),
        "int64",
    ),
    "too short": (
        lambda: replace(
            known_map(), teacher_to_student=known_map().teacher_to_student[:5], same_bytes=known_map().same_bytes[:5]
        ),
        "an entry for each of the",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_that_does_not_fit_is_refused(wrong: str) -> None:
    make, message = WRONG[wrong]
    with pytest.raises(InputError, match=message):
        DSKDLoss.from_models(SPEC, *models(), vocabulary_map=make())


def test_one_for_models_that_share_a_tokenizer_is_refused() -> None:
    student, _, tokenizer, _ = models()
    with pytest.raises(ConfigurationError, match=r"vocabulary_map: the aligner 'identity' .* share a tokenizer"):
        DSKDLoss.from_models(DSKDSpec(), student, student, tokenizer, tokenizer, vocabulary_map=known_map())


# ---- an aligner that starts from what the models share


class StartedModule(CrossModelAttentionModule):
    """Its query maps the student's embeddings of shared tokens to the teacher's."""

    def __init__(self, student_size: int, teacher_size: int, heads: ProjectorHeads) -> None:
        super().__init__(student_size, teacher_size, "sample")
        embeddings = heads.shared_embeddings()
        assert embeddings is not None
        teacher, student = (side.detach().double() for side in embeddings)
        weight = torch.linalg.lstsq(student, teacher, driver="gelsd").solution.T
        self.query.weight.data = torch.block_diag(weight, weight).to(self.query.weight.dtype)


class Started(CrossModelAttention):
    """Cross-model attention whose query starts from the tokens that both vocabularies have."""

    needs_heads: ClassVar[bool] = True

    name: Literal["started"] = "started"
    std: Literal["sample"] = "sample"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return StartedModule(student_embedding_size, teacher_embedding_size, self.required(heads))


def test_an_aligner_is_built_with_heads_embeddings_and_shared_tokens() -> None:
    spec = DSKDSpec(aligner=Started())
    student, teacher, *tokenizers = models()
    assert spec.needs_vocabulary_map
    loss_fn = DSKDLoss.from_models(spec, student, teacher, *tokenizers)
    shared = torch.from_numpy(known_map().shared)
    ours = student.get_input_embeddings().weight[shared[:, 0]]
    theirs = teacher.get_input_embeddings().weight[shared[:, 1]]
    expected = torch.linalg.lstsq(ours.detach().double(), theirs.detach().double(), driver="gelsd").solution.T
    width = ours.shape[1]
    found = loss_fn.aligner.query.weight[: len(expected), :width].double()  # type: ignore[union-attr,index]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert loss_fn.run(student, teacher, pair().collate(pair().samples[:2])).loss.isfinite()
    assert not [name for name, _ in loss_fn.named_buffers() if "embedding" in name]
    copy.deepcopy(loss_fn)


def test_one_that_needs_heads_is_refused_without() -> None:
    spec = DSKDSpec(aligner=Started(), t2s_projector="linear", s2t_projector="linear")
    sizes = {"student_hidden_size": 4, "teacher_hidden_size": 6}
    with pytest.raises(ConfigurationError, match=r"aligner 'started' is made from the models' heads.*from_models"):
        DSKDLoss(spec, **sizes, teacher_to_student_ids=torch.arange(9))  # type: ignore[arg-type]
    heads = {"student_head": Head(torch.randn(9, 4)), "teacher_head": Head(torch.randn(9, 6))}
    with pytest.raises(ConfigurationError, match=r"the aligner 'started' must know which tokens"):
        DSKDLoss(spec, **sizes, **heads)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"build it with heads="):
        Started().build(student_embedding_size=4, teacher_embedding_size=6)


def test_the_kit_gives_it_what_it_needs() -> None:
    check_aligner(Started(), max_examples=3).raise_if_failed()


def test_without_embeddings_none_are_shared() -> None:
    heads = ProjectorHeads(source=Head(torch.randn(5, 4)), target=Head(torch.randn(7, 3)))
    assert heads.shared_embeddings() is None
    known = replace(heads, source_embedding=torch.randn(6, 4), target_embedding=torch.randn(7, 2))
    found = known.shared_embeddings()
    assert found is not None
    assert [list(side.shape) for side in found] == [[5, 4], [5, 2]]


# ---- what the raw-tensor call needs


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_groups_by_token_become_groups_by_position(padding_side: Any) -> None:
    loss_fn = DSKDLoss.from_models(DSKDSpec(aligner="span"), *models())
    batch = loss_fn.collator(*models()[2:], padding_side=padding_side)(pair().samples[:3])
    masks = {f"{side}_attention_mask": batch[f"{side}_attention_mask"] for side in ("student", "teacher")}
    shifted = TokenGroups(batch["student_groups"], batch["teacher_groups"]).shifted(**masks)
    of_batch = groups_of_batch(batch)
    assert isinstance(of_batch, TokenGroups)
    for side in ("student", "teacher"):
        groups, found = batch[f"{side}_groups"], getattr(shifted, side)
        assert torch.equal(found, getattr(of_batch, side))
        lengths = batch[f"{side}_attention_mask"].sum(1).tolist()
        for row, length in enumerate(lengths):
            own = slice(0, length) if padding_side == "right" else slice(groups.shape[1] - length, None)
            assert found[row, own].tolist() == [*groups[row, own].tolist()[1:], -1]
        assert (found[:, -1] == -1).all()
    states = {
        side: LMStates.from_labels(
            hidden_states=torch.randn(*batch[f"{side}_labels"].shape, size),
            labels=batch[f"{side}_labels"],
            head=Head(torch.randn(rows, size)),
            attention_mask=masks[f"{side}_attention_mask"],
        )
        for side, size, rows in (("student", 32, 400), ("teacher", 64, 320))
    }
    out = loss_fn(states["student"], states["teacher"], alignment=shifted)
    assert out.metrics["student_coverage"] > 0.9


def test_what_is_public_is_exported() -> None:
    for name in ("build_vocabulary_map", "VocabularyMap", "TextAligner", "TokenizedText", "TokenGroups", "align_text"):
        assert name in dskd_components.__all__
        assert getattr(dskd_components, name).__doc__
