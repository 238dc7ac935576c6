"""A step hardly ever waits for the device it runs on, whatever is computed and however the batch is laid out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator, Head, MultiTeacherLoss, MultiTeacherSpec
from dskd_components.spec.presets import PRESETS
from tests.helpers.host_waits import HostWaits
from tests.helpers.pairs import sound_pair
from tests.helpers.registered import build, specs
from tests.helpers.strategies import Batch, make_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

MOST = {"tiled": 3, "eager": 2}
PUBLISHED = [name for name in PRESETS if not name.startswith("recommended")]  # these are among the others already
SPECS = {f"published {name}": DSKDSpec.preset(name) for name in PUBLISHED} | specs()


def layouts(spec: DSKDSpec) -> Iterator[tuple[str, Batch]]:
    batch = make_batch(3, same_tokenizer=spec.aligner.same_tokenizer, batch=4)
    yield "ragged", batch
    yield "packed", batch.packed()
    yield "half scored", batch.padded((7, 0), (7, 0) if spec.aligner.same_tokenizer else (0, 9), garbage=torch.nan)


def learning(batch: Batch, bias: Tensor | None = None) -> Batch:
    hidden = batch.student.hidden_states.detach().requires_grad_()
    head = Head(batch.student.head.weight.detach().requires_grad_(), bias=bias)
    return replace(batch, student=replace(batch.student, hidden_states=hidden, head=head))


def waits(step: Callable[[], Tensor]) -> list[str]:
    step().backward()  # what never changes is found out once
    with HostWaits() as found:
        step().backward()
    return found.lines


@pytest.mark.parametrize("engine", ["tiled", "eager"])
@pytest.mark.parametrize("name", SPECS)
def test_a_step_waits_a_few_times_at_most(name: str, engine: str) -> None:
    spec = SPECS[name].replace(engine=engine)
    for layout, ragged in layouts(spec):
        batch = learning(ragged)
        loss_fn = build(spec, batch)
        found = waits(lambda: batch.loss(loss_fn, num_items_in_batch=torch.tensor(9)).loss)  # noqa: B023
        assert len(found) <= MOST[engine], f"{layout}: {len(found)} waits:\n" + "\n".join(found)


@pytest.mark.parametrize("engine", ["tiled", "eager"])
@pytest.mark.parametrize("preset", ["dskd-cma", "dskd-v2-eta"])
def test_biases_that_rule_tokens_out_are_not_waited_for(preset: str, engine: str) -> None:
    spec = DSKDSpec.preset(preset, engine=engine)
    batch = make_batch(3, same_tokenizer=False)
    used = torch.zeros(11, dtype=torch.bool).index_fill(0, batch.student.targets.clamp_min(0).flatten(), True)
    bias = torch.zeros(11, dtype=torch.float64).masked_fill(~used, -torch.inf)
    batch = learning(batch, bias)
    loss_fn = build(spec, batch)
    found = waits(lambda: batch.loss(loss_fn).loss)
    assert len(found) <= MOST[engine], "\n".join(found)


@pytest.mark.parametrize("engine", ["tiled", "eager"])
def test_several_teachers_are_waited_for_as_one(engine: str) -> None:
    spec = MultiTeacherSpec(teachers={"cma": {"aligner": "cma"}, "span": {"aligner": "span"}, "own": {}}, engine=engine)
    one = learning(make_batch(1, same_tokenizer=True))
    two = make_batch(1, same_tokenizer=False, student_vocabulary=11)
    batches = {"cma": replace(two, student=one.student), "span": replace(two, student=one.student), "own": one}
    loss_fn = MultiTeacherLoss(spec, {name: build(spec.pair(name), batch) for name, batch in batches.items()})

    def step() -> Tensor:
        groups = {"span": batches["span"].groups}
        return loss_fn(one.student, {name: batch.teacher for name, batch in batches.items()}, alignments=groups).loss

    found = waits(step)
    assert len(found) <= MOST[engine], "\n".join(found)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("preset", ["dskd-cma", "dskd-v2-eta"])
def test_a_run_of_both_models_waits_once_more(preset: str, packing: bool) -> None:
    pair = sound_pair()
    models, tokenizers = [[pair[side + end] for side in ("student", "teacher")] for end in ("", "_tokenizer")]
    spec = DSKDSpec.preset(preset)
    loss_fn = DSKDLoss.from_models(spec, *models, *tokenizers)
    batch = DualTokenizerCollator(*tokenizers, aligner=spec.aligner, packing=packing)(
        [{"text": "One text."}, {"prompt": "A question", "response": " and its answer"}]
    )
    found = waits(lambda: loss_fn.run(*models, batch).loss)
    own = [line for line in found if "models/hidden_states.py" not in line]  # what the models themselves wait for
    assert len(own) <= MOST[spec.engine.name] + 1, "\n".join(own)


def test_a_wait_is_noted_with_its_line() -> None:
    batch = learning(make_batch(1, same_tokenizer=True))
    with HostWaits() as found:
        batch.student.checked("student")
        kept = batch.student.targets[batch.student.scored]
        on_host = torch.arange(len(kept))
        assert on_host.tolist()[0] == int(on_host[0]) == 0
    assert [line.partition(" at ")[0] for line in found.lines] == ["cpu", "index by a mask"]
    assert "host_reads.py" in found.lines[0]
