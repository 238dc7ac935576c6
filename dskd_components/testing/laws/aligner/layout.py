"""Laws about how a batch is laid out: padding, packing, splitting, and what unscored positions hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

from dskd_components.testing.expectation import expect_close
from dskd_components.testing.law import law
from dskd_components.testing.laws.aligner.evaluation import (
    aligned,
    aligned_by,
    batch_cases,
    built,
    by_sample,
    counted,
    counting,
    expect_same_samples,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.components.aligner import Aligner
    from dskd_components.components.alignment import Alignment
    from dskd_components.testing.strategies.batches import Batch


def _is_split_invariant(aligner: Aligner) -> bool:
    return aligner.split_invariant


@law("aligner", cases=batch_cases(left=st.integers(0, 2), right=st.integers(0, 2)))
def padding_changes_nothing(aligner: Aligner, batch: Batch, seed: int, left: int, right: int) -> None:
    """Unscored positions added on either side, with NaN in them, change nothing about the others.

    How long the longest sample of a batch is must not matter to the other samples.
    """
    teacher_sides = (left, right) if aligner.same_tokenizer else (right, left)
    wide = batch.padded((left, right), teacher_sides, float("nan"))
    plain, other = aligned(aligner, batch, seed), aligned(aligner, wide, seed)
    expect_same_samples(by_sample(other, wide), by_sample(plain, batch), "with padding around it")
    _expect_same_numbers(other, plain, "with padding around the samples")


@law("aligner", cases=batch_cases())
def unscored_positions_do_not_matter(aligner: Aligner, batch: Batch, seed: int) -> None:
    """NaN hidden states and impossible token ids at unscored positions change nothing.

    Prompts and padding hold whatever the model made of them.
    """
    spoilt = batch.spoilt()
    plain, other = aligned(aligner, batch, seed), aligned(aligner, spoilt, seed)
    expect_same_samples(by_sample(other, spoilt), by_sample(plain, batch), "with NaN where nothing is scored")
    _expect_same_numbers(other, plain, "with NaN where nothing is scored")


@law("aligner", cases=batch_cases(min_samples=2), claimed_by=_is_split_invariant)
def packed_rows_equal_separate_samples(aligner: Aligner, batch: Batch, seed: int) -> None:
    """Samples packed into one row are aligned as samples of their own are.

    Claimed by ``split_invariant``. Packing is a matter of speed.
    """
    row = batch.packed()
    plain, other = aligned(aligner, batch, seed), aligned(aligner, row, seed)
    expect_same_samples(by_sample(other, row), by_sample(plain, batch), "packed into one row")
    _expect_same_sums(counted(other), counted(plain), "packed into one row")


@law("aligner", cases=batch_cases(min_samples=2), claimed_by=_is_split_invariant)
def samples_know_nothing_of_one_another(aligner: Aligner, batch: Batch, seed: int) -> None:
    """A sample is aligned alike in a batch and alone, and terms and metrics are sums over samples.

    Claimed by ``split_invariant``. So micro-batches add up to the batch, and ranks to the whole. A term that is a mean
    already, or depends on the size of the batch, breaks this.
    """
    module = built(aligner, batch, seed)
    together = by_sample(aligned_by(module, aligner, batch), batch)
    sums: dict[str, Tensor] = {}
    alone = []
    for sample in range(len(batch.student.targets)):
        single = batch.rows(slice(sample, sample + 1))
        found = aligned_by(module, aligner, single)
        alone += by_sample(found, single)
        for name, total in counted(found).items():
            sums[name] = sums.get(name, torch.zeros_like(total)) + total
    expect_same_samples(alone, together, "alone")
    _expect_same_sums(sums, counted(aligned_by(module, aligner, batch)), "added up over samples that are alone")


def _expect_same_sums(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    for name, total in expected.items():
        expect_close(found[name], total, f"{name}, {where}")


def _expect_same_numbers(found: Alignment, expected: Alignment, where: str) -> None:
    """Metrics and terms, as far as they are numbers of the batch."""
    for name, tally in expected.metrics.items():
        expect_close(found.metrics[name].mean(), tally.mean(), f"the metric {name!r} {where}")
    for name, term in expected.terms.items():
        other = found.terms[name]
        expect_close(other.values[counting(other)], term.values[counting(term)], f"the term {name!r} {where}")
