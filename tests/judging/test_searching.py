"""Searches, with a decoder of this process: what is drawn, counted, ordered, cut short and made small."""

import contextlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from robustkit import ErrorPattern, Layout, Outcome, Region
from robustkit.isolation import Decoded, Limits
from robustkit.judging import draws
from robustkit.judging import search as searching
from robustkit.judging.effort import Effort, Sizes
from robustkit.judging.search import MOST_KINDS, SearchResult, search, search_garbage, search_header, try_streams
from robustkit.judging.trial import Clean
from robustkit.outcome import Failure

IMAGE = np.full((4, 8, 3), 100, np.uint8)
HEAD = 300


class Subject:
    """A codec whose decoder is a function of the stream."""

    own_name, search_seed = "mine", 0

    def __init__(self, says, *, each=60, header=64, cap=300.0, cost=0.0, layout=None, length=HEAD + 96):
        self.says, self.effort = says, Effort(10, 20, 256, cap=cap, shrinks=300, shrink_seconds=300.0)
        self.sizes, self.decode_seconds, self.limits = Sizes(each, header), cost, Limits(seconds=30)
        self.tried, self.told, self.hasty = [], [], []
        stream = bytes(length)
        regions = Layout(layout if layout is not None else (), 8 * length)
        self.small = {name: Clean(name, IMAGE, stream, regions, Decoded(IMAGE, None), {}) for name in ("one", "other")}

    def decode(self, stream, *, shape=None):
        self.tried.append((stream, shape))
        return self.says(stream)

    def decode_each(self, streams):
        return ((number, self.decode(stream, shape=shape)) for number, (stream, shape) in enumerate(streams))

    def progress(self, text):
        self.told.append(text)

    @contextlib.contextmanager
    def fresh_workers(self, *, limits):
        self.hasty.append(limits.seconds)
        yield self


def fine(stream):
    return Decoded(IMAGE, None)


def bits_of(stream):
    return np.flatnonzero(np.unpackbits(np.frombuffer(stream[:HEAD], np.uint8)))


def failing(outcome, message="", **more):
    return Decoded(None, outcome, message, **more)


def test_as_many_streams_are_drawn_as_planned_and_no_two_are_alike():
    subject = Subject(fine, each=100)
    result = search(subject, draws.bit_flips)
    assert result == SearchResult({Outcome.INTACT: 100}, (), planned=100)
    assert (result.streams, str(result)) == (100, "100 streams: 100 intact")
    assert len(set(subject.tried)) == len(subject.tried) == 100
    assert {shape for _, shape in subject.tried} == {(4, 8)}
    # As it goes on, after each chunk.
    assert subject.told == ["48 of 100 streams", "96 of 100 streams", "100 of 100 streams"]


def test_the_same_seed_draws_the_same_and_another_others():
    def tried(seed, damage=draws.bit_flips):
        subject = Subject(fine)
        subject.search_seed = seed
        search(subject, damage)
        return subject.tried

    assert tried(1) == tried(1) != tried(2)
    assert tried("ab") == tried(int.from_bytes(b"ab", "big"))
    assert tried(1) != tried(1, draws.bursts)


def test_both_images_are_damaged():
    subject = Subject(fine)
    subject.small["other"] = Clean("other", IMAGE[:2], b"\xff" * 50, Layout((), 400), Decoded(IMAGE[:2], None), {})
    search(subject, draws.bit_flips)
    shapes = Counter(shape for _, shape in subject.tried)
    assert set(shapes) == {(4, 8), (2, 8)}
    assert min(shapes.values()) > 15


def test_a_short_stream_has_few_different_damages():
    result = search(Subject(fine, each=600, length=1), draws.bit_flips)
    assert result.planned == 600
    # Of each of two images, that many of 255 as were drawn within a few thousand draws.
    assert 100 < result.streams <= 510
    assert result.stopped is None


def test_a_stream_with_nothing_to_damage_draws_nothing():
    subject = Subject(fine, length=0)
    assert search(subject, draws.bit_flips).streams == 0
    found = search_header(subject)
    assert (found.planned, found.space, found.streams, str(found)) == (0, 0, 0, "0 of 0 flips")


