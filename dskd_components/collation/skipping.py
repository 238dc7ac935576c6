"""What becomes of samples that cannot be used: an error, or a count."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from dskd_components.collation.options import OnError, one_of
from dskd_components.collation.problems import SampleError, SkipReason
from dskd_components.errors import InputError

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
