"""The tiled engine in the situations of a training loop, and what it must never do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from dskd_components import ComparedRows, DSKDLoss, DSKDSpec, Head, InputError, Space, SpaceResult, TokenTerm
from dskd_components.engines._tiling.head_stack import HeadStack
from dskd_components.engines._tiling.side_pass import SidePass
from dskd_components.models.states import IGNORE_INDEX, Side  # pydantic reads it
from tests.helpers.registered import build
from tests.helpers.strategies import Batch, make_batch
from tests.helpers.tiled_steps import SMALL, Watch, batch_and_loss, gradients, learned

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_graph_that_is_kept_gives_its_gradient_again() -> None:
    batch, loss_fn = batch_and_loss()
    loss = batch.loss(loss_fn).loss
    first = gradients(loss, batch, loss_fn, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.mul_(7)  # the caller's own, to do with as he likes
    batch, loss_fn = batch_and_loss()
    loss = batch.loss(loss_fn).loss
    torch.testing.assert_close(gradients(loss, batch, loss_fn, retain_graph=True), kept)
    torch.testing.assert_close(gradients(2 * loss, batch, loss_fn), [2 * gradient for gradient in kept])


def test_gradients_accumulate_over_micro_batches() -> None:
    batch, loss_fn = batch_and_loss()
    alone = gradients(batch.loss(loss_fn).loss, batch, loss_fn)
    for _ in range(2):
        batch.loss(loss_fn).loss.backward()
    for tensor, gradient in zip(learned(batch, loss_fn), alone, strict=True):
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, 2 * gradient)


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma", "dskd-v2"])
def test_what_fits_in_one_block_is_read_once(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    plain = HeadStack.logits

    def counted(stack: HeadStack, rows: Any) -> Any:
        reads.append(sum(some.stop - some.start for some in rows.values()))
        return plain(stack, rows)

    batch, loss_fn = batch_and_loss(preset, engine="tiled")
    monkeypatch.setattr(HeadStack, "logits", counted)
    whole = gradients(batch.loss(loss_fn).loss, batch, loss_fn)
    assert all(reads)  # none is of no rows, only to see what a space asks for
    once = sum(reads)
    monkeypatch.setattr(SidePass, "_has_one_block", lambda _: False)
    torch.testing.assert_close(gradients(batch.loss(loss_fn).loss, batch, loss_fn), whole)
    # Many blocks need a second look where a term is divided by the tokens that it keeps.
    assert sum(reads) - once > once if preset == "dskd-v2" else sum(reads) - once == once
    assert not all(reads)


def test_it_cannot_be_differentiated_twice_and_says_so() -> None:
    batch, loss_fn = batch_and_loss()
    with pytest.raises(InputError, match='engine="eager"'):
        gradients(batch.loss(loss_fn).loss, batch, loss_fn, create_graph=True)


def by_torch_func(loss: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    return (torch.func.grad(loss)(at) * direction).sum()


def by_jvp(loss: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    found: Tensor = torch.func.jvp(loss, (at,), (direction,))[1]
    return found


def by_dual_numbers(loss: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(loss(forward_ad.make_dual(at, direction))).tangent
    return at.new_zeros(()) if found is None else found


WAYS = {"torch.func": by_torch_func, "jvp": by_jvp, "dual numbers": by_dual_numbers}
LEARNED: dict[str, tuple[str, ...]] = {
    "dskd": ("head", "projectors.s2t.weight"),
    "dskd-cma": ("head", "aligner.query.bias"),
    "recommended-two-vocabularies": ("head",),
}
DIFFERENTIATED = [(preset, name) for preset, names in LEARNED.items() for name in names]


def loss_of(batch: Batch, loss_fn: DSKDLoss, name: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The loss as a function of the student's head or of a parameter."""
    if name == "head":
        return (
            lambda given: replace(batch, student=replace(batch.student, head=Head(given))).loss(loss_fn).loss,
            batch.student.head.weight.detach(),
        )
    told = batch.groups if loss_fn.spec.aligner.text_method else None

    def loss(given: Tensor) -> Tensor:
        called = torch.func.functional_call(loss_fn, {name: given}, (batch.student, batch.teacher), {"alignment": told})
        return called.loss

    return loss, loss_fn.get_parameter(name).detach()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, in forward mode
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("preset", "name"), DIFFERENTIATED)
def test_other_ways_of_differentiating_are_the_eager_engines(preset: str, name: str, way: str) -> None:
    """The tiled engine would hand out none, or torch's word on storage; a term of weight 0 is there as well."""
    batch, loss_fn = batch_and_loss(preset, engine="eager")
    if preset != "recommended-two-vocabularies":
        loss_fn.spec = loss_fn.spec.replace(weights={"t2s_ce": 0})
    function, at = loss_of(batch, loss_fn, name)
    given, direction = at.clone().requires_grad_(), torch.linspace(-1, 2, at.numel()).double().view_as(at)
    [gradient] = torch.autograd.grad(function(given), given)
    torch.testing.assert_close(WAYS[way](function, at, direction), (gradient * direction).sum())
    loss_fn.spec = loss_fn.spec.replace(engine=SMALL)
    with pytest.raises(InputError, match='engine="eager"'):
        WAYS[way](function, at, direction)


