"""Samples that cannot be used: what is wrong with them, and what is done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

from dskd_components.components.aligner import Aligner
from dskd_components.components.lookup import get_aligner
from dskd_components.components.text_methods import maker_of
from dskd_components.errors import ConfigurationError, InputError, is_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class SkipReason(StrEnum):
    """Why a sample cannot be used."""

    EMPTY_TEXT = "empty text"
    EMPTY_RESPONSE = "empty response"
    NO_ASSISTANT_TURN = "no assistant turn"
    TEMPLATE_REFUSED = "refused by the chat template"
    TOKENIZER_REFUSED = "refused by the tokenizer"
    CONTENT_ALTERED = "content altered by the chat template"
    INVALID_UNICODE = "invalid Unicode"
    UNREPRESENTABLE = "not representable"
    PROMPT_TOO_LONG = "prompt too long"
    NOTHING_SCORED = "nothing scored"
    CUT_OFF = "cut off in thoughts or calls"


class SampleError(InputError):
    """One sample cannot be used. With ``on_error="skip"`` it is counted under its reason instead.

    Attributes:
        reason: The reason, one of a few.
    """

    def __init__(self, reason: SkipReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[SampleError], tuple[SkipReason, str]]:
        """Pickle with both arguments, so that the error crosses from a worker process unharmed."""
        return type(self), (self.reason, str(self))

    def reworded(self, message: str) -> SampleError:
        """Return the same error, of the same cause, with another message."""
        error = type(self)(self.reason, message)
        error.__cause__ = self.__cause__
        return error


_EXCERPTS: Final = Repr()
_EXCERPTS.maxstring = _EXCERPTS.maxother = 60
_EXCERPTS.maxlevel = 4
MOST_KEYS: Final = 8
"""How many columns of a sample an error shows."""


def excerpt(raw: Any) -> str:
    """Return the beginning of a sample, so that it is found again, with its longest texts cut.

    Args:
        raw: A sample, or what was given for one.

    Examples:
        >>> excerpt({"prompt": "What is new?", "response": None, "id": 7})
        "{'prompt': 'What is new?', 'id': 7}"
    """
    if not isinstance(raw, Mapping):
        return _EXCERPTS.repr(raw)
    shown = [f"{key!r:.60}: {_one_line(value)}" for key, value in raw.items() if value is not None]
    more = ["..."] if len(shown) > MOST_KEYS else []
    return f"{{{', '.join([*shown[:MOST_KEYS], *more])}}}"


def _one_line(value: Any) -> str:
    return " ".join(_EXCERPTS.repr(value).split())


def require_list(samples: Any, *, or_stream: bool = False) -> None:
    """Refuse what is no list of samples, before a sample is looked at.

    Args:
        samples: What somebody gave for one.
        or_stream: Whether what gives samples one after the other, and has no length, will do, too.

    Raises:
        InputError: It is a single sample, columns of several, or nothing that has samples one after the other.
    """
    is_row, is_text = isinstance(samples, Mapping), isinstance(samples, str | bytes)
    has_rows = isinstance(samples, Sized) and hasattr(samples, "__getitem__")
    is_stream = isinstance(samples, Iterable) and not is_text
    if (has_rows or (or_stream and is_stream)) and not (is_row or is_text or is_table(samples)):
        return
    found, advice = type(samples).__name__, ""
    if is_row:
        found = f"one {found} with the keys {' and '.join(map(repr, samples)) or 'none'}"
        advice = (
            " Give a single sample as [sample], and columns of several, as a slice of a data set has them, as rows: "
            "[dict(zip(columns, row)) for row in zip(*columns.values())]."
        )
    elif is_table(samples):
        advice = " Give its rows: table.to_dict('records')."
    elif is_stream:
        advice = " Give as many of its samples as a batch has, as list(...)."
    raise InputError(f"Expected a list of samples, but got {found}.{advice}")


@dataclass(frozen=True)
class SampleNames:
    """What samples are called in errors.

    Attributes:
        raws: The samples.
        numbers: Their numbers in the data set; None: their places among these.
        advice: How they are found in the data set, if their numbers do not say it.
    """

    raws: Sequence[Any]
    numbers: Sequence[int] | None = None
    advice: str = ""

    def message(self, index: int, problem: object) -> str:
        """Return a problem with the number of the sample before it, and what the sample is like after it.

        Args:
            index: Which of the samples.
            problem: What is wrong with it.
        """
        number = index if self.numbers is None else self.numbers[index]
        return f"Sample {number}: {problem} The sample: {excerpt(self.raws[index])}{self.advice}"

    def named(self, index: int, error: SampleError) -> SampleError:
        """Return the same error with that message."""
        return error.reworded(self.message(index, error))

    @contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Name a sample in whatever is found wrong within.

        Raises:
            InputError: What was raised within, with the sample's number; a `SampleError` remains one.
        """
        try:
            yield
        except SampleError as error:
            raise self.named(index, error) from error.__cause__
        except InputError as error:
            raise InputError(self.message(index, error)) from error


