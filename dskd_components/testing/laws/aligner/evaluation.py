"""Building an aligner, aligning a batch, and looking at the outcome sample by sample, however the batch is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st

from dskd_components.components.projector import ProjectorHeads
from dskd_components.testing.expectation import expect_close
from dskd_components.testing.laws.component import trained
from dskd_components.testing.strategies.batches import Batch, batches, make_batch, with_example_columns
from dskd_components.testing.strategies.logits import SEEDS, normal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.components.aligner import Aligner, AlignerModule
    from dskd_components.components.alignment import Alignment
    from dskd_components.components.terms import TokenTerm
    from dskd_components.testing.law import Cases


def batch_cases(*, min_samples: int = 1, at_least: int = 0, **others: st.SearchStrategy[Any]) -> Cases:
    """Cases of a ``batch`` that the aligner can be given, a ``seed`` for its parameters, and further arguments.

    Args:
        min_samples: as in `batches`.
        at_least: as in `batches`.
        **others: strategies of the further arguments.
    """
    return lambda aligner: st.fixed_dictionaries(
        {
            "batch": batches(
                same_tokenizer=aligner.same_tokenizer,
                min_samples=min_samples,
                at_least=at_least,
                sizes=aligner.example_sizes,
            ),
            "seed": SEEDS,
            **others,
        }
    )


def seed_cases(_aligner: Aligner) -> st.SearchStrategy[Mapping[str, Any]]:
    """Cases of a ``seed`` alone, for laws that look at several batches."""
    return st.fixed_dictionaries({"seed": SEEDS})


def some_batch(aligner: Aligner, seed: int) -> Batch:
    """Return a batch of three samples that the aligner can be given."""
    student_hidden, teacher_hidden = (aligner.example_sizes or ((3, 4),))[0]
    return make_batch(
        seed,
        same_tokenizer=aligner.same_tokenizer,
        student_hidden=student_hidden,
        teacher_hidden=teacher_hidden,
        at_least=3,
    )


def built(aligner: Aligner, batch: Batch, seed: int, *, fresh: bool = False) -> AlignerModule:
    """Return the module for a batch's models, with seeded parameters in the batch's precision.

    Args:
        aligner: what builds it.
        batch: of the models.
        seed: the same seed gives the same module.
        fresh: leave the parameters as they are at first; else they are moved, as if they had been trained.

    Half of the modules are built without heads, where the aligner can do without.
    """
    assert batch.student.embedding is not None
    assert batch.teacher.embedding is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = aligner.build(
            student_embedding_size=batch.student.embedding.shape[1],
            teacher_embedding_size=batch.teacher.embedding.shape[1],
            heads=heads_of(batch, same_tokenizer=aligner.same_tokenizer) if aligner.needs_heads or seed % 2 else None,
        )
    module = module.to(batch.student.hidden_states.dtype)
    if not fresh:
        trained(module, seed)
    return module


def heads_of(batch: Batch, *, same_tokenizer: bool) -> ProjectorHeads:
    """Return what an aligner is built with for a batch's models: both heads, embeddings, and some shared tokens.

    Args:
        batch: of the models.
        same_tokenizer: whether the vocabularies are one.
    """
    student, teacher = batch.student, batch.teacher
    shared = torch.arange(3) if not same_tokenizer else None
    return ProjectorHeads(
        source=teacher.head,
        target=student.head,
        source_ids=None if shared is None else shared + 1,
        target_ids=shared,
        source_embedding=teacher.embedding,
        target_embedding=student.embedding,
    )


def aligned(aligner: Aligner, batch: Batch, seed: int) -> Alignment:
    """Return the alignment of a batch by a freshly built module, told the groups if the aligner wants to be told."""
    return aligned_by(built(aligner, batch, seed), aligner, batch)


def aligned_by(module: AlignerModule, aligner: Aligner, batch: Batch) -> Alignment:
    """Return the alignment of a batch by a module."""
    batch = with_example_columns(batch, [aligner])
    return module(batch.student, batch.teacher, batch.groups if aligner.text_method else None)


def counted(alignment: Alignment) -> dict[str, Tensor]:
    """Return by name what adds up over samples: the sums of the terms, the sums and counts of the metrics."""
    sums = {
        f"the sum of the term {name!r}": term.values[counting(term)].sum() for name, term in alignment.terms.items()
    }
    for name, tally in alignment.metrics.items():
        sums |= {f"the sum of the metric {name!r}": tally.total, f"the count of the metric {name!r}": tally.count}
    return {name: total.double() for name, total in sums.items()}


def counting(term: TokenTerm) -> Tensor:
    """Return ``[N]``, bool: the rows of a term that count."""
    rows = torch.ones_like(term.values, dtype=torch.bool)
    for flags in (term.keep, term.eligible):
        rows = rows if flags is None else rows & flags
    return rows


def is_told(aligner: Aligner) -> bool:
    """Return whether the aligner is told which positions belong together, by groups or by their numbers alone."""
    return aligner.text_method is not None or aligner.same_tokenizer


def weights(alignment: Alignment) -> tuple[Tensor, Tensor]:
    """Return ``[B, Ts, Tt]`` and ``[B, Tt, Ts]``: what weighs how much for each covered position, 0 for others."""
    batch, student_length = alignment.student_covered.shape
    teacher_length = alignment.teacher_covered.shape[1]
    dtype = alignment.student_values.dtype
    forth = alignment.to_student(torch.eye(teacher_length, dtype=dtype).expand(batch, -1, -1))
    back = alignment.to_teacher(torch.eye(student_length, dtype=dtype).expand(batch, -1, -1))
    return (
        forth.masked_fill(~alignment.student_covered[..., None], 0.0),
        back.masked_fill(~alignment.teacher_covered[..., None], 0.0),
    )


@dataclass(frozen=True, eq=False)
class AlignedSample:
    """What an alignment says about the scored positions of one sample, which no layout of the batch can change.

    Args:
        parts: tensors by name, in words.
    """

    parts: dict[str, Tensor]


def by_sample(alignment: Alignment, batch: Batch) -> list[AlignedSample]:
    """Return the outcome for each sample that has a scored position, in the order of the samples.

    Args:
        alignment: the outcome.
        batch: what was aligned.
    """
    student, teacher = batch.student, batch.teacher
    forth, back = weights(alignment)
    index = alignment.teacher_index()
    numbers = torch.cat([student.samples[student.scored], teacher.samples[teacher.scored]]).unique()
    found = []
    for number in numbers.tolist():
        ours, theirs = ((side.samples == number) & side.scored for side in (student, teacher))
        row = int(torch.cat([ours, theirs], 1).any(1).nonzero()[0])
        i, j = ours[row].nonzero()[:, 0], theirs[row].nonzero()[:, 0]
        found.append(
            AlignedSample(
                {
                    "the student's coverage": alignment.student_covered[row, i],
                    "the teacher's coverage": alignment.teacher_covered[row, j],
                    "the weights for the student's positions": forth[row, i][:, j],
                    "the weights for the teacher's positions": back[row, j][:, i],
                    "the student's values": alignment.student_values[row, i],
                    "the teacher's values": alignment.teacher_values[row, j],
                    "the teacher index": _ranks(index[row, i], j),
                }
            )
        )
    return found


def expect_same_samples(found: list[AlignedSample], expected: list[AlignedSample], where: str) -> None:
    """Raise AssertionError unless two outcomes say the same about every sample.

    Args:
        found: one outcome.
        expected: the other.
        where: how the batch of ``found`` was laid out, in words.
    """
    __tracebackhide__ = True
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for name, tensor in theirs.parts.items():
            expect_close(ours.parts[name], tensor, f"{name} in sample {number}, {where}")


def brought_over(alignment: Alignment, batch: Batch, seed: int) -> Tensor:
    """Return a number that depends on everything an alignment does: what it brings over, its values, its terms."""
    total = torch.zeros((), dtype=torch.float64)
    for side, bring, covered in (
        (batch.teacher, alignment.to_student, alignment.student_covered),
        (batch.student, alignment.to_teacher, alignment.teacher_covered),
    ):
        values = normal(seed, *side.targets.shape, 3).masked_fill(~side.scored[..., None], 0.0)
        total = total + bring(values)[covered].square().sum()
    total = total + alignment.student_values[alignment.student_covered].square().sum()
    total = total + alignment.teacher_values[alignment.teacher_covered].square().sum()
    return total + sum(term.values.sum() for term in alignment.terms.values())


def _ranks(index: Tensor, positions: Tensor) -> Tensor:
    """Return which of the scored positions each entry points at, -1 for none, -2 for a position that is not scored."""
    hits = index[:, None] == positions
    ranks = hits.int().argmax(1) if len(positions) else torch.zeros_like(index)
    return torch.where(index < 0, -1, torch.where(hits.any(1), ranks, -2))
