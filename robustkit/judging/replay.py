"""Replay files: a failing stream on disk with all that it takes to decode it again, in another process, on another day.

``NAME.replay.json`` lies beside the stream, ``NAME.bin``. Replaying one imports the codec that the file names, so a
replay file is as trustworthy as the code it leads to.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from robustkit.errors import RobustkitError
from robustkit.isolation import CodecWorkers, Limits
from robustkit.judging.finding import ClaimError, check_claim
from robustkit.judging.opinion import HERE, difference, elsewhere
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.registry import CodecSpec, Target
from robustkit.spelling import json_value

VERSION = 1
SUFFIX = ".replay.json"
#: Bytes of the largest replay file and of the largest stream that are read, and how many a folder may hold.
LARGEST, LARGEST_STREAM, MOST = 1 << 26, 1 << 28, 10_000


class ReplayError(RobustkitError, ValueError):
    """A replay file that can't be read; the message names the file, the key, and what is wrong with it."""


@dataclass(frozen=True)
class Replay:
    """One decode, as it was.

    Attributes:
        spec: the codec and its settings.
        bitstream: what was decoded, the damage included.
        outcome: what happened.
        message: what the worker said.
        shape: expected height and width; ``None`` where any size is right.
        clean: SHA-256 of the clean decode, by :func:`robustkit.isolation.fingerprint`; ``None`` where there was none.
        limits: time and memory of the decode.
        pattern: the damage; ``None`` for bytes that are no stream of the codec's.
        regions: the damage in words, line by line, as ``robustkit.minimise.describe`` gives it.
        claim: id of the claim that it disproves; empty for none.
        sys_path: folders that the codec's module was imported from.
    """

    spec: CodecSpec
    bitstream: bytes = field(repr=False)
    outcome: Outcome
    message: str = ""
    shape: tuple[int, int] | None = None
    clean: str | None = None
    limits: Limits = field(default_factory=Limits)
    pattern: ErrorPattern | None = None
    regions: tuple[str, ...] = ()
    claim: str = ""
    sys_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replayed:
    """What happened this time.

    Attributes:
        outcome: now.
        message: what the worker said now.
        same: whether the outcome is the one in the file.
    """

    outcome: Outcome
    message: str
    same: bool


class Shown(StrEnum):
    """What replaying a stored failure shows."""

    FIXED = "fixed"  #: it came then, and does not now
    FAILED = "failed"  #: it comes again, or another failure does
    UNTOLD = "can't tell"  #: what was wrong does not show in an outcome: a loss of quality, or of time


def shown(then: Outcome, now: Outcome) -> Shown:
    """Whether a stored failure is fixed, as far as outcomes tell.

    Args:
        then: the stored outcome.
        now: that of decoding the same stream again.
    """
    if now.failure:
        return Shown.FAILED
    if then.failure:
        return Shown.FIXED
    if now is Outcome.REFUSED:
        # Too many were refused, or one that was no more than degraded now is: neither is better.
        return Shown.FAILED if then is Outcome.REFUSED else Shown.UNTOLD
    if now is Outcome.INTACT and then is not Outcome.INTACT:
        return Shown.FIXED
    return Shown.FIXED if then is Outcome.REFUSED else Shown.UNTOLD


