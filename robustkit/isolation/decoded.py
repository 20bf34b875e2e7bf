"""What came of one bitstream."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustkit.codec import Image
from robustkit.outcome import Outcome


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
    """

    image: Image | None
    outcome: Outcome | None
    message: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    stream: Path | None = None

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
