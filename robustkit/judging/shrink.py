"""Shrinking: from a counterexample to the least damage that fails in the same way, never in another."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from robustkit.isolation import Decoded
from robustkit.judging.trial import Clean
from robustkit.minimise import minimise
from robustkit.outcome import Failure, Outcome
from robustkit.patterns import ErrorPattern


@dataclass(frozen=True)
class Counterexample:
    """A stream that the search found to break decoding.

    Attributes:
        clean: the round trip it damages, ``None`` for garbage.
        pattern: the damage, ``None`` for garbage.
        stream: the bytes that were decoded.
        decoded: what became of them.
    """

    clean: Clean | None
    pattern: ErrorPattern | None
    stream: bytes = field(repr=False)
    decoded: Decoded = field(repr=False)

    @property
    def outcome(self) -> Outcome:
        """What became of the stream."""
        return self.decoded.judged(None) if self.clean is None else self.clean.judge(self.decoded)

    @property
    def failure(self) -> Failure | None:
        """Which kind of failure it shows, if any."""
        return self.decoded.failure

    @property
    def weight(self) -> tuple[int, int, int, tuple[int, ...]]:
        """How much damage it is: the parts of it, what was cut off, what was appended, where it flips."""
        pattern = self.pattern
        if pattern is None:
            return 1, 0, len(self.stream), tuple(self.stream)
        length = pattern.bits // 8
        cut = 0 if pattern.keep is None else length - pattern.keep
        parts = len(pattern.flips) + (cut > 0) + (len(pattern.append) > 0)
        return parts, cut, len(pattern.append), tuple(pattern.flips.tolist())


class _Stopped(Exception):
    """The budget or the time is used up."""


class _Shrinking:
    """The least counterexample so far, and what may still be spent."""

    def __init__(
        self, found: Counterexample, decode: Callable[[bytes, Clean | None], Decoded], budget: int, until: float
    ) -> None:
        self.best = found
        self._kind = found.failure
        self._decode = decode
        self._left = budget
        self._until = until

    def pattern(self, pattern: ErrorPattern) -> bool:
        clean = self.best.clean
        assert clean is not None
        return self._fails(clean, pattern, pattern.apply(clean.bitstream))

    def garbage(self, stream: bytes) -> bool:
        return self._fails(None, None, stream)

    def _fails(self, clean: Clean | None, pattern: ErrorPattern | None, stream: bytes) -> bool:
        if stream == self.best.stream:
            # Flips behind a cut, for instance, change nothing.
            self._keep(replace(self.best, clean=clean, pattern=pattern))
            return True
        if not self._left or time.monotonic() > self._until:
            raise _Stopped
        self._left -= 1
        tried = Counterexample(clean, pattern, stream, self._decode(stream, clean))
        same = tried.failure == self._kind
        if same:
            self._keep(tried)
        return same

    def _keep(self, tried: Counterexample) -> None:
        if tried.weight < self.best.weight:
            self.best = tried


def shrink(
    found: Counterexample, decode: Callable[[bytes, Clean | None], Decoded], *, budget: int, until: float
) -> tuple[Counterexample, bool]:
    """The least damage that fails as ``found`` does, and whether nothing was left to try.

    Each flip alone comes first, then ddmin over all of them; a flip that suffices alone moves to the start of its
    region where that fails, too. Garbage loses its end, then any part of it, then becomes zeros.

    Args:
        found: what the search saw.
        decode: of a stream, and the round trip that it damages, if it does.
        budget: the most decodes.
        until: on the monotonic clock, when to stop.
    """
    shrinking = _Shrinking(found, decode, budget, until)
    try:
        if found.clean is None or found.pattern is None:
            _bytes(shrinking)
        else:
            _pattern(shrinking)
    except _Stopped:
        return shrinking.best, False
    return shrinking.best, True


def _pattern(shrinking: _Shrinking) -> None:
    assert shrinking.best.pattern is not None
    first = shrinking.best.pattern
    for flip in first.flips:
        if shrinking.pattern(ErrorPattern(first.bits, np.array([flip]))):
            break
    else:
        minimise(first, shrinking.pattern, budget=2**31)
    _first_of_region(shrinking)


def _first_of_region(shrinking: _Shrinking) -> None:
    least, clean = shrinking.best.pattern, shrinking.best.clean
    assert least is not None
    assert clean is not None
    if len(least.flips) != 1 or shrinking.best.weight[0] != 1:
        return
    flip = int(least.flips[0])
    region = clean.layout.at(flip)
    before = [other.stop for other in clean.layout if other.stop <= flip]
    passes = region.start if region is not None else max(before, default=0)
    if shrinking.pattern(replace(least, flips=np.array([passes]))):
        return
    while flip - passes > 1:
        middle = (passes + flip) // 2
        if shrinking.pattern(replace(least, flips=np.array([middle]))):
            flip = middle
        else:
            passes = middle


def _bytes(shrinking: _Shrinking) -> None:
    stream = shrinking.best.stream
    if shrinking.garbage(b""):
        return
    # The shortest start: exact where a longer one fails, too.
    stream = stream[: bisect.bisect_left(range(len(stream)), True, key=lambda n: shrinking.garbage(stream[:n]))]
    size = len(stream)
    while size := size // 2:
        at = 0
        while at < len(stream):
            if len(stream) > size and shrinking.garbage(shorter := stream[:at] + stream[at + size :]):
                stream = shorter
            else:
                at += size
    size = len(stream)
    while size:
        for at in range(0, len(stream), size):
            part = stream[at : at + size]
            zeroed = stream[:at] + bytes(len(part)) + stream[at + size :]
            if any(part) and shrinking.garbage(zeroed):
                stream = zeroed
        size //= 2
