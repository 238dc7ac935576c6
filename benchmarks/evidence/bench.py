"""`Bench`: one folder with texts, models, the teacher's states and runs, each read when it is asked for."""

from __future__ import annotations

import copy
import json
import os
import platform
from collections import OrderedDict
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import torch

from benchmarks.evidence.arms import LOOKED_AT
from benchmarks.evidence.data import read_texts
from benchmarks.evidence.journal import Journal
from benchmarks.evidence.measuring import HeldOut, Score, on_device
from benchmarks.evidence.models import load_model, load_tokenizer
from benchmarks.evidence.plan import vocabularies
from benchmarks.evidence.shared_query import start_from_shared_tokens
from dskd_components import DSKDLoss, DualTokenizerCollator, Head, ReadAheadCollator, TeacherStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from benchmarks.evidence.arms import Arm
    from benchmarks.evidence.data import Parts, Text
    from benchmarks.evidence.plan import Plan, Run, SettingName

KEPT_BATCHES: Final = 6
"""Of how many sets of batches a process keeps those that it has made, on a GPU."""


class Bench:
    """All that runs have in common.

    Args:
        folder: what is there was made by the stages `prepare` and `teacher`.
        plan: the numbers.
        device: where models are.
        searches: whether runs are those of the search, which are measured on the dev texts alone.
        checkpoint_seconds: a run is kept, to go on with after a kill, when so many have passed.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        device: str = "cpu",
        *,
        searches: bool = False,
        checkpoint_seconds: float = 30.0,
    ) -> None:
        self.folder, self.plan = folder, plan
        self.device = torch.device(device)
        self.searches, self.checkpoint_seconds = searches, checkpoint_seconds
        self._held_out: dict[tuple[str, str], HeldOut] = {}
        self._students: dict[str, Any] = {}
        self._batches: OrderedDict[tuple[Any, ...], dict[int, dict[str, Tensor]]] = OrderedDict()

    @property
    def runs(self) -> Path:
        """The folder of the rows of runs."""
        return self.folder / ("search" if self.searches else "runs")

    @cached_property
    def texts(self) -> Parts:
        """The texts of each part."""
        return read_texts(self.folder / "texts.json")

    @cached_property
    def store(self) -> TeacherStore:
        """The teacher's states."""
        store: TeacherStore = TeacherStore(self.folder / "store").to(self.device)
        return store

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
        return self.teacher_tokenizer if vocabularies(setting) == "one" else self.own_tokenizer

    def student(self, setting: SettingName) -> Any:
        """Return the student as all arms of a setting begin with it, in float32.

        Args:
            setting: the setting.
        """
        name = vocabularies(setting)
        if name not in self._students:
            self._students[name] = load_model(self.folder / "students" / name, torch.float32, self.device)
        return copy.deepcopy(self._students[name])

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
        return DualTokenizerCollator(
            self.tokenizer(setting), self.teacher_tokenizer, aligner=arm.collated_for, append_eos=False
        )

    def batches(self, arm: Arm, run: Run) -> Callable[[int, Sequence[Text]], dict[str, Tensor]]:
        """Return what gives the batch of a step, from its number and its texts.

        On a GPU batches are kept there, with the teacher's states, for the next arms that have the same ones. Of text
        that the teacher wrote there are no states.

        Args:
            arm: the arm.
            run: the run.
        """
        collate = self.collator(arm, run.setting)
        if self.device.type == "cpu":
            return lambda _, texts: collate([text.sample for text in texts])
        made = collate if arm.teacher_text else ReadAheadCollator(collate, self.store)
        key = run.setting, run.seed, arm.collated_for.model_dump_json(), arm.teacher_text
        kept = self._batches.setdefault(key, {})
        self._batches.move_to_end(key)
        while len(self._batches) > KEPT_BATCHES:
            self._batches.popitem(last=False)

        def batch(step: int, texts: Sequence[Text]) -> dict[str, Tensor]:
            if step not in kept:
                kept[step] = on_device(made([text.sample for text in texts]), self.device)
            return kept[step]

        return batch

    def student_collator(self, setting: SettingName) -> Any:
        """Return what makes batches for a student alone.

        Args:
            setting: the setting, which says what its tokenizer is.
        """
        tokenizer = self.tokenizer(setting)
        return DualTokenizerCollator(tokenizer, tokenizer, aligner=None, append_eos=False)

    def score(self, student: Any, setting: SettingName, part: str) -> Score:
        """Measure a student.

        Args:
            student: the student.
            setting: the setting.
            part: ``"dev"`` or ``"test"``.
        """
        key = vocabularies(setting), part
        if key not in self._held_out:
            self._held_out[key] = HeldOut(self.texts[part], self.tokenizer(setting), self.device)
        head = Head.from_model(student, verify=False)
        return self._held_out[key].score(student, head, autocast=self.plan.autocast)

    def journal(self, run: Run) -> Journal:
        """Return the rows of a run.

        Args:
            run: the run.
        """
        self.runs.mkdir(exist_ok=True)
        return Journal(self.runs / f"{run.name}.jsonl")

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
            "machine": self.machine,
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("dskd-components", "torch", "transformers", "tokenizers")},
        }

    @property
    def machine(self) -> str:
        """What runs are made on."""
        gpu = f"{torch.cuda.get_device_name(self.device)}, " if self.device.type == "cuda" else ""
        return f"{gpu}{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"

    def keep(self, run: Run, student: Any, loss_fn: DSKDLoss | None) -> None:
        """Keep a student of the first two seeds in bfloat16, with its projectors, for the stage `meaning`.

        Args:
            run: its run.
            student: trained.
            loss_fn: its loss; None: it had no teacher.
        """
        if run.seed not in self.plan.seeds[:2] or run.arm not in LOOKED_AT.get(run.setting, ()):
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
