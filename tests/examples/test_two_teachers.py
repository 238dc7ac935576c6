"""The example with two teachers: it runs, learns, and is the same each time."""

from __future__ import annotations

from examples.two_teachers import main


def test_the_student_learns_from_both_teachers() -> None:
    log = main(steps=12)
    assert len(log) == 12
    of_teachers = {f"{name}/{term}" for name in ("large", "small") for term in ("t2s_ce", "t2s_kd", "s2t_kd")}
    assert all(set(values) == {"loss", "ce"} | of_teachers for values in log)
    assert log[-1]["ce"] < 0.9 * log[0]["ce"]
    assert log[-1]["large/t2s_ce"] < log[0]["large/t2s_ce"]
    # At first the second teacher has no weight: the loss is what the others make it.
    first = log[0]
    of_large = sum(first[f"large/{term}"] for term in ("t2s_ce", "t2s_kd", "s2t_kd"))
    assert abs(first["loss"] - (0.5 * first["ce"] + 0.5 * 0.7 * of_large)) < 1e-5
    assert main(steps=1) == log[:1]
