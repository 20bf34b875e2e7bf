"""The codec under test: its worker processes, its clean round trips, and the trials that it went through."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustkit import quality
from robustkit.channels import Channel
from robustkit.codec import Codec, DecodeError, EncodeError, Image
from robustkit.errors import RobustkitError
from robustkit.isolation import Decoded, Limits, WorkerError, fingerprint
from robustkit.judging import assess
from robustkit.judging.assess import Assessment, Rule
from robustkit.judging.effort import CLEAR, EFFORTS, STEP, Effort, Sizes, cost_of
from robustkit.judging.golden_files import Tolerance
from robustkit.judging.once import Once
from robustkit.judging.opinion import Group, Opinions, sampled
from robustkit.judging.processes import Processes
from robustkit.judging.trial import Clean, Trial
from robustkit.judging.work import Work
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.profile import Profile, Promise
from robustkit.registry import CodecSpec

#: Streams handed to ``decode_many`` at a time, so that a long run shows progress and holds few images.
CHUNK = 48
#: Pixels of trials up to which twice as many are: fewer and larger batches, and fewer waits of one process for another.
PIXELS = 1 << 23
#: Cost of a clean decode above which several processes decode side by side.
CROWDED = 0.25
#: Height and width of the crops that the searches damage, because decoding them is cheap: two squares, odd sides, and
#: one thinner than a block.
SMALL = ((64, 64), (64, 64), (61, 43), (7, 130))
#: Of those that are only encoded and decoded unharmed.
THIN = ((1, 64), (64, 1))
#: Decodes by which a decode's cost is known: of one that takes less than so many seconds, and of others.
_TIMED = ((0.05, 5), (0.5, 3), (math.inf, 1))


class CleanRoundTripFailed(RobustkitError, RuntimeError):
    """An image could not be encoded, or its clean stream not decoded; the message names it and says why.

    Attributes:
        clean: the round trip, where encoding worked.
        refused: whether the codec does not take the image, and says so.
    """

    def __init__(self, message: str, clean: Clean | None = None, *, refused: bool = False) -> None:
        super().__init__(message)
        self.clean = clean
        self.refused = refused


class Job(NamedTuple):
    """A trial to run: which image, through which channel, and its number, from 0; its seed, if not the run's."""

    image: str
    channel: Channel
    number: int
    seed: int | None = None


def quiet(text: str) -> None:
    """Progress that nobody watches."""


