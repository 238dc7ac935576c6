"""Every number of the experiment in one place, and what a run is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

SettingName = Literal["one", "two", "scarce", "few", "plentiful", "scarce-one", "few-one", "plentiful-one"]
"""One vocabulary; two vocabularies; the same with 160, 400 and 2,400 texts, with two vocabularies and with one."""

SETTINGS: Final[tuple[SettingName, ...]] = (
    "one",
    "two",
    "scarce",
    "few",
    "plentiful",
    "scarce-one",
    "few-one",
    "plentiful-one",
)


def _by_vocabularies(one: float, two: float) -> dict[SettingName, float]:
    return {name: one if vocabularies(name) == "one" else two for name in SETTINGS}


def vocabularies(setting: SettingName) -> Literal["one", "two"]:
    """Return whether student and teacher have one vocabulary or two.

    Args:
        setting: the setting.
    """
    return "one" if setting == "one" or setting.endswith("-one") else "two"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained on what, and for how long. All arms of a setting have the same plan.

    Args:
        chunk_bytes: the most UTF-8 bytes of a text.
        packages: whether modules of packages are read, too.
        max_documents: how many documents are used; None: all.
        vocabulary: tokens of both models: the teacher's most used ones, and as many of the student's own tokenizer.
        layers: the layers of the teacher that make the student.
        train_texts: how many training texts there are.
        texts: by setting, how many of them it has; a seed takes its own from these.
        dev_texts: texts by which learning rates are chosen.
        test_texts: texts by which arms are compared.
        heal_steps: steps of cross entropy, on other documents, after a student has lost its layers.
        heal_lr: their peak learning rate.
        steps: optimizer steps of a run.
        plentiful_steps: those of a run with plentiful texts.
        batch_size: texts in a step.
        warm_up: share of the steps in which rates rise; they fall to zero afterwards.
        first_lr: by setting, the student's peak learning rate that is tried first. Others are by a factor of 2 apart.
        projector_lr: by setting, the peak learning rate of projectors and aligner.
        farthest: how many factors of 2 a rate may be away from the first one.
        seeds: of the order of texts and of random projectors; rates are chosen with the first.
        more_seeds: those that some arms have besides.
        evaluations: how many times a student is measured on the way.
        autocast: whether the student runs in bfloat16 products, with weights in float32.
    """

    chunk_bytes: int = 320
    packages: bool = True
    max_documents: int | None = None
    vocabulary: int = 8192
    layers: tuple[int, ...] = (0, 1, 2, 3, 28, 29)
    train_texts: int = 2400
    texts: Mapping[SettingName, int] = field(
        default_factory=lambda: {
            "one": 1200,
            "two": 1200,
            "scarce": 160,
            "few": 400,
            "plentiful": 2400,
            "scarce-one": 160,
            "few-one": 400,
            "plentiful-one": 2400,
        }
    )
    dev_texts: int = 96
    test_texts: int = 192
    heal_steps: int = 200
    heal_lr: float = 1e-3
    steps: int = 100
    plentiful_steps: int = 300
    batch_size: int = 8
    warm_up: float = 0.05
    first_lr: Mapping[SettingName, float] = field(
        # Texts that are seen many times ask for lower rates: so most arms are tuned with three or four.
        default_factory=lambda: {**_by_vocabularies(1e-3, 1e-3), "scarce": 2.5e-4, "few": 5e-4, "scarce-one": 5e-4}
    )
    projector_lr: Mapping[SettingName, float] = field(default_factory=lambda: _by_vocabularies(1e-3, 2e-3))
    farthest: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    more_seeds: tuple[int, ...] = (3, 4)
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
            texts={**dict.fromkeys(SETTINGS, 24), "scarce": 8, "scarce-one": 8},
            dev_texts=6,
            test_texts=8,
            heal_steps=4,
            steps=4,
            plentiful_steps=6,
            batch_size=4,
            farthest=1,
            seeds=(0, 1),
            more_seeds=(),
            evaluations=2,
        )

    def length(self, setting: SettingName) -> int:
        """Return how many optimizer steps a run of a setting has.

        Args:
            setting: the setting.
        """
        return self.plentiful_steps if setting.startswith("plentiful") else self.steps


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
