"""What the collator makes of each sample to train on: its kind, its tokens, what is scored, or why it is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dskd_components.collation.collator import DualTokenizerCollator
from dskd_components.collation.encoded import SIDES
from dskd_components.collation.samples import ChatSample, Columns, PairSample, TextSample
from dskd_components.collation.token_samples import TokenSample
from dskd_components.collation.unread_arguments import told_arguments
from dskd_components.errors import InputError
from dskd_components.models.states import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from dskd_components.collation.samples import Sample
    from dskd_components.components.aligner import Aligner
    from dskd_components.models.states import Side

KINDS: Final[Mapping[type, tuple[str, str]]] = {
    TextSample: ("text", "texts"),
    PairSample: ("prompt and response", "prompts and responses"),
    ChatSample: ("chat", "chats"),
    TokenSample: ("sample in tokens", "samples in tokens"),
    type(None): ("preprocessed sample", "preprocessed samples"),
}
"""What one sample of each kind is called, and several."""

HALVINGS: Final = 10
"""How finely `SampleSurvey.typical` parts the samples by their lengths."""


@dataclass(frozen=True)
class SideLengths:
    """Tokens of one side of each usable sample, with nothing cut.

    Args:
        tokens: all of them.
        scored: those that count in the loss.
        paired: scored ones with a partner; empty where the aligner is told nothing.
        labels: how often each token is a label.
    """

    tokens: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    paired: list[int] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)

    @property
    def share_scored(self) -> float:
        """The share of all tokens that counts in the loss."""
        return sum(self.scored) / max(sum(self.tokens), 1)

    @property
    def share_paired(self) -> float | None:
        """The share of the scored tokens that have a partner; None where the aligner is told nothing."""
        return sum(self.paired) / max(sum(self.scored), 1) if self.paired else None

    def add(self, batch: Mapping[str, Tensor], side: Side) -> None:
        """Count one sample.

        Args:
            batch: of this sample alone.
            side: which side of it.
        """
        scored = batch[f"{side}_labels"] != IGNORE_INDEX
        self.tokens.append(scored.numel())
        self.scored.append(int(scored.sum()))
        self.labels.update(batch[f"{side}_labels"][scored].tolist())
        if f"{side}_groups" in batch:
            self.paired.append(int((scored & (batch[f"{side}_groups"] >= 0)).sum()))


class SampleSurvey:
    """What the collator makes of each sample.

    ``arguments`` has, for each argument of a chat template, where the samples are that have it, by the sides that do
    not read it.

    Args:
        student_tokenizer: a fast one.
        teacher_tokenizer: a fast one.
        aligner: by which tokens are brought together.
        columns: what the keys of a sample are called.
        samples: each as it was given, how the collator understands it, and where it stands.

    Raises:
        InputError: a tokenizer is not a fast one.
    """

    def __init__(
        self,
        student_tokenizer: Any,
        teacher_tokenizer: Any,
        *,
        aligner: Aligner | str,
        columns: Columns | None,
        samples: Iterable[tuple[Any, Sample | None, str]],
    ) -> None:
        self.aligner = aligner
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.lengths: dict[Side, SideLengths] = {side: SideLengths() for side in SIDES}
        self.usable: list[Any] = []
        self.problems: list[tuple[str, InputError]] = []
        self.arguments: dict[str, dict[tuple[Side, ...], list[str]]] = {}
        self.columns = columns or Columns()
        collate = DualTokenizerCollator(student_tokenizer, teacher_tokenizer, aligner=aligner, columns=columns)
        for raw, sample, place in samples:
            try:
                batch = collate([raw])
            except InputError as error:
                self.problems.append((place, error))
                continue
            self.usable.append(raw)
            self.kinds[_kind(sample)] += 1
            if isinstance(sample, ChatSample) and sample.template_options:
                self._add_arguments(sample, collate.encoder.reader.read(sample).unread, place)
            for side, lengths in self.lengths.items():
                lengths.add(batch, side)

    def _add_arguments(self, sample: ChatSample, unread: Mapping[Side, tuple[str, ...]], place: str) -> None:
        """Note of each argument of the template in which samples which sides do not read it."""
        for name in told_arguments(sample.template_options):
            sides = tuple(side for side in SIDES if name in unread[side])
            self.arguments.setdefault(name, {}).setdefault(sides, []).append(place)

    @property
    def aligner_name(self) -> str:
        """By which aligner tokens were brought together."""
        return self.aligner if isinstance(self.aligner, str) else self.aligner.name

    def typical(self) -> Iterator[tuple[int, Any]]:
        """Yield usable samples with their tokens of the student, so that the first few of them are of all lengths."""
        lengths = self.lengths["student"].tokens
        by_length = np.argsort(lengths, kind="stable")
        # The middle first, then the quarters, the eighths, and so on; each sample once.
        places = ((2 * part + 1) / 2**level for level in range(1, HALVINGS) for part in range(2 ** (level - 1)))
        for number in dict.fromkeys(int(by_length[int(place * len(by_length))]) for place in places):
            yield lengths[number], self.usable[number]


def _kind(sample: Sample | None) -> tuple[str, str]:
    """What a sample is called, alone and among others of its kind."""
    one, several = KINDS[type(sample)]
    marks = []
    if isinstance(sample, ChatSample) and "tools" in sample.template_options:
        marks.append("tools")
    if isinstance(sample, ChatSample | PairSample) and sample.teacher_prompt is not None:
        marks.append("a prompt of the teacher's own")
    suffix = f" with {' and '.join(marks)}" if marks else ""
    return one + suffix, several + suffix
