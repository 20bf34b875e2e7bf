"""Search: Hypothesis looks for one stream that breaks decoding, and shrinks it. What it sees enters no bound."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from robustkit.isolation import Decoded
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Clean
from robustkit.layout import Layout
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern


@dataclass(frozen=True)
class Counterexample:
    """A stream that the search found to break decoding, shrunk.

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


@dataclass(frozen=True)
class SearchResult:
    """What a search saw: how many streams ended how, and the counterexample, if there is one.

    Attributes:
        outcomes: distinct streams by what became of them.
        counterexample: the least damage that fails.
        known: the first stream, not reduced, for each failure that is a known defect of the codec.
    """

    outcomes: Mapping[Outcome, int]
    counterexample: Counterexample | None
    known: Mapping[Outcome, Counterexample] = field(default_factory=dict)

    @property
    def streams(self) -> int:
        """How many distinct damaged streams were decoded."""
        return sum(self.outcomes.values())


def search(subject: Subject, damage: Callable[[Layout], SearchStrategy[ErrorPattern]]) -> SearchResult:
    """Look for damage to the codec's small streams that breaks decoding.

    Args:
        subject: the codec.
        damage: the strategy for a stream of that layout; see :mod:`robustkit.strategies`.
    """
    strategies: dict[str, SearchStrategy[ErrorPattern]] = {}
    for name, clean in sorted(subject.small.items()):
        # Of an empty stream nothing can be flipped or cut off.
        with contextlib.suppress(*([] if clean.bits else [ValueError])):
            strategies[name] = damage(clean.layout)
    if not strategies:
        return SearchResult({}, None)
    cases = st.sampled_from(sorted(strategies)).flatmap(lambda name: st.tuples(st.just(name), strategies[name]))

    def example(case: tuple[str, ErrorPattern]) -> Counterexample:
        clean = subject.small[case[0]]
        stream = case[1].apply(clean.bitstream)
        return Counterexample(clean, case[1], stream, subject.decode(stream, shape=clean.shape))

    return _find(subject, cases, example)


def search_garbage(subject: Subject, garbage: SearchStrategy[bytes]) -> SearchResult:
    """Look for bytes, no stream of anybody's, that break decoding."""
    return _find(subject, garbage, lambda b: Counterexample(None, None, b, subject.decode(b)))


def _find(subject: Subject, strategy: SearchStrategy[Any], example: Callable[[Any], Counterexample]) -> SearchResult:
    outcomes: Counter[Outcome] = Counter()
    known: dict[Outcome, Counterexample] = {}
    failing: dict[Any, Counterexample] = {}
    passing: set[Any] = set()
    last: Counterexample | None = None
    give_up = float("inf")

    def breaks(value: Any) -> bool:
        nonlocal last, give_up
        if value in failing:
            last = failing[value]
            return True
        # A decoder that hangs costs its whole time limit each time, so shrinking must end some day. What has been
        # seen to fail still does, so Hypothesis gets consistent answers.
        if value in passing or time.monotonic() > give_up:
            return False
        tried = example(value)
        outcome = tried.outcome
        outcomes[outcome] += 1
        if outcome in subject.known_defects:
            known.setdefault(outcome, tried)
        if not outcome.failure or outcome in subject.known_defects:
            passing.add(value)
            return False
        if not failing:
            give_up = time.monotonic() + subject.effort.shrink_seconds
        failing[value] = last = tried
        return True

    # All of it said here, so that no profile of the user's own tests makes this search another.
    ours = settings(
        max_examples=subject.effort.examples,
        phases=(Phase.generate, Phase.shrink),
        deadline=None,
        database=None,
        derandomize=False,
        backend="hypothesis",
    )
    try:
        find(strategy, breaks, settings=ours, random=random.Random(subject.search_seed))
    except NoSuchExample:
        return SearchResult(outcomes, None, known)
    return SearchResult(outcomes, last, known)
