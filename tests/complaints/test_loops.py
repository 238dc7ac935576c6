"""What users complain of in training loops, row by row of the list that this library answers to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from dskd_components import DualTokenizerCollator, DualTokenizerPreprocessor, InputError, scored_tokens
from examples.tiny import Pair, tiny_pair
from examples.trainer import new_trainer
from tests.helpers.collating import LLAMA, byte_level, members, metaspace, row_of

if TYPE_CHECKING:
    from pathlib import Path

CHAT = [
    {"role": "user", "content": "What does pass do?"},
    {"role": "assistant", "content": "Nothing at all."},
]


def gradients(pair: Pair) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in (*pair.student.parameters(), *pair.loss_fn.parameters()) if p.grad is not None]
    pair.student.zero_grad()
    pair.loss_fn.zero_grad()
    assert found
    return found


def test_complaint_01_accumulation(tmp_path: Path) -> None:
    """Uneven micro-batches give the gradient of the whole batch, and not a multiple of it."""
    pair = tiny_pair()
    pair.loss_fn.run(pair.student, pair.teacher, pair.collate(pair.samples[:8])).loss.backward()
    whole = gradients(pair)
    window = list(DataLoader(pair.samples[:8], batch_size=2, collate_fn=pair.collate))  # type: ignore[arg-type]
    assert len({int(scored_tokens(batch)) for batch in window}) > 1
    trainer = new_trainer(pair, tmp_path)
    trainer.create_optimizer()
    device = torch.device("cpu")
    batches, num_items = trainer.get_batch_samples(iter(window), len(window), device)
    assert num_items == scored_tokens(window)
    trainer.current_gradient_accumulation_steps = len(batches)
    for batch in batches:
        trainer.training_step(trainer.model, batch, num_items)
    for ours, theirs in zip(gradients(pair), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_complaint_02_never_slice_at_the_widest_prompt(tmp_path: Path) -> None:
    """A short prompt beside a long one loses no token of its response, in a batch and in the trainer's count."""
    pair = tiny_pair()
    short, long = {"prompt": "a", "response": " b c d e f"}, {"prompt": "a b c d e f g h i j", "response": " k"}
    alone = [pair.collate([sample]) for sample in (short, long)]
    together = pair.collate([short, long])
    for row, batch in enumerate(alone):
        for side in ("student", "teacher"):
            labels = together[f"{side}_labels"][row]
            assert labels[labels != -100].tolist() == batch[f"{side}_labels"][batch[f"{side}_labels"] != -100].tolist()
    trainer = new_trainer(pair, tmp_path)
    assert int(trainer.count_scored_tokens([together], torch.device("cpu"))) == sum(map(int, map(scored_tokens, alone)))
    with torch.no_grad():
        counts = pair.loss_fn.run(pair.student, pair.teacher, together).counts
    assert int(counts["ce"]) == sum(map(int, map(scored_tokens, alone)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_complaint_04_padding_is_masked(side: Any) -> None:
    """However wide and on which side rows are padded, loss and gradients stay."""
    pair = tiny_pair()
    pair.loss_fn.run(pair.student, pair.teacher, pair.collate(pair.samples[:4])).loss.backward()
    expected = gradients(pair)
    padded = DualTokenizerCollator(
        pair.student_tokenizer, pair.teacher_tokenizer, aligner="cma", padding_side=side, pad_to_multiple_of=32
    )(pair.samples[:4])
    assert padded["student_labels"].shape[1] % 32 == 0
    pair.loss_fn.run(pair.student, pair.teacher, padded).loss.backward()
    for ours, theirs in zip(gradients(pair), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_complaint_08_nothing_scored_is_a_zero_that_keeps_its_graph(tmp_path: Path) -> None:
    """A trainer goes through a window in which nothing is scored, and through one in which a micro-batch is silent."""
    pair = tiny_pair()
    collate = pair.collate

    def silence(samples: Any) -> dict[str, torch.Tensor]:
        batch = collate(samples)
        if samples[0] in (*pair.samples[:4], pair.samples[6]):
            for side in ("student", "teacher"):
                batch[f"{side}_labels"] = torch.full_like(batch[f"{side}_labels"], -100)
        return batch

    trainer = new_trainer(pair, tmp_path)
    trainer.data_collator = silence
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] == 0.0 for entry in log] == [True, False, False, False]
    assert log[0]["grad_norm"] == 0.0
    assert all(torch.isfinite(torch.tensor(value)) for entry in log for value in entry.values())
    assert all(parameter.isfinite().all() for parameter in (*pair.student.parameters(), *pair.loss_fn.parameters()))


def test_complaint_11_the_teacher_needs_ids_of_its_own(tmp_path: Path) -> None:
    """Columns for one model alone, and columns of another tokenizer, are refused in the trainer, too."""
    pair = tiny_pair()
    trainer = new_trainer(pair, tmp_path)
    batch = pair.collate(pair.samples[:2])
    own = {name.removeprefix("student_"): column for name, column in batch.items() if name.startswith("student_")}
    with pytest.raises(InputError, match=r"'student_input_ids'.*different tokenizers"):
        trainer.compute_loss(pair.student, own)
    students = {name: column for name, column in batch.items() if not name.startswith("teacher_")}
    with pytest.raises(InputError, match=r"teacher"):
        trainer.compute_loss(pair.student, students)
    copied = students | {name.replace("student_", "teacher_"): batch[name] for name in students if "student_" in name}
    with pytest.raises(InputError, match=r"another teacher tokenizer"):
        trainer.compute_loss(pair.student, copied)


def test_complaint_12_each_side_has_its_own_template_and_one_bos() -> None:
    """No template is written for the other model, and none is begun twice."""
    student, teacher = byte_level(), metaspace()
    twice = PreTrainedTokenizerFast(
        tokenizer_object=teacher.backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=LLAMA.replace("{{ bos_token }}", ""),
    )
    for tokenizer, begins in ((teacher, 1), (twice, 0)):
        batch = DualTokenizerCollator(student, tokenizer, aligner="span")([{"messages": CHAT}])
        rows = {side: row_of(batch, side) for side in ("student", "teacher")}
        assert rows["teacher"]["input_ids"].count(tokenizer.bos_token_id) == begins
        assert "<|im_start|>" in student.decode(rows["student"]["input_ids"])
        assert "[INST]" in tokenizer.decode(rows["teacher"]["input_ids"])
        answer = [token for token in rows["teacher"]["labels"] if token != -100]
        assert "Nothing at all." in tokenizer.decode(answer)
        assert "[INST]" not in tokenizer.decode(answer)
        shared = members(rows["student"]["groups"]).keys() & members(rows["teacher"]["groups"]).keys()
        assert len(shared) > 3


def test_complaint_15_a_loop_of_ones_own_fails_clearly(tmp_path: Path) -> None:
    """What newcomers forget is named: the collator, the teacher's device, columns that a trainer would drop."""
    pair = tiny_pair()
    with pytest.raises(InputError, match=r"student_labels.*'text'"):
        scored_tokens({"text": torch.zeros(1)})
    preprocess = DualTokenizerPreprocessor(pair.student_tokenizer, pair.teacher_tokenizer, aligner="span")
    columns = Dataset.from_list(pair.samples[:4]).map(preprocess, batched=True, remove_columns=["prompt", "response"])
    trainer = new_trainer(pair, tmp_path, remove_unused_columns=True)
    trainer.train_dataset = columns
    trainer.data_collator = DualTokenizerCollator(pair.student_tokenizer, pair.teacher_tokenizer, aligner="span")
    (batch, *_) = trainer.get_train_dataloader()
    expected = trainer.data_collator(pair.samples[:2])
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
