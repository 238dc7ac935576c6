"""Hugging Face models: heads that equal the model's own logits, and the loss from models and batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dskd_components import (
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    DSKDWarning,
    Head,
    InputError,
    LMStates,
    list_components,
)
from dskd_components.spec.presets import PRESETS
from tests.helpers.models import FAMILIES, byte_level_tokenizer, encode, groups, metaspace_tokenizer, tiny_model
from tests.helpers.registered import names

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_give_the_logits_of_their_models(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family).to(dtype)
    head = Head.from_model(model)
    with torch.no_grad():
        output = model(input_ids=IDS, output_hidden_states=True)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 5e-2}
    torch.testing.assert_close(head.logits(output.hidden_states[-1]), output.logits.float(), **tolerance)


@pytest.mark.parametrize("tied", [True, False])
def test_heads_follow_their_models(tied: bool) -> None:
    model = tiny_model("Llama", tie_word_embeddings=tied)
    head = Head.from_model(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    head.verify(model)


def test_a_head_that_differs_from_its_model_is_refused() -> None:
    model = tiny_model("Llama")
    head = Head.from_model(model)
    with pytest.raises(InputError, match=r"LlamaForCausalLM.*differ.*by up to [\d.]+.*another scale"):
        Head(head.weight, scale=2.0).verify(model)
    with pytest.raises(InputError, match=r"the model gives 64 logits, the head's weight has 50"):
        Head(head.weight[:50]).verify(model)


def test_a_model_with_logits_of_its_own_kind_is_refused() -> None:
    class Odd(nn.Module):
        """A model whose logits are the head's, doubled, which no configuration tells."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model("Llama")
            self.config = self.inner.config

        def get_output_embeddings(self) -> nn.Module:
            return self.inner.get_output_embeddings()

        def forward(self, **inputs: Any) -> Any:
            output = self.inner(**inputs)
            output.logits = output.logits * 2
            return output

    with pytest.raises(InputError, match="Odd"):
        Head.from_model(Odd())  # type: ignore[arg-type]


def test_a_model_without_head_is_refused() -> None:
    with pytest.raises(InputError, match=r"LlamaModel.*get_output_embeddings.*AutoModelForCausalLM"):
        Head.from_model(tiny_model("Llama").model)


def test_padding_rows_are_left_out() -> None:
    model = tiny_model("Llama", vocabulary=64)
    head = Head.from_model(model, valid_vocabulary_size=60)
    assert head.logits(torch.zeros(2, 32)).shape == (2, 60)


def two_tokenizers(spec: DSKDSpec, **options: Any) -> tuple[DSKDLoss, Any, Any, dict[str, torch.Tensor]]:
    """A GPT-2-like student and a Llama-like teacher with a padded vocabulary, of different tokenizers."""
    student_tokenizer, teacher_tokenizer = metaspace_tokenizer(), byte_level_tokenizer()
    student = tiny_model("GPT2", hidden_size=24, vocabulary=len(student_tokenizer))
    teacher = tiny_model("Llama", hidden_size=32, vocabulary=len(teacher_tokenizer) + 20)
    torch.manual_seed(0)
    loss_fn = DSKDLoss.from_models(spec, student, teacher, student_tokenizer, teacher_tokenizer)
    batch = encode(student_tokenizer, "student_") | encode(teacher_tokenizer, "teacher_")
    method = spec.aligner.text_method
    told = groups(student_tokenizer, teacher_tokenizer, batch, method) if method else {}
    return loss_fn, student, teacher, batch | told


def one_tokenizer(spec: DSKDSpec) -> tuple[DSKDLoss, Any, Any, dict[str, torch.Tensor]]:
    tokenizer = byte_level_tokenizer()
    student = tiny_model("GPT2", hidden_size=24, vocabulary=len(tokenizer))
    teacher = tiny_model("Llama", hidden_size=32, vocabulary=len(tokenizer) + 20)
    torch.manual_seed(0)
    return DSKDLoss.from_models(spec, student, teacher, tokenizer, tokenizer), student, teacher, encode(tokenizer, "")


# Of the others, a space compares one vocabulary.
DUAL = [name for name in PRESETS if not any(space.one_vocabulary for space in DSKDSpec.preset(name).spaces)]
ALIGNERS = [info.name for info in list_components("aligner")]


