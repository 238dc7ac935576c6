"""Why a sample cannot be used; these are all the reasons there are."""

from enum import StrEnum

from dskd_components.errors import InputError


class SkipReason(StrEnum):
    """Why a sample cannot be used."""

    EMPTY_TEXT = "empty text"
    EMPTY_RESPONSE = "empty response"
    NO_ASSISTANT_TURN = "no assistant turn"
    TEMPLATE_REFUSED = "refused by the chat template"
    CONTENT_ALTERED = "content altered by the chat template"
    INVALID_UNICODE = "invalid Unicode"
    UNREPRESENTABLE = "not representable"
    PROMPT_TOO_LONG = "prompt too long"
    NOTHING_SCORED = "nothing scored"


class SampleError(InputError):
    """One sample cannot be used. With ``on_error="skip"`` it is counted under its reason instead.

    Attributes:
        reason: The reason, one of a few.
    """

    def __init__(self, reason: SkipReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["SampleError"], tuple[SkipReason, str]]:
        """Pickle with both arguments, so that the error crosses from a worker process unharmed."""
        return type(self), (self.reason, str(self))

    def at(self, index: int) -> "SampleError":
        """Return the same error with the sample's number in front."""
        return type(self)(self.reason, f"Sample {index}: {self}")
