"""How far an experiment is, from what lies in its folder alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit.experiments import sweep
from robustkit.experiments.identity import Experiment
from robustkit.experiments.rows import CLEAN
from robustkit.experiments.store import Key
from robustkit.experiments.until import Estimate
from robustkit.outcome import Outcome


@dataclass(frozen=True)
class CodecStatus:
    """One codec.

    Attributes:
        label: what it is called in the experiment.
        planned: rows; with ``--until`` the most that there may be.
        done: rows that are there.
        running: rows that runs have in hand.
        failed: by image, why it has no rows.
        skipped: why the codec can't run here; empty where it can.
        over: points with enough trials, with ``--until``.
        lost: rows that will not be, those of images that failed.
    """

    label: str
    planned: int
    done: int
    running: int
    failed: dict[str, str]
    skipped: str
    over: int = 0
    lost: int = 0


@dataclass(frozen=True)
class PointStatus:
    """One codec on one channel.

    Attributes:
        label: of the codec.
        channel: its spelling.
        trials: rows.
        estimate: what they come to; ``None`` where there is no rule, or no complete round.
        state: "done", "running", "enough", "at the most".
    """

    label: str
    channel: str
    trials: int
    estimate: Estimate | None
    state: str


@dataclass(frozen=True)
class Status:
    """An experiment.

    Attributes:
        codecs: each of them.
        points: each codec on each channel.
        flights: the runs at work, as :func:`robustkit.experiments.sweep.flights` gives them.
    """

    codecs: Sequence[CodecStatus]
    points: Sequence[PointStatus]
    flights: Sequence[dict[str, Any]]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to run but what failed."""
        return all(c.skipped or c.done + c.lost >= c.planned for c in self.codecs) and all(
            point.state != "running" for point in self.points
        )


def status(folder: Path) -> Status:
    """How far the experiment in ``folder`` is.

    Raises:
        ExperimentError: it is none.
        RowsError: its rows can't be read.
    """
    experiment = Experiment.read(folder)
    plan = experiment.plan
    done = sweep.values(folder, plan.metrics[0])
    flights, failures = sweep.flights(folder), sweep.failures(folder)
    at_work = Counter[str]()
    for flight in flights:
        at_work.update(flight["chunks"])
    rows_of = Counter(key[0] for key in done)
    trials_of = Counter((key[0], key[2]) for key in done)
    images = [picture.name for picture in experiment.pictures]
    points, codecs = [], []
    for found in experiment.entries:
        label = found.entry.label
        failed = {image: why for (entry, image), why in failures.items() if entry == label}
        mine = []
        if not found.skipped:
            here = [image for image in images if image not in failed]
            for channel in plan.channels:
                mine.append(_point(experiment, label, channel, here, done, trials_of[label, channel]))
        points += mine
        over = sum(point.state in ("enough", "at the most") for point in mine)
        each = 1 + len(plan.channels) * (plan.most if plan.until else plan.trials_of(label))
        planned, lost = (0, 0) if found.skipped else (len(images) * each, len(failed) * each)
        if plan.until and mine and over == len(mine):
            planned, lost = rows_of[label], 0
        codecs.append(CodecStatus(label, planned, rows_of[label], at_work[label], failed, found.skipped, over, lost))
    return Status(codecs, points, flights)


def _point(
    experiment: Experiment,
    label: str,
    channel: str,
    images: Sequence[str],
    done: dict[Key, tuple[float | None, str]],
    trials: int,
) -> PointStatus:
    plan, rule = experiment.plan, experiment.plan.rule
    if rule is None:
        enough = trials >= plan.trials_of(label) * len(images)
        return PointStatus(label, channel, trials, None, "done" if enough else "running")
    clean = [value for image in images if (value := done.get((label, image, CLEAN, -1), (None, ""))[0]) is not None]
    counts = [_run_length(done, label, image, channel) for image in images]
    rounds = min(counts, default=0)
    if not rounds or not clean or len(clean) < len(images):
        return PointStatus(label, channel, trials, None, "running")
    values = {image: [_value(done[label, image, channel, number]) for number in range(rounds)] for image in images}
    estimate = rule.estimate(values, max(clean))
    # A round ends where the sweep looks.
    at_look = rounds % plan.trials == 0 or rounds >= plan.max_trials
    state = "enough" if estimate.enough and at_look else "at the most" if rounds >= plan.max_trials else "running"
    return PointStatus(label, channel, trials, estimate, state)


def _run_length(done: dict[Key, tuple[float | None, str]], label: str, image: str, channel: str) -> int:
    number = 0
    while (label, image, channel, number) in done:
        number += 1
    return number


def _value(found: tuple[float | None, str]) -> float:
    value, outcome = found
    return value if value is not None and Outcome(outcome).has_image else math.nan
