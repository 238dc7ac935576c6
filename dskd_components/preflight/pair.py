"""The two models and tokenizers that are looked at, and texts to try them on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from dskd_components.errors import InputError
from dskd_components.models.loading import unloaded
from dskd_components.tokenization.fast_tokenizers import tokenizer_fingerprint
from dskd_components.tokenization.shared_ids import cut_alike, shared_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from dskd_components.models.loading import Unloaded
    from dskd_components.models.states import Side
    from dskd_components.spec.dskd_spec import DSKDSpec
    from dskd_components.tokenization.shared_ids import SharedIds


SAMPLE_TEXTS: Final = (
    "A small model can learn a great deal from a large one, provided that both read the same text. Where their "
    "tokenizers cut it in different places, somebody has to say which pieces belong together.",
    "In 1969 the crew flew 384,400 km; the return took 60 hours, 37 minutes. That is 3.14159 times as long as planned.",
    "def mean(values):\n    if not values:\n        return 0.0\n    return sum(values) / len(values)\n",
    "Der Zug fährt über die Brücke, während die Kinder draußen spielen. « Ça va ? » demanda-t-elle, étonnée.",
    "东京的春天很短，但是很美。東京の春は短い。Москва не сразу строилась.",
    "Thanks so much!!! 🎉 See you at the café – bring  two  friends, won't you?",
)


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

    Raises:
        InputError: the texts are no texts.
    """

    student: Any
    teacher: Any
    student_tokenizer: Any = None
    teacher_tokenizer: Any = None
    spec: DSKDSpec | None = None
    texts: Sequence[str] = SAMPLE_TEXTS
    batch: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        texts = self.texts
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise InputError(f"texts: expected a list of texts that are not empty, got {texts!r:.100}.")

    def models(self) -> Iterator[tuple[Side, Any, Any]]:
        """Yield side, model and tokenizer of both."""
        yield "student", self.student, self.student_tokenizer
        yield "teacher", self.teacher, self.teacher_tokenizer

    def loaded_models(self) -> Iterator[tuple[Side, Any, Any]]:
        """Yield side, model and tokenizer of those models that can be called and read."""
        return (each for each in self.models() if self.unloaded[each[0]] is None)

    @cached_property
    def unloaded(self) -> dict[Side, Unloaded | None]:
        """By side, why the model cannot be used as it was loaded; None if it can."""
        return {side: unloaded(model, trained=side == "student") for side, model, _ in self.models()}

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
        """Whether both sides cut every text without added tokens alike; also if tokenizers are not known."""
        if not self.has_both_tokenizers:
            return True
        if self.student_tokenizer is self.teacher_tokenizer:
            return True
        if not self.shared_ids.all_shared:
            return self.shared_ids.of_one_base and cut_alike(self.student_tokenizer, self.teacher_tokenizer)
        try:
            return tokenizer_fingerprint(self.student_tokenizer) == tokenizer_fingerprint(self.teacher_tokenizer)
        except InputError:
            return True

    @cached_property
    def shared_ids(self) -> SharedIds:
        """Which ids are one token on both sides; both tokenizers must be known."""
        return shared_ids(self.student_tokenizer, self.teacher_tokenizer)