def require_unicode(texts: Sequence[str]) -> None:
    """Refuse texts that cannot be written as bytes.

    Raises:
        SampleError: One has a lone surrogate.
    """
    for text in texts:
        try:
            if not text.isascii():
                text.encode()
        except UnicodeEncodeError as error:
            raise SampleError(
                SkipReason.INVALID_UNICODE,
                f"Its text has the lone surrogate {text[error.start]!r} at index {error.start}. Decode the source with "
                "errors='replace' or drop such characters.",
            ) from error


OnError = Literal["raise", "skip"]
PaddingSide = Literal["right", "left"]


def group_maker(aligner: str | Aligner | None) -> Aligner | None:
    """What makes the groups that an aligner is told, which may be another aligner; None: it is told nothing.

    Raises:
        UnknownComponentError: No installed plugin has an aligner of this name, or of that which it is told the groups
            of.
        ConfigurationError: It is no aligner, or is told the groups of one that makes none.
    """
    found = _aligner(aligner)
    return None if found is None else maker_of(found)


def needs_same_tokens(aligner: str | Aligner | None) -> bool:
    """Whether an aligner needs both sides to read the same tokens.

    Raises:
        UnknownComponentError: No installed plugin has an aligner of this name.
        ConfigurationError: It is no aligner.
    """
    found = _aligner(aligner)
    return found is not None and found.same_tokenizer


def aligner_name(aligner: str | Aligner | None) -> str | None:
    """What an aligner is called; None if there is none.

    Raises:
        UnknownComponentError: No installed plugin has an aligner of this name.
        ConfigurationError: It is no aligner.
    """
    found = _aligner(aligner)
    return None if found is None else str(found.name)


def _aligner(aligner: str | Aligner | None) -> Aligner | None:
    if isinstance(aligner, str):
        aligner = get_aligner(aligner)
    if aligner is not None and not isinstance(aligner, Aligner):
        raise ConfigurationError(f"Expected aligner to be a name, an Aligner or None, but got aligner={aligner!r}.")
    return aligner


def positive_or_none(name: str, value: Any) -> int | None:
    """Return a number of tokens, or None.

    Raises:
        ConfigurationError: It is neither.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigurationError(f"Expected {name} to be a positive integer or None, but got {name}={value!r}.")
    return value


def one_of(name: str, value: Any, choices: Any) -> None:
    """Refuse a value that is none of a literal type's.

    Raises:
        ConfigurationError: It is not.
    """
    if value not in get_args(choices):
        raise ConfigurationError(f"Expected {name} to be one of {get_args(choices)}, but got {name}={value!r}.")


Sample = TypeVar("Sample")


class SkipPolicy:
    """Raises the first error, or counts errors by reason.

    Args:
        on_error: ``"raise"`` or ``"skip"``.
    """

    def __init__(self, on_error: OnError) -> None:
        one_of("on_error", on_error, OnError)
        self.on_error = on_error
        self.skipped: Counter[SkipReason] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        """Start copies, in workers and elsewhere, with no counts: a copy has skipped nothing yet."""
        return self.__dict__ | {"skipped": Counter()}

    def usable(self, outcomes: Iterable[Sample | SampleError]) -> list[Sample]:
        """Return the samples without errors.

        Raises:
            SampleError: There is one, and errors are to be raised.
        """
        samples = []
        for outcome in outcomes:
            if not isinstance(outcome, SampleError):
                samples.append(outcome)
            elif self.on_error == "raise":
                raise outcome
            else:
                self.skipped[outcome.reason] += 1
        return samples

    def usable_in_batch(self, outcomes: Sequence[Sample | SampleError]) -> list[Sample]:
        """Return the samples without errors, of which there must be one.

        Raises:
            SampleError: There is an error, and errors are to be raised.
            InputError: No sample is left.
        """
        samples = self.usable(outcomes)
        if not samples:
            reasons = Counter(str(outcome.reason) for outcome in outcomes if isinstance(outcome, SampleError))
            first = next((f" {outcome}" for outcome in outcomes if isinstance(outcome, SampleError)), "")
            raise InputError(
                f"None of the {len(outcomes)} samples of the batch can be used: {dict(reasons) or 'there are none'}."
                f"{first}"
            )
        return samples