@pytest.mark.parametrize(("preset", "aligner"), [(preset, aligner) for preset in DUAL for aligner in ALIGNERS])
def test_every_aligner_works_in_every_dual_space_preset(preset: str, aligner: str) -> None:
    spec = DSKDSpec.preset(preset, aligner=aligner)
    make = one_tokenizer if spec.aligner.same_tokenizer else two_tokenizers
    loss_fn, student, teacher, batch = make(spec)
    out = loss_fn.run(student, teacher, batch)
    out.loss.backward()
    assert all(count > 0 for name, count in out.counts.items() if name != "t2s_kd")
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in loss_fn.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs_and_its_loss_falls(preset: str) -> None:
    spec = DSKDSpec.preset(preset)
    make = one_tokenizer if spec.aligner.same_tokenizer else two_tokenizers
    loss_fn, student, teacher, batch = make(spec)
    student.train()
    optimizer = torch.optim.AdamW([{"params": list(student.parameters()), "lr": 3e-3}, *loss_fn.param_groups(lr=1e-2)])
    losses = []
    for _ in range(16):
        out = loss_fn.run(student, teacher, batch)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.terms["ce"].item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in loss_fn.parameters())


def test_run_is_the_raw_call() -> None:
    loss_fn, student, teacher, batch = two_tokenizers(DSKDSpec.preset("dskd-cma"))
    states = {}
    for side, model, tokenizer in (
        ("student", student, metaspace_tokenizer()),
        ("teacher", teacher, byte_level_tokenizer()),
    ):
        ids, labels = batch[f"{side}_input_ids"], batch[f"{side}_labels"]
        hidden = model(input_ids=ids, attention_mask=batch[f"{side}_attention_mask"], output_hidden_states=True)
        states[side] = LMStates.from_labels(
            hidden_states=hidden.hidden_states[-1],
            labels=labels,
            head=Head(model.get_output_embeddings().weight, valid_vocabulary_size=len(tokenizer)),
            input_ids=ids,
            embedding=model.get_input_embeddings().weight,
        )
    torch.testing.assert_close(
        loss_fn.run(student, teacher, batch).loss, loss_fn(states["student"], states["teacher"]).loss
    )


def test_models_are_no_part_of_the_loss() -> None:
    loss_fn, *_ = two_tokenizers(DSKDSpec.preset("dskd-cma"))
    assert sorted(loss_fn.state_dict()) == [
        "aligner.query.bias",
        "aligner.query.weight",
        "projectors.s2t.bias",
        "projectors.s2t.weight",
        "projectors.t2s.bias",
        "projectors.t2s.weight",
    ]
    assert [type(module).__name__ for module in loss_fn.children()] == [
        "CrossModelAttentionModule",
        "ModuleDict",  # projectors
        "ModuleDict",  # what spaces have built: nothing
    ]


def test_vocabularies_are_those_of_the_tokenizers() -> None:
    spec = DSKDSpec.preset("dskd-v2-eta")
    loss_fn, *_ = two_tokenizers(spec)
    assert loss_fn.vocabularies.sizes == {"student": len(metaspace_tokenizer()), "teacher": len(byte_level_tokenizer())}
    mapped = loss_fn.teacher_to_student_ids
    assert mapped is not None
    ours, theirs = metaspace_tokenizer().get_vocab(), byte_level_tokenizer().get_vocab()
    assert mapped[theirs["e"]] == ours["e"]
    assert mapped[theirs["Ġ"]] == ours["▁"]
    assert mapped[theirs["</s>"]] == ours["</s>"]


def test_one_tokenizer_means_one() -> None:
    model = tiny_model("Llama", vocabulary=400)
    with pytest.raises(ConfigurationError, match=r"'identity'.*share a tokenizer.*dskd-cma"):
        DSKDLoss.from_models(DSKDSpec(), model, model, metaspace_tokenizer(), byte_level_tokenizer())


def test_a_space_for_one_vocabulary_is_not_for_two_of_one_size() -> None:
    tokenizers = metaspace_tokenizer(55), metaspace_tokenizer(60)
    models = [tiny_model("Llama", vocabulary=60), tiny_model("Llama", vocabulary=60)]
    spec = DSKDSpec(spaces=["shared_vocabulary"], aligner="span")
    with pytest.raises(ConfigurationError, match=r"'shared_vocabulary'.*share a tokenizer"):
        DSKDLoss.from_models(spec, *models, *tokenizers)
    DSKDLoss.from_models(spec, *models, tokenizers[1], tokenizers[1])


