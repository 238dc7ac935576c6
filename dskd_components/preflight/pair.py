"""What the checks look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dskd_components.errors import InputError
from dskd_components.tokenization.fast_tokenizers import tokenizer_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from dskd_components.models.states import Side
    from dskd_components.spec.dskd_spec import DSKDSpec


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """Two models with their tokenizers, and what they are to be trained with.

    Args:
        student: the student.
        teacher: the teacher.
        student_tokenizer: the student's tokenizer, or None.
        teacher_tokenizer: the teacher's, or None.
        spec: what is to be computed; None: not settled.
        texts: samples of the text to train on.
        batch: a batch to train on, or None.
    """

    student: Any
    teacher: Any
    student_tokenizer: Any
    teacher_tokenizer: Any
    spec: DSKDSpec | None
    texts: tuple[str, ...]
    batch: Mapping[str, Tensor] | None

    def models(self) -> Iterator[tuple[Side, Any, Any]]:
        """Yield side, model and tokenizer of both."""
        yield "student", self.student, self.student_tokenizer
        yield "teacher", self.teacher, self.teacher_tokenizer

    @property
    def modules(self) -> dict[Side, nn.Module]:
        """Both models by side."""
        return {"student": self.student, "teacher": self.teacher}

    @cached_property
    def has_both_tokenizers(self) -> bool:
        """Whether both tokenizers are known."""
        return self.student_tokenizer is not None and self.teacher_tokenizer is not None

    @cached_property
    def one_tokenizer(self) -> bool:
        """Whether both sides cut every text alike; also if tokenizers are not known."""
        if not self.has_both_tokenizers:
            return True
        if self.student_tokenizer is self.teacher_tokenizer:
            return True
        ours, theirs = (tokenizer.get_vocab() for tokenizer in (self.student_tokenizer, self.teacher_tokenizer))
        if ours != theirs:
            return False
        try:
            return tokenizer_fingerprint(self.student_tokenizer) == tokenizer_fingerprint(self.teacher_tokenizer)
        except InputError:
            return True
