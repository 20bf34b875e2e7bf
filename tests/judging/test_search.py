"""Searches: the same streams from the same seed, every kind of failure, each with the least damage that shows it."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import search_codecs
from search_codecs import Aborts, Brittle, Hangs, Named, Nothing, OneBit, Pairs, Slow, Store, Works

from robustkit import Outcome
from robustkit.isolation import Limits
from robustkit.judging import draws
from robustkit.judging.effort import EFFORTS, Effort
from robustkit.judging.evidence import Evidence
from robustkit.judging.search import search, search_garbage, search_header, try_streams
from robustkit.judging.subject import Subject
from robustkit.outcome import Failure
from robustkit.registry import CodecSpec, Target

ROOT = Path(__file__).parents[2]


IMAGES = {name: np.full((4, 8, 3), level, dtype=np.uint8) for name, level in (("dark", 10), ("light", 100))}


def effort(examples=60, *, cap=300.0, shrinks=500, shrink_seconds=300.0):
    return Effort(10, 20, 256, cap=cap, shrinks=shrinks, shrink_seconds=shrink_seconds, examples=examples)


@pytest.fixture
def under_test(tmp_path):
    made = []

    def make(codec=Store, **more):
        more.setdefault("effort", effort())
        spec = CodecSpec(codec.name, Target(codec.__module__, codec.__qualname__, search_codecs.__file__))
        made.append(Subject(spec, images=IMAGES, directory=tmp_path, trials=5, **more))
        return made[-1]

    yield make
    for subject in made:
        subject.close()


def test_every_bit_of_a_header_without_a_name_is_flipped(under_test):
    """D1: one bit of 2,048 was seldom among 25 examples."""
    result = search_header(under_test(OneBit, effort=effort(4096)))
    (kind,) = result.kinds
    assert (kind.failure.outcome, kind.count, kind.least) == (Outcome.CRASHED, 1, True)
    assert kind.example.pattern.flips.tolist() == [171 * 8 + 3]
    assert result.outcomes == {Outcome.INTACT: 2047, Outcome.CRASHED: 1}
    assert str(result) == "2,048 of 2,048 flips: 1 crashed, 2047 intact"


def test_a_header_with_a_name_is_flipped_bit_by_bit(under_test):
    result = search_header(under_test(Named, effort=effort(4096)))
    assert (result.streams, result.space, result.kinds) == (24, 24, ())


def test_a_sample_of_the_header_is_said_to_be_one(under_test):
    result = search_header(under_test(effort=effort(64)))
    assert str(result).startswith("64 of 2,048 flips: ")
    assert not search_header(under_test(Nothing)).streams


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (2, 2), (7, 7), (2048, 64), (2048, 4096), (5192, 2048)])
def test_a_sample_is_spread_evenly(count, most):
    chosen = draws.spread(count, most, seed=11)
    assert len(chosen) == len(set(chosen)) == min(count, most)
    if most < count:
        gaps = np.diff([*sorted(chosen), min(chosen) + count])
        assert gaps.max() <= 2.7 * count / most
        assert len({bit % 8 for bit in chosen}) == 8


def test_two_failures_are_both_found_and_neither_shrinks_to_the_other(under_test):
    result = search(under_test(Brittle, effort=effort(200)), draws.bit_flips)
    raised, misshapen = result.kinds
    assert raised.failure.outcome is Outcome.RAISED
    assert "RuntimeError" in raised.failure.detail
    assert misshapen.failure.outcome is Outcome.MISSHAPEN
    assert raised.count == result.outcomes[Outcome.RAISED]
    assert misshapen.count == result.outcomes[Outcome.MISSHAPEN]
    assert result.streams == 200
    assert raised.example.pattern.flips.tolist() == [30]
    assert misshapen.example.pattern.flips.tolist() == [0]
    assert raised.least
    assert misshapen.least
    for kind in result.kinds:
        assert kind.example.stream == kind.example.pattern.apply(kind.example.clean.bitstream)
        assert kind.example.failure == kind.failure


def test_an_abort_is_not_reported_as_what_is_milder(under_test):
    """D3: a decoder that aborts on nearly every flip was reported as misshapen at bit 0."""
    result = search_header(under_test(Aborts, effort=effort(8)))
    crashed, misshapen = result.kinds
    assert (crashed.failure.outcome, crashed.count) == (Outcome.CRASHED, 7)
    assert crashed.example.pattern.flips.tolist() == [1]
    assert (misshapen.failure.outcome, misshapen.count) == (Outcome.MISSHAPEN, 1)
    assert misshapen.example.pattern.flips.tolist() == [0]


def test_damage_is_made_as_small_as_it_can_be(under_test):
    (kind,) = search(under_test(Pairs, effort=effort(800)), draws.bit_flips).kinds
    low, high = kind.example.pattern.flips // 8
    assert 2 <= low < 20 <= high < 60
    kinds = search(under_test(Pairs, effort=effort(200)), draws.mixed).kinds
    (pair,) = (kind.example for kind in kinds if "KeyError" in kind.failure.detail)
    assert pair.weight[0] == 2


def test_the_shortest_cut_is_found(under_test):
    kinds = search(under_test(Pairs, effort=effort(800)), draws.truncations).kinds
    (kind,) = (kind for kind in kinds if "IndexError" in kind.failure.detail)
    assert kind.example.pattern.keep == 300 + 96 - 30
    assert not len(kind.example.pattern.flips)


@pytest.mark.slow
def test_a_hang_is_made_small_with_a_short_limit_and_confirmed_with_the_whole(under_test, monkeypatch):
    """D4: it took the whole limit for each try, and ended with two bits where one suffices."""
    monkeypatch.setattr("robustkit.judging.search._HASTE", (4.0, 0.5))
    subject = under_test(Hangs, effort=effort(1), limits=Limits(seconds=2))
    clean = next(iter(subject.small.values()))

    def both(rng, layout):
        return draws.ErrorPattern(clean.bits, np.array([8, 163, 165, 1000]))

    (kind,) = search(subject, both).kinds
    assert kind.failure == Failure(Outcome.HUNG)
    assert len(kind.example.pattern.flips) == 1
    assert kind.example.decoded.seconds >= 2
    assert kind.least


def test_shrinking_that_was_cut_short_says_so(under_test):
    for spent in ({"shrinks": 0}, {"shrink_seconds": 0.0}):
        (kind,) = search(under_test(Pairs, effort=effort(200, **spent)), draws.mixed).kinds[:1]
        assert not kind.least
        assert kind.example.failure == kind.failure


def test_a_search_that_met_its_cap_says_so(under_test, monkeypatch):
    subject = under_test(effort=effort(60, cap=0.0))
    monkeypatch.setattr(Subject, "decode_seconds", 0.0)
    result = search(subject, draws.bit_flips)
    assert result.streams == 1
    assert str(result).startswith("stopped after 0 s, 1 of 60 streams: 1 ")


def test_garbage_is_made_short_and_zero(under_test):
    result = search_garbage(under_test(OneBit, effort=effort(300)))
    assert result.kinds == ()
    subject = under_test(Brittle, effort=effort(300))
    raised = next(k for k in search_garbage(subject).kinds if "RuntimeError" in k.failure.detail)
    assert (raised.example.clean, raised.example.pattern) == (None, None)
    assert len(raised.example.stream) in (4, 5)
    assert not any(raised.example.stream[:3])


def test_a_counterexample_is_shown_although_it_can_not_be_kept(under_test, tmp_path):
    """W6: JSON has no infinity, so what the search had found was lost."""
    subject = under_test(Brittle, effort=effort(4096))
    kind = search_header(subject).kinds[0]
    evidence = Evidence(subject, "decode.survives.header-bits", "title", tmp_path)
    assert evidence.counterexample(kind.example).startswith("robustkit replay ")
    subject.spec = replace(subject.spec, settings={"gain": float("inf")})
    assert evidence.counterexample(kind.example).startswith("not kept for replay: ")
    assert "  bit 0: magic" in evidence.explain(kind.example)


def test_given_streams_are_tried(under_test):
    result = try_streams(under_test(), [b""])
    assert str(result) == "1 stream: 1 refused"


def test_short_streams_have_no_more_damage_than_they_have(under_test):
    subject = under_test(Nothing)
    assert search(subject, draws.bit_flips).streams == 0
    assert search(subject, draws.truncations).streams == 0
    assert search(subject, draws.appended).streams == 60


DIGEST = """
import hashlib, numpy as np
from robustkit import Layout, Region
from robustkit.channels import generator
from robustkit.judging import draws
layout = Layout((Region("head", 0, 40, header=True), Region("body", 40, 800)), 800)
digest = hashlib.sha256()
for draw in (draws.bit_flips, draws.header_flips, draws.bursts, draws.truncations, draws.appended, draws.mixed):
    rng = generator("mine", "", draw.__name__, 0, seed=3)
    for _ in range(200):
        digest.update(draw(rng, layout).apply(bytes(100)))