def test_garbage_is_of_no_shape():
    subject = Subject(lambda stream: failing(Outcome.REFUSED))
    result = search_garbage(subject)
    assert result.outcomes == {Outcome.REFUSED: 60}
    assert {shape for _, shape in subject.tried} == {None}


def test_given_streams_are_tried():
    subject = Subject(lambda stream: failing(Outcome.RAISED, "E: x") if not stream else fine(stream))
    result = try_streams(subject, [b"", b"x"])
    assert (result.planned, result.streams, str(result)) == (2, 2, "2 streams: 1 degraded, 1 raised")
    (kind,) = result.kinds
    assert (kind.failure, kind.count, kind.example.stream) == (Failure(Outcome.RAISED, "E"), 1, b"")
    assert str(try_streams(subject, [b"x"])) == "1 stream: 1 degraded"


@pytest.mark.parametrize(("layout", "space"), [(None, 2048), ((Region("a", 0, 24, header=True),), 24)])
def test_each_bit_of_the_header_is_flipped_alone(layout, space):
    subject = Subject(fine, header=4096, layout=layout)
    result = search_header(subject)
    assert (result.planned, result.space, result.streams) == (space, space, space)
    assert sorted(int(bits_of(stream)[0]) for stream, _ in subject.tried) == list(range(space))
    assert all(len(bits_of(stream)) == 1 for stream, _ in subject.tried)
    sample = search_header(Subject(fine, header=16, layout=layout))
    assert (sample.planned, sample.space, str(sample)) == (16, space, f"16 of {space:,} flips: 16 intact")


def test_the_header_is_that_of_the_first_stream_that_has_bits():
    subject = Subject(fine, header=4096)
    subject.small = {"empty": Clean("empty", IMAGE, b"", Layout((), 0), Decoded(IMAGE, None), {}), **subject.small}
    assert search_header(subject).space == 2048


def test_images_are_drawn_from_in_the_order_of_their_names():
    one, other = Subject(fine), Subject(fine)
    other.small = dict(reversed(other.small.items()))
    for subject in (one, other):
        subject.small["other"] = Clean("other", IMAGE, b"\xff" * 50, Layout((), 400), Decoded(IMAGE, None), {})
        search(subject, draws.bit_flips)
    assert one.tried == other.tried


def test_the_least_of_what_was_tried_is_the_example():
    def says(stream):
        return failing(Outcome.RAISED, "E: x") if len(bits_of(stream)) else fine(stream)

    subject = Subject(says, each=100)
    subject.effort = replace(subject.effort, shrinks=0)
    (kind,) = search(subject, draws.bit_flips).kinds
    fewest = min(len(bits_of(stream)) for stream, _ in subject.tried if len(bits_of(stream)))
    assert not kind.least
    assert len(bits_of(kind.example.stream)) <= fewest
    assert kind.count > 50


def test_how_many_kinds_are_made_small():
    assert (MOST_KINDS, searching.HEADER_BITS) == (8, 2048)


def test_so_many_draws_are_made_for_a_stream():
    drawn = []

    def twice(rng, layout):
        drawn.append(layout)
        return ErrorPattern(layout.bits, np.array([7]))

    # One damage, whichever image it is of.
    assert search(Subject(fine, each=10), twice).streams == 1
    assert len(drawn) == 80


def test_a_header_is_no_longer_than_its_stream():
    assert search_header(Subject(fine, header=4096, length=4)).space == 32


