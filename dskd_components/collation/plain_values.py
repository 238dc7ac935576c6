"""Values as data sets hand them out, as the plain lists and dicts that everything else reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor


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
