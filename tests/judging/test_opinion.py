"""Decoders that depend on what they must not, each in one way, and what a second opinion says of them."""

import itertools
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import opinion_codecs
import pytest
from opinion_codecs import (
    Aborts,
    BatchKeepsRows,
    BatchReadsOn,
    Clock,
    Deadlocks,
    DiesLater,
    Gone,
    Hashes,
    Helped,
    KeepsRows,
    Large,
    Leaks,
    Means,
    ReadsOn,
    Slow,
    Stalls,
    Sulks,
)

from robustkit import ErrorPattern, Outcome, Profile
from robustkit.channels import Truncation
from robustkit.conformance import test_clean
from robustkit.isolation import Decoded, Limits
from robustkit.judging import draws
from robustkit.judging.effort import EFFORTS
from robustkit.judging.history import few_decodes, histories, kept_streams, trouble_left
from robustkit.judging.opinion import difference, elsewhere, sampled
from robustkit.judging.replay import Replay, run_replay
from robustkit.judging.search import search
from robustkit.judging.subject import Subject
from robustkit.judging.work import Most, Work
from robustkit.registry import CodecSpec, Target


class Notebook:
    """A claim that keeps what it is told."""

    def __init__(self):
        self.said = []

    def kept(self, measured, *_, **__):
        self.said.append(f"kept: {measured}")

    def broken(self, measured, *_, **__):
        self.said.append(f"broken: {measured}")

    def replay_clean(self, *_):
        return "robustkit replay x"


IMAGES = {
    "slope": np.arange(64 * 64 * 3, dtype=np.int64).reshape(64, 64, 3).astype(np.uint8),
    "noise": np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8),
}


@pytest.fixture
def under_test(tmp_path):
    made = []

    def make(codec, **more):
        settings = more.pop("settings", {})
        spec = CodecSpec(codec.name, Target(codec.__module__, codec.__qualname__, opinion_codecs.__file__), settings)
        effort = replace(EFFORTS["quick"], trials=16, examples=25, shrink_seconds=20)
        made.append(Subject(spec, images=IMAGES, directory=tmp_path, effort=effort, **more))
        return made[-1]

    yield make
    for subject in made:
        subject.close()


def damaged(subject, number=0, row=2):
    """A stream of one image with one row that does not arrive."""
    clean = list(subject.small.values())[number]
    return ErrorPattern(clean.bits, np.array([64 + 8 * 25 * row + 3])).apply(clean.bitstream), clean.shape


def test_a_sound_codec_has_no_history(under_test):
    subject = under_test(Means)
    found = histories(subject)
    assert found.different is None
    assert found.streams >= 8
    few_decodes(subject)
    assert subject.opinions.asked == subject.opinions.images > 0
    assert trouble_left(subject) == []
    assert not subject.work.slowest.beyond
    assert not subject.work.largest.beyond


def test_processes_that_were_left_are_told_with_the_way_out(under_test):
    subject = under_test(Helped)
    clean = next(iter(subject.small.values()))
    subject.decode(clean.bitstream, shape=clean.shape)
    (left,) = trouble_left(subject)
    assert left.proved
    assert re.match(
        r"a process was replaced \d+ times: left a process behind; .* in the codec's constructor", left.said
    )


@pytest.mark.parametrize("codec", [KeepsRows, Sulks])
def test_a_decoder_that_remembers_is_found(under_test, codec):
    different = histories(under_test(codec)).different
    assert "pixels differ, by up to" in different.said
    if codec is Sulks:
        assert different.said.endswith("by up to 40") or "refused" in different.said


def test_an_image_of_what_lies_in_memory_is_unstable(under_test):
    subject = under_test(ReadsOn)
    result = search(subject, draws.truncations)
    assert result.outcomes[Outcome.UNSTABLE] > 0
    (found,) = (kind.example for kind in result.kinds if kind.failure.outcome is Outcome.UNSTABLE)
    assert found.outcome is Outcome.UNSTABLE
    assert found.decoded.image is None
    assert "in another process" in found.decoded.message
    assert "pixels differ" in found.decoded.message
    replay = Replay(subject.spec, found.stream, found.outcome, shape=found.clean.shape)
    assert run_replay(replay).same