class Subject(Processes):
    """One codec, its worker processes, and everything already measured on it.

    Args:
        spec: which codec, with which settings.
        images: what to encode, by name; uint8, H x W x 3.
        directory: where streams are kept.
        profile: promises that take the place of the codec's own.
        metric: of quality; by default the profile's, or "psnr".
        more_metrics: others that are measured beside it.
        trials: the most trials for each image and severity; by default as many as ``effort`` has over all images.
        effort: what is spent on trials and searches.
        search_seed: of the searches; the same seed tries the same streams.
        limits: time and memory of one decode.
        workers: processes that decode.
        seed: of the trials.
        progress: called with a line of text now and then.
        second_opinion: whether a second process is asked of what trials decode to; if not, of crashes alone.
        spread: whether several processes take the place of one that decodes slowly.
    """

    def __init__(
        self,
        spec: CodecSpec,
        *,
        images: Mapping[str, Image],
        directory: Path,
        profile: Profile | None = None,
        metric: str | None = None,
        more_metrics: Sequence[str] = (),
        trials: int | None = None,
        effort: Effort = EFFORTS["quick"],
        search_seed: int | str = 0,
        limits: Limits | None = None,
        workers: int = 1,
        seed: int = 0,
        progress: Callable[[str], None] = quiet,
        second_opinion: bool = True,
        spread: bool = False,
    ) -> None:
        super().__init__(spec, directory=directory, limits=limits, workers=workers)
        self.images = dict(images)
        self.trials_per_image = trials or math.ceil(effort.trials / max(1, len(images)))
        self.effort = effort
        self.search_seed = search_seed
        self.seed = seed
        self.progress = progress
        self._given_profile = profile
        self._given_metric = metric
        self._more_metrics = tuple(more_metrics)
        self._second_opinion = second_opinion
        self._may_spread = spread
        self._streams: dict[str, bytes] = {}
        self._trials: dict[Channel, list[Trial]] = {}
        #: Failing streams that were kept, as :class:`robustkit.judging.evidence.Kept` has them.
        self.kept: list[Any] = []
        self._measuring = threading.Lock()

    @cached_property
    def work(self) -> Work:
        """What decoding damaged streams has cost so far."""
        return Work(self.profile)

    @cached_property
    def opinions(self) -> Opinions:
        """Who decodes damaged streams."""
        return Opinions(self.workers, lambda: self.elsewhere, self.work, self.limits.seconds)

    @cached_property
    def once(self) -> Once:
        """Who decodes the streams of trials where no second process is asked of images."""
        return Once(self.workers)

    def take(self, images: Mapping[str, Image], streams: Mapping[str, bytes] | None = None) -> None:
        """Go over to other images, with the same processes; what was measured on the former is forgotten.

        Args:
            images: as the constructor takes them.
            streams: clean streams of theirs that are known; these images are not encoded again.
        """
        self.images = dict(images)
        self._streams = dict(streams or {})
        self._trials.clear()
        for measured in ("_clean", "small", "crops", "decode_seconds", "sizes", "promised_trials", "assessments"):
            self.__dict__.pop(measured, None)

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
        """The quality metric that is measured."""
        if self._given_metric is not None:
            return self._given_metric
        return self.profile.metric if self.profile is not None else "psnr"

    @property
    def metrics(self) -> list[str]:
        """All that are measured, :attr:`metric` first."""
        return list(dict.fromkeys([self.metric, *self._more_metrics]))

    def drop(self, clean: float, damaged: float, metric: str | None = None) -> float:
        """Quality lost in ``metric``, by default :attr:`metric`; positive where ``damaged`` is the worse."""
        return clean - damaged if quality.METRICS[metric or self.metric].higher_is_better else damaged - clean

    def _measured(self, original: Image, decoded: Decoded) -> dict[str, float]:
        if decoded.image is None:
            return {}
        return {metric: quality.measure(metric, original, decoded.image) for metric in self.metrics}

    def check_metric(self) -> None:
        """Find out, before anything is decoded, whether the metrics can measure every image.

        Raises:
            UnknownMetric: there is no such metric.
            MetricUnavailable: it can't run here.
            ValueError: it can't take images of this size.
        """
        for original in self.images.values():
            for metric in self.metrics:
                quality.check(metric, original)

    def round_trip(self, image: str, original: Image, *, measure: bool = True) -> Clean:
        """Encode and decode one image.

        Args:
            image: its name.
            original: uint8, H x W x 3.
            measure: whether to measure quality, which a small crop may not have in every metric.

        Raises:
            CleanRoundTripFailed: one of the two did not work, by the codec's own doing. What else goes wrong is not.
        """
        try:
            bitstream = self._streams[image] if image in self._streams else self.workers.encode(original)
        except EncodeError as error:
            raise CleanRoundTripFailed(f"{image}: the codec refuses the image: {error}", refused=True) from error
        except WorkerError as error:
            raise CleanRoundTripFailed(f"{image}: encoding failed: {error}") from error
        shape = (original.shape[0], original.shape[1])
        try:
            layout = self.workers.layout(bitstream)
        except (DecodeError, WorkerError) as error:
            raise CleanRoundTripFailed(f"{image}: layout failed: {error}") from error
        decoded = self.workers.decode(bitstream, shape=shape)
        with self._measuring:
            metrics = self._measured(original, decoded) if measure else {}
        clean = Clean(image, original, bitstream, layout, decoded, metrics)
        if decoded.outcome is not None:
            raise CleanRoundTripFailed(
                f"{image}: decoding the clean stream: {decoded.outcome}: {decoded.message}", clean
            )
        if layout.bits != clean.bits:
            raise CleanRoundTripFailed(
                f"{image}: layout speaks of {layout.bits} bits, the stream has {clean.bits}", clean
            )
        with self._measuring:
            self.work.know(clean)
        return clean

    @cached_property
    def _clean(self) -> dict[str, Clean] | CleanRoundTripFailed:
        done = {}
        try:
            for name, original in islice(self.images.items(), 1):
                done[name] = self.round_trip(name, original)
                if self._spread(done[name]):
                    done[name] = self.round_trip(name, original)
            others = [(name, original) for name, original in self.images.items() if name not in done]
            with ThreadPoolExecutor(len(self.workers.pids)) as executor:
                for clean in executor.map(lambda other: self.round_trip(*other), others):
                    done[clean.image] = clean
                    self.progress(f"clean round trip: {len(done)} of {len(self.images)}")
        except CleanRoundTripFailed as failed:
            return failed
        return done

    def _spread(self, clean: Clean) -> bool:
        """Go over to several processes where decoding is slow; whether that was done.

        Threads of one wait for each other. A codec without a ``decode_batch`` of its own, or on a device, has none.
        """
        begun = {"opinions", "once", "crops"} & vars(self).keys()
        slow = self.workers.batched and self.device == "cpu" and cost_of([clean.decoded]) > CROWDED
        return self._may_spread and slow and not begun and self.crowd()

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
        return float(np.mean([c.metrics[self.metric] for c in self.clean.values()]))

    @property
    def clean_bpp(self) -> float:
        """Mean rate of the clean streams, in bits per pixel."""
        return float(np.mean([c.bpp for c in self.clean.values()]))

    @property
    def unsound(self) -> str | None:
        """Why nothing else can be said of the codec: its clean round trip fails."""
        try:
            _ = self.clean
        except CleanRoundTripFailed as failed:
            return str(failed)
        return None

    @cached_property
    def small(self) -> dict[str, Clean]:
        """Clean round trips of small crops, for the searches; and of a whole image where neither square works."""
        tried = {label: self.crops[label] for label in self._labels(SMALL)}
        found = {label: crop for label, crop in tried.items() if isinstance(crop, Clean)}
        if not any(label in found for label in self._labels(SMALL[:2])):
            name = next(iter(self.images))
            found = {name: self.clean[name], **found}
        return found

    @cached_property
    def crops(self) -> dict[str, Clean | CleanRoundTripFailed]:
        """The round trip of each crop of :data:`SMALL` and :data:`THIN`, or why it did not work, by image and size."""
        labels = self._labels((*SMALL, *THIN))
        with ThreadPoolExecutor(len(self.workers.pids)) as executor:
            return dict(zip(labels, executor.map(lambda crop: self._crop(*crop), labels.values()), strict=True))

    def _labels(self, sizes: Sequence[tuple[int, int]]) -> dict[str, tuple[str, tuple[int, int]]]:
        """Image and size of each crop, one image after the other; of small images, as much as there is."""
        found = {}
        for name, size in zip(cycle(self.images), sizes, strict=False):
            height, width = (min(side, whole) for side, whole in zip(size, self.images[name].shape[:2], strict=True))
            found[f"{name} {width}x{height}"] = name, (height, width)
        return found

    def _crop(self, name: str, size: tuple[int, int]) -> Clean | CleanRoundTripFailed:
        original = self.images[name]
        top, left = (max(0, (side - part) // 2) for side, part in zip(original.shape[:2], size, strict=True))
        crop = np.ascontiguousarray(original[top : top + size[0], left : left + size[1]])
        try:
            return self.round_trip(name, crop, measure=False)
        except CleanRoundTripFailed as failed:
            return failed

    @cached_property
    def decode_seconds(self) -> float:
        """What decoding a small stream costs, see :func:`~robustkit.judging.effort.cost`: the mean of two streams'."""
        costs = []
        for clean in list(self.small.values())[:2]:
            again = next(repeats for seconds, repeats in _TIMED if cost_of([clean.decoded]) < seconds)
            streams = [clean.bitstream] * again
            if self.workers.batched and clean.bits:
                # Streams that are the same could share their work.
                flips = np.linspace(0, clean.bits, 16, endpoint=False, dtype=np.int64)[8:, None]
                streams = [ErrorPattern(clean.bits, flip).apply(clean.bitstream) for flip in flips]
            found = self.workers.decode_many(streams, shape=clean.shape)
            costs.append(cost_of([clean.decoded, *(decoded for decoded in found if decoded.outcome is None)]))
        return float(np.mean(costs))

    @cached_property
    def sizes(self) -> Sizes:
        """How many streams the searches try: by the effort and the cost of a decode."""
        return self.effort.sized(0.0 if self.effort.examples is not None else self.decode_seconds)

    def jobs(self, channel: Channel, first: int = 0, last: int | None = None) -> list[Job]:
        """The trials of one channel severity, those of equal shape side by side, so that whole batches share one.

        Args:
            first, last: of the rounds, ``last`` not among them; by default all that the effort has. A round is one
                trial of each image.
        """
        names = sorted(self.clean, key=lambda name: self.clean[name].shape)
        rounds = range(first, self.trials_per_image if last is None else last)
        return [Job(name, channel, number) for name in names for number in rounds]

    def trials(self, channel: Channel) -> list[Trial]:
        """The seeded trials of one channel severity, run once, a few rounds at a time.

        There are as many as decide what the profile promises of the channel, and ``trials_per_image`` for each image
        at the most, or where nothing is promised of it. When is asked depends on nothing but the promise's limits and
        the number of images, so every run has the same trials.
        """
        if channel not in self._trials:
            promise = next((p for p in self._promises if p.channel == channel), None)
            done: list[Trial] = []
            self._trials[channel] = done
            while (rounds := self._rounds(channel)) < self.trials_per_image:
                if promise is not None and rounds >= self._first_look(channel):
                    judged = assess.quantities(promise, done, self.metric)
                    if all(quantity.decided(self.rule) for quantity in judged):
                        break
                self._more(channel)
        return self._trials[channel]

    @cached_property
    def promised_trials(self) -> dict[Channel, list[Trial]]:
        """The trials of all promises: more of each where the share refused in all of them is not decided else."""
        found = {promise.channel: self.trials(promise.channel) for promise in self._promises}
        while found and self.profile is not None:
            shortest = min(found, key=self._rounds)
            if self._rounds(shortest) >= self.trials_per_image:
                break
            if assess.refused(self.profile, found).decided(self.rule):
                break
            self._more(shortest)
        return found

    @cached_property
    def assessments(self) -> list[Assessment]:
        """All promises, judged by one run's trials; see :func:`robustkit.judging.assess.assess`."""
        if self.profile is None:
            return []
        return assess.assess(self.profile, self.promised_trials, self.images, self.metric, self.rule)

    @property
    def judged(self) -> Mapping[Channel, Sequence[Trial]]:
        """The trials of all promises, where they have been run and judged; nothing is run for this."""
        return self.promised_trials if "assessments" in self.__dict__ else {}

    @property
    def round_trips(self) -> Mapping[str, Clean]:
        """The clean round trips, where they were run and worked; nothing is run for this."""
        found = self.__dict__.get("_clean", {})
        return {} if isinstance(found, CleanRoundTripFailed) else found

    @property
    def rule(self) -> Rule:
        """What evidence a verdict takes."""
        most = max(self.effort.trials, self.trials_per_image * len(self.images))
        return Rule() if self.profile is None else Rule.of(self.profile, most)

    @property
    def _promises(self) -> tuple[Promise, ...]:
        return () if self.profile is None else self.profile.promises

    def _first_look(self, channel: Channel) -> int:
        """Rounds of a channel after which it is first asked whether they decide."""
        promise = next((p for p in self._promises if p.channel == channel), None)
        trials = CLEAR if promise is None else assess.first_look(promise)
        return math.ceil(trials / max(1, len(self.images)))

    def _rounds(self, channel: Channel) -> int:
        return len(self._trials[channel]) // max(1, len(self.images))

    def _more(self, channel: Channel) -> None:
        """Run the next rounds of a channel: up to where it is first asked whether they decide, or a step further."""
        done = self._trials[channel]
        first = self._rounds(channel)
        least = self._first_look(channel)
        last = first + math.ceil(STEP / max(1, len(self.images))) if first >= least else least
        last = min(last, self.trials_per_image)
        for trial in self.run(self.jobs(channel, first, last)):
            done.append(trial)
            if len(done) % CHUNK == 0:
                most = self.trials_per_image * len(self.images)
                self.progress(f"{channel}: {len(done)} trials, {most} at the most")

    def run(self, jobs: Iterable[Job], *, keep: Callable[[Trial, Image], None] | None = None) -> Iterator[Trial]:
        """Run trials in the order of ``jobs``, a chunk at a time; each is what it would be alone, or in any order.

        Args:
            jobs: any trials of this codec's images.
            keep: called with each trial that gave an image, and the image; no image is kept otherwise.

        Raises:
            ChannelError: a channel can't be drawn for a stream.
        """
        waiting = iter(jobs)
        largest = max((math.prod(clean.shape) for clean in self.clean.values()), default=1)
        size = max(CHUNK, min(2 * CHUNK, PIXELS // largest))
        while chunk := list(islice(waiting, size)):
            drawn = [(self.clean[job.image], self.pattern(job)) for job in chunk]
            sample = [self._sampled(job) for job in chunk]
            for job, (clean, pattern), decoded in zip(chunk, drawn, self.decode_all(drawn, sample), strict=True):
                trial = self._judged(job, clean, pattern, decoded)
                if keep is not None and decoded.image is not None:
                    keep(trial, decoded.image)
                yield trial

    def _sampled(self, job: Job) -> bool:
        """Whether a trial's image is looked at twice, whatever it costs."""
        names = list(self.images)
        position = job.number * len(names) + names.index(job.image)
        return sampled(position, self.trials_per_image * len(names))

    def pattern(self, job: Job) -> ErrorPattern:
        """The damage of a trial."""
        clean = self.clean[job.image]
        return job.channel.draw(
            clean.bits, clean.layout, codec=self.own_name, image=job.image, trial=job.number, seed=self._seed(job)
        )

    def _seed(self, job: Job) -> int:
        return self.seed if job.seed is None else job.seed

    def _judged(self, job: Job, clean: Clean, pattern: ErrorPattern, decoded: Decoded) -> Trial:
        """The trial that ``decoded`` makes, measured where there is an image."""
        outcome = clean.judge(decoded)
        # The pixels of the clean decode have its quality.
        metrics = dict(clean.metrics) if outcome is Outcome.INTACT else self._measured(clean.original, decoded)
        return Trial(
            self.own_name,
            job.image,
            job.channel,
            job.number,
            self._seed(job),
            pattern,
            outcome,
            clean.bpp,
            decoded.seconds,
            metrics,
            {name: self.drop(clean.metrics[name], value, name) for name, value in metrics.items()},
            decoded.message,
            decoded.failure,
            decoded.memory,
            "" if decoded.image is None else fingerprint(decoded.image),
            outcome is Outcome.DEGRADED and self._tolerates(clean, decoded),
        )

    def _tolerates(self, clean: Clean, decoded: Decoded) -> bool:
        """Whether the pixels lie no further from the clean decode's than the codec's tolerance, and the usual one.

        A codec may say that its pixels lie far apart between machines. That makes no other picture a rounded one.
        """
        assert clean.decoded.image is not None
        assert decoded.image is not None
        least = [min(pair) for pair in zip(self.tolerance, Codec.tolerance, strict=True)]
        return Tolerance(*least).admits(clean.decoded.image, decoded.image)

    def decode(self, stream: bytes, *, shape: tuple[int, int] | None = None) -> Decoded:
        """Decode one stream of a search; see :mod:`robustkit.judging.opinion` for what is asked of whom."""
        return self.opinions.decode(stream, shape=shape)

    def decode_each(self, streams: Sequence[tuple[bytes, tuple[int, int] | None]]) -> Iterator[tuple[int, Decoded]]:
        """Decode streams of a search, in batches of one shape where the codec has a ``decode_batch`` of its own.

        Args:
            streams: each with the height and width that its image must have, if that is known.

        Yields:
            Each stream's index and what came of it, as soon as it did.
        """
        if not self.workers.batched:
            yield from ((i, self.decode(stream, shape=shape)) for i, (stream, shape) in enumerate(streams))
            return
        places = [
            [i for i, (_, other) in enumerate(streams) if other == shape]
            for shape in dict.fromkeys(shape for _, shape in streams)
        ]
        groups = [
            Group([streams[i][0] for i in here], streams[here[0]][1], [sampled(i, len(here)) for i in range(len(here))])
            for here in places
        ]
        for here, decoded in zip(places, self.opinions.decode_groups(groups), strict=True):
            yield from zip(here, decoded, strict=True)

    def decode_all(
        self, damaged: Sequence[tuple[Clean, ErrorPattern]], sample: Sequence[bool] | None = None
    ) -> list[Decoded]:
        """Decode damaged streams in batches of one shape; a stream that arrived unharmed is the clean one.

        Args:
            damaged: round trips, and their damage.
            sample: of which a second process is asked, where that is not cheap; by default none.
        """
        chosen = [False] * len(damaged) if sample is None else sample
        results: list[Decoded | None] = [clean.decoded if pattern.harmless else None for clean, pattern in damaged]
        for shape in sorted({clean.shape for clean, _ in damaged}):
            here = [i for i, (clean, _) in enumerate(damaged) if clean.shape == shape and results[i] is None]
            streams = [damaged[i][1].apply(damaged[i][0].bitstream) for i in here]
            if self._second_opinion:
                decoded_here = self.opinions.decode_many(
                    streams,
                    shape=shape,
                    sample=[chosen[i] for i in here],
                    known=[damaged[i][0].decoded.image for i in here],
                )
            else:
                decoded_here = self.once.decode_many(streams, shape=shape)
            for i, decoded in zip(here, decoded_here, strict=True):
                results[i] = decoded
        return [r for r in results if r is not None]

    def smallest(self, trial: Trial, still: Callable[[Trial], bool], *, budget: int = 64) -> Trial:
        """The trial with as few flips as still do what ``still`` asks, after ``budget`` decodes at the most."""
        from robustkit.minimise import minimise

        clean = self.clean[trial.image]
        job = Job(trial.image, trial.channel, trial.number, trial.seed)

        def run(pattern: ErrorPattern) -> Trial:
            stream = pattern.apply(clean.bitstream)
            decoded = self.opinions.decode(stream, shape=clean.shape, certain=trial.outcome is Outcome.UNSTABLE)
            return self._judged(job, clean, pattern, decoded)

        found = minimise(trial.pattern, lambda pattern: still(run(pattern)), budget=budget)
        return run(found)


def slug(text: str) -> str:
    """``text`` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.") or "x"
