"""Every number of the experiment in one place, and what a run is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

SettingName = Literal["one", "two", "scarce"]
"""One vocabulary; two vocabularies; two vocabularies and few texts, many times over."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained on what, and for how long. All arms of a setting have the same plan.

    Args:
        chunk_bytes: the most UTF-8 bytes of a text.
        packages: whether modules of packages are read, too.
        max_documents: how many documents are used; None: all.
        vocabulary: tokens of both models: the teacher's most used ones, and as many of the student's own tokenizer.
        layers: the layers of the teacher that make the student.
        train_texts: how many training texts there are; a seed takes its own from them.
        scarce_texts: how many of them the setting ``scarce`` has.
        dev_texts: texts by which learning rates are chosen.
        test_texts: texts by which arms are compared.
        heal_steps: steps of cross entropy, on other documents, after the student was given another tokenizer.
        heal_lr: their peak learning rate.
        steps: optimizer steps of a run.
        batch_size: texts in a step.
        warm_up: share of the steps in which rates rise; they fall to zero afterwards.
        first_lr: by setting, the student's peak learning rate that is tried first. Others are by a factor of 2 apart.
        projector_lr: by setting, the peak learning rate of projectors and aligner.
        farthest: how many factors of 2 a rate may be away from the first one.
        seeds: of the order of texts and of random projectors; rates are chosen with the first.
        evaluations: how many times a student is measured on the way.
        autocast: whether the student runs in bfloat16 products, with weights in float32.
    """

    chunk_bytes: int = 320
    packages: bool = True
    max_documents: int | None = None
    vocabulary: int = 8192
    layers: tuple[int, ...] = (0, 1, 2, 3, 28, 29)
    train_texts: int = 1200
    scarce_texts: int = 160
    dev_texts: int = 96
    test_texts: int = 192
    heal_steps: int = 200
    heal_lr: float = 1e-3
    steps: int = 100
    batch_size: int = 8
    warm_up: float = 0.05
    first_lr: Mapping[SettingName, float] = field(default_factory=lambda: {"one": 5e-4, "two": 1e-3, "scarce": 5e-4})
    projector_lr: Mapping[SettingName, float] = field(
        default_factory=lambda: {"one": 1e-3, "two": 2e-3, "scarce": 2e-3}
    )
    farthest: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    evaluations: int = 4
    autocast: bool = True

    @classmethod
    def quick(cls) -> Self:
        """Return a plan of seconds, to see that everything works; its results mean nothing."""
        return cls(
            packages=False,
            max_documents=64,
            vocabulary=400,
            layers=(0, 2),
            train_texts=24,
            scarce_texts=8,
            dev_texts=6,
            test_texts=8,
            heal_steps=4,
            steps=4,
            batch_size=4,
            farthest=1,
            seeds=(0, 1),
            evaluations=2,
        )


@dataclass(frozen=True, order=True)
class Run:
    """One student that is trained.

    Args:
        setting: the models and texts.
        arm: what it learns from.
        lr: its peak learning rate.
        seed: of texts and projectors.
    """

    setting: SettingName
    arm: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.setting}-{self.arm}-{self.lr:g}-{self.seed}"
