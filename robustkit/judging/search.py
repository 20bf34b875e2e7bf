"""Search: damaged streams, drawn from a seed, and what became of them. What it sees enters no bound.

It goes on after a failure, so that its counts are of all streams, and each kind of failure gets a counterexample.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from robustkit.channels import generator
from robustkit.isolation import Decoded
from robustkit.judging import draws
from robustkit.judging.shrink import Counterexample, shrink
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Clean
from robustkit.outcome import Failure, Outcome
from robustkit.patterns import ErrorPattern

#: Kinds of failure of which one search makes a counterexample small; it counts them all.
MOST_KINDS = 8
#: Bits that a header is taken to have where the layout names none.
HEADER_BITS = 2048
#: Streams decoded side by side.
_CHUNK = 48
#: Draws for each stream that is wanted: short streams have little damage to offer.
_PATIENCE = 8
#: Outcomes that are failures, the worst first.
WORST_FIRST = (
    Outcome.CRASHED,
    Outcome.EXHAUSTED,
    Outcome.HUNG,
    Outcome.RAISED,
    Outcome.MISSHAPEN,
    Outcome.UNSTABLE,
)
#: A hang is made smaller with this many times the slowest decode that ended, and at least so many seconds.
_HASTE = (4.0, 2.0)


@dataclass(frozen=True)
class Kind:
    """One kind of failure that a search saw.

    Attributes:
        failure: which.
        count: streams that showed it.
        example: the least damage that was found to do it.
        least: whether nothing smaller was left to try; otherwise shrinking was cut short.
    """

    failure: Failure
    count: int
    example: Counterexample = field(repr=False)
    least: bool


@dataclass(frozen=True)
class SearchResult:
    """What a search saw.

    Attributes:
        outcomes: distinct streams by what became of them.
        kinds: the kinds of failure among them, the worst first.
        planned: streams that were to be tried.
        space: streams that there are to try, where they can be counted.
        stopped: seconds after which it was given up before it had tried all that it planned.
    """

    outcomes: Mapping[Outcome, int]
    kinds: tuple[Kind, ...]
    planned: int
    space: int | None = None
    stopped: float | None = None

    @property
    def streams(self) -> int:
        """How many distinct damaged streams were decoded."""
        return sum(self.outcomes.values())

    def __str__(self) -> str:
        seen = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        many = "" if self.streams == 1 else "s"
        size = f"{self.streams:,} stream{many}" if self.space is None else f"{self.streams:,} of {self.space:,} flips"
        if self.stopped is not None:
            size = f"stopped after {self.stopped:g} s, {self.streams:,} of {self.planned:,} streams"
        return f"{size}: {seen}" if seen else size


class _Case(NamedTuple):
    clean: Clean | None
    pattern: ErrorPattern | None
    stream: bytes


def search(subject: Subject, damage: draws.Draw) -> SearchResult:
    """Try damage of one kind on the codec's small streams.

    Args:
        subject: the codec.
        damage: one of :mod:`robustkit.judging.draws`; the search is seeded by its name.
    """
    names = sorted(subject.small)

    def draw(rng: np.random.Generator) -> _Case | None:
        clean = subject.small[names[rng.integers(len(names))]]
        pattern = damage(rng, clean.layout)
        if pattern is None or pattern.harmless:
            return None
        return _Case(clean, pattern, pattern.apply(clean.bitstream))

    return _drawn(subject, damage.__name__, draw)


def search_garbage(subject: Subject) -> SearchResult:
    """Try bytes, no stream of anybody's."""
    return _drawn(subject, "garbage", lambda rng: _Case(None, None, draws.garbage(rng)))


def try_streams(subject: Subject, streams: Iterable[bytes]) -> SearchResult:
    """Try these streams, of no image's."""
    cases = [_Case(None, None, stream) for stream in streams]
    return _run(subject, cases, planned=len(cases))


def search_header(subject: Subject) -> SearchResult:
    """Flip each bit of the header alone, on one small image; as many as there is time for, evenly spread.

    The header is what the layout calls so, or else the first 256 bytes.
    """
    clean = next((c for c in subject.small.values() if c.bits), None)
    if clean is None:
        return SearchResult({}, (), planned=0, space=0)
    bits = clean.layout.bits_of(header=True)
    if not len(bits):
        bits = np.arange(min(HEADER_BITS, clean.bits))
    chosen = draws.spread(len(bits), subject.sizes.header, seed=_seed(subject))
    patterns = [ErrorPattern(clean.bits, bits[[i]]) for i in chosen]
    cases = [_Case(clean, pattern, pattern.apply(clean.bitstream)) for pattern in patterns]
    return _run(subject, cases, planned=len(cases), space=len(bits))


