"""What a trainer that knows one model reads: streams over several processes, and the student's columns of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from torch.utils.data import IterableDataset
from transformers import DataCollatorWithPadding, default_data_collator
from transformers.trainer_utils import has_length

from dskd_components.collation.padding import NO_SEGMENT
from dskd_components.collation.problems import excerpt
from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor
    from transformers import Trainer


class SharedStream(IterableDataset[Any]):
    """A stream that each process reads whole and takes its share of, sample by sample.

    Left to itself, Accelerate has the first process read and collate for all and then joins the batches, which takes
    rows of one length; or it gives each process shards of its own, of which some end before others.

    Args:
        stream: the data set, of which all attributes are kept.

    Examples:
        >>> shared = SharedStream(range(3))
        >>> shared.at_end = lambda count: print(count, "samples")
        >>> list(shared)
        3 samples
        [0, 1, 2]
    """

    at_end: Callable[[int], None] | None = None
    """Called with the number of samples each time that all have been read; not by the workers of a loader."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        count = 0
        for sample in self._stream:
            count += 1
            yield sample
        if self.at_end is not None:
            self.at_end(count)

    def tell_remainder(self, loader: Any, *, together: int) -> None:
        """Have a loader know how many samples its last batches hold, which are filled up from the beginning.

        Args:
            loader: a loader of this stream.
            together: how many samples the batches of all processes hold.
        """

        def note_remainder(count: int) -> None:
            loader.remainder = count % together

        self.at_end = note_remainder

    def __len__(self) -> int:
        return len(self._stream)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # not there yet while a copy is made
            raise AttributeError(attribute)
        return getattr(self._stream, attribute)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what holds the loader, which does not go along to its workers."""
        return {"_stream": self._stream}


BY_LENGTH: Final = ("group_by_length", "batch_rebalance")
"""The ways to sample, of a trainer, that need to know how long samples are."""


class StudentTokens:
    """The student's tokens of each sample, under the name by which a trainer looks for them to know how long it is.

    Args:
        data: samples that are in tokens already.
        name: of the student's tokens there.
        called: what the trainer calls them.

    Examples:
        >>> list(StudentTokens([{"student_input_ids": [5, 6]}], "student_input_ids", "input_ids"))
        [{'input_ids': [5, 6]}]
    """

    def __init__(self, data: Any, name: str, called: str) -> None:
        self._data = data
        self._name = name
        self._called = called

    @classmethod
    def of(cls, data: Any, trainer: Trainer) -> Any:
        """Return what a trainer finds the lengths of a data set in.

        Args:
            data: the data set; a stream, or one with a column of lengths, is returned as it is.
            trainer: says how it samples, and what it calls lengths and tokens.

        Raises:
            ConfigurationError: samples are not in tokens yet, so that nobody knows their lengths.
        """
        strategy, column = trainer.args.train_sampling_strategy, trainer.args.length_column_name
        known = column in (getattr(data, "column_names", None) or ())
        if strategy not in BY_LENGTH or known or not has_length(data) or not len(data):
            return data
        samples: Any = data
        sample = samples[0]
        names = [PREFIX + INPUT_IDS, INPUT_IDS] if isinstance(sample, Mapping) else []
        name = next((name for name in names if name in sample), None)
        if name is None:
            raise ConfigurationError(
                f"train_sampling_strategy={strategy!r} needs the length of each sample, and these are not in tokens: "
                f"{excerpt(sample)} Make them so with DualTokenizerPreprocessor, or give the datasets.Dataset a column "
                f"{column!r}, which the collator is told to leave out: columns=Columns(ignore=[{column!r}])."
            )
        tokenizer: Any = trainer.processing_class
        return cls(data, name, INPUT_IDS if tokenizer is None else tokenizer.model_input_names[0])

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {self._called: self._data[place][self._name]}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self)))


class DefaultCollator:
    """The collator that a trainer has if it is given none, for samples that are in tokens already.

    Args:
        collate: the trainer's own.
        aligner: the name of the loss's aligner, for the message.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], aligner: str) -> None:
        self._collate = collate
        self._aligner = aligner

    @classmethod
    def instead_of(cls, collate: Any, aligner: str) -> Any:
        """Return a trainer's collator, unless it is one that no user gives: then what has an error of its own.

        Args:
            collate: the trainer's.
            aligner: as in the class.
        """
        is_default = collate is default_data_collator or type(collate) is DataCollatorWithPadding
        return cls(collate, aligner) if is_default else collate

    def __call__(self, samples: list[Any]) -> Any:
        """Return the trainer's batch of samples.

        Raises:
            ConfigurationError: it has no batch of them, or one without labels; the message says how to get a collator.
        """
        try:
            batch = self._collate(samples)
        except Exception as error:  # whatever it makes of texts and of rows of several lengths
            raise self._error(samples) from error
        if "labels" not in batch and f"{PREFIX}labels" not in batch:
            raise self._error(samples)
        return batch

    def _error(self, samples: list[Any]) -> ConfigurationError:
        return ConfigurationError(
            "data_collator: none was given, and the trainer's own makes no batch of these samples that both models "
            "can read. Give data_collator=loss_fn.collator(student_tokenizer, teacher_tokenizer), which takes texts, "
            f"prompts with responses and chats (docs/how-to/collation.md), and aligns for {self._aligner!r}. "
            f"The first sample: {excerpt(samples[0]) if samples else 'none'}"
        )


PREFIX: Final = "student_"

INPUT_IDS: Final = "input_ids"


def student_columns(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the columns that the student reads, by the names that its forward has for them.

    Packed rows, which need no mask, get one that shows what is padding.

    Args:
        batch: the columns that `DSKDLoss.run` reads.

    Examples:
        >>> import torch
        >>> batch = {"student_input_ids": torch.ones(1, 3), "student_segment_ids": torch.tensor([[0, 1, -1]])}
        >>> student_columns(batch)["attention_mask"]
        tensor([[ True,  True, False]])
    """
    own = {name.removeprefix(PREFIX): column for name, column in batch.items() if name.startswith(PREFIX)}
    columns = {**batch, **own}
    if "segment_ids" in columns and "attention_mask" not in columns:
        columns["attention_mask"] = columns["segment_ids"] != NO_SEGMENT
    return columns


def has_labels(batch: object) -> bool:
    """Return whether a batch says what is scored; prompts, which are to be written on, do not.

    Args:
        batch: of a loader.

    Examples:
        >>> has_labels({"student_labels": 1}), has_labels({"prompts": ["a"]}), has_labels(["a"])
        (True, False, False)
    """
    return isinstance(batch, Mapping) and any(name in batch for name in ("labels", f"{PREFIX}labels"))


class NamingInput:
    """A loader of batches that have one of the student's columns without prefix, too.

    Args:
        loader: a loader of batches with or without prefix; all else is the loader's own.
        name: of the column, without prefix.

    Examples:
        >>> [list(batch) for batch in NamingInput([{"student_input_ids": 1}, {"input_ids": 2}], "input_ids")]
        [['student_input_ids', 'input_ids'], ['input_ids']]
    """

    def __init__(self, loader: Any, name: str) -> None:
        self._loader: Iterable[Mapping[str, Tensor]] = loader
        self._name = name

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        name = self._name
        for batch in self._loader:
            missing = name not in batch and PREFIX + name in batch
            yield {**batch, name: batch[PREFIX + name]} if missing else batch

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # as the loader, it may have none

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._loader, attribute)