def test_a_batch_of_gradients_from_above() -> None:
    batch, loss_fn = batch_and_loss()
    loss, scales = batch.loss(loss_fn).loss, torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    once = gradients(loss, batch, loss_fn, retain_graph=True)
    found = gradients(loss, batch, loss_fn, grad_outputs=scales, is_grads_batched=True)
    for ours, theirs in zip(found, once, strict=True):
        torch.testing.assert_close(ours, torch.stack([scale * theirs for scale in scales]))


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma"])
def test_the_eager_engine_can_be_differentiated_twice(preset: str) -> None:
    batch, loss_fn = batch_and_loss(preset, engine="eager")
    [gradient, *_] = gradients(batch.loss(loss_fn).loss, batch, loss_fn, create_graph=True)
    gradient.square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in learned(batch, loss_fn)[:2])


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma", "dskd-v2", "vanilla-kd"])
def test_without_gradients_the_values_are_the_same(preset: str) -> None:
    batch, loss_fn = batch_and_loss(preset)
    trained = batch.loss(loss_fn)
    with torch.no_grad():
        evaluated = batch.loss(loss_fn)
    assert not evaluated.loss.requires_grad
    torch.testing.assert_close(evaluated.loss, trained.loss.detach())
    torch.testing.assert_close(evaluated.terms, trained.terms)
    torch.testing.assert_close(evaluated.metrics, trained.metrics)


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma", "dskd-v2"])
def test_under_activation_checkpointing(preset: str) -> None:
    batch, loss_fn = batch_and_loss(preset)
    expected = gradients(batch.loss(loss_fn).loss, batch, loss_fn)
    loss = checkpoint(lambda: batch.loss(loss_fn).loss, use_reentrant=False)
    torch.testing.assert_close(gradients(loss, batch, loss_fn), expected)


