"""What was learned for something else is refused; the message has both values and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import CheckpointError, DSKDLoss, DSKDSpec, Head
from dskd_components.loss.checkpoints import checkpoint_tensors
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPEC = DSKDSpec.preset("dskd-cma", distance={"name": "skew_kl", "alpha": 0.2})


def models(**changes: Any) -> dict[str, Any]:
    return {
        "student": tiny_model("GPT2", hidden_size=24, vocabulary=60),
        "teacher": tiny_model("Llama", hidden_size=32, vocabulary=320),
        "student_tokenizer": metaspace_tokenizer(),
        "teacher_tokenizer": byte_level_tokenizer(),
    } | changes


def changed_teacher() -> Any:
    teacher = tiny_model("Llama", hidden_size=32, vocabulary=320)
    with torch.no_grad():
        teacher.get_output_embeddings().weight[-1] += 1e-2
    return teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    DSKDLoss.from_models(SPEC, **models()).save(path)
    return path


OTHERS: dict[str, tuple[Callable[[], DSKDLoss], str]] = {
    "spec": (
        lambda: DSKDLoss.from_models(SPEC.replace(kd_rate=0.75), **models()),
        r"spec\.kd_rate: saved 0\.5, here 0\.75",
    ),
    "option": (
        lambda: DSKDLoss.from_models(SPEC.replace(distance={"name": "skew_kl", "alpha": 0.3}), **models()),
        r"spec\.distance\.alpha: saved 0\.2, here 0\.3",
    ),
    "component": (
        lambda: DSKDLoss.from_models(SPEC.replace(distance="kl"), **models()),
        r"spec\.distance\.name: saved 'skew_kl', here 'kl'\n  spec\.distance\.alpha: saved 0\.2, here nothing",
    ),
    "spaces": (
        lambda: DSKDLoss.from_models(SPEC.replace(spaces=["student"]), **models()),
        r"spec\.spaces\[1\]\.name: saved 'teacher', here nothing",
    ),
    "student's tokenizer": (
        lambda: DSKDLoss.from_models(SPEC, **models(student_tokenizer=metaspace_tokenizer(59))),
        r"tokenizers\.student: saved '[0-9a-f]{16}', here '[0-9a-f]{16}'(.|\n)*Give the tokenizers",
    ),
    "teacher's tokenizer": (
        lambda: DSKDLoss.from_models(SPEC, **models(teacher_tokenizer=byte_level_tokenizer(290))),
        r"tokenizers\.teacher: saved '[0-9a-f]{16}', here '[0-9a-f]{16}'",
    ),
    "teacher's weights": (
        lambda: DSKDLoss.from_models(SPEC, **models(teacher=changed_teacher())),
        r"heads\.teacher\.weights: saved '[0-9a-f]{12}\.\.\.', here '[0-9a-f]{12}\.\.\.'(.|\n)*Give the models",
    ),
    "teacher's family": (
        lambda: DSKDLoss.from_models(SPEC, **models(teacher=tiny_model("Mistral", vocabulary=320))),
        r"heads\.teacher\.configuration: saved 'LlamaConfig', here 'MistralConfig'",
    ),
    "student's family": (
        lambda: DSKDLoss.from_models(SPEC, **models(student=tiny_model("Llama", hidden_size=24, vocabulary=60))),
        r"heads\.student\.configuration: saved 'GPT2Config', here 'LlamaConfig'",
    ),
    "student's softcap": (
        lambda: DSKDLoss.from_models(SPEC, **models(student=tiny_model("Gemma2", hidden_size=24, vocabulary=60))),
        r"heads\.student\.softcap: saved 0\.0, here 3\.0",
    ),
    "width": (
        lambda: DSKDLoss.from_models(SPEC, **models(student=tiny_model("GPT2", hidden_size=16, vocabulary=60))),
        r"hidden_sizes\.student: saved 24, here 16",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_each_difference_is_named_with_both_values_and_nothing_is_loaded(name: str, folder: Path) -> None:
    make, message = OTHERS[name]
    loss_fn = make()
    before = {key: tensor.clone() for key, tensor in checkpoint_tensors(loss_fn).items()}
    with pytest.raises(CheckpointError, match=message):
        loss_fn.restore(folder)
    assert all(torch.equal(tensor, before[key]) for key, tensor in checkpoint_tensors(loss_fn).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": changed_teacher()}, r"heads\.teacher\.weights"),
        ({"student_tokenizer": metaspace_tokenizer(59)}, r"tokenizers\.student"),
        ({"student": tiny_model("GPT2", hidden_size=16, vocabulary=60)}, r"hidden_sizes\.student"),
    ],
    ids=["teacher", "tokenizer", "width"],
)
def test_loading_for_another_pair_is_refused(changes: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        DSKDLoss.load(folder, **models(**changes))


def test_what_may_differ(folder: Path) -> None:
    """The engine, the student's weights, the precision of the teacher, and what is not known."""
    student = tiny_model("GPT2", hidden_size=24, vocabulary=60)
    with torch.no_grad():
        student.get_output_embeddings().weight.add_(1.0)
    DSKDLoss.from_models(SPEC.replace(engine="eager"), **models(student=student)).restore(folder)
    teacher = tiny_model("Llama", hidden_size=32, vocabulary=320).bfloat16()
    DSKDLoss.from_models(SPEC, **models(teacher=teacher)).restore(folder)
    DSKDLoss(SPEC, student_hidden_size=24, teacher_hidden_size=32).restore(folder)


