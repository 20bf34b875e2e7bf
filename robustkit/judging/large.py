"""A large clean round trip: one picture laid out many times, so that each part can be held against its like.

A codec that loses a row beyond some size, or the end of a long stream, does it where small images never come.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.codec import EncodeError, Image
from robustkit.images import centre_crop
from robustkit.judging.effort import cost
from robustkit.judging.subject import CleanRoundTripFailed, Subject
from robustkit.judging.trial import Clean
from robustkit.outcome import Outcome

#: Sides in pixels of the large images, about; the next is tried while the stream is shorter than ``ENOUGH``.
SIDES = (384, 768, 1024, 2048)
#: Bytes of a stream that is beyond what 16 bits can count.
ENOUGH = 1 << 16
#: Seconds that one of the round trips may cost, as that of the picture alone lets expect.
SECONDS = 12.0
#: What share of its picture's rate a large image must have for their quality to be compared.
SAME_RATE = 0.5
#: By how much (dB) a strip may be worse than its like, and the whole than its picture alone.
WORSE = 3.0
#: By how much a strip may be where the large image has less than ``SAME_RATE``; what is lost is far worse.
MUCH_WORSE = 10.0
#: What share of its error a picture must lose by being moved one pixel to be called misplaced.
FITS = 0.85
#: How it may be misplaced.
PLACES = {"one row down": (1, 0), "one row up": (-1, 0), "one column right": (0, 1), "one column left": (0, -1)}
#: Height of a strip in pixels.
STRIP = 8
#: Mean squared error that is as good as none.
LEAST = 2.0


class Loss(NamedTuple):
    """Where a large image is worst, held against what it should be like."""

    decibels: float  #: above 0 for worse
    where: str  #: rows, columns, or the whole

    def __str__(self) -> str:
        worse = f": {self.decibels:.1f} dB worse than their like" if math.isfinite(self.decibels) else ""
        return self.where + worse


@dataclass(frozen=True)
class Large:
    """A large round trip.

    Attributes:
        shape: height and width.
        clean: the round trip; ``None`` where the encoder failed, without an image where the decoder did.
        loss: the worst of it.
        failed: why there is no image.
        allowed: decibels that ``loss`` may have.
    """

    shape: tuple[int, int]
    clean: Clean | None
    loss: Loss
    failed: str | None = None
    allowed: float = WORSE


def tile(image: Image, side: int) -> Image:
    """The middle of ``image`` that is laid out to ``side`` pixels a side, three times or more each way."""
    return centre_crop(image, min(*image.shape[:2], 256, side // 3), "the tile")


def lay_out(picture: Image, side: int) -> Image:
    """``picture`` as often as covers ``side`` pixels each way."""
    count = math.ceil(side / picture.shape[0])
    return np.ascontiguousarray(np.tile(picture, (count, count, 1)))


def worst(original: Image, decoded: Image, picture: int, alone: float) -> Loss:
    """Where a picture laid out many times came back worst.

    Each strip of rows or columns is held against the median of those that show the same, and the whole against
    ``alone``. No row or column of pictures may lie a pixel beside its place.

    Args:
        original, decoded: uint8, H x W x 3, equal in shape.
        picture: side of the picture in pixels.
        alone: mean squared error of the picture in a stream of its own.
    """
    error = np.square(original.astype(np.float64) - decoded).mean(axis=2)
    found = [Loss(_decibels(float(error.mean()), alone), "the whole")]
    for start in range(0, original.shape[0], picture):
        rows, columns = np.s_[start : start + picture], np.s_[:, start : start + picture]
        for part, name in ((rows, "rows"), (columns, "columns")):
            if (how := misplaced(original[part], decoded[part])) is not None:
                found.append(Loss(math.inf, f"{name} {start} to {start + picture - 1} lie {how}"))
    for axis, name in ((1, "rows"), (0, "columns")):
        lines = error.mean(axis=axis).reshape(-1, picture)
        for start in range(0, picture, STRIP):
            strips: npt.NDArray[np.float64] = lines[:, start : start + STRIP].mean(axis=1)
            place = int(strips.argmax())
            first = place * picture + start
            last = min(first + STRIP, (place + 1) * picture) - 1
            loss = _decibels(float(strips[place]), float(np.median(strips)))
            found.append(Loss(loss, f"{name} {first} to {last}"))
    return max(found)


def misplaced(original: Image, decoded: Image) -> str | None:
    """Where a picture would fit better than where it is: "one row down" and the like; ``None`` where it is right.

    Args:
        original, decoded: uint8, H x W x 3, equal in shape, of two pixels a side or more.
    """
    here, there = original.astype(np.float64), decoded.astype(np.float64)

    def error(down: int, right: int) -> tuple[float, float]:
        """Of the picture moved so far, and of the same pixels where they are."""
        height, width = here.shape[:2]
        kept = np.s_[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
        moved = np.s_[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
        return float(np.square(here[moved] - there[kept]).mean()), float(np.square(here[kept] - there[kept]).mean())

    for text, place in PLACES.items():
        moved, unmoved = error(*place)
        if moved < FITS * unmoved and unmoved > LEAST:
            return text
    return None


def _decibels(error: float, like: float) -> float:
    return 10 * math.log10(max(error, LEAST) / max(like, LEAST))


def large_round_trips(subject: Subject) -> Iterator[Large]:
    """Clean round trips of larger and larger images, until the stream is long or a round trip would take too long.

    Ends where the codec refuses an image of that size; without any where it refuses the first, or is slow.
    """
    name, original = next(iter(subject.images.items()))
    longest = min(SECONDS, subject.limits.seconds / 2)
    for side in SIDES:
        picture = tile(original, side)
        image = lay_out(picture, side)
        started, before = time.monotonic(), subject.workers.processor
        try:
            alone = subject.round_trip(name, picture, measure=False)
        except CleanRoundTripFailed:
            # A size of which this claim says nothing.
            continue
        taken = cost(subject.workers.processor - before, time.monotonic() - started)
        if taken * image.size / picture.size > longest:
            return
        shape = image.shape[0], image.shape[1]
        try:
            clean = subject.round_trip(f"{name} laid out", image, measure=False)
        except CleanRoundTripFailed as failed:
            if not isinstance(failed.__cause__, EncodeError) and not _too_slow(failed):
                yield Large(shape, failed.clean, Loss(math.inf, "the whole"), str(failed))
            return
        assert alone.decoded.image is not None
        assert clean.decoded.image is not None
        share = len(clean.bitstream) / image.size / max(len(alone.bitstream) / picture.size, 1e-9)
        # Whose rate falls with size, as that of a codec with a budget of bytes, loses quality by it, and not evenly.
        same = share > SAME_RATE
        like, allowed = ((picture, alone.decoded.image), WORSE) if same else ((image, clean.decoded.image), MUCH_WORSE)
        error = float(np.square(like[0].astype(np.float64) - like[1]).mean())
        yield Large(shape, clean, worst(image, clean.decoded.image, picture.shape[0], error), allowed=allowed)
        if side > SIDES[0] and len(clean.bitstream) > ENOUGH:
            return


def _too_slow(failed: CleanRoundTripFailed) -> bool:
    """Whether an encoder, which promises no speed, met the time limit."""
    return failed.clean is None and f" {Outcome.HUNG}: " in str(failed)
