"""Laws about an aligner as a module: its parameters, its arguments, its precision, its terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from hypothesis import strategies as st

from dskd_components.components.terms import OF_STUDENT
from dskd_components.testing.expectation import expect, expect_close, expect_equal, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.aligner.evaluation import (
    aligned,
    aligned_by,
    batch_cases,
    brought_over,
    built,
    by_sample,
    counted,
    expect_same_samples,
    seed_cases,
    some_batch,
)
from dskd_components.testing.laws.aligner.texts import fixed_texts, rows_of
from dskd_components.testing.laws.component import expect_effects, one_case
from dskd_components.testing.strategies.batches import batches, with_example_columns
from dskd_components.testing.strategies.logits import SEEDS, normal

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.aligner import Aligner
    from dskd_components.testing.strategies.batches import Batch


@law("aligner", cases=batch_cases())
def values_fit_the_states(aligner: Aligner, batch: Batch, seed: int) -> None:
    """The values that the projectors read are as wide as the hidden states, one for each position.

    They are finite at scored positions.
    """
    found = aligned(aligner, batch, seed)
    for side, values, states in (
        ("student", found.student_values, batch.student),
        ("teacher", found.teacher_values, batch.teacher),
    ):
        expected, shape = list(states.hidden_states.shape), list(values.shape)
        expect(shape == expected, f"{side}_values: expected shape {expected}, found {shape}.")
        expect_finite(values[states.scored], f"{side}_values at scored positions")


@law("aligner", cases=batch_cases())
def terms_are_finite_numbers(aligner: Aligner, batch: Batch, seed: int) -> None:
    """Terms of the aligner's own are finite, one number a row, under names that the loss does not use itself.

    None is negative, unless ``non_negative_terms`` is declared False. Metrics are finite as well.
    """
    found = aligned(aligner, batch, seed)
    for name, term in found.terms.items():
        expect(name not in OF_STUDENT, f"terms: the name {name!r} is one of the student's own; expected another.")
        expect(term.values.ndim == 1, f"the term {name!r}: expected one number a row, found {list(term.values.shape)}.")
        expect_finite(term.values, f"the term {name!r}")
        lowest = float(term.values.detach().min()) if term.values.numel() and aligner.non_negative_terms else 0.0
        expect(
            lowest >= 0, f"the term {name!r}: expected 0 or more, as non_negative_terms promises, found {lowest:.4g}."
        )
    for name, tally in found.metrics.items():
        expect_finite(tally.mean(), f"the metric {name!r}")


@law("aligner", cases=batch_cases())
def finite_gradients(aligner: Aligner, batch: Batch, seed: int) -> None:
    """Gradients of the parameters are finite, also where little or nothing is scored.

    A softmax over nothing is the usual culprit; the root of a parameter that begins at zero is another.
    """
    for fresh in (True, False):
        module = built(aligner, batch, seed, fresh=fresh)
        for name, gradient in _gradients(module, aligner, batch, seed):
            expect_finite(gradient, f"the gradient of {name}")


@law("aligner", cases=batch_cases(min_samples=2, at_least=3), at_most=10)
def every_parameter_learns(aligner: Aligner, batch: Batch, seed: int) -> None:
    """A gradient reaches every parameter that asks for one.

    One that none reaches has been cut from the graph, or is not used.
    """
    module = built(aligner, batch, seed)
    for name, gradient in _gradients(module, aligner, batch, seed):
        expect(bool(gradient.any()), f"the gradient of {name}: expected some, found zeros.")


TRIES: Final = 8
"""How many batches are looked at before something counts as dead."""


@law("aligner", cases=seed_cases, claimed_by=lambda aligner: bool(aligner.terms), at_most=3)
def every_term_teaches(aligner: Aligner, seed: int) -> None:
    """Each term of the aligner's own has a gradient: for a parameter, or for the hidden states of the student.

    In some of several batches. A term without one is only a number in the log, and belongs to the metrics.
    """
    idle = set(aligner.terms)
    for number in range(TRIES):
        batch = some_batch(aligner, seed + number)
        # The teacher's states are frozen, whichever aligner there is.
        leaves = [batch.student.hidden_states.requires_grad_()]
        module = built(aligner, batch, seed + number)
        leaves += [parameter for parameter in module.parameters() if parameter.requires_grad]
        terms = aligned_by(module, aligner, batch).terms
        for name in idle & terms.keys():
            total = terms[name].values.sum()
            if not total.requires_grad:
                continue
            gradients = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
            if any(gradient is not None and bool(gradient.any()) for gradient in gradients):
                idle.remove(name)
        if not idle:
            return
    expect(False, f"the gradient of the term {', '.join(sorted(idle))}: expected some, found none in several batches.")


@law("aligner", cases=one_case, at_most=1)
def options_have_an_effect(aligner: Aligner) -> None:
    """Another value of an option gives another alignment, or other parameters, or asks for something else.

    An option that does nothing has been forgotten, or lost on the way.
    """

    def observed(other: Aligner) -> list[Any]:
        seen: list[Any] = [other.text_method, other.same_tokenizer, other.split_invariant, other.reads_embeddings]
        seen.append(other.reads_columns)
        seen += rows_of(other, fixed_texts()) if other.makes_groups else []
        for seed in range(3):
            batch = some_batch(other, seed)
            module = built(other, batch, seed)
            seen += [sorted(module.state_dict()), dict(module.learning_rate_factors())]
            found = aligned_by(module, other, batch)
            seen += [tensor for sample in by_sample(found, batch) for tensor in sample.parts.values()]
            seen += [found.student_values, found.teacher_values, *counted(found).values()]
            seen += [(name, term.weight, term.denominator, term.widen_above) for name, term in found.terms.items()]
            seen += [gradient for _, gradient in _gradients(module, other, batch, seed)]
        return seen

    expect_effects(aligner, observed)


@law("aligner", cases=batch_cases(at_least=1), at_most=20)
def arguments_are_not_changed(aligner: Aligner, batch: Batch, seed: int) -> None:
    """The states and groups that an aligner is given are as they were, after bringing over as well.

    The spaces read them next.
    """
    batch = with_example_columns(batch, [aligner])
    names, before = zip(*((name, tensor.clone()) for name, tensor in _tensors(batch)), strict=True)
    found = aligned(aligner, batch, seed)
    given = normal(seed, *batch.teacher.targets.shape, 2), normal(seed, *batch.student.targets.shape, 2)
    copies = given[0].clone(), given[1].clone()
    found.to_student(given[0])
    found.to_teacher(given[1])
    for name, now, then in zip(names, (tensor for _, tensor in _tensors(batch)), before, strict=True):
        expect_equal(now, then, f"{name} after aligning")
    for side, now, then in zip(("teacher", "student"), given, copies, strict=True):
        expect_equal(now, then, f"the {side}'s side after bringing it over")


@law("aligner", cases=batch_cases(at_least=1), at_most=20)
def the_same_seed_gives_the_same_alignment(aligner: Aligner, batch: Batch, seed: int) -> None:
    """Built with the same seed, an aligner does the same; called twice, too.

    Randomness of its own would make runs that nobody can repeat.
    """
    module = built(aligner, batch, seed)
    first = by_sample(aligned_by(module, aligner, batch), batch)
    expect_same_samples(by_sample(aligned_by(module, aligner, batch), batch), first, "called again")
    expect_same_samples(by_sample(aligned(aligner, batch, seed), batch), first, "built again with the same seed")


@law(
    "aligner",
    cases=lambda aligner: st.fixed_dictionaries(
        {
            "batch": batches(same_tokenizer=aligner.same_tokenizer, dtype=torch.float32, sizes=aligner.example_sizes),
            "seed": SEEDS,
        }
    ),
    at_most=20,
)
def the_dtype_is_kept(aligner: Aligner, batch: Batch, seed: int) -> None:
    """What is brought over has the dtype of what was there; values have the dtype of the hidden states.

    Nothing is narrowed or widened on the way.
    """
    found = aligned(aligner, batch, seed)
    for dtype in (torch.float32, torch.float64):
        for side, bring in ((batch.teacher, found.to_student), (batch.student, found.to_teacher)):
            brought = bring(torch.ones(*side.targets.shape, 2, dtype=dtype))
            expect(brought.dtype == dtype, f"what is brought over: expected {dtype}, as given, found {brought.dtype}.")
    for name, values in (("student", found.student_values), ("teacher", found.teacher_values)):
        expect(values.dtype == torch.float32, f"{name}_values: expected float32, as given, found {values.dtype}.")


@law("aligner", cases=batch_cases(at_least=1), at_most=5)
def parameters_of_another_dtype_will_do(aligner: Aligner, batch: Batch, seed: int) -> None:
    """With parameters in float32, states in float64 are aligned in float64, to nearly the same outcome.

    Whoever casts a model to another dtype casts the aligner with it; the states decide in which one is computed.
    """
    module = built(aligner, batch, seed)
    exact = by_sample(aligned_by(module, aligner, batch), batch)
    found = by_sample(aligned_by(module.float(), aligner, batch), batch)
    for sample, expected in zip(found, exact, strict=True):
        for name, tensor in expected.parts.items():
            expect(sample.parts[name].dtype == tensor.dtype, f"{name}: expected {tensor.dtype} as well.")
            if tensor.is_floating_point():
                expect_close(sample.parts[name], tensor, f"{name}, of parameters in float32", rtol=1e-4, atol=1e-4)


@law("aligner", cases=batch_cases(at_least=1), at_most=5)
def everything_is_made_where_the_states_are(aligner: Aligner, batch: Batch, seed: int) -> None:
    """Tensors that an aligner makes are on the device of the states, whatever the default device is.

    One made on the default device fails as soon as the models are elsewhere. No accelerator is needed to try it.
    """
    module = built(aligner, batch, seed)
    given = normal(seed, *batch.teacher.targets.shape, 2), normal(seed, *batch.student.targets.shape, 2)
    try:
        with torch.device("meta"):
            found = aligned_by(module, aligner, batch)
            made = {
                "student_covered": found.student_covered,
                "teacher_covered": found.teacher_covered,
                "student_values": found.student_values,
                "teacher_values": found.teacher_values,
                "to_student(...)": found.to_student(given[0]),
                "to_teacher(...)": found.to_teacher(given[1]),
                "teacher_index()": found.teacher_index(),
                **{f"the term {name!r}": term.values for name, term in found.terms.items()},
            }
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(f"with another default device than that of the states: {error}") from error
    for name, tensor in made.items():
        expected = batch.student.hidden_states.device
        expect(tensor.device == expected, f"{name}: expected {expected}, as the states, found {tensor.device}.")


@law("aligner", cases=batch_cases(at_least=1), at_most=10)
def a_checkpoint_restores_it(aligner: Aligner, batch: Batch, seed: int) -> None:
    """An aligner that has been trained, saved, and loaded into a new one does what it did.

    State outside of parameters and buffers is lost.
    """
    module, other = built(aligner, batch, seed), built(aligner, batch, seed + 1)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.add_(normal(seed + number, *parameter.shape))
    other.load_state_dict(module.state_dict())
    before, after = (by_sample(aligned_by(one, aligner, batch), batch) for one in (module, other))
    expect_same_samples(after, before, "restored from a checkpoint")


def _gradients(module: torch.nn.Module, aligner: Aligner, batch: Batch, seed: int) -> list[tuple[str, Tensor]]:
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        return []
    total = brought_over(aligned_by(module, aligner, batch), batch, seed)  # type: ignore[arg-type]
    if not total.requires_grad:
        return [(name, torch.zeros_like(parameter)) for name, parameter in named]
    parameters = [parameter for _, parameter in named]
    gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return [(name, gradient) for (name, _), gradient in zip(named, gradients, strict=True)]


def _tensors(batch: Batch) -> list[tuple[str, Tensor]]:
    sides = (("student", batch.student), ("teacher", batch.teacher))
    found = [
        (f"{side}.{name}", getattr(states, name))
        for side, states in sides
        for name in ("hidden_states", "targets", "input_ids", "embedding")
    ]
    heads = [(f"{side}.head.weight", states.head.weight) for side, states in sides]
    columns = [
        (f"{side}.columns[{name!r}]", column) for side, states in sides for name, column in states.columns.items()
    ]
    return [
        *found,
        *heads,
        *columns,
        ("groups.student", batch.groups.student),
        ("groups.teacher", batch.groups.teacher),
    ]
