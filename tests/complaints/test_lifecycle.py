"""Complaints about what is left of a pair of models once training has stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM

from dskd_components import CheckpointError, DSKDLoss, DSKDSpec, DualTokenizerCollator
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer, tiny_model

if TYPE_CHECKING:
    from pathlib import Path


def test_complaint_11_projectors_of_other_token_ids(tmp_path: Path) -> None:
    """Projectors remember the tokenizers that they were trained with, by fingerprint."""
    models = (
        tiny_model("GPT2", hidden_size=24, vocabulary=60),
        tiny_model("Llama", hidden_size=32, vocabulary=300),
    )
    spec = DSKDSpec.preset("dskd-cma")
    tokenizers = metaspace_tokenizer(), byte_level_tokenizer()
    DSKDLoss.from_models(spec, *models, *tokenizers).save(tmp_path)
    DSKDLoss.load(tmp_path, *models, *tokenizers)
    with pytest.raises(CheckpointError, match=r"tokenizers\.teacher: saved '[0-9a-f]{16}', here '[0-9a-f]{16}'"):
        DSKDLoss.load(tmp_path, *models, tokenizers[0], byte_level_tokenizer(290))


def test_a_student_is_exported_without_a_trace_of_the_projectors(tmp_path: Path) -> None:
    student = tiny_model("GPT2", hidden_size=24, vocabulary=60).train()
    teacher = tiny_model("Llama", hidden_size=32, vocabulary=300)
    names = list(student.state_dict())
    tokenizers = metaspace_tokenizer(), byte_level_tokenizer()
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd-cma"), student, teacher, *tokenizers)
    parameters = [{"params": student.parameters(), "lr": 1e-3}, *loss_fn.param_groups(lr=1e-3)]
    optimizer = torch.optim.AdamW(parameters)
    batch = DualTokenizerCollator(*tokenizers, aligner="cma")([{"text": "Errors should never pass silently."}])
    loss_fn.run(student, teacher, batch).loss.backward()
    optimizer.step()
    assert list(student.state_dict()) == names
    student.save_pretrained(tmp_path)
    exported, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(exported) is type(student)
    found = exported.state_dict()
    assert found.keys() == student.state_dict().keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in student.state_dict().items())
    text = (tmp_path / "config.json").read_text()
    assert not any(word in text.lower() for word in ("dskd", "projector", "teacher"))
