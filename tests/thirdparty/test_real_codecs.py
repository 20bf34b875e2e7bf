"""Real codecs under the suite's search: it finds what an independent survey found, and each finding can be replayed."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import CliRunner

from robustkit.cli import main
from robustkit.images import photographs
from robustkit.isolation import Limits
from robustkit.judging import draws
from robustkit.judging.effort import EFFORTS, Effort
from robustkit.judging.evidence import Evidence
from robustkit.judging.replay import SUFFIX, load_replay, run_replay
from robustkit.judging.search import SearchResult, search, search_header
from robustkit.judging.subject import Subject
from robustkit.outcome import Outcome
from robustkit.registry import CodecSpec, Target
from thirdparty.codecs import CODECS
from thirdparty.survey import LIMITS, SEEN, kind

pytestmark = pytest.mark.slow

SURVEY = json.loads(SEEN.read_text())
#: Enough for every bit of 256 bytes, also on a busy machine. Where each crash costs a new process, less must do.
EFFORT = replace(EFFORTS["quick"], examples=2048, cap=300, shrinks=64, shrink_seconds=8)
BRIEF = replace(EFFORT, cap=15)
FEW = replace(BRIEF, examples=64)

#: What a quick search of single flips in the first 256 bytes must find, although it can't try them all: a crash or a
#: hang on every third flip or so.
BRITTLE = {
    "imagecodecs-htj2k": {"hung", "misshapen"},
    "imagecodecs-sperr": {"exhausted"},
    "imagecodecs-sz3": {"crashed (SIGABRT)", "crashed (SIGSEGV)", "misshapen"},
}
#: Those of which it tries them all.
THOROUGH = [
    "imagecodecs-avif",
    "imagecodecs-blosc",
    "imagecodecs-bmp",
    "imagecodecs-jpeg8",
    "imagecodecs-jpegxr",
    "imagecodecs-lerc",
    "imagecodecs-qoi",
    "imagecodecs-spng",
    "imagecodecs-tiff",
    "imagecodecs-webp",
    "imagecodecs-zfp",
    "numcodecs-blosc",
    "opencv-jpeg",
]

#: Reads beyond its stream and writes until memory, time or the address space ends, or until what it reads stops it.
RUNAWAY = "imagecodecs-zfp"
STOPPED = {Outcome.CRASHED, Outcome.EXHAUSTED, Outcome.HUNG, Outcome.REFUSED}
#: What lies behind a buffer may be the same twice.
IMAGES = {Outcome.UNSTABLE, Outcome.DEGRADED, Outcome.INTACT}


@pytest.fixture
def subject(tmp_path) -> Callable[..., Subject]:
    made: list[Subject] = []

    def make(name: str, effort: Effort, limits: Limits = LIMITS) -> Subject:
        codec, seen = CODECS[name], SURVEY[name]["version"]
        if reason := codec.missing():
            pytest.skip(reason)
        here = importlib.metadata.version(codec.distribution)
        if here != seen:
            pytest.skip(f"{codec.distribution} is {here} here; what fails was seen with {seen}")
        image, pixels = next(iter(photographs(64).items()))
        spec = CodecSpec(name, Target(codec.__module__, codec.__qualname__))
        # One small image, so that a search of every bit meets the survey's own streams.
        made.append(Subject(spec, images={image: pixels}, directory=tmp_path, effort=effort, limits=limits))
        return made[-1]

    yield make
    for each in made:
        each.close()


def found(result: SearchResult) -> Counter[str]:
    """How many streams failed, by kind."""
    counts: Counter[str] = Counter()
    for each in result.kinds:
        counts[kind(str(each.failure))] += each.count
    return counts


def surveyed(name: str, damage: str) -> Counter[str]:
    """The same, as the survey saw it."""
    counts: Counter[str] = Counter()
    for failure, row in SURVEY[name]["failures"].items():
        counts[kind(failure)] += row[damage]
    return +counts


def check_replays(subject: Subject, result: SearchResult, tmp_path) -> None:
    """Each counterexample is one flip, and comes again from its file."""
    for number, each in enumerate(result.kinds):
        evidence = Evidence(subject, "decode.survives.header-flips", f"case {number}", tmp_path / "replay")
        evidence.counterexample(each.example)
        stored = load_replay(tmp_path / "replay" / f"case-{number}{SUFFIX}")
        assert stored.outcome is each.failure.outcome
        assert len(stored.pattern.flips) == 1
        assert stored.pattern.keep is None
        replayed = run_replay(stored)
        expected = {each.failure.outcome}
        if each.failure.outcome is Outcome.UNSTABLE:
            expected = IMAGES
        elif subject.name == RUNAWAY:
            expected = STOPPED
        assert replayed.outcome in expected, replayed.message


@pytest.mark.parametrize("name", sorted(BRITTLE))
def test_each_kind_of_failure_of_a_brittle_decoder_is_found_and_replayed(subject, tmp_path, name):
    tested = subject(name, BRIEF)
    result = search_header(tested)
    assert set(found(result)) >= BRITTLE[name], str(result)
    check_replays(tested, result, tmp_path)


@pytest.mark.parametrize("name", THOROUGH)
def test_every_flip_that_fails_is_found_and_replayed(subject, tmp_path, name):
    # On a busy machine, memory takes its time to run out.
    tested = subject(name, EFFORT, replace(LIMITS, seconds=10))
    result = search_header(tested)
    assert result.streams == result.planned, str(result)
    seen, now = surveyed(name, "flip"), found(result)
    # What lies behind a buffer and how long memory takes are the machine's; whether a decoder fails hardly is.
    for counts in (seen, now):
        del counts["unstable"]
    assert now.total() == pytest.approx(seen.total(), rel=0.05, abs=2), f"{now} in place of {seen}"
    assert set(now) >= {failed for failed, count in seen.items() if count > 5 or failed in ("raised", "misshapen")}
    check_replays(tested, result, tmp_path)


def test_a_sound_library_is_not_blamed(subject):
    for name in ("imagecodecs-png", "simplejpeg", "numcodecs-zstd"):
        tested = subject(name, FEW)
        for result in (search_header(tested), search(tested, draws.truncations), search(tested, draws.mixed)):
            assert not result.kinds, f"{name}: {result}"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("imagecodecs-blosc", {"unstable"}),
        ("imagecodecs-jpegls", {"hung"}),
        ("imagecodecs-tiff", {"raised"}),
        ("imagecodecs-zfp", {"unstable"}),
        ("compressai-hyperprior", {"unstable"}),
    ],
)
def test_what_a_cut_stream_does_is_found(subject, name, kinds):
    result = search(subject(name, FEW), draws.truncations)
    assert set(found(result)) >= kinds, str(result)
    for each in result.kinds:
        assert not len(each.example.pattern.flips)
        assert each.example.pattern.keep is not None


@pytest.mark.parametrize("name", ["imagecodecs-sz3", "imagecodecs-tiff"])
def test_many_flips_shrink_to_the_one_that_does_it(subject, name):
    result = search(subject(name, FEW), draws.bit_flips)
    assert result.kinds
    for each in result.kinds:
        # Memory may run out by two flips of which neither does it alone.
        assert len(each.example.pattern.flips) <= 2 or not each.least, str(each)
    worst = result.kinds[0]
    assert worst.failure.outcome in (Outcome.CRASHED, Outcome.RAISED)
    assert len(worst.example.pattern.flips) == 1


def test_a_refusal_that_takes_seconds_is_more_than_a_decoder_may_take(subject):
    tested = subject("imagecodecs-jpegls", FEW, Limits(seconds=60, memory=2**29))
    (clean, *_) = tested.small.values()
    decoded = tested.decode(clean.bitstream[: len(clean.bitstream) * 9 // 10], shape=clean.shape)
    assert decoded.outcome is Outcome.REFUSED
    slowest = tested.work.slowest
    assert slowest.beyond
    assert slowest.taken > 100 * slowest.clean


def test_the_command_shows_a_crash_again(subject, tmp_path):
    tested = subject("imagecodecs-bmp", EFFORT)
    worst = search_header(tested).kinds[0]
    assert kind(str(worst.failure)) == "crashed (SIGSEGV)"
    Evidence(tested, "decode.survives.header-flips", "worst", tmp_path).counterexample(worst.example)
    again = CliRunner().invoke(main, ["replay", str(tmp_path / f"worst{SUFFIX}")])
    assert again.exit_code == 0, again.output
    assert "now:    crashed" in again.output
