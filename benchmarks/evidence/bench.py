"""`Bench`: one folder with texts, models, the teacher's states and runs, each read when it is asked for."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.evidence.data import read_texts
from benchmarks.evidence.journal import Journal
from benchmarks.evidence.measuring import HeldOut, Score
from benchmarks.evidence.models import load_model, load_tokenizer
from benchmarks.evidence.shared_query import start_from_shared_tokens
from dskd_components import DSKDLoss, DualTokenizerCollator, Head, TeacherStore
from dskd_components.aligners import CrossModelAttentionModule

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from benchmarks.evidence.arms import Arm
    from benchmarks.evidence.data import Parts
    from benchmarks.evidence.plan import Plan, Run, SettingName


class Bench:
    """All that runs have in common.

    Args:
        folder: what is there was made by the stages `prepare` and `teacher`.
        plan: the numbers.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._held_out: dict[tuple[SettingName, str], HeldOut] = {}

    @cached_property
    def texts(self) -> Parts:
        """The texts of each part."""
        return read_texts(self.folder / "texts.json")

    @cached_property
    def store(self) -> TeacherStore:
        """The teacher's states."""
        return TeacherStore(self.folder / "store")

    @cached_property
    def teacher_tokenizer(self) -> PreTrainedTokenizerFast:
        """The teacher's tokenizer, narrowed."""
        return load_tokenizer(self.folder / "teacher")

    @cached_property
    def own_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of students that have their own."""
        return load_tokenizer(self.folder / "tokenizer")

    def tokenizer(self, setting: SettingName) -> PreTrainedTokenizerFast:
        """Return the student's tokenizer.

        Args:
            setting: the setting.
        """
        return self.teacher_tokenizer if setting == "one" else self.own_tokenizer

    def student(self, setting: SettingName) -> Any:
        """Return the student as all arms of a setting begin with it, in float32.

        Args:
            setting: the setting.
        """
        return load_model(self.folder / "students" / ("one" if setting == "one" else "two"), torch.float32)

    def loss(self, arm: Arm, student: Any, setting: SettingName) -> DSKDLoss:
        """Build an arm's loss.

        Args:
            arm: the arm.
            student: its student.
            setting: the setting.
        """
        loss_fn = DSKDLoss.from_models(
            arm.spec,
            student,
            self.store,
            self.tokenizer(setting),
            self.teacher_tokenizer,
            vocabulary_method=arm.vocabulary_method,
        )
        start_from_shared_tokens(loss_fn, student, self.store)
        return loss_fn

    def collator(self, arm: Arm, setting: SettingName) -> DualTokenizerCollator:
        """Return what makes an arm's batches. Attention gets the exact pairs, too, to measure itself by.

        Args:
            arm: the arm.
            setting: the setting.
        """
        module = arm.spec.aligner.build(student_embedding_size=1, teacher_embedding_size=1)
        aligner = "exact_match" if isinstance(module, CrossModelAttentionModule) else arm.spec.aligner
        return DualTokenizerCollator(self.tokenizer(setting), self.teacher_tokenizer, aligner=aligner, append_eos=False)

    def student_collator(self) -> Any:
        """Return what makes batches for a student with its own tokenizer, alone."""
        return DualTokenizerCollator(self.own_tokenizer, self.own_tokenizer, aligner=None, append_eos=False)

    def score(self, student: Any, setting: SettingName, part: str) -> Score:
        """Measure a student.

        Args:
            student: the student.
            setting: the setting.
            part: ``"dev"`` or ``"test"``.
        """
        key = setting, part
        if key not in self._held_out:
            self._held_out[key] = HeldOut(self.texts[part], self.tokenizer(setting))
        head = Head.from_model(student, verify=False)
        return self._held_out[key].score(student, head, autocast=self.plan.autocast)

    def journal(self, run: Run) -> Journal:
        """Return the rows of a run.

        Args:
            run: the run.
        """
        folder = self.folder / "runs"
        folder.mkdir(exist_ok=True)
        return Journal(folder / f"{run.name}.jsonl")

    def facts(self, run: Run, arm: Arm) -> dict[str, Any]:
        """Return what the first row of a run says of it.

        Args:
            run: the run.
            arm: its arm.
        """
        return {
            **asdict(run),
            "spec": arm.spec.model_dump(mode="json") if arm.teacher else None,
            "plan": asdict(self.plan),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("dskd-components", "torch", "transformers", "tokenizers")},
        }

    def keep(self, run: Run, student: Any, loss_fn: DSKDLoss | None) -> None:
        """Keep a student of the first two seeds in bfloat16, with its projectors, for the stage `meaning`.

        Args:
            run: its run.
            student: trained.
            loss_fn: its loss; None: it had no teacher.
        """
        if run.seed not in self.plan.seeds[:2]:
            return
        tensors: dict[str, Tensor] = {name: tensor.bfloat16() for name, tensor in student.state_dict().items()}
        path = self.folder / "kept" / f"{run.name}.pt"
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        torch.save({"student": tensors, "loss": None if loss_fn is None else loss_fn.state_dict()}, unfinished)
        unfinished.replace(path)

    def write(self, name: str, content: Any) -> None:
        """Keep what a stage has found.

        Args:
            name: of a file in the folder.
            content: as JSON has it.
        """
        (self.folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def read(self, name: str) -> Any:
        """Return what a stage has found; None: nothing yet.

        Args:
            name: of a file in the folder.
        """
        file = self.folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def write_plan(self) -> None:
        """Keep the plan, and refuse another one than was kept: its runs would not compare.

        Raises:
            SystemExit: the folder is of another plan.
        """
        own, kept = json.loads(json.dumps(asdict(self.plan))), self.read("plan.json")
        if kept is not None:
            differing = sorted(name for name in own.keys() | kept.keys() if own.get(name) != kept.get(name))
            if differing:
                described = "; ".join(f"{name} was {kept.get(name)!r}, is {own.get(name)!r}" for name in differing)
                raise SystemExit(f"{self.folder} was made with another plan: {described}. Give another --folder.")
        else:
            self.write("plan.json", own)
