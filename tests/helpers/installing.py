"""A fixture that installs fake distributions for one test."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from dskd_components.components import default_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.helpers.fake_distributions import FakeDistribution


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install distributions beside the real ones; the next look-up finds them."""
    loaded_before = set(sys.modules)

    def install_all(*distributions: FakeDistribution) -> None:
        for distribution in distributions:
            distribution.install(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        default_registry.cache_clear()

    yield install_all
    default_registry.cache_clear()
    for name in set(sys.modules) - loaded_before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
