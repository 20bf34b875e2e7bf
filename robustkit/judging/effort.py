"""Effort: how many trials, and how many damaged streams, a run spends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

#: Streams that a search tries, however slow the decoder.
LEAST = 16
#: Trials of a promise, over all images, after which it is first asked whether they decide; fewer than 65 prove no 5th
#: percentile. And between two times of asking.
FIRST, STEP = 72, 24
#: Seconds that a stream costs beside its decode: it is written to disk, sent, and its image fetched.
ASIDE = 0.0005


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
    """

    trials: int
    seconds: float
    most: int
    cap: float
    shrinks: int
    shrink_seconds: float
    examples: int | None = None

    def sized(self, decode: float) -> Sizes:
        """How many streams the searches try.

        Powers of two, so that two runs on one machine come to the same although they measure another time.

        Args:
            decode: seconds of decoding one small stream.
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
    "ci": Effort(trials=360, seconds=120, most=1024, cap=240, shrinks=512, shrink_seconds=240),
    "nightly": Effort(trials=1200, seconds=1200, most=8192, cap=1200, shrinks=2048, shrink_seconds=1200),
}
