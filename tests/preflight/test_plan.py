"""The plan of a step: what it states is what steps take, and more of anything never makes it smaller, or larger."""

from __future__ import annotations

import math
import mmap
import warnings
from dataclasses import replace
from io import StringIO
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import pytest
import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates
from dskd_components.components import ComparedRows, Space, SpaceResult, TokenTerm, default_registry
from dskd_components.components.space import Direction  # noqa: TC001  # pydantic reads it
from dskd_components.engines.work import LossShapes, products_of
from dskd_components.errors import ConfigurationError, InputError
from dskd_components.models.states import Side  # noqa: TC001
from dskd_components.preflight.device import DEVICES, ThisMachine, stated_device
from dskd_components.preflight.plan import PlanPart, Remedy, Setup, StepPlan
from dskd_components.preflight.plan_pair import Models, PlannedPair
from dskd_components.preflight.plan_step import plan_step, plan_traced
from dskd_components.preflight.sharding import Sharding, Spread, TeacherPlace, reduce_bucket_size, require_sharding
from dskd_components.preflight.traced import trace
from tests.helpers.correct_components import LearnedScale, LearnedSpans, SpaceWithModule, SpanLikelihood
from tests.helpers.half_kernels import HalfKernels

if TYPE_CHECKING:
    from collections.abc import Callable

    from dskd_components.preflight.device import Device

SIZES = {"student": (24, 2, 400), "teacher": (40, 3, 600)}
LINEAR = {"name": "linear", "init": "torch"}
SPEC = DSKDSpec(aligner="span", t2s_projector=LINEAR, s2t_projector=LINEAR)
H100 = stated_device("h100")


def config(side: str, *, tied: bool = True) -> LlamaConfig:
    width, layers, vocabulary = SIZES[side]
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )


def on_meta(side: str, *, tied: bool = True, dtype: torch.dtype = torch.float32) -> Any:
    with torch.device("meta"):
        return LlamaForCausalLM(config(side, tied=tied)).to(dtype)


@pytest.fixture(scope="module")
def pair() -> Models:
    """Both models, which are traced once for all tests of a batch."""
    return Models(on_meta("student"), on_meta("teacher"))


def planned(pair: Models, device: Device = H100, **changes: Any) -> StepPlan:
    setup = Setup(**({"spec": SPEC, "tokens": 512, "length": 32, "device_memory": device.memory} | changes))
    return plan_traced(pair, setup, device)


# Laws


@pytest.mark.parametrize("teacher", get_args(TeacherPlace))
@pytest.mark.parametrize("sharding", [name for name in get_args(Sharding) if name != "none"])
def test_more_devices_never_need_more_memory_each(pair: Models, sharding: Sharding, teacher: TeacherPlace) -> None:
    plans = [planned(pair, devices=devices, sharding=sharding, teacher=teacher) for devices in (1, 2, 16)]
    assert all(fewer.bytes >= more.bytes for fewer, more in pairwise(plans))
    assert all(fewer.held >= more.held for fewer, more in pairwise(plans))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cutting_up_more_never_holds_more(dtype: torch.dtype, optimizer: str) -> None:
    models = Models(on_meta("student", dtype=dtype), on_meta("teacher", dtype=dtype))
    # The bucket of stage 3 is there all the time, those of the others in the backward pass.
    held = [
        sum(
            part.bytes
            for part in planned(models, devices=8, sharding=sharding, optimizer=optimizer).parts
            if part.kind == "held" and part.component != "gradient buckets"
        )
        for sharding in ("zero1", "zero2", "zero3")
    ]
    assert held == sorted(held, reverse=True)
    assert planned(models, devices=8, sharding="fsdp2").held < planned(models, devices=8, sharding="ddp").held


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_each_device_holds_its_share(sharding: Sharding) -> None:
    models = Models(on_meta("student", dtype=torch.bfloat16), on_meta("teacher"))
    plan = planned(models, devices=8, sharding=sharding, teacher="sharded", accumulation=2)
    held = {part.component: part.bytes for part in plan.parts if part.kind == "held"}
    student, teacher = models.student, models.teacher
    of_loss = 4 * (2 * 24 * 40 + 24 + 40)
    numbers = sum(parameter.numel() for parameter in student.parameters())
    weights, gradients = (
        (8 if sharding in ("zero3", "fsdp2") else 1),
        (8 if sharding in ("zero2", "zero3", "fsdp2") else 1),
    )
    assert held["student weights"] == 2 * numbers // weights
    assert held["teacher weights"] == 4 * sum(parameter.numel() for parameter in teacher.parameters()) // 8
    assert held["projectors"] == of_loss
    assert held["gradients of earlier micro-batches"] == 2 * numbers // gradients + of_loss
    if sharding.startswith("zero"):  # in float32, as DeepSpeed has them
        assert held["optimizer: master weights"] == 4 * numbers // 8
        assert held["optimizer: states"] == 2 * 4 * numbers // 8 + 2 * of_loss
    else:
        assert held["optimizer: states"] == 2 * 2 * numbers // (8 if sharding == "fsdp2" else 1) + 2 * of_loss
    assert held.get("gradient buckets", 0) == {"ddp": 2 * numbers, "zero3": 2 * 500_000_000}.get(sharding, 0)
    backward = next(part.bytes for part in plan.parts if part.component == "student backward")
    assert (backward >= 2 * 500_000_000) == (sharding in ("zero1", "zero2"))


