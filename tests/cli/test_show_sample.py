"""`dskd show-sample`: tokenizers and a file of samples in, what becomes of them out."""

from __future__ import annotations

import io
import json
import warnings
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from dskd_components import DSKDWarning, DualTokenizerCollator, MultiTeacherCollator
from tests.helpers.collating import byte_level, metaspace, unigram
from tests.helpers.fake_distributions import FakeDistribution
from tests.helpers.sample_kinds import OF_TWO_TOKENIZERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.commands import Ran

SAMPLES = list(OF_TWO_TOKENIZERS.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tokenizers without models, and samples."""
    root = tmp_path_factory.mktemp("tokenizers")
    for make in (byte_level, metaspace, unigram):
        make().save_pretrained(root / make.__name__)
    (root / "samples.jsonl").write_text("\n\n".join(map(json.dumps, SAMPLES)), encoding="utf-8")
    (root / "samples.json").write_text(json.dumps(SAMPLES, indent=2), encoding="utf-8")
    return root


@pytest.fixture
def show(dskd: Callable[..., Ran], folder: Path) -> Callable[..., Ran]:
    def run(*arguments: object, samples: str = "samples.jsonl", columns: int | None = None) -> Ran:
        own = ("--student", folder / "byte_level", "--teacher", folder / "metaspace")
        return dskd("show-sample", *own, folder / samples, *arguments, columns=columns)

    return run


def test_as_many_are_shown_as_were_asked_for(show: Callable[..., Ran], folder: Path) -> None:
    view = DualTokenizerCollator(byte_level(), metaspace(), aligner="span").show
    for samples in ("samples.jsonl", "samples.json"):
        ran = show("--aligner", "span", "-n", 2, "--start", 3, samples=samples)
        title = folder / samples
        expected = [f"{title}: sample {number}\n{view(SAMPLES[number]).to_text()}\n" for number in (3, 4)]
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == "\n".join(expected)
    assert show(columns=40).out.count(": sample ") == 3


def test_tools_that_a_template_does_not_read_are_said_of_the_sample(dskd: Callable[..., Ran], folder: Path) -> None:
    ignores = byte_level().__class__.from_pretrained(folder / "byte_level")
    ignores.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    ignores.save_pretrained(folder / "ignores")
    own = ("--student", folder / "ignores", "--teacher", folder / "metaspace", folder / "samples.jsonl")
    number = list(OF_TWO_TOKENIZERS).index("tools")
    ran = dskd("show-sample", *own, "--start", number, "-n", 1)
    place = f"{folder / 'samples.jsonl'}: sample {number}"
    assert " ".join(ran.err.split()).startswith(
        f"warning: {place}: 'tools' makes no difference to what the chat template of the student writes; that of the "
    )
    assert (ran.code, ran.out.startswith(place)) == (0, True)


def test_other_warnings_of_the_library_are_sentences(show: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def read_nothing(*_: object) -> list[object]:
        warnings.warn("something is odd", DSKDWarning, stacklevel=1)
        return []

    monkeypatch.setattr("dskd_components.cli.show_sample.read_samples", read_nothing)
    assert show().err.startswith("warning: something is odd\nerror: ")


def test_options_are_those_of_the_collator(show: Callable[..., Ran]) -> None:
    options = {"student_max_length": 9, "teacher_max_length": 20, "train_on_prompt": True, "append_eos": False}
    view = DualTokenizerCollator(byte_level(), metaspace(), **options).show(SAMPLES[1])  # type: ignore[arg-type]
    lengths = ("--student-max-length", 9, "--teacher-max-length", 20)
    ran = show(*lengths, "--train-on-prompt", "--no-append-eos", "--start", 1, "-n", 1)
    assert ran.out.partition("\n")[2] == f"{view.to_text()}\n"


def test_keys_are_named_and_ignored(show: Callable[..., Ran], folder: Path) -> None:
    (folder / "named.jsonl").write_text(
        json.dumps({"question": "the", "answer": " value", "id": 3, "source": "web"}), encoding="utf-8"
    )
    options = ("--columns", "prompt=question,response=answer")
    ran = show(*options, samples="named.jsonl")
    assert "Columns(ignore=['id', 'source'])" in " ".join(ran.err.split())
    assert show(*options, "--ignore", "id, source", samples="named.jsonl").code == 0


def test_json_has_a_line_for_each_sample(show: Callable[..., Ran]) -> None:
    ran = show("--format", "json", "-n", 100, columns=20)
    found = [json.loads(line) for line in ran.out.splitlines()]
    view = DualTokenizerCollator(byte_level(), metaspace()).show
    assert found == [{"sample": number, **view(sample).to_dict()} for number, sample in enumerate(SAMPLES)]


def test_html_is_a_page(show: Callable[..., Ran]) -> None:
    ran = show("--format", "html", "-n", 1)
    assert ran.out.startswith('<!DOCTYPE html>\n<meta charset="utf-8">\n<h3>')
    assert DualTokenizerCollator(byte_level(), metaspace()).show(SAMPLES[0]).to_html() in ran.out


def test_several_teachers(dskd: Callable[..., Ran], folder: Path) -> None:
    teachers = ("--teacher", f"large={folder / 'metaspace'}", "--teacher", f"code={folder / 'unigram'}")
    ran = dskd(
        "show-sample", "--student", folder / "byte_level", *teachers, "--aligner", "code=cma", "-n", 1,
        folder / "samples.jsonl",
    )  # fmt: skip
    own = {"large": metaspace(), "code": unigram()}
    view = MultiTeacherCollator(byte_level(), own, aligners={"code": "cma"}).show(SAMPLES[0])
    assert ran.out.partition("\n")[2] == f"{view.to_text()}\n"


def test_the_standard_input_is_read(
    show: Callable[..., Ran], dskd: Callable[..., Ran], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(SAMPLES[0])))
    ran = dskd("show-sample", "--student", folder / "byte_level", "--teacher", folder / "metaspace", "-")
    assert ran.out.startswith("-: sample 0\ntext, aligned by 'exact_match'\n")


def test_what_cannot_be_used_is_named_and_the_others_are_shown(show: Callable[..., Ran], folder: Path) -> None:
    lines = [json.dumps(sample) for sample in (SAMPLES[0], {"prompt": "a", "response": ""}, {"promt": "a"}, SAMPLES[1])]
    (folder / "mixed.jsonl").write_text("\n".join(lines), encoding="utf-8")
    ran = show("-n", 4, samples="mixed.jsonl")
    assert ran.code == 1
    assert [line for line in ran.out.splitlines() if "mixed.jsonl" in line] == [
        f"{folder / 'mixed.jsonl'}: sample {number}" for number in (0, 3)
    ]
    errors = ran.err.splitlines()
    assert errors[0].startswith(f"error: {folder / 'mixed.jsonl'}: sample 1: Its response is empty")
    assert errors[1].startswith(f"error: {folder / 'mixed.jsonl'}: sample 2: Unknown key 'promt'")


def test_what_cannot_be_read_is_named(show: Callable[..., Ran], dskd: Callable[..., Ran], folder: Path) -> None:
    (folder / "broken.jsonl").write_text('{"text": "a"}\n{"text": a}\n', encoding="utf-8")
    (folder / "numbers.json").write_text("[1, 2]", encoding="utf-8")
    cases: list[tuple[tuple[object, ...], str, str]] = [
        ((), "missing.jsonl", "cannot be read"),
        ((), "broken.jsonl", "broken.jsonl:2: not valid JSON"),
        ((), "numbers.json", "numbers.json:1: expected an object, a text or a list of messages, got 1"),
        (("--start", 100), "samples.jsonl", "there is no sample 100"),
        (("--aligner", "spam"), "samples.jsonl", "did you mean 'span'"),
        (("--aligner", "span", "--aligner", "cma"), "samples.jsonl", "expected one for one teacher"),
        (("--columns", "promt=question"), "samples.jsonl", "did you mean 'prompt'"),
        (("--columns", "question"), "samples.jsonl", "expected NAME=KEY"),
        (("--teacher", "x"), "samples.jsonl", "give each a name of its own"),
    ]
    for arguments, samples, words in cases:
        ran = show(*arguments, samples=samples)
        assert ran.code
        assert ran.out == ""
        assert words in " ".join(ran.err.split()), ran.err
    ran = dskd("show-sample", "--student", folder, "--teacher", folder / "metaspace", folder / "samples.jsonl")
    assert "there is no config.json in this folder" in " ".join(ran.err.split())


def test_a_terminal_gets_colour_and_its_width(show: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("dskd_components.cli.show_sample.console", lambda: Console(width=60, force_terminal=True))
    ran = show("--aligner", "span", "-n", 1)
    assert "\x1b[1;32m" in ran.out


def test_the_aligner_of_a_plugin_is_used_by_its_name(
    show: Callable[..., Ran], install: Callable[..., None], tmp_path: Path
) -> None:
    install(FakeDistribution("whole-words", "", value="tests.helpers.whole_words"))
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"text": "xyzzy xyzzyx is new"}), encoding="utf-8")
    ran = show("--aligner", "whole_words", "--format", "json", samples=str(samples))
    assert ran.code == 0, ran.err
    shown = json.loads(ran.out)
    assert "whole_words" in shown["alignment"]
    words = ["".join(shown["student"]["tokens"][place]["text"] for place in student) for student, _ in shown["groups"]]
    # Nothing predicts the first token, so that the first word is scored in part only.
    assert [word.strip() for word in words if word.strip()] == ["xyzzyx", "is", "new"]
    unknown = show("--aligner", "whole_word", samples=str(samples))
    assert unknown.code != 0
    assert "did you mean 'whole_words'" in unknown.err


def test_keys_that_are_not_known_are_told_the_options_of_a_command(dskd: Callable[..., Ran], folder: Path) -> None:
    (folder / "own.jsonl").write_text('{"prompt": "Who reads it?", "response": " Both of them.", "id": 3}\n' * 2)
    own = ("show-sample", "--student", folder / "byte_level", "--teacher", folder / "metaspace", folder / "own.jsonl")
    ran = dskd(*own)
    assert ran.err.splitlines()[-1] == "On the command line these are --columns NAME=KEY,... and --ignore KEY,..."
    assert ran.err.count("On the command line") == 1
    assert dskd(*own, "--ignore", "id").code == 0
    (folder / "own.jsonl").write_text('{"prompt": "Who?"}\n{"text": "Both of them."}\n')
    assert "On the command line" in dskd(*own).err
    assert "On the command line" not in dskd(*own, "--student-max-length", 1, "--start", 1).err
