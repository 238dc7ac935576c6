"""Samples that cannot be used: what is wrong with them, and what is done about it."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from dskd_components.components.aligner import Aligner, TextMethod
from dskd_components.components.lookup import get_aligner
from dskd_components.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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

    def at(self, index: int) -> SampleError:
        """Return the same error with the sample's number in front."""
        return self.reworded(f"Sample {index}: {self}")

    def reworded(self, message: str) -> SampleError:
        """Return the same error, of the same cause, with another message."""
        error = type(self)(self.reason, message)
        error.__cause__ = self.__cause__
        return error


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


def text_method(aligner: str | Aligner | None) -> TextMethod | None:
    """How the tokens of a text must be brought together for an aligner.

    Raises:
        UnknownComponentError: No installed plugin has an aligner of this name.
        ConfigurationError: It is no aligner.
    """
    found = _aligner(aligner)
    return None if found is None else found.text_method


def needs_same_tokens(aligner: str | Aligner | None) -> bool:
    """Whether an aligner needs both sides to read the same tokens.

    Raises:
        UnknownComponentError: No installed plugin has an aligner of this name.
        ConfigurationError: It is no aligner.
    """
    found = _aligner(aligner)
    return found is not None and found.same_tokenizer


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
            raise InputError(
                f"None of the {len(outcomes)} samples of the batch can be used: {dict(reasons) or 'there are none'}."
            )
        return samples
