"""How much of a model's predictions some tokens hold, and what a step over them costs.

``python -m benchmarks.narrowed_heads MODEL TEXTS`` with a folder of a causal model and a file of texts. Tokens are
kept in the order in which they are frequent in the file; those that do not occur follow by their ids. The kept mass is
a mean over the first positions. The step is the loss alone, forward and backward, of the model as the student and
random states of a teacher twice as wide, whose head is as large and is narrowed alike.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.clock import seconds
from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates, VocabularySubset
from dskd_components.models.vocabulary_subset import Others

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def ranked(ids: Tensor, vocabulary: int) -> Tensor:
    """Return all tokens, the most frequent first; the same number of times, by their ids."""
    return torch.bincount(ids, minlength=vocabulary).argsort(descending=True, stable=True)


def step(student: LMStates, teacher: LMStates, subset: VocabularySubset | None) -> Callable[[], object]:
    """Return a forward and a backward pass of the loss."""
    loss_fn = DSKDLoss(
        DSKDSpec(t2s_projector="linear", s2t_projector="linear"),
        student_hidden_size=student.hidden_states.shape[-1],
        teacher_hidden_size=teacher.hidden_states.shape[-1],
    )

    def run() -> None:
        sides = (
            LMStates(hidden_states=each.hidden_states, targets=each.targets, head=each.head.narrowed_to(subset))
            for each in (student, teacher)
        )
        loss_fn(*sides).loss.backward()

    return run


def main() -> None:
    """Print the table."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 8192, 16384])
    parser.add_argument("--positions", type=int, default=512, help="of the step, and of the kept mass")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    text = options.texts.read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text)["input_ids"])
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    order = ranked(ids, vocabulary)
    rows = ids[: options.positions + 1][None]
    with torch.no_grad():
        hidden_states = model(rows, output_hidden_states=True).hidden_states[-1][:, :-1]
    head = Head.from_model(model, valid_vocabulary_size=vocabulary)
    student = LMStates(hidden_states=hidden_states.clone().requires_grad_(), targets=rows[:, 1:], head=head)
    width = 2 * head.hidden_size
    weight = torch.randn(vocabulary, width) / width**0.5
    teacher = LMStates(
        hidden_states=torch.randn(1, student.targets.shape[1], width), targets=rows[:, 1:], head=Head(weight)
    )

    table = Table("tokens", "kept mass", *(f"step, {others}" for others in get_args(Others)))
    whole = step(student, teacher, None)
    runs: dict[tuple[int, str], Callable[[], object]] = {(vocabulary, ""): whole}
    for count in options.tokens:
        # Targets are labels, so all of these are among them whatever their rank.
        kept = torch.cat([student.targets.unique(), order]).unique_consecutive()
        kept = torch.tensor(list(dict.fromkeys(kept.tolist()))[: max(count, len(student.targets.unique()))])
        for others in get_args(Others):
            runs[count, others] = step(student, teacher, VocabularySubset(kept, vocabulary, others=others))
    times: dict[tuple[int, str], list[float]] = {key: [] for key in runs}
    for _ in range(options.rounds + 1):
        for key, run in runs.items():
            times[key].append(seconds(run))
    best = {key: statistics.median(found[1:]) for key, found in times.items()}
    base = best[vocabulary, ""]
    table.add_row(f"{vocabulary}, all", "100 %", *[f"{base:.3f} s"] * len(get_args(Others)))
    for count in options.tokens:
        narrow = head.narrowed(order[:count], others="left_out")
        mass = narrow.kept_mass(hidden_states[0]).mean()
        columns = [f"{best[count, others]:.3f} s ({base / best[count, others]:.1f}x)" for others in get_args(Others)]
        table.add_row(str(count), f"{100 * mass:.1f} %", *columns)
    Console().print(table)


if __name__ == "__main__":
    main()
