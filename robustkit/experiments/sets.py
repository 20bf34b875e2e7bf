"""FID and KID of an experiment, a value for each trial of a codec on a channel: over all images that it gave.

Such a value is of no row, and needs the pictures of all images at once. So it is settled when the rows are there: each
trial is decoded once more, in the batches of the sweep, and its pictures lie on disk until they are compared. What is
measured stands in ``sets.csv`` and is not measured again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustkit.codec import Image
from robustkit.experiments import run, setmetrics, store, tasks, text
from robustkit.experiments.identity import Experiment
from robustkit.experiments.plan import BLOCK, Plan
from robustkit.experiments.rows import CLEAN, CLEAN_TRIAL
from robustkit.experiments.run import Bench
from robustkit.experiments.setmetrics import Known, Network, SetMetricError
from robustkit.judging.subject import Job
from robustkit.judging.trial import Trial
from robustkit.outcome import Outcome

#: In an experiment's folder: a line a codec, channel, trial and metric. An empty value says that there is none.
FILE = "sets.csv"
#: What is said of the metrics in it: package, weights, version, direction.
ABOUT = "sets.json"
COLUMNS = ("entry", "channel", "trial", "metric", "value", "images", "patch")
#: Bytes of originals' features that are kept in memory.
_MOST_KNOWN = 512 * 2**20
_FEATURE_BYTES = 2048 * 4


class Which(NamedTuple):
    """What a value is of."""

    entry: str
    channel: str
    trial: int
    metric: str


class Value(NamedTuple):
    """A metric of one trial's images.

    Attributes:
        value: NaN where there is none, since no image was decoded.
        images: how many images it compares.
        patch: side of the patches.
    """

    value: float
    images: int
    patch: int


def measure(
    folder: Path,
    experiment: Experiment,
    plan: Plan,
    *,
    network: Network | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Measure what is missing, and write it point by point.

    Args:
        folder: of an experiment, whose rows are there.
        plan: its metrics of sets, codecs and channels are measured.
        network: in Inception's place.

    Raises:
        MetricUnavailable: as :func:`setmetrics.measure`.
        RowsError: rows can't be read, or the file can't be read or written.
        NotDeterministic: a trial gave an image when it was run, and now does not, or the other way round.
    """
    known = read(folder)
    store.write_bytes(folder / ABOUT, _about(plan).encode())
    labels, wanted = {entry.label for entry in plan.entries}, {CLEAN, *plan.channels}
    with_image: dict[tuple[str, str], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in store.read(folder).select(["entry", "channel", "trial", "image", "outcome"]).to_pylist():
        images = with_image[row["entry"], row["channel"]][row["trial"]]
        if Outcome(row["outcome"]).has_image:
            images.append(row["image"])
    device = setmetrics.usual_device()
    network = network or setmetrics.inception(device)
    originals: Known | None = {} if _fits(experiment, plan) else None
    bench = Bench(folder)
    try:
        for (label, channel), trials in sorted(with_image.items()):
            if label not in labels or channel not in wanted:
                continue
            missing = [number for number in sorted(trials) if not _there(known, plan, label, channel, number, trials)]
            for _, numbers in groupby(missing, key=lambda number: number // BLOCK):
                tell(f"{', '.join(plan.sets)} of {label}")
                block = list(numbers)
                with tempfile.TemporaryDirectory(prefix="sets-", dir=_work(folder)) as place:
                    _decode(bench, Path(place), label, channel, block, trials)
                    for number in block:
                        pairs = _pairs(bench, Path(place), trials[number], number)
                        found = _values(plan, pairs, len(trials[number]), network, device, originals)
                        for metric, value in found.items():
                            known[Which(label, channel, number, metric)] = Value(value, len(trials[number]), plan.patch)
                write(folder, known)
    finally:
        bench.close()


def _work(folder: Path) -> Path:
    work = folder / run.WORK
    work.mkdir(parents=True, exist_ok=True)
    return work


def _fits(experiment: Experiment, plan: Plan) -> bool:
    cut = sum(2 * (picture.height // plan.patch) * (picture.width // plan.patch) for picture in experiment.pictures)
    return 2 * cut * _FEATURE_BYTES <= _MOST_KNOWN


def _there(
    known: dict[Which, Value], plan: Plan, label: str, channel: str, number: int, trials: dict[int, list[str]]
) -> bool:
    """Whether all metrics of a trial are known, of as many images as it has now, with patches of this size."""
    found = [known.get(Which(label, channel, number, metric)) for metric in plan.sets]
    return all(v is not None and (v.images, v.patch) == (len(trials[number]), plan.patch) for v in found)


def _decode(
    bench: Bench, place: Path, label: str, channel: str, numbers: Sequence[int], trials: dict[int, list[str]]
) -> None:
    """Put the pictures of some trials into a folder, image after image, each trial in the batch that it was run in."""
    last = max(trials) + 1
    for image in sorted({image for number in numbers for image in trials[number]}):
        clean = bench.take(label, image)
        if channel == CLEAN:
            assert clean.decoded.image is not None
            _put(place, image, CLEAN_TRIAL, clean.decoded.image)
            continue
        (group,) = (g for g in tasks.blocks(label, image, channel, 0, last) if g.first <= numbers[0] < g.stop)
        jobs = [Job(image, bench.channel(label, channel), number) for number in range(group.first, group.stop)]

        def hold(trial: Trial, found: Image, image: str = image) -> None:
            if trial.number in numbers:
                _put(place, image, trial.number, found)

        for trial in bench.subject(label, image).run(jobs, keep=hold):
            if trial.number in numbers and trial.outcome.has_image != (image in trials[trial.number]):
                raise store.NotDeterministic(
                    f"not deterministic: trial {trial.number} of {label} on {image}, {channel}, decoded once more, is "
                    f"{trial.outcome.value}: its set can't be compared"
                )


def _path(place: Path, image: str, number: int) -> Path:
    # A name may be anything.
    return place / f"{hashlib.sha256(image.encode()).hexdigest()[:24]}-{number}.npy"


def _put(place: Path, image: str, number: int, found: Image) -> None:
    try:
        np.save(_path(place, image, number), np.ascontiguousarray(found), allow_pickle=False)
    except OSError as error:
        raise store.RowsError(f"{place} can't be written: {error.strerror}") from error


def _pairs(bench: Bench, place: Path, images: Sequence[str], number: int) -> Iterator[tuple[Image, Image]]:
    for image in sorted(images):
        yield bench.experiment.picture(image).load(), np.load(_path(place, image, number), allow_pickle=False)


def _values(
    plan: Plan,
    pairs: Iterator[tuple[Image, Image]],
    images: int,
    network: Network,
    device: str,
    originals: Known | None,
) -> dict[str, float]:
    if not images:
        return dict.fromkeys(plan.sets, math.nan)
    try:
        return setmetrics.measure(
            plan.sets, pairs, side=plan.patch, network=network, device=device, seed=plan.seed, known=originals
        )
    except (SetMetricError, ValueError):
        # Too few patches, or a covariance without a root: as published, there is no value then.
        return dict.fromkeys(plan.sets, math.nan)


def _about(plan: Plan) -> str:
    return json.dumps({name: setmetrics.SETS[name].record() for name in plan.sets}, indent=1, sort_keys=True) + "\n"


def read(folder: Path) -> dict[Which, Value]:
    """What a folder has; nothing where there is no file.

    Raises:
        RowsError: the file can't be read.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                Which(row["entry"], row["channel"], int(row["trial"]), row["metric"]): Value(
                    float(row["value"]) if row["value"] else math.nan, int(row["images"]), int(row["patch"])
                )
                for row in csv.DictReader(file)
            }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise store.RowsError(f"{path} can't be read ({error}): remove it, and it is made again") from error


def write(folder: Path, found: dict[Which, Value]) -> None:
    """Put values into a folder's file, in a fixed order: all of them or, where that fails, what was there before.

    Raises:
        RowsError: it can't be written.
    """
    lines = [
        dict(zip(COLUMNS, (*which, *value), strict=True))
        for which, value in sorted(found.items(), key=lambda kv: kv[0])
    ]
    store.write_bytes(folder / FILE, text.as_csv(lines).encode())
