"""A student that learns from a teacher's states on disk, after the teacher is gone.

    python -m examples.from_store

The teacher runs once, to fill the store. From then on nothing of it is in memory but its head and its embedding; the
workers of the data loader read its states ahead, while the student works on the batch before.
"""

from __future__ import annotations

from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch.optim import AdamW
from torch.utils.data import DataLoader

from dskd_components import DSKDLoss, DualTokenizerCollator, ReadAheadCollator, TeacherStore
from examples.command_line import command_line
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from pathlib import Path


def build(pair: Pair, folder: str | Path) -> None:
    """Run the teacher over the samples once. The student plays no part in it."""
    tokenizer = pair.teacher_tokenizer
    collate = DualTokenizerCollator(tokenizer, tokenizer, aligner=None)
    TeacherStore.build(folder, pair.teacher, collate, pair.samples, dtype="int8", progress=True)


def train(pair: Pair, folder: str | Path, *, workers: int = 1) -> list[float]:
    """Train for one epoch from the store; return the loss of each step.

    Args:
        pair: student, tokenizers and data; its teacher is not used.
        folder: of the store.
        workers: how many processes read ahead.
    """
    student, store = pair.student, TeacherStore(folder)
    loss_fn = DSKDLoss.from_models(pair.loss_fn.spec, student, store, pair.student_tokenizer, pair.teacher_tokenizer)
    loader: DataLoader[Any] = DataLoader(
        pair.samples,  # type: ignore[arg-type]
        batch_size=4,
        collate_fn=ReadAheadCollator(pair.collate, store),
        num_workers=workers,
    )
    optimizer = AdamW([{"params": student.parameters(), "lr": 1e-2}, *loss_fn.param_groups(lr=2e-2)])
    losses = []
    for batch in loader:
        out = loss_fn.run(student, store, batch)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.loss.item())
    return losses


def main() -> None:
    """Build a store in a temporary folder and train from it, with no teacher."""
    pair = tiny_pair()
    with TemporaryDirectory() as folder:
        build(pair, folder)
        nobody: Any = None
        for step, loss in enumerate(train(replace(pair, teacher=nobody), folder), start=1):
            print(f"step {step}: {loss:.4f}")


if __name__ == "__main__":
    command_line(__doc__).parse_args()
    main()
