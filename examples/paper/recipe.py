"""The published hyper-parameters, typed, as the files in ``recipes`` have them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

RECIPES: Final = Path(__file__).parent / "recipes"


class PaperError(Exception):
    """Something that was asked for cannot be had; the message says what to do."""


class Frozen(BaseModel):
    """Is never changed, and knows all of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Texts(Frozen):
    """How texts are cut and parted.

    Args:
        max_length: tokens of a prompt with its response.
        max_prompt_length: tokens of a prompt; longer ones are not trained on.
        dev: texts on which checkpoints are chosen.
        test: texts of the first test set, where it comes out of the training file.
        seed: of the order in which they are taken out.
    """

    max_length: PositiveInt
    max_prompt_length: PositiveInt
    dev: PositiveInt
    test: PositiveInt
    seed: int


class EvaluationSet(Frozen):
    """A test set.

    Args:
        title: for tables.
        limit: how many of its first texts are used; None: all.
    """

    title: str
    limit: PositiveInt | None = None


class Generation(Frozen):
    """How answers are written.

    Args:
        seeds: one answer to each prompt for each.
        temperature: of sampling.
        top_p: as in transformers.
        top_k: as in transformers; 0: all tokens.
        no_repeat_ngram_size: as in transformers; not for dev.
        batch_size: prompts at a time; another one gives other samples.
        dev_samplings: answers to each prompt of dev.
    """

    seeds: tuple[int, ...]
    temperature: PositiveFloat
    top_p: PositiveFloat
    top_k: int
    no_repeat_ngram_size: int
    batch_size: PositiveInt
    dev_samplings: PositiveInt


class Lora(Frozen):
    """Adapters; which weights have them is PEFT's default for the family, as in the releases.

    Args:
        r: rank.
        alpha: scale.
        dropout: of their inputs.
    """

    r: PositiveInt
    alpha: PositiveInt
    dropout: float


class Training(Frozen):
    """How a model is trained.

    Args:
        learning_rate: at the start; it falls to `min_learning_rate` by a cosine.
        epochs: passes over the texts.
        batch_size: texts of an optimizer step, over all devices and micro-batches.
        micro_batch_size: texts on a device at a time.
        min_learning_rate: at the end.
        weight_decay: of AdamW.
        max_grad_norm: what gradients are clipped to.
        seed: of projectors, adapters and the order of texts.
        gradient_checkpointing: whether activations are computed twice to save memory.
        lora: adapters, which alone are trained; None: all weights.
    """

    learning_rate: PositiveFloat
    epochs: PositiveInt
    batch_size: PositiveInt = 32
    micro_batch_size: PositiveInt = 4
    min_learning_rate: float = 1e-7
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    seed: int = 10
    gradient_checkpointing: bool = False
    lora: Lora | None = None


class Method(Frozen):
    """A method.

    Args:
        title: for tables.
        spec: of the loss, as in a spec file; None: cross entropy alone, without a teacher.
        projector_lr: learning rate of projectors and aligner; None: there are none.
        every_distance: whether it has a row for each distance.
        note: where it is not what the release does.
    """

    title: str
    spec: Mapping[str, Any] | None = None
    projector_lr: PositiveFloat | None = None
    every_distance: bool = False
    note: str | None = None


class Model(Frozen):
    """A model of the papers.

    Args:
        name: what they call it.
        source: where it is to be had.
    """

    name: str
    source: str


class Pair(Frozen):
    """Two models, and the methods by which one learns from the other.

    Args:
        vocabularies: whether both have one vocabulary or two.
        student: the smaller one.
        teacher: the larger one.
        training: of the student.
        teacher_training: of the teacher on the same texts; None: it is taken ready.
        methods: their names.
        micro_batch_sizes: of methods that differ from `training`.
        published: averages of Rouge-L over the five test sets, by row; only those that could be read again.
    """

    vocabularies: Literal["one", "two"]
    student: Model
    teacher: Model
    training: Training
    teacher_training: Training | None = None
    methods: tuple[str, ...]
    micro_batch_sizes: Mapping[str, PositiveInt] = Field(default_factory=dict)
    published: Mapping[str, float] = Field(default_factory=dict)


class Common(Frozen):
    """What all pairs have in common.

    Args:
        texts: lengths and parts.
        tests: test sets, by the names of their files.
        generation: how answers are written.
        distances: as in a spec file, by the suffix that rows have.
        methods: by name.
    """

    texts: Texts
    tests: Mapping[str, EvaluationSet]
    generation: Generation
    distances: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Method]


@cache
def common() -> Common:
    """Return what all pairs have in common."""
    return Common.model_validate(_read(RECIPES / "common.yaml"))


@cache
def pairs() -> Mapping[str, Pair]:
    """Return all pairs, by the names of their files."""
    return {path.stem: Pair.model_validate(_read(path)) for path in sorted(RECIPES.glob("*-*.yaml"))}


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
