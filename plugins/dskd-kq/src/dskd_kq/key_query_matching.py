"""Cross-model attention with key-query matching: an aligner with a term and parameters of its own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dskd_components import (
    Aligner,
    AlignerModule,
    Alignment,
    LMStates,
    ProjectorHeads,
    Tally,
    TokenGroups,
    TokenTerm,
)
from dskd_components.aligners import CrossModelAttentionModule
from dskd_components.aligners.cross_model_attention import Scope, batch_chunks, recomputed
from dskd_components.models.states import small_numbers
from dskd_kq.discriminator import Discriminator
from dskd_kq.gradient_reversal import reversed_gradient


class KeyQueryMatching(Aligner):
    """Cross-model attention whose queries are made to look like keys.

    Queries are a projection of the student's embeddings, keys are the teacher's own embeddings, so the two may lie far
    apart and the attention between them say little. A discriminator learns to tell them apart by the term ``kq``, and
    the query projection, through a reversed gradient, learns to keep it from doing so. At log 4 nats the discriminator
    can do no better than guess.

    The term belongs to the student's positions: each has the discriminator's cross entropy for its query, and the mean
    of that for its sample's keys. So padding, micro-batches and packing change nothing.

    Examples:
        >>> from dskd_components import DSKDSpec
        >>> DSKDSpec.preset("dskd-cma", aligner={"name": "kq", "weight": 0.5}).aligner.weight
        0.5
    """

    source: ClassVar[str] = "Tsiapali et al. 2026 (DSKD-CMA-GA), arXiv 2603.22056"
    terms: ClassVar[tuple[str, ...]] = ("kq",)

    name: Literal["kq"] = "kq"
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of ``kq`` among the terms that the spec's ``kd_rate`` multiplies. The release adds its own at full rate:
    with a ``kd_rate`` of 0.5 that is a weight of 2 here."""
    reversal: Annotated[float, Field(gt=0)] = 1.0
    """What the gradient is multiplied with as it is reversed: how hard the queries are pushed."""
    discriminator_lr: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate of the discriminator, as a multiple of that of all else. One that learns as fast as the queries
    soon tells them from keys, whatever they do."""
    hidden_size: Annotated[int, Field(gt=0)] = 768
    """Of the discriminator."""
    std: Scope = "sample"
    """As in the aligner ``cma``."""

    @property
    def split_invariant(self) -> bool:
        """Whether the standard deviations run over single samples."""
        return self.std == "sample"

    def build(
        self,
        *,
        student_embedding_size: int,
        teacher_embedding_size: int,
        heads: ProjectorHeads | None = None,  # noqa: ARG002
    ) -> AlignerModule:
        """Return the module."""
        return KeyQueryModule(student_embedding_size, teacher_embedding_size, self)


class KeyQueryModule(CrossModelAttentionModule):
    """Cross-model attention and a discriminator. Weights of a trained ``cma`` fit; the discriminator's come on top.

    Args:
        student_embedding_size: width ds of the student's input embedding.
        teacher_embedding_size: width dt of the teacher's.
        options: of the aligner.
    """

    def __init__(self, student_embedding_size: int, teacher_embedding_size: int, options: KeyQueryMatching) -> None:
        super().__init__(student_embedding_size, teacher_embedding_size, options.std)
        self.discriminator = Discriminator(2 * teacher_embedding_size, options.hidden_size)
        self.discriminator_lr = options.discriminator_lr
        self.weight = options.weight
        self.reversal = options.reversal

    def learning_rate_factors(self) -> dict[str, float]:
        """Return that of the discriminator."""
        return {"discriminator": self.discriminator_lr}

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        """Align one batch, with the term ``kq``."""
        found = super().forward(student, teacher, given)
        keys = self.keys(teacher)

        def queries(rows: slice) -> Tensor:
            return reversed_gradient(self.queries(student.rows(rows)), self.reversal)

        asking, answering = found.student_covered.flatten(), found.teacher_covered.flatten()
        of_queries = self._log_odds(queries, found.student_covered)
        of_keys = self._log_odds(lambda rows: keys(rows).to(of_queries.dtype), found.teacher_covered)
        # Cross entropies of the two answers, from log-odds: log(1 + e^x) where "a query" is right.
        values = F.softplus(of_queries) + _mean_of_sample(
            F.softplus(-of_keys), answering, teacher.samples, student.samples
        )
        hits = ((of_queries <= 0) & asking).sum() + ((of_keys > 0) & answering).sum()
        return replace(
            found,
            terms={"kq": TokenTerm(values=values, eligible=asking, weight=self.weight)},
            metrics={**found.metrics, "discriminator_accuracy": Tally(hits, asking.sum() + answering.sum())},
        )

    def _log_odds(self, vectors: Callable[[slice], Tensor], covered: Tensor) -> Tensor:
        """Return ``[B * T]``: the discriminator's answers at the covered positions, 0 elsewhere.

        Queries, keys and what the discriminator makes of them are wide. So they are made for a few samples at a time,
        and once more when their gradient is due.

        Args:
            vectors: gives ``[b, T, 2 dt]`` for some rows of the batch.
            covered: ``[B, T]``, bool.
        """

        def of_some(rows: slice) -> Tensor:
            answers: Tensor = self.discriminator(vectors(rows).flatten(0, 1))
            return answers.where(covered[rows].flatten(), 0.0)

        chunks = batch_chunks(covered.shape[0], covered.shape[1] * self.query.out_features, covered.device)
        return torch.cat([recomputed(of_some, rows) for rows in chunks])


def _mean_of_sample(values: Tensor, counts: Tensor, samples: Tensor, wanted: Tensor) -> Tensor:
    """Return ``[N]``: for each wanted sample the mean of its values, 0 where it has none.

    Args:
        values: ``[M]``.
        counts: ``[M]``, bool: which values count.
        samples: M numbers, int64: the sample of each value.
        wanted: N numbers, int64: samples.
    """
    own, wanted = (numbers.flatten() for numbers in small_numbers(samples, wanted))
    slots = len(own) + len(wanted)
    sums = values.new_zeros(slots).index_add(0, own, values.where(counts, 0.0))
    sizes = own.new_zeros(slots).index_add(0, own, counts.long())
    return (sums / sizes.clamp_min(1))[wanted]
