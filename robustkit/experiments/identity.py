"""What an experiment's rows depend on, by content; and the experiment's own file, which says it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import __version__, quality
from robustkit.codec import EncodeError, Image
from robustkit.codecs.ladder import STEPS
from robustkit.errors import RobustkitError
from robustkit.experiments import matchrate, setmetrics, store
from robustkit.experiments.matchrate import Matched, MatchError
from robustkit.experiments.pictures import Picture
from robustkit.experiments.plan import OPTIONAL, Entry, Plan, PlanError
from robustkit.isolation import CodecWorkers, Limits, WorkerError
from robustkit.quality import MetricUnavailable
from robustkit.registry import CodecSpec, CodecUnavailable, DuplicateCodec, UnknownCodec, registry

FILE = "experiment.json"
#: The table of matched rates, for people and programs; its column "codec" has the labels.
RATES = "rates.csv"
VERSION = 1
_NAMED = 4
#: Parts of a codec that is matched to a rate, which no loaded codec knows of.
_MATCHED = ("target bpp", "matched settings")


class ExperimentError(RobustkitError, ValueError):
    """A folder that is no experiment, or another one; the message says what differs and the way out."""


@dataclass(frozen=True)
class Resolved:
    """A codec in an experiment, as it was found on this machine.

    Attributes:
        entry: what was asked for.
        skipped: why it can't run here; empty where it can, and then the rest is known.
        name: the codec's own name, which seeds its trials.
        digest: of ``parts``.
        parts: what its rows depend on: settings, sources, versions, prior, device.
        batched: whether it decodes several streams together.
        matched: the settings that bring it to the entry's rate, image by image; none where there is no such rate.
    """

    entry: Entry
    skipped: str = ""
    name: str = ""
    digest: str = ""
    parts: Mapping[str, Any] = field(default_factory=dict)
    batched: bool = False
    matched: tuple[Matched, ...] = ()

    def settings(self, image: str) -> dict[str, Any]:
        """What it is built with for an image.

        Raises:
            ExperimentError: no rate was matched for it.
        """
        if self.entry.target_bpp is None:
            return dict(self.entry.settings)
        for row in self.matched:
            if row.image == image:
                return {**self.entry.settings, row.knob: row.value}
        raise ExperimentError(f"{self.entry.label} has no setting for {image}: give --out another folder")

    def differing(self, parts: Mapping[str, Any]) -> list[str]:
        """Which parts of a codec that was loaded are not what they are here."""
        if not self.matched:
            return [key for key in {**self.parts, **parts} if parts.get(key) != self.parts.get(key)]
        return [key for key in self.parts if key not in _MATCHED and parts.get(key) != self.parts[key]]


@dataclass(frozen=True)
class Speed:
    """Seconds that one image takes.

    Attributes:
        encode: to encode it.
        decode: to decode its clean stream.
        measure: to measure what was decoded, in all metrics.
    """

    encode: float
    decode: float
    measure: float


@dataclass(frozen=True)
class Experiment:
    """What a folder of rows is of.

    Attributes:
        plan: what is to run.
        pictures: the images.
        entries: the codecs, as they were found.
        metrics: by name, what is said of each.
        path: folders to import codecs from.
    """

    plan: Plan
    pictures: tuple[Picture, ...]
    entries: tuple[Resolved, ...]
    metrics: Mapping[str, Mapping[str, Any]]
    path: tuple[str, ...] = ()

    @property
    def running(self) -> list[Resolved]:
        """Those codecs that can run here."""
        return [found for found in self.entries if not found.skipped]

    def entry(self, label: str) -> Resolved:
        """The codec of that label."""
        return next(found for found in self.entries if found.entry.label == label)

    def picture(self, name: str) -> Picture:
        """The image of that name."""
        return next(picture for picture in self.pictures if picture.name == name)

    def write(self, folder: Path) -> None:
        """Put the experiment's file into ``folder``.

        Raises:
            RowsError: it can't be written.
        """
        found = {
            "experiment": VERSION,
            "plan": self.plan.to_json(),
            "pictures": [picture._asdict() for picture in self.pictures],
            "entries": [asdict(found) | {"entry": asdict(found.entry)} for found in self.entries],
            "metrics": self.metrics,
            "path": self.path,
        }
        text = json.dumps(found, indent=1, default=os.fspath)
        store.write_bytes(folder / FILE, text.encode())
        if rates := [replace(row, codec=found.entry.label) for found in self.entries for row in found.matched]:
            store.write_bytes(folder / RATES, matchrate.to_csv(rates).encode())

    @classmethod
    def read(cls, folder: Path) -> Experiment:
        """The experiment of ``folder``.

        Raises:
            ExperimentError: it has none, or one of another version of robustkit.
        """
        path = folder / FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["experiment"] != VERSION:
                raise ExperimentError(f"{path} is of another version of robustkit: give --out another folder")
            return cls(
                Plan.from_json(found["plan"]),
                tuple(Picture(**picture) for picture in found["pictures"]),
                tuple(map(_read_entry, found["entries"])),
                found["metrics"],
                tuple(found["path"]),
            )
        except FileNotFoundError as error:
            raise ExperimentError(f"{folder} is no experiment: it has no {FILE}") from error
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            if isinstance(error, ExperimentError):
                raise
            raise ExperimentError(f"{path} can't be read: {error}") from error

    def common(self) -> dict[str, Any]:
        """What all rows depend on, beside their codec."""
        found: dict[str, Any] = {
            "images": {picture.name: picture.digest for picture in self.pictures},
            "metrics": self.metrics,
            "seed": self.plan.seed,
            "time limit": self.plan.time_limit,
            "version of robustkit": __version__,
        }
        if published := [text for text in self.plan.channels if text.startswith("published-")]:
            found["published run"] = {
                "channels": published,
                "trials": self.plan.trials,
                "order of images": [picture.name for picture in self.pictures],
            }
        read: dict[str, Any] = json.loads(json.dumps(found))
        return read

    def follow(self, former: Experiment) -> Experiment:
        """This experiment as a later run of ``former`` in the same folder: codecs and channels of both.

        Raises:
            ExperimentError: rows of the two can't stand beside one another; the message names what differs.
        """
        ours, theirs = self.common(), former.common()
        differing = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
        if "images" in differing:
            differing[differing.index("images")] = _images(ours["images"], theirs["images"])
        known = {found.entry.label: found for found in former.running}
        for found in self.running:
            before = known.get(found.entry.label)
            if before is not None and before.digest != found.digest:
                parts = [key for key in found.parts if found.parts[key] != before.parts.get(key)]
                differing.append(f"{found.entry.label}: {', '.join(parts) or 'its parts'}")
        if differing:
            raise ExperimentError(
                f"the folder has rows of another experiment; other {'; '.join(differing)}. Give --out another folder, "
                "or remove this one"
            )
        # Of a codec that can't run now, rows may be there: what they depend on is not forgotten.
        ours_now = [found for found in self.entries if not (found.skipped and found.entry.label in known)]
        labels = {found.entry.label for found in ours_now}
        entries = (*(found for found in former.entries if found.entry.label not in labels), *ours_now)
        channels = tuple(dict.fromkeys([*former.plan.channels, *self.plan.channels]))
        plan = replace(
            self.plan,
            entries=tuple(found.entry for found in entries),
            channels=channels,
            trials=max(self.plan.trials, former.plan.trials),
            max_trials=max(self.plan.max_trials, former.plan.max_trials),
        )
        return replace(self, plan=plan, entries=entries)


def _read_entry(found: Mapping[str, Any]) -> Resolved:
    matched = tuple(Matched(**row) for row in found["matched"])
    return Resolved(**{**found, "entry": Entry(**found["entry"]), "matched": matched})


def _images(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    names = sorted(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"images ({', '.join(names[:_NAMED])}{more})"


def spec_of(entry: Entry, settings: Mapping[str, Any] | None = None) -> CodecSpec:
    """The codec of an entry, not loaded, with its settings or others.

    Raises:
        PlanError: there is no such codec.
    """
    try:
        return registry.get(entry.codec).spec(**(entry.settings if settings is None else settings))
    except (UnknownCodec, DuplicateCodec) as error:
        raise PlanError(str(error.args[0])) from error


def facts_of(metric: str, image: Image) -> dict[str, Any]:
    """What is stored of a metric beside its values.

    Raises:
        UnknownMetric, MetricUnavailable: as :data:`robustkit.quality.METRICS`.
        ValueError: it can't measure images of this size.
    """
    quality.check(metric, image)
    return dict(quality.METRICS[metric].record())


def _measurable(metrics: Sequence[str], image: Image, note: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """By metric what is stored of it; without those that may be left out and can't run here."""
    found = {}
    for metric in metrics:
        name = metric.removesuffix(OPTIONAL)
        try:
            found[name] = facts_of(name, image)
        except MetricUnavailable as error:
            if name == metric:
                raise
            note(f"{name} is left out, it can't run here: {error}")
    return found


