"""What becomes of samples that cannot be used: an error, or a count."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from dskd_components.collation.encoded import EncodedSample
from dskd_components.collation.options import OnError, one_of
from dskd_components.collation.problems import SampleError, SkipReason


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

    def usable(self, outcomes: Iterable[EncodedSample | SampleError]) -> list[EncodedSample]:
        """Return the samples without errors.

        Raises:
            SampleError: There is one, and errors are to be raised.
        """
        samples = []
        for outcome in outcomes:
            if isinstance(outcome, EncodedSample):
                samples.append(outcome)
            elif self.on_error == "raise":
                raise outcome
            else:
                self.skipped[outcome.reason] += 1
        return samples
