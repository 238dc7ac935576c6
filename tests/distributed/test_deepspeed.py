"""DeepSpeed: loss and gradients of two ranks equal those of one process, at each stage of ZeRO."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dskd_components import InputError
from tests.helpers.distributed_step import make_step, of_one_process
from tests.helpers.process_groups import run_on_ranks

pytest.importorskip("deepspeed")

RANKS = 2
# How it is spread, preset, tied, whether the second rank has nothing scored, engine.
CASES = [
    ("Zero3", "dskd", False, True, "tiled"),
    ("Zero3", "dskd", True, False, "eager"),
    ("Zero3", "dskd-cma", True, False, "tiled"),
    ("Zero3BuiltAfter", "dskd-v2", False, False, "tiled"),
    ("Zero3", "dskd", False, True, "cut"),
    ("Zero3", "narrowed", True, False, "cut"),
    ("Zero2", "dskd-v2", False, True, "tiled"),
    ("Zero2Together", "dskd", False, False, "tiled"),
    ("Zero1", "dskd", True, False, "tiled"),
]


def run_rank(rank: int, folder: str) -> None:
    from tests.helpers import engines_of_deepspeed

    for number, (spread, preset, tied, silent, engine) in enumerate(CASES):
        step = make_step(preset, tied=tied, silent=silent, engine=engine, seed=rank)
        spread_step = getattr(engines_of_deepspeed, spread)(step)
        with engines_of_deepspeed.noting_what_is_gathered() as noted:
            torch.save(spread_step.run(accumulate=True), f"{folder}/{number}-{rank}.pt")
        if spread == "Zero3":
            stays_cut = engine == "cut" and preset != "narrowed"
            assert (step.teacher.lm_head.weight.ds_id in noted) != stays_cut
        spread_step.engine.step()
        partitioned = engines_of_deepspeed.shapes_of(step.student) == {torch.Size([0])}
        assert partitioned == spread.startswith("Zero3"), "what was gathered is put away again"
        spread_step.engine.destroy()
    torch.save(engines_of_deepspeed.rows_of_partitions(), f"{folder}/rows-{rank}.pt")
    together = engines_of_deepspeed.Zero3Together(make_step("dskd", tied=False, seed=rank))
    with pytest.raises(InputError) as raised:
        together.run(accumulate=False)
    Path(f"{folder}/together-{rank}.txt").write_text(str(raised.value))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deepspeed")
    run_on_ranks(run_rank, RANKS, path)
    return path


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_loss_and_gradients_equal_those_of_one_process(folder: Path, number: int) -> None:
    _, preset, tied, silent, engine = CASES[number]
    expected = of_one_process(preset, tied=tied, silent=silent, engine=engine)
    for rank in range(RANKS):
        found = torch.load(folder / f"{number}-{rank}.pt")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(
                tensor, expected[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("rank", range(RANKS))
def test_projectors_in_parts_are_refused(folder: Path, rank: int) -> None:
    message = (folder / f"together-{rank}.txt").read_text()
    for part in ("The loss's ", "in parts on several ranks", "ZeRO-3", "reduce_gradients", "fully_shard(loss_fn)"):
        assert part in message


def test_rows_of_partitions_are_those_of_the_weight(folder: Path) -> None:
    """Borders of partitions between rows and within them, padding, and weights that are too small to be cut."""
    found = [torch.load(folder / f"rows-{rank}.pt") for rank in range(RANKS)]
    for shape in found[0]:
        parts = [of_rank[shape] for of_rank in found]
        if shape in ((1, 6), (2, 1, 3)):
            assert parts == [None] * RANKS, shape
            continue
        weight = torch.arange(shape[0] * shape[1], dtype=torch.float32).view(shape)
        assert torch.equal(torch.cat([part["own"] for part in parts]), weight), shape
        for part in parts:
            assert torch.equal(part["picked"], weight[[shape[0] - 1, 0]]), shape
            assert torch.equal(part["gathered"], weight)
            assert part["sizes"] == (shape[0], shape[1], shape[0])