@pytest.mark.parametrize("codec", [BatchKeepsRows, BatchReadsOn])
def test_several_processes_in_place_of_one_find_the_same(under_test, monkeypatch, codec):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("robustkit.judging.processes.own_cores", lambda: 2)
    monkeypatch.setattr("robustkit.judging.subject.CROWDED", -1.0)
    subject = under_test(codec, spread=True)
    trials = subject.trials(Truncation(0.5))
    assert [len(pool.pids) for pool in (subject.workers, subject.elsewhere)] == [2, 2]
    if codec is BatchReadsOn:
        assert Counter(t.outcome for t in trials)[Outcome.UNSTABLE] > len(trials) // 2
    else:
        assert "pixels differ" in histories(subject).different.said


def test_an_unstable_trial_is_a_failure_without_an_image(under_test):
    trials = under_test(ReadsOn).trials(Truncation(0.5))
    unstable = [t for t in trials if t.outcome is Outcome.UNSTABLE]
    assert len(unstable) > len(trials) // 2
    assert all(t.outcome.corrupted and not t.metrics and "differ" in t.message for t in unstable)
    # What lacks no more than its last check sum is right by what did arrive.
    assert {t.outcome for t in trials} <= {Outcome.UNSTABLE, Outcome.INTACT}


def test_a_late_death_is_not_laid_to_the_stream_that_it_meets(under_test):
    subject = under_test(DiesLater)
    stream, shape = damaged(subject)
    clean = list(subject.small.values())[1]
    assert subject.decode(stream, shape=shape).image is not None
    decoded = subject.decode(clean.bitstream, shape=clean.shape)
    assert clean.judge(decoded) is Outcome.INTACT
    left = trouble_left(subject)
    assert left
    assert all(found.proved and "died of SIGABRT" in found.said for found in left)
    assert stream in left[0].before
    assert len(kept_streams(subject, left[0])) == 1 + len(left[0].before) + 1


def test_a_hang_that_only_a_history_brings_is_proved_by_it(under_test):
    subject = under_test(Deadlocks, limits=Limits(seconds=0.5))
    clean = next(iter(subject.small.values()))
    assert subject.decode(b"", shape=clean.shape).outcome is Outcome.REFUSED
    decoded = subject.decode(clean.bitstream, shape=clean.shape)
    assert clean.judge(decoded) is Outcome.INTACT
    (left,) = [found for found in trouble_left(subject) if found.outcome is Outcome.HUNG][:1]
    assert left.again
    assert left.proved
    assert left.before[-1] == b""


def test_a_crash_that_comes_again_stays_and_is_believed(under_test):
    subject = under_test(Aborts)
    for row in range(4):
        stream, shape = damaged(subject, row=row)
        assert subject.decode(stream, shape=shape).outcome is Outcome.CRASHED
    assert trouble_left(subject) == []


@pytest.mark.slow
def test_decodes_that_damage_makes_slow_are_found(under_test):
    subject = under_test(Slow)
    stream, shape = damaged(subject)
    assert subject.decode(stream, shape=shape).image is not None
    assert subject.work.slowest.beyond
    assert subject.work.slowest.stream == stream
    assert 1.1 <= subject.work.slowest.taken < 30


def test_a_busy_machine_is_not_laid_to_the_codec(under_test, tmp_path):
    subject = under_test(Stalls, settings={"stalled": str(tmp_path / "stalled")})
    stream, shape = damaged(subject)
    assert subject.decode(stream, shape=shape).seconds > 1.0
    assert (tmp_path / "stalled").exists()
    assert not subject.work.slowest.beyond


@pytest.mark.slow
def test_decodes_that_damage_makes_large_are_found(under_test):
    subject = under_test(Large)
    stream, shape = damaged(subject)
    assert subject.decode(stream, shape=shape).image is not None
    assert subject.work.largest.beyond
    assert subject.work.largest.taken > 256 * 2**20
    assert trouble_left(subject) == []


