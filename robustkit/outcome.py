"""What can happen to a damaged stream: a closed set."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """The outcome of decoding one damaged bitstream."""

    INTACT = "intact"  #: the pixels of the clean decode
    DEGRADED = "degraded"  #: an image of the right shape, other pixels
    REFUSED = "refused"  #: the codec raised DecodeError
    UNSTABLE = "unstable"  #: an image, and another one, or none, when the same stream is decoded elsewhere
    MISSHAPEN = "misshapen"  #: wrong shape, wrong dtype, or not an array
    RAISED = "raised"  #: any other exception
    CRASHED = "crashed"  #: a signal, or a worker that exited
    HUNG = "hung"  #: over the time limit
    EXHAUSTED = "exhausted"  #: over the memory limit

    @property
    def has_image(self) -> bool:
        """Whether there is an image to measure."""
        return self in (Outcome.INTACT, Outcome.DEGRADED)

    @property
    def corrupted(self) -> bool:
        """The published experiments' word for a trial with no usable image."""
        return not self.has_image

    @property
    def failure(self) -> bool:
        """Whether the outcome breaks the promise that decoding never crashes; a refusal does not."""
        return self.corrupted and self is not Outcome.REFUSED


class Failure(NamedTuple):
    """A kind of failure: two streams with the same one are taken to show the same defect.

    Attributes:
        outcome: which; one that is a :attr:`~Outcome.failure`.
        detail: what tells it from others of that outcome: the signal or exit status, the exception's type and place,
            what was wrong with the image. Empty where the outcome says it all.
    """

    outcome: Outcome
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}" if self.detail else str(self.outcome)
