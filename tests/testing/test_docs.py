"""What docs/reference/laws.md says of the laws is what the laws say of themselves, and all of them are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_components.testing import laws_about

DOCUMENT = " ".join((Path(__file__).parents[2] / "docs/reference/laws.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("kind", ["distance", "aligner", "projector", "space", "schedule"])
def test_every_law_is_described(kind: str) -> None:
    described = [f"- `{law.name}`: {law.claim} {law.reason}".replace("``", "`") for law in laws_about(kind)]
    assert [entry for entry in described if entry not in DOCUMENT] == []
