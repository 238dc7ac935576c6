"""How long a call takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Seconds on the wall that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