rng = generator("mine", "", "garbage", 0, seed=3)
for _ in range(200):
    digest.update(draws.garbage(rng))
print(digest.hexdigest())
"""


def test_the_same_seed_draws_the_same_streams_whatever_is_loaded(tmp_path):
    """Hypothesis takes constants from the modules of one's own that are loaded."""
    tmp_path.joinpath("mine.py").write_text("MAGIC = 12345, b'RBKT', 987654321\n")
    found = set()
    for loaded in ("", "import mine, robustkit.judging.golden_files, hypothesis\n"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
        done = subprocess.run(
            [sys.executable, "-c", loaded + DIGEST],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=tmp_path,
        )
        found.add(done.stdout)
    assert len(found) == 1
    assert len(found.pop().strip()) == len(hashlib.sha256().hexdigest())


def test_one_seed_tries_the_same_streams_and_another_others(under_test, monkeypatch):
    def streams(seed):
        subject, tried = under_test(search_seed=seed, effort=effort(20)), []
        whole, _ = subject.decode, subject.decode_seconds
        monkeypatch.setattr(subject, "decode", lambda s, **more: tried.append(s) or whole(s, **more))
        search(subject, draws.bit_flips)
        return tried

    three = streams(3)
    assert len(three) == 20
    assert three == streams(3)
    assert three != streams(4)
    assert streams("a word") == streams("a word")


@pytest.mark.parametrize("batched", [False, True])
def test_a_busy_machine_tries_as_many_streams(batched, tmp_path):
    found = []
    for idle in (True, False):
        file = tmp_path / "idle"
        file.touch() if idle else file.unlink()
        target = Target(Works.__module__, "BatchWorks" if batched else "Works", search_codecs.__file__)
        spec = CodecSpec("works", target, {"idle": str(file)})
        subject = Subject(spec, images=IMAGES, directory=tmp_path / str(idle))
        try:
            seconds = subject.workers.decode(next(iter(subject.small.values())).bitstream).seconds
            assert (seconds < 0.06) is idle or idle  # it may be busy in truth
            found.append((subject.sizes, subject.decode_seconds))
        finally:
            subject.close()
    (sizes, cost_idle), (busy_sizes, cost_busy) = found
    # Within a factor of less than two of one another, so that rounding is all that may part them.
    assert 0.7 < cost_busy / cost_idle < 1.4
    assert sizes == busy_sizes == EFFORTS["quick"].sized(0.021)


def test_what_is_asked_for_is_tried(under_test):
    assert effort(3).sized(0.5) == (3, 3)
    subject = under_test(Slow, effort=Effort(10, 20, 256, 60, 10, 60))
    assert subject.decode_seconds >= 0.1
    assert subject.sizes == (16, 64)
