"""Raw samples in the tokens of both sides: the steps in their order."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dskd_components.collation.chat_templates import ChatRenderer
from dskd_components.collation.documents import Document, DocumentReader
from dskd_components.collation.encoded import EncodedSample, EncodedSide, labels_of
from dskd_components.collation.grouping import group_tokens
from dskd_components.collation.options import positive_or_none, text_method
from dskd_components.collation.problems import SampleError
from dskd_components.collation.samples import Columns
from dskd_components.collation.side_encoder import SideEncoder
from dskd_components.collation.side_tokens import SideTokens
from dskd_components.collation.truncation import keep_within
from dskd_components.contracts.aligner import Aligner
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from dskd_components.states import Side


class DualEncoder:
    """Turns raw samples into tokens, labels and groups of both sides.

    Args:
        student_tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        teacher_tokenizer: Likewise.
        aligner: Whose groups are made; None for none.
        student_max_length: The most tokens that the student may have.
        teacher_max_length: Likewise.
        append_eos: Whether texts and responses end with EOS.
        train_on_prompt: Whether prompts and all messages are scored.
        columns: What the keys of a sample are called.
    """

    def __init__(
        self,
        student_tokenizer: Any,
        teacher_tokenizer: Any,
        *,
        aligner: str | Aligner | None,
        student_max_length: int | None,
        teacher_max_length: int | None,
        append_eos: bool,
        train_on_prompt: bool,
        columns: Columns,
    ) -> None:
        self.method = text_method(aligner)
        self.max_lengths: dict[Side, int | None] = {
            "student": positive_or_none("student_max_length", student_max_length),
            "teacher": positive_or_none("teacher_max_length", teacher_max_length),
        }
        self.columns = columns
        self.student = SideEncoder(student_tokenizer, "student", append_eos=append_eos)
        self.teacher = SideEncoder(teacher_tokenizer, "teacher", append_eos=append_eos)
        self.reader = DocumentReader(
            ChatRenderer(student_tokenizer, "student"),
            ChatRenderer(teacher_tokenizer, "teacher"),
            train_on_prompt=train_on_prompt,
        )
        self.fingerprints: dict[Side, int] = {"student": self.student.fingerprint, "teacher": self.teacher.fingerprint}
        self.pad_ids: dict[Side, int] = {"student": self.student.pad_id, "teacher": self.teacher.pad_id}

    def encode(self, raws: Sequence[Any]) -> list[EncodedSample | SampleError]:
        """Return each sample in tokens, or what is wrong with it.

        Raises:
            InputError: Something is no sample at all.
        """
        outcomes: list[EncodedSample | SampleError | None] = [None] * len(raws)
        documents: dict[int, Document] = {}
        for index, raw in enumerate(raws):
            try:
                documents[index] = self.reader.read(self.columns.read(raw))
            except SampleError as error:
                outcomes[index] = error.at(index)
            except InputError as error:
                raise InputError(f"Sample {index}: {error}") from error
        read = list(documents.values())
        for index, student, teacher in zip(
            documents, self.student.encode(read), self.teacher.encode(read), strict=True
        ):
            try:
                outcomes[index] = self._encoded(student, teacher)
            except SampleError as error:
                outcomes[index] = error.at(index)
        return [outcome for outcome in outcomes if outcome is not None]

    def _encoded(self, student: SideTokens, teacher: SideTokens) -> EncodedSample:
        self.student.check(student)
        self.teacher.check(teacher)
        kept = keep_within(student, teacher, self.max_lengths["student"], self.max_lengths["teacher"])
        groups = (None, None) if self.method is None else group_tokens(student, teacher, kept, self.method)
        sides = []
        for side, length, numbers in zip((student, teacher), (kept.student, kept.teacher), groups, strict=True):
            ids = side.input_ids[:length]
            sides.append(EncodedSide(ids, labels_of(ids, side.scored[:length]), numbers))
        return EncodedSample(*sides)
