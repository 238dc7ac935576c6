"""What is given in the place of a model, a tokenizer, a loss or a spec: each argument of each entry point says so."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from accelerate import Accelerator
from datasets import Dataset
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer, TrainingArguments
from trl.trainer.sft_config import SFTConfig

from dskd_components import (
    DSKDError,
    DSKDLoss,
    DSKDSpec,
    DualTokenizerCollator,
    Head,
    MultiTeacherCollator,
    MultiTeacherLoss,
    MultiTeacherSpec,
    TeacherCache,
    TeacherSpec,
    TeacherStore,
    align_text,
    build_vocabulary_map,
    clip_grad_norms,
    load_checkpoint,
    save_checkpoint,
)
from dskd_components.integrations.accelerate import clip_grad_norms as clip_with_accelerator
from dskd_components.integrations.accelerate import micro_batches, register_projectors
from dskd_components.integrations.lightning import DSKDLightningModule
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from dskd_components.integrations.transformers import DSKDTrainer, DSKDTrainerMixin
from dskd_components.integrations.trl import DSKDSFTTrainer
from dskd_components.preflight import Pair
from tests.helpers.models import TEXTS, byte_level_tokenizer, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Call = Callable[["Parts", Any, str], object]

SAMPLES: Final = [{"text": text} for text in TEXTS]


class Parts(NamedTuple):
    """All that entry points take, sound."""

    student: Any
    teacher: Any
    tokenizer: Any
    spec: DSKDSpec
    loss: DSKDLoss
    of_several: MultiTeacherLoss
    saved: str


@cache
def parts(folder: str) -> Parts:
    student, teacher = (tiny_model("Llama", hidden_size=size, vocabulary=300) for size in (16, 32))
    tokenizer, spec = byte_level_tokenizer(300), DSKDSpec(aligner="span")
    loss = DSKDLoss.from_models(spec, student, teacher, tokenizer, tokenizer)
    several = MultiTeacherSpec(teachers={"large": TeacherSpec(aligner="span")})
    of_several = MultiTeacherLoss.from_models(several, student, {"large": teacher}, tokenizer, {"large": tokenizer})
    loss.save(folder)
    return Parts(student, teacher, tokenizer, spec, loss, of_several, folder)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts(str(tmp_path_factory.mktemp("saved")))


def trained(kind: type[Trainer], sound: Parts, folder: str, **changes: Any) -> Trainer:
    """A trainer of sound parts but for what is changed; `model` is the student."""
    configuration = SFTConfig if issubclass(kind, DSKDSFTTrainer) else TrainingArguments
    options: dict[str, Any] = {"max_length": None, "bf16": False} if configuration is SFTConfig else {}
    # Older versions have the one name alone, newer ones the other.
    known = {field.name for field in fields(configuration)}
    options |= {name: False for name in ("activation_checkpointing", "gradient_checkpointing") if name in known}
    given: dict[str, Any] = {
        "model": sound.student,
        "args": configuration(output_dir=folder, report_to=[], use_cpu=True, **options),
        "data_collator": sound.loss.collator(sound.tokenizer, sound.tokenizer),
        "train_dataset": Dataset.from_list(SAMPLES),
        "loss_fn": sound.loss,
        "teacher": sound.teacher,
        "processing_class": sound.tokenizer,
    }
    return kind(**(given | changes))


class OfOnesOwn(DSKDTrainerMixin, Trainer):
    """A trainer as a user derives it."""


def batch_of(sound: Parts) -> dict[str, Any]:
    return sound.loss.collator(sound.tokenizer, sound.tokenizer)(SAMPLES)


def batch_of_several(sound: Parts) -> dict[str, Any]:
    return sound.of_several.collator(sound.tokenizer, {"large": sound.tokenizer})(SAMPLES)


MODELS: Final[Mapping[str, tuple[str, Call]]] = {
    "from_models, student": (
        "student",
        lambda p, x, _: DSKDLoss.from_models(p.spec, x, p.teacher, p.tokenizer, p.tokenizer),
    ),
    "from_models, teacher": (
        "teacher",
        lambda p, x, _: DSKDLoss.from_models(p.spec, p.student, x, p.tokenizer, p.tokenizer),
    ),
    "load, student": ("student", lambda p, x, _: DSKDLoss.load(p.saved, x, p.teacher, p.tokenizer, p.tokenizer)),
    "load, teacher": ("teacher", lambda p, x, _: DSKDLoss.load(p.saved, p.student, x, p.tokenizer, p.tokenizer)),
    "run, student": ("student", lambda p, x, _: p.loss.run(x, p.teacher, batch_of(p))),
    "run, teacher": ("teacher", lambda p, x, _: p.loss.run(p.student, x, batch_of(p))),
    "states": ("student", lambda p, x, _: p.loss.states(x, batch_of(p), "student")),
    "preflight, student": ("student", lambda p, x, _: DSKDLoss.preflight(x, p.teacher, p.tokenizer, p.tokenizer)),
    "preflight, teacher": ("teacher", lambda p, x, _: DSKDLoss.preflight(p.student, x, p.tokenizer, p.tokenizer)),
    "Pair, student": ("student", lambda p, x, _: Pair(student=x, teacher=p.teacher)),
    "Head.from_model": ("", lambda _, x, __: Head.from_model(x)),
    "several teachers, student": (
        "student",
        lambda p, x, _: MultiTeacherLoss.from_models(
            p.of_several.spec, x, {"large": p.teacher}, p.tokenizer, {"large": p.tokenizer}
        ),
    ),
    "several teachers, teacher": (
        "teacher",
        lambda p, x, _: MultiTeacherLoss.from_models(
            p.of_several.spec, p.student, {"large": x}, p.tokenizer, {"large": p.tokenizer}
        ),
    ),
    "several teachers, run, student": (
        "student",
        lambda p, x, _: p.of_several.run(x, {"large": p.teacher}, batch_of_several(p)),
    ),
    "several teachers, run, teacher": (
        "teacher",
        lambda p, x, _: p.of_several.run(p.student, {"large": x}, batch_of_several(p)),
    ),
    "TeacherStore.build": (
        "teacher",
        lambda p, x, folder: TeacherStore.build(folder, x, p.loss.collator(p.tokenizer, p.tokenizer), SAMPLES),
    ),
    "TeacherCache": ("teacher", lambda p, x, folder: TeacherCache(folder, x, p.tokenizer)),
    "StudentWithProjectors, student": ("student", lambda p, x, _: StudentWithProjectors(x, p.loss, p.teacher)),
    "StudentWithProjectors, teacher": ("teacher", lambda p, x, _: StudentWithProjectors(p.student, p.loss, x)),
    "DSKDTrainer, student": ("model", lambda p, x, folder: trained(DSKDTrainer, p, folder, model=x)),
    "DSKDTrainer, teacher": ("teacher", lambda p, x, folder: trained(DSKDTrainer, p, folder, teacher=x)),
    "a trainer of one's own, student": ("model", lambda p, x, folder: trained(OfOnesOwn, p, folder, model=x)),
    "a trainer of one's own, teacher": ("teacher", lambda p, x, folder: trained(OfOnesOwn, p, folder, teacher=x)),
    "DSKDSFTTrainer, teacher": ("teacher", lambda p, x, folder: trained(DSKDSFTTrainer, p, folder, teacher=x)),
    "DSKDLightningModule, student": ("student", lambda p, x, _: DSKDLightningModule(x, p.teacher, p.loss)),
    "DSKDLightningModule, teacher": ("teacher", lambda p, x, _: DSKDLightningModule(p.student, x, p.loss)),
    "clip_grad_norms": ("student", lambda p, x, _: clip_grad_norms(x, p.loss, 1.0)),
    "save_checkpoint": ("student", lambda p, x, to: save_checkpoint(to, student=x, loss_fn=p.loss, step=1)),
}
"""What takes a model, by what the message calls the argument."""

OF_ACCELERATE: Final[Mapping[str, Call]] = {
    "micro_batches": lambda p, x, _: list(micro_batches(Accelerator(cpu=True), x, batch_of(p))),
    "register_projectors": lambda _, x, __: register_projectors(Accelerator(cpu=True), x),
    "clip_grad_norms": lambda _, x, __: clip_with_accelerator(Accelerator(cpu=True), x, 1.0),
}

TOKENIZERS: Final[Mapping[str, tuple[str, Call]]] = {
    "from_models, student": (
        "student_tokenizer",
        lambda p, x, _: DSKDLoss.from_models(p.spec, p.student, p.teacher, x, p.tokenizer),
    ),
    "from_models, teacher": (
        "teacher_tokenizer",
        lambda p, x, _: DSKDLoss.from_models(p.spec, p.student, p.teacher, p.tokenizer, x),
    ),
    "preflight, student": (
        "student_tokenizer",
        lambda p, x, _: DSKDLoss.preflight(p.student, p.teacher, x, p.tokenizer),
    ),
    "preflight, teacher": (
        "teacher_tokenizer",
        lambda p, x, _: DSKDLoss.preflight(p.student, p.teacher, p.tokenizer, x),
    ),
    "collator, student": ("student_tokenizer", lambda p, x, _: p.loss.collator(x, p.tokenizer)),
    "collator, teacher": ("teacher_tokenizer", lambda p, x, _: p.loss.collator(p.tokenizer, x)),
    "preprocessor": ("student_tokenizer", lambda p, x, _: p.loss.preprocessor(x, p.tokenizer)),
    "DualTokenizerCollator": ("teacher_tokenizer", lambda p, x, _: DualTokenizerCollator(p.tokenizer, x)),
    "MultiTeacherCollator, student": (
        "student_tokenizer",
        lambda p, x, _: MultiTeacherCollator(x, {"large": p.tokenizer}),
    ),
    "MultiTeacherCollator, teacher": (
        "teacher_tokenizers['large']",
        lambda p, x, _: MultiTeacherCollator(p.tokenizer, {"large": x}),
    ),
    "align_text": ("", lambda p, x, _: align_text(x, p.tokenizer, "a b")),
    "build_vocabulary_map": ("", lambda p, x, _: build_vocabulary_map(p.tokenizer, x)),
    "TeacherStore.build": (
        "tokenizer",
        lambda p, x, folder: TeacherStore.build(
            folder,
            p.teacher,
            lambda samples: dict(p.loss.collator(p.tokenizer, p.tokenizer)(samples)),
            SAMPLES,
            tokenizer=x,
        ),
    ),
    "TeacherCache": ("tokenizer", lambda p, x, folder: TeacherCache(folder, p.teacher, x)),
}
"""What takes a tokenizer, by what the message calls the argument."""


def no_models(sound: Parts) -> dict[str, tuple[Any, str, str]]:
    """What is no model, with what the message says has come, and what it says is to be done."""
    return {
        "a name": ("gpt2", "str 'gpt2'", "AutoModelForCausalLM.from_pretrained('gpt2')"),
        "a path": (Path("models/gpt2"), "Path 'models/gpt2'", "AutoModelForCausalLM.from_pretrained('models/gpt2')"),
        "a class": (GPT2LMHeadModel, "the class GPT2LMHeadModel", "GPT2LMHeadModel.from_pretrained(...)"),
        "a tokenizer": (sound.tokenizer, type(sound.tokenizer).__name__, "is a tokenizer"),
        "a bare tokenizer": (sound.tokenizer.backend_tokenizer, "Tokenizer", "is a tokenizer"),
        "a configuration": (sound.student.config, "LlamaConfig", "AutoModelForCausalLM.from_config(...)"),
        "nothing": (None, "None", "AutoModelForCausalLM.from_pretrained(...)"),
    }


def no_tokenizers(sound: Parts) -> dict[str, tuple[Any, str, str]]:
    """The same of tokenizers."""
    return {
        "a name": ("gpt2", "str 'gpt2'", "AutoTokenizer.from_pretrained('gpt2')"),
        "a path": (Path("models/gpt2"), "Path 'models/gpt2'", "AutoTokenizer.from_pretrained('models/gpt2')"),
        "a class": (PreTrainedTokenizerFast, "the class ", ".from_pretrained(...)"),
        "a model": (sound.student, "LlamaForCausalLM", "AutoTokenizer.from_pretrained(...)"),
    }


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(DSKDError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_model_is_named_with_what_to_write(name: str, sound: Parts, tmp_path: Path) -> None:
    argument, call = MODELS[name]
    for number, (given, came, advice) in enumerate(no_models(sound).values()):
        message = refused(lambda given=given, number=number: call(sound, given, str(tmp_path / str(number))))  # type: ignore[misc]
        expected = f"{argument}: expected a causal language model, got " if argument else "found no causal language"
        assert expected in message
        assert came in message
        assert advice in message


def test_what_is_no_student_of_a_checkpoint_is_named(sound: Parts, tmp_path: Path) -> None:
    for given, came, advice in (each for name, each in no_models(sound).items() if name != "nothing"):
        message = refused(lambda given=given: load_checkpoint(tmp_path / "no", student=given, loss_fn=sound.loss))  # type: ignore[misc]
        assert message.startswith("student: expected a causal language model, got ")
        assert came in message
        assert advice in message


@pytest.mark.parametrize("name", OF_ACCELERATE)
def test_what_is_no_model_is_named_beside_an_accelerator(name: str, sound: Parts) -> None:
    for given, came, _ in no_models(sound).values():
        message = refused(lambda given=given: OF_ACCELERATE[name](sound, given, ""))  # type: ignore[misc]
        assert message.startswith("model: expected a StudentWithProjectors, ")
        assert f", got {came}" in message.replace("PosixPath", "Path").replace("WindowsPath", "Path")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_no_tokenizer_is_named_with_what_to_write(name: str, sound: Parts, tmp_path: Path) -> None:
    argument, call = TOKENIZERS[name]
    for number, (given, came, advice) in enumerate(no_tokenizers(sound).values()):
        message = refused(lambda given=given, number=number: call(sound, given, str(tmp_path / str(number))))  # type: ignore[misc]
        expected = "expected a fast tokenizer" if not argument else f"{argument}: expected a "
        assert expected in message.replace("Expected", "expected")
        assert came in message
        assert advice in message


@pytest.mark.parametrize("given", ["dskd-cma", None, DSKDSpec, {"aligner": "cma"}])
def test_what_is_no_spec_is_named(given: Any, sound: Parts) -> None:
    for spec in (given, sound.student):
        message = refused(
            lambda spec=spec: DSKDLoss.from_models(spec, sound.student, sound.teacher, sound.tokenizer, sound.tokenizer)  # type: ignore[misc]
        )
        assert message.startswith("DSKDLoss: expected a DSKDSpec, got ")
        assert len(message) < 300


def test_models_and_tokenizers_that_have_changed_places_are_told(sound: Parts) -> None:
    message = refused(
        lambda: DSKDLoss.from_models(sound.spec, sound.student, sound.tokenizer, sound.teacher, sound.tokenizer)
    )
    assert "teacher: expected a causal language model, got" in message
    assert "is a tokenizer" in message


@pytest.mark.parametrize("given", [DSKDLoss, "dskd-cma", None])
@pytest.mark.parametrize("kind", [DSKDTrainer, DSKDSFTTrainer])
def test_what_is_no_loss_is_named(kind: type[Trainer], given: Any, sound: Parts, tmp_path: Path) -> None:
    for loss in (given, sound.tokenizer):
        message = refused(lambda loss=loss: trained(kind, sound, str(tmp_path), loss_fn=loss))  # type: ignore[misc]
        assert message.startswith("loss_fn: expected a DSKDLoss, got ")
    assert refused(lambda: clip_grad_norms(sound.student, given, 1.0)).startswith("loss_fn: expected a DSKDLoss")


def test_the_trainer_of_trl_loads_a_student_by_its_name(sound: Parts, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    sound.student.save_pretrained(folder)
    sound.tokenizer.save_pretrained(folder)
    trainer = trained(
        DSKDSFTTrainer,
        sound,
        str(tmp_path / "output"),
        model=str(folder),
        loss_fn=lambda student: DSKDLoss.from_models(
            sound.spec, student, sound.teacher, sound.tokenizer, sound.tokenizer
        ),
    )
    assert type(trainer.model) is type(sound.student)


def test_a_student_that_model_init_makes_is_looked_at(sound: Parts, tmp_path: Path) -> None:
    make: Any = lambda: "gpt2"  # noqa: E731
    message = refused(lambda: trained(DSKDTrainer, sound, str(tmp_path), model=None, model_init=make))
    assert message.startswith("model_init: expected a causal language model, got str 'gpt2'.")