def _comparable(plan: Plan, smallest: Image, note: Callable[[str], None]) -> tuple[str, ...]:
    """The metrics of sets, without those that may be left out and can't run here."""
    found = []
    for metric in plan.sets:
        name = metric.removesuffix(OPTIONAL)
        try:
            setmetrics.inception(setmetrics.usual_device())
            setmetrics.patches(smallest, plan.patch)
            found.append(name)
        except (MetricUnavailable, setmetrics.SetMetricError) as error:
            if name == metric:
                raise
            note(f"{name} is left out, it can't run here: {error}")
    return tuple(found)


def examine(
    plan: Plan,
    pictures: Sequence[Picture],
    *,
    tell: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
    timed: bool = False,
    former: Experiment | None = None,
    workers: int = 1,
) -> tuple[Experiment, dict[str, Speed]]:
    """Find out what can run here, and what its rows depend on.

    Args:
        plan: what is to run.
        pictures: its images.
        tell: called with a line now and then.
        note: told which metrics are left out, and why; and which images are far from the rate that is wanted.
        timed: whether to time each codec on the smallest image; rates are matched on that one alone.
        former: what lies in the folder already: its matched settings are taken, if they are of these images.
        workers: encoding processes, where rates are matched.

    Returns:
        The experiment, its plan without metrics that are left out, and by label the time that each codec takes.

    Raises:
        PlanError: no such codec, or none that runs here.
        UnknownMetric, MetricUnavailable: a metric is unknown or can't run here.
        ValueError: a metric can't measure the smallest image, or has no patch in it.
    """
    specs = [spec_of(entry) for entry in plan.entries]
    smallest = min(pictures, key=lambda picture: (min(picture.height, picture.width), picture.name))
    first = smallest.load()
    metrics = _measurable(plan.metrics, first, note)
    plan = replace(plan, metrics=tuple(metrics), sets=_comparable(plan, first, note))
    speeds: dict[str, Speed] = {}
    entries = []
    for entry, spec in zip(plan.entries, specs, strict=True):
        try:
            if entry.target_bpp is None:
                tell(f"loading {entry.label}")
                with loaded(spec, plan.time_limit) as process:
                    found = _resolved(entry, process)
            else:
                tell(f"matching the rate of {entry.label}")
                chosen = [smallest] if timed else pictures
                matched = _known(entry, chosen, former) or _match(plan, entry, spec, chosen, workers)
                if far := matchrate.far(matched):
                    note(f"{entry.label}: {far}")
                found = _resolved_at(entry, matched, plan.time_limit)
            if timed:
                tell(f"timing {entry.label}")
                with loaded(spec_of(entry, found.settings(smallest.name)), plan.time_limit) as process:
                    speeds[entry.label] = _timed(process, first, plan.metrics)
        except (CodecUnavailable, WorkerError, EncodeError, MatchError) as error:
            found = Resolved(entry, skipped=_short(entry, str(error)))
        entries.append(found)
    path = tuple(dict.fromkeys([os.getcwd(), *(folder for folder in sys.path if folder)]))
    return Experiment(plan, tuple(pictures), tuple(entries), metrics, path), speeds


