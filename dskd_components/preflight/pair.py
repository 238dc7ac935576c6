"""The two models and tokenizers that are looked at, and texts to try them on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from dskd_components.collation.encoded import is_preprocessed
from dskd_components.collation.samples import ChatSample, Columns, PairSample, TextSample
from dskd_components.collation.token_samples import TokenSample
from dskd_components.errors import InputError, is_table
from dskd_components.models.in_place_of_model import require_model
from dskd_components.models.loading import unloaded
from dskd_components.models.run_model import require_batch
from dskd_components.preflight.samples import SampleSurvey
from dskd_components.tokenization.fast_tokenizers import require_tokenizer, tokenizer_fingerprint
from dskd_components.tokenization.shared_ids import cut_alike, shared_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from dskd_components.collation.samples import Sample
    from dskd_components.components.aligner import Aligner
    from dskd_components.models.loading import Unloaded
    from dskd_components.models.states import Side
    from dskd_components.models.vocabulary_subset import Others
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
        samples: what to train on, of any form that `DualTokenizerCollator` takes; a str is a text.
        places: where each sample is to be found, ``chats.jsonl:3`` for example; empty: they are numbered.
        columns: what the keys of a sample are called; None: as the collator has them.
        batch: a batch to train on, or None.
        student_tokens: the tokens that the student's head is narrowed to in the loss; None: all.
        teacher_tokens: the same of the teacher's.
        other_tokens: what becomes of all others, where a head is narrowed.
        last_step: the optimizer step from which on nothing changes any more, where weights outside the spec, such as
            that of one of several teachers, follow schedules; None: the spec alone tells.

    Raises:
        InputError: there are no samples, or a model or a tokenizer is none.
    """

    student: Any
    teacher: Any
    student_tokenizer: Any = None
    teacher_tokenizer: Any = None
    spec: DSKDSpec | None = None
    samples: Sequence[Any] = SAMPLE_TEXTS
    places: Sequence[str] = ()
    columns: Columns | None = None
    batch: Mapping[str, Tensor] | None = None
    student_tokens: Tensor | Sequence[int] | None = None
    teacher_tokens: Tensor | Sequence[int] | None = None
    other_tokens: Others | None = None
    last_step: int | None = None

    def __post_init__(self) -> None:
        for side, model, tokenizer in self.models():
            require_model(model, side, module=True)
            if tokenizer is not None:
                require_tokenizer(tokenizer, f"{side}_tokenizer")
        _require_list("samples", self.samples, "samples or texts")
        if self.batch is not None:
            require_batch(self.batch)

    @property
    def has_own_samples(self) -> bool:
        """Whether the samples are the user's, and not those that the library brings along."""
        return self.samples is not SAMPLE_TEXTS

    @property
    def kept_tokens(self) -> dict[Side, Tensor | Sequence[int] | None]:
        """By side, the tokens that its head is narrowed to; None: all."""
        return {"student": self.student_tokens, "teacher": self.teacher_tokens}

    @property
    def loss_arguments(self) -> dict[str, Any]:
        """What a loss is built with beside its spec."""
        sides = ("student", "teacher")
        models = {name: getattr(self, name) for side in sides for name in (side, f"{side}_tokenizer")}
        if self.student_tokens is None and self.teacher_tokens is None:
            return models
        return models | {name: getattr(self, name) for name in ("student_tokens", "teacher_tokens", "other_tokens")}

    @cached_property
    def raw_samples(self) -> list[Any]:
        """The samples as the collator takes them."""
        key = (self.columns or Columns()).text
        return [{key: sample} if isinstance(sample, str) else sample for sample in self.samples]

    @cached_property
    def read_samples(self) -> list[Sample | None]:
        """Each sample as the collator understands it; None for one that is in tokens of both sides, or no sample."""
        columns, found = self.columns or Columns(), []
        for raw in self.raw_samples:
            try:
                found.append(None if is_preprocessed(raw) else columns.read(raw))
            except InputError:  # which `check_samples` reports
                found.append(None)
        return found

    @cached_property
    def survey(self) -> SampleSurvey:
        """What the collator makes of the samples; both tokenizers must be known."""
        numbered = (f"sample {number}" for number in range(len(self.raw_samples)))
        return SampleSurvey(
            self.student_tokenizer,
            self.teacher_tokenizer,
            aligner=self._aligner_of_samples,
            columns=self.columns,
            samples=zip(self.raw_samples, self.read_samples, self.places or numbered, strict=True),
        )

    @property
    def _aligner_of_samples(self) -> Aligner | str:
        """The spec's aligner, where that says anything of samples."""
        aligner = None if self.spec is None else self.spec.aligner
        if aligner is not None and (aligner.same_tokenizer or aligner.text_method is not None):
            return aligner
        return "exact_match" if self.one_tokenizer else "span"

    @cached_property
    def has_chats(self) -> bool:
        """Whether a sample is a chat; also where nobody has said what the samples are."""
        return not self.has_own_samples or any(isinstance(sample, ChatSample) for sample in self.read_samples)

    @cached_property
    def has_system_messages(self) -> bool:
        """Whether a chat has a message of the system; also where nobody has said what the samples are."""
        chats = [sample for sample in self.read_samples if isinstance(sample, ChatSample)]
        messages = [message for chat in chats for message in (*chat.messages, *(chat.teacher_prompt or ()))]
        return not self.has_own_samples or any(message["role"] == "system" for message in messages)

    @cached_property
    def texts(self) -> Sequence[str]:
        """What the samples say, without templates and special tokens, for whatever looks at plain texts.

        The library's own texts where the samples have none.
        """
        return [text for text in map(self._text_of, self.read_samples) if text.strip()] or SAMPLE_TEXTS

    def _text_of(self, sample: Sample | None) -> str:
        match sample:
            case TextSample(text):
                return text
            case PairSample(prompt, response):
                return prompt + response
            case ChatSample(messages):
                return "\n\n".join(message.get("content") or "" for message in messages)
            case TokenSample(input_ids) if self.student_tokenizer is not None:
                return str(self.student_tokenizer.decode(input_ids.tolist(), skip_special_tokens=True))
        return ""

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


def samples_of(texts: Sequence[str] | None, samples: Sequence[Any] | None) -> Sequence[Any]:
    """Return what a caller gives to train on, or the library's own texts.

    Args:
        texts: plain texts, or None.
        samples: samples of any form, or None.

    Raises:
        InputError: both are given, or a text is none.
    """
    if texts is None:
        return SAMPLE_TEXTS if samples is None else samples
    if samples is not None:
        raise InputError("texts: expected None where samples are given, since texts are samples, too; got both.")
    expected = "texts that are not empty"
    _require_list("texts", texts, expected)
    if not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"texts: expected a list of {expected}, got {texts!r:.100}.")
    return [*texts]


def _require_list(argument: str, given: Any, of: str) -> None:
    """Refuse what is no list, or an empty one; what can be read once is read more often than that."""
    is_stream = isinstance(given, Iterable) and not isinstance(given, Sized)
    is_other = isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable) or is_table(given)
    advice = f" Give some of it: list(itertools.islice({argument}, 100))." if is_stream else ""
    if is_table(given):
        advice = " Give its rows: table.to_dict('records')."
    if is_stream or is_other or not len(given):
        raise InputError(f"{argument}: expected a list of {of}, got {given!r:.100}.{advice}")
