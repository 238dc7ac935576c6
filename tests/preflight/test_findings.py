"""Each thing that may be wrong with a pair, provoked: it is found, named, and there is advice."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

from dskd_components import ConfigurationError, DSKDSpec, DualTokenizerCollator, InputError
from tests.helpers.models import TEXTS, metaspace_tokenizer, tiny_model
from tests.helpers.pairs import CHATML, OTHER, finding, look, sound_pair, tokenizer, trained_teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def test_a_sound_pair_has_neither_errors_nor_warnings() -> None:
    report = look(tokens_per_step=64)
    assert report.passed
    assert [each.severity for each in report.findings] == ["ok"] * len(report.findings), report.to_text()
    assert report.costs
    assert "dskd-" in report.recommendation
    report.raise_if_failed()


class Doubled(torch.nn.Module):
    """Makes logits that no head explains."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.model.get_output_embeddings()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.model.get_input_embeddings()

    def forward(self, *args: object, **options: object) -> object:
        out = self.model(*args, **options)
        out.logits = out.logits.sin()
        return out


def test_a_head_that_is_not_the_models() -> None:
    report = look(student=Doubled(sound_pair()["student"]).eval())
    found = finding(report, "student head", "error")
    assert found.advice
    assert "logits" in found.found


def test_weights_on_the_meta_device() -> None:
    report = look(student=sound_pair()["student"].to("meta"))
    assert "meta" in finding(report, "student device", "error").found
    assert finding(report, "teacher head", "ok")


def test_a_teacher_in_training_mode() -> None:
    report = look(teacher=trained_teacher().train())
    assert report.passed
    assert finding(report, "teacher mode", "warning").advice == "call teacher.eval()"


def test_a_teacher_that_is_not_frozen() -> None:
    report = look(teacher=trained_teacher().requires_grad_(True))
    assert "no gradient" in finding(report, "teacher parameters", "ok").found


def test_shared_parameters() -> None:
    teacher = trained_teacher()
    student = copy.deepcopy(teacher).requires_grad_(True)
    assert look(student=student, student_tokenizer=tokenizer(300), teacher=teacher).passed
    student.lm_head.weight = teacher.lm_head.weight
    found = finding(
        look(student=student, student_tokenizer=tokenizer(300), teacher=teacher), "shared parameters", "error"
    )
    assert "share 1 " in found.found
    assert "'lm_head.weight'" in found.found


def test_a_student_that_cannot_learn() -> None:
    report = look(student=sound_pair()["student"].requires_grad_(False))
    assert "requires_grad_(True)" in finding(report, "student parameters", "error").advice


def test_float16_parameters() -> None:
    report = look(student=sound_pair()["student"].half())
    assert "float16" in finding(report, "student precision", "warning").found


def test_a_tokenizer_larger_than_its_model() -> None:
    report = look(student_tokenizer=tokenizer(290))
    assert len(report.of_severity("error")) == 1, "one cause, one finding"
    found = finding(report, "student vocabulary", "error")
    assert "ids up to 289" in found.found
    assert "280 rows" in found.found


def test_no_tokenizer() -> None:
    report = look(student_tokenizer=None)
    assert finding(report, "student vocabulary", "warning")
    assert "tokenizers" in report.recommendation


def test_an_eos_that_the_configuration_does_not_have() -> None:
    student = sound_pair()["student"]
    student.config.eos_token_id = 7
    found = finding(look(student=student), "student EOS", "warning")
    assert "is 2 (</s>)" in found.found
    assert "has 7" in found.found
    student.config.eos_token_id = [7, 2]
    assert not look(student=student).of_severity("warning")


def test_a_tokenizer_without_eos() -> None:
    without = tokenizer(280)
    without.eos_token = None
    assert "stop" in finding(look(student_tokenizer=without), "student EOS", "warning").found


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_one_sided_bos(side: str) -> None:
    size = {"student": 280, "teacher": 300}[side]
    found = finding(look(**{f"{side}_tokenizer": tokenizer(size, bos=True)}), "BOS", "ok")
    assert found.found.startswith(f"one-sided: the {side}'s tokenizer puts <s> before a text")


def test_bos_on_both_sides() -> None:
    report = look(student_tokenizer=tokenizer(280, bos=True), teacher_tokenizer=tokenizer(300, bos=True))
    assert finding(report, "BOS and EOS", "ok")


