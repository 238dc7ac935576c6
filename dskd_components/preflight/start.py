"""How training would start: what each sensible choice of aligner and projectors reads from projected states."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from dskd_components.collation.encoded import SIDES
from dskd_components.errors import DSKDError
from dskd_components.models.run_model import groups_of_batch
from dskd_components.preflight.report import Finding, Start, recommended_fields, spec_fields
from dskd_components.projectors import Linear
from dskd_components.projectors.pinv import PinvProjection
from dskd_components.spec.dskd_spec import DSKDSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from dskd_components.components.space import Direction
    from dskd_components.models.states import Side
    from dskd_components.preflight.pair import Pair

    Collate = Callable[[DSKDSpec], Mapping[str, Tensor]]

OF_TWO_TOKENIZERS: Final = ("exact_match", "span", "cma")
"""The aligners among which one is recommended. The pairs of ``min_edit`` may be wrong, those of the others are not."""


EVIDENCE: Final = "docs/explanation/evidence.md"
"""The page on what was measured with real models."""


def recommendation(starts: tuple[Start, ...]) -> str:
    """Return a sentence that names the spec to begin with, and how it starts.

    Args:
        starts: what `measure_starts` has found.
    """
    found = next((start for start in starts if start.recommended), None)
    if found is None:
        return "Give both tokenizers for a recommendation."
    tokenizers, published = ("One tokenizer", "dskd") if found.aligner == "identity" else ("Two tokenizers", "dskd-cma")
    chosen, dual = _spec_text(recommended_fields(found)), _spec_text(spec_fields(found))
    of_spaces = "" if chosen == dual else f"with dual spaces, {dual}; "
    text = f"{tokenizers}: {chosen}; {of_spaces}as published, DSKDSpec.preset({published!r}). {_sentence(found)}."
    return f"{text} {_why(found)}"


def _spec_text(fields: Mapping[str, Any]) -> str:
    """Return a spec as Python writes it, defaults left out."""
    return f"DSKDSpec({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


def check_start(starts: tuple[Start, ...]) -> Iterator[Finding]:
    """Say how the spec, and what is recommended, would start.

    Args:
        starts: what `measure_starts` has found.
    """
    best = next((start for start in starts if start.recommended), None)
    for start in starts:
        if not start.of_spec:
            continue
        advice = f"begin with {_spec_text(spec_fields(best))}" if best is not None and best.is_sane else ""
        warned = not start.is_sane
        found = f"{start.aligner} with {_projectors(start)}: {_sentence(start)}"
        yield Finding("warning" if warned else "ok", "start of the spec", found, advice if warned else "")
    if best is not None:
        advice = "see whether both models are trained ones and read the texts that they are made for"
        found = f"{best.aligner} with {_projectors(best)} is the best choice: {_sentence(best)}"
        sane = best.is_sane
        yield Finding("ok" if sane else "warning", "start", found, "" if sane else advice)


@torch.no_grad()
def measure_starts(loss_type: Any, pair: Pair, collate: Collate, specs: Sequence[DSKDSpec] = ()) -> tuple[Start, ...]:
    """Measure the start of every sensible choice, on one batch, without training anything.

    Both models run once, each pair of projectors is built once, and each choice takes what the loss takes without its
    gradients, within its usual memory.

    Args:
        loss_type: `DSKDLoss`.
        pair: the models, with both tokenizers.
        collate: makes the batch for a spec's aligner.
        specs: whose choices are measured besides; one that projects nothing, or cannot be built, is left out.

    Returns:
        The choices of the specs first, then the others; one of these is recommended.

    Raises:
        DSKDError: not one choice can be measured.
    """
    aligners = ("identity",) if pair.one_tokenizer else OF_TWO_TOKENIZERS
    found = _Measured(loss_type, pair, collate, DSKDSpec(aligner=aligners[-1]), specs)
    starts = [start for spec in specs for start in found.of_spec(spec)]
    others = [start for aligner in aligners for start in found.of_aligner(aligner)]
    if not others:
        raise found.refused[-1]
    return (*starts, *_with_recommended(others, found.direct_space))


class _Measured:
    """Both models' states of one batch, and the projectors that are tried on them."""

    def __init__(
        self, loss_type: Any, pair: Pair, collate: Collate, spec: DSKDSpec, others: Sequence[DSKDSpec]
    ) -> None:
        self._loss_type, self._collate = loss_type, collate
        self._from_heads = loss_type.from_models(spec, **pair.loss_arguments)
        # The tokens are the same whatever the aligner; what else some spec reads has to be there.
        batch = collate(next((other for other in others if other.reads_byte_positions), spec))
        wanted: dict[Side, dict[str, str]] = {
            side: {
                name: readers
                for other in others
                for name, readers in other.columns_read(side).items()
                if f"{side}_{name}" in batch
            }
            for side in SIDES
        }
        self._student = self._from_heads.states(pair.student, batch, "student", reads_columns=wanted["student"])
        self._teacher = self._from_heads.states(pair.teacher, batch, "teacher", reads_columns=wanted["teacher"])
        self._random = self._loss(spec.replace(t2s_projector=Linear(), s2t_projector=Linear()))
        self.refused: list[DSKDError] = []

    def of_aligner(self, aligner: str) -> Iterator[Start]:
        """Yield the starts of one aligner with projectors from the heads, if there are any, and with random ones."""
        from_heads = any(isinstance(each, PinvProjection) for each in self._from_heads.projectors.values())
        for loss_fn in (self._from_heads, self._random) if from_heads else (self._random,):
            try:
                yield self._start(loss_fn.spec.replace(aligner=aligner), loss_fn)
            except DSKDError as error:  # an aligner may be of no use for this pair
                self.refused.append(error)

    def direct_space(self, aligner: str) -> str | None:
        """Return the space without a projector that is of use with an aligner, None if there is none.

        An aligner that has its pairs yet to learn has none: before it has, logits of other tokens would be compared.
        """
        name = _direct_space(aligner)
        spec = self._from_heads.spec.replace(aligner=aligner)
        if spec.aligner.text_method is None and not spec.aligner.same_tokenizer:
            return None
        spec = spec.replace(spaces=(name,))
        try:
            loss_fn = self._loss(spec, reads_heads=False)
            loss_fn(self._student, self._teacher, alignment=groups_of_batch(self._collate(spec)))
        except DSKDError as error:  # too few shared tokens, or heads of other sizes
            self.refused.append(error)
            return None
        return name

    def of_spec(self, spec: DSKDSpec) -> list[Start]:
        """Return the start of a spec's own choice; nothing where it projects nothing, or cannot be built."""
        spaces = [{"t2s": "student", "s2t": "teacher"}[direction] for direction in spec.directions]
        if not spaces:
            return []
        projectors = {"t2s_projector": spec.t2s_projector, "s2t_projector": spec.s2t_projector}
        measured = DSKDSpec(aligner=spec.aligner, spaces=spaces, **projectors)
        try:
            return [replace(self._start(measured, self._loss(measured)), of_spec=True)]
        except DSKDError as error:  # found where the loss is built
            self.refused.append(error)
            return []

    def _loss(self, spec: DSKDSpec, *, reads_heads: bool = True) -> Any:
        """Return a loss between the same models, with vocabularies as they are known already."""
        known, student, teacher = self._from_heads, self._student, self._teacher
        return self._loss_type(
            spec,
            student_hidden_size=student.head.hidden_size,
            teacher_hidden_size=teacher.head.hidden_size,
            student_embedding_size=None if student.embedding is None else student.embedding.shape[1],
            teacher_embedding_size=None if teacher.embedding is None else teacher.embedding.shape[1],
            student_head=student.head if reads_heads else None,
            teacher_head=teacher.head if reads_heads else None,
            student_embedding=student.embedding if reads_heads else None,
            teacher_embedding=teacher.embedding if reads_heads else None,
            teacher_to_student_ids=known.teacher_to_student_ids,
            same_token=known.same_token,
        ).to(student.hidden_states.device)

    def _start(self, spec: DSKDSpec, projecting: Any) -> Start:
        """Return what is read with the aligner of a spec and the projections of a loss."""
        # The aligner alone is built anew. Sums are divided by what counts in each.
        new = Linear(init="torch")
        changed = spec.replace(t2s_projector=new, s2t_projector=new, reduction="sum")
        loss_fn = self._loss(changed, reads_heads=False)
        loss_fn.projectors = projecting.projectors
        out = loss_fn(self._student, self._teacher, alignment=groups_of_batch(self._collate(spec)))
        counts = {name: int(count) for name, count in out.counts.items()}
        means = {name: float(term) / counts[name] for name, term in out.terms.items() if counts[name]}
        metrics = {name: float(value) for name, value in out.metrics.items()}
        covered = counts.get("t2s_ce", counts.get("s2t_kd", 0))
        scored = counts["ce"] if "t2s_ce" in counts else int(self._teacher.scored.sum())
        return Start(
            aligner=spec.aligner.name,
            t2s_projector=_built(projecting, "t2s"),
            s2t_projector=_built(projecting, "s2t"),
            t2s_ce_covered=means.get("t2s_ce"),
            t2s_uniform=math.log(self._student.head.vocabulary_size),
            kept=metrics["t2s_accuracy"] if "t2s_ce" in means else None,
            covered=covered / max(scored, 1),
            s2t_kd_covered=means.get("s2t_kd"),
            s2t_uniform=math.log(self._teacher.head.vocabulary_size),
        )


