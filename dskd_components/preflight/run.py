"""All checks in their order."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from dskd_components.collation.collator import DualTokenizerCollator
from dskd_components.errors import DSKDError, DSKDWarning, InputError
from dskd_components.models.positions import position_limit
from dskd_components.models.run_model import groups_of_batch, input_embedding
from dskd_components.preflight.check_alignment import check_alignment
from dskd_components.preflight.check_batch import check_batch, check_projectors
from dskd_components.preflight.check_models import (
    check_heads,
    check_modes,
    check_packing,
    check_placement,
    check_predictions,
    check_sharing,
)
from dskd_components.preflight.check_samples import check_kept_tokens, check_positions, check_samples
from dskd_components.preflight.check_tokenizers import check_chat_templates, check_special_tokens, check_vocabularies
from dskd_components.preflight.estimate import estimate, memory_findings, step_memory
from dskd_components.preflight.measuring import measure_step
from dskd_components.preflight.report import Finding, PreflightReport, recommended_spec
from dskd_components.preflight.start import check_start, measure_starts, recommendation
from dskd_components.spec.dskd_spec import DSKDSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

    from dskd_components.engines.reduction import LossWeights
    from dskd_components.preflight.measuring import MeasuredStep
    from dskd_components.preflight.pair import Pair
    from dskd_components.preflight.report import Start, StepCost

    Check = Callable[[Pair], Iterable[Finding]]

CHECKS: Final[Mapping[str, Check]] = {
    "placement": check_placement,
    "shared parameters": check_sharing,
    "modes": check_modes,
    "heads": check_heads,
    "vocabularies": check_vocabularies,
    "special tokens": check_special_tokens,
    "chat templates": check_chat_templates,
    "samples": check_samples,
    "kept tokens": check_kept_tokens,
    "alignment": check_alignment,
    "positions": check_positions,
    "predictions": check_predictions,
    "packing": check_packing,
}
"""What is asked of a pair alone, by name; a further check is a further line."""

MEASURED_TOKENS: Final = 512
"""Tokens of the student, padding included, in the step that is measured, at most: the fixed costs of a smaller one
would be scaled with it."""

STARTED_TOKENS: Final = 256
"""The same in the batch on which it is measured how training would start."""

CHECKED_TOKENS: Final = 128
"""The same in the batch on which the loss is tried."""


class LossType(Protocol):
    """The loss class, which lies above this package; only how it is built is used."""

    def from_models(self, *arguments: Any, **options: Any) -> Any:
        """Build a loss."""


def examine(
    loss_type: LossType,
    pair: Pair,
    *,
    tokens_per_step: int | None = 2048,
    watch: Callable[[str], None] | None = None,
) -> PreflightReport:
    """Look at a pair of models; see `DSKDLoss.preflight`.

    Args:
        loss_type: `DSKDLoss`.
        pair: the models, their tokenizers, and what they are to be trained with.
        tokens_per_step: tokens of the student for which time and memory are stated; None: nothing is measured.
        watch: is called with the name of each check before it begins.

    Raises:
        InputError: the number of tokens is not positive.
    """
    if tokens_per_step is not None and not tokens_per_step > 0:
        raise InputError(f"tokens_per_step: expected a positive number or None, got {tokens_per_step!r}.")
    watch = watch or (lambda _: None)
    findings: list[Finding] = []
    costs: tuple[StepCost, ...] = ()
    starts: tuple[Start, ...] = ()
    devices = {parameter.device for model in pair.modules.values() for parameter in model.parameters()}
    # Dropout and new projectors draw numbers; the caller's training must not notice.
    on_cuda = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(on_cuda), warnings.catch_warnings():
        _draw_the_same(on_cuda)
        warnings.simplefilter("ignore", DSKDWarning)  # what they say is found here as well
        for name, check in CHECKS.items():
            watch(name)
            findings += _run(name, lambda check=check: check(pair))  # type: ignore[misc]
        if all(finding.severity != "error" for finding in findings):
            watch("the start")
            found, starts = _starts(loss_type, pair)
            findings += found
            watch("a training step")
            found, costs = _with_loss(loss_type, pair, tokens_per_step, recommended_spec(starts))
            findings += found
    passed = all(finding.severity != "error" for finding in findings)
    return PreflightReport(tuple(findings), costs, recommendation(starts) if passed else "", starts)


def _draw_the_same(devices: Iterable[torch.device]) -> None:
    """Seed the generators that are forked, and no other, so that a pair of models has one report."""
    torch.default_generator.manual_seed(0)
    for device in devices:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(0)


def _run(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds. One that cannot be carried out is a finding too, and the others go on."""
    try:
        yield from check()
    except DSKDError as error:
        yield Finding("error", name, str(error).rstrip("."))
    except Exception as error:  # models and tokenizers are anybody's, and so are their errors
        text = f"it could not be looked at: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        yield Finding("error", name, text, "see whether the model runs on a text of its tokenizer by itself")


def _starts(loss_type: LossType, pair: Pair) -> tuple[list[Finding], tuple[Start, ...]]:
    """Measure how training would start; what cannot be built for this pair is found where the loss is."""
    starts: tuple[Start, ...] = ()

    def measure() -> Iterator[Finding]:
        nonlocal starts
        try:
            specs = () if pair.spec is None else (pair.spec,)
            starts = measure_starts(loss_type, pair, lambda spec: _batch(pair, spec, STARTED_TOKENS), specs)
        except DSKDError as error:
            yield Finding("warning", "start", f"it could not be measured: {str(error).rstrip('.')}")
        yield from check_start(starts)

    findings = list(_run("start", measure)) if pair.has_both_tokenizers else []
    return findings, starts


