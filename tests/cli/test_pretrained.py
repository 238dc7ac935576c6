"""Folders that are damaged in the ways that happen: what is wrong is said in whole, and nothing is asked or run."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from dskd_components.cli.pretrained import load_config, load_model, load_on_meta, load_tokenizer
from dskd_components.errors import ConfigurationError
from tests.helpers.models import tiny_model
from tests.helpers.pairs import tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.commands import Ran

LOADERS: dict[str, Callable[[str], Any]] = {
    "tokenizer": load_tokenizer,
    "model": lambda source: load_model(source, "cpu"),
    "config": load_config,
    "meta": lambda source: load_on_meta(source, "float32", "sdpa"),
}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 269060552\n"
OWN_CODE = {
    "model_type": "of_ones_own",
    "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
}
DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no tokenizer": (
        "tokenizer",
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        "there are no files of a tokenizer in this folder",
    ),
    "tokenizer that is not JSON": (
        "tokenizer",
        lambda folder: (folder / "tokenizer.json").write_text('{"model": '),
        "tokenizer.json is not valid JSON",
    ),
    "tokenizer that is empty": (
        "tokenizer",
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "KeyError: 'added_tokens'",
    ),
    "tokenizer that is a pointer": (
        "tokenizer",
        lambda folder: (folder / "tokenizer.json").write_text(POINTER),
        "tokenizer.json is a pointer of Git LFS, not the file itself: run `git lfs pull`",
    ),
    "weights that are a pointer": (
        "model",
        lambda folder: (folder / "model.safetensors").write_text(POINTER),
        "model.safetensors is a pointer of Git LFS",
    ),
    "weights that are cut short": (
        "model",
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:9000]),
        "a file of its weights is damaged or cut short",
    ),
    "weights of another size": (
        "model",
        lambda folder: changed(folder, intermediate_size=40),
        "has the shape [24, 48] in its files and [24, 40] by its config.json",
    ),
    "a width that heads do not divide": ("config", lambda folder: changed(folder, hidden_size=25), "25"),
    "a width in words": ("meta", lambda folder: changed(folder, hidden_size="wide"), "wide"),
    "configuration that is not JSON": (
        "config",
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json is not valid JSON",
    ),
    "configuration that is a list": (
        "model",
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json holds no JSON object",
    ),
    "adapter": (
        "model",
        lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
        "holds an adapter, not a model. Merge it",
    ),
    "code of its own": (
        "model",
        lambda folder: (folder / "config.json").write_text(json.dumps(OWN_CODE)),
        "it has code of its own, which no command runs",
    ),
}


def changed(folder: Path, **fields: object) -> None:
    """Write other fields into a configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "model"
    tiny_model("Llama", hidden_size=24, vocabulary=280).save_pretrained(folder)
    tokenizer(280).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_is_said_in_whole(
    sound: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("nobody is asked")

    monkeypatch.setattr("builtins.input", ask)
    folder = shutil.copytree(sound, tmp_path / "model")
    first, make, said = DAMAGE[damage]
    make(folder)
    for name, load in LOADERS.items():
        try:
            load(str(folder))
        except ConfigurationError as error:
            message = str(error)
        else:
            assert name != first, "what is damaged was read"
            continue
        if name == first:
            assert said in message
        assert message.startswith(f"{folder}: ")
        assert not message.rstrip(".").endswith(":"), "the reason is not cut off"
        assert "above" not in message
        assert "\n" not in message
    assert capsys.readouterr().out == ""


def test_a_file_that_may_not_be_read_is_named(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ConfigurationError, match=r"config\.json cannot be read: Permission denied\."):
        load_model(str(folder), "cpu")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("We couldn't connect to 'https://huggingface.co' to load the files", "and the hub cannot be reached"),
        ("You are trying to access a gated repo.\nMake sure to have access", "its owner has to give you access"),
        ("some-model is not a local folder and is not a valid model identifier", "on the hub. Check the spelling"),
    ],
)
def test_a_name_on_the_hub(monkeypatch: pytest.MonkeyPatch, raised: str, said: str) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def fail(*_: object, **__: object) -> None:
        raise OSError(raised)

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fail)
    with pytest.raises(ConfigurationError, match=said):
        load_config("some-model")


def test_weights_without_a_place_are_a_warning(sound: Path, tmp_path: Path, dskd: Callable[..., Ran]) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    deep = tiny_model("Llama", hidden_size=24, vocabulary=280, num_hidden_layers=2)
    deep.save_pretrained(folder)
    changed(folder, num_hidden_layers=1)
    ran = dskd("doctor", sound, folder, "--tokens", 0)
    assert ran.code == 0
    assert f"warning: {folder}: its files have 9 weights that the model has no place for ('model.layers.1" in ran.err


def test_arguments_that_name_no_folder(sound: Path, dskd: Callable[..., Ran]) -> None:
    ran = dskd("doctor", sound, "", "--tokens", 0)
    assert ran.code == 1
    assert "expected a folder or a name on the hub, got an empty one" in ran.err
    ran = dskd("doctor", sound, f"large={sound}", "--tokens", 0)
    assert ran.code == 1
    assert (
        f"TEACHER large={sound}: a name is for a spec of several teachers. Give the folder alone: {sound}." in ran.err
    )
