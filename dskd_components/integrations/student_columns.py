"""A batch as a trainer looks at it that knows one model, the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dskd_components.collation.padding import NO_SEGMENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

PREFIX = "student_"


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
