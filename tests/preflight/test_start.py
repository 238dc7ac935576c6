"""The start that is measured is the loss's own, and what is recommended starts sanely, whatever the heads are like."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator, InputError, list_components
from dskd_components.aligners import CrossModelAttentionModule
from dskd_components.preflight.report import SANE, Finding, Start
from dskd_components.preflight.start import OF_TWO_TOKENIZERS, check_start
from dskd_components.projectors import Linear
from tests.helpers.models import TEXTS, metaspace_tokenizer, tiny_model
from tests.helpers.pairs import finding, look, sound_pair, tokenizer

if TYPE_CHECKING:
    from dskd_components.preflight import PreflightReport

# Width, scale, softcap, bias, tied or not: students whose heads differ in each.
STUDENTS: dict[str, dict[str, Any]] = {
    "narrow": {"family": "Llama", "hidden_size": 8, "num_attention_heads": 2},
    "wide": {"family": "Qwen2", "hidden_size": 96},
    "tied": {"family": "Llama", "tie_word_embeddings": True},
    "softcap": {"family": "Gemma2"},
    "multiplied": {"family": "Cohere", "logit_scale": 0.0625},
    "divided": {"family": "Granite", "logits_scaling": 8.0},
    "bias": {"family": "Phi"},
    "projected": {"family": "OPT"},
    "learned positions": {"family": "GPT2"},
}


def recommended(report: PreflightReport) -> Start:
    [found] = [start for start in report.starts if start.recommended]
    return found


def random_ones(report: PreflightReport) -> list[Start]:
    return [start for start in report.starts if start.t2s_projector == start.s2t_projector == "linear"]


SIZES = [(name, 1.0) for name in STUDENTS] + [("narrow", 0.05), ("tied", 0.05), ("tied", 20.0), ("divided", 20.0)]
"""Students, and what their heads are multiplied with."""


@pytest.mark.parametrize(("name", "head_scale"), SIZES)
def test_what_is_recommended_starts_sanely(name: str, head_scale: float) -> None:
    student = tiny_model(vocabulary=280, **STUDENTS[name])
    with torch.no_grad():
        student.get_output_embeddings().weight.mul_(head_scale)
    report = look(student=student)
    assert {start.aligner for start in report.starts} == set(OF_TWO_TOKENIZERS)
    best = recommended(report)
    assert best.t2s_ce_covered is not None
    assert best.t2s_ce_covered <= SANE * math.log(280), report.to_text()
    for start in random_ones(report):
        assert start.t2s_ce_covered is not None
        assert start.t2s_ce_covered <= SANE * start.t2s_uniform, (
            "whichever aligner one takes, the calibrated projector is sane"
        )
    assert finding(report, "start", "ok")


def test_what_is_recommended_can_be_written_down_and_used() -> None:
    report = look()
    first, second, *_ = report.recommendation.split(": ", 1)[1].split("; ")
    assert eval(first, {"DSKDSpec": DSKDSpec}) == report.recommended_spec
    assert second.startswith("with dual spaces, ")
    spec = eval(second.removeprefix("with dual spaces, "), {"DSKDSpec": DSKDSpec})
    assert spec.directions == ("t2s", "s2t")
    refused = Finding("error", "head", "it is none")
    assert replace(report, findings=(refused,)).recommended_spec is None
    assert replace(report, starts=()).recommended_spec is None
    [again] = [start for start in look(spec=spec).starts if start.of_spec]
    best = recommended(report)
    # Random weights are drawn anew.
    assert (again.t2s_ce_covered, again.s2t_kd_covered) == pytest.approx(
        (best.t2s_ce_covered, best.s2t_kd_covered), rel=1e-2
    )


@pytest.mark.parametrize("aligner", OF_TWO_TOKENIZERS)
def test_it_is_the_start_of_the_loss_itself(aligner: str) -> None:
    spec = DSKDSpec(aligner=aligner, spaces=[{"name": "student", "filter": "correct"}, "teacher"])
    pair = sound_pair()
    [found] = [start for start in look(**pair, spec=spec).starts if start.of_spec]
    torch.manual_seed(0)
    loss_fn = DSKDLoss.from_models(spec, *pair.values())
    collate = DualTokenizerCollator(pair["student_tokenizer"], pair["teacher_tokenizer"], aligner=spec.aligner)
    with torch.no_grad():
        if aligner == "cma":
            return  # its query is drawn anew
        out = loss_fn.run(pair["student"], pair["teacher"], collate([{"text": text} for text in TEXTS]))
    scored = int(out.counts["ce"])
    covered = int(out.counts["t2s_ce"])
    assert found.t2s_ce_covered == pytest.approx(float(out.terms["t2s_ce"]) * scored / covered, rel=1e-5)
    assert found.s2t_kd_covered == pytest.approx(
        float(out.terms["s2t_kd"]) * scored / int(out.counts["s2t_kd"]), rel=1e-5
    )
    assert found.t2s_ce_covered == pytest.approx(float(out.metrics["t2s_ce_covered"]), rel=1e-5)
    assert found.covered == pytest.approx(covered / scored)
    assert found.kept == pytest.approx(int(out.counts["t2s_kd"]) / covered)
    assert (found.t2s_uniform, found.s2t_uniform) == (math.log(280), math.log(300))


ALIGNERS = sorted(info.name for info in list_components("aligner") if info.name not in ("identity", *OF_TWO_TOKENIZERS))


@pytest.mark.parametrize("aligner", ALIGNERS)
def test_calibrated_projectors_are_sane_with_every_aligner(aligner: str) -> None:
    spec = DSKDSpec(aligner=aligner, t2s_projector="mlp", s2t_projector="linear")
    [own] = [start for start in look(spec=spec).starts if start.of_spec]
    assert own.is_sane


def test_a_spec_that_starts_far_off_is_said() -> None:
    student = tiny_model("Llama", hidden_size=24, vocabulary=280)
    with torch.no_grad():
        student.get_output_embeddings().weight.mul_(20.0)
    torch_drawn = Linear(init="torch")
    spec = DSKDSpec(aligner="span", t2s_projector=torch_drawn, s2t_projector=torch_drawn)
    found = finding(look(student=student, spec=spec), "start of the spec", "warning")
    assert "a uniform guess is 5.63" in found.found
    assert found.advice.startswith("begin with DSKDSpec(aligner=")
    sane = look(student=student, spec=spec.replace(t2s_projector="linear", s2t_projector="linear"))
    assert not sane.of_severity("warning")


@pytest.mark.parametrize(
    ("t2s_ce", "s2t_kd", "severity"),
    [(6.0, 6.0, "ok"), (6.2, 6.2, "ok"), (6.4, 6.0, "warning"), (6.0, 6.4, "warning"), (None, 6.4, "warning")],
)
def test_each_head_is_held_to_its_own_guess(t2s_ce: float | None, s2t_kd: float, severity: str) -> None:
    start = Start(
        aligner="span",
        t2s_projector=None if t2s_ce is None else "mlp",
        s2t_projector="mlp",
        t2s_ce_covered=t2s_ce,
        t2s_uniform=6.0,
        kept=None if t2s_ce is None else 0.1,
        covered=0.9,
        s2t_kd_covered=s2t_kd,
        s2t_uniform=6.0,
        of_spec=True,
    )
    [found] = check_start((start,))
    assert (found.severity, found.component) == (severity, "start of the spec")
    assert f"s2t_kd_covered starts at {s2t_kd:.2f}" in found.found


def test_one_tokenizer() -> None:
    student = tiny_model("Llama", hidden_size=24, vocabulary=300)
    report = look(student=student, student_tokenizer=tokenizer(300))
    assert {start.aligner for start in report.starts} == {"identity"}
    assert all(start.covered == 1.0 for start in report.starts)
    assert recommended(report).is_sane
    assert report.recommendation.startswith("One tokenizer: DSKDSpec(")
    assert named_spaces(report) == ("shared_vocabulary", "student", "teacher")
    assert report.recommended_spec is not None
    assert report.recommended_spec.kd_rate == DSKDSpec.preset("recommended-one-vocabulary").kd_rate
    assert "'shared_vocabulary' and the dual spaces" in report.recommendation


def test_vocabularies_that_share_too_little_start_from_random_weights() -> None:
    student = tiny_model("Llama", hidden_size=24, vocabulary=60)
    report = look(student=student, student_tokenizer=metaspace_tokenizer())
    assert {(start.t2s_projector, start.s2t_projector) for start in report.starts} == {("linear", "linear")}
    assert recommended(report).is_sane
    assert recommended(report).aligner == "cma"
    assert named_spaces(report) == ("student", "teacher"), "its pairs are not known yet"
    assert "It does not fit" in report.recommendation


def named_spaces(report: PreflightReport) -> tuple[str, ...]:
    spec = report.recommended_spec
    assert spec is not None
    assert report.passed
    return tuple(space.name for space in spec.spaces)


def test_tokens_that_both_have_are_recommended_for_two_tokenizers() -> None:
    report = look(tokens_per_step=32)
    assert named_spaces(report) == ("shared_tokens",)
    spec = report.recommended_spec
    assert spec is not None
    assert spec == DSKDSpec.preset("recommended-two-vocabularies", aligner=spec.aligner)
    assert spec.kd_rate == DSKDSpec().kd_rate
    assert "spaces=['shared_tokens'], temperature=4.0" in report.recommendation
    assert "compared in 'shared_tokens' at a temperature of 4" in report.recommendation
    assert "with dual spaces" in report.recommendation
    assert recommended(report).direct_space == "shared_tokens"


def test_an_aligner_that_cannot_read_a_teacher_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise InputError("teacher.embedding has another width")

    monkeypatch.setattr(CrossModelAttentionModule, "_check_widths", refused)
    report = look()
    assert {start.aligner for start in report.starts} == {"exact_match", "span"}


def test_a_spec_that_projects_one_way_or_not_at_all() -> None:
    [own] = [start for start in look(spec=DSKDSpec(aligner="span", spaces=["teacher"])).starts if start.of_spec]
    assert (own.t2s_projector, own.t2s_ce_covered, own.kept) == (None, None, None)
    assert own.s2t_kd_covered is not None
    assert 0 < own.covered <= 1
    same = {"student": tiny_model("Llama", vocabulary=300), "student_tokenizer": tokenizer(300)}
    assert not any(start.of_spec for start in look(**same, spec=DSKDSpec.preset("vanilla-kd")).starts)


def test_without_tokenizers_nothing_is_measured() -> None:
    report = look(student_tokenizer=None)
    assert report.starts == ()
    assert not [each for each in report.findings if each.component == "start"]


def test_programs_and_people_are_told_all_of_it() -> None:
    report = look()
    plain = json.loads(json.dumps(report.to_dict()))
    assert [start["recommended"] for start in plain["starts"]].count(True) == 1
    assert plain["starts"][0].keys() >= {
        *("aligner", "t2s_ce_covered", "t2s_uniform", "kept", "covered", "s2t_kd_covered")
    }
    text = report.to_text()
    for start in report.starts:
        assert f"start of {start.aligner} with {start.t2s_projector}" in text
        assert f"{start.t2s_ce_covered:.2f} of {start.t2s_uniform:.2f}" in text
    from rich.console import Console

    console = Console(width=200, file=io.StringIO())
    console.print(report)
    table = console.file.getvalue()  # type: ignore[attr-defined]
    assert "recommended" in table
    # The name of a term is that of a mean over scored tokens; what is divided by covered ones has another.
    [batch] = [finding.found for finding in report.findings if finding.component == "batch"]
    assert re.fullmatch(r"the loss is [\d.]+ \(terms as training logs them: ce [\d.]+, shared_kd [\d.]+.*\)", batch)
    for written in (text.replace(batch, ""), report.recommendation, json.dumps(plain["starts"])):
        assert not re.findall(r"\b(?:t2s_ce|t2s_kd|s2t_kd)\b", written)
        assert "t2s_ce_covered" in written
    assert "t2s_ce_covered" in table


def test_models_run_once_and_projectors_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from dskd_components.preflight.pair import Pair
    from dskd_components.preflight.run import STARTED_TOKENS, _batch
    from dskd_components.preflight.start import measure_starts
    from dskd_components.projectors.pinv import PinvProjection

    made: list[object] = []
    original = PinvProjection.__init__

    def counted(self: PinvProjection, *args: Any, **options: Any) -> None:
        made.append(self)
        original(self, *args, **options)

    monkeypatch.setattr(PinvProjection, "__init__", counted)
    ran = []
    states = DSKDLoss.states
    monkeypatch.setattr(DSKDLoss, "states", lambda self, *a, **k: (ran.append(a[-1]), states(self, *a, **k))[1])
    pair = Pair(**sound_pair(), samples=TEXTS)
    found = measure_starts(DSKDLoss, pair, lambda spec: _batch(pair, spec, STARTED_TOKENS))
    assert len(found) >= 6
    assert (len(made), ran) == (2, ["student", "teacher"])


def test_of_a_teacher_that_knows_nothing_a_guess_is_better_than_its_logits() -> None:
    """They are large and wrong, and a pseudo-inverse keeps them."""
    report = look(teacher=tiny_model("Llama", vocabulary=300).requires_grad_(False))
    assert recommended(report).t2s_projector == "linear"
    assert recommended(report).is_sane
