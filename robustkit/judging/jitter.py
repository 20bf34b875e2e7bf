"""Jitter: how far each float of a decoder may be off before its images are others; one unit in the last place must do.

Two machines that round differently differ by about that much in each operation. A decoder whose entropy coder hangs on
floats breaks when one of them falls on the other side of a threshold, and then loses the rest of the stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from robustkit.codec import Image
from robustkit.isolation import CodecWorkers
from robustkit.judging.crossplatform import SLOW, Difference, Match, chosen, compared
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Clean

#: Decibels against the original, beyond what the clean decode has, that no drift of single pixels explains.
LOST = 1.0
#: Seeds of the least jitter, by the effort's processes; of other jitters, and where decoding is slow, one.
SEEDS = {1: 2, 2: 8}
MOST_SEEDS = 32


@dataclass(frozen=True)
class Amount:
    """How much each computed float is moved at most, up or down.

    Attributes:
        name: in words.
        ulps: units in the last place.
        relative: share of the value, where that is more.
    """

    name: str
    ulps: int
    relative: float = 0.0

    def __str__(self) -> str:
        return self.name


#: From what another machine may do to what none does.
AMOUNTS = (
    *(Amount(f"{n} ulp", n) for n in (1, 2, 4)),
    *(Amount(text, 4, float(text)) for text in ("1e-6", "1e-5", "1e-4", "1e-3")),
)


@dataclass(frozen=True)
class Shaken:
    """One stream decoded with jitter, held against its decode without.

    Attributes:
        clean: the round trip whose stream it is.
        amount, seed: of the jitter.
        difference: how far the images lie apart.
        loss: decibels against the original, on top of what the decode without jitter loses; infinite without an image.
    """

    clean: Clean
    amount: Amount
    seed: int
    difference: Difference
    loss: float

    @property
    def lost(self) -> bool:
        """Whether the decoder lost its way: no drift of single pixels."""
        return self.difference.match is Match.DESYNCHRONISED and self.loss >= LOST

    def __str__(self) -> str:
        if self.difference.match is Match.SAME or not math.isfinite(self.loss):
            return self.difference.levels
        return f"{self.difference.levels}; loses {max(0.0, self.loss):.2f} dB"


@dataclass
class Shaking:
    """What jitter does to a decoder.

    Attributes:
        torch: whether its process has torch, without which nothing can be jittered.
        operations: how many a decode has whose results were jittered; 0 where it computes with no float.
        least: the decodes with the least jitter.
        most: the last decode of the one with the most.
        beyond: the first decode whose pixels were beyond the tolerance.
        lost: the first that lost its way.
        undecided: why nothing more can be said: time or memory ran out.
        astray: whether the process makes something else of the streams even without jitter.
    """

    torch: bool = True
    operations: int = 0
    least: list[Shaken] = field(default_factory=list)
    most: Shaken | None = None
    beyond: Shaken | None = None
    lost: Shaken | None = None
    undecided: str = ""
    astray: bool = False

    @property
    def worst(self) -> Shaken | None:
        """Of the decodes with the least jitter."""
        return max(self.least, key=lambda s: s.difference.rank, default=None)


def shake(subject: Subject) -> Shaking:
    """Decode clean streams with more and more jitter, until the decoder loses its way."""
    seeds = SEEDS.get(subject.effort.processes, MOST_SEEDS)
    cleans = chosen(subject)
    found = Shaker(subject.arithmetic, cleans, subject.tolerance, seeds).run()
    if not found.astray:
        return found
    # That is the other claim's business; here the decoder is in step.
    pool = subject.elsewhere_computing("here")
    try:
        return Shaker(pool, cleans, subject.tolerance, seeds).run()
    finally:
        pool.close()


class Shaker:
    """Decodes streams with jitter.

    Args:
        pool: one process with the hook :data:`robustkit.isolation.ARITHMETIC`.
        cleans: the round trips whose streams are decoded.
        tolerance: grey levels at worst, and on average, that are no desynchronisation.
        seeds: of the least jitter.
    """

    def __init__(self, pool: CodecWorkers, cleans: Sequence[Clean], tolerance: tuple[float, float], seeds: int) -> None:
        self._pool = pool
        self._cleans = cleans
        self._tolerance = tolerance
        self._seeds = seeds
        self._still: list[Image] = []
        self._found = Shaking()

    def run(self) -> Shaking:
        """What jitter does: the least of it, the most, and where that is too much, what lies between."""
        found = self._found
        if not self._begin():
            return found
        least, *more = AMOUNTS
        for seed in range(self._seeds):
            for number in range(len(self._cleans)):
                shaken = self._shaken(number, least, seed)
                if shaken is None:
                    return found
                found.least.append(shaken)
                if self._taken(shaken):
                    return found
        told = self._pool.hook().get("operations")
        found.operations = told if isinstance(told, int) else 0
        if not found.operations:
            return found
        # Whoever keeps in step with the most needs no other.
        most = [self._shaken(number, more[-1], 0) for number in range(len(self._cleans))]
        found.most = next((s for s in most if s is not None), None)
        known = {len(more) - 1: [shaken for shaken in most if shaken is not None]}
        for wanted in (_strays, _loses):
            # More jitter does no less: halving finds the least that does it.
            if not any(map(wanted, known[len(more) - 1])):
                break
            low, high = 0, len(more) - 1
            while low < high:
                middle = (low + high) // 2
                if middle not in known:
                    tried = [self._shaken(number, more[middle], 0) for number in range(len(self._cleans))]
                    known[middle] = [shaken for shaken in tried if shaken is not None]
                low, high = (low, middle) if any(map(wanted, known[middle])) else (middle + 1, high)
            self._taken(next(filter(wanted, known[high])))
        return found

    def _begin(self) -> bool:
        """Decode without jitter; whether there is anything to jitter."""
        self._pool.hook(ulps=0)
        seconds = 0.0
        for clean in self._cleans:
            decoded = self._pool.decode(clean.bitstream, shape=clean.shape)
            assert clean.decoded.image is not None
            difference = compared(clean.decoded.image, decoded, self._tolerance)
            self._found.astray |= difference.match is Match.DESYNCHRONISED
            if self._found.astray or decoded.image is None:
                self._found.undecided = f"without jitter {difference}"
                return False
            self._still.append(decoded.image)
            seconds = max(seconds, decoded.seconds)
        self._found.torch = self._pool.hook().get("torch") is not None
        if seconds > SLOW:
            self._seeds = max(1, self._seeds // 4)
        return self._found.torch

    def _taken(self, shaken: Shaken) -> bool:
        """Take note of what was too much; whether the decoder has lost its way."""
        if shaken.difference.match is Match.DESYNCHRONISED:
            self._found.beyond = self._found.beyond or shaken
            if shaken.lost:
                self._found.lost = shaken
        return shaken.lost

    def _shaken(self, number: int, amount: Amount, seed: int) -> Shaken | None:
        """A stream decoded with jitter; ``None`` where that took too long."""
        clean, still = self._cleans[number], self._still[number]
        self._pool.hook(ulps=amount.ulps, relative=amount.relative, seed=seed)
        decoded = self._pool.decode(clean.bitstream, shape=clean.shape)
        difference = compared(still, decoded, self._tolerance)
        if difference.match is Match.UNDECIDED:
            self._found.undecided = f"with jitter of {amount} {difference}"
            return None
        loss = math.inf
        if decoded.image is not None:
            loss = _decibels(clean.original, still) - _decibels(clean.original, decoded.image)
        return Shaken(clean, amount, seed, difference, loss)


def _strays(shaken: Shaken) -> bool:
    return shaken.difference.match is Match.DESYNCHRONISED


def _loses(shaken: Shaken) -> bool:
    return shaken.lost


def _decibels(original: Image, image: Image) -> float:
    """PSNR, of an image without any error as of one with a hundredth of a squared grey level."""
    if original.shape != image.shape:
        return -math.inf
    error = float(np.square(original.astype(np.float64) - image).mean())
    return 10 * math.log10(255.0**2 / max(error, 0.01))