def test_failures_are_counted_by_kind_and_told_the_worst_first():
    def says(stream):
        first = int(bits_of(stream)[0]) if len(bits_of(stream)) else 9999
        if first < 100:
            return failing(Outcome.MISSHAPEN, "wrong")
        if first < 400:
            return failing(Outcome.RAISED, "A: x" if first < 300 else "B: x")
        return failing(Outcome.CRASHED, "died") if first < 450 else fine(stream)

    result = search_header(Subject(says, header=4096))
    assert [(k.failure.outcome, k.failure.detail, k.count) for k in result.kinds] == [
        (Outcome.CRASHED, "died", 50),
        (Outcome.RAISED, "A", 200),
        (Outcome.RAISED, "B", 100),
        (Outcome.MISSHAPEN, "wrong", 100),
    ]
    assert [k.example.pattern.flips.tolist() for k in result.kinds] == [[400], [100], [300], [0]]
    assert all(kind.least for kind in result.kinds)
    assert "example" not in repr(result.kinds[0])
    assert str(result) == "2,048 of 2,048 flips: 50 crashed, 1598 intact, 100 misshapen, 300 raised"


def test_the_first_few_kinds_alone_are_made_small():
    def says(stream):
        flips = bits_of(stream)
        return failing(Outcome.RAISED, f"Error{chr(65 + flips[0] % 26)}: x") if len(flips) else fine(stream)

    result = search(Subject(says, each=400), draws.bit_flips)
    assert len(result.kinds) > MOST_KINDS
    assert [kind.least for kind in result.kinds] == [True] * MOST_KINDS + [False] * (len(result.kinds) - MOST_KINDS)
    counts = [kind.count for kind in result.kinds]
    assert counts == sorted(counts, reverse=True)


def clock(monkeypatch, seconds):
    """A clock that each look at moves on."""
    now = iter(np.arange(0, 1e6, seconds))
    monkeypatch.setattr(searching.time, "monotonic", lambda: float(next(now)))


def test_a_search_that_meets_its_cap_says_so(monkeypatch):
    clock(monkeypatch, 1.0)
    result = search(Subject(fine, each=100, cap=60.0), draws.bit_flips)
    assert (result.stopped, result.streams, result.planned) == (60.0, 61, 100)
    assert str(result) == "stopped after 60 s, 61 of 100 streams: 61 intact"


def test_the_cap_is_no_less_than_eight_times_what_the_streams_cost(monkeypatch):
    clock(monkeypatch, 1.0)
    result = search(Subject(fine, each=100, cap=10.0, cost=0.1), draws.bit_flips)
    assert (result.stopped, result.streams) == (80.0, 81)


def test_one_that_has_just_tried_all_was_not_cut_short(monkeypatch):
    clock(monkeypatch, 1.0)
    result = search(Subject(fine, each=61, cap=60.0), draws.bit_flips)
    assert (result.stopped, result.streams) == (None, 61)


def hangs(stream):
    return failing(Outcome.HUNG) if 100 in bits_of(stream) else Decoded(IMAGE, None, seconds=0.75)


def test_a_hang_is_made_small_with_a_limit_just_above_the_slowest_decode():
    subject = Subject(hangs, header=4096)
    (kind,) = search_header(subject).kinds
    assert kind.example.pattern.flips.tolist() == [100]
    assert subject.hasty == [3.0]
    quick = Subject(lambda stream: failing(Outcome.HUNG) if 100 in bits_of(stream) else fine(stream), header=4096)
    search_header(quick)
    assert quick.hasty == [2.0]


def test_a_limit_that_is_as_short_already_is_kept():
    subject = Subject(hangs, header=4096)
    subject.limits = Limits(seconds=3.0)
    search_header(subject)
    assert subject.hasty == []


def test_a_hang_that_was_made_small_hangs_with_the_whole_limit_too():
    def says(stream, *, hasty=False):
        flips = set(bits_of(stream).tolist())
        return failing(Outcome.HUNG) if flips & {100, 101} and (hasty or len(flips) > 1) else fine(stream)

    class Hasty(Subject):
        @contextlib.contextmanager
        def fresh_workers(self, *, limits):
            other = Subject(lambda stream: says(stream, hasty=True))
            yield other

    subject = Hasty(says, each=60)
    subject.small["one"] = subject.small["other"]

    def pair(rng, layout):
        return ErrorPattern(layout.bits, np.array([100, 200 + int(rng.integers(50))]))

    (kind,) = search(subject, pair).kinds
    # One flip hangs for as long as the short limit alone.
    assert len(kind.example.pattern.flips) == 2
    assert not kind.least
