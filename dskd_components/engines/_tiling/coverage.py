"""`Coverage`: the order of a side's rows in which those that the same teachers cover lie together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from dskd_components.models.host_reads import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from torch import Tensor


class Section(NamedTuple):
    """Consecutive rows that the same masks cover.

    Args:
        rows: the rows.
        covering: for each mask, whether it covers them.
    """

    rows: slice
    covering: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Coverage:
    """Rows of a side, and which of them each of several masks covers.

    The rows that a mask covers keep their order among all rows, so those in any run of rows follow one another among
    the mask's own.

    Args:
        positions: ``[N]``, int64: where the rows are among all positions, on the device.
        on_host: the same on the host.
        sections: the rows, cut where another set of masks covers them. What no mask covers comes last.
        reordered: for each mask, ``[n]``, int64: the positions that it covers in the order of the rows. None: that is
            their own order.

    Examples:
        >>> wanted = torch.tensor([True, True, True, True, False])
        >>> first, second = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 1, 0]]).bool()
        >>> coverage = Coverage.of(wanted, [first, second], wanted.device)
        >>> coverage.positions
        tensor([3, 0, 2, 1])
        >>> coverage.covered_by(0, slice(0, 4)), coverage.covered_by(1, slice(1, 4))
        (slice(0, 2, None), slice(1, 2, None))
    """

    positions: Tensor
    on_host: Tensor
    sections: tuple[Section, ...]
    reordered: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, wanted: Tensor, masks: Sequence[Tensor], device: torch.device) -> Self:
        """Order some positions by the masks that cover them.

        Args:
            wanted: ``[P]``, bool, on the host: the positions that become rows.
            masks: each ``[P]``, bool, on the host; true for wanted positions only.
            device: where the rows are used.
        """
        if len(masks) == 1:
            # One teacher, as nearly always: nothing to sort, and a fifth of the time that it takes the host.
            covered, others = ((wanted & mask).nonzero().squeeze(1) for mask in (masks[0], ~masks[0]))
            positions = torch.cat([covered, others])
            ends = (slice(0, len(covered)), (True,)), (slice(len(covered), len(positions)), (False,))
            sections = tuple(Section(rows, covering) for rows, covering in ends if rows.start < rows.stop)
            return cls(to_device(positions, device), positions, sections, (None,))
        positions = wanted.nonzero().squeeze(1)
        found = torch.stack([mask[positions] for mask in masks]) if masks else wanted.new_empty(0, len(positions))
        order = torch.arange(len(positions), device="cpu")
        for mask in reversed(found):
            order = order[torch.argsort(mask[order].logical_not().byte(), stable=True)]
        positions, found = positions[order], found[:, order]
        sections = tuple(_sections(found, len(positions)))
        reordered = (
            to_device(positions[mask], device) if sum(section.covering[number] for section in sections) > 1 else None
            for number, mask in enumerate(found)
        )
        return cls(to_device(positions, device), positions, sections, tuple(reordered))

    @property
    def covered(self) -> int:
        """How many rows some mask covers; they come first."""
        return max((section.rows.stop for section in self.sections if any(section.covering)), default=0)

    def covered_by(self, number: int, rows: slice) -> slice:
        """Return which of a mask's rows, counted among its own, are among some rows.

        Args:
            number: of the mask.
            rows: the rows.
        """
        return slice(self._before(number, rows.start), self._before(number, rows.stop))

    def _before(self, number: int, row: int) -> int:
        return sum(
            min(max(row - section.rows.start, 0), section.rows.stop - section.rows.start)
            for section in self.sections
            if section.covering[number]
        )

    def cut(self, rows: slice) -> Iterator[slice]:
        """Yield some rows in parts that lie in one section each.

        Args:
            rows: the rows.
        """
        for section in self.sections:
            start, stop = max(rows.start, section.rows.start), min(rows.stop, section.rows.stop)
            if start < stop:
                yield slice(start, stop)


def _sections(found: Tensor, rows: int) -> Iterator[Section]:
    if not rows:
        return
    changes = (found[:, 1:] != found[:, :-1]).any(0).nonzero().squeeze(1) + 1
    starts = [0, *changes.tolist()]
    for start, stop in zip(starts, [*starts[1:], rows], strict=True):
        yield Section(slice(start, stop), tuple(found[:, start].tolist()))
