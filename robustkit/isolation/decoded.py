"""What came of one bitstream."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustkit.codec import Image
from robustkit.outcome import Failure, Outcome

#: An exception as a worker tells of it: type, text, and the place where it was raised.
_RAISED = re.compile(r"([\w.]+).*?( \([^()]+:\d+ in [^()]+\))?$")
_BY_MESSAGE = frozenset({Outcome.CRASHED, Outcome.MISSHAPEN, Outcome.RAISED})
_LONGEST_DETAIL = 120


@dataclass(frozen=True)
class Decoded:
    """What came of one bitstream.

    Attributes:
        image: uint8, H x W x 3; ``None`` where there is an outcome.
        outcome: why there is no image; ``None`` for an image, of which :meth:`judged` says whether it is intact.
        message: the exception, the signal with its traceback, what was wrong with the shape.
        seconds: time in ``decode``, or until the worker was given up; a batch's time is shared out evenly.
        warnings: Python warnings during the decode, "Category: text"; and what went wrong with its batch, if anything.
        stream: where the bitstream is kept on disk, after a failure.
        memory: bytes that the worker's process held on top of what it held once its codec was loaded, at the largest
            seen during this decode; 0 where that is not known. A batch's is that of the whole batch.
        processor: seconds that this kept processors busy: the worker's own thread, or an even share of the cores where
            many worked, and what it started and waited for. Unlike ``seconds``, about the same on a busy machine. 0
            where that is not known; a batch's is shared out evenly.
        after: where the process died, what it had decoded before, at most 8 streams, the last one last: each as 16
            hexadecimal digits of its SHA-256. A crash may be of their making.
    """

    image: Image | None
    outcome: Outcome | None
    message: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    stream: Path | None = None
    memory: int = 0
    after: tuple[str, ...] = ()
    processor: float = 0.0

    @property
    def failure(self) -> Failure | None:
        """Which kind of failure this is; ``None`` for an image and for a refusal."""
        if self.outcome is None or not self.outcome.failure:
            return None
        line = self.message.strip().partition("\n")[0]
        if self.outcome is Outcome.RAISED and (found := _RAISED.match(line)):
            return Failure(self.outcome, f"{found[1]}{found[2] or ''}"[:_LONGEST_DETAIL])
        if self.outcome in _BY_MESSAGE:
            # What varies with the stream, sizes and addresses, makes no other defect.
            return Failure(self.outcome, re.sub(r"0x[0-9a-f]+|\d+", "N", line)[:_LONGEST_DETAIL])
        return Failure(self.outcome)

    def judged(self, clean: Image | str | None) -> Outcome:
        """The outcome: the one place that tells intact from degraded.

        Args:
            clean: the clean decode of the stream, or its :func:`fingerprint`; ``None`` where there was none.
        """
        if self.outcome is not None:
            return self.outcome
        assert self.image is not None
        if isinstance(clean, str):
            same = fingerprint(self.image) == clean
        else:
            same = clean is not None and np.array_equal(clean, self.image)
        return Outcome.INTACT if same else Outcome.DEGRADED


def fingerprint(image: Image) -> str:
    """SHA-256 of an image's shape and pixels, in hexadecimal."""
    shape = ",".join(map(str, image.shape)).encode("ascii")
    return hashlib.sha256(shape + b":" + np.ascontiguousarray(image).tobytes()).hexdigest()
