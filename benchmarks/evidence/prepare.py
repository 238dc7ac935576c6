"""What comes before the first run: texts, a teacher, tokenizers, students, the teacher's states. Each made once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks.evidence.data import load_texts, write_texts
from benchmarks.evidence.measuring import BATCH
from benchmarks.evidence.models import (
    load_model,
    load_tokenizer,
    mean_embeddings,
    narrowed_tokenizer,
    pruned,
    save,
    teacher_from_package,
    tiny_teacher,
    with_rows,
)
from benchmarks.evidence.training import trained_by_cross_entropy
from dskd_components import DualTokenizerCollator, TeacherStore
from examples.two_tokenizers.tokenizers import train_metaspace_bpe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.evidence.bench import Bench
    from benchmarks.evidence.plan import SettingName


def prepare(
    bench: Bench, *, teacher: Path | None, data: Path | None, tiny: bool, watch: Callable[[int, int], None]
) -> None:
    """Make texts, teacher, tokenizers and students, as far as they are not there.

    Args:
        bench: the folder and the plan.
        teacher: a folder with a model of the Llama family and its byte-level BPE; None: from a package.
        data: JSON lines; None: Python's documentation.
        tiny: whether the teacher is an untrained one, for quick runs.
        watch: told how many steps of how many a student was healed.
    """
    bench.folder.mkdir(parents=True, exist_ok=True)
    bench.write_plan()
    if not (bench.folder / "texts.json").is_file():
        write_texts(load_texts(bench.plan, data), bench.folder / "texts.json")
    if not (bench.folder / "teacher").is_dir():
        _narrow(bench, _whole_teacher(bench, teacher, tiny=tiny))
    if not (bench.folder / "tokenizer").is_dir():
        # By lines, as SentencePiece trains: so no token goes across the end of a line.
        lines = [line for text in _texts_of_vocabularies(bench) for line in text.splitlines()]
        trained = train_metaspace_bpe(lines, bench.plan.vocabulary)
        trained.save_pretrained(bench.folder / "tokenizer")
    (bench.folder / "students").mkdir(exist_ok=True)
    for vocabularies in ("one", "two"):
        if not (bench.folder / "students" / vocabularies).is_dir():
            _make_student(bench, vocabularies, watch)


def store_teacher(bench: Bench) -> None:
    """Run the teacher once over what students learn from and what rates are chosen by, and keep its states.

    It is measured, too, and so are the students as they are before a run.

    Args:
        bench: the folder, prepared.
    """
    own = bench.teacher_tokenizer
    collate = DualTokenizerCollator(own, own, aligner=None, append_eos=False)
    samples = [text.sample for name in ("train", "dev") for text in bench.texts[name]]
    teacher = load_model(bench.folder / "teacher", torch.bfloat16, bench.device)
    size = BATCH[bench.device.type] // 2
    TeacherStore.build(bench.folder / "store", teacher, collate, samples, batch_size=size, progress=True)
    if bench.read("baselines.json") is not None:
        return
    models: dict[str, tuple[SettingName, Any]] = {
        "teacher": ("one", teacher),
        "one": ("one", None),
        "two": ("two", None),
    }
    rows: dict[str, Any] = {}
    for name, (setting, model) in models.items():
        measured = bench.student(setting) if model is None else model
        parts = ("dev", "test")
        rows[name] = {part: bench.score(measured, setting, part).row() for part in parts}
    bench.write("baselines.json", rows)


def _whole_teacher(bench: Bench, given: Path | None, *, tiny: bool) -> Path:
    if given is not None:
        return given
    folder = bench.folder / "whole-teacher"
    if not folder.is_dir() and tiny:
        tiny_teacher(folder, _texts_of_vocabularies(bench))
    elif not folder.is_dir():
        teacher_from_package(folder)
    return folder


def _narrow(bench: Bench, folder: Path) -> None:
    """Write the teacher with the tokens alone that the texts use most."""
    tokenizer, kept = narrowed_tokenizer(load_tokenizer(folder), _texts_of_vocabularies(bench), bench.plan.vocabulary)
    model = load_model(folder, torch.bfloat16, torch.device("cpu"))
    rows = model.get_input_embeddings().weight.detach()[kept]
    save(with_rows(model, rows, tokenizer.bos_token_id), tokenizer, bench.folder / "teacher")


def _make_student(bench: Bench, vocabularies: SettingName, watch: Callable[[int, int], None]) -> None:
    """Write a student of some of the teacher's layers, healed. With two vocabularies it gets its own tokenizer."""
    student = pruned(load_model(bench.folder / "teacher", torch.float32, torch.device("cpu")), bench.plan.layers)
    tokenizer = bench.tokenizer(vocabularies)
    if vocabularies == "two":
        embedding = student.get_input_embeddings().weight.detach()
        rows = mean_embeddings(embedding, bench.teacher_tokenizer, tokenizer)
        student = with_rows(student, rows, tokenizer.bos_token_id)
    student.to(bench.device)
    torch.manual_seed(0)
    trained_by_cross_entropy(bench, student, vocabularies, watch)
    save(student, tokenizer, bench.folder / "students" / vocabularies)


def _texts_of_vocabularies(bench: Bench) -> list[str]:
    """Return what vocabularies are made of: nothing that anything is measured on."""
    return [text.whole for name in ("train", "heal") for text in bench.texts[name]]
