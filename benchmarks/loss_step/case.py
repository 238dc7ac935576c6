"""`Case`: the shapes of one comparison, and the inputs made from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates

Method = Literal["vanilla-kd", "dskd", "dskd-cma", "js", "shared-tokens"]
STUDENT_WIDTH, TEACHER_WIDTH = 768, 2048
"""Widths of the hidden states where a case does not say otherwise."""


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        method: a preset; ``js``, cross entropy and JS over one vocabulary, which Liger has too; ``shared-tokens``, of
            one vocabulary.
        tokens: positions of the batch, in samples of 256.
        vocabularies: of student and teacher.
        scored: share of each sample's positions that are scored, the last ones.
        dtype: of hidden states and heads.
        budget: of the tiled engine, in MiB; None: its default.
        widths: of the hidden states of student and teacher.
        device: where everything is.
    """

    method: Method
    tokens: int
    vocabularies: tuple[int, int]
    scored: float = 1.0
    dtype: torch.dtype = torch.float32
    budget: float | None = None
    widths: tuple[int, int] = (STUDENT_WIDTH, TEACHER_WIDTH)
    device: str = "cpu"

    @property
    def label(self) -> str:
        """Method and shapes in a few words."""
        student, teacher = (f"{size // 1000}k" for size in self.vocabularies)
        dtype = str(self.dtype).removeprefix("torch.")
        budget = "" if self.budget is None else f", {self.budget:.0f} MiB"
        return f"{self.method} {student}/{teacher}, {self.tokens} tokens, {self.scored:.0%} scored, {dtype}{budget}"

    def states(self) -> tuple[LMStates, LMStates]:
        """Random states of student and teacher; the student's hidden states and head are leaves."""
        generator = torch.Generator(self.device).manual_seed(0)
        student = self._side(generator, self.widths[0], self.vocabularies[0], learns=True)
        teacher = self._side(generator, self.widths[1], self.vocabularies[1], learns=False)
        if self.method != "dskd-cma":
            teacher = replace(teacher, targets=student.targets, input_ids=student.input_ids)
        return student, teacher

    def _side(self, generator: torch.Generator, width: int, vocabulary: int, *, learns: bool) -> LMStates:
        length = min(256, self.tokens)
        samples = self.tokens // length
        made: dict[str, Any] = {"generator": generator, "device": self.device}
        targets = torch.randint(0, vocabulary, (samples, length), **made)
        targets[:, : round(length * (1 - self.scored))] = -100
        hidden = torch.randn(samples, length, width, **made).to(self.dtype)
        weight = (torch.randn(vocabulary, width, **made) * width**-0.5).to(self.dtype)
        return LMStates(
            hidden_states=hidden.requires_grad_(learns),
            targets=targets,
            head=Head(weight.requires_grad_(learns)),
            input_ids=torch.randint(0, vocabulary, targets.shape, **made),
            embedding=weight.detach(),
        )

    def loss(self, engine: str) -> DSKDLoss:
        """The library's loss, with seeded projectors.

        Args:
            engine: its name; ``half gradients``: the tiled one with gradients that are rounded to bfloat16. Either may
                be followed by ``compiled``.
        """
        name = engine.removesuffix(" compiled")
        options: object = name
        if name in ("tiled", "half gradients"):
            products = "fastest" if name == "tiled" else "half_gradients"
            options = {
                "name": "tiled",
                "memory_budget_mib": self.budget,
                "products": products,
                "compiled": engine != name,
            }
        if self.method == "js":
            spec = DSKDSpec(spaces=("shared_vocabulary",), distance="js", engine=options)
        elif self.method == "shared-tokens":
            spec = DSKDSpec(spaces=("shared_tokens",), temperature=4.0, temperature_squared=True, engine=options)
        else:
            spec = DSKDSpec.preset(self.method, engine=options)
        torch.manual_seed(0)
        student, teacher = self.widths
        return DSKDLoss(spec, student_hidden_size=student, teacher_hidden_size=teacher).to(self.device)
