"""On-policy distillation: the student writes, both models score what it wrote.

    python -m examples.on_policy

The loss does not care where tokens came from: what the student generates becomes text, and the collator tokenizes that
text for both, as it does with any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.optim import AdamW
from torch.utils.data import DataLoader

from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from collections.abc import Sequence


@torch.no_grad()
def respond(pair: Pair, prompts: Sequence[str], *, max_new_tokens: int = 12) -> list[dict[str, str]]:
    """Let the student go on with each prompt, by sampling; return samples."""
    pair.student.eval()
    samples = []
    for prompt in prompts:
        inputs = pair.student_tokenizer(prompt, return_tensors="pt").to(pair.student.device)
        tokens = pair.student.generate(  # type: ignore[operator]
            **inputs,
            do_sample=True,
            max_new_tokens=max_new_tokens,
            bad_words_ids=[[pair.student_tokenizer.pad_token_id]],
        )
        written = tokens[0, inputs["input_ids"].shape[1] :]
        response = pair.student_tokenizer.decode(written, skip_special_tokens=True)
        # What was written up to the limit has no end, and the student is not to learn one there.
        finish_reason = "length" if len(written) == max_new_tokens else "stop"
        samples.append({"prompt": prompt, "response": f" {response}", "finish_reason": finish_reason})
    return samples


def train(pair: Pair) -> list[float]:
    """Train for one epoch of prompts; return the loss of each optimizer step."""
    optimizer = AdamW([{"params": pair.student.parameters(), "lr": 1e-2}, *pair.loss_fn.param_groups(lr=2e-2)])
    losses = []
    for prompts in DataLoader([sample["prompt"] for sample in pair.samples], batch_size=4):  # type: ignore[arg-type]
        batch = pair.collate(respond(pair, prompts))
        pair.student.train()
        out = pair.loss_fn.run(pair.student, pair.teacher, batch)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.loss.item())
    return losses


if __name__ == "__main__":
    torch.manual_seed(0)
    for step, loss in enumerate(train(tiny_pair()), start=1):
        print(f"step {step}: {loss:.4f}")
