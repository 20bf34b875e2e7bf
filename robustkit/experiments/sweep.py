"""A sweep: what is missing of an experiment is run, chunk by chunk, until nothing is."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from robustkit import quality
from robustkit.errors import RobustkitError
from robustkit.experiments import keep, rows, run, sets, store
from robustkit.experiments.backends import Backend, Dask, Here, Processes
from robustkit.experiments.identity import FILE, Experiment, ExperimentError
from robustkit.experiments.plan import Plan
from robustkit.experiments.scheduler import Scheduler
from robustkit.experiments.store import Key
from robustkit.experiments.tasks import Chunk, Report

#: What runs say of themselves while they are at it; and images that could not be encoded, or not decoded unharmed.
FLIGHT, FAILED = "flight", "failed"


class SweepError(RobustkitError, RuntimeError):
    """A sweep that can't go on; rows written before are kept."""


@dataclass
class Progress:
    """How far a sweep is.

    Attributes:
        done, planned: rows, those of former runs among them.
        written: rows of this run.
        seconds: of this run so far.
        left: seconds that the rest takes by now's rate; ``None`` while that is not known.
        codec: whose chunk came last.
        worst: the outcome that says most so far: trial and value, or failure.
    """

    done: int
    planned: int
    written: int = 0
    seconds: float = 0.0
    left: float | None = None
    codec: str = ""
    worst: str = ""

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.written / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Ended:
    """What a sweep came to.

    Attributes:
        written: rows of this run.
        done: rows that are there now of what this run was to do.
        failed: by codec and image, why there are no rows.
        given_up: by codec, why it was left.
    """

    written: int
    done: int
    failed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    given_up: Mapping[str, str] = field(default_factory=dict)


