"""Clipping by hand: two norms, one for the student and one for the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dskd_components import InputError, clip_grad_norms
from tests.helpers.process_groups import run_on_ranks

if TYPE_CHECKING:
    from pathlib import Path

SCALES = st.floats(1e-3, 1e3)


def part(*sizes: int, scale: float = 1.0) -> nn.Module:
    module = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in sizes])
    generator = torch.Generator().manual_seed(sum(sizes))
    for parameter in module:
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return module


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


@given(ours=SCALES, theirs=SCALES, max_norm=st.sampled_from([None, 0, 0.0, 0.1, 1, 50.0, math.inf]))
def test_each_part_is_clipped_as_torch_clips_it_alone(ours: float, theirs: float, max_norm: float | None) -> None:
    student, loss_fn = part(3, 4, scale=ours), part(5, scale=theirs)
    copies = part(3, 4, scale=ours), part(5, scale=theirs)
    norms = clip_grad_norms(student, loss_fn, max_norm)
    expected = [torch.nn.utils.clip_grad_norm_(alone.parameters(), max_norm or math.inf) for alone in copies]
    torch.testing.assert_close([norms["grad_norm"], norms["projector_grad_norm"]], expected)
    for module, alone in zip((student, loss_fn), copies, strict=True):
        torch.testing.assert_close(gradients(module), gradients(alone))


def test_parts_without_gradients_or_parameters_are_passed_over() -> None:
    student, loss_fn = part(3, 4), part(5)
    student[0].grad = loss_fn[0].grad = None
    norms = clip_grad_norms(student, loss_fn, 1e-3)
    assert norms["projector_grad_norm"] == 0
    assert student[1].grad.norm() == pytest.approx(1e-3, rel=1e-2)
    assert clip_grad_norms(part(3), nn.Module(), 1.0).keys() == {"grad_norm"}


def test_parameters_of_the_loss_within_the_student_are_the_losss() -> None:
    student, loss_fn = part(3), part(5, scale=1e3)
    expected = gradients(student)[0].norm()
    student.add_module("loss_fn", loss_fn)
    assert clip_grad_norms(student, loss_fn, 1.0)["grad_norm"] == pytest.approx(expected.item())


@pytest.mark.parametrize("max_norm", [-1.0, math.nan, "1", True, [1.0]])
def test_what_is_no_norm_is_refused(max_norm: Any) -> None:
    with pytest.raises(InputError, match=r"max_norm: expected the greatest norm"):
        clip_grad_norms(part(3), part(5), max_norm)


def test_gradients_that_are_not_there_are_refused() -> None:
    student = part(3)
    student[0].grad = None
    with pytest.raises(InputError, match=r"no gradients to clip.*after backward.*DeepSpeed"):
        clip_grad_norms(student, part(5), 1.0)
    student[0].requires_grad_(False)
    assert clip_grad_norms(student, part(5), 1.0)["grad_norm"] == 0


def clip_shards(rank: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import Shard, distribute_tensor

    meshes = [init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (2, 1)), None]
    student, loss_fn = part(3, 4, 5, scale=7.0), part(6, scale=900.0)
    for module in (student, loss_fn):
        for number, (parameter, mesh) in enumerate(zip([*module], meshes, strict=False)):
            if mesh is not None:
                placements = [Shard(0)] * mesh.ndim
                sharded = nn.Parameter(distribute_tensor(parameter.detach(), mesh, placements))
                sharded.grad = distribute_tensor(parameter.grad, mesh, placements)
                module[number] = sharded
    norms = clip_grad_norms(student, loss_fn, 2.0)
    whole = [[getattr(g, "full_tensor", lambda g=g: g)() for g in gradients(module)] for module in (student, loss_fn)]
    flat = FullyShardedDataParallel(nn.Linear(4, 4), use_orig_params=True, device_id=torch.device("cpu"))
    flat(torch.ones(1, 4)).sum().backward()
    with pytest.raises(InputError, match="FullyShardedDataParallel flattens"):
        clip_grad_norms(flat, loss_fn, 2.0)
    torch.save((norms, whole), f"{folder}/{rank}.pt")


def test_sharded_gradients_are_measured_whole(tmp_path: Path) -> None:
    run_on_ranks(clip_shards, 2, tmp_path)
    student, loss_fn = part(3, 4, 5, scale=7.0), part(6, scale=900.0)
    expected = clip_grad_norms(student, loss_fn, 2.0)
    for rank in (0, 1):
        norms, whole = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(norms, expected)
        torch.testing.assert_close(whole, [gradients(student), gradients(loss_fn)])
