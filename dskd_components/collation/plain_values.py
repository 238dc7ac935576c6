"""Values as data sets hand them out, lists or arrays of any library, as the plain ones that everything else reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from dskd_components.tokenization.arrays import IntArray


def items_of(value: Any) -> list[Any] | None:
    """Return what a list, a tuple or an array has; None if it is none of them.

    Data sets in NumPy's format and tables of pandas hold lists as arrays of objects.
    """
    if isinstance(value, np.ndarray | Tensor) and value.ndim:
        return list(value)
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Sequence):
        return None
    return list(value)


def plain(value: Any) -> Any:
    """Return a value with lists for arrays and tuples, dicts for mappings, and numbers and texts of Python.

    Anything else stays as it is.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and not value.ndim):
        return value.item()
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    entries = items_of(value)
    return value if entries is None else [plain(entry) for entry in entries]


def integers(name: str, value: Any) -> IntArray:
    """Return the numbers of a column ``[T]``, int64.

    Args:
        name: The column.
        value: A list, a tuple, an array or a tensor on any device.

    Raises:
        InputError: It holds no integers, or is not one row of them.
    """
    array = _array(value)
    if array is None or (array.dtype.kind not in "iu" and array.size > 0):
        kind = type(value).__name__ if array is None or array.ndim == 0 else f"{array.dtype} {value!r:.80}"
        raise InputError(f"Expected {name!r} to be a list or an array of integers, but got {kind}.")
    if array.ndim != 1:
        raise InputError(f"Expected {name!r} to be one row of integers [T], but got the shape {array.shape}.")
    return array.astype(np.int64, copy=False)


def integer(name: str, value: Any) -> int:
    """Return a single number.

    Args:
        name: The column.
        value: A number, or an array or tensor of one.

    Raises:
        InputError: It is no integer.
    """
    array = _array(value)
    if array is None or array.size != 1 or array.dtype.kind not in "iu":
        raise InputError(f"Expected {name!r} to be an integer, but got {value!r:.80}.")
    return int(array.item())


def _array(value: Any) -> npt.NDArray[Any] | None:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError:
        # Rows of several lengths are no array.
        return None
