"""Every term and metric is in the table of docs/reference/terms-and-metrics.md, and divides as the table says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import DSKDSpec, MultiTeacherLoss, MultiTeacherSpec
from dskd_components.integrations.token_means import TokenMeans
from tests.helpers.registered import build, specs, vocabulary_map
from tests.helpers.strategies import SEEDS, Batch, make_batch

if TYPE_CHECKING:
    from dskd_components import DSKDLoss, DSKDOutput
    from dskd_components.components.alignment import Alignment

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "terms-and-metrics.md"
ALL = specs() | {
    f"eager {name}": spec.replace(engine="eager") for name, spec in specs().items() if name.startswith("preset")
}
INVARIANT = specs(split_invariant=True)


def table(heading: str) -> dict[str, dict[str, str]]:
    """The rows of the first table below a heading, by what is in code in the first cell."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    (names, _, *rows) = [[cell.strip() for cell in line] for line in lines]
    return {row[0].strip("`"): dict(zip(names, row, strict=True)) for row in rows}


TERMS, METRICS = table("Terms"), table("Metrics")


def basis(cell: str, spec: DSKDSpec) -> str:
    """Which tokens a cell names for a spec: the first ones, or those of a condition that holds."""
    first, *others = cell.split("; ")
    for other in others:
        condition, _, tokens = other.partition(": ")
        looks = any(space.needs_teacher_argmax for space in spec.spaces)
        learns = any(getattr(space, "targets", None) == "teacher_argmax" for space in spec.spaces)
        holds = {'`targets="teacher_argmax"`': learns, "`teacher_argmax`": looks}[condition]
        if holds:
            return tokens
    return first


def tokens_of(batch: Batch, loss_fn: DSKDLoss) -> dict[str, int]:
    """How many tokens of each sort a batch has, one by one."""
    alignment: Alignment = loss_fn.align(batch.student, batch.teacher, alignment=batch.groups)
    scored = {side: positions(getattr(batch, side).scored) for side in ("student", "teacher")}
    covered = {
        "student": positions(alignment.student_covered) & scored["student"],
        "teacher": positions(alignment.teacher_covered) & scored["teacher"],
    }
    ids = loss_fn.teacher_to_student_ids
    choices = batch.teacher.head.logits(batch.teacher.hidden_states).argmax(-1)
    partner = alignment.teacher_index()
    with_choice, in_group = 0, 0
    for row, at in covered["student"]:
        choice = int(choices[row, partner[row, at]])
        with_choice += ids is None or int(ids[choice]) >= 0
        in_group += int(batch.groups.student[row, at]) >= 0
    return {
        "scored student tokens": len(scored["student"]),
        "scored teacher tokens": len(scored["teacher"]),
        "covered student tokens": len(covered["student"]),
        "covered teacher tokens": len(covered["teacher"]),
        "student tokens with a choice": with_choice,
        "student tokens in a group": in_group,
        "queries and keys": len(covered["student"]) + len(covered["teacher"]),
    }


def run(loss_fn: DSKDLoss, batch: Batch) -> DSKDOutput:
    """The loss, told of the groups whatever the aligner: attention is measured by them."""
    output: DSKDOutput = loss_fn(batch.student, batch.teacher, alignment=batch.groups)
    return output


def positions(mask: torch.Tensor) -> set[tuple[int, int]]:
    return {(row, at) for row, at in product(*map(range, mask.shape)) if mask[row, at]}


def half_scored(seed: int, spec: DSKDSpec) -> Batch:
    """A batch of which each side scores about half, and the student's half is not the teacher's."""
    batch = make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer, batch=4, student_length=9, teacher_length=11)
    for side in ("student", "teacher"):
        states = getattr(batch, side)
        generator = torch.Generator(torch.get_default_device()).manual_seed(seed + len(side))
        silent = torch.rand(states.targets.shape, generator=generator) < 0.3
        batch = replace(batch, **{side: replace(states, targets=states.targets.masked_fill(silent, -100))})
    return batch


@pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
@settings(max_examples=3)
@given(seed=SEEDS)
def test_each_number_is_in_the_table_and_divides_as_it_says(spec: DSKDSpec, seed: int) -> None:
    batch = half_scored(seed, spec)
    loss_fn, summing = build(spec, batch), build(spec.replace(reduction="sum"), batch)
    tokens = tokens_of(batch, loss_fn)
    out, sums = run(loss_fn, batch), run(summing, batch)
    assert out.terms.keys() <= TERMS.keys()
    assert out.metrics.keys() <= METRICS.keys()
    assert out.counts.keys() == out.terms.keys() | out.metrics.keys()
    for name, value in out.terms.items():
        row, count = TERMS[name], int(out.counts[name])
        over, _, chosen = basis(row["sum over"], spec).partition(", ")
        assert count <= tokens[over] if chosen and _filters(spec) else count == tokens[over]
        denominator = count if _divides_by_kept(spec, name) else tokens[row["mean divides by"]]
        torch.testing.assert_close(value, sums.terms[name] / max(denominator, 1))
    for name, value in out.metrics.items():
        row = METRICS[name]
        count = tokens[basis(row["divides by"], spec)]
        assert out.counts[name] == count, name
        if row["unit"] == "0 to 1":
            hits = float(value) * count
            assert hits == pytest.approx(round(hits), abs=1e-4)
            assert 0 <= value <= 1
        else:
            assert row["unit"] == "nats"
    if "t2s_ce" in out.terms:
        covered = float(out.metrics["t2s_ce_covered"]) * int(out.counts["t2s_ce"])
        assert covered == pytest.approx(float(sums.terms["t2s_ce"]))


def _filters(spec: DSKDSpec) -> bool:
    return any(getattr(space, "filter", "none") != "none" for space in spec.spaces)


def _divides_by_kept(spec: DSKDSpec, term: str) -> bool:
    fields = {"t2s_ce": "ce_denominator", "t2s_kd": "kd_denominator"}
    name = fields.get(term, "denominator")
    return any(term in space.terms and getattr(space, name, "scored") == "kept" for space in spec.spaces)


def test_nothing_is_in_the_table_that_there_is_not() -> None:
    found: Counter[str] = Counter()
    for spec in ALL.values():
        batch = half_scored(1, spec)
        out = run(build(spec, batch), batch)
        found.update([*out.terms, *out.metrics])
    assert found.keys() | {"aux_loss"} == TERMS.keys() | METRICS.keys()


@pytest.mark.parametrize("spec", INVARIANT.values(), ids=INVARIANT.keys())
@settings(max_examples=3)
@given(seed=SEEDS, cut=st.integers(1, 3))
def test_logs_of_micro_batches_are_those_of_the_batch(spec: DSKDSpec, seed: int, cut: int) -> None:
    batch = half_scored(seed, spec)
    loss_fn = build(spec, batch)
    whole = run(loss_fn, batch)
    means = TokenMeans()
    for part in (batch.rows(slice(0, cut)), batch.rows(slice(cut, 4))):
        add(means, part, run(loss_fn, part))
    add(means, batch, whole, repeated=True)
    expected = {"loss": whole.loss.detach(), **whole.terms, **whole.metrics}
    assert means.take() == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5, abs=1e-6)


def add(means: TokenMeans, batch: Batch, out: DSKDOutput, **options: Any) -> None:
    scored = batch.student.scored.sum()
    means.add(out, scored=scored, divided_by=scored, **options)


def test_each_teachers_numbers_are_in_the_table_by_its_name() -> None:
    batch = half_scored(5, DSKDSpec(aligner="cma"))
    fields = {"aligner": "cma", "spaces": [{"name": "student", "filter": "agreement"}, "teacher"]}
    spec = MultiTeacherSpec(teachers={"large": fields, "small": fields})
    mapping = vocabulary_map(batch.student.head, batch.teacher.head)
    pairs = {name: build(spec.pair(name), batch, mapping=mapping) for name in spec.teachers}
    out = MultiTeacherLoss(spec, pairs)(batch.student, dict.fromkeys(pairs, batch.teacher))
    plain = {name.rpartition("/")[2] for name in (*out.terms, *out.metrics)}
    assert plain <= TERMS.keys() | METRICS.keys()
    assert out.counts.keys() == out.terms.keys() | out.metrics.keys()
