"""Data sets that are streams, under a trainer of several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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

    def __len__(self) -> int:
        return len(self._stream)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # not there yet while a copy is made
            raise AttributeError(attribute)
        return getattr(self._stream, attribute)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what holds the loader, which does not go along to its workers."""
        return {"_stream": self._stream}
