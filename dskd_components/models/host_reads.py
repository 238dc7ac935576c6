"""What the host must know of the values in tensors, read together: on an accelerator each read waits for all before it.

A `Check` is a condition that is looked at later, with others; `MaskedPositions` are where a mask is true, known on the
host and on the device. Whatever one step needs comes by one copy each way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence


class Check(NamedTuple):
    """A condition on values in tensors that is read later.

    Args:
        failed: scalar, bool, on any device.
        explain: raises the error that says what is wrong. It is called only if the check has failed, so it may take its
            time and look at the tensors.
    """

    failed: Tensor
    explain: Callable[[], object]


def read(masks: Sequence[Tensor], checks: Sequence[Check] = ()) -> list[Tensor]:
    """Return masks as they are on the host, once no check has failed; all of them in one copy.

    Args:
        masks: each of any shape, bool, all on the device of the checks.
        checks: the first one that has failed explains itself.

    Returns:
        For each mask, its entries in one row.

    Raises:
        InputError: what the first failed check raises.

    Examples:
        >>> read([torch.tensor([[True], [False]])])
        [tensor([ True, False])]
    """
    parts = [*(check.failed.reshape(1) for check in checks), *(mask.flatten() for mask in masks)]
    if not parts:
        return []
    failed, *found = torch.cat(parts).cpu().split([len(checks), *(mask.numel() for mask in masks)])
    for check, has_failed in zip(checks, failed.tolist(), strict=True):
        if has_failed:
            check.explain()
            raise AssertionError("a check that has failed raises")
    return list(found)


def require(*checks: Check) -> None:
    """Read checks at once.

    Args:
        *checks: the checks.

    Raises:
        InputError: what the first failed check raises.
    """
    read((), checks)


@dataclass(frozen=True, eq=False)
class MaskedPositions:
    """The positions of a batch at which a mask is true.

    Args:
        mask: ``[B * T]``, bool, on the host.
        indices: ``[N]``, int64, ascending, on the batch's device: where it is true.

    Examples:
        >>> (found,) = masked_positions([torch.tensor([[True, False], [True, True]])])
        >>> found.indices
        tensor([0, 2, 3])
        >>> found.placed(found.rows_of(torch.ones(2, 2, 1))).squeeze(1)
        tensor([1., 0., 1., 1.])
    """

    mask: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def are_all(self) -> bool:
        """Whether the mask is true everywhere."""
        return len(self.indices) == len(self.mask)

    def rows_of(self, tensor: Tensor) -> Tensor:
        """Return ``[N, ...]``: what stands at the positions; no copy where these are all.

        Args:
            tensor: ``[B, T, ...]``.
        """
        rows = tensor.flatten(0, 1)
        return rows if self.are_all else rows.index_select(0, self.indices)

    def placed(self, rows: Tensor) -> Tensor:
        """Return ``[B * T, ...]``: rows at the positions, zeros elsewhere; no copy where the positions are all.

        Args:
            rows: ``[N, ...]``.
        """
        if self.are_all:
            return rows
        return rows.new_zeros(len(self.mask), *rows.shape[1:]).index_copy_(0, self.indices, rows)

    def among(self, others: MaskedPositions) -> Tensor:
        """Return ``[N]``, int64: the place of each position among others that it is one of.

        Args:
            others: the positions of a mask that is true wherever this one is.
        """
        return torch.searchsorted(others.indices, self.indices)


def masked_positions(masks: Sequence[Tensor], checks: Sequence[Check] = ()) -> list[MaskedPositions]:
    """Return where masks are true, once no check has failed; all of them in one copy each way.

    Args:
        masks: each ``[B, T]``, bool; one at least.
        checks: as in `read`.

    Raises:
        InputError: as in `read`.
    """
    found = read(masks, checks)
    places = [mask.nonzero().squeeze(1) for mask in found]
    indices = to_device(torch.cat(places), masks[0].device).split([len(each) for each in places])
    return [MaskedPositions(mask, places) for mask, places in zip(found, indices, strict=True)]


def on_host(columns: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Return columns of which some are on the host, copied from each device together.

    Args:
        columns: by name; what is no tensor, or has more than two dimensions, stays as it is.
        names: what those end with that are copied.

    Examples:
        >>> found = on_host({"teacher_labels": torch.tensor([[2, 3]]), "pixels": torch.ones(1)}, ["labels"])
        >>> found["teacher_labels"]
        tensor([[2, 3]])
    """
    copied = {
        name: column
        for name, column in columns.items()
        if name.endswith(tuple(names)) and isinstance(column, Tensor) and column.ndim <= 2
    }
    found = dict(columns)
    groups: dict[tuple[torch.device, bool], list[str]] = {}
    for name, column in copied.items():
        groups.setdefault((column.device, column.is_floating_point()), []).append(name)
    for (_, is_floating), members in groups.items():
        wide = torch.float64 if is_floating else torch.int64
        flat = torch.cat([copied[name].flatten().to(wide) for name in members]).cpu()
        parts = flat.split([copied[name].numel() for name in members])
        for name, part in zip(members, parts, strict=True):
            found[name] = part.view(copied[name].shape).to(copied[name].dtype)
    return found


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a host's tensor on a device, without waiting for it.

    Args:
        tensor: on the host; not changed from here on.
        device: where it goes.
    """
    return tensor.to(device, non_blocking=True)
