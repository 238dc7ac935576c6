"""Training one student: rows as they come, a checkpoint now and then, and on from there after a kill."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.evidence.data import texts_of_steps, training_texts
from benchmarks.evidence.measuring import on_device
from benchmarks.evidence.written import written_texts
from dskd_components import Head, clip_grad_norms, load_checkpoint, save_checkpoint
from dskd_components.errors import NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from benchmarks.evidence.arms import Arm
    from benchmarks.evidence.bench import Bench
    from benchmarks.evidence.journal import Journal, Row
    from benchmarks.evidence.plan import Plan, Run, SettingName

DIGITS: Final = 6
"""Significant digits of a number of a step; those of an evaluation are kept whole."""


def carry_out(bench: Bench, run: Run, arm: Arm, watch: Callable[[int, int], None]) -> Row:
    """Train a student, or go on where it was left, or do nothing if it is finished.

    Args:
        bench: models, texts, folder.
        run: the run.
        arm: its arm.
        watch: told how many steps of how many are taken.

    Returns:
        Its last row.
    """
    journal = bench.journal(run)
    if journal.end is None:
        training = Training(bench, run, arm, journal)
        try:
            for step in training.steps():
                watch(step, training.length)
        except NonFiniteError as error:
            training.give_up(error)
    assert journal.end is not None
    return journal.end


class Training:
    """One student on its way.

    Args:
        bench: models, texts, folder.
        run: the run.
        arm: its arm.
        journal: its rows.
    """

    def __init__(self, bench: Bench, run: Run, arm: Arm, journal: Journal) -> None:
        plan = bench.plan
        self._bench, self._run, self._arm, self._journal, self._plan = bench, run, arm, journal, plan
        self.length = round(plan.length(run.setting) * arm.longer)
        self._student = bench.student(run.setting)
        torch.manual_seed(run.seed)
        self._loss_fn = bench.loss(arm, self._student, run.setting)
        projectors_lr = plan.projector_lr[run.setting] * arm.projector_lr
        groups = self._loss_fn.param_groups(lr=projectors_lr) if arm.teacher else []
        self._optimizer = AdamW([{"params": list(self._student.parameters()), "lr": run.lr}, *groups], fused=True)
        of_all = rates(self.length, plan)
        held = round(arm.held * self.length)
        of_student = rates(self.length - held, plan)
        self._schedule = LambdaLR(
            self._optimizer,
            [lambda step: 0.0 if step < held else of_student(step - held), *(of_all for _ in groups)],
        )
        self._batch = bench.batches(arm, run)
        texts = training_texts(bench.texts, run, plan)
        if arm.teacher_text:
            texts = written_texts(bench, texts)
        self._texts = texts_of_steps(texts, run.seed, self.length, plan.batch_size)
        self._checkpoint = bench.runs / f"{run.name}.pt"
        self._kept = time.monotonic()
        self._seconds = 0.0
        # Runs that share a GPU share its time: what is measured then says what was waited for.
        self._clock = time.process_time if bench.device.type == "cpu" else time.perf_counter

    def steps(self) -> Any:
        """Train; yield after each step how many were taken."""
        first = self._resume()
        if first == 0:
            self._journal.add({"kind": "start", "step": 0, **self._bench.facts(self._run, self._arm)})
        moments = evaluated_after(self.length, self._plan.evaluations)
        self._student.train()
        for step in range(first, self.length):
            self._journal.add({"kind": "step", "step": step + 1, **self._step(step)})
            if step + 1 in moments:
                dev = self._bench.score(self._student, self._run.setting, "dev")
                self._journal.add({"kind": "dev", "step": step + 1, "seconds": self._seconds, **dev.row()})
            late = time.monotonic() - self._kept >= self._bench.checkpoint_seconds
            if late and step + 1 in moments and step + 1 < self.length:
                self._save(step + 1)
                self._kept = time.monotonic()
            yield step + 1
        self._finish()

    def give_up(self, error: NonFiniteError) -> None:
        """End a run whose loss is no number any more, as one that is worse than all others.

        Args:
            error: says what was not finite.
        """
        worst = {"step": self.length, "seconds": self._seconds, "nats_per_byte": math.inf, "accuracy": 0.0}
        self._journal.add({"kind": "dev", **worst})
        self._journal.add({"kind": "end", **worst, "nats": [], "error": str(error)})
        self._checkpoint.unlink(missing_ok=True)

    def _step(self, step: int) -> Row:
        batch = self._batch(step, self._texts[step])
        began = self._clock()
        with torch.autocast(self._bench.device.type, torch.bfloat16, enabled=self._plan.autocast):
            if self._arm.teacher:
                out = self._loss_fn.run(self._student, self._bench.store, batch, step=step)
                loss, found = out.loss, {**out.terms, **out.metrics}
            else:
                loss = self._cross_entropy(batch)
                found = {"ce": loss.detach()}
        if not torch.isfinite(loss):
            raise NonFiniteError(f"The loss of step {step + 1} is {float(loss.detach())}.")
        loss.backward()
        clip_grad_norms(self._student, self._loss_fn, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        took = self._clock() - began
        self._seconds += took
        return {"seconds": round(took, 4), "loss": _rounded(loss), **{name: _rounded(of) for name, of in found.items()}}

    def _cross_entropy(self, batch: Mapping[str, Tensor]) -> Tensor:
        states = self._loss_fn.states(self._student, batch, "student")
        with torch.autocast(self._bench.device.type, enabled=False):
            logits = states.head.logits(states.hidden_states[states.scored])
            return F.cross_entropy(logits, states.targets[states.scored])

    def _resume(self) -> int:
        """Return how many steps were taken before, with all as it was then."""
        step = 0
        if self._checkpoint.is_file() and self._journal.rows:
            found = load_checkpoint(
                self._checkpoint,
                student=self._student,
                loss_fn=self._loss_fn,
                optimizer=self._optimizer,
                schedule=self._schedule,
            )
            step, self._seconds = found["step"], found["seconds"]
        self._journal.back_to(step)
        return step

    def _save(self, step: int) -> None:
        save_checkpoint(
            self._checkpoint,
            student=self._student,
            loss_fn=self._loss_fn,
            step=step,
            optimizer=self._optimizer,
            schedule=self._schedule,
            seconds=self._seconds,
        )

    def _finish(self) -> None:
        """Measure the student on the test texts, keep what later stages look at, and write the last row."""
        if self._bench.searches:
            dev = next(row for row in reversed(self._journal.rows) if row["kind"] == "dev")
            self._journal.add({**dev, "kind": "end"})
            self._checkpoint.unlink(missing_ok=True)
            return
        test = self._bench.score(self._student, self._run.setting, "test")
        of_texts = {"nats": [round(nats, 4) for nats in test.nats]}
        self._bench.keep(self._run, self._student, self._loss_fn if self._arm.teacher else None)
        self._journal.add({"kind": "end", "step": self.length, "seconds": self._seconds, **test.row(), **of_texts})
        self._checkpoint.unlink(missing_ok=True)


def rates(length: int, plan: Plan) -> Callable[[int], float]:
    """Return what the peak rates are multiplied with at each step: a short rise, then a straight fall to zero.

    Args:
        length: number of steps.
        plan: has the share of the rise.
    """
    rise = max(1, math.ceil(plan.warm_up * length))
    return lambda step: min((step + 1) / rise, (length - step) / max(1, length - rise))


def evaluated_after(length: int, evaluations: int) -> set[int]:
    """Return after which steps a student is measured.

    Args:
        length: number of steps.
        evaluations: how many times.
    """
    return {round(length * number / evaluations) for number in range(1, evaluations + 1)}


def _rounded(value: Tensor) -> float:
    return float(f"{float(value.detach()):.{DIGITS}g}")


def trained_by_cross_entropy(
    bench: Bench, student: Any, setting: SettingName, watch: Callable[[int, int], None]
) -> None:
    """Heal a student that has lost layers, or was given another tokenizer, on documents of their own.

    Args:
        bench: plan, texts, tokenizers.
        student: changed.
        setting: the setting, which says what its tokenizer is.
        watch: as in `carry_out`.
    """
    plan = bench.plan
    head = Head.from_model(student, verify=False)
    optimizer = AdamW(student.parameters(), lr=plan.heal_lr, fused=True)
    schedule = LambdaLR(optimizer, rates(plan.heal_steps, plan))
    collate = bench.student_collator(setting)
    student.train()
    for step, texts in enumerate(texts_of_steps(bench.texts["heal"], 0, plan.heal_steps, plan.batch_size)):
        batch = on_device(collate([text.sample for text in texts]), bench.device)
        targets = batch["student_labels"][:, 1:]
        scored = targets != -100
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=plan.autocast):
            states = student.base_model(
                input_ids=batch["student_input_ids"], attention_mask=batch["student_attention_mask"], use_cache=False
            ).last_hidden_state
        loss = F.cross_entropy(head.logits(states[:, :-1][scored].float()), targets[scored])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        watch(step + 1, plan.heal_steps)
    student.eval()
