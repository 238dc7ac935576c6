"""The tiled engine in the situations of a training loop, and what it must never do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest
import torch
from registered import build
from strategies import Batch, make_batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dskd_components import ComparedRows, DSKDLoss, DSKDSpec, Head, InputError, Space, SpaceResult, TokenTerm
from dskd_components.engines.tiling.head_products import HeadProducts
from dskd_components.engines.tiling.reassociation import Shapes
from dskd_components.states import IGNORE_INDEX, Side  # pydantic reads it

SMALL = {"name": "tiled", "memory_budget_mib": 1e-3}


def batch_and_loss(preset: str = "dskd", **overrides: Any) -> tuple[Batch, DSKDLoss]:
    spec = DSKDSpec.preset(preset, **({"engine": SMALL} | overrides))
    batch = make_batch(5, same_tokenizer=spec.aligner.same_tokenizer)
    hidden = batch.student.hidden_states.requires_grad_()
    head = Head(batch.student.head.weight.requires_grad_())
    return replace(batch, student=replace(batch.student, hidden_states=hidden, head=head)), build(spec, batch)


def learned(batch: Batch, loss_fn: DSKDLoss) -> list[Tensor]:
    return [batch.student.hidden_states, batch.student.head.weight, *loss_fn.parameters()]


def gradients(loss: Tensor, batch: Batch, loss_fn: DSKDLoss, **options: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, learned(batch, loss_fn), allow_unused=True, **options))


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


def test_it_cannot_be_differentiated_twice_and_says_so() -> None:
    batch, loss_fn = batch_and_loss()
    with pytest.raises(InputError, match='engine="eager"'):
        gradients(batch.loss(loss_fn).loss, batch, loss_fn, create_graph=True)


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


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_under_torch_compile() -> None:
    batch, loss_fn = batch_and_loss("dskd-cma")
    expected = batch.loss(loss_fn).loss
    compiled = torch.compile(loss_fn, backend="eager")
    loss = compiled(batch.student, batch.teacher).loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, batch, loss_fn), gradients(expected, batch, loss_fn))


def test_under_autocast() -> None:
    spec = DSKDSpec.preset("dskd", engine=SMALL)
    batch = make_batch(5, same_tokenizer=True, dtype=torch.float32)
    loss_fn = build(spec, batch)
    expected = batch.loss(loss_fn).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = batch.loss(loss_fn).loss
    assert torch.equal(found, expected)


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


class Watch(TorchDispatchMode):
    """Notes the size of what is made in float32 over a vocabulary, and the rows that products with a head have."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.largest = 0
        self.rows = 0
        self.joint_widths: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor) and self.vocabulary in tensor.shape and tensor.dtype == torch.float32:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
                if func is torch.ops.aten.mm.out and tensor.shape[1] == self.vocabulary:
                    self.rows += tensor.shape[0]
                elif func is torch.ops.aten.mm.out:
                    self.joint_widths.append(tensor.shape[1])
        return made


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


@pytest.mark.parametrize("projector", ["linear", "live_pinv", "mlp"])
@pytest.mark.parametrize("aligner", ["identity", "cma"])
@pytest.mark.parametrize("head_dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("way", ["apart", "logits", "throughout"])
def test_each_way_of_joining_gives_what_the_eager_engine_gives(
    way: str, head_dtype: torch.dtype, aligner: str, projector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shapes, "cheapest", lambda *_: way)
    batch, loss_fn = batch_and_loss(aligner=aligner, s2t_projector=projector)
    teacher_head = Head(batch.teacher.head.weight.detach().to(head_dtype))
    batch = replace(batch, teacher=replace(batch.teacher, head=teacher_head))
    with torch.no_grad():
        for parameter in loss_fn.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)  # biases start at 0
    found = batch.loss(loss_fn)
    of_tiled = gradients(found.loss, batch, loss_fn)
    loss_fn.spec = loss_fn.spec.replace(engine="eager")
    expected = batch.loss(loss_fn)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(of_tiled, gradients(expected.loss, batch, loss_fn))


@pytest.mark.parametrize("way", ["apart", "logits", "throughout"])
def test_without_gradients_no_way_makes_any(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a gradient was made")

    monkeypatch.setattr(Shapes, "cheapest", lambda *_: way)
    monkeypatch.setattr(HeadProducts, "states_gradient", refuse)
    batch, loss_fn = batch_and_loss()
    with torch.no_grad():
        assert batch.loss(loss_fn).loss.isfinite()


@pytest.mark.parametrize(("tokens", "widths"), [(2, []), (3, [16]), (4, [16, 16])])
def test_a_projection_is_joined_with_the_head_where_that_pays(tokens: int, widths: list[int]) -> None:
    """From width 2 to 9, with 97 tokens: 1800 n multiplications apart, 1746 + 1103 n for logits, 3492 + 582 n for all.

    The joint matrix has a column for each entry of the width that is projected, one for the bias, and more until its
    rows are aligned; so has its gradient.
    """
    shape: dict[str, Any] = {"student_hidden": 2, "teacher_hidden": 9, "student_length": tokens}
    batch = make_batch(0, same_tokenizer=True, batch=1, student_vocabulary=97, dtype=torch.float32, **shape)
    targets = torch.arange(tokens)[None]
    batch = replace(
        batch, student=replace(batch.student, targets=targets), teacher=replace(batch.teacher, targets=targets)
    )
    loss_fn = build(DSKDSpec.preset("dskd", spaces=["teacher"]), batch)
    with Watch(97) as watch:
        batch.loss(loss_fn)
    assert watch.joint_widths == widths


@pytest.mark.parametrize("learner", ["nothing", "states", "projection"])
def test_ways_take_as_many_multiplications_as_their_products(learner: str) -> None:
    """Without a gradient, one product fewer; a projection that learns takes one more than states that do."""
    shapes = Shapes(rows=3, source=2, target=5, vocabulary=11)
    read, read_joined, project, join = 3 * 5 * 11, 3 * 2 * 11, 3 * 2 * 5, 11 * 2 * 5
    backward = {
        "nothing": (0, 0, 0),
        "states": (read + project, read + project, read_joined),
        "projection": (read + 2 * project, read + 2 * project, 2 * read_joined + join),
    }[learner]
    forward = (project + read, join + read_joined, join + read_joined)
    expected = dict(zip(("apart", "logits", "throughout"), map(sum, zip(forward, backward, strict=True)), strict=True))
    assert {way: shapes.multiplications(way, learner) for way in expected} == expected  # type: ignore[arg-type]


def test_no_more_is_held_for_joining_than_there_is_room_for() -> None:
    shapes = Shapes(rows=10**6, source=2, target=50, vocabulary=10)
    found = [shapes.cheapest("projection", most) for most in (159, 160, 319, 320)]
    assert found == ["apart", "logits", "logits", "throughout"]
    assert shapes.cheapest("states", 160) == "throughout"
