"""Runs chunks of an experiment: in this process, in a process of its own, or in a worker of dask's.

Whoever runs a chunk writes its rows, as one part, into the experiment's folder. To run it twice does no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from robustkit.channels import Channel, ChannelError
from robustkit.errors import RobustkitError
from robustkit.experiments import draws, rows, store
from robustkit.experiments.identity import Experiment, ExperimentError, parts_of, spec_of
from robustkit.experiments.plan import channel_of
from robustkit.experiments.rows import CLEAN, CLEAN_TRIAL
from robustkit.experiments.tasks import ENCODE, Chunk, Group, Report
from robustkit.images import ImageError
from robustkit.isolation import Limits, WorkerError
from robustkit.judging.subject import CleanRoundTripFailed, Job, Subject
from robustkit.judging.trial import Clean, Trial
from robustkit.outcome import Outcome
from robustkit.registry import CodecUnavailable

STREAMS = "streams"
DRAWS = "draws"
#: Folders of processes that are at work, each gone when its process ends.
WORK = "work"


class Bench:
    """One experiment in one process, and the codec that it decodes with at present.

    Args:
        folder: of the experiment.

    Raises:
        ExperimentError: as :meth:`Experiment.read`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.experiment = Experiment.read(folder)
        sys.path += [path for path in self.experiment.path if path not in sys.path]
        self._schema = rows.schema(self.experiment.metrics)
        self.closed = False
        self._subject: Subject | None = None
        #: Of the subject: the codec's label, and what it is built with.
        self._built: tuple[str, dict[str, Any]] | None = None
        self._draws: dict[Path, draws.Draws] = {}
        #: For streams while they are decoded.
        self._scratch = folder / WORK / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    def close(self) -> None:
        """End the codec's processes."""
        self.closed = True
        self._drop()
        shutil.rmtree(self._scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._scratch.parent.rmdir()

    def _drop(self) -> None:
        if self._subject is not None:
            self._subject.close()
        self._subject = self._built = None

    def subject(self, label: str, image: str) -> Subject:
        """The codec as it is built for an image, loaded; the one before is let go.

        Raises:
            CodecUnavailable: it can't be loaded.
            ExperimentError: it is not what it was when the experiment began.
        """
        resolved, plan = self.experiment.entry(label), self.experiment.plan
        settings = resolved.settings(image)
        if self._subject is not None and self._built == (label, settings):
            return self._subject
        self._drop()
        first, *others = plan.metrics
        subject = Subject(
            spec_of(resolved.entry, settings),
            images={},
            directory=self._scratch,
            metric=first,
            more_metrics=others,
            limits=Limits(seconds=plan.time_limit),
            seed=plan.seed,
            second_opinion=False,
        )
        try:
            parts = parts_of(subject.workers, resolved.entry.settings)
            if other := resolved.differing(parts):
                raise ExperimentError(
                    f"{label} is not what it was when the experiment began, its {', '.join(other)} changed: "
                    "put it back, or give --out another folder"
                )
        except BaseException:
            subject.close()
            raise
        self._subject, self._built = subject, (label, settings)
        return subject

    def take(self, label: str, image: str) -> Clean:
        """The clean round trip of an image; its stream is the one that whoever was first has kept.

        Raises:
            CleanRoundTripFailed: it did not work, and neither did it a second time.
            ImageError: the image can't be read any more.
        """
        subject = self.subject(label, image)
        if list(subject.images) == [image] and subject.unsound is None:
            return subject.clean[image]
        picture = self.experiment.picture(image)
        kept = self.stream_path(label, image)
        for again in (False, True):
            known = {image: kept.read_bytes()} if kept.exists() else {}
            subject.take({image: picture.load()}, known)
            try:
                found = subject.clean[image]
                break
            except CleanRoundTripFailed as failed:
                # A process may be killed from outside.
                if again or failed.refused:
                    raise
        if not known:
            _keep(kept, found.bitstream)
        return found

    def stream_path(self, label: str, image: str) -> Path:
        """Where the clean stream of an image is kept."""
        picture, resolved = self.experiment.picture(image), self.experiment.entry(label)
        return self.folder / STREAMS / f"{resolved.digest[:20]}-{picture.digest[:20]}.bin"

    def channel(self, label: str, text: str) -> Channel:
        """The channel, with the run's draws where it is the published one."""
        found = channel_of(text)
        if not isinstance(found, draws.PublishedBSC):
            return found
        path = prepare_draws(self.folder, self.experiment, label)
        if path not in self._draws:
            self._draws = {path: draws.Draws(path)}
        return draws.PublishedBSC(found.ber, self._draws[path])

    def run(self, chunk: Chunk) -> Report:
        """Run a chunk and write its rows.

        Raises:
            RowsError: they can't be written.
            CodecUnavailable, ExperimentError, ImageError, ChannelError: see there.
        """
        self.subject(chunk.entry, chunk.groups[0].image)
        began = time.monotonic()
        made: list[dict[str, Any]] = []
        failed: dict[str, str] = {}
        for image, groups in groupby(chunk.groups, key=lambda group: group.image):
            try:
                made += self._image(chunk.entry, image, list(groups))
            except CleanRoundTripFailed as error:
                failed[image] = str(error).removeprefix(f"{image}: ").partition("\n")[0]
        made = [row for row in made if tuple(row[name] for name in rows.KEY) not in chunk.done]
        if made:
            store.write_part(self.folder, rows.table(made, self._schema))
        first = self.experiment.plan.metrics[0]
        values = tuple((tuple(row[name] for name in rows.KEY), row.get(first), row["outcome"]) for row in made)
        decoded = sum(row["flips"] > 0 or row["outcome"] != Outcome.INTACT.value for row in made)
        return Report(len(made), time.monotonic() - began, failed, values, decoded=decoded)

    def _image(self, label: str, image: str, groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
        if all(group.channel == ENCODE for group in groups):
            if not self.stream_path(label, image).exists():
                self.take(label, image)
            return
        found = self.take(label, image)
        subject = self.subject(label, image)
        for group in groups:
            if group.channel == CLEAN:
                yield self._clean_row(label, found)
            elif group.channel != ENCODE:
                channel = self.channel(label, group.channel)
                jobs = [Job(image, channel, number) for number in range(group.first, group.stop)]
                for trial in subject.run(jobs):
                    yield self._row(label, found, trial)

    def _about(self, label: str, found: Clean) -> dict[str, Any]:
        resolved, picture = self.experiment.entry(label), self.experiment.picture(found.image)
        return {
            "entry": label,
            "codec": resolved.name,
            "settings": json.dumps(resolved.settings(found.image), sort_keys=True, default=os.fspath),
            "codec_digest": resolved.digest,
            "image": found.image,
            "image_digest": picture.digest,
            "height": picture.height,
            "width": picture.width,
            "stream_digest": hashlib.sha256(found.bitstream).hexdigest(),
            "stream_bytes": len(found.bitstream),
            "bpp": found.bpp,
        }

    def _clean_row(self, label: str, found: Clean) -> dict[str, Any]:
        return {
            **self._about(label, found),
            "channel": CLEAN,
            "kind": CLEAN,
            "severity": 0.0,
            "trial": CLEAN_TRIAL,
            "seed": self.experiment.plan.seed,
            "flips": 0,
            "outcome": found.judge(found.decoded).value,
            **found.metrics,
            "seconds": found.decoded.seconds,
            "memory": found.decoded.memory or None,
        }

    def _row(self, label: str, found: Clean, trial: Trial) -> dict[str, Any]:
        flips = trial.pattern.flips
        region = found.layout.at(int(flips[0])) if len(flips) else None
        return {
            **self._about(label, found),
            "channel": str(trial.channel),
            "kind": trial.channel.kind,
            "severity": trial.channel.severity,
            "trial": trial.number,
            "seed": draws.SEED if isinstance(trial.channel, draws.PublishedBSC) else trial.seed,
            "flips": len(flips),
            "region": None if region is None else region.name,
            "outcome": trial.outcome.value,
            "failure": None if trial.failure is None else str(trial.failure),
            **trial.metrics,
            "seconds": trial.seconds,
            "memory": trial.memory or None,
        }


def prepare_draws(folder: Path, experiment: Experiment, label: str) -> Path:
    """The published run's flips for one codec, drawn unless they are there.

    Raises:
        ChannelError: an image has no clean stream yet, or never will.
    """
    resolved, plan = experiment.entry(label), experiment.plan
    sizes = {}
    for picture in experiment.pictures:
        path = folder / STREAMS / f"{resolved.digest[:20]}-{picture.digest[:20]}.bin"
        try:
            sizes[picture.name] = path.stat().st_size
        except OSError as error:
            raise ChannelError(
                f"{label}: published-bsc needs the stream of every image, and {picture.name} has none"
            ) from error
    bers = [channel_of(text).severity for text in plan.channels if text.startswith(draws.PREFIX)]
    try:
        return draws.draw(folder / DRAWS, sizes, bers, plan.trials)
    except OSError as error:
        raise store.RowsError(f"{folder / DRAWS} can't be written: {error.strerror}") from error


def _keep(path: Path, stream: bytes) -> None:
    """Keep a clean stream, unless somebody was faster."""
    if not path.exists():
        store.write_bytes(path, stream)


#: What ends a whole sweep: no other chunk would fare better.
_FATAL = (store.RowsError, ExperimentError, ImageError, OSError)
_benches = threading.local()
_open: list[Bench] = []


def bench_of(folder: str) -> Bench:
    """This thread's bench for an experiment; another experiment's is closed."""
    found: Bench | None = getattr(_benches, "bench", None)
    if found is None or found.closed or str(found.folder) != folder:
        if found is not None:
            found.close()
        found = _benches.bench = Bench(Path(folder))
        _open.append(found)
    return found


def close_benches() -> None:
    """Let go of every codec that this process has loaded for chunks; while none is run."""
    while _open:
        _open.pop().close()


def run_chunk(folder: str, chunk: str) -> str:
    """Run a chunk: the one function that other processes and machines call.

    Args:
        folder: of the experiment, as this process sees it.
        chunk: as :meth:`Chunk.to_json` gives it.

    Returns:
        As :meth:`Report.to_json` gives it; whatever robustkit raises on purpose is in it.
    """
    try:
        return bench_of(folder).run(Chunk.from_json(chunk)).to_json()
    except (RobustkitError, WorkerError, ValueError, OSError) as error:
        fatal = isinstance(error, _FATAL) and not isinstance(error, CodecUnavailable)
        return Report(error=str(error).partition("\n")[0] or type(error).__name__, fatal=fatal).to_json()


def main() -> None:
    """A process that runs chunks: a line of JSON in, a line out, until its standard input ends."""
    folder = sys.argv[1]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a metric or a codec prints must not be taken for an answer.
    os.dup2(2, 1)
    lines = _lines_or_exit()
    for line in lines:
        answers.write(run_chunk(folder, line) + "\n")
        answers.flush()
    close_benches()


def _lines_or_exit() -> Iterator[str]:
    """Lines of standard input. When it ends while a chunk is run, whoever wanted it is dead, and so are we at once."""
    import queue

    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            busy.set()
            waiting.put(line)
        if busy.is_set():
            os._exit(1)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := waiting.get()) is not None:
        yield line
        busy.clear()


def stale_work(folder: Path) -> None:
    """Remove what processes of this machine left that are dead by now."""
    for path in (folder / WORK).glob(f"{socket.gethostname()}-*-*"):
        pid = path.name.split("-")[-2]
        if pid.isdigit() and not alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether a process of this machine lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main()
