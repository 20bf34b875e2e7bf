"""Trials: one damaged stream decoded and judged. And the codec under test, which runs each set of trials once
and keeps the results for every check that asks."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import channels, quality
from robustkit.codec import EncodeError, Image, Layout
from robustkit.errors import RobustkitError
from robustkit.isolation import CodecWorkers, Decoded, Limits
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.profile import Profile
from robustkit.registry import CodecSpec

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

#: Streams handed to ``decode_many`` at a time, so that a long run shows progress and holds few images.
CHUNK = 48
#: Side length of the crops that Hypothesis damages: decoding them is cheap, so that it can try many.
SMALL = 64


@dataclass(frozen=True)
class Clean:
    """A clean round trip of one image.

    Attributes:
        image: its name.
        original: uint8, H x W x 3.
        bitstream: what the codec wrote.
        layout: the bitstream's regions.
        decoded: what became of it.
        quality: against the original in the profile's metric, ``None`` without an image.
    """

    image: str
    original: Image = field(repr=False)
    bitstream: bytes = field(repr=False)
    layout: Layout = field(repr=False)
    decoded: Decoded = field(repr=False)
    quality: float | None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.original.shape[0], self.original.shape[1]

    @property
    def bits(self) -> int:
        """Length of the bitstream."""
        return 8 * len(self.bitstream)

    @property
    def bpp(self) -> float:
        """Rate in bits per pixel of the original."""
        return self.bits / (self.shape[0] * self.shape[1])

    def judge(self, decoded: Decoded) -> Outcome:
        """The outcome of decoding a damaged version of this stream."""
        if decoded.outcome is not None:
            return decoded.outcome
        assert decoded.image is not None
        reference = self.decoded.image
        same = reference is not None and np.array_equal(reference, decoded.image)
        return Outcome.INTACT if same else Outcome.DEGRADED


@dataclass(frozen=True)
class Trial:
    """One damaged stream, decoded and judged.

    Attributes:
        codec, image, channel, number: what the trial's generator was seeded with.
        pattern: the damage.
        outcome: what happened.
        quality: against the original; ``None`` without an image.
        drop: quality lost against the clean decode, positive where it got worse; ``None`` without an image.
        message: what the worker said.
    """

    codec: str
    image: str
    channel: str
    number: int
    pattern: ErrorPattern = field(repr=False)
    outcome: Outcome
    quality: float | None
    drop: float | None
    message: str = ""


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


@dataclass(frozen=True)
class SearchEffort:
    """How hard Hypothesis looks for a counterexample.

    Attributes:
        examples: damaged streams a claim.
        seed: of the search; the same seed tries the same streams.
        shrink_seconds: time for making a counterexample smaller.
    """

    examples: int
    seed: int | str = 0
    shrink_seconds: float = 60.0


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


class CleanRoundTripFailed(RobustkitError, RuntimeError):
    """An image could not be encoded, or its clean stream not decoded; the message names it and says why.

    Attributes:
        clean: the round trip, where encoding worked.
    """

    def __init__(self, message: str, clean: Clean | None = None) -> None:
        super().__init__(message)
        self.clean = clean


def quiet(text: str) -> None:
    """Progress that nobody watches."""


class CodecUnderTest:
    """One codec, its worker processes, and everything already measured on it.

    Args:
        spec: which codec, with which settings.
        images: what to encode, by name; uint8, H x W x 3.
        directory: where streams are kept.
        profile: promises that take the place of the codec's own.
        trials: trials an image and severity.
        effort: how hard Hypothesis searches.
        limits: time and memory of one decode.
        device: "cpu" or "cuda".
        progress: called with a line of text now and then.
    """

    def __init__(
        self,
        spec: CodecSpec,
        *,
        images: Mapping[str, Image],
        directory: Path,
        profile: Profile | None = None,
        trials: int = 5,
        effort: SearchEffort,
        limits: Limits | None = None,
        device: str = "cpu",
        seed: int = 0,
        progress: Callable[[str], None] = quiet,
    ) -> None:
        self.spec = spec
        self.images = dict(images)
        self.directory = directory
        self.trials_per_image = trials
        self.effort = effort
        self.limits = limits if limits is not None else Limits()
        self.device = device
        self.seed = seed
        self.progress = progress
        self._given_profile = profile
        self._trials: dict[str, list[Trial]] = {}
        self._processes: list[CodecWorkers] = []

    @property
    def name(self) -> str:
        """As it was asked for: ``--codec NAME``."""
        return self.spec.name

    @cached_property
    def own_name(self) -> str:
        """The codec's own name, which seeds its trials and names its golden folder."""
        return self.workers.attributes.name

    @property
    def known_defects(self) -> Mapping[str, str]:
        """Where the codec's known defects are reported, by outcome or claim."""
        return self.workers.attributes.known_defects

    @cached_property
    def workers(self) -> CodecWorkers:
        """The processes that decode."""
        return self.fresh_workers()

    def fresh_workers(self, *, workers: int = 1) -> CodecWorkers:
        """Another pool of processes, sharing nothing with the others; closed with this object at the latest."""
        pool = CodecWorkers(
            self.spec,
            workers=workers,
            limits=self.limits,
            directory=self.directory / "streams",
            device_is_cuda=self.device == "cuda",
        )
        self._processes.append(pool)
        return pool

    def close(self) -> None:
        """End every worker process."""
        while self._processes:
            self._processes.pop().close()

    @cached_property
    def declared(self) -> Profile | None:
        """The codec's own promises."""
        return self.workers.profile()

    @property
    def profile(self) -> Profile | None:
        """The promises to judge by: the given ones, or else the codec's own."""
        return self._given_profile if self._given_profile is not None else self.declared

    @property
    def loosened(self) -> list[str]:
        """What the given profile allows beyond the codec's own; with any of it, nothing certifies."""
        if self._given_profile is None or self.declared is None:
            return []
        return self._given_profile.loosened_from(self.declared)

    @property
    def metric(self) -> str:
        """The quality metric of the promises."""
        return self.profile.metric if self.profile is not None else "psnr"

    def measure(self, original: Image, image: Image) -> float:
        """Quality of ``image`` in the profile's metric."""
        return quality.measure(self.metric, original, image)

    def drop(self, clean: float, damaged: float) -> float:
        """Quality lost, positive where ``damaged`` is the worse."""
        return clean - damaged if quality.METRICS[self.metric].higher_is_better else damaged - clean

    def round_trip(self, image: str, original: Image) -> Clean:
        """Encode and decode one image.

        Raises:
            CleanRoundTripFailed: one of the two did not work.
        """
        try:
            bitstream = self.workers.encode(original)
        except EncodeError as error:
            raise CleanRoundTripFailed(f"{image}: the codec refuses the image: {error}") from error
        except Exception as error:
            raise CleanRoundTripFailed(f"{image}: encoding failed: {error}") from error
        shape = (original.shape[0], original.shape[1])
        try:
            layout = self.workers.layout(bitstream)
        except Exception as error:
            raise CleanRoundTripFailed(f"{image}: layout failed: {error}") from error
        decoded = self.workers.decode(bitstream, shape=shape)
        score = None if decoded.image is None else self.measure(original, decoded.image)
        clean = Clean(image, original, bitstream, layout, decoded, score)
        if decoded.outcome is not None:
            raise CleanRoundTripFailed(
                f"{image}: decoding the clean stream: {decoded.outcome}: {decoded.message}", clean
            )
        if layout.bits != clean.bits:
            raise CleanRoundTripFailed(
                f"{image}: layout speaks of {layout.bits} bits, the stream has {clean.bits}", clean
            )
        return clean

    @cached_property
    def _clean(self) -> dict[str, Clean] | CleanRoundTripFailed:
        done = {}
        for name, original in self.images.items():
            try:
                done[name] = self.round_trip(name, original)
            except CleanRoundTripFailed as failed:
                return failed
            self.progress(f"clean round trip: {len(done)} of {len(self.images)}")
        return done

    @property
    def clean(self) -> dict[str, Clean]:
        """The clean round trip of each image, run once.

        Raises:
            CleanRoundTripFailed: one of them did not work.
        """
        if isinstance(self._clean, CleanRoundTripFailed):
            raise self._clean
        return self._clean

    @property
    def clean_quality(self) -> float:
        """Mean quality of the clean decodes."""
        return float(np.mean([c.quality for c in self.clean.values() if c.quality is not None]))

    @property
    def clean_bpp(self) -> float:
        """Mean rate of the clean streams, in bits per pixel."""
        return float(np.mean([c.bpp for c in self.clean.values()]))

    @property
    def unsound(self) -> str | None:
        """Why nothing else can be said of the codec: its clean round trip fails, or breaks its promise."""
        try:
            measured, rate = self.clean_quality, self.clean_bpp
        except CleanRoundTripFailed as failed:
            return str(failed)
        if self.profile is None:
            return None
        short = self.drop(self.profile.quality, measured) > 0
        if short:
            return f"clean {self.metric} is {measured:.3f}, declared {self.profile.quality:g}"
        if rate > self.profile.bpp:
            return f"the clean rate is {rate:.4f} bpp, declared {self.profile.bpp:g}"
        return None

    @cached_property
    def small(self) -> dict[str, Clean]:
        """Clean round trips of small centre crops, for the search; of whole images where those are refused."""
        found = {}
        for name, original in list(self.images.items())[:2]:
            top, left = (max(0, (side - SMALL) // 2) for side in original.shape[:2])
            crop = np.ascontiguousarray(original[top : top + SMALL, left : left + SMALL])
            try:
                found[name] = self.round_trip(name, crop)
            except CleanRoundTripFailed:
                found[name] = self.clean[name]
        return found

    def trials(self, channel: str) -> list[Trial]:
        """The seeded trials of one channel severity, run once: ``trials`` for each image."""
        if channel not in self._trials:
            self._trials[channel] = self._run(channel)
        return self._trials[channel]

    def _run(self, channel: str) -> list[Trial]:
        noise = channels.parse(channel)
        drawn: list[tuple[Clean, int, ErrorPattern]] = []
        for clean in self.clean.values():
            for number in range(self.trials_per_image):
                rng = channels.generator(self.own_name, clean.image, noise.name, number, seed=self.seed)
                drawn.append((clean, number, noise.sample(clean.bits, rng, clean.layout)))
        # Equal shapes side by side, so that whole batches share one.
        drawn.sort(key=lambda job: job[0].shape)
        done: list[Trial] = []
        for start in range(0, len(drawn), CHUNK):
            chunk = drawn[start : start + CHUNK]
            for (clean, number, pattern), decoded in zip(chunk, self.decode_all(chunk), strict=True):
                done.append(self._judged(clean, channel, number, pattern, decoded))
            self.progress(f"{channel}: {len(done)} of {len(drawn)} trials")
        return done

    def _judged(self, clean: Clean, channel: str, number: int, pattern: ErrorPattern, decoded: Decoded) -> Trial:
        """The trial that ``decoded`` makes, measured where there is an image."""
        outcome = clean.judge(decoded)
        score = drop = None
        if decoded.image is not None and outcome.has_image:
            score = self.measure(clean.original, decoded.image)
            assert clean.quality is not None
            drop = self.drop(clean.quality, score)
        return Trial(self.own_name, clean.image, channel, number, pattern, outcome, score, drop, decoded.message)

    def decode_all(self, jobs: Sequence[tuple[Clean, int, ErrorPattern]]) -> list[Decoded]:
        """Decode damaged streams in batches of one shape; a stream that arrived unharmed is the clean one."""
        results: list[Decoded | None] = [c.decoded if p.harmless else None for c, _, p in jobs]
        for shape in sorted({clean.shape for clean, _, _ in jobs}):
            here = [i for i, (c, _, _) in enumerate(jobs) if c.shape == shape and results[i] is None]
            streams = [jobs[i][2].apply(jobs[i][0].bitstream) for i in here]
            for i, decoded in zip(here, self.workers.decode_many(streams, shape=shape), strict=True):
                results[i] = decoded
        return [r for r in results if r is not None]

    def search(self, damage: Callable[[Layout], SearchStrategy[ErrorPattern]]) -> SearchResult:
        """Let Hypothesis look for damage to the small streams that breaks decoding.

        Args:
            damage: the strategy for a stream of that layout.
        """
        from hypothesis import strategies as st

        cases = st.sampled_from(sorted(self.small)).flatmap(
            lambda name: st.tuples(st.just(name), damage(self.small[name].layout))
        )

        def example(case: tuple[str, ErrorPattern]) -> Counterexample:
            clean = self.small[case[0]]
            stream = case[1].apply(clean.bitstream)
            return Counterexample(clean, case[1], stream, self.workers.decode(stream, shape=clean.shape))

        return self._find(cases, example)

    def search_garbage(self, garbage: SearchStrategy[bytes]) -> SearchResult:
        """Let Hypothesis look for bytes, no stream of anybody's, that break decoding."""
        return self._find(garbage, lambda b: Counterexample(None, None, b, self.workers.decode(b)))

    def _find(self, strategy: SearchStrategy[Any], example: Callable[[Any], Counterexample]) -> SearchResult:
        import random

        from hypothesis import find, settings
        from hypothesis.errors import NoSuchExample

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
            outcome = tried.decoded.outcome
            if outcome is None:
                intact = tried.clean is not None and tried.clean.judge(tried.decoded) is Outcome.INTACT
                outcome = Outcome.INTACT if intact else Outcome.DEGRADED
            outcomes[outcome] += 1
            if outcome in self.known_defects:
                known.setdefault(outcome, tried)
            if not outcome.failure or outcome in self.known_defects:
                passing.add(value)
                return False
            if not failing:
                give_up = time.monotonic() + self.effort.shrink_seconds
            failing[value] = last = tried
            return True

        try:
            find(
                strategy,
                breaks,
                settings=settings(max_examples=self.effort.examples, deadline=None, database=None),
                random=random.Random(self.effort.seed),
            )
        except NoSuchExample:
            return SearchResult(outcomes, None, known)
        return SearchResult(outcomes, last, known)

    def smallest(self, trial: Trial, still: Callable[[Trial], bool], *, budget: int = 64) -> Trial:
        """The trial with as few flips as still do what ``still`` asks."""
        from robustkit.minimise import minimise

        clean = self.clean[trial.image]

        def run(pattern: ErrorPattern) -> Trial:
            decoded = self.workers.decode(pattern.apply(clean.bitstream), shape=clean.shape)
            return self._judged(clean, trial.channel, trial.number, pattern, decoded)

        found = minimise(trial.pattern, lambda pattern: still(run(pattern)), budget=budget)
        return run(found)


def slug(text: str) -> str:
    """``text`` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.") or "x"