def stored_in(folder: Path) -> list[Path]:
    """The replay files in a folder and those below it, in the order of their paths; links are not followed.

    Raises:
        ReplayError: there are more than :data:`MOST`, or the folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise ReplayError(f"{error.filename} can't be read: {error.strerror}") from error

    found = []
    for place, _, names in os.walk(folder, onerror=refuse):
        found += [Path(place, name) for name in names if name.endswith(SUFFIX) and name != SUFFIX]
        if len(found) > MOST:
            raise ReplayError(f"{folder} has more than {MOST} replay files: name a folder in it")
    return sorted(found)


def save_replay(path: str | Path, replay: Replay) -> Path:
    """Write ``replay`` to ``path``, a name that ends in ".replay.json", and its stream beside it.

    ``sys_path`` is taken from this process where it is empty. Returns the path.

    Raises:
        ReplayError: the name ends otherwise, or the codec has a setting that is no number, string, list or path.
    """
    path = Path(path)
    stem = path.name.removesuffix(SUFFIX)
    if not path.name.endswith(SUFFIX) or not stem:
        raise ReplayError(f"{path}: a replay file's name ends in {SUFFIX}")
    target, pattern, limits = replay.spec.target, replay.pattern, replay.limits
    data = {
        "version": VERSION,
        "codec": replay.spec.name,
        "target": {"module": target.module, "attribute": target.attribute, "file": target.file},
        "settings": dict(replay.spec.settings),
        "python": replay.spec.python,
        "sys_path": list(replay.sys_path) or [os.path.abspath(entry) for entry in sys.path],
        "stream": f"{stem}.bin",
        "shape": None if replay.shape is None else list(replay.shape),
        "outcome": replay.outcome.value,
        "message": replay.message,
        "clean_sha256": replay.clean,
        "limits": {"seconds": limits.seconds, "memory": limits.memory},
        "pattern": None
        if pattern is None
        else {
            "bits": pattern.bits,
            "flips": pattern.flips.tolist(),
            "keep": pattern.keep,
            "append_hex": pattern.append.hex(),
        },
        "regions": list(replay.regions),
        "claim": replay.claim,
    }
    try:
        text = json.dumps(data, indent=2, default=os.fspath, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ReplayError(f"{path}: codec {replay.spec.name!r} has a setting that JSON can't hold: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # The stream first: a replay file that exists has one.
    path.with_name(f"{stem}.bin").write_bytes(replay.bitstream)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def load_replay(path: str | Path) -> Replay:
    """Read a replay file and its stream, believing nothing in it.

    Raises:
        ReplayError: unreadable, another version, a key missing or of the wrong kind, or no stream beside it.
    """
    path = Path(path)
    try:
        data = json_value(_bytes(path, LARGEST).decode("utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, ReplayError):
            raise
        raise ReplayError(f"{path} is no replay file: {error}") from error
    fields = _Fields(path, data)
    version = fields.take("version", int)
    if version != VERSION:
        raise ReplayError(f"{path} has version {version}, this robustkit reads {VERSION}: use the one that wrote it")
    name = fields.take("stream", str)
    if not name or PurePath(name).name != name or "\\" in name or "\0" in name:
        raise ReplayError(f"{path}: stream = {name!r} must be the name of a file beside it")
    try:
        bitstream = _bytes(path.with_name(name), LARGEST_STREAM)
    except (OSError, ValueError) as error:
        if isinstance(error, ReplayError):
            raise
        raise ReplayError(f"{path}: its stream is gone: {error}") from error
    target, limits = fields.table("target"), fields.table("limits")
    shape = fields.numbers("shape", optional=True)
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise ReplayError(f"{path}: shape = {list(shape)} must be height and width")
    try:
        return Replay(
            CodecSpec(
                fields.take("codec", str),
                Target(target.take("module", str), target.take("attribute", str), target.take("file", str, None)),
                dict(fields.take("settings", dict)),
                # Files of before it could be chosen don't have it.
                fields.take("python", str, None) if "python" in fields.data else None,
            ),
            bitstream,
            Outcome(fields.take("outcome", str)),
            fields.take("message", str),
            None if shape is None else (shape[0], shape[1]),
            fields.take("clean_sha256", str, None),
            Limits(seconds=float(limits.take("seconds", int, float)), memory=limits.take("memory", int)),
            _pattern(fields),
            fields.strings("regions"),
            _claim(fields),
            fields.strings("sys_path"),
        )
    except ReplayError:
        raise
    except (ValueError, OverflowError) as error:
        raise ReplayError(f"{path}: {error}") from error


def run_replay(replay: Replay) -> Replayed:
    """Decode the stream again in a worker process; in two that differ, where that was what had gone wrong.

    Folders of ``sys_path`` are added to the end of this process's, and the working directory stays as it is.

    Raises:
        CodecUnavailable: the codec can't be loaded here.
    """
    sys.path += [entry for entry in replay.sys_path if entry not in sys.path and Path(entry).exists()]
    with (
        tempfile.TemporaryDirectory(prefix="robustkit-replay-") as directory,
        CodecWorkers(replay.spec, limits=replay.limits, directory=directory, environment=HERE) as workers,
    ):
        decoded = workers.decode(replay.bitstream, shape=replay.shape)
        outcome, message = decoded.judged(replay.clean), decoded.message
        if replay.outcome is Outcome.UNSTABLE and decoded.image is not None:
            with CodecWorkers(
                replay.spec, limits=replay.limits, directory=directory, environment=elsewhere()
            ) as others:
                said = difference(decoded, others.decode(replay.bitstream, shape=replay.shape))
            if said is not None:
                outcome, message = Outcome.UNSTABLE, f"decoded again in another process: {said}"
    return Replayed(outcome, message, outcome is replay.outcome)


def _bytes(file: Path, most: int) -> bytes:
    """What a plain file holds.

    Raises:
        ReplayError: it is a link, a device or a pipe, or larger than ``most`` bytes.
        OSError: it can't be read.
    """
    if file.is_symlink() or (file.exists() and not (file.is_file() or file.is_dir())):
        raise ReplayError(f"{file} is a link, or no plain file: put the file itself there")
    with file.open("rb") as opened:
        data = opened.read(most + 1)
    if len(data) > most:
        raise ReplayError(f"{file} is larger than {most >> 20} MiB")
    return data


def _claim(fields: _Fields) -> str:
    claim: str = fields.take("claim", str)
    if claim:
        try:
            check_claim(claim)
        except ClaimError as error:
            raise ReplayError(f"{fields.path}: claim: {error}") from error
    return claim


def _pattern(fields: _Fields) -> ErrorPattern | None:
    if fields.take("pattern", dict, None) is None:
        return None
    table = fields.table("pattern")
    flips = table.numbers("flips")
    assert flips is not None
    return ErrorPattern(
        table.take("bits", int),
        np.array(flips, dtype=np.int64),
        table.take("keep", int, None),
        bytes.fromhex(table.take("append_hex", str)),
    )


class _Fields:
    """A JSON object whose values are checked as they are taken."""

    def __init__(self, path: Path, data: object, within: str = "") -> None:
        if not isinstance(data, Mapping):
            raise ReplayError(f"{path} is no replay file: {within or 'the top'} must be a table")
        self.path = path
        self.data = data
        self.within = f"{within}." if within else ""

    def take(self, key: str, *kinds: type[Any] | None) -> Any:
        """The value of ``key``, of one of ``kinds``; ``None`` among them allows null."""
        if key not in self.data:
            raise ReplayError(f"{self.path}: {self.within}{key} is missing")
        value = self.data[key]
        fits = value is None if None in kinds else False
        fits = fits or (isinstance(value, tuple(k for k in kinds if k is not None)) and not isinstance(value, bool))
        if not fits:
            names = " or ".join("null" if k is None else k.__name__ for k in kinds)
            raise ReplayError(f"{self.path}: {self.within}{key} = {value!r} must be {names}")
        return value

    def table(self, key: str) -> _Fields:
        return _Fields(self.path, self.take(key, dict), self.within + key)

    def strings(self, key: str) -> tuple[str, ...]:
        return tuple(self._all(key, self.take(key, list), str))

    def numbers(self, key: str, *, optional: bool = False) -> tuple[int, ...] | None:
        values = self.take(key, list, None) if optional else self.take(key, list)
        return None if values is None else tuple(self._all(key, values, int))

    def _all(self, key: str, values: Sequence[Any], kind: type[Any]) -> Sequence[Any]:
        if not all(isinstance(v, kind) and not isinstance(v, bool) for v in values):
            raise ReplayError(f"{self.path}: {self.within}{key} must hold nothing but {kind.__name__}")
        return values
