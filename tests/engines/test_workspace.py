"""Memory is used again, and never by two at once."""

from __future__ import annotations

import copy
import mmap
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components.engines._tiling.reassociation import Shapes, Way
from dskd_components.engines.workspace import HUGE_PAGE, Scratch, Workspace
from tests.helpers.tiled_steps import batch_and_loss, gradients

CPU = torch.device("cpu")
COLUMNS = HUGE_PAGE // 4
"""Numbers in a row of 2 MiB; matrices of fewer than two such rows are too small to be kept."""

in_large_pages = pytest.mark.skipif(
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


@in_large_pages
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


@in_large_pages
def test_who_asks_meanwhile_gets_other_memory() -> None:
    workspace = Workspace()
    with workspace.lend() as scratch:
        matrix(scratch, 2)
    with workspace.lend() as one, workspace.lend() as other:
        assert matrix(one, 2).data_ptr() != matrix(other, 2).data_ptr()


@in_large_pages
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


@in_large_pages
@pytest.mark.usefixtures("_small_tiles_are_kept")
def test_a_loss_that_was_used_can_be_copied_and_pickled() -> None:
    batch, loss_fn = batch_and_loss("dskd", engine={"name": "tiled", "memory_budget_mib": 1.0})
    expected = batch.loss(loss_fn).loss
    assert loss_fn._workspace._free
    for again in (copy.deepcopy(loss_fn), pickle.loads(pickle.dumps(loss_fn))):
        assert not again._workspace._free
        assert torch.equal(batch.loss(again).loss, expected)


@in_large_pages
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