@contextlib.contextmanager
def loaded(spec: CodecSpec, seconds: float) -> Iterator[CodecWorkers]:
    """One process with the codec in it, gone at the end.

    Raises:
        CodecUnavailable: it can't be loaded.
    """
    with (
        tempfile.TemporaryDirectory(prefix="robustkit-") as directory,
        CodecWorkers(spec, limits=Limits(seconds=seconds), directory=directory) as workers,
    ):
        yield workers


def parts_of(workers: CodecWorkers, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a codec's rows depend on, in JSON's own types.

    Raises:
        WorkerError: its ``describe`` failed.
    """
    found = {
        "name": workers.attributes.name,
        "settings": dict(settings),
        "sources": workers.attributes.sources,
        "device": workers.attributes.device,
        **{f"description: {key}": value for key, value in sorted(workers.describe().items())},
    }
    read: dict[str, Any] = json.loads(json.dumps(found, default=os.fspath))
    return read


def digest_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of what a codec's rows depend on, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _resolved(entry: Entry, workers: CodecWorkers) -> Resolved:
    parts = parts_of(workers, entry.settings)
    return Resolved(entry, "", workers.attributes.name, digest_of(parts), parts, workers.batched)


def _known(entry: Entry, pictures: Sequence[Picture], former: Experiment | None) -> tuple[Matched, ...]:
    """What was matched for the same entry and images before; none where it was not."""
    if former is None or not set(pictures) <= set(former.pictures):
        return ()
    names = {picture.name for picture in pictures}
    for found in former.running:
        if replace(found.entry, trials=entry.trials) == entry and {row.image for row in found.matched} >= names:
            return found.matched
    return ()


def _match(plan: Plan, entry: Entry, spec: CodecSpec, pictures: Sequence[Picture], workers: int) -> tuple[Matched, ...]:
    assert entry.target_bpp is not None
    limits = Limits(seconds=STEPS * plan.time_limit)
    workers = min(workers, len(pictures))
    with tempfile.TemporaryDirectory(prefix="robustkit-") as directory:
        found = matchrate.match(
            spec, _Loaded(pictures), entry.target_bpp, directory=directory, workers=workers, limits=limits
        )
    return tuple(found)


class _Loaded(Mapping[str, Image]):
    """Images by name, each read when it is asked for."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = {picture.name: picture for picture in pictures}

    def __getitem__(self, name: str) -> Image:
        return self._pictures[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)


def _resolved_at(entry: Entry, matched: tuple[Matched, ...], seconds: float) -> Resolved:
    """As :func:`_resolved`, of a codec with a setting for each image: what is said with the lowest and the highest."""
    by_value = sorted(matched, key=lambda row: row.value)
    ends = {row.value: row for row in (by_value[0], by_value[-1])}
    parts: dict[str, Any] | None = None
    for row in ends.values():
        with loaded(spec_of(entry, {**entry.settings, row.knob: row.value}), seconds) as process:
            one = _resolved(entry, process)
        parts = dict(one.parts) if parts is None else {key: v for key, v in parts.items() if one.parts.get(key) == v}
    assert parts is not None
    table = {row.image: {row.knob: row.value} for row in matched}
    parts |= dict(zip(_MATCHED, (entry.target_bpp, table), strict=True))
    return replace(one, parts=parts, digest=digest_of(parts), matched=matched)


def _timed(workers: CodecWorkers, image: Image, metrics: Sequence[str]) -> Speed:
    began = time.monotonic()
    stream = workers.encode(image)
    encoded = time.monotonic() - began
    shape = (image.shape[0], image.shape[1])
    # The first decode warms up.
    seconds = min(workers.decode(stream, shape=shape).seconds for _ in range(2))
    other = np.roll(image, 1)
    # So does the first measurement, by what it imports.
    for _ in range(2):
        began = time.monotonic()
        for metric in metrics:
            quality.measure(metric, image, other)
        measured = time.monotonic() - began
    return Speed(encoded, seconds, measured)


def _short(entry: Entry, reason: str) -> str:
    return reason.partition("\n")[0].removeprefix(f"codec {entry.codec!r} can't run here: ")
