"""A plain PyTorch loop with gradient accumulation.

    python -m examples.plain_loop

Two uneven micro-batches make one optimizer step, exactly as if they were one batch: their losses are divided by the
scored tokens of both.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from torch.optim import AdamW
from torch.utils.data import DataLoader

from dskd_components import clip_grad_norms, scored_tokens
from examples.command_line import command_line
from examples.tiny import Pair, tiny_pair

MICRO_BATCHES = 2


def train(pair: Pair) -> list[float]:
    """Train for one epoch; return the loss of each optimizer step."""
    student, teacher, loss_fn = pair.student, pair.teacher, pair.loss_fn
    loader: DataLoader[Any] = DataLoader(pair.samples, batch_size=2, collate_fn=pair.collate)  # type: ignore[arg-type]
    optimizer = AdamW([{"params": student.parameters(), "lr": 1e-2}, *loss_fn.param_groups(lr=2e-2)], weight_decay=0.0)
    losses = []
    student.train()
    batches = iter(loader)
    while window := list(islice(batches, MICRO_BATCHES)):
        num_items = scored_tokens(window)
        loss = 0.0
        for batch in window:
            out = loss_fn.run(student, teacher, batch, num_items_in_batch=num_items)
            out.loss.backward()
            loss += out.loss.item()
        clip_grad_norms(student, loss_fn, 0.4)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


if __name__ == "__main__":
    command_line(__doc__).parse_args()
    for step, loss in enumerate(train(tiny_pair()), start=1):
        print(f"step {step}: {loss:.4f}")
