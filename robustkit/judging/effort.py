"""Effort: how many trials, and how many damaged streams, a run spends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from robustkit.isolation import Decoded

#: Streams that a search tries, however slow the decoder.
LEAST = 16
#: Trials of a promise, over all images, that decide a clear case: eleven rounds of six images. 65 prove a 5th
#: percentile, and fewer none.
CLEAR = 66
#: Trials after which a promise whose limits are wider is first asked whether they decide; and between two such times.
FIRST, STEP = 36, 18
#: Seconds that a stream costs beside its decode: it is written to disk, sent, and its image fetched.
ASIDE = 0.0005
#: A decode that takes so many times its processors' time, and so many seconds more, waits for something else.
WAITS, SPARE = 16.0, 0.05


def cost(processor: float, seconds: float) -> float:
    """Seconds that work takes on a machine with nothing else to do, whatever else this one has to do now.

    What it kept processors busy for, unless the work took so much longer that it must have waited for something else,
    such as a device.

    Args:
        processor: seconds that it kept processors busy, as ``Decoded.processor``.
        seconds: until it was done.
    """
    return seconds if seconds > WAITS * processor + SPARE else processor


def cost_of(repeats: Iterable[Decoded]) -> float:
    """The :func:`cost` of a decode, by the least of its repeats."""
    found = list(repeats)
    return cost(min(decoded.processor for decoded in found), min(decoded.seconds for decoded in found))


@dataclass(frozen=True)
class Effort:
    """What a run spends.

    Attributes:
        trials: for each severity of a promise, over all images; so many are run only where fewer don't decide.
        seconds: that all searches of one codec together aim at.
        most: streams that one search draws, however fast the decoder.
        cap: seconds after which a search stops, whatever it has tried; far above what it aims at.
        shrinks: decodes for making one counterexample smaller.
        shrink_seconds: cap on the seconds that a search spends on that.
        examples: streams of each search, in place of what ``seconds`` comes to.
        processes: with other arithmetic, in which streams are decoded again; one is enough for the least effort.
    """

    trials: int
    seconds: float
    most: int
    cap: float
    shrinks: int
    shrink_seconds: float
    examples: int | None = None
    processes: int = 1

    def sized(self, decode: float) -> Sizes:
        """How many streams the searches try.

        Powers of two, rounded in the geometric middle, so that two runs on one machine come to the same although
        they measure a little more or less.

        Args:
            decode: seconds of decoding one small stream, by :func:`cost`.
        """
        if self.examples is not None:
            return Sizes(self.examples, self.examples)
        # Half, because what gives an image is decoded a second time.
        streams: int = 2 ** max(0, round(math.log2(self.seconds / 2 / (decode + ASIDE))))
        return Sizes(max(LEAST, min(self.most, streams // 16)), max(LEAST, streams // 2))


class Sizes(NamedTuple):
    """How many streams the searches try.

    Attributes:
        each: drawn streams, for each claim.
        header: single flips of the header; no more than it has bits.
    """

    each: int
    header: int


#: The efforts by name.
EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(trials=144, seconds=20, most=256, cap=60, shrinks=256, shrink_seconds=60),
    "ci": Effort(trials=360, seconds=120, most=1024, cap=240, shrinks=512, shrink_seconds=240, processes=2),
    "nightly": Effort(trials=1200, seconds=1200, most=8192, cap=1200, shrinks=2048, shrink_seconds=1200, processes=4),
}
