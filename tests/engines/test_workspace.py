"""Memory is used again, and never by two at once."""

from __future__ import annotations

import copy
import mmap
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import Head
from dskd_components.engines import workspace
from dskd_components.engines._tiling.precomputed_gradient import with_precomputed_gradient
from dskd_components.engines._tiling.reassociation import Shapes, Way
from dskd_components.engines.workspace import HUGE_PAGE, Scratch, Workspace, in_large_pages
from tests.helpers.tiled_steps import batch_and_loss, gradients

CPU = torch.device("cpu")
COLUMNS = HUGE_PAGE // 4
"""Numbers in a row of 2 MiB; matrices of fewer than two such rows are too small to be kept."""

has_large_pages = pytest.mark.skipif(
    not hasattr(mmap, "MADV_HUGEPAGE") or torch.get_default_device().type != "cpu",
    reason="memory is kept on Linux only, and on a CPU",
)


def matrix(scratch: Scratch, rows: int) -> torch.Tensor:
    return scratch.matrix(rows, COLUMNS, dtype=torch.float32, device=CPU)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(1, 5), max_size=4), max_size=4))
def test_matrices_that_exist_at_once_share_no_memory(steps: list[list[int]]) -> None:
    workspace = Workspace()
    for sizes in steps:
        with workspace.lend() as scratch:
            made = [matrix(scratch, rows) for rows in sizes]
            assert [tuple(one.shape) for one in made] == [(rows, COLUMNS) for rows in sizes]
            for number, one in enumerate(made):
                one.fill_(number)
            assert all((one == number).all() for number, one in enumerate(made))
            del made


@has_large_pages
def test_a_later_step_has_the_memory_of_an_earlier_one() -> None:
    workspace = Workspace()
    addresses = []
    for sizes in ((4, 2), (2, 4), (3,)):
        with workspace.lend() as scratch:
            addresses.append({matrix(scratch, rows).data_ptr() for rows in sizes})
    assert addresses[0] == addresses[1]
    assert addresses[2] < addresses[0]
    with workspace.lend() as scratch:
        matrix(scratch, 6)
    kept = sorted(map(len, workspace._free))
    assert kept == [2 * HUGE_PAGE, 6 * HUGE_PAGE]  # in place of the largest that was too small


@has_large_pages
def test_who_asks_meanwhile_gets_other_memory() -> None:
    workspace = Workspace()
    with workspace.lend() as scratch:
        matrix(scratch, 2)
    with workspace.lend() as one, workspace.lend() as other:
        assert matrix(one, 2).data_ptr() != matrix(other, 2).data_ptr()


@has_large_pages
def test_what_one_has_given_back_is_not_lent_to_two() -> None:
    workspace = Workspace()
    with workspace.lend() as scratch:
        assert matrix(scratch, 2).data_ptr() != matrix(scratch, 2).data_ptr()
    with workspace.lend() as early:
        with workspace.lend() as quick:
            matrix(quick, 2)
        with workspace.lend() as late:
            assert matrix(late, 2).data_ptr() != matrix(early, 2).data_ptr()


@pytest.fixture
def _small_tiles_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dskd_components.engines.workspace.HUGE_PAGE", 64)


@has_large_pages
@pytest.mark.usefixtures("_small_tiles_are_kept")
def test_a_loss_that_was_used_can_be_copied_and_pickled() -> None:
    batch, loss_fn = batch_and_loss("dskd", engine={"name": "tiled", "memory_budget_mib": 1.0})
    expected = batch.loss(loss_fn).loss
    assert loss_fn._workspace._free
    for again in (copy.deepcopy(loss_fn), pickle.loads(pickle.dumps(loss_fn))):
        assert not again._workspace._free
        assert torch.equal(batch.loss(again).loss, expected)


@has_large_pages
@pytest.mark.usefixtures("_small_tiles_are_kept")
@pytest.mark.parametrize("way", ["apart", "logits", "throughout"])
def test_steps_with_tiles_in_the_same_memory_do_not_disturb_one_another(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shapes, "cheapest", lambda *_: way)
    batch, loss_fn = batch_and_loss("dskd", engine={"name": "tiled", "memory_budget_mib": 1.0})
    first, second = batch.loss(loss_fn).loss, batch.loss(loss_fn).loss
    assert loss_fn._workspace._free
    torch.testing.assert_close(gradients(first, batch, loss_fn), gradients(second, batch, loss_fn), rtol=0, atol=0)


@has_large_pages
@given(st.integers(0, 5 * HUGE_PAGE), st.sampled_from([torch.bfloat16, torch.float32]))
def test_a_hint_is_about_large_pages_that_lie_in_a_matrix_whole(count: int, dtype: torch.dtype) -> None:
    hints: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "_advise", lambda: lambda first, size, _: hints.append((first.value, size.value)))
        matrix = torch.empty(count, dtype=dtype)
        assert in_large_pages(matrix) is matrix
    assert len(hints) == (matrix.nbytes >= 2 * HUGE_PAGE)
    for first, size in hints:
        assert first % HUGE_PAGE == size % HUGE_PAGE == 0
        assert matrix.data_ptr() <= first < first + size <= matrix.data_ptr() + matrix.nbytes
        assert matrix.nbytes - size < 2 * HUGE_PAGE


@has_large_pages
def test_the_system_takes_the_hint() -> None:
    """As `Scratch` gives it, or not at all, where a kernel has no large pages."""
    matrix = in_large_pages(torch.empty(64 * HUGE_PAGE, dtype=torch.uint8))
    middle, flags = matrix.data_ptr() + matrix.nbytes // 2, ""
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first, _, last = line.split()[0].partition("-")
        if last:
            inside = int(first, 16) <= middle < int(last, 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("a kernel without large pages")
    assert " hg" in flags


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_gradients_that_are_narrowed_take_no_hint_where_they_have_no_memory(dtype: torch.dtype) -> None:
    """A batch of gradients, as `is_grads_batched` asks for, is no tensor with an address."""
    x = torch.zeros(HUGE_PAGE, dtype=dtype, requires_grad=True)
    loss = with_precomputed_gradient(torch.zeros(()), [(x, torch.ones(HUGE_PAGE))])
    (found,) = torch.autograd.grad(loss, [x], grad_outputs=torch.tensor([1.0, 2.0]), is_grads_batched=True)
    assert found.dtype == dtype
    assert (found == torch.tensor([[1.0], [2.0]])).all()


@has_large_pages
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_gradient_of_a_head_is_in_large_pages(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """That in which it is summed, and that to which it is narrowed."""
    hints: list[int] = []
    monkeypatch.setattr(workspace, "HUGE_PAGE", 16)
    monkeypatch.setattr(workspace, "_advise", lambda: lambda first, size, _: hints.append(size.value))
    batch, loss_fn = batch_and_loss("dskd", engine="tiled")
    weight = batch.student.head.weight.detach().to(dtype).requires_grad_()
    batch = replace(batch, student=replace(batch.student, head=Head(weight)))
    batch.loss(loss_fn).loss.backward()
    assert weight.grad is not None
    expected = [weight.numel() * size for size in ((8,) if dtype == torch.float32 else (8, 2))]
    near = [any(0 <= size - hint < 32 for hint in hints) for size in expected]
    assert all(near), (expected, hints)
