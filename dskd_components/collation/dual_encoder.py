"""Raw samples in the tokens of both sides: the steps in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from dskd_components.collation.chat_templates import ChatRenderer
from dskd_components.collation.documents import DocumentReader, RenderedSample
from dskd_components.collation.encoded import EncodedSample, EncodedSide, labels_of
from dskd_components.collation.grouping import Stretch, align_stretches, number_tokens, stretches_of
from dskd_components.collation.pretokenized import side_tokens_of
from dskd_components.collation.problems import (
    OnError,
    SampleError,
    SampleNames,
    aligner_name,
    group_maker,
    needs_same_tokens,
    positive_or_none,
)
from dskd_components.collation.samples import ChatSample, Columns, Sample
from dskd_components.collation.side_encoder import SideEncoder
from dskd_components.collation.side_tokens import SideTokens
from dskd_components.collation.token_samples import TokenSample
from dskd_components.collation.truncation import TruncatedLengths, keep_within
from dskd_components.collation.unread_arguments import UnreadNotices
from dskd_components.components.aligner import Aligner
from dskd_components.components.column_reader import BYTE_POSITIONS
from dskd_components.errors import InputError
from dskd_components.models.states import Side
from dskd_components.tokenization.arrays import IntArray
from dskd_components.tokenization.fast_tokenizers import require_fast_tokenizer


@dataclass(frozen=True, eq=False)
class Prepared:
    """A sample whose tokens are settled, before it is aligned.

    Attributes:
        student: The student's tokens.
        teacher: The teacher's tokens.
        kept: How many of them are kept.
        stretches: What is aligned of it.
        unread: By side, what its chat template was told and does not read.
    """

    student: SideTokens
    teacher: SideTokens
    kept: TruncatedLengths
    stretches: list[Stretch]
    unread: Mapping[Side, tuple[str, ...]] = field(default_factory=dict)


class SampleKeywords(TypedDict, total=False):
    """Options that all collators and the preprocessor take alike, beside the aligner; they document them."""

    student_max_length: int | None
    append_eos: bool
    train_on_prompt: bool
    byte_positions: bool
    on_error: OnError
    columns: Columns | None


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """How samples become tokens, whoever asks for it; the collators and the preprocessor document the fields.

    Raises:
        ConfigurationError: An option has no such value.
    """

    aligner: str | Aligner | None = "exact_match"
    student_max_length: int | None = None
    teacher_max_length: int | None = None
    append_eos: bool = True
    train_on_prompt: bool = False
    byte_positions: bool = False
    columns: Columns | None = None

    def __post_init__(self) -> None:
        group_maker(self.aligner)
        for side, limit in self.max_lengths.items():
            positive_or_none(f"{side}_max_length", limit)

    @property
    def max_lengths(self) -> dict[Side, int | None]:
        """The most tokens that each side may have."""
        return {"student": self.student_max_length, "teacher": self.teacher_max_length}


class DualEncoder:
    """Turns raw samples into tokens, labels and groups of both sides.

    Args:
        student_tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        teacher_tokenizer: The teacher's, of either kind.
        options: How.

    Raises:
        InputError: A tokenizer is not a fast one; the message names the argument.
    """

    def __init__(self, student_tokenizer: Any, teacher_tokenizer: Any, options: EncodingOptions) -> None:
        require_fast_tokenizer(student_tokenizer, "student_tokenizer")
        require_fast_tokenizer(teacher_tokenizer, "teacher_tokenizer")
        self.options = options
        self.group_maker = group_maker(options.aligner)
        self.needs_same_tokens = needs_same_tokens(options.aligner)
        self.aligner_name = aligner_name(options.aligner)
        self.max_lengths = options.max_lengths
        self.columns = options.columns or Columns()
        self.student = SideEncoder(student_tokenizer, "student", append_eos=options.append_eos)
        self.teacher = SideEncoder(teacher_tokenizer, "teacher", append_eos=options.append_eos)
        self.reader = DocumentReader(
            ChatRenderer(student_tokenizer, "student"),
            ChatRenderer(teacher_tokenizer, "teacher"),
            train_on_prompt=options.train_on_prompt,
        )
        self.notices = UnreadNotices(self.columns)
        self._models: dict[Side, str] = {"student": "the student", "teacher": "the teacher"}

    @property
    def fingerprints(self) -> dict[Side, int]:
        """Each side's fingerprint, as its tokenizer was in the last batch."""
        return {"student": self.student.fingerprint, "teacher": self.teacher.fingerprint}

    @property
    def further(self) -> tuple[str, ...]:
        """The further columns that samples get, without the side."""
        return BYTE_POSITIONS if self.options.byte_positions else ()

    @property
    def pad_ids(self) -> dict[Side, int]:
        """What each side's padding is filled with."""
        return {"student": self.student.pad_id, "teacher": self.teacher.pad_id}

    def of_teacher_alone(self) -> "DualEncoder":
        """Return an encoder with the teacher's tokenizer on both sides: no student's tokens decide where it cuts."""
        tokenizer = self.teacher.tokenizer
        options = replace(self.options, aligner=None, student_max_length=None, byte_positions=False)
        alone = type(self)(tokenizer, tokenizer, options)
        alone.notices, alone._models = self.notices, {"teacher": "the teacher"}
        return alone

    def encode(self, raws: Sequence[Any], names: SampleNames | None = None) -> list[EncodedSample | SampleError]:
        """Return each sample in tokens, or what is wrong with it.

        Args:
            raws: The samples.
            names: What errors call them; None: by their places.

        Raises:
            InputError: Something is no sample at all.
        """
        names = names or SampleNames(raws)
        outcomes = self.prepare(raws, names)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Prepared) and outcome.unread:
                self.notices.tell(names, index, {model: outcome.unread[side] for side, model in self._models.items()})
        encoded = iter(self.align([outcome for outcome in outcomes if isinstance(outcome, Prepared)]))
        return [next(encoded) if isinstance(outcome, Prepared) else outcome for outcome in outcomes]

    def prepare(self, raws: Sequence[Any], names: SampleNames | None = None) -> list[Prepared | SampleError]:
        """Return each sample's tokens before they are aligned, or what is wrong with it.

        What templates do not read of it is for the caller to tell.

        Args:
            raws: The samples.
            names: What errors call them; None: by their places.

        Raises:
            InputError: Something is no sample at all.
        """
        names = names or SampleNames(raws)
        outcomes: list[Prepared | SampleError | None] = [None] * len(raws)
        looked = False
        documents: dict[int, RenderedSample] = {}
        for index, raw in enumerate(raws):
            try:
                sample = self.columns.read(raw)
                if isinstance(sample, ChatSample | TokenSample) and not looked:
                    # Once a batch, and only for these: looking at a tokenizer takes as long as encoding a short text.
                    self.reader.student.refresh(self.student.refresh())
                    self.reader.teacher.refresh(self.teacher.refresh())
                    looked = True
                if isinstance(sample, TokenSample):
                    outcomes[index] = self._pretokenized(sample)
                else:
                    self._require_alignable(sample)
                    documents[index] = self.reader.read(sample)
            except SampleError as error:
                outcomes[index] = names.named(index, error)
            except InputError as error:
                raise InputError(names.message(index, error)) from error
        read = list(documents.values())
        for index, student, teacher in zip(
            documents, self.student.encode(read), self.teacher.encode(read), strict=True
        ):
            if isinstance(student, SampleError) or isinstance(teacher, SampleError):
                refused = next(side for side in (student, teacher) if isinstance(side, SampleError))
                outcomes[index] = names.named(index, refused)
                continue
            try:
                prepared = self._prepared(student, teacher)
                outcomes[index] = replace(prepared, unread=documents[index].unread)
            except SampleError as error:
                outcomes[index] = names.named(index, error)
        return [outcome for outcome in outcomes if outcome is not None]

    def shorten(self, sample: Prepared, student_limit: int) -> Prepared:
        """Return a sample of which no more of the student's tokens are kept than so many.

        Raises:
            SampleError: No scored token would be left on one of the sides.
        """
        return replace(self._cut(sample.student, sample.teacher, student_limit), unread=sample.unread)

    def _pretokenized(self, sample: TokenSample) -> Prepared:
        if self.fingerprints["student"] != self.fingerprints["teacher"]:
            raise InputError(
                "It has 'input_ids', which are the tokens of one tokenizer, but student and teacher have different "
                "ones. Give texts, prompts and responses, or messages."
            )
        tokens = side_tokens_of(sample, self.student.tokenizer, train_on_prompt=self.reader.train_on_prompt)
        return self._prepared(tokens, tokens)

    def _require_alignable(self, sample: Sample) -> None:
        """Refuse a prompt of the teacher's own where positions are to belong to themselves.

        Raises:
            InputError: The aligner needs the same tokens on both sides.
        """
        if self.needs_same_tokens and getattr(sample, "teacher_prompt", None) is not None:
            raise InputError(
                "It has a 'teacher_prompt', but the aligner 'identity' needs both sides to read the same tokens. Build "
                'the collator and the spec with aligner="exact_match".'
            )

    def _prepared(self, student: SideTokens, teacher: SideTokens) -> Prepared:
        self.student.check(student)
        self.teacher.check(teacher)
        return self._cut(student, teacher, self.max_lengths["student"])

    def _cut(self, student: SideTokens, teacher: SideTokens, student_limit: int | None) -> Prepared:
        kept = keep_within(student, teacher, student_limit, self.max_lengths["teacher"])
        stretches = [] if self.group_maker is None else stretches_of(student, teacher, kept)
        return Prepared(student, teacher, kept, stretches)

    def align(self, samples: Sequence[Prepared]) -> list[EncodedSample]:
        """Align all samples together, then put each one's columns together."""
        stretches = [stretch for sample in samples for stretch in sample.stretches]
        aligned = iter(() if self.group_maker is None else align_stretches(stretches, self.group_maker))
        return [self._columns(sample, [next(aligned) for _ in sample.stretches]) for sample in samples]

    def _columns(self, sample: Prepared, aligned: Sequence[IntArray]) -> EncodedSample:
        student, teacher, kept = sample.student, sample.teacher, sample.kept
        groups: tuple[IntArray, IntArray] | tuple[None, None] = (None, None)
        if self.group_maker is not None:
            groups = number_tokens(student, teacher, kept, aligned)
        sides = []
        for side, length, numbers in zip((student, teacher), (kept.student, kept.teacher), groups, strict=True):
            ids = side.input_ids[:length]
            spans = side.byte_positions if self.further else ()
            further = {name: column[:length] for name, column in zip(self.further, spans, strict=True)}
            sides.append(EncodedSide(ids, labels_of(ids, side.scored[:length]), numbers, further))
        return EncodedSample(*sides)
