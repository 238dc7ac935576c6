"""A training in one file: killed at any moment, there is the old one or the new one, and never a mixture."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dskd_components import (
    CheckpointError,
    DSKDLoss,
    DSKDSpec,
    InputError,
    MultiTeacherLoss,
    MultiTeacherSpec,
    load_checkpoint,
    save_checkpoint,
)
from tests.helpers.processes import exit_code

SIZES = {"student_hidden_size": 4, "teacher_hidden_size": 6}


SGD = torch.optim.SGD([nn.Parameter(torch.ones(1))])


def loss_of(**fields: Any) -> DSKDLoss:
    return DSKDLoss(DSKDSpec(**fields), **SIZES)


class Run:
    """What a loop holds; all of its numbers tell the step that they are of."""

    def __init__(self, value: float = 0.0, spec: DSKDSpec | None = None) -> None:
        self.student = nn.Linear(4, 3)
        self.loss_fn = DSKDLoss(spec or DSKDSpec(), **SIZES)
        self.optimizer = torch.optim.AdamW([*self.student.parameters(), *self.loss_fn.parameters()])
        for parameter in (*self.student.parameters(), *self.loss_fn.parameters()):
            nn.init.constant_(parameter, value)
            parameter.grad = torch.full_like(parameter, value)
        if value:
            self.optimizer.param_groups[0]["lr"] = 0.0
            self.optimizer.step()
            for state in self.optimizer.state.values():
                state["exp_avg"].fill_(value)

    def save(self, path: Path, **changes: Any) -> None:
        save_checkpoint(path, **(self.parts() | {"step": round(self.value()), "note": [self.value()]} | changes))

    def load(self, path: Path, **changes: Any) -> dict[str, Any]:
        return load_checkpoint(path, **(self.parts() | changes))

    def parts(self) -> dict[str, Any]:
        return {"student": self.student, "loss_fn": self.loss_fn, "optimizer": self.optimizer}

    def value(self) -> float:
        """The one number of all parts."""
        tensors = [*self.student.parameters(), *self.loss_fn.parameters()]
        tensors += [state["exp_avg"] for state in self.optimizer.state.values()]
        (value,) = {number for tensor in tensors for number in tensor.flatten().tolist()}
        return float(value)


def test_all_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "training.pt"
    Run(1.0).save(path)
    Run(2.0).save(path)
    run = Run()
    assert run.load(path) == {"step": 2, "note": [2.0]}
    assert run.value() == 2.0
    assert [file.name for file in path.parent.iterdir()] == ["training.pt"]


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(content: Any, opened: Any) -> None:
    opened.write(b"PK half of a file")
    opened.flush()
    die()


def replace_and_die(self: Path, target: Path, replace: Any = Path.replace) -> None:
    replace(self, target)
    die()


# Where a save is killed: while it writes, before and after the file is whole, and once it is in place.
KILLS: dict[str, tuple[Any, str, Any]] = {
    "torch.save": (torch, "save", die),
    "half": (torch, "save", write_half),
    "os.fsync": (os, "fsync", die),
    "torch.load": (torch, "load", die),
    "Path.replace": (Path, "replace", die),
    "Path.replace, after": (Path, "replace", replace_and_die),
}


def save_and_be_killed(folder: Path) -> None:
    """Save once as a whole, and once more in a process that is killed at some point: for each point."""
    old, new = Run(1.0), Run(2.0)
    for number, point in enumerate(KILLS):
        path = folder / str(number) / "training.pt"
        old.save(path)
        child = os.fork()
        if not child:
            setattr(*KILLS[point])
            new.save(path)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, point


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each kill is one of a forked process")
def test_wherever_it_is_killed_all_parts_are_of_one_step(tmp_path: Path) -> None:
    assert exit_code(save_and_be_killed, tmp_path) == 0
    for number, point in enumerate(KILLS):
        run = Run()
        expected = 2 if point == "Path.replace, after" else 1
        assert run.load(tmp_path / str(number) / "training.pt") == {"step": expected, "note": [expected]}
        assert run.value() == expected, point


def test_what_a_killed_process_has_left_is_deleted_in_time(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    left, being_written, other = (tmp_path / f".training.pt.{letter * 32}" for letter in "abx")
    for file in (left, being_written, other):
        file.write_bytes(b"half")
    os.utime(left, times=(time.time() - 3600,) * 2)
    os.utime(other, times=(time.time() - 3600,) * 2)
    Run(1.0).save(path)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, being_written.name, other.name}


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    Run(1.0).save(path)
    with pytest.raises(CheckpointError, match=r"not written.*Keep tensors, numbers, strings"):
        Run(2.0).save(path, best=Run)
    assert Run().load(path)["step"] == 1
    kept = {"fine": [1, "a", torch.ones(1)], "generator": np.random.default_rng(0), "spec": DSKDSpec()}
    with pytest.raises(
        CheckpointError, match=r"'generator' \(Generator\) and 'spec' \(DSKDSpec\).*Keep tensors"
    ) as raised:
        Run(2.0).save(path, **kept)
    assert "weights_only" not in str(raised.value)
    with pytest.raises(CheckpointError, match=r"'nested' \(dict\)"):
        Run(2.0).save(path, nested={"deep": [np.ones(1)]})
    with pytest.raises(CheckpointError, match=r"'student' \(dict\)"):
        Run(2.0).save(path, student={"weight": torch.ones(1), "note": Run})
    for nameless in (lambda: None, iter([]), (number for number in range(3)), signal.getsignal):
        with pytest.raises(CheckpointError, match=r"'loop' \((function|list_iterator|generator|builtin_function)"):
            Run(2.0).save(path, loop=nameless)
    assert Run().load(path)["step"] == 1
    Run(3.0).save(path, best=float(np.float64(1.0)), nothing=None)
    assert Run().load(path)["nothing"] is None
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be saved there"):
        Run(1.0).save(tmp_path / "file" / "training.pt")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss_fn": loss_of(kd_rate=0.75)}, CheckpointError, r"spec\.kd_rate: saved 0\.5, here 0\.75"),
        ({"loss_fn": loss_of(t2s_projector="mlp")}, CheckpointError, r"spec\.t2s_projector\.name"),
        ({"loss_fn": nn.Linear(1, 1)}, InputError, r"loss_fn: expected a DSKDLoss or a MultiTeacherLoss, got Linear"),
        ({"student": nn.Linear(5, 3)}, CheckpointError, r"weight: saved shape \[3, 4\].*here shape \[3, 5\]"),
        ({"student": nn.Linear(4, 3, bias=False)}, CheckpointError, r"bias: saved .*here nothing"),
        ({"optimiser": SGD}, CheckpointError, r"no 'optimiser' \(did you mean 'optimizer'"),
        ({"optimizer": SGD}, CheckpointError, r"state of 'optimizer' does not fit SGD"),
        ({"optimizer": 3}, InputError, r"optimizer: expected the object to restore"),
        ({"note": nn.Linear(1, 1)}, InputError, r"note: it was saved as a plain value"),
        ({"accept": ["spec.kd_rat"]}, CheckpointError, r"nothing is called 'spec\.kd_rat' \(did you mean"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_taken_over(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "training.pt"
    Run(1.0).save(path)
    run = Run(2.0)
    with pytest.raises(error, match=f"(?s){message}"):
        run.load(path, **changes)
    assert run.value() == 2.0


def test_an_object_that_is_forgotten_is_named_and_one_that_is_left_out_returned(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    Run(1.0).save(path)
    run = Run(2.0)
    with pytest.raises(CheckpointError, match=r"state of 'optimizer', which would be left out.*optimizer=None"):
        load_checkpoint(path, student=run.student, loss_fn=run.loss_fn)
    found = run.load(path, optimizer=None)
    assert found["optimizer"].keys() == run.optimizer.state_dict().keys()


def test_a_part_of_the_student_may_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    run = Run(1.0)
    run.save(path, student={"adapter": torch.ones(2)})
    assert torch.equal(run.load(path, student=None)["student"]["adapter"], torch.ones(2))
    with pytest.raises(CheckpointError, match=r"adapter: saved shape \[2\].*here nothing"):
        run.load(path)


def test_a_difference_that_is_meant_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    Run(1.0).save(path)
    run = Run(2.0, DSKDSpec(kd_rate=0.75))
    assert run.load(path, accept=["spec.kd_rate"])["step"] == 1
    assert run.value() == 1.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is none"),
        (b"nonsense", "damaged"),
        ({"a": 1}, "another one"),
        ({"dskd_components": 2}, "format 1, got 2"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"training\.pt.*{message}"):
        Run().load(path)


def several(*names: str, **changes: Any) -> MultiTeacherLoss:
    spec = MultiTeacherSpec(teachers=dict.fromkeys(names, changes))
    return MultiTeacherLoss(spec, {name: DSKDLoss(spec.pair(name), **SIZES) for name in names})


def test_each_teachers_projectors_come_back(tmp_path: Path) -> None:
    path, student = tmp_path / "training.pt", nn.Linear(4, 3)
    trained = several("large", "small")
    save_checkpoint(path, student=student, loss_fn=trained, step=3)
    fresh = several("large", "small")
    assert load_checkpoint(path, student=student, loss_fn=fresh) == {"step": 3}
    assert all(map(torch.equal, fresh.parameters(), trained.parameters()))
    with pytest.raises(CheckpointError, match=r"(?s)teacher 'large': .*spec\.temperature: saved 1\.0, here 2\.0"):
        load_checkpoint(path, student=student, loss_fn=several("large", "small", temperature=2.0))
    for other, here in ((several("large"), "'large'"), (Run().loss_fn, "one teacher")):
        with pytest.raises(CheckpointError, match=f"saved 'large', 'small', here {here}"):
            load_checkpoint(path, student=student, loss_fn=other)