AUTO = {"reduce_bucket_size": "auto"}
WIDTHS: dict[str, tuple[SimpleNamespace, int | None]] = {
    "a width": (SimpleNamespace(hidden_size=24, hidden_sizes=[3]), 24),
    "several widths": (SimpleNamespace(hidden_sizes=[8, 32, 16]), 32),
    "a text model's": (SimpleNamespace(text_config=SimpleNamespace(hidden_size=40)), 40),
    "a text model's, several": (SimpleNamespace(text_config=SimpleNamespace(hidden_sizes=[8, 4])), 8),
    "none": (SimpleNamespace(text_config=SimpleNamespace()), None),
}


@pytest.mark.parametrize("kind", WIDTHS)
def test_auto_is_what_transformers_fills_in(kind: str) -> None:
    config, width = WIDTHS[kind]
    filled = HfTrainerDeepSpeedConfig({"zero_optimization": {"stage": 3} | AUTO})
    arguments, model = SimpleNamespace(get_warmup_steps=lambda steps: 0), SimpleNamespace(config=config)
    if width is None:
        with pytest.raises(ValueError, match="neither `hidden_size`"):
            filled.trainer_config_finalize(arguments, model, 1)
        with pytest.raises(ConfigurationError, match=r"reduce_bucket_size 'auto'.*hidden_size.*a number"):
            reduce_bucket_size("auto", config)
        return
    filled.trainer_config_finalize(arguments, model, 1)
    assert reduce_bucket_size("auto", config) == filled.config["zero_optimization"]["reduce_bucket_size"] == width**2
    assert reduce_bucket_size(7, config) == 7


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_the_bucket_is_as_large_as_it_is_said_to_be(pair: Models, sharding: Sharding) -> None:
    def bucket(size: int | str) -> tuple[int, int, str]:
        plan = planned(pair, devices=2, sharding=sharding, reduce_bucket_size=size)
        held = {part.component: part.bytes for part in plan.parts if part.kind == "held"}.get("gradient buckets", 0)
        backward = next(part.bytes for part in plan.parts if part.component == "student backward")
        return held, backward, " ".join(plan.assumptions)

    usual, small, large = bucket(500_000_000), bucket("auto"), bucket(10**9)
    saved = 4 * (500_000_000 - 24**2)  # of float32 numbers
    if not sharding.startswith("zero"):
        assert usual == small == large
        assert "reduce_bucket_size" not in small[2]
        return
    where = 0 if sharding == "zero3" else 1
    assert usual[where] - small[where] == saved
    assert large[where] - usual[where] == 4 * 500_000_000
    assert usual[1 - where] == small[1 - where]
    assert "500,000,000 numbers, its default" in usual[2]
    assert "--reduce-bucket-size auto" in usual[2]
    assert "576 numbers, the square of the student's hidden_size" in small[2]


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_a_smaller_bucket_is_more_collectives(pair: Models, sharding: Sharding) -> None:
    student = pair.traced("student", Setup(spec=SPEC, tokens=512, length=32))
    counts = [
        Spread(sharding, 2, reduce_bucket_size=size).collectives(student, micro_batches=2, trains=True)
        for size in (100, 24**2, 500_000_000)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_a_bucket_that_is_none_is_refused() -> None:
    for wrong in (0, -1, "small", 1.5):
        with pytest.raises(ConfigurationError, match=r"reduce_bucket_size: expected a positive number or 'auto'"):
            Setup(spec=SPEC, reduce_bucket_size=wrong)  # type: ignore[arg-type]


def test_a_bucket_as_a_trainer_makes_it_is_a_change_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    models = on_meta("student"), on_meta("teacher")
    setup = Setup(spec=SPEC, tokens=512, length=32, devices=2, sharding="zero2", device_memory=2**29)
    assert "--reduce-bucket-size auto" in [remedy.options for remedy in plan_step(*models, setup, H100).remedies]
    monkeypatch.setattr("dskd_components.preflight.plan_step.hidden_size_of", lambda config: None)
    remedies = plan_step(*models, setup, H100).remedies
    assert remedies
    assert not any("bucket" in remedy.options for remedy in remedies)


@pytest.mark.parametrize("change", [{"teacher": "store"}, {"checkpointing": True}, {"accumulation": 4}])
def test_what_is_to_save_memory_never_takes_more(pair: Models, change: dict[str, Any]) -> None:
    usual = {"tokens": 4096, "devices": 2, "sharding": "fsdp2"}
    assert planned(pair, **usual, **change).bytes <= planned(pair, **usual).bytes


def test_another_budget_is_the_same_engine() -> None:
    asked = {"name": "tiled", "products": "torch", "compiled": True, "vocabulary_parallel": "always"}
    changed = Setup(spec=SPEC.replace(engine=asked)).with_budget(64).spec.engine
    assert changed == SPEC.replace(engine=asked | {"memory_budget_mib": 64}).engine
    assert Setup(spec=SPEC.replace(engine="eager")).with_budget(64).spec.engine.memory_budget_mib == 64


@pytest.mark.parametrize("mib", [0, -1, math.nan, math.inf])
def test_a_budget_that_is_none_is_refused(mib: float) -> None:
    with pytest.raises(ConfigurationError, match=r"memory_budget: expected a positive number of MiB, got"):
        Setup(spec=SPEC).with_budget(mib)


def test_a_larger_budget_never_leaves_less_to_the_loss(pair: Models) -> None:
    budgets = [
        planned(pair, spec=SPEC.replace(engine={"name": "tiled", "memory_budget_mib": mib})).loss_bytes
        for mib in (0.1, 1, 1000)
    ]
    assert budgets == sorted(budgets)
    assert budgets[0] < budgets[-1] < planned(pair, spec=SPEC.replace(engine="eager")).loss_bytes


@pytest.mark.parametrize("preset", ["vanilla-kd", "dskd", "dskd-cma", "dskd-v2-eta"])
@pytest.mark.parametrize("engine", ["tiled", "eager"])
def test_parts_add_up(preset: str, engine: str) -> None:
    student = on_meta("student")
    teacher = on_meta("teacher" if preset in ("dskd-cma", "dskd-v2-eta") else "student")
    plan = planned(Models(student, teacher), spec=DSKDSpec.preset(preset, engine=engine), devices=2, sharding="ddp")
    report = plan.to_dict()
    assert plan.seconds == pytest.approx(sum(part["seconds"] for part in report["parts"]))
    by_kind = {
        kind: [part["bytes"] for part in report["parts"] if part["kind"] == kind] for kind in ("held", "in turn")
    }
    assert report["total"]["bytes"] == sum(by_kind["held"]) + max(by_kind["in turn"])
    assert all(part["seconds"] > 0 for part in report["parts"] if part["kind"] == "in turn")
    assert 0 < plan.loss_share < 1


@pytest.mark.parametrize("share", [0.9, 0.5])
def test_a_change_that_is_named_makes_it_fit(share: float) -> None:
    models = on_meta("student", tied=False), on_meta("teacher", tied=False)
    usual = Setup(spec=SPEC, tokens=256, length=32, devices=2, sharding="ddp")
    room = int(plan_step(*models, usual, H100).bytes * share)
    plan = plan_step(*models, replace(usual, device_memory=room), H100)
    assert not plan.fits
    assert plan.remedies, plan.to_text()
    for remedy in plan.remedies:
        changed = plan_step(*models, remedy.setup, H100)
        assert changed.fits
        assert (changed.bytes, changed.seconds) == (remedy.bytes, pytest.approx(remedy.seconds))
    assert [remedy.seconds for remedy in plan.remedies] == sorted(remedy.seconds for remedy in plan.remedies)


def test_where_nothing_helps_it_says_so(pair: Models) -> None:
    plan = plan_step(pair.student, pair.teacher, Setup(spec=SPEC, tokens=32, length=32, device_memory=1000), H100)
    assert not plan.fits
    assert plan.remedies == ()
    assert "Nothing that can be changed here makes it fit" in plan.to_text()


# What is stated is what steps take


@pytest.mark.parametrize(("tied", "checkpointing"), [(True, False), (False, True)])
def test_a_traced_model_does_what_it_does(tied: bool, checkpointing: bool) -> None:
    torch.manual_seed(0)
    found = trace(on_meta("student", tied=tied), 3, 20, trains=True, fused_attention=False, checkpointing=checkpointing)
    real: Any = LlamaForCausalLM(config("student", tied=tied)).train()
    real.set_attn_implementation("eager")
    if checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            real.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.zeros(3, 20, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        states = real(input_ids=ids, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states[-1]
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(states.sum(), list(real.parameters()), allow_unused=True)
    assert found.backward is not None
    assert (found.forward.flops, found.backward.flops) == (forward.get_total_flops(), backward.get_total_flops())
    assert found.bytes == sum(parameter.nbytes for parameter in real.parameters())
    assert sum(found.units) + found.root == found.bytes


def test_fused_attention_keeps_no_scores() -> None:
    kept = [
        trace(on_meta("student"), 2, 256, trains=True, fused_attention=fused).activations for fused in (True, False)
    ]
    scores = 2 * 4 * 256 * 256 * 4 * 2  # samples, heads, scores, bytes, layers
    assert kept[1] - kept[0] == pytest.approx(scores, rel=0.02)


COUNTING = {"name": "student", "filter": "correct", "kd_denominator": "kept"}
"""A term of it is divided by the tokens that it keeps, of the whole batch."""

SPACES: list[list[Any]] = [["student", "teacher"], ["student"], ["teacher"], ["shared_vocabulary"], [COUNTING]]


@pytest.mark.parametrize("spaces", SPACES)
def test_the_products_of_the_loss_are_those_of_a_step(spaces: list[Any]) -> None:
    shapes, step = a_loss(spaces, "eager", torch.float32)
    with FlopCounterMode(display=False) as counted:
        step()
    stated = sum(term.forward + term.backward for term in products_of(shapes))
    # The gradient to the teacher's states, which nobody takes, is the only difference.
    assert stated == pytest.approx(counted.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("products", ["fastest", "half_gradients"])
@pytest.mark.parametrize("spaces", SPACES)
def test_products_as_stored_come_in_as_many_parts_as_are_stated(spaces: list[Any], products: str) -> None:
    shapes, step = a_loss(spaces, {"name": "tiled", "products": products}, torch.bfloat16)
    shapes = replace(shapes, stored_as=dict.fromkeys(("student", "teacher"), torch.bfloat16))
    with HalfKernels() as kernels:
        step()
    terms = list(products_of(shapes))
    assert {term.dtype for term in terms} == {torch.bfloat16}
    made = sum(2 * math.prod(product.shape) for product in kernels.products)
    # Projections, which are few, are in float32.
    assert sum(term.forward + term.backward for term in terms) == pytest.approx(made, rel=0.03)


def a_loss(
    spaces: list[Any], engine: str | dict[str, str], dtype: torch.dtype
) -> tuple[LossShapes, Callable[[], None]]:
    spec = DSKDSpec(engine=engine, spaces=spaces, t2s_projector=LINEAR, s2t_projector=LINEAR)
    widths, vocabulary, shape = {"student": 12, "teacher": 20}, 900, (2, 16)
    loss_fn = DSKDLoss(spec, student_hidden_size=12, teacher_hidden_size=20)
    targets = torch.randint(vocabulary, shape)
    states = {
        side: LMStates(
            hidden_states=torch.randn(*shape, width, dtype=dtype, requires_grad=True),
            targets=targets,
            head=Head(torch.randn(vocabulary, width, dtype=dtype, requires_grad=side == "student")),
        )
        for side, width in widths.items()
    }
    shapes = LossShapes(
        spaces=spec.spaces,
        measure=spec.measure,
        engine=spec.engine,
        scored=dict.fromkeys(("student", "teacher"), targets.numel()),
        widths=widths,  # type: ignore[arg-type]
        vocabularies=dict.fromkeys(("student", "teacher"), vocabulary),
    )
    return shapes, lambda: loss_fn(states["student"], states["teacher"]).loss.backward()


def test_a_bfloat16_head_is_fast_where_products_are_made_as_stored() -> None:
    models = Models(*(on_meta(side, dtype=torch.bfloat16) for side in ("student", "teacher")))
    found = {}
    for products in ("half_gradients", "fastest", "torch"):
        plan = planned(models, spec=SPEC.replace(engine={"name": "tiled", "products": products}))
        found[products] = sum(part.seconds for part in plan.parts if part.component.startswith("loss: "))
    assert found["half_gradients"] < found["fastest"] < found["torch"]


def test_a_step_takes_the_memory_that_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)  # then scratch memory comes from the allocator
    monkeypatch.setitem(SIZES, "student", (64, 2, 3000))
    monkeypatch.setitem(SIZES, "teacher", (32, 1, 1500))
    spec = SPEC.replace(engine={"name": "tiled", "memory_budget_mib": 1})
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        student: Any = LlamaForCausalLM(config("student", tied=False)).train()
        teacher: Any = LlamaForCausalLM(config("teacher")).eval().requires_grad_(False)
        loss_fn = DSKDLoss.from_models(spec, student, teacher)
        optimizer = torch.optim.AdamW([*student.parameters(), *loss_fn.parameters()], lr=1e-5, foreach=False)
        groups = torch.arange(48).expand(4, -1)
        batch = {f"{side}_groups": groups for side in SIZES}
        for side, (_, _, vocabulary) in SIZES.items():
            ids = torch.randint(vocabulary, (4, 48))
            batch |= {f"{side}_input_ids": ids, f"{side}_labels": ids}
        for _ in range(2):
            loss_fn.run(student, teacher, batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    plan = planned(
        Models(on_meta("student", tied=False), on_meta("teacher")), ThisMachine(), spec=spec, tokens=4 * 48, length=48
    )
    assert plan.bytes == pytest.approx(peak, rel=0.15)
    assert plan.seconds > 0
    assert any("this CPU" in text for text in plan.assumptions)


def test_micro_batches_take_their_time_and_are_sent_each(pair: Models) -> None:
    usual: dict[str, Any] = {"devices": 2, "sharding": "fsdp2", "teacher": "sharded"}
    once, four = (
        {part.component: part for part in planned(pair, tokens=128 * number, accumulation=number, **usual).parts}
        for number in (1, 4)
    )
    for name in ("student forward", "teacher forward", "loss: ce", "loss: teacher", "student backward"):
        assert four[name].seconds == pytest.approx(4 * once[name].seconds)
    assert four["optimizer"].seconds == once["optimizer"].seconds
    sizes = [sum(parameter.nbytes for parameter in model.parameters()) for model in (pair.student, pair.teacher)]
    layers = [model.config.num_hidden_layers for model in (pair.student, pair.teacher)]
    # Half of the student's weights twice and of its gradients, half of the teacher's, and once those of projectors.
    # What is outside of layers is gathered once; beside all that, projectors' gradients and a count are summed.
    for parts, times in ((once, 1), (four, 4)):
        sent = times * (3 * sizes[0] + sizes[1]) / 2 + 4 * (2 * 24 * 40 + 24 + 40)
        collectives = times * (3 * layers[0] + 2 + layers[1] + 1) + 2
        expected = sent / H100.bandwidth + collectives * H100.latency
        assert parts["communication"].seconds == pytest.approx(expected)


@pytest.mark.parametrize("sharding", [name for name in get_args(Sharding) if name != "none"])
def test_a_collective_takes_time_however_small_it_is(pair: Models, sharding: Sharding) -> None:
    slow = replace(H100, latency=1.0)
    seconds = {
        latency: next(
            part.seconds
            for part in planned(pair, device, devices=2, sharding=sharding).parts
            if part.component == "communication"
        )
        for latency, device in ((0.0, replace(H100, latency=0.0)), (1.0, slow))
    }
    layers = pair.student.config.num_hidden_layers
    collectives = {"ddp": 1, "zero1": 2, "zero2": 2}.get(sharding, 3 * layers + 2)
    assert seconds[1.0] - seconds[0.0] == pytest.approx(collectives + 2)


def test_heads_that_stay_cut_are_not_gathered(pair: Models) -> None:
    usual: dict[str, Any] = {"devices": 4, "sharding": "fsdp2", "teacher": "sharded"}

    def plan(spec: DSKDSpec, **changes: Any) -> dict[str, PlanPart]:
        return {part.component: part for part in planned(pair, spec=spec, **usual | changes).parts}

    cut = SPEC.replace(engine={"name": "tiled", "vocabulary_parallel": "always"})
    whole, parts = plan(SPEC), plan(cut)
    head = 400 * 24 * 4
    for name in ("loss: ce", "loss: student"):
        # Nothing that is outside of layers is there, and three quarters of the head's gradient are not.
        root = pair.traced("student", Setup(spec=SPEC, tokens=512, length=32, **usual)).root
        assert whole[name].bytes - parts[name].bytes == pytest.approx(root + 3 * head // 4, abs=8)
    assert "gathered of the teacher" in whole
    assert "gathered of the teacher" not in parts
    assert parts["communication"].seconds > whole["communication"].seconds
    for changes in ({"sharding": "ddp", "teacher": "replicated"}, {"devices": 1}):
        assert plan(cut, **changes) == plan(SPEC, **changes)
    sees_all = {"distance": "adaptive_kl"}
    assert plan(cut.replace(**sees_all)) == plan(SPEC.replace(**sees_all)), "gathered all the same"


def test_a_head_that_learns_has_a_gradient_in_full_precision() -> None:
    learning, frozen = (on_meta("student", tied=False, dtype=torch.bfloat16) for _ in range(2))
    frozen.lm_head.requires_grad_(False)
    teacher = on_meta("teacher")
    spec = SPEC.replace(spaces=["student"])
    added = [planned(Models(student, teacher), spec=spec).loss_bytes for student in (learning, frozen)]
    assert added[0] - added[1] == 4 * 400 * 24


def test_faster_devices_take_less_time(pair: Models) -> None:
    slower = replace(H100, flops=H100.flops / 2, float32_flops=H100.float32_flops / 2)
    assert planned(pair, slower).seconds > planned(pair).seconds
    sent = {"devices": 2, "sharding": "fsdp2"}
    narrow, wide = (
        {part.component: part.seconds for part in planned(pair, device, **sent).parts}
        for device in (replace(H100, bandwidth=1e9, latency=0.0), replace(H100, latency=0.0))
    )
    assert narrow["communication"] == pytest.approx(450 * wide["communication"])
    assert {device.name for device in DEVICES.values()} == set(DEVICES)


# What people read


def test_the_table() -> None:
    parts = (
        PlanPart("student weights", "held", 0.0, 2**30),
        PlanPart("student forward", "in turn", 0.25, 2**29),
        PlanPart("loss: ce", "in turn", 0.75, 2**31),
    )
    setup = Setup(spec=SPEC, device_memory=2**30)
    remedy = Remedy("a sharded teacher", "--teacher sharded", 1.5, 2**20, setup)
    plan = StepPlan("S", "T", parts, setup, 2**20, ("a warning",), ("an assumption",), (remedy,))
    assert plan.to_text() == (
        "student weights - 1.00 GiB held\n"
        "student forward 0.25 s 512 MiB in turn\n"
        "loss: ce 0.75 s 2.00 GiB in turn\n"
        "together 1 s 3.00 GiB at most\n"
        "It does not fit: 3.00 GiB a device, the most during 'loss: ce'; a device has 1.00 GiB. A step of 8,192 tokens "
        "takes 1 s, of which the loss has 75%; it adds 1 MiB.\n"
        "The cheapest change that makes it fit: a sharded teacher (--teacher sharded): 1 MiB a device, 1.5 s a step.\n"
        "! a warning\n"
        "- an assumption"
    )


def test_a_terminal_gets_the_same(pair: Models) -> None:
    plan = planned(pair)
    text = StringIO()
    Console(file=text, width=400).print(plan)
    shown = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert shown[0] == "a step time a device"
    assert [line for line in plan.to_text().splitlines() if line not in shown] == []


def test_models_that_are_mixed_up_are_noticed() -> None:
    swapped = planned(Models(on_meta("teacher"), on_meta("student")))
    assert any("see whether the two are swapped" in text for text in swapped.warnings)
    assert planned(Models(on_meta("student"), on_meta("teacher"))).warnings == ()


def test_a_step_has_a_sample_at_least(pair: Models) -> None:
    [warning] = planned(pair, tokens=32, length=32, devices=4, sharding="ddp").warnings
    assert "more than the 32 tokens that were asked for" in warning


@pytest.mark.parametrize("tokens", [96, 97, 250])
@pytest.mark.parametrize(("devices", "accumulation"), [(1, 1), (2, 1), (1, 3)])
def test_the_tokens_that_are_stated_are_those_that_are_counted(
    pair: Models, devices: int, accumulation: int, tokens: int
) -> None:
    sharding = "ddp" if devices > 1 else "none"
    plan = planned(pair, tokens=tokens, length=32, devices=devices, accumulation=accumulation, sharding=sharding)
    each = PlannedPair(pair, plan.setup).tokens("student")
    counted = each * devices * accumulation
    assert f"A step of {counted:,} tokens takes" in plan.verdict()
    assert plan.to_dict()["setup"]["counted_tokens"] == counted
    assert (f"{tokens:,} were asked for" in plan.to_text()) == (counted != tokens)


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize(("kind", "refused"), [("llama", False), ("gpt2", True)])
def test_samples_beyond_a_models_positions_are_said(side: str, kind: str, refused: bool) -> None:
    models = {name: on_meta(name) for name in SIZES}
    short = config(side)
    short.max_position_embeddings = 64
    gpt2 = GPT2Config(n_embd=24, n_layer=1, n_head=2, n_positions=64, vocab_size=400)
    with torch.device("meta"):
        models[side] = GPT2LMHeadModel(gpt2) if kind == "gpt2" else LlamaForCausalLM(short)
    pair = Models(models["student"], models["teacher"])
    said = f"the {side} has 64 positions, but a sample has 65 of its tokens"
    found = [text for text in planned(pair, length=65, tokens=65).warnings if text.startswith(said)]
    assert [("so it is refused" in text) for text in found] == [refused]
    assert not any("positions" in text for text in planned(pair, length=64, tokens=64).warnings)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokens": 0}, "tokens: expected a positive number, got 0"),
        ({"teacher_tokens": math.inf}, "teacher_tokens: expected a positive number, got inf"),
        ({"teacher_tokens": math.nan}, "teacher_tokens: expected a positive number, got nan"),
        ({"teacher_tokens": 1e300}, "more tokens than a device can number"),
        ({"tokens": 10**30}, "more tokens than a device can number"),
        ({"length": 10**30}, "more tokens than a device can number"),
        ({"length": -1}, "length: expected"),
        ({"scored": 1.5}, "scored: expected a share"),
        ({"devices": 2}, "sharding 'none' is for one device, got 2"),
        ({"device_memory": 0}, "device_memory: expected"),
        ({"optimizer": "adamv"}, "optimizer 'adamv' is not known (did you mean"),
        ({"spec": DSKDSpec.preset("dskd")}, "the aligner 'identity' presumes one tokenizer"),
    ],
)
def test_wrong_setups_are_named(pair: Models, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        planned(pair, **changes)
    assert named in str(caught.value)


def test_models_that_cannot_be_traced_are_named(pair: Models) -> None:
    with pytest.raises(InputError, match="expected two models, got one and the same"):
        plan_step(pair.student, pair.student, Setup(spec=SPEC), H100)
    with pytest.raises(InputError, match="expected parameters on the meta device"):
        planned(Models(LlamaForCausalLM(config("student")), pair.teacher))
    with pytest.raises(ConfigurationError, match=r"'fsdp' is not known \(did you mean 'fsdp2'"):
        require_sharding("fsdp")
    with pytest.raises(ConfigurationError, match="device 'h1000' is not known"):
        stated_device("h1000")

    class Looking(LlamaForCausalLM):
        def forward(self, *arguments: Any, **options: Any) -> Any:
            float(self.lm_head.weight.sum())
            return super().forward(*arguments, **options)

    with torch.device("meta"):
        looking = Looking(config("student"))
    with pytest.raises(InputError, match="Looking cannot be run on the meta device"):
        planned(Models(looking, pair.teacher))


class ReadsAMap(Space):
    """Compares where a token has a partner."""

    name: Literal["reads_a_map"] = "reads_a_map"
    side: ClassVar[Side] = "student"
    projector: ClassVar[Direction | None] = "t2s"
    terms: ClassVar[tuple[str, ...]] = ("mapped",)

    @property
    def needs_vocabulary_map(self) -> bool:
        return True

    def compare(self, rows: ComparedRows) -> SpaceResult:
        assert rows.teacher_to_student is not None
        return SpaceResult(terms={"mapped": TokenTerm(values=rows.divergence(None))})


@pytest.mark.parametrize("kind", ["space", "distance", "aligner", "projector"])
def test_whatever_is_registered_has_a_plan(pair: Models, kind: str) -> None:
    alike = Models(pair.student, pair.student.__class__(pair.student.config).to("meta"))
    for component in default_registry().components(kind):
        field = {"space": "spaces", "projector": "s2t_projector"}.get(kind, kind)
        spec = SPEC.replace(**{field: [component.name] if kind == "space" else component.name})
        plan = planned(alike if spec.aligner.same_tokenizer else pair, spec=spec, tokens=64)
        assert 0 < plan.loss_share < 1, component.name
    assert planned(pair, spec=SPEC.replace(spaces=[ReadsAMap()]), tokens=64).loss_share > 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"spaces": [SpanLikelihood()]}, "the space 'span_likelihood' combines groups"),
        ({"spaces": [LearnedSpans()]}, "the space 'learned_spans' combines groups"),
        ({"spaces": [SpaceWithModule()]}, "has parameters"),
        ({"distance": LearnedScale()}, "has parameters"),
    ],
    ids=["groups", "learned groups", "learned space", "learned distance"],
)
def test_what_no_plan_is_made_of_is_named(pair: Models, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        planned(pair, spec=SPEC.replace(**changes), tokens=64)
    assert named in str(caught.value)
    assert "preflight measures it" in str(caught.value)


def test_projectors_from_heads_count_as_large_as_they_are() -> None:
    student, teacher = on_meta("student"), on_meta("teacher")
    for projector, numbers in (("pinv", 24 * 40), ("live_pinv", 0)):
        spec = DSKDSpec(aligner="span", spaces=["teacher"], s2t_projector=projector)
        found = PlannedPair(Models(student, teacher), Setup(spec=spec, tokens=64, length=32)).projectors
        assert found.numbers == numbers
        assert found.bytes > 0
