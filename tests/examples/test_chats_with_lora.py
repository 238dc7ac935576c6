"""From chats to a trained student: what is killed goes on with the same losses, and what is exported is clean."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dskd_components import DSKDSpec
from examples.chats_with_lora import all_spaces, chats, last_checkpoint, load, main

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 6


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a walk that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    main([str(folder), "--steps", str(STEPS)])
    return folder


def history(folder: Path) -> list[dict[str, Any]]:
    """Return what a run has logged, but for times."""
    state = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    timed = ("_runtime", "_per_second")
    logs = [{name: value for name, value in log.items() if not name.endswith(timed)} for log in state["log_history"]]
    return [log for log in logs if "loss" in log or "eval_loss" in log]


@pytest.mark.minutes
def test_a_killed_walk_goes_on_with_the_same_losses(output: Path, tmp_path: Path) -> None:
    shutil.copy(output / "spec.json", tmp_path)  # nobody looks again, and that changes no loss
    command = [sys.executable, "-m", "examples.chats_with_lora", str(tmp_path), "--steps", str(STEPS), "--kill-at", "5"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums round otherwise with more
    killed = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | threads)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "step 4: loss" in killed.stdout
    assert "step 5: loss" not in killed.stdout
    assert not (tmp_path / "checkpoint-6").exists()
    # Another kill, in the middle of a save.
    (tmp_path / "checkpoint-5").mkdir()
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.endswith("checkpoint-4")
    main([str(tmp_path), "--steps", str(STEPS)])
    assert history(tmp_path) == history(output)
    assert len(history(output)) == STEPS + 3  # with the evaluations
    whole, again = (load_file(folder / "student" / "model.safetensors") for folder in (output, tmp_path))
    assert all(torch.equal(whole[name], again[name]) for name in whole | again)


def test_the_exported_student_is_a_model_as_any_other(output: Path) -> None:
    student = output / "student"
    names = set(load_file(student / "model.safetensors"))
    bare = load(None, None)
    assert names == set(bare.student.state_dict())
    assert not any("lora" in name or "projector" in name for name in names)
    assert not any("projector" in file.name or "adapter" in file.name for file in student.iterdir())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(student), AutoTokenizer.from_pretrained(student)
    chat = chats()[0]["messages"]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == bare.student_tokenizer.apply_chat_template(chat, tokenize=False)
    tokens = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        assert not torch.equal(model(**tokens).logits, bare.student(**tokens).logits)


def test_the_spec_that_is_trained_with_is_kept(output: Path) -> None:
    assert DSKDSpec.model_validate_json((output / "spec.json").read_text()) == all_spaces(STEPS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--student", "."), "--student, --teacher: give both, or neither for a tiny pair"),
        (("--teacher", "."), "--student, --teacher: give both, or neither for a tiny pair"),
        (("--steps", "0"), "--steps: expected a positive number, got 0"),
        (("--kill-at", "-1"), "--kill-at: expected a positive number, got -1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "output"), *options])
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_to_write_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "file")])
    assert "expected a folder to write to" in capsys.readouterr().err
