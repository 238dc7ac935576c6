"""Whether the first batch gives a loss and gradients, and what the projectors keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from dskd_components.preflight.report import Finding
from dskd_components.projectors.live_pinv import LivePinvProjection
from dskd_components.projectors.pinv import PinvProjection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from dskd_components.preflight.pair import Pair


def check_batch(
    pair: Pair, loss_fn: Any, batch: Mapping[str, Tensor], steps: Sequence[int | None] = (None,)
) -> Iterator[Finding]:
    """Run the loss on a batch.

    Args:
        pair: the models.
        loss_fn: a `DSKDLoss`.
        batch: as `DSKDLoss.run` takes it.
        steps: the optimizer steps at which it is tried; None for a spec without schedules.
    """
    ours, theirs = batch.get("student_input_ids"), batch.get("teacher_input_ids")
    # Two tokenizers may cut a text alike; the collator's batches say whose they are, and the loss looks at that.
    says_whose = "teacher_fingerprint" in batch
    copied = (
        not says_whose
        and ours is not None
        and theirs is not None
        and ours.shape == theirs.shape
        and torch.equal(ours, theirs)
    )
    if copied and not pair.one_tokenizer:
        yield Finding(
            "error",
            "batch",
            "the teacher has the student's token ids, but its tokenizer is another, so they mean something else to it",
            "tokenize the text for each side: DualTokenizerCollator",
        )
        return
    for step in steps:
        with torch.no_grad():
            out = loss_fn.run(pair.student, pair.teacher, batch, step=step)
        empty = [name for name, count in out.counts.items() if not int(count)]
        if "ce" in empty or empty == list(out.counts):  # groups alone leave the student nothing to learn
            yield Finding("error", "batch", "no token of it is scored", "look at its labels: all of them are -100")
            return
        terms = ", ".join(f"{name} {value.item():.3g}" for name, value in out.terms.items())
        text = f"the loss is {out.loss.item():.4g} (terms as training logs them: {terms})"
        if step is not None:
            rate = loss_fn.spec.loss_weights(step).distillation
            text = f"after {step:,} optimizer steps, with kd_rate {rate:.3g}, {text}"
        if empty:
            text += f"; no token counts in {', '.join(empty)} as yet"
        yield Finding("ok", "batch", text)
    yield from _kept_masses(loss_fn, {name: float(value) for name, value in out.metrics.items()})


KEPT: Final = 0.8
"""Below this share of the teacher's probability, what a narrowed head says is much of its own making."""


def _kept_masses(loss_fn: Any, metrics: Mapping[str, float]) -> Iterator[Finding]:
    """Say which part of the whole heads' probability those that are narrowed keep."""
    for side, subset in loss_fn.subsets.items():
        mass = metrics.get(f"{side}_kept_mass")
        if mass is None or subset is None:
            continue
        # A student that has learned nothing yet has to be narrowed, too.
        little = side == "teacher" and not subset.has_rest and mass < KEPT
        found = f"{len(subset):,} of {subset.vocabulary_size:,} tokens have {mass:.1%} of its probability in the batch"
        advice = "keep more tokens, or have the others as one outcome: other_tokens='one_outcome'" if little else ""
        yield Finding("warning" if little else "ok", f"{side} kept mass", found, advice)


LOST: Final = 0.95
"""From this residual on, a projector starts with next to nothing of what it projects."""


def check_projectors(loss_fn: Any) -> Iterator[Finding]:
    """Look at the residuals of pseudo-inverse projectors, and at softcaps, which no linear map can follow.

    Args:
        loss_fn: a `DSKDLoss`.
    """
    capped = _unlike_softcaps(loss_fn)
    for direction, projection in loss_fn.projectors.items():
        if isinstance(projection, PinvProjection):
            found = f"{direction}: the initial map loses {projection.residual:.1%} of the logits over the shared tokens"
            lost = projection.residual > LOST
            advice = "use the projector 'linear' or 'mlp', or a wider student" if lost else ""
            yield Finding("warning" if lost else "ok", "pinv residual", found, advice)
        if capped and isinstance(projection, PinvProjection | LivePinvProjection):
            found = f"{direction}: {capped}; the map keeps logits as they are before they are capped"
            trained = isinstance(projection, PinvProjection)
            advice = "" if trained else f"use the {direction}_projector 'pinv', which is trained from there on"
            yield Finding("ok" if trained else "warning", "softcaps", found, advice)


def _unlike_softcaps(loss_fn: Any) -> str:
    """Return where both heads cap their logits, in words; nothing if they do so alike."""
    softcaps = {side: head.softcap for side, head in loss_fn.head_fingerprints.items() if head is not None}
    if len(set(softcaps.values())) < 2:
        return ""
    return " and ".join(
        f"the {side} caps its logits at {cap:g}" if cap else f"the {side} does not cap its logits"
        for side, cap in softcaps.items()
    )