def test_a_missing_chat_template() -> None:
    report = look(texts=None, teacher_tokenizer=tokenizer(300, template=CHATML))
    assert report.passed
    assert "the student's tokenizer has none" in finding(report, "chat templates", "warning").found


@pytest.mark.parametrize(("theirs", "words"), [(OTHER, "they differ"), (CHATML, "have the same")])
def test_chat_templates_of_both(theirs: str, words: str) -> None:
    report = look(
        texts=None, student_tokenizer=tokenizer(280, template=CHATML), teacher_tokenizer=tokenizer(300, template=theirs)
    )
    assert words in finding(report, "chat templates", "ok").found


def test_a_chat_template_without_a_system_message() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    report = look(
        texts=None, student_tokenizer=tokenizer(280, template=strict), teacher_tokenizer=tokenizer(300, template=CHATML)
    )
    assert "system" in finding(report, "student chat template", "warning").found


def test_a_chat_template_that_loses_contents() -> None:
    lossy = "{% for m in messages %}[{{ m.role }}]{{ m.content | upper }}{% endfor %}"
    report = look(
        texts=None, student_tokenizer=tokenizer(280, template=lossy), teacher_tokenizer=tokenizer(300, template=CHATML)
    )
    assert finding(report, "student chat template", "error").advice


def test_a_chat_that_gets_two_bos() -> None:
    report = look(
        texts=None,
        student_tokenizer=tokenizer(280, bos=True, template="<s>" + CHATML),
        teacher_tokenizer=tokenizer(300, bos=True, template=CHATML),
    )
    assert "so that there is one" in finding(report, "student chat template", "ok").found


def test_coverage_is_that_of_the_alignment() -> None:
    report = look()
    for method in ("exact_match", "span", "min_edit"):
        assert "% of the student's" in finding(report, f"alignment {method}", "ok").found
    same = look(student=tiny_model("Llama", hidden_size=24, vocabulary=300), student_tokenizer=tokenizer(300))
    assert "the same" in finding(same, "tokenizers", "ok").found
    assert "'dskd'" in same.recommendation


def test_an_aligner_that_leaves_most_of_the_text_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dskd_components.preflight.check_alignment.LITTLE", 1.01)
    spec = DSKDSpec.preset("dskd-v2-eta")
    assert "'cma'" in finding(look(spec=spec), f"alignment {spec.aligner.text_method}", "warning").advice


def test_a_tokenizer_that_is_not_the_teachers() -> None:
    report = look(teacher_tokenizer=metaspace_tokenizer())
    assert "worse than chance" in finding(report, "teacher predictions", "warning").found


def test_a_teacher_that_is_mixed_up_with_the_student() -> None:
    report = look(
        student=trained_teacher().requires_grad_(True),
        student_tokenizer=tokenizer(300),
        teacher=sound_pair()["student"],
        teacher_tokenizer=tokenizer(280),
    )
    assert "mixed up" in finding(report, "predictions", "warning").advice


def test_packed_rows_that_leak() -> None:
    report = look(student=tiny_model("OPT", vocabulary=280))
    assert "see one another" in finding(report, "student packing", "warning").found
    assert finding(report, "teacher packing", "ok")


def test_what_a_pseudo_inverse_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DSKDSpec.preset("dskd-v2-eta")
    report = look(spec=spec)
    assert [each for each in report.findings if each.component == "pinv residual"], report.to_text()
    monkeypatch.setattr("dskd_components.preflight.check_batch.LOST", -1.0)
    found = [each for each in look(spec=spec).findings if each.component == "pinv residual"]
    assert {each.severity for each in found} == {"warning"}
    assert all("'linear'" in each.advice for each in found)


def test_heads_that_are_narrowed() -> None:
    own = tokenizer(300)
    used = sorted({token for text in TEXTS for token in own(text)["input_ids"]} | {own.eos_token_id})
    report = look(teacher_tokens=used, other_tokens="left_out")
    found = finding(report, "teacher tokens", "ok").found
    assert found.startswith(
        f"its head is narrowed to {len(used)} of 300 tokens, and the others are left out; 100.0% of"
    )
    kept = finding(report, "teacher kept mass", "ok").found
    assert kept.startswith(f"{len(used)} of 300 tokens have 9")  # a teacher that knows the texts
    assert report.recommended_spec is not None, "the start is measured with the narrowed heads"
    few = look(student_tokens=range(40), teacher_tokens=range(290), other_tokens="one_outcome")
    assert "are one outcome; " in finding(few, "student tokens", "ok").found
    assert "290 of 300" in finding(few, "teacher kept mass", "ok").found


