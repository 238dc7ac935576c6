"""Compiled blocks on any device: their functions are called as they are written, which takes no compiler."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dskd_components.engines import tiled
from dskd_components.engines._tiling import compiled_block, compiling, head_products

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def compiled_anywhere(*, as_written: bool = True, even: int = 4) -> Iterator[None]:
    """While it is entered, ``compiled`` has an effect on every device.

    Args:
        as_written: functions are called as they are written; else they are traced, and what is to compile them does.
        even: a multiple of how many tokens products are made of.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "compiles_on", lambda _: True)
        patch.setattr(compiling, "_functions", {})
        patch.setattr(compiling, "_of_kind", type(compiling._of_kind)())
        for module in (tiled, head_products):
            patch.setattr(module, "even", lambda _: even)
        if as_written:
            for module in (compiled_block, head_products):
                patch.setattr(module, "call", lambda function, tensors: function(*tensors))
        yield
