"""One batch in several layouts, as `LMStates.from_labels` is given it: rows padded anywhere, or packed into one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from dskd_components import LMStates, TokenGroups
from tests.helpers.strategies import Batch, make_batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Side:
    """One model's side by token. Groups are of tokens as well; the states are given those of the token that follows."""

    states: LMStates
    labels: Tensor
    groups: Tensor

    def columns(self) -> dict[str, Tensor]:
        assert self.states.input_ids is not None
        return {
            "hidden_states": self.states.hidden_states,
            "input_ids": self.states.input_ids,
            "labels": self.labels,
            "groups": self.groups,
        }

    def built(self, columns: dict[str, Tensor], **layout: Tensor) -> tuple[LMStates, Tensor]:
        """States of columns, and the groups of what positions predict."""
        from dskd_components.models.run_model import groups_of_batch

        batch = {f"{side}_{name}": column for side in ("student", "teacher") for name, column in layout.items()}
        groups = groups_of_batch(batch | {f"{side}_groups": columns["groups"] for side in ("student", "teacher")})
        assert isinstance(groups, TokenGroups)
        given = {name: columns[name] for name in ("hidden_states", "input_ids", "labels")}
        states = LMStates.from_labels(**given, head=self.states.head, embedding=self.states.embedding, **layout)
        return states, groups.student


def sides(seed: int, *, same_tokenizer: bool, rows: int = 2) -> dict[str, Side]:
    """Both sides of a batch with all labels scored but a prompt's."""
    batch = make_batch(seed, same_tokenizer=same_tokenizer, batch=rows, student_length=4, teacher_length=5)
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    found = {}
    for name in ("student", "teacher"):
        states = getattr(batch, name)
        shape = states.targets.shape
        labels = torch.randint(0, states.head.vocabulary_size, shape, generator=generator)
        labels[:, : 1 + seed % 2] = -100
        groups = torch.arange(shape[1]).expand(shape) // (1 if name == "student" else 1 + seed % 2)
        hidden = states.hidden_states.detach().clone().requires_grad_(name == "student")
        found[name] = Side(replace(states, hidden_states=hidden), labels, groups.contiguous())
    if same_tokenizer:
        found["teacher"] = replace(found["teacher"], labels=found["student"].labels, groups=found["student"].groups)
    return found


def batch_of(built: dict[str, tuple[LMStates, Tensor]]) -> Batch:
    (student, ours), (teacher, theirs) = built["student"], built["teacher"]
    return Batch(student, teacher, TokenGroups(ours, theirs))


def plain(found: dict[str, Side]) -> Batch:
    return batch_of({name: side.built(side.columns()) for name, side in found.items()})


def scattered(columns: dict[str, Tensor], token: Tensor, filling: dict[str, Any]) -> dict[str, Tensor]:
    """The columns where a mask is true, padding elsewhere."""
    placed = {}
    for name, column in columns.items():
        wide = column.new_full((*token.shape, *column.shape[2:]), filling[name])
        placed[name] = wide.masked_scatter(token.reshape(*token.shape, *[1] * (column.ndim - 2)), column)
    return placed
