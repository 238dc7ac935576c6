"""`dskd plan`: two configurations in, a table out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.pairs import sound_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.commands import Ran

SMALL = ("--spec", "dskd-cma", "--tokens", 128, "--length", 32, "--device", "h100")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with nothing but a config.json."""
    root = tmp_path_factory.mktemp("configs")
    pair = sound_pair()
    for side in ("student", "teacher"):
        pair[side].config.save_pretrained(root / side)
    wrong: dict[str, Any] = {
        "unknown": {"model_type": "no_such_model"},
        "image": {"model_type": "vit"},
        "broken": {"model_type": "llama", "hidden_size": "wide"},
        "mamba": {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 280},
    }
    for name, config in wrong.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(config))
    (root / "empty").mkdir()
    (root / "several.yaml").write_text("teachers:\n  one: {}\n  two: {}\n")
    return {path.stem: path for path in root.iterdir()} | {"missing": root / "missing"}


def test_a_table_and_what_it_presumes(dskd: Callable[..., Ran], folders: dict[str, Path]) -> None:
    ran = dskd("plan", folders["student"], folders["teacher"], *SMALL, "--devices", 2, "--sharding", "fsdp2")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    components = [line.rpartition(" held")[0] or line for line in lines]
    for wanted in ("student weights", "teacher weights", "student forward", "loss: ce", "communication", "optimizer"):
        assert any(line.startswith(wanted) for line in components), wanted
    assert any(line.startswith("It fits: ") for line in lines)
    assert any(line.startswith("- time: h100 as stated by its maker") for line in lines)
    assert sorted(path.name for path in folders["student"].iterdir() if path.suffix == ".safetensors") == []


def test_buckets_are_as_deepspeeds_file_has_them(dskd: Callable[..., Ran], folders: dict[str, Path]) -> None:
    command = ("plan", folders["student"], folders["teacher"], *SMALL, "--devices", 2, "--sharding", "zero3", "--json")
    width = json.loads((folders["student"] / "config.json").read_text())["hidden_size"]
    for option, numbers in ((), 500_000_000), (("auto",), width**2), (("2M",), 2_000_000):
        report = json.loads(dskd(*command, *(f"--reduce-bucket-size={size}" for size in option)).out)
        assert {part["component"]: part["bytes"] for part in report["parts"]}["gradient buckets"] == 2 * numbers
    refused = dskd(*command, "--reduce-bucket-size", "much")
    assert "--reduce-bucket-size much: expected a number such as" in refused.err


def test_json_is_the_plan_and_the_exit_code_says_whether_it_fits(
    dskd: Callable[..., Ran], folders: dict[str, Path]
) -> None:
    pair = folders["student"], folders["teacher"]
    report = json.loads(dskd("plan", *pair, *SMALL, "--json").out)
    assert {"parts", "total", "fits", "loss", "remedies", "assumptions", "warnings", "setup"} <= set(report)
    ran = dskd("plan", *pair, *SMALL, "--json", "--device-memory", f"{report['total']['bytes'] * 0.9:.0f}")
    assert ran.code == 1
    tight = json.loads(ran.out)
    assert tight["fits"] is False
    assert tight["remedies"][0]["options"].startswith("--")
    options = tight["remedies"][0]["options"].split()
    room = ("--device-memory", tight["setup"]["device_memory"])
    assert dskd("plan", *pair, *SMALL, *room, *options).code == 0


@pytest.mark.parametrize(
    ("student", "options", "said"),
    [
        ("missing", (), "there is no such folder"),
        ("empty", (), "there is no config.json in this folder"),
        ("unknown", (), "no configuration can be loaded from this folder"),
        ("image", (), "no causal language model can be loaded from this folder"),
        ("broken", (), "can be loaded from this folder"),
        ("student", ("--sharding", "fsdp"), "sharding 'fsdp' is not known (did you mean 'fsdp2'"),
        ("student", ("--devices", 4, "--sharding", "none"), "sharding 'none' is for one device, got 4"),
        ("student", ("--teacher", "stored"), "teacher 'stored' is not known (did you mean 'store'"),
        ("student", ("--device", "h10"), "device 'h10' is not known (did you mean 'h100'"),
        ("student", ("--device", "cpu", "--flops", "1e12"), "--flops: the machine at hand is measured"),
        ("student", ("--efficiency", "1.5"), "--efficiency: expected a share above 0 and up to 1, got 1.5"),
        ("student", ("--flops", "-1"), "--flops: expected a positive number, got -1"),
        ("student", ("--dtype", "fp8"), "--dtype fp8: expected one of bfloat16, float16, float32"),
        ("student", ("--attention", "flash"), "--attention flash: expected one of sdpa, eager"),
        ("student", ("--tokens", "many"), "--tokens many: expected a number such as"),
        ("student", ("--device-memory", "80 pounds"), "--device-memory 80 pounds: expected a size such as 80G"),
        ("student", ("--optimizer", "adamv"), "optimizer 'adamv' is not known (did you mean"),
        ("student", ("--spec", "nothing"), "--spec nothing: there is neither such a file nor such a preset"),
        ("student", ("--device-memory", "24"), "--device-memory 24: expected a size with its unit, such as 24GiB"),
        ("mamba", (), "MambaForCausalLM has no attention of the kind 'sdpa'. Give --attention eager"),
        ("student", ("--spec", "several"), "expected the spec of one teacher, got one of several"),
    ],
)
def test_what_is_wrong_is_named(
    dskd: Callable[..., Ran], folders: dict[str, Path], student: str, options: tuple[object, ...], said: str
) -> None:
    options = tuple(folders["several"] if option == "several" else option for option in options)
    ran = dskd("plan", folders[student], folders["teacher"], *SMALL, *options)
    assert ran.code == 1
    assert said in ran.err, ran.err
    assert ran.out == ""


NUMBERS = ("0", "-1", "nan", "inf", "ten")


@pytest.mark.parametrize(
    "option",
    [
        *("tokens", "length", "teacher-tokens", "scored", "devices", "accumulation", "memory-budget", "device-memory"),
        *("flops", "float32-flops", "efficiency", "memory-bandwidth", "bandwidth", "latency", "reduce-bucket-size"),
    ],
)
def test_numbers_that_are_none_are_named(dskd: Callable[..., Ran], folders: dict[str, Path], option: str) -> None:
    for number in NUMBERS:
        ran = dskd("plan", folders["student"], folders["teacher"], *SMALL, f"--{option}", number)
        assert ran.code in (1, 2), number
        assert option in ran.err or option.replace("-", "_") in ran.err, number
        assert ran.out == ""


def test_figures_of_a_users_own_are_not_its_makers(dskd: Callable[..., Ran], folders: dict[str, Path]) -> None:
    own = ("--flops", "165e12", "--memory-bandwidth", "1e12")
    ran = dskd("plan", folders["student"], folders["teacher"], *SMALL, *own)
    assert "- time: h100 with flops and memory_bandwidth as given, all else as stated by its maker: 165" in ran.out