def test_a_label_among_tokens_that_are_left_out() -> None:
    refused = finding(look(teacher_tokens=range(290), other_tokens="left_out"), "teacher tokens", "error")
    assert "290 of 300 tokens, and the others are left out, but " in refused.found
    assert "other_tokens='one_outcome'" in refused.advice
    library = look(texts=None, student_tokens=[5], other_tokens="left_out")
    assert "give what you train on" in finding(library, "student tokens", "error").advice
    batch = {"labels": torch.tensor([[5, 6, -100]])}
    of_batch = finding(look(batch=batch, student_tokens=[5], other_tokens="left_out"), "student tokens", "error")
    assert "1 of 2 labels are among these (1 different tokens, such as 6 " in of_batch.found


@pytest.mark.parametrize(
    ("narrowing", "words"),
    [
        ({"student_tokens": [1]}, "nobody says what becomes of all other tokens"),
        ({"student_tokens": [1, 1], "other_tokens": "left_out"}, "each token once, got 1 twice"),
        ({"student_tokens": [280], "other_tokens": "left_out"}, "ids from 0 to 279"),
        ({"student_tokens": [1], "other_tokens": "leftout"}, "did you mean 'left_out'"),
    ],
)
def test_what_is_no_narrowing(narrowing: dict[str, object], words: str) -> None:
    assert words in finding(look(**narrowing), "student tokens", "error").found


def test_a_batch_of_one_tokenizer_for_two() -> None:
    ids = tokenizer(280)(TEXTS[0], return_tensors="pt")["input_ids"]
    report = look(batch={f"{side}_{name}": ids for side in ("student", "teacher") for name in ("input_ids", "labels")})
    assert "DualTokenizerCollator" in finding(report, "batch", "error").advice


def test_a_batch_of_other_tokenizers() -> None:
    batch = DualTokenizerCollator(tokenizer(270), tokenizer(300))([{"text": TEXTS[0]}])
    assert "tokenizer" in finding(look(batch=batch), "batch", "error").found


def test_a_batch_without_labels_to_score() -> None:
    batch = DualTokenizerCollator(tokenizer(280), tokenizer(300))([{"text": TEXTS[0]}])
    batch["student_labels"] = torch.full_like(batch["student_labels"], -100)
    assert not look(batch=batch).passed


def test_a_spec_that_does_not_fit() -> None:
    assert not look(spec=DSKDSpec.preset("dskd")).passed


@pytest.mark.parametrize("options", [{"texts": "one text"}, {"texts": []}, {"texts": [""]}, {"tokens_per_step": 0}])
def test_what_is_asked_for_wrongly_is_an_error(options: dict[str, object]) -> None:
    [name] = options
    with pytest.raises(InputError, match=f"^{name}: expected"):
        look(**options)


def test_a_report_with_errors_stops_when_asked() -> None:
    report = look(student=sound_pair()["student"].requires_grad_(False), teacher=trained_teacher().train())
    assert not report.passed
    assert (report.costs, report.recommendation) == ((), "")
    with pytest.raises(ConfigurationError) as stopped:
        report.raise_if_failed()
    assert "student parameters" in str(stopped.value)
    assert "teacher mode" not in str(stopped.value)
    assert len(report.to_text().splitlines()) == len(report.findings)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_named_chat_templates_without_a_default(side: str) -> None:
    sizes = {"student": 280, "teacher": 300}
    tokenizers = {f"{each}_tokenizer": tokenizer(size, template=CHATML) for each, size in sizes.items()}
    named = tokenizers[f"{side}_tokenizer"]
    named.chat_template = {"tool_use": CHATML, "rag": OTHER}
    report = look(texts=None, **tokenizers)
    assert report.passed, report.to_text()
    found = finding(report, f"{side} chat template", "warning")
    assert "'tool_use', 'rag', and none 'default'" in found.found
    chosen = f"{side}_tokenizer.chat_template"
    assert found.advice == f"choose one: {chosen} = {chosen}['tool_use']"
    named.chat_template = named.chat_template["tool_use"]
    assert not [each for each in look(texts=None, **tokenizers).of_severity("warning") if "template" in each.component]
    named.chat_template = {"default": CHATML, "rag": OTHER}
    assert not [each for each in look(texts=None, **tokenizers).of_severity("warning") if "template" in each.component]