def _with_loss(
    loss_type: LossType, pair: Pair, tokens_per_step: int | None, recommended: DSKDSpec | None
) -> tuple[list[Finding], tuple[StepCost, ...]]:
    """Build the loss and look at what only it can tell."""
    spec = pair.spec or recommended or DSKDSpec()
    built: list[Any] = []

    def build() -> Iterator[Finding]:
        built.append(loss_type.from_models(spec, **pair.loss_arguments))
        yield Finding("ok", "spec", f"the loss can be built, with the aligner {spec.aligner.name!r}")
        # What is recommended has been measured, which says more than a residual.
        yield from check_projectors(built[0]) if pair.spec or recommended is None else ()

    findings = list(_run("spec", build))
    batches = [] if pair.batch is None else [pair.batch, pair.batch]

    def collate() -> Iterator[Finding]:
        most = min(tokens_per_step or MEASURED_TOKENS, MEASURED_TOKENS)
        batches.extend(_batch(pair, spec, tokens) for tokens in (CHECKED_TOKENS, most))
        yield from ()

    if built and not batches and pair.has_both_tokenizers:
        findings += _run("batch", collate)
    if not built or not batches:
        return findings, ()
    loss_fn, (small, measured) = built[0], batches
    steps = steps_to_look_at(spec, pair.last_step)
    findings += _run("batch", lambda: check_batch(pair, loss_fn, small, steps))
    costs: list[StepCost] = []

    def measure() -> Iterator[Finding]:
        costliest = max(steps, key=lambda step: terms_at_work(spec.loss_weights(step)))
        *others, step = (
            measure_step(loss_fn, pair.student, pair.teacher, batch, groups_of_batch(batch), step=costliest)
            for batch in ([measured] if small is measured else [small, measured])
        )
        smaller = others[0] if others else None
        tokens = tokens_per_step or step.tokens
        scored = _scored(pair, step, tokens)
        made_by = "".join(f"; {text}" for text in [loss_fn.spec.engine.kernels()] if text)
        costs.extend(estimate(loss_fn, pair.student, pair.teacher, step, tokens, scored=scored, smaller=smaller))
        yield Finding(
            "ok",
            "step",
            f"measured on {step.tokens:,} tokens of the student, of which {step.scored:,} are scored, and stated for "
            f"{tokens:,}, of which {scored:,} are scored, in samples of that length{made_by}",
        )
        memory = step_memory(loss_fn, pair.student, pair.teacher, step, tokens, scored=scored)
        yield from memory_findings(memory)

    if tokens_per_step is not None and all(finding.severity != "error" for finding in findings):
        findings += _run("step", measure)
    return findings, tuple(costs)


def _scored(pair: Pair, step: MeasuredStep, tokens: int) -> int:
    """Return how many tokens of a step are scored, by all samples rather than by those that were measured."""
    if pair.batch is not None or not (pair.has_own_samples and pair.has_both_tokenizers):
        return int(step.scored * tokens / step.tokens)
    return int(step.read / step.tokens * tokens * pair.survey.lengths["student"].share_scored)


def _batch(pair: Pair, spec: DSKDSpec, tokens: int) -> Mapping[str, Tensor]:
    """Return a batch of samples of all lengths, of up to so many tokens of the student, padding included."""
    limit = position_limit(pair.student)
    collate = DualTokenizerCollator(
        pair.student_tokenizer,
        pair.teacher_tokenizer,
        aligner=spec.aligner,
        student_max_length=limit,
        teacher_max_length=position_limit(pair.teacher),
        byte_positions=spec.reads_byte_positions,
        columns=pair.columns,
        on_error="skip",
    )
    chosen: list[Any] = []
    longest = 0
    for length, sample in pair.survey.typical():
        longest = max(longest, min(length, limit or length))
        if chosen and longest * (len(chosen) + 1) > tokens:
            break
        chosen.append(sample)
    device = input_embedding(pair.student).device
    return {name: column.to(device) for name, column in collate(chosen).items()}


def steps_to_look_at(spec: DSKDSpec, last_step: int | None = None) -> tuple[int | None, ...]:
    """Return the optimizer steps at which a loss is tried: the first, one half-way, and one after all changes.

    Args:
        spec: what is computed.
        last_step: from which on all weights stay as they are, where more than the spec follows a schedule.

    Examples:
        >>> steps_to_look_at(DSKDSpec(kd_rate={"name": "linear", "start": 0, "end": 0.5, "steps": 100}))
        (0, 50, 100)
        >>> steps_to_look_at(DSKDSpec())
        (None,)
    """
    ends = [*([spec.final_step] if spec.scheduled else []), *([] if last_step is None else [last_step])]
    return tuple(dict.fromkeys((0, max(ends) // 2, max(ends)))) if ends else (None,)


def terms_at_work(weights: LossWeights) -> int:
    """Return how many weights are not 0: a step in which all are costs the most.

    Args:
        weights: of one step.
    """
    shares = [weights.cross_entropy or 0.0, weights.distillation]
    return sum(map(bool, [*shares, *weights.by_term.values()]))
