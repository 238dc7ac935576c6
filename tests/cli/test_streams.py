"""Standard streams of any encoding: what a stream has no character for is replaced, and data is never changed."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from dskd_components.cli import main
from tests.helpers.collating import byte_level, metaspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLES = '{"text": "Größe, naïve, 数字 🙂"}\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizers")
    for make in (byte_level, metaspace):
        make().save_pretrained(root / make.__name__)
    (root / "samples.jsonl").write_text(SAMPLES, encoding="utf-8")
    (root / "wrong.yaml").write_text("distance: größe\n", encoding="utf-8")
    return root


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run a command between streams of an encoding; return its exit code and what it has written, decoded."""

    def run(encoding: str, *arguments: object, given: bytes = b"") -> tuple[int, str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        with monkeypatch.context() as patch:
            for name, stream in zip(("stdout", "stderr"), streams, strict=True):
                patch.setattr(sys, name, stream)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding=encoding))
            with pytest.raises(SystemExit) as left:
                main([str(argument) for argument in arguments])
        for stream in streams:
            stream.flush()
        out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
        return int(left.value.code or 0), out, err

    return run


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_has_no_character_is_replaced(
    folder: Path, written: Callable[..., tuple[int, str, str]], encoding: str
) -> None:
    sample = ("show-sample", "--student", folder / "byte_level", "--teacher", folder / "metaspace")
    for command in (
        ("list",),
        ("show", "js"),
        ("validate", folder / "wrong.yaml"),
        (*sample, folder / "samples.jsonl"),
    ):
        code, out, err = written("utf-8", *command)
        assert written(encoding, *command) == (
            code,
            *(text.encode(encoding, "replace").decode(encoding) for text in (out, err)),
        )
    code, out, _ = written(encoding, "show-sample", "--help")
    assert (code, "? scored" in out) == (0, True)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_data_is_the_same_in_each(folder: Path, written: Callable[..., tuple[int, str, str]], encoding: str) -> None:
    sample = ("show-sample", "--student", folder / "byte_level", "--teacher", folder / "metaspace")
    for command in (("list", "--json"), ("schema",), (*sample, folder / "samples.jsonl", "--format", "json")):
        plainly, here = (written(each, *command)[1] for each in ("utf-8", encoding))
        assert json.loads(plainly) == json.loads(here)
    page = (*sample, folder / "samples.jsonl", "--format", "html")
    plainly, here = (written(each, *page)[1] for each in ("utf-8", encoding))
    assert here.encode(encoding).isascii()
    assert here == plainly.encode("ascii", "xmlcharrefreplace").decode()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_what_is_read_is_utf_8_as_in_files(
    folder: Path, written: Callable[..., tuple[int, str, str]], encoding: str
) -> None:
    sample = ("show-sample", "--student", folder / "byte_level", "--teacher", folder / "metaspace", "--format", "json")
    _, of_file, _ = written("utf-8", *sample, folder / "samples.jsonl")
    assert json.loads(written(encoding, *sample, "-", given=SAMPLES.encode())[1]) == json.loads(of_file)
    code, _, err = written(encoding, *sample, "-", given=b'{"text": "a"}\n\xff')
    assert (code, err) == (1, "error: -:2: expected text in UTF-8, got other bytes. Save it as UTF-8.\n")
    assert written(encoding, "validate", "-", given="\ufeffpreset: dskd # größe".encode())[0] == 0
    code, _, err = written(encoding, "validate", "-", given=b"preset: dskd # gr\xf6\xdfe")
    assert (code, err) == (1, "<stdin>: cannot be read: it is not text in UTF-8\n")
