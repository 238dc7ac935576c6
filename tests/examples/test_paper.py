"""The papers' recipes: each row is what is published, and two of them run from the texts to the table, tiny."""

from __future__ import annotations

import json
import shutil
import sys
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import pytest

from dskd_components import DSKDSpec
from examples.paper import train
from examples.paper.__main__ import main
from examples.paper.data import read_part
from examples.paper.recipe import PaperError, common, pairs
from examples.paper.rows import Row, row_of, rows
from examples.paper.scores import Scores, rouge_l
from examples.two_tokenizers.models import new_student, new_teacher
from examples.two_tokenizers.tokenizers import train_byte_level_bpe, train_metaspace_bpe
from tests.helpers.golden_files import DISTANCES, cases

if TYPE_CHECKING:
    from pathlib import Path

RELEASED = {
    "kl": "forward_kl",
    "rkl": "reverse_kl",
    "js": "js_divergence",
    "skl": "skewed_forward_kl",
    "srkl": "skewed_reverse_kl",
    "akl": "adaptive_kl",
}
LENGTH = 160
STEPS = ("--max_steps", "2", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2")
BY_LOSS = ("--metric_for_best_model", "eval_loss", "--greater_is_better", "false")
QUIET = ("--disable_tqdm", "true", "--answer_tokens", "6", "--dev_prompts", "2", "--use_cpu", "true")


# ---- What is published ----


def distances_of(row: Row) -> dict[str, Any]:
    return {} if row.distance is None else {"distance": DISTANCES[RELEASED[row.distance]]}


@pytest.mark.parametrize("kind", ["dskd", "cma", "v2"])
def test_specs_are_those_that_reproduce_the_releases(kind: str) -> None:
    methods = {"dskd": ["dskd"], "cma": ["dskd-cma"], "v2": ["dskd-v2", "dskd-v2-eta"]}[kind]
    case = cases(kind)[0]
    found = [row for row in rows().values() if row.method_name in methods]
    assert {row.distance for row in found} == set(RELEASED)
    for row in found:
        expected = DSKDSpec.preset(
            row.method_name,
            temperature=case["temperature"],
            kd_rate=case.get("kd_rate", 0.5),
            **distances_of(row),
        )
        assert row.spec == expected, row.name
        assert row.method.projector_lr == (5e-4 if kind == "v2" else 1e-3)


def test_specs_without_projection() -> None:
    for row in rows().values():
        if row.method_name == "kd":
            assert row.spec == DSKDSpec.preset("vanilla-kd", temperature=2.0, kd_rate=0.5, **distances_of(row))
        elif row.method_name == "uld":
            assert row.spec == DSKDSpec(spaces=["uld"], aligner="positional", kd_rate=0.5)
        elif row.method_name == "mined":
            shared = {"name": "shared_tokens", "distance": "kl"}
            assert row.spec == DSKDSpec(spaces=[shared], aligner="min_edit", kd_rate=0.5, temperature=2.0)
        elif row.method_name in ("sft", "teacher"):
            assert row.spec is None
            continue
        assert row.spec is not None
        assert (row.method.projector_lr is None) == (row.spec.directions == ())


def test_rows_are_those_of_the_tables() -> None:
    distances = ("", "-rkl", "-js", "-skl", "-srkl", "-akl")
    expected = {
        "gpt2-gpt2": ("kd", "dskd", "dskd-v2"),
        "tinyllama-llama2": ("kd", "dskd"),
        "gpt2-qwen": ("dskd-cma", "dskd-v2-eta"),
        "tinyllama-mistral": ("dskd-cma",),
    }
    names = {
        f"{pair}/{method}{suffix}" for pair, methods in expected.items() for method in methods for suffix in distances
    }
    names |= {f"{pair}/{method}" for pair in expected for method in ("teacher", "sft")}
    names |= {f"{pair}/{method}" for pair in ("gpt2-qwen", "tinyllama-mistral") for method in ("mined", "uld")}
    assert set(rows()) == names
    for name, pair in pairs().items():
        assert (pair.vocabularies == "one") == (name in ("gpt2-gpt2", "tinyllama-llama2"))


@pytest.mark.parametrize(
    ("name", "lr", "epochs", "micro", "lora"),
    [
        ("gpt2-qwen/dskd-cma", 5e-4, 20, 4, None),
        ("gpt2-qwen/uld", 5e-4, 20, 2, None),
        ("gpt2-qwen/teacher", 2e-5, 10, 4, None),
        ("gpt2-gpt2/kd-js", 5e-4, 20, 4, None),
        ("tinyllama-mistral/dskd-cma", 1e-3, 10, 4, (256, 8, 0.1)),
        ("tinyllama-llama2/sft", 1e-3, 10, 8, (256, 8, 0.1)),
        ("tinyllama-llama2/teacher", 1e-3, 10, 8, (256, 8, 0.1)),
    ],
)
def test_training_is_as_published(
    name: str, lr: float, epochs: int, micro: int, lora: tuple[int, int, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    row = row_of(name)
    arguments = train.recipe_arguments(row, [])
    assert (arguments["learning_rate"], arguments["num_train_epochs"]) == (lr, epochs)
    assert (arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"]) == (micro, 8 // micro)
    assert (arguments["weight_decay"], arguments["max_grad_norm"], arguments["seed"]) == (1e-2, 1.0, 10)
    assert arguments["lr_scheduler_kwargs"] == {"min_lr": 1e-7}
    own = row.training.lora
    assert (own and (own.r, own.alpha, own.dropout)) == lora
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(PaperError, match=r"batch of 32 texts cannot be cut into micro-batches of \d+"):
        train.recipe_arguments(row, [])
    assert train.recipe_arguments(row, ["--gradient_accumulation_steps", "5"])["gradient_accumulation_steps"] == 5


def test_answers_are_sampled_as_published() -> None:
    generation, texts = common().generation, common().texts
    assert generation.seeds == (10, 20, 30, 40, 50)
    assert (generation.temperature, generation.top_p, generation.top_k) == (1.0, 1.0, 0)
    assert generation.no_repeat_ngram_size == 6
    assert (texts.max_length, texts.max_prompt_length) == (512, 256)
    assert list(common().tests) == ["dolly", "self-inst", "vicuna", "s-ni", "unni"]


def test_rouge_l_is_of_the_best_reference() -> None:
    assert rouge_l("The cats sat.", ["a dog", "the cat sat"]) == 100.0  # stemmed
    assert rouge_l("b c", ["a b c d"]) == pytest.approx(100 * 2 / 3)  # precision 1, recall 1/2
    assert rouge_l("", ["a"]) == 0.0


# ---- From the texts to the table ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with tiny models and prepared texts."""
    folder = tmp_path_factory.mktemp("paper")
    text = [line.strip() for name in ("assert", "pass", "del", "break") for line in topics[name].splitlines()]
    lines = [line for line in text if len(line.split()) > 4]
    tokenizers = train_metaspace_bpe(lines, 400), train_byte_level_bpe(lines, 320)
    for tokenizer in tokenizers:
        tokenizer.add_special_tokens({"eos_token": "</s>"})
    size = {"layers": 1, "max_length": LENGTH, "seed": 0}
    models = {
        "gpt": (new_student(tokenizers[0], width=32, **size), tokenizers[0]),
        "llama": (new_teacher(tokenizers[0], width=64, **size), tokenizers[0]),
        "other": (new_teacher(tokenizers[1], width=64, **size), tokenizers[1]),
    }
    for name, (model, tokenizer) in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    with (folder / "dolly.jsonl").open("w") as file:
        for number, line in enumerate(lines[:24]):
            words = line.split()
            given = {"instruction": " ".join(words[:3]), "context": words[0] if number % 2 else ""}
            file.write(json.dumps(given | {"response": " ".join(words[3:]), "category": "open_qa"}) + "\n")
    # What is asked in a test set, wherever it came from, is not learned.
    asked = json.loads((folder / "dolly.jsonl").read_text().splitlines()[0])
    several = {"prompt": "Which?", "output": ["this", "that"]}
    (folder / "self-inst.jsonl").write_text(json.dumps(several) + "\n" + json.dumps(asked) + "\n")
    command("prepare", "--train", folder / "dolly.jsonl", "--sizes", 5, 3, "--output", folder / "data",
            "--test", f"self-inst={folder / 'self-inst.jsonl'}")  # fmt: skip
    return folder


def command(*arguments: Any) -> None:
    main([str(argument) for argument in arguments])


def train_row(folder: Path, name: str, student: str, teacher: str, *others: str, output: str = "runs") -> Path:
    command("train", "--row", name, "--student", folder / student, "--teacher", folder / teacher,
            "--data", folder / "data", "--output", folder / output, *QUIET, *(others or STEPS))  # fmt: skip
    return folder / output / name


def generate(folder: Path, name: str, *others: Any) -> None:
    command("generate", "--row", name, "--data", folder / "data", "--output", folder / "runs", "--seeds", 10, 20,
            "--batch_size", 2, "--answer_tokens", 6, *others)  # fmt: skip


def test_parts_have_no_prompt_in_common(folder: Path) -> None:
    parts = {name: read_part(folder / "data", name) for name in ("train", "dev", "tests/dolly", "tests/self-inst")}
    assert [len(part) for name, part in parts.items() if name != "train"] == [3, 5, 2]
    held_out = [sample.prompt for name, part in parts.items() if name != "train" for sample in part]
    assert parts["train"]
    assert not {sample.prompt for sample in parts["train"]} & set(held_out)
    several = parts["tests/self-inst"][0]
    assert (several.prompt, several.answers) == ("Which?", ("this", "that"))
    prompts = [sample.prompt for sample in parts["train"]]
    assert all(prompt.endswith("\n\n### Response:\n") for prompt in prompts)
    assert {"### Input:\n" in prompt for prompt in prompts} == {True, False}


def test_rows_run_from_texts_to_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, teacher in (("gpt2-qwen/dskd-cma", "other"), ("gpt2-gpt2/kd", "llama")):
        own = train_row(folder, name, "gpt", teacher)
        run = json.loads((own / "run.json").read_text())
        assert run["steps"] == 2
        assert run["differs_from_recipe"] == {"max_steps": "2", "batch_size": "4"}
        assert run["spec"] == json.loads(DSKDSpec.model_dump_json(row_of(name).spec))
        assert run["best"]["metric"] >= 0.0
        assert run["models"] == {"student": str(folder / "gpt"), "teacher": str(folder / teacher)}
        generate(folder, name)
    command("score", "--data", folder / "data", "--output", folder / "runs")
    capsys.readouterr()
    command("table", "--output", folder / "runs")
    printed = capsys.readouterr().out
    for heading in ("GPT2-120M from Qwen1.5-1.8B", "GPT2-120M from GPT2-1.5B", "dskd-cma*", "kd*", "17.63"):
        assert heading in printed
    for name in ("gpt2-qwen/dskd-cma", "gpt2-gpt2/kd"):
        by_test = Scores(folder / "runs" / name).by_test()
        assert {test: len(values) for test, values in by_test.items()} == {"dolly": 2, "self-inst": 2}


def test_every_step_goes_on_where_it_stopped(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "gpt2-qwen/sft"
    every_two = ("--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps", "--save_steps", "2")
    steps = (*BY_LOSS, *STEPS, "--max_steps", "4", "--logging_steps", "1", "--save_total_limit", "2", *every_two)

    def losses() -> list[float]:
        state = json.loads((own / "checkpoint-4" / "trainer_state.json").read_text())
        return [entry["loss"] for entry in state["log_history"] if "loss" in entry]

    own = train_row(folder, name, "gpt", "other", *steps)
    expected, weights = losses(), (own / "model" / "model.safetensors").read_bytes()
    assert len(expected) == 4
    train_row(folder, name, "gpt", "other")
    assert "trained already" in capsys.readouterr().out

    # Killed after two steps, in the middle of the second save.
    for path in (own / "run.json", own / "checkpoint-4" / "trainer_state.json"):
        path.unlink()
    shutil.rmtree(own / "model")
    train_row(folder, name, "gpt", "other", *steps)
    assert "'epoch': '0.2857'" not in capsys.readouterr().out, "the first step was taken again"
    assert losses() == expected
    assert (own / "model" / "model.safetensors").read_bytes() == weights

    generate(folder, name)
    path = own / "answers" / "dolly" / "10.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    path.write_text("".join(lines[:4]) + lines[4][:5])  # killed within a line
    score = ("score", "--row", name, "--output", folder / "runs", "--data")
    with pytest.raises(PaperError, match=r"has 3 answers to 5 prompts\. Write the others"):
        command(*score, folder / "data")
    generate(folder, name)
    assert path.read_text() == "".join(lines)
    for other in (("--batch_size", 3), ("--model", folder / "gpt")):
        with pytest.raises(PaperError, match="begun with other settings"):
            generate(folder, name, *other)

    command(*score, folder / "data")
    scored = Scores(own).entries
    assert scored["dolly"]["10"]["answers"] == 5
    changed = tmp_path / "data"
    shutil.copytree(folder / "data", changed)
    shutil.copy(changed / "train.jsonl", changed / "tests" / "dolly.jsonl")
    with pytest.raises(PaperError, match="answers other prompts"):
        command(*score, changed)
    assert Scores(own).entries == scored


@pytest.mark.parametrize(
    ("name", "student", "teacher"),
    [
        ("gpt2-qwen/mined", "gpt", "other"),
        ("gpt2-qwen/uld", "gpt", "other"),
        ("gpt2-qwen/dskd-v2-eta-skl", "gpt", "other"),
        ("gpt2-gpt2/dskd-akl", "gpt", "llama"),
        ("gpt2-gpt2/dskd-v2-js", "gpt", "llama"),
        ("tinyllama-mistral/teacher", "gpt", "llama"),
        ("tinyllama-mistral/dskd-cma-srkl", "llama", "other"),
    ],
)
def test_every_method_trains(name: str, student: str, teacher: str, folder: Path) -> None:
    others = (*BY_LOSS, *STEPS, "--max_steps", "1")
    own = train_row(folder, name, student, teacher, *others, output="methods")
    assert json.loads((own / "run.json").read_text())["steps"] == 1
    if row_of(name).training.lora is not None:
        assert (own / "model" / "adapter_config.json").is_file()
        command("generate", "--row", name, "--data", folder / "data", "--output", folder / "methods", "--seeds", 10,
                "--answer_tokens", 4, "--tests", "dolly", "--limit", 2)  # fmt: skip
        command("score", "--row", name, "--data", folder / "data", "--output", folder / "methods")
        assert Scores(own).partly("dolly")


# ---- What is missing ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "There is no file .*databricks-dolly-15k.jsonl"),
        ('{"question": "a", "answer": "b"}', r":1: expected 'instruction'.*the columns are 'question', 'answer'"),
        ('{"instruction": "a", "output": 3}', r":1: expected 'instruction'"),
        ('{"instruction": "a", "output": "b"}\nnot', r":2: not JSON"),
        ("[1]", r":1: expected an object, got list"),
        ('{"instruction": "a", "output": " "}', "no text with an answer"),
        ('{"instruction": "a", "output": "b"}', r"has 1 texts; 500 .* 1000 .* smaller --sizes"),
    ],
)
def test_files_that_do_not_fit(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dolly.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PaperError, match=message):
        command("prepare", "--train", path, "--output", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    there = ("--data", folder / "data", "--output", tmp_path)
    sft = ("--row", "gpt2-qwen/sft")
    for message, arguments in {
        r"no row 'gpt2-qwen/dskd-cmd' \(did you mean 'gpt2-qwen/dskd-cma'": (
            "train", "--row", "gpt2-qwen/dskd-cmd", *there
        ),
        r"needs --student PATH and --teacher PATH": ("train", "--row", "gpt2-qwen/dskd-cma", *there),
        r"taken ready from github\.com": ("train", "--row", "gpt2-gpt2/teacher", "--teacher", "x", *there),
        r"it holds nothing.*hf download openai-community/gpt2 --local-dir .*config\.json": (
            "train", *sft, *there, *QUIET, "--student", tmp_path / "empty"
        ),
        r"There is no .*train\.jsonl\. Make it by: python -m examples\.paper prepare": (
            "train", *sft, *QUIET, "--student", folder / "gpt", "--data", tmp_path, "--output", tmp_path
        ),
        r"First: train --row gpt2-qwen/sft": ("generate", *sft, *there),
        r"no test set 'vicuna'.*dolly, self-inst": (
            "generate", *sft, *there, "--model", folder / "gpt", "--tests", "vicuna"
        ),
        r"There are no answers": ("score", *there),
        r"Nothing is scored": ("table", "--output", tmp_path),
    }.items():  # fmt: skip
        with pytest.raises(PaperError, match=message):
            command(*arguments)


def test_rouge_score_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.paper import scores

    scores._scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(PaperError, match=r"pip install 'dskd-components\[paper\]'"):
        rouge_l("a", ["a"])