def begin(folder: Path, experiment: Experiment) -> Experiment:
    """Make ``folder`` the experiment's, or find that it is already.

    Returns:
        The experiment with what former runs there had beyond it.

    Raises:
        ExperimentError: it is another one's, or holds something else.
        RowsError: it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store.RowsError(f"{folder} can't be made: {error.strerror}") from error
    if (folder / FILE).exists():
        experiment = experiment.follow(Experiment.read(folder))
    elif any(path.name != store.PARTS for path in folder.iterdir()) or store.parts(folder):
        raise ExperimentError(f"{folder} holds something else than an experiment: give --out a new folder")
    experiment.write(folder)
    return experiment


def backend(folder: Path, *, jobs: int = 1, scheduler: str = "") -> Backend:
    """Where chunks are run: ``jobs`` processes here, or the cluster whose scheduler is named.

    Raises:
        BackendError: as :class:`Dask`.
    """
    if scheduler:
        return Dask(folder, scheduler)
    return Here(folder) if jobs == 1 else Processes(folder, jobs)


def sweep(
    folder: Path,
    experiment: Experiment,
    plan: Plan,
    *,
    jobs: int = 1,
    scheduler: str = "",
    shard: tuple[int, int] = (1, 1),
    tell: Callable[[Progress], None] = lambda _: None,
) -> Ended:
    """Run what is missing.

    Args:
        folder: of the experiment; absolute, and seen by all who run chunks.
        experiment: as :func:`begin` gave it.
        plan: what this run does of it.
        jobs: processes on this machine.
        scheduler: address of dask's, in place of them.
        shard: this run's share, from 1, and the number of shares.
        tell: called now and then.

    Raises:
        SweepError: it can't go on, or another sweep is at the same share in this folder.
        RowsError, ImageError, ExperimentError, BackendError: see there.
    """
    with _flight(folder, shard) as flight:
        run.stale_work(folder)
        store.sweep_aside(folder)
        done = values(folder, plan.metrics[0])
        names = {found.entry.label: found for found in experiment.running}
        encoded = {
            (label, picture.name): (folder / run.STREAMS / f"{found.digest[:20]}-{picture.digest[:20]}.bin").exists()
            for label, found in names.items()
            for picture in experiment.pictures
        }
        todo = Scheduler(experiment, plan, done, shard=shard, encoded=encoded)
        for codec in todo.codecs:
            for picture in experiment.pictures:
                failure_path(folder, codec.label, picture.name).unlink(missing_ok=True)
        watch = _Watch(todo, plan.metrics[0], tell)
        with backend(folder, jobs=jobs, scheduler=scheduler) as there:
            _run(folder, todo, there, flight, watch)
        failed = {(codec.label, image): why for codec in todo.codecs for image, why in codec.failed.items()}
        given_up = {codec.label: codec.given_up for codec in todo.codecs if codec.given_up}
        if plan.keep and shard == (1, 1) and not given_up:
            keep.keep(folder, experiment, plan, tell=watch.say)
        if plan.sets and shard == (1, 1) and not given_up:
            sets.measure(folder, experiment, plan, tell=watch.say)
        return Ended(watch.progress.written, watch.progress.done, failed, given_up)


def _run(folder: Path, todo: Scheduler, there: Backend, flight: Path, watch: _Watch) -> None:
    while True:
        while len(there.running) < there.places:
            chunk = todo.next(there.places)
            if chunk is None:
                break
            there.submit(chunk)
        _say_flight(flight, there.running)
        if not there.running:
            return
        chunk, report = there.wait()
        if report.fatal:
            raise SweepError(report.error)
        todo.finished(chunk, report)
        for image, why in (report.failed or {}).items():
            found = {"entry": chunk.entry, "image": image, "reason": why}
            store.write_bytes(failure_path(folder, chunk.entry, image), json.dumps(found).encode())
        watch.saw(chunk, report, there.places)


def values(folder: Path, metric: str) -> dict[Key, tuple[float | None, str]]:
    """Of each row that is there, its value in ``metric`` and its outcome.

    Raises:
        RowsError: a file can't be read.
        NotDeterministic: a trial has two rows.
    """
    if not store.parts(folder) and not (folder / store.ROWS).exists():
        return {}
    found = store.read(folder)
    measured = found[metric].to_pylist() if metric in found.column_names else [None] * found.num_rows
    return dict(zip(rows.keys(found), zip(measured, found["outcome"].to_pylist(), strict=True), strict=True))


def failure_path(folder: Path, label: str, image: str) -> Path:
    """Where it says why an image has no rows of a codec."""
    return folder / FAILED / f"{sha256(json.dumps([label, image]).encode()).hexdigest()[:24]}.json"


def failures(folder: Path) -> dict[tuple[str, str], str]:
    """By codec and image, why there are no rows."""
    found = {}
    for path in sorted((folder / FAILED).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            said = json.loads(path.read_text(encoding="utf-8"))
            found[said["entry"], said["image"]] = said["reason"]
    return found


def flights(folder: Path) -> list[dict[str, Any]]:
    """The runs that are at work in a folder; of other machines, whatever they said last."""
    found = []
    for path in sorted((folder / FLIGHT).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            said = json.loads(path.read_text(encoding="utf-8"))
            said["here"] = said["host"] == socket.gethostname()
            if said["here"] and not run.alive(int(said["pid"])):
                continue
            said["age"] = max(0.0, time.time() - path.stat().st_mtime)
            found.append(said)
    return found


@contextlib.contextmanager
def _flight(folder: Path, shard: tuple[int, int]) -> Iterator[Path]:
    for other in flights(folder):
        if other["here"] and other["shard"] == list(shard):
            which = "" if shard == (1, 1) else f"share {shard[0]} of {shard[1]} of "
            raise SweepError(f"process {other['pid']} is at {which}{folder}: wait for it, or end it")
    path = folder / FLIGHT / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.json"
    for old in (folder / FLIGHT).glob(f"{socket.gethostname()}-*.*"):
        pid = old.name.split("-")[-2]
        if pid.isdigit() and not run.alive(int(pid)):
            old.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"host": socket.gethostname(), "pid": os.getpid(), "shard": shard, "chunks": {}}
    path.write_text(json.dumps(said), encoding="utf-8")
    try:
        yield path
    finally:
        for left in (path, path.with_suffix(store.ASIDE)):
            left.unlink(missing_ok=True)
        run.stale_work(folder)
        for emptied in (path.parent, folder / run.WORK):
            with contextlib.suppress(OSError):
                emptied.rmdir()


def _say_flight(path: Path, running: list[Chunk]) -> None:
    chunks: dict[str, int] = {}
    for chunk in running:
        chunks[chunk.entry] = chunks.get(chunk.entry, 0) + len(chunk.keys)
    aside = path.with_suffix(store.ASIDE)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        aside.write_text(json.dumps({**said, "chunks": chunks}), encoding="utf-8")
        aside.replace(path)
    except (OSError, ValueError) as error:
        raise store.RowsError(f"{path} can't be written: {error}; rows written before are kept") from error


class _Watch:
    """Makes progress out of reports."""

    def __init__(self, todo: Scheduler, metric: str, tell: Callable[[Progress], None]) -> None:
        self._todo, self._metric, self._tell = todo, metric, tell
        self._began = time.monotonic()
        self._planned_before = todo.planned - todo_rows(todo)
        self._worst: tuple[int, float] = (0, math.inf)
        self.progress = Progress(self._planned_before, todo.planned)
        tell(self.progress)

    def saw(self, chunk: Chunk, report: Report, places: int) -> None:
        progress = self.progress
        progress.written += report.rows
        progress.done = self._planned_before + progress.written
        progress.planned = self._todo.planned
        progress.seconds = time.monotonic() - self._began
        left = self._todo.seconds_left()
        progress.left = None if left is None else left / places
        progress.codec = chunk.entry
        for key, value, outcome in report.values:
            self._rank(key, value, outcome)
        self._tell(progress)

    def say(self, text: str) -> None:
        self.progress.codec = text
        self._tell(self.progress)

    def _rank(self, key: Key, value: float | None, outcome: str) -> None:
        label, image, channel, trial = key
        if trial < 0:
            return
        bad = outcome not in ("intact", "degraded", "refused")
        sign = 1.0 if quality.METRICS[self._metric].higher_is_better else -1.0
        rank = (-int(bad), math.inf if value is None else sign * value)
        if rank < self._worst:
            self._worst = rank
            what = outcome if value is None else f"{self._metric} {value:.4g}"
            self.progress.worst = f"{what}: {label} on {image}, {channel}, trial {trial}"


def todo_rows(todo: Scheduler) -> int:
    """Rows that are known to be missing."""
    return sum(
        len([key for key in group.keys if key not in todo.done]) for codec in todo.codecs for group in codec.waiting
    )