def test_a_difference_that_is_meant_is_accepted_and_others_are_not(folder: Path) -> None:
    spec = SPEC.replace(kd_rate=0.75, temperature=2.0)
    loss_fn = DSKDLoss.from_models(spec, **models())
    with pytest.raises(CheckpointError, match=r"spec\.temperature") as raised:
        loss_fn.restore(folder, accept=["spec.kd_rate"])
    assert "kd_rate: saved" not in str(raised.value)
    loss_fn.restore(folder, accept=["spec.kd_rate", "spec.temperature"])
    loss_fn.restore(folder, accept=["spec"])


LINEAR = {"name": "linear", "start": 0.0, "end": 0.5, "steps": 10}
STAIRS = {"name": "piecewise", "points": [(0, 0.1), (5, 0.4)], "interpolation": "stairs"}


@pytest.mark.parametrize(("field", "make"), [("kd_rate", lambda w: w), ("weights.t2s_kd", lambda w: {"t2s_kd": w})])
@pytest.mark.parametrize(("before", "now"), [(LINEAR, 0.9), (0.9, LINEAR), (STAIRS, 0.9), (0.9, STAIRS)])
def test_a_schedule_in_the_place_of_a_number_is_one_difference(
    before: Any, now: Any, field: str, make: Callable[[Any], Any], tmp_path: Path
) -> None:
    saved, here = (SPEC.replace(**{field.partition(".")[0]: make(weight)}) for weight in (before, now))
    DSKDLoss.from_models(saved, **models()).save(tmp_path)
    loss_fn = DSKDLoss.from_models(here, **models())
    with pytest.raises(CheckpointError) as raised:
        loss_fn.restore(tmp_path)
    message = str(raised.value)
    assert message.count(": saved ") == 1, message
    assert "nothing" not in message
    assert message.endswith(f"accept=['spec.{field}'].")
    name = (LINEAR if LINEAR in (before, now) else STAIRS)["name"]
    schedule, number = rf"\{{'name': '{name}', .*\}}", "0.9"
    shown = (number, schedule) if before == 0.9 else (schedule, number)
    assert re.search(rf"spec\.{re.escape(field)}: saved {shown[0]}, here {shown[1]}\n", message)
    loss_fn.restore(tmp_path, accept=[f"spec.{field}"])


@pytest.mark.parametrize("accept", [["spec.kd_rat"], "spec.kd_rate", ["spec.kd"]])
def test_a_path_that_is_none_is_refused(accept: Any, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="accept"):
        DSKDLoss.from_models(SPEC, **models()).restore(folder, accept=accept)


def test_another_plugin_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_fn = DSKDLoss(DSKDSpec(distance="tvd"), student_hidden_size=2, teacher_hidden_size=3)
    with monkeypatch.context() as patched:
        patched.setattr(
            "dskd_components.loss.checkpoints.description._plugins", lambda _: {"dskd-divergences": "0.0.1"}
        )
        loss_fn.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"plugins\.dskd-divergences: saved '0\.0\.1', here '.*'(.|\n)*Install"):
        loss_fn.restore(tmp_path)
    loss_fn.restore(tmp_path, accept=["plugins.dskd-divergences"])


def test_tensors_of_other_shapes_or_precision_are_refused(tmp_path: Path) -> None:
    loss_fn = DSKDLoss(SPEC, student_hidden_size=24, teacher_hidden_size=32)
    loss_fn.save(tmp_path)
    wider = DSKDLoss(SPEC, student_hidden_size=24, teacher_hidden_size=32, student_embedding_size=20)
    with pytest.raises(CheckpointError, match=r"aligner\.query\.weight: saved shape \[\d+, 48\].*here shape .*40\]"):
        wider.restore(tmp_path)
    with pytest.raises(CheckpointError, match=r"dtype float32, here .*dtype bfloat16(.|\n)*loss_fn\.float\(\)"):
        DSKDLoss(SPEC, student_hidden_size=24, teacher_hidden_size=32).bfloat16().restore(tmp_path)
    lacking = DSKDLoss(SPEC, student_hidden_size=24, teacher_hidden_size=32)
    del lacking.aligner.query
    with pytest.raises(CheckpointError, match=r"aligner\.query\.bias: saved shape .*, here nothing"):
        lacking.restore(tmp_path)


def test_heads_given_by_hand_count(tmp_path: Path) -> None:
    weight = torch.randn(50, 3)
    student = Head(torch.randn(50, 2))
    sizes = {"student_hidden_size": 2, "teacher_hidden_size": 3}
    DSKDLoss(DSKDSpec(), **sizes, student_head=student, teacher_head=Head(weight)).save(tmp_path)
    other = DSKDLoss(DSKDSpec(), **sizes, student_head=Head(student.weight + 1), teacher_head=Head(weight, scale=2.0))
    with pytest.raises(CheckpointError, match=r"heads\.teacher\.scale: saved 1\.0, here 2\.0") as raised:
        other.restore(tmp_path)
    assert str(raised.value).count(": saved ") == 1