def _seed(subject: Subject) -> int:
    seed = subject.search_seed
    return seed if isinstance(seed, int) else int.from_bytes(seed.encode(), "big")


def _drawn(subject: Subject, name: str, draw: Callable[[np.random.Generator], _Case | None]) -> SearchResult:
    rng = generator(subject.own_name, "", f"search {name}", 0, seed=_seed(subject))
    planned = subject.sizes.each

    def cases() -> Iterator[_Case]:
        seen: set[tuple[object, bytes]] = set()
        for _ in range(_PATIENCE * planned):
            case = draw(rng)
            # The same bytes of two images are judged by two shapes.
            if case is not None and (key := (_shape(case.clean), case.stream)) not in seen:
                seen.add(key)
                yield case

    return _run(subject, islice(cases(), planned), planned=planned)


def _run(subject: Subject, cases: Iterable[_Case], *, planned: int, space: int | None = None) -> SearchResult:
    outcomes: Counter[Outcome] = Counter()
    counts: Counter[Failure] = Counter()
    best: dict[Failure, Counterexample] = {}
    slowest = 0.0
    cap = max(subject.effort.cap, 8 * planned * subject.decode_seconds)
    deadline, stopped = time.monotonic() + cap, None
    waiting = iter(cases)
    while stopped is None and (chunk := list(islice(waiting, _CHUNK))):
        for case, decoded in subject.decode_each([(c.stream, _shape(c.clean)) for c in chunk]):
            found = Counterexample(chunk[case].clean, chunk[case].pattern, chunk[case].stream, decoded)
            outcomes[found.outcome] += 1
            if found.outcome is not Outcome.HUNG:
                slowest = max(slowest, decoded.seconds)
            if (kind := found.failure) is not None:
                counts[kind] += 1
                if kind not in best or found.weight < best[kind].weight:
                    best[kind] = found
            if time.monotonic() > deadline:
                stopped = cap
                break
        subject.progress(f"{sum(outcomes.values())} of {planned} streams")
    if sum(outcomes.values()) == planned:
        stopped = None
    kinds = _shrunk(subject, counts, best, slowest)
    return SearchResult(dict(outcomes), kinds, planned, space, stopped)


def _shrunk(
    subject: Subject, counts: Mapping[Failure, int], best: Mapping[Failure, Counterexample], slowest: float
) -> tuple[Kind, ...]:
    effort = subject.effort
    until = time.monotonic() + effort.shrink_seconds
    order = sorted(counts, key=lambda kind: (WORST_FIRST.index(kind.outcome), -counts[kind], kind.detail))
    kinds = []
    for number, kind in enumerate(order):
        example, least = best[kind], False
        if number < MOST_KINDS:
            with _decoder(subject, kind, slowest) as decode:
                example, least = shrink(example, decode, budget=effort.shrinks, until=until)
            if kind.outcome is Outcome.HUNG and example is not best[kind]:
                # Found with a shorter limit: it must not end within the whole one.
                again = replace(example, decoded=_decode(subject, example.stream, example.clean))
                example, least = (again, least) if again.failure == kind else (best[kind], False)
        kinds.append(Kind(kind, counts[kind], example, least))
    return tuple(kinds)


@contextlib.contextmanager
def _decoder(subject: Subject, kind: Failure, slowest: float) -> Iterator[Callable[[bytes, Clean | None], Decoded]]:
    """What decodes while one kind of failure is made smaller: for a hang, with a limit just above what is usual."""
    factor, floor = _HASTE
    seconds = max(floor, factor * slowest)
    if kind.outcome is not Outcome.HUNG or seconds >= subject.limits.seconds:
        yield lambda stream, clean: _decode(subject, stream, clean)
        return
    with subject.fresh_workers(limits=replace(subject.limits, seconds=seconds)) as hasty:
        yield lambda stream, clean: hasty.decode(stream, shape=_shape(clean))


def _decode(subject: Subject, stream: bytes, clean: Clean | None) -> Decoded:
    return subject.decode(stream, shape=_shape(clean))


def _shape(clean: Clean | None) -> tuple[int, int] | None:
    return None if clean is None else clean.shape