@pytest.mark.slow
def test_memory_that_stays_is_left_behind(under_test):
    subject = under_test(Leaks)
    for row in range(4):
        stream, shape = damaged(subject, row=row)
        subject.decode(stream, shape=shape)
    assert not subject.work.largest.beyond
    left = trouble_left(subject)
    assert left
    assert left[0].proved
    assert "MiB" in left[0].said


def test_the_second_process_works_in_another_place(under_test):
    subject = under_test(Gone)
    clean = next(iter(subject.small.values()))
    assert subject.workers.encode(clean.original) == clean.bitstream
    assert subject.elsewhere.encode(clean.original) != clean.bitstream


@pytest.mark.parametrize("codec", [Clock, Hashes])
def test_an_encoder_that_asks_the_clock_or_its_process_is_found(under_test, codec, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    claim = Notebook()
    test_clean.test_encoding_is_deterministic(under_test(codec), claim)
    (said,) = claim.said
    assert said.startswith("broken: ")
    assert said.endswith(": other bits")


def test_elsewhere_differs_in_what_must_not_matter():
    here = {"PYTHONHASHSEED": "1", "LANG": "C.UTF-8", "TZ": "UTC"}
    there = elsewhere(here)
    assert all(there[name] != value for name, value in here.items() if name != "LANG")
    assert there["LC_ALL"] == "C"
    assert elsewhere({})["LC_ALL"] == "C.UTF-8"
    assert elsewhere({})["PYTHONHASHSEED"] == "1"


def test_a_difference_is_said_in_pixels_and_levels():
    image = np.zeros((4, 4, 3), np.uint8)
    other = image.copy()
    other[0, 0] = 7, 9, 0
    other[1, 2, 1] = 255
    assert difference(Decoded(image, None), Decoded(image.copy(), None)) is None
    assert difference(Decoded(image, None), Decoded(other, None)) == "2 of 16 pixels differ, by up to 255"
    refused = Decoded(None, Outcome.REFUSED, "no\nmore")
    assert difference(Decoded(image, None), refused) == "refused instead: no"
    assert difference(refused, Decoded(image, None)) == "an image instead"
    assert difference(refused, Decoded(None, Outcome.REFUSED, "other words")) is None
    assert difference(Decoded(image, None), Decoded(image[:2], None)) == "an image of 2 x 4 instead"


@pytest.mark.parametrize(("trials", "least"), [(4, 4), (60, 8), (64, 8), (600, 75)])
def test_one_trial_in_eight_is_looked_at_twice_and_eight_at_least(trials, least):
    chosen = [sampled(position, trials) for position in range(trials)]
    assert sum(chosen) >= least
    assert sum(chosen) <= max(16, trials / 7)


def test_the_costliest_decode_is_measured_against_clean_ones_of_its_size(under_test):
    subject = under_test(Means, profile=Profile(bpp=9.0, quality=5.0, slowdown=2.0, memory_growth=3.0))
    work, clean = subject.work, next(iter(subject.small.values()))
    assert (work.slowdown, work.memory_growth) == (2.0, 3.0)
    seconds = work.clean(clean.shape).seconds
    assert work.limit(clean.shape).seconds == pytest.approx(2 * seconds + 1)
    assert work.clean(None) == work.clean(clean.shape)
    again = itertools.repeat(Decoded(None, Outcome.REFUSED, seconds=5.0))
    work.saw(b"a", None, Decoded(None, Outcome.REFUSED, seconds=0.5), lambda: again)
    work.saw(b"b", None, Decoded(None, Outcome.REFUSED, seconds=0.1), lambda: again)
    assert work.slowest.stream == b"a"
    work.saw(b"c", None, Decoded(None, Outcome.REFUSED, seconds=9.0), lambda: again)
    assert (work.slowest.stream, work.slowest.taken, work.slowest.beyond) == (b"c", 5.0, True)
    work.saw(b"d", None, Decoded(None, Outcome.HUNG, seconds=30.0), lambda: again)
    assert work.slowest.stream == b"c"


def test_work_without_a_profile_has_the_usual_limits():
    work = Work(None)
    assert (work.slowdown, work.memory_growth) == (100.0, 10.0)
    assert Most(b"", Decoded(None, Outcome.REFUSED), 2.0, 0.0, 1.0).share == 2.0
