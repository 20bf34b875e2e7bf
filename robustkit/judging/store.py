"""Trials on disk, so that a run that was stopped goes on. Whatever they depend on is named by content.

The file has a JSON object a line: first what the trials are of, then each trial. A last line that was cut is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustkit import __version__
from robustkit.channels import parse
from robustkit.errors import RobustkitError
from robustkit.isolation import fingerprint
from robustkit.judging.subject import Job, Subject
from robustkit.judging.trial import Clean, Trial
from robustkit.outcome import Outcome

VERSION = 1
#: Trials between two writes to disk.
_BATCH = 16


class StoreError(RobustkitError, ValueError):
    """A file of trials that can't be used; the message names it."""


class TrialStore:
    """The trials of one codec in one file.

    Args:
        path: of the file; it need not be there.
        subject: the codec, whose clean round trips are run first.
        tell: called with a line where stored trials can't be used.

    Raises:
        StoreError: the file can't be read or written.
        CleanRoundTripFailed: as :attr:`Subject.clean`.
    """

    def __init__(self, path: Path, subject: Subject, *, tell: Callable[[str], None] = lambda _: None) -> None:
        self.path = path
        self.subject = subject
        self._digests = {name: _digests(clean) for name, clean in subject.clean.items()}
        self._trials: dict[Job, Trial] = {}
        identity = _identity(subject)
        try:
            stored, rows = _read(path)
        except FileNotFoundError:
            stored, rows = None, []
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error.strerror}") from error
        differing = [] if stored is None else _differing(stored, identity)
        if differing:
            aside = path.with_name(path.name + ".old")
            tell(
                f"{path} has trials of another {' and another '.join(differing)}: kept as {aside.name}, measuring anew"
            )
            os.replace(path, aside)
            rows = []
        other = {row["image"] for row in rows if row["digests"] != self._digests.get(row["image"])}
        if other:
            tell(f"{path} has trials of other pixels, streams or decodes of {', '.join(sorted(other))}: these run anew")
        for row in rows:
            if row["image"] not in other:
                job = Job(row["image"], parse(row["channel"]), row["number"])
                self._trials[job] = _trial(row, subject, job)
        if stored is None or differing or other or len(rows) != len(self._trials):
            self._write(identity)

    def __len__(self) -> int:
        return len(self._trials)

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Those of ``jobs`` that are not here."""
        return [job for job in jobs if job not in self._trials]

    def run(self, jobs: Sequence[Job]) -> Iterator[Trial]:
        """Run those of ``jobs`` that are not here, and keep them as they come."""
        waiting: list[str] = []
        try:
            for trial in self.subject.run(self.missing(jobs)):
                self._trials[Job(trial.image, trial.channel, trial.number)] = trial
                waiting.append(self._line(trial))
                if len(waiting) == _BATCH:
                    self._append(waiting)
                yield trial
        finally:
            self._append(waiting)

    def trials(self, jobs: Iterable[Job]) -> list[Trial]:
        """The trials of ``jobs``, all of which are here."""
        return [self._trials[job] for job in jobs]

    def _line(self, trial: Trial) -> str:
        row = {**trial.to_row(), "digests": self._digests[trial.image]}
        return json.dumps(row, sort_keys=True, allow_nan=False) + "\n"

    def _append(self, lines: list[str]) -> None:
        if lines:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
            lines.clear()

    def _write(self, identity: Mapping[str, Any]) -> None:
        text = json.dumps({"trials": VERSION, "identity": identity}, sort_keys=True) + "\n"
        text += "".join(self._line(trial) for trial in self._trials.values())
        unfinished = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(text, encoding="utf-8")
            os.replace(unfinished, self.path)
        except OSError as error:
            raise StoreError(f"{self.path} can't be written: {error.strerror}") from error


def _identity(subject: Subject) -> dict[str, Any]:
    """What trials depend on beside image, channel and number, in JSON's own types."""
    identity = {
        "codec": subject.own_name,
        "version of the codec's sources": subject.workers.attributes.sources,
        "settings": dict(subject.spec.settings),
        "description": dict(subject.workers.describe()),
        "device": subject.device,
        "metric": subject.metric,
        "seed": subject.seed,
        "limits": [subject.limits.seconds, subject.limits.memory],
        "robustkit": __version__,
    }
    found: dict[str, Any] = json.loads(json.dumps(identity, default=os.fspath))
    return found


def _differing(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [key for key in now if stored.get(key) != now[key]]


def _digests(clean: Clean) -> list[str]:
    """Of an image, of its clean stream, and of what that decodes to."""
    assert clean.decoded.image is not None
    stream = hashlib.sha256(clean.bitstream).hexdigest()
    return [fingerprint(clean.original), stream, fingerprint(clean.decoded.image)]


def _read(path: Path) -> tuple[Mapping[str, Any] | None, list[dict[str, Any]]]:
    lines = path.read_bytes().split(b"\n")
    # What follows the last line break was cut.
    try:
        head, *rows = [json.loads(line) for line in lines[:-1]]
        if head["trials"] != VERSION:
            raise StoreError(f"{path} is of another version of robustkit: remove it, or name another file")
        for row in rows:
            if not isinstance(row["number"], int) or not isinstance(row["image"], str):
                raise ValueError("a trial has no image and number")
            parse(row["channel"])
            Outcome(row["outcome"])
            _ = row["digests"], dict(row["metrics"]), dict(row["drops"]), float(row["seconds"]), str(row["message"])
        identity: Mapping[str, Any] = dict(head["identity"])
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} holds no trials ({error}): remove it, or name another file") from error
    return identity, rows


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
        float(row["seconds"]),
        dict(row["metrics"]),
        dict(row["drops"]),
        str(row["message"]),
    )