@pytest.mark.parametrize("engine", [SMALL, "eager"])
@pytest.mark.parametrize("preset", ["dskd", "dskd-cma", "dskd-v2-eta"])
def test_autocast_changes_nothing(preset: str, engine: Any) -> None:
    spec = DSKDSpec.preset(preset, engine=engine)
    batch = make_batch(5, same_tokenizer=spec.aligner.same_tokenizer, dtype=torch.float32)
    hidden, weight = batch.student.hidden_states.requires_grad_(), batch.student.head.weight.requires_grad_()
    loss_fn = build(spec, batch)
    leaves = [hidden, weight, *loss_fn.parameters()]
    expected = batch.loss(loss_fn).loss
    with torch.autocast(hidden.device.type, dtype=torch.bfloat16):
        found = batch.loss(loss_fn).loss
        # What autocast is for: the user's own products go on in it.
        assert (hidden @ weight.T).dtype == torch.bfloat16
    assert torch.equal(found, expected)
    for ours, theirs in zip(
        *(torch.autograd.grad(loss, leaves, allow_unused=True) for loss in (found, expected)), strict=True
    ):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_a_frozen_head_gets_no_gradient_and_a_composed_one_passes_it_on() -> None:
    batch, loss_fn = batch_and_loss()
    base = batch.student.head.weight.detach()
    frozen = replace(batch, student=replace(batch.student, head=Head(base)))
    loss = frozen.loss(loss_fn).loss
    expected, *_ = gradients(batch.loss(loss_fn).loss, batch, loss_fn)
    [found] = torch.autograd.grad(loss, [batch.student.hidden_states])
    torch.testing.assert_close(found, expected)
    # A low-rank update, and a head that is tied to an embedding which the states come from.
    a, b = (torch.randn(*shape, dtype=base.dtype, requires_grad=True) for shape in ((11, 2), (2, 5)))
    both = []
    for engine in (SMALL, "eager"):
        loss_fn.spec = loss_fn.spec.replace(engine=engine)
        weight = base + a @ b
        states = replace(batch.student, head=Head(weight), hidden_states=batch.student.hidden_states + weight[:6])
        both.append(torch.autograd.grad(replace(batch, student=states).loss(loss_fn).loss, [a, b]))
    torch.testing.assert_close(both[0], both[1])


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma", "vanilla-kd"])
@pytest.mark.parametrize("distance", ["kl", "reverse_kl", "js", "skew_kl"])
def test_bfloat16_inputs_are_computed_in_float32(preset: str, distance: str) -> None:
    spec = DSKDSpec.preset(preset, distance=distance, engine={"name": "tiled", "memory_budget_mib": 0.05})
    sizes: dict[str, Any] = {"student_length": 20, "teacher_length": 24, "student_hidden": 16, "teacher_hidden": 24}
    sizes |= {"student_vocabulary": 300, "teacher_vocabulary": 400}
    batch = make_batch(1, same_tokenizer=spec.aligner.same_tokenizer, dtype=torch.bfloat16, **sizes)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        student, teacher = (cast(side, dtype) for side in (batch.student, batch.teacher))
        hidden = student.hidden_states.requires_grad_()
        head = Head(student.head.weight.requires_grad_())
        case = replace(batch, student=replace(student, hidden_states=hidden, head=head), teacher=teacher)
        out = case.loss(build(spec, batch))
        assert all(value >= 0 for value in out.terms.values())
        found.append((out.loss, torch.autograd.grad(out.loss, [hidden, head.weight])))
    (loss, narrow), (expected_loss, wide) = found
    assert loss.dtype == torch.float32
    assert abs(loss - expected_loss) <= 1e-3 * abs(expected_loss)
    for gradient, expected in zip(narrow, wide, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient.float() - expected).norm() <= 1e-2 * expected.norm()


def cast(states: Any, dtype: torch.dtype) -> Any:
    return replace(
        states,
        hidden_states=states.hidden_states.detach().to(dtype),
        head=Head(states.head.weight.detach().to(dtype)),
        embedding=states.embedding.to(dtype),
    )


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma", "dskd-v2-eta"])
def test_the_same_batch_gives_the_same_bits_and_stays_as_it_is(preset: str) -> None:
    batch, loss_fn = batch_and_loss(preset)
    tensors = [batch.student.hidden_states, batch.student.head.weight, batch.teacher.hidden_states]
    before = [tensor.detach().clone() for tensor in tensors]
    first, second = (batch.loss(loss_fn).loss for _ in range(2))
    assert torch.equal(first, second)
    pairs = zip(gradients(first, batch, loss_fn), gradients(second, batch, loss_fn), strict=True)
    assert all((ours is None and theirs is None) or torch.equal(ours, theirs) for ours, theirs in pairs)
    assert all(torch.equal(tensor, original) for tensor, original in zip(tensors, before, strict=True))


