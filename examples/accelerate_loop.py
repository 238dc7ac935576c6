"""A loop around an `accelerate.Accelerator`, on one process or many.

    accelerate launch -m examples.accelerate_loop

Accelerate wraps one module, so student and projectors go in together; the micro-batches of a step come with the count
that their losses are divided by, over all processes.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from accelerate import Accelerator
from torch.optim import AdamW
from torch.utils.data import DataLoader

from dskd_components.integrations.accelerate import clip_grad_norms, micro_batches
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from examples.command_line import command_line
from examples.tiny import Pair, tiny_pair

MICRO_BATCHES = 2


def train(pair: Pair) -> list[float]:
    """Train for one epoch; return the loss of each optimizer step."""
    accelerator = Accelerator()
    pair.teacher.to(accelerator.device)
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    optimizer = AdamW(model.param_groups(lr=1e-2, projector_lr=2e-2))
    loader: DataLoader[Any] = DataLoader(pair.samples, batch_size=2, collate_fn=pair.collate)  # type: ignore[arg-type]
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    model.train()
    batches = iter(loader)
    while window := list(islice(batches, MICRO_BATCHES)):
        loss = 0.0
        for batch, num_items in micro_batches(accelerator, model, window):
            out = model(batch, num_items_in_batch=num_items)
            accelerator.backward(out.loss * accelerator.num_processes)
            loss += accelerator.reduce(out.loss.detach(), reduction="sum").item()
        clip_grad_norms(accelerator, model, 0.4)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


if __name__ == "__main__":
    command_line(__doc__).parse_args()
    for step, loss in enumerate(train(tiny_pair()), start=1):
        print(f"step {step}: {loss:.4f}")
