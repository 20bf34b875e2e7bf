"""What decoding costs: the slowest and the largest decode of damaged streams, against clean ones of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from robustkit.isolation import Decoded
from robustkit.judging.effort import cost_of
from robustkit.judging.trial import Clean
from robustkit.outcome import Outcome
from robustkit.profile import Profile

#: What any decode may take, however cheap a clean one is: seconds, and bytes.
SPARE_SECONDS, SPARE_MEMORY = 1.0, 256 * 2**20
#: A decode beyond the limit is repeated so often, and the cheapest counts: a machine may be busy.
REPEATS = 3
#: Outcomes of a decode that did not end by itself, so that its cost is not its own.
LOST = frozenset({Outcome.CRASHED, Outcome.HUNG, Outcome.EXHAUSTED})

Shape = tuple[int, int] | None
Stream = tuple[bytes, Shape]


class Cost(NamedTuple):
    """What a decode takes.

    Attributes:
        seconds: of time.
        memory: bytes.
        effort: seconds as :func:`~robustkit.judging.effort.cost` counts them, which no load changes.
    """

    seconds: float
    memory: float
    effort: float = 0.0


@dataclass(frozen=True)
class Most:
    """The decode that took most of what it may take.

    Attributes:
        stream: the bytes that were decoded.
        decoded: what became of them.
        taken: seconds, or bytes.
        clean: what a clean decode of this size takes.
        limit: what this one may take.
    """

    stream: bytes = field(repr=False)
    decoded: Decoded = field(repr=False)
    taken: float
    clean: float
    limit: float

    @property
    def beyond(self) -> bool:
        """Whether it took more than it may."""
        return self.taken > self.limit

    @property
    def share(self) -> float:
        """What it took, as a share of its limit."""
        return self.taken / self.limit


class Work:
    """The costliest decodes, one in time and one in memory.

    Args:
        profile: what damage may cost; by default what a profile has where nothing is said.
    """

    def __init__(self, profile: Profile | None) -> None:
        self.slowdown = Profile.slowdown if profile is None else profile.slowdown
        self.memory_growth = Profile.memory_growth if profile is None else profile.memory_growth
        self.decodes = 0
        self.slowest: Most | None = None
        self.largest: Most | None = None
        self._clean: dict[Shape, Cost] = {}
        self._streams: dict[Shape, bytes] = {}

    def know(self, clean: Clean) -> None:
        """Learn from a clean round trip what a decode of its size takes."""
        taken = Cost(clean.decoded.seconds, clean.decoded.memory, cost_of([clean.decoded]))
        before = self._clean.get(clean.shape, taken)
        # The first decode of a process is the slowest, and what it allocates may stay.
        self._clean[clean.shape] = Cost(
            min(taken.seconds, before.seconds), max(taken.memory, before.memory), min(taken.effort, before.effort)
        )
        if len(clean.bitstream) <= len(self._streams.get(clean.shape, clean.bitstream)):
            self._streams[clean.shape] = clean.bitstream

    def clean_stream(self, shape: Shape) -> bytes | None:
        """The shortest clean stream of an image of that shape that is known."""
        return self._streams.get(shape)

    def clean(self, shape: Shape) -> Cost:
        """What a clean decode of that shape takes; of the costliest, where none of that shape is known."""
        known = [self._clean[shape]] if shape in self._clean else list(self._clean.values())
        return Cost(*map(max, zip(*known, strict=True))) if known else Cost(0.0, 0.0)

    def limit(self, shape: Shape) -> Cost:
        """What a decode of a damaged stream may take."""
        clean = self.clean(shape)
        return Cost(self.slowdown * clean.seconds + SPARE_SECONDS, self.memory_growth * clean.memory + SPARE_MEMORY)

    def saw(self, stream: bytes, shape: Shape, decoded: Decoded, again: Callable[[], Iterator[Decoded]]) -> int:
        """Take note of a decode.

        Args:
            stream: what was decoded.
            shape: of its image, ``None`` where any would do.
            decoded: what became of it.
            again: the same decode, each time in a process that is fresh.

        Returns:
            Bytes that the process held, where that was beyond the limit and a fresh one holds less; otherwise 0.
        """
        self.decodes += 1
        if decoded.outcome in LOST:
            return 0
        clean, limit = self.clean(shape), self.limit(shape)
        kept = 0
        slow = Most(stream, decoded, decoded.seconds, clean.seconds, limit.seconds)
        if _above(slow, self.slowest):
            self.slowest = slow if not slow.beyond else _larger(_least(slow, again, 0), self.slowest)
        large = Most(stream, decoded, decoded.memory, clean.memory, limit.memory)
        if _above(large, self.largest):
            least = large if not large.beyond else _least(large, again, 1)
            if large.beyond and not least.beyond:
                kept = int(large.taken)
            self.largest = _larger(least, self.largest)
        return kept


def _above(found: Most, record: Most | None) -> bool:
    # One beyond the limit is enough: to repeat them all could take for ever.
    return record is None or (found.share > record.share and not record.beyond)


def _larger(found: Most, record: Most | None) -> Most:
    return found if record is None or found.share > record.share else record


def _least(found: Most, again: Callable[[], Iterator[Decoded]], which: int) -> Most:
    """``found`` with what the cheapest of its repetitions took."""
    taken = found.taken
    # The count first: what ends last asks for one repetition too many.
    for _, decoded in zip(range(REPEATS), again(), strict=False):
        if decoded.outcome not in LOST:
            taken = min(taken, Cost(decoded.seconds, decoded.memory)[which])
        if taken <= found.limit:
            break
    return replace(found, taken=taken)