def _built(loss_fn: Any, direction: Direction) -> str | None:
    """Return the name of the projector that a loss has in a direction; of one that does otherwise, what it does."""
    if direction not in loss_fn.projectors:
        return None
    name: str = loss_fn.spec.projector_for(direction).name
    is_other = name == "pinv" and not isinstance(loss_fn.projectors[direction], PinvProjection)
    return "linear" if is_other else name


def _direct_space(aligner: str) -> str:
    return "shared_vocabulary" if aligner == "identity" else "shared_tokens"


def _with_recommended(starts: list[Start], direct_space: Callable[[str], str | None]) -> list[Start]:
    """Return starts with the one to begin with marked, or made of two: the directions do not depend on one another."""
    best = max(starts, key=lambda start: (start.reads_sanely, start.known))
    beside = [start for start in starts if start.aligner == best.aligner]
    back = min(beside, key=lambda start: math.inf if start.s2t_kd_covered is None else start.s2t_kd_covered)
    chosen = replace(best, s2t_projector=back.s2t_projector, s2t_kd_covered=back.s2t_kd_covered, recommended=True)
    chosen = replace(chosen, direct_space=direct_space(best.aligner))
    if back is best:
        return [chosen if start is best else start for start in starts]
    return [*starts, chosen]


def _why(start: Start) -> str:
    """Return what is known of the spaces that are recommended, or why one of them is not."""
    name = _direct_space(start.aligner)
    if start.aligner == "identity":
        known = (
            f"On real models, at equal steps, {name!r} and the dual spaces together gained more than either where "
            f"texts were few, and as much as {name!r} alone where they were many: {EVIDENCE}."
        )
    else:
        known = (
            f"On real models the tokens that both vocabularies have, compared in {name!r} at a temperature of 4, "
            f"gained more than dual spaces, and no less than with these beside them: {EVIDENCE}."
        )
    if start.direct_space is not None:
        return known
    return f"{known} It does not fit the choice made here."


def _projectors(start: Start) -> str:
    names = [name for name in (start.t2s_projector, start.s2t_projector) if name is not None]
    return " and ".join(dict.fromkeys(names)) + (" projectors" if len(names) > 1 else " projector")


def _sentence(start: Start) -> str:
    """Return what was measured, in words."""
    parts = []
    if start.t2s_ce_covered is not None:
        parts.append(
            f"t2s_ce_covered starts at {start.t2s_ce_covered:.2f} nats a covered token, a uniform guess is "
            f"{start.t2s_uniform:.2f}; it covers {start.covered:.0%} of the student's tokens and predicts "
            f"{start.kept:.1%} of these"
        )
    if start.s2t_kd_covered is not None:
        parts.append(
            f"s2t_kd_covered starts at {start.s2t_kd_covered:.2f}, a uniform guess is at most {start.s2t_uniform:.2f}"
        )
    return "; ".join(parts) or "no token of the texts is covered"
