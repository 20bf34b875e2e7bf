"""Trials on disk, so that a run that was stopped goes on. Whatever they depend on is named by content.

The file has a JSON object a line: first what the trials are of, then each trial. A last line that was cut is dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from robustkit import __version__
from robustkit.channels import parse
from robustkit.errors import RobustkitError
from robustkit.isolation import fingerprint
from robustkit.judging.subject import CHUNK, Job, Subject
from robustkit.judging.trial import Clean, Trial
from robustkit.outcome import Outcome

VERSION = 1
#: Trials for each process between two writes to disk; what a kill costs. A whole batch each.
_BATCH = 16
#: Images that a message names.
_NAMED = 6
_WAY_OUT = "remove the file, or name another one"


class StoreError(RobustkitError, ValueError):
    """A file of trials that can't be used; the message names it."""


class TrialStore:
    """The trials of one codec in one file.

    Trials of another codec, setting or version are not taken for this one's: the file is kept beside with ``.old``
    behind its name, and a new one begun. So are trials of images that changed; those of images that are not here now
    stay in the file.

    Args:
        path: of the file; it need not be there.
        subject: the codec, whose clean round trips are run first.
        tell: called with a line where stored trials can't be used.

    Raises:
        StoreError: the file can't be read or written, or holds something else.
        CleanRoundTripFailed: as :attr:`Subject.clean`.
    """

    def __init__(self, path: Path, subject: Subject, *, tell: Callable[[str], None] = lambda _: None) -> None:
        self.path = path
        self.subject = subject
        self._digests = {name: _digests(clean) for name, clean in subject.clean.items()}
        self._trials: dict[Job, Trial] = {}
        #: Of images that are not here.
        self._absent: list[dict[str, Any]] = []
        identity = _identity(subject)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self._begin(identity)
            return
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error.strerror}") from error
        stored, rows = _parsed(path, data)
        aside = path.with_name(path.name + ".old")
        differing = [key for key in identity if stored.get(key) != identity[key]]
        if differing:
            tell(f"{path} has trials of other {', '.join(differing)}: kept as {aside.name}, measuring anew")
            self._begin(identity, aside=aside)
            return
        here = [row for row in rows if row["image"] in self._digests]
        changed = {row["image"] for row in here if row["digests"] != self._digests[row["image"]]}
        self._absent = [row for row in rows if row["image"] not in self._digests]
        for row in here:
            if row["image"] not in changed:
                job = Job(row["image"], parse(row["channel"]), row["number"])
                self._trials[job] = _trial(row, subject, job)
        if changed:
            names = sorted(changed)
            named = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            tell(
                f"{path} has trials of other pixels, streams or clean decodes of {named}: kept as {aside.name}, "
                "measuring these anew"
            )
            self._begin(identity, aside=aside)
        elif not data.endswith(b"\n") or len(here) != len(self._trials):
            # What was cut would spoil the line that comes next.
            self._begin(identity)

    def __len__(self) -> int:
        return len(self._trials)

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Those of ``jobs`` that are not here."""
        return [job for job in dict.fromkeys(jobs) if job not in self._trials]

    def run(self, jobs: Iterable[Job]) -> Generator[Trial, None, None]:
        """Run those of ``jobs`` that are not here, and keep them as they come.

        Raises:
            StoreError: a trial can't be written.
            ChannelError: as :meth:`Subject.run`.
        """
        missing = self.missing(jobs)
        size = min(CHUNK, _BATCH * max(1, len(self.subject.workers.pids)))
        for start in range(0, len(missing), size):
            waiting: list[dict[str, Any]] = []
            try:
                for trial in self.subject.run(missing[start : start + size]):
                    self._trials[Job(trial.image, trial.channel, trial.number)] = trial
                    waiting.append(self._row(trial))
                    yield trial
            finally:
                self._append(waiting)

    def trials(self, jobs: Iterable[Job]) -> list[Trial]:
        """The trials of ``jobs``, all of which are here."""
        return [self._trials[job] for job in jobs]

    def _row(self, trial: Trial) -> dict[str, Any]:
        return {**trial.to_row(), "digests": self._digests[trial.image]}

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        try:
            # Not made anew where somebody removed it: it would lack its first line.
            with self.path.open("r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    _write_all(file.write, _lines(rows))
                except OSError:
                    # A full disk takes a part.
                    with suppress(OSError):
                        file.truncate(end)
                    raise
        except OSError as error:
            raise StoreError(f"{self.path} can't be written: {error.strerror}") from error

    def _begin(self, identity: Mapping[str, Any], *, aside: Path | None = None) -> None:
        """Write the file as it is to be, what is known of it included; the old one goes ``aside`` if that is given."""
        rows = [*self._absent, *map(self._row, self._trials.values())]
        unfinished = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                unfinished.write_bytes(_lines([{"trials": VERSION, "identity": identity}, *rows]))
                if aside is not None:
                    os.replace(self.path, aside)
                os.replace(unfinished, self.path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path} can't be written: {error.strerror}") from error


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows).encode("ascii")


def _write_all(write: Callable[[memoryview], int | None], data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[write(left) or 0 :]


def _identity(subject: Subject) -> dict[str, Any]:
    """What trials depend on beside image, channel and number, in JSON's own types."""
    settings = dict(subject.spec.settings)
    if subject.spec.target.module == "robustkit.codecs.command":
        # The promises in a codec file decide nothing: those that were measured can be put there, and checked.
        settings.pop("profile", None)
    identity = {
        "codec": subject.own_name,
        "sources of the codec": subject.workers.attributes.sources,
        "settings": settings,
        "description": subject.workers.describe(),
        "device": subject.device,
        "metric": subject.metric,
        "seed": subject.seed,
        "limits": [subject.limits.seconds, subject.limits.memory],
        "version of robustkit": __version__,
    }
    found: dict[str, Any] = json.loads(json.dumps(identity, default=os.fspath))
    return found


