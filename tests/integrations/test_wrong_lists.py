"""What takes a list takes one, reads what can be read only once as often as it must, and refuses all else by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset

from dskd_components import (
    CheckpointError,
    DSKDError,
    DSKDLoss,
    DSKDSpec,
    TeacherStore,
    load_checkpoint,
    save_checkpoint,
    use_plugins,
)
from dskd_components.aligners.align_text import align_texts
from dskd_components.collation.samples import Columns
from dskd_components.integrations.accelerate import micro_batches, register_projectors
from dskd_components.integrations.lightning import DSKDLightningModule
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from dskd_components.integrations.transformers import DSKDTrainer
from tests.helpers.models import TEXTS, byte_level_tokenizer, tiny_model
from tests.helpers.pairs import look, tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Table:
    """Like a DataFrame: it has a length, and gives its columns' names one after the other."""

    columns = ("text",)

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __getitem__(self, key: Any) -> Any:
        return {"text": ["a", "b"]}[key]

    def to_dict(self, orient: str) -> Any:
        return [{"text": "a"}, {"text": "b"}]


NO_LISTS: Final[Mapping[str, Callable[[], Any]]] = {
    "a text": lambda: "a b",
    "bytes": lambda: b"a b",
    "a mapping": lambda: {"text": "a b"},
    "a number": lambda: 3,
    "a class": lambda: list,
    "a table": Table,
}

PLACES: Final[Mapping[str, tuple[str, Callable[[Any], object]]]] = {
    "samples of preflight": ("samples: expected a list", lambda given: look(texts=None, samples=given)),
    "texts of preflight": ("texts: expected a list", lambda given: look(texts=given)),
    "texts to align": ("texts: expected a list", lambda given: align_texts(tokenizer(300), tokenizer(280), given)),
    "parts of a store": ("parts: expected", lambda given: TeacherStore.merge("whole", given)),
    "columns to ignore": ("ignore", lambda given: Columns(ignore=given)),
    "plugins": ("use_plugins", lambda given: use_plugins(allow=given)),
    "a batch of preflight": ("batch: expected a mapping", lambda given: look(batch=[given])),
}


NAMES_IN_ORDER: Final = {"columns to ignore", "plugins", "parts of a store"}
"""What takes a list of names, and so the names of a table's columns; of the first two also a mapping's keys."""

CELLS: Final = [
    (place, kind)
    for place in PLACES
    for kind in NO_LISTS
    if not (place in NAMES_IN_ORDER and kind == "a table")
    and not (place in NAMES_IN_ORDER - {"parts of a store"} and kind == "a mapping")
]


@pytest.mark.parametrize(("place", "kind"), CELLS)
def test_what_is_no_list_is_refused_by_name(place: str, kind: str) -> None:
    beginning, call = PLACES[place]
    with pytest.raises(DSKDError) as error:
        call(NO_LISTS[kind]())
    assert beginning in str(error.value)
    assert len(str(error.value)) < 400


def test_samples_that_can_be_read_once_are_refused_with_how_to_take_some() -> None:
    samples = [{"text": text} for text in TEXTS]
    for stream in (iter(samples), (sample for sample in samples), Dataset.from_list(samples).to_iterable_dataset()):
        with pytest.raises(DSKDError, match=r"(?s)^samples: expected a list .*islice\(samples, 100\)"):
            look(texts=None, samples=stream)
        with pytest.raises(DSKDError, match=r"(?s)^texts: expected a list .*islice\(texts, 100\)"):
            look(texts=stream)


@pytest.mark.parametrize("listed", [np.array, tuple, lambda texts: Dataset.from_dict({"text": texts})["text"]])
def test_texts_may_come_in_any_list(listed: Callable[[list[str]], Any]) -> None:
    assert look(texts=listed(list(TEXTS))).findings == look(texts=list(TEXTS)).findings


def test_texts_to_align_may_be_read_once() -> None:
    both = byte_level_tokenizer(300), byte_level_tokenizer(280)
    for texts in ((text for text in TEXTS), np.array(TEXTS), tuple(TEXTS)):
        found = align_texts(*both, texts)  # type: ignore[arg-type]
        assert [each.pairs for each in found] == [each.pairs for each in align_texts(*both, list(TEXTS))]


def test_columns_to_ignore_may_be_read_once() -> None:
    columns = Columns(ignore=(name for name in ["id"]))  # type: ignore[arg-type]
    assert columns.ignore == ("id",)


def models() -> tuple[Any, Any, DSKDLoss, DSKDLoss]:
    student, teacher = (tiny_model("Llama", hidden_size=size) for size in (16, 32))
    saved, other = (DSKDLoss.from_models(DSKDSpec(kd_rate=rate), student, teacher) for rate in (0.5, 0.3))
    return student, teacher, saved, other


def test_differences_that_are_meant_may_be_read_once(tmp_path: Path) -> None:
    student, teacher, saved, other = models()
    saved.save(tmp_path / "loss")
    save_checkpoint(tmp_path / "run.pt", student=student, loss_fn=saved, step=1)

    def meant() -> Any:
        return (path for path in ["spec.temperature", "spec.kd_rate"])

    other.restore(tmp_path / "loss", accept=meant())
    load_checkpoint(tmp_path / "run.pt", student=student, loss_fn=other, accept=meant())
    assert DSKDLoss.load(tmp_path / "loss", student, teacher, accept=meant()).spec == saved.spec
    assert DSKDLightningModule(student, teacher, other, accept=meant()).accept == ("spec.temperature", "spec.kd_rate")


@pytest.mark.parametrize("meant", ["spec.kd_rate", None, 3, [3], [None]])
def test_what_is_no_list_of_paths_is_refused_before_anything_runs(meant: Any, tmp_path: Path) -> None:
    student, teacher, saved, other = models()
    saved.save(tmp_path / "loss")
    both = StudentWithProjectors(student, other, teacher)
    calls: Iterable[Callable[[], object]] = (
        lambda: other.restore(tmp_path / "loss", accept=meant),
        lambda: DSKDLoss.load(tmp_path / "loss", student, teacher, accept=meant),
        lambda: load_checkpoint(tmp_path / "none.pt", student=student, loss_fn=other, accept=meant),
        lambda: DSKDLightningModule(student, teacher, other, accept=meant),
        lambda: register_projectors(Accelerator(cpu=True), both, accept=meant),
        lambda: DSKDTrainer(student, loss_fn=other, teacher=teacher, accept=meant),
    )
    for call in calls:
        with pytest.raises(CheckpointError, match=r"^accept: (expected|nothing is called)"):
            call()


def test_a_window_is_a_batch_or_several() -> None:
    student, teacher, saved, _ = models()
    both, accelerator = StudentWithProjectors(student, saved, teacher), Accelerator(cpu=True)
    ids = torch.ones(1, 3, dtype=torch.int64)
    batch = {"input_ids": ids, "labels": ids}
    assert len(list(micro_batches(accelerator, both, iter([batch, batch])))) == 2
    for window in (None, 3, "ab", [None]):
        with pytest.raises(DSKDError, match=r"expected a batch, a mapping of columns, or several"):
            list(micro_batches(accelerator, both, window))  # type: ignore[arg-type]


def test_a_store_is_merged_of_folders() -> None:
    for parts, came in (("a/part", "str 'a/part'"), (Path("a"), "Path 'a'"), ([None], "None"), ([3], "int")):
        with pytest.raises(DSKDError, match=r"^parts: expected") as error:
            TeacherStore.merge("whole", parts)  # type: ignore[arg-type]
        assert came in str(error.value)
