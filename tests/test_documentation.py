"""What the pages name is there: linked files and headings, pictures, paths, and modules that are to be run."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "plugins/*/*.md", "tests/*.md", "examples/**/*.md", "benchmarks/**/*.md")
    for page in ROOT.glob(pattern)
)
ROOMS = "benchmarks|docs|dskd_components|examples|plugins|tests"


def text_of(page: Path) -> str:
    """A page without its blocks of code, where brackets and comments are no links and headings."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", each).lower()).replace(" ", "-")
        for each in titles
    }


def missing(page: Path) -> Iterator[str]:
    text = text_of(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"link {target}: no such file"
        elif anchor and anchor not in headings(file):
            yield f"link {target}: no such heading"
    for path in re.findall(rf"`((?:{ROOMS})/[\w./-]*\w/?)`", text):
        if not (ROOT / path).exists():
            yield f"path {path}"
    for module in re.findall(rf"python -m ((?:{ROOMS})[\w.]*)", page.read_text(encoding="utf-8")):
        if find_spec(module) is None:
            yield f"module {module}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    assert not list(missing(page))