def _digests(clean: Clean) -> list[str]:
    """Of an image, of its clean stream, and of what that decodes to."""
    assert clean.decoded.image is not None
    stream = hashlib.sha256(clean.bitstream).hexdigest()
    return [fingerprint(clean.original), stream, fingerprint(clean.decoded.image)]


def _parsed(path: Path, data: bytes) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """What the trials in the file are of, and the trials, each of them sound.

    Raises:
        StoreError: anything else; the message names the line.
    """
    # What follows the last line break was cut.
    first, *lines = data.split(b"\n")[:-1] or [b""]
    try:
        head = _loaded(first)
        version, identity = head["trials"], dict(head["identity"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{path} is no file of trials: {_WAY_OUT}") from error
    if version != VERSION:
        raise StoreError(f"{path} is of another version of robustkit: {_WAY_OUT}")
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            row = _loaded(line)
            _check(row, identity.get("metric"))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise StoreError(f"{path}, line {number}, is no trial ({reason}): {_WAY_OUT}") from error
        rows.append(row)
    return identity, rows


def _loaded(line: bytes) -> dict[str, Any]:
    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number")

    found: dict[str, Any] = json.loads(line.decode("utf-8"), parse_constant=no_number)
    return found


def _check(row: Mapping[str, Any], metric: object) -> None:
    """Raise what says why ``row`` is no trial."""
    for key, kind in (("image", str), ("number", int), ("message", str), ("digests", list)):
        if type(row[key]) is not kind:
            raise ValueError(f"{key} = {row[key]!r}")
    parse(row["channel"])
    wanted = [metric] if Outcome(row["outcome"]).has_image else []
    for key in ("metrics", "drops"):
        if list(row[key]) != wanted:
            raise ValueError(f"{key} of {', '.join(row[key]) or 'nothing'} for an outcome {row['outcome']}")
    for value in (row["seconds"], *row["metrics"].values(), *row["drops"].values()):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{value!r} is no measurement")


def _trial(row: Mapping[str, Any], subject: Subject, job: Job) -> Trial:
    return Trial(
        subject.own_name,
        job.image,
        job.channel,
        job.number,
        subject.seed,
        subject.pattern(job),
        Outcome(row["outcome"]),
        subject.clean[job.image].bpp,
        row["seconds"],
        dict(row["metrics"]),
        dict(row["drops"]),
        row["message"],
    )
