"""From a batch of one sample to the view of it: what the batch has, and why.

Ids, labels and groups are read off the batch. What the sample's tokens stand for, and the reasons, come from how it was
prepared; a preprocessed sample has nothing of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dskd_components.collation.grouping import align_stretches
from dskd_components.collation.reasons import SideReasons, UnpairedReason, UnscoredReason, unpaired_reasons
from dskd_components.collation.sample_view import SampleView, SideView, TokenView
from dskd_components.collation.samples import ChatSample, PairSample, TextSample
from dskd_components.collation.token_samples import TokenSample
from dskd_components.collation.truncation import common_cuts
from dskd_components.models.states import IGNORE_INDEX
from dskd_components.tokenization.fast_tokenizers import backend_of
from dskd_components.tokenization.token_bytes import vocabulary_bytes_as_read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dskd_components.collation.dual_encoder import DualEncoder, Prepared
    from dskd_components.collation.reasons import Unpaired
    from dskd_components.collation.samples import Sample
    from dskd_components.collation.side_encoder import SideEncoder
    from dskd_components.collation.side_tokens import SideTokens
    from dskd_components.tokenization.token_bytes import VocabularyBytes

FORMS: Final = {TextSample: "text", PairSample: "prompt and response", ChatSample: "chat", TokenSample: "tokens"}


@dataclass(frozen=True, eq=False)
class _Explained:
    """One side's tokens, whole, with what they stand for and the reasons."""

    ids: Sequence[int]
    texts: Sequence[str]
    unscored: Sequence[UnscoredReason]
    unpaired: Sequence[Unpaired]


def view_of_raw(
    batch: Mapping[str, Tensor], encoder: DualEncoder, sample: Sample, prepared: Prepared, teacher: str = "teacher"
) -> SampleView:
    """Return the view of a raw sample.

    Args:
        batch: The columns of the student and one teacher; the sample is the only one in it.
        encoder: What made them.
        sample: The sample.
        prepared: Its tokens.
        teacher: What the teacher is called.
    """
    aligned = [] if encoder.group_maker is None else align_stretches(prepared.stretches, encoder.group_maker)
    unpaired = unpaired_reasons(prepared, aligned, sample)
    sides = (("student", encoder.student, prepared.student), (teacher, encoder.teacher, prepared.teacher))
    students, teachers = (
        _side(
            batch,
            "student" if name == "student" else "teacher",
            own,
            _Explained(
                tokens.input_ids.tolist(), _texts(tokens, sample), SideReasons(tokens, sample).unscored(), reasons
            ),
            name,
        )
        for (name, own, tokens), reasons in zip(sides, unpaired, strict=True)
    )
    return SampleView(
        FORMS[type(sample)],
        _alignment(encoder),
        students,
        teachers,
        has_groups="student_groups" in batch,
        cuts=_cuts(prepared),
    )


def view_of_preprocessed(batch: Mapping[str, Tensor], encoder: DualEncoder) -> SampleView:
    """Return the view of a sample that was preprocessed, of which nothing is known but its columns.

    Args:
        batch: The columns; the sample is the only one in it.
        encoder: That of the collator.
    """
    views = []
    for side, own in (("student", encoder.student), ("teacher", encoder.teacher)):
        ids = _row(batch, side, "input_ids").tolist()
        unscored = [UnscoredReason.PREPROCESSED] * len(ids)
        unpaired = [UnpairedReason.PREPROCESSED] * len(ids)
        texts = _pieces(ids, vocabulary_bytes_as_read(own.tokenizer))
        views.append(_side(batch, side, own, _Explained(ids, texts, unscored, unpaired), side))
    return SampleView("preprocessed", _alignment(encoder), views[0], views[1], has_groups="student_groups" in batch)


def _side(batch: Mapping[str, Tensor], side: str, encoder: SideEncoder, explained: _Explained, name: str) -> SideView:
    columns = {column: _row(batch, side, column).tolist() for column in ("input_ids", "labels")}
    has_groups = f"{side}_groups" in batch
    groups = _row(batch, side, "groups").tolist() if has_groups else [-1] * len(columns["labels"])
    backend = backend_of(encoder.tokenizer)
    tokens = []
    for index, text in enumerate(explained.texts):
        is_kept = index < len(groups)
        number = columns["input_ids"][index] if is_kept else explained.ids[index]
        label, group = (columns["labels"][index], groups[index]) if is_kept else (IGNORE_INDEX, -1)
        unscored = explained.unscored[index] if is_kept else UnscoredReason.CUT
        unpaired = explained.unpaired[index] if is_kept else UnpairedReason.CUT
        tokens.append(
            TokenView(
                position=index if is_kept else None,
                id=number,
                token=backend.id_to_token(number) or "",
                text=text,
                label=label,
                group=group,
                unscored=unscored if label == IGNORE_INDEX else None,
                unpaired=None if group >= 0 else unpaired if has_groups else UnpairedReason.ALIGNER,
            )
        )
    return SideView(name, tuple(tokens))


def _row(batch: Mapping[str, Tensor], side: str, column: str) -> Tensor:
    """A column of the only sample of a batch, without padding ``[T]``."""
    mask = batch.get(f"{side}_attention_mask")
    kept = batch[f"{side}_segment_ids"] == 0 if mask is None else mask != 0
    return batch[f"{side}_{column}"][0][kept[0]]


def _texts(tokens: SideTokens, sample: Sample) -> list[str]:
    """What part of the text each token stands for; tokens of samples in tokens stand for what they spell."""
    if isinstance(sample, TokenSample):
        return _pieces(tokens.input_ids.tolist(), tokens.vocabulary)
    data = tokens.text.data
    spans = zip(tokens.text.starts.tolist(), tokens.text.ends.tolist(), strict=True)
    texts = [data[start:end].decode(errors="backslashreplace") for start, end in spans]
    return [*[""] * len(tokens.before), *texts, *[""] * len(tokens.after)]


def _pieces(ids: Sequence[int], vocabulary: VocabularyBytes) -> list[str]:
    """What tokens spell, by themselves."""
    pieces = vocabulary.pieces
    return [pieces[number].decode(errors="backslashreplace") if number < len(pieces) else "" for number in ids]


def _cuts(prepared: Prepared) -> tuple[tuple[int, int], ...]:
    """Where both sides have a border: of a content, between the text and what is around it, and where they are cut."""
    student, teacher = prepared.student, prepared.teacher
    if student is teacher:
        return tuple((place, place) for place in range(len(student)))
    before = np.array([len(student.before), len(teacher.before)])
    found = {tuple(before.tolist()), (prepared.kept.student, prepared.kept.teacher)}
    found.add((len(student.before) + len(student.text), len(teacher.before) + len(teacher.text)))
    for number in range(len(student.contents)):
        cuts = np.stack(common_cuts(student, teacher, number), axis=1) + before
        found |= set(map(tuple, cuts.tolist()))
    ascending: list[tuple[int, int]] = []
    for cut in sorted(found):
        if not ascending or cut[1] >= ascending[-1][1]:
            ascending.append((cut[0], cut[1]))
    return tuple(ascending)


def _alignment(encoder: DualEncoder) -> str:
    """How tokens are brought together, or why they are not."""
    name = encoder.aligner_name
    if encoder.group_maker is not None:
        return f"aligned by {name!r}"
    if name is None:
        return "No tokens are paired: the collator was given no aligner."
    if encoder.needs_same_tokens:
        return (
            f"No tokens are paired: for the aligner {name!r} each position belongs to the same one of the other side."
        )
    return f"No tokens are paired: the aligner {name!r} is told no pairs. It finds by itself what belongs together."
