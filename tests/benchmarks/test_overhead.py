"""The command that measures the loss's share, tiny; and what its shares are made of."""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.evidence import overhead
from benchmarks.evidence.overhead_page import measured_share, parts_of, planned_share, step_over_ce
from benchmarks.evidence.page import fill_places
from benchmarks.loss_step import contestants
from benchmarks.loss_step.case import Case

if TYPE_CHECKING:
    from pathlib import Path

ROW: dict[str, Any] = {
    "models": {"teacher, forward": 2.0, "student, forward and backward": 3.0, "optimizer": 1.0},
    "loss": {"ce": 1.0, "dskd-cma tiled": 6.0},
    "parts": {"dskd-cma products": 3.0, "dskd-cma projections": 1.0, "dskd-cma aligner": 0.5},
}

PLANNED: dict[str, dict[str, float]] = {
    method: {"teacher forward": 2.0, "student forward": 1.0, "student backward": 1.0, "loss: ce": 2.0, "loss: kd": 4.0}
    for method in ("vanilla-kd", "dskd-cma")
}


def test_shares_are_of_a_step() -> None:
    assert measured_share(ROW, "dskd-cma tiled") == 0.5
    assert measured_share(ROW, "ce") == 0.2  # there is no teacher
    assert step_over_ce(ROW, "dskd-cma tiled") == 12 / 5
    assert parts_of(ROW, "dskd-cma") == {"products": 3.0, "projections": 1.0, "aligner": 0.5, "rest": 1.5}
    assert planned_share(PLANNED, "dskd-cma") == 0.6
    assert planned_share(PLANNED, "ce") == 0.5


def test_the_command_measures_once_and_has_all_numbers(tmp_path: Path, monkeypatch: Any) -> None:
    for again in (False, True):
        if again:
            monkeypatch.setattr(overhead, "measure", lambda *_: pytest.fail("it was measured again"))
            monkeypatch.setattr(overhead, "plan", lambda *_: pytest.fail("it was worked out again"))
        with contextlib.redirect_stdout(io.StringIO()):
            overhead.main(["--quick", "--folder", str(tmp_path)])
    found = json.loads((tmp_path / "overhead.json").read_text(encoding="utf-8"))
    (row,) = found["measured"]
    losses = ["ce", *(f"{method} {engine}" for method in overhead.METHODS for engine in overhead.ENGINES)]
    assert set(row["loss"]) == set(losses)
    assert all(0 < measured_share(row, loss) < 1 for loss in losses)
    assert {each["device"] for each in found["planned"]} == {"cpu", "h100", "h100, TF32"}
    for each in found["planned"]:
        assert all(0 < planned_share(each, method) < 1 for method in ("ce", *overhead.METHODS))
    assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name} -->\n<!-- end -->\n" for name in ("shares", "parts", "planned")))
    tables = (overhead.share_table, overhead.parts_table, overhead.planned_table)
    fill_places(page, dict(zip(("shares", "parts", "planned"), (of(found) for of in tables), strict=True)))
    assert page.read_text(encoding="utf-8").count("tiny ← small") == 5


@pytest.mark.parametrize("method", ["vanilla-kd", "dskd-cma"])
def test_bare_products_are_of_the_widths_of_the_case(method: Any) -> None:
    case = Case(method, 8, (11, 13 if method == "dskd-cma" else 11), widths=(6, 10))
    contestants.bare_products(case, *case.states())()
    contestants.fastest_products(case, *case.states())()
