"""What users of other libraries complain of, as far as reading a model goes."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from dskd_components import DSKDLoss, DSKDSpec, Head, InputError, LMStates


def llama(vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return transformers.LlamaForCausalLM(config).eval()


def with_padding(model: PreTrainedModel, rows: int) -> PreTrainedModel:
    """The same model, its vocabulary padded by rows that would win every prediction."""
    padded = llama(model.config.vocab_size + rows)
    weights = {
        name: torch.cat([weight, torch.full((rows, 16), 100.0)]) if "lm_head" in name or "embed" in name else weight
        for name, weight in model.state_dict().items()
    }
    padded.load_state_dict(weights)
    return padded


def test_complaint_03_one_shift_convention() -> None:
    """Labels are shifted once, by the library: the cross entropy is the model's own."""
    model = llama(50)
    ids = torch.arange(5, 19).reshape(2, 7)
    labels = ids.clone()
    labels[0, :3] = -100
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd"), model, llama(50))
    out = loss_fn.run(model, llama(50), {"input_ids": ids, "labels": labels})
    torch.testing.assert_close(out.terms["ce"], model(input_ids=ids, labels=labels).loss.detach())
    states = loss_fn.states(model, {"input_ids": ids, "labels": labels}, "student")
    assert torch.equal(states.targets[:, :-1], labels[:, 1:])
    assert (states.targets[:, -1] == -100).all()


def test_complaint_09_padded_vocabulary() -> None:
    """Rows past the tokenizer's vocabulary change nothing, however large; a target among them is refused."""
    narrow, wide = llama(50), with_padding(llama(50), 14)
    hidden_states = torch.randn(2, 7, 16, generator=torch.Generator(torch.get_default_device()).manual_seed(0))
    head = Head.from_model(wide, valid_vocabulary_size=50)
    assert torch.equal(head.logits(hidden_states), Head.from_model(narrow).logits(hidden_states))
    ids = torch.arange(5, 19).reshape(2, 7)
    losses = []
    for teacher, sizes in ((narrow, None), (wide, 50)):
        loss_fn = DSKDLoss(DSKDSpec.preset("vanilla-kd"), student_hidden_size=16, teacher_hidden_size=16)
        teacher_head = Head.from_model(teacher, valid_vocabulary_size=sizes)
        states = [
            LMStates.from_labels(hidden_states=hidden_states * factor, labels=ids, head=side_head)
            for factor, side_head in ((0.5, Head.from_model(narrow)), (1.0, teacher_head))
        ]
        losses.append(loss_fn(*states).loss)
    assert torch.equal(losses[0], losses[1])
    with pytest.raises(InputError, match=r"student.targets: expected ids from 0 to 49.*got 50"):
        LMStates.from_labels(hidden_states=hidden_states, labels=ids + 36, head=head).checked("student")


def test_complaint_11_teacher_fed_the_students_tokens() -> None:
    """Ids that the teacher does not have are refused by name, before its embedding fails on them."""
    student, teacher = llama(60), llama(50)
    ids = torch.arange(46, 60).reshape(2, 7)
    loss_fn = DSKDLoss.from_models(DSKDSpec(aligner="cma"), student, teacher)
    columns = {f"{side}_{name}": ids for side in ("student", "teacher") for name in ("input_ids", "labels")}
    with pytest.raises(InputError, match=r"teacher_input_ids.*59.*Llama.* 50 rows.*teacher's own tokenizer"):
        loss_fn.run(student, teacher, columns)