def test_no_more_than_a_tile_of_logits_exists_and_unscored_positions_are_never_multiplied() -> None:
    budget = 0.05
    spec = DSKDSpec.preset("dskd", engine={"name": "tiled", "memory_budget_mib": budget})
    shape: dict[str, Any] = {"batch": 4, "student_length": 40, "student_vocabulary": 997, "student_hidden": 7}
    batch = make_batch(0, same_tokenizer=True, dtype=torch.float32, **shape)
    loss_fn = build(spec, batch)
    with Watch(997) as watch:
        batch.loss(loss_fn).loss.backward()
    scored = int(batch.student.scored.sum())
    assert scored < batch.student.targets.numel()
    assert watch.rows == 4 * scored  # own and projected logits, in both spaces
    assert watch.largest <= budget * 2**20 < 4 * scored * 997 / 6


class Surprise(Space):
    """Reads logits itself, keeps rows by what it finds there, divides by how many it kept, and lacks some targets."""

    side: ClassVar[Side] = "student"
    name: Literal["surprise"] = "surprise"

    def compare(self, rows: ComparedRows) -> SpaceResult:
        gap = (rows.student_logits - rows.teacher_logits).square().mean(-1)
        values = (
            gap * rows.divergence(None)
            + rows.student_logits[:, 0]
            + rows.cross_entropy("student", rows.targets.masked_fill(rows.targets % 2 == 0, IGNORE_INDEX))
        )
        return SpaceResult(terms={"surprise": TokenTerm(values=values, keep=gap > 8, denominator="kept")})


def test_a_space_may_read_the_logits_themselves() -> None:
    batch, loss_fn = batch_and_loss(spaces=(Surprise(),))
    found = batch.loss(loss_fn)
    loss_fn.spec = loss_fn.spec.replace(engine="eager")
    expected = batch.loss(loss_fn)
    assert 0 < expected.counts["surprise"] < batch.student.scored.sum()
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(gradients(found.loss, batch, loss_fn), gradients(expected.loss, batch, loss_fn))


def test_a_head_in_half_precision_is_never_widened_as_a_whole() -> None:
    budget = 0.05
    spec = DSKDSpec.preset("dskd", engine={"name": "tiled", "memory_budget_mib": budget})
    shape: dict[str, Any] = {"student_vocabulary": 997, "student_hidden": 60, "teacher_hidden": 60}
    batch = make_batch(0, same_tokenizer=True, dtype=torch.bfloat16, **shape)
    loss_fn = build(spec, batch)
    with Watch(997) as watch:
        loss = batch.loss(loss_fn).loss
        loss.backward()
    assert 0 < watch.largest <= budget * 2**20 < 997 * 60 * 4


def saved_numbers(batch: Batch, loss_fn: DSKDLoss, budget: float) -> int:
    """How many numbers the graph of a loss keeps, but for those that are the caller's or known gradients."""
    loss_fn.spec = loss_fn.spec.replace(engine={"name": "tiled", "memory_budget_mib": budget})
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.itemsize
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = batch.loss(loss_fn).loss
    assert loss.requires_grad
    own = [*learned(batch, loss_fn), batch.teacher.hidden_states]
    for tensor in own:
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma"])
def test_projected_states_of_a_large_batch_are_not_kept(preset: str) -> None:
    batch, loss_fn = batch_and_loss(preset)
    assert saved_numbers(batch, loss_fn, 1e-3) < 0.8 * saved_numbers(batch, loss_fn, 384.0)


def test_a_mean_over_what_a_space_reaches_divides_by_that() -> None:
    """Where no row is left out by choice, the covered rows are what counts, not all that the student scores."""
    batch, loss_fn = batch_and_loss(spaces=({"name": "shared_vocabulary", "denominator": "kept"},))
    targets = batch.teacher.targets.clone()
    targets[:, ::2] = IGNORE_INDEX
    batch = replace(batch, teacher=replace(batch.teacher, targets=targets))
    found = batch.loss(loss_fn)
    assert 0 < found.counts["kd"] < batch.student.scored.sum()
    loss_fn.spec = loss_fn.spec.replace(engine="eager")
    expected = batch.loss(loss_fn)
    torch.testing.assert_close(found.terms, expected.terms)
    torch.testing.assert_close(gradients(found.loss, batch, loss_fn), gradients(expected.loss, batch, loss_fn))
