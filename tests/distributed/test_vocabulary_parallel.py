"""A head that is cut over ranks gives the loss and gradients of a whole one, and is not gathered for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import DSKDSpec
from tests.helpers.correct_components import LearnedScale, LearnedSpans, SpanLikelihood
from tests.helpers.cut_heads import (
    CutHeads,
    error_of_a_damaged_part,
    error_of_ranks_with_other_batches,
    heads_around_which_fsdp_shards,
    of_several_teachers,
    outcome,
)
from tests.helpers.process_groups import run_on_ranks
from tests.helpers.registered import specs
from tests.helpers.whole_heads import errors_of_whole_heads, found_by_placements

if TYPE_CHECKING:
    from pathlib import Path

RANKS = 2
KINDS = [
    CutHeads(same_rows=True),
    CutHeads(same_rows=True, bias=True, softcap=3.0, padding=3, budget=1e-3),
    CutHeads(same_rows=True, tied=True, padding=2, budget=1e-6),
    CutHeads(same_rows=True, teacher_is_whole=True, bias=True),
]
APART = [
    CutHeads(same_rows=False, padding=3, budget=1e-3),
    CutHeads(same_rows=False, bias=True, softcap=3.0, silent=True),
    CutHeads(same_rows=False, tied=True, budget=1e-6),
    CutHeads(same_rows=False, teacher_is_whole=True),
]
SEVERAL = [CutHeads(same_rows=True), CutHeads(same_rows=False)]
KD = DSKDSpec(spaces=("shared_vocabulary",), temperature=2.0)
SEE_ALL = {
    "spans": DSKDSpec(spaces=(SpanLikelihood(denominator="scored"), "student"), aligner="span"),
    "learned spans": DSKDSpec(spaces=("teacher", LearnedSpans()), aligner="span"),
    "learned distance": DSKDSpec(distance=LearnedScale()),
}
"""What has parameters, or looks at logits itself."""


def cases() -> dict[str, tuple[DSKDSpec, CutHeads]]:
    """Everything that is registered, with heads of one kind after the other; what is delicate with all."""
    found: dict[str, tuple[DSKDSpec, CutHeads]] = {}
    for kinds, all_specs in ((KINDS, specs()), (APART, specs(split_invariant=True))):
        way = "same rows" if kinds is KINDS else "rows apart"
        for number, (name, spec) in enumerate(all_specs.items()):
            kind = number % len(kinds)
            found[f"{way}, {name}, heads {kind}"] = spec, kinds[kind]
        for kind, cut in enumerate(kinds):
            found[f"{way}, shared vocabulary, heads {kind}"] = KD, cut
            found[f"{way}, both temperatures, heads {kind}"] = DSKDSpec(temperature=2.0, teacher_temperature=0.5), cut
    for same_rows in (True, False):
        for name, spec in SEE_ALL.items():
            found[f"{name}, same rows {same_rows}"] = spec, CutHeads(same_rows=same_rows, bias=True, softcap=3.0)
        found[f"narrowed, same rows {same_rows}"] = DSKDSpec(), CutHeads(same_rows=same_rows, padding=2, narrowed=True)
        found[f"common tokens, same rows {same_rows}"] = KD, CutHeads(same_rows=same_rows, common=True)
    return found


CASES = cases()


def run_rank(rank: int, folder: str) -> None:
    found: dict[str, Any] = {name: outcome(*case, parallel=True) for name, case in CASES.items()}
    found |= {f"several {cut.same_rows}": of_several_teachers(cut, parallel=True) for cut in SEVERAL}
    found["other batches"] = error_of_ranks_with_other_batches()
    found["damaged"] = error_of_a_damaged_part()
    found["sharded around"] = heads_around_which_fsdp_shards()
    found["placements"], found["whole heads"] = found_by_placements(), errors_of_whole_heads()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    folder: Path = tmp_path_factory.mktemp("vocabulary_parallel")
    run_on_ranks(run_rank, RANKS, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_a_whole_head(found: list[dict[str, dict[str, Any]]], name: str) -> None:
    require_equal([of_rank[name] for of_rank in found], outcome(*CASES[name], parallel=False))


def require_equal(found: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for of_rank in found:
        for what, tensor in expected.items():
            if isinstance(tensor, torch.Tensor):
                torch.testing.assert_close(
                    of_rank[what], tensor, rtol=1e-8, atol=1e-9, msg=lambda text, what=what: f"{what}: {text}"
                )


def cannot_be_cut(spec: DSKDSpec) -> bool:
    """Whether a space or a distance of the spec must see all logits of a row."""
    return spec in SEE_ALL.values() or any(
        space.reads_logits or not all(distance.sums_over_vocabulary for distance in space.distances(spec.distance))
        for space in spec.spaces
    )


@pytest.mark.parametrize("name", CASES)
def test_a_head_is_gathered_for_who_must_see_all_of_it_and_a_warning_says_so(
    found: list[dict[str, dict[str, Any]]], name: str
) -> None:
    spec, cut = CASES[name]
    for rank in range(RANKS):
        results = found[rank][name]
        if cut.narrowed:
            assert results["gathered"], "what is narrowed has rows of all ranks"
            assert not results["warnings"]
        elif cannot_be_cut(spec):
            assert results["gathered"]
            assert all("is gathered in each step, since the " in warning for warning in results["warnings"])
            assert len(results["warnings"]) == len(results["gathered"])
        else:
            assert not results["warnings"]
            assert not results["gathered"]


@pytest.mark.parametrize("cut", SEVERAL, ids=str)
def test_several_teachers_have_one_student(found: list[dict[str, dict[str, Any]]], cut: CutHeads) -> None:
    results = [of_rank[f"several {cut.same_rows}"] for of_rank in found]
    require_equal(results, of_several_teachers(cut, parallel=False))
    for of_rank in results:
        assert len(of_rank["warnings"]) == (0 if cut.same_rows else 1), "ranks with batches of their own gather it"


def test_ranks_of_tensor_parallelism_must_have_one_batch(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        for part in ("2 ranks", "the same batch", "sampler", "fully_shard", '"vocabulary_parallel": "never"'):
            assert part in of_rank["other batches"]


def test_a_damaged_part_is_named_where_it_is_and_known_everywhere(found: list[dict[str, Any]]) -> None:
    assert "head is damaged on another rank" in found[0]["damaged"]
    assert "student.head.weight holds NaN" in found[1]["damaged"]


def test_ranks_of_fsdp_are_known_by_what_it_shards(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        assert of_rank["sharded around"] == {"model": True, "held": False}, "gathered where it is not known"


def test_heads_that_tensor_parallelism_has_left_whole_are_known_by_placements(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        assert {name: refused for name, (_, refused) in of_rank["placements"].items()} == {
            name: mistaken for name, (mistaken, _) in of_rank["placements"].items()
        }


def test_a_loop_is_told_of_a_whole_head_in_its_first_step(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        errors = of_rank["whole heads"]
        for side in ("student", "teacher"):
            told = errors[f"{side}, auto"]
            assert told.startswith(
                f"The {side}'s layers are cut over 2 ranks by tensor parallelism (model.layers.0.mlp."
            )
            for part in (
                "its head, 40 x 32, is whole",
                '"lm_head": ColwiseParallel(',
                '"vocabulary_parallel": "never"',
            ):
                assert part in told
        for given in ("by hand", "by hand, replicated"):
            assert "the weight, 4 x 2, is whole on each of them" in errors[given]
        assert not any(errors[fine] for fine in ("student, never", "teacher, never", "by hand, rows apart"))
        assert not errors["by hand, columns"]