def test_a_batch_of_other_tokenizers_is_refused() -> None:
    loss_fn, student, teacher, batch = two_tokenizers(DSKDSpec.preset("dskd-cma"))
    own = {
        f"{side}_fingerprint": torch.tensor(loss_fn.vocabularies.fingerprints[side]) for side in ("student", "teacher")
    }
    loss_fn.run(student, teacher, batch | own)
    with pytest.raises(InputError, match="another teacher tokenizer"):
        loss_fn.run(student, teacher, batch | own | {"teacher_fingerprint": own["student_fingerprint"]})


def test_param_groups_carry_the_options_and_may_be_none() -> None:
    loss_fn, *_ = two_tokenizers(DSKDSpec.preset("dskd-cma"))
    (group,) = loss_fn.param_groups(lr=1e-3, weight_decay=0.1)
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in loss_fn.parameters()}
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.1)
    assert (
        DSKDLoss(DSKDSpec.preset("vanilla-kd"), student_hidden_size=2, teacher_hidden_size=3).param_groups(lr=1) == []
    )


@pytest.mark.parametrize("aligner", names("aligner"))
def test_param_groups_have_each_parameter_once_at_its_rate(aligner: str) -> None:
    loss_fn = DSKDLoss(DSKDSpec(aligner=aligner), student_hidden_size=2, teacher_hidden_size=3)
    groups = loss_fn.param_groups(lr=2.0, weight_decay=0.1)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in loss_fn.parameters())
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    factors = loss_fn.aligner.learning_rate_factors()
    assert len(groups) == 1 + len(set(factors.values()) - {1.0})
    for name, parameter in loss_fn.aligner.named_parameters():
        assert rates[id(parameter)] == 2.0 * factors.get(name.partition(".")[0], 1.0)


def test_two_tokenizers_need_the_teachers_own_tokens() -> None:
    loss_fn, student, teacher, batch = two_tokenizers(DSKDSpec.preset("dskd-cma"))
    plain = {name.removeprefix("student_"): column for name, column in batch.items() if name.startswith("student_")}
    with pytest.raises(InputError, match=r"'student_input_ids'.*'input_ids'.*its own tokens"):
        loss_fn.run(student, teacher, plain)
    del batch["teacher_labels"]
    with pytest.raises(InputError, match="'teacher_labels'"):
        loss_fn.run(student, teacher, batch)


def test_a_tokenizer_larger_than_its_model_is_refused() -> None:
    tokenizer = byte_level_tokenizer()
    model = tiny_model("Llama", vocabulary=64)
    with pytest.raises(InputError, match=r"student's tokenizer has ids up to \d+, but its head has only 64 rows"):
        DSKDLoss.from_models(DSKDSpec(), model, model, tokenizer, tokenizer)


def test_a_teacher_in_training_mode_is_warned_of() -> None:
    loss_fn, student, teacher, batch = two_tokenizers(DSKDSpec.preset("dskd-cma"))
    with pytest.warns(DSKDWarning, match=r"teacher\.eval\(\)"):
        loss_fn.run(student, teacher.train(), batch)
    teacher.eval()


def test_a_known_correspondence_measures_cross_model_attention() -> None:
    loss_fn, student, teacher, batch = two_tokenizers(DSKDSpec.preset("dskd-cma"))
    out = loss_fn.run(student, teacher, batch)
    assert "alignment_accuracy" not in out.metrics
    assert 0 < out.metrics["attention_entropy"].item() < 5
    index = torch.zeros_like(batch["student_labels"])
    measured = loss_fn.run(student, teacher, batch | {"alignment": index})
    assert 0 <= measured.metrics["alignment_accuracy"].item() <= 1
    torch.testing.assert_close(measured.loss, out.loss)


def test_from_labels_shifts_once_and_stops_at_segments() -> None:
    states = LMStates.from_labels(
        hidden_states=torch.zeros(1, 6, 2),
        labels=torch.tensor([[-100, 1, 2, 3, 4, 5]]),
        head=Head(torch.zeros(9, 2)),
        segment_ids=torch.tensor([[0, 0, 0, 1, 1, 1]]),
    )
    assert states.targets.tolist() == [[1, 2, -100, 4, 5, -100]]
