"""The sides of a comparison: read from a certificate or a baseline file, or run; and the baseline file, written.

A baseline file is text, to be committed: a JSON object a line, first what the trials are of, then each trial. Reading
needs the core alone, and nothing of it is run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from robustkit.certificates import collect
from robustkit.certificates import lock as locks
from robustkit.certificates.model import Certificate, CertificateError, Line, Photograph, TrialRow, from_json, to_json
from robustkit.certificates.pairing import Side
from robustkit.channels import Channel, parse
from robustkit.judging.subject import CHUNK, Job, Subject
from robustkit.spelling import SpellingError, json_value

#: Of the baseline file.
KIND, VERSION = "robustkit baseline", 1
#: No file of ours is so long, or has so many trials.
MOST_BYTES, MOST_ROWS = 1 << 28, 1_000_000
#: What a certificate's folder is known by.
STATEMENTS = "certificate.intoto.jsonl"
TRIALS = "trials.parquet"


@dataclass(frozen=True)
class _Head:
    """The first line of a baseline file; the fields are those of :class:`Side`."""

    kind: str
    version: int
    codec: str
    label: str
    metric: str
    trials: int
    facts: Mapping[str, str]
    photographs: tuple[Photograph, ...]
    lines: tuple[Line, ...]
    searched: str


# -- stored sides


def is_stored(text: str) -> bool:
    """Whether ``text`` names a certificate or a baseline on disk, and no codec."""
    path = Path(text)
    return (path / STATEMENTS).is_file() or (path.is_file() and path.suffix == ".jsonl")


def load(path: Path) -> Side:
    """A certificate (its folder, or its ``.jsonl`` beside ``trials.parquet``), or a baseline file.

    Raises:
        CertificateError: it is neither, or was changed; the message says where.
    """
    file = path / STATEMENTS if path.is_dir() else path
    if file.name == STATEMENTS or _begins_with(file, b'{"_type"'):
        return _certificate(file)
    return _baseline(file)


def _begins_with(file: Path, head: bytes) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(head)) == head
    except OSError as error:
        raise CertificateError(f"{file} can't be read: {error}") from error


def _certificate(file: Path) -> Side:
    from robustkit.certificates import statement, trials

    try:
        with file.open("rb") as opened:
            data = opened.read(statement.MOST_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"{file} can't be read: {error}") from error
    try:
        certificate = statement.loads(data)
    except CertificateError as error:
        raise CertificateError(f"{file}: {error}") from error
    rows: tuple[TrialRow, ...] = ()
    if certificate.trials_count:
        rows = trials.read(file.parent / TRIALS)
    if len(rows) != certificate.trials_count or trials.root(rows) != certificate.trials_root:
        raise CertificateError(f"{file.parent / TRIALS} has other rows than the certificate speaks of")
    return of_certificate(certificate, rows, label=str(file.parent))


def of_certificate(certificate: Certificate, rows: Sequence[TrialRow], *, label: str) -> Side:
    """The side that a certificate and its rows are."""
    corpus = certificate.corpus
    return Side(
        label,
        certificate.codec,
        certificate.metric,
        corpus.images,
        tuple(rows),
        {**certificate.environment, "settings": certificate.settings, "robustkit": certificate.kit},
        certificate.lines,
        " ".join((certificate.profile_sha256, corpus.digest, corpus.search_seed, corpus.effort)),
    )


def _baseline(file: Path) -> Side:
    def bad(text: str) -> NoReturn:
        raise CertificateError(f"{file}: {text}")

    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        bad(f"can't be read: {error}")
    if len(data) > MOST_BYTES:
        bad(f"more than {MOST_BYTES:,} bytes are no baseline")
    lines = data.split(b"\n")
    if lines.pop() != b"" or not lines:
        bad("its last line is cut off: write it anew with --propose")
    if len(lines) > MOST_ROWS:
        bad(f"more than {MOST_ROWS:,} lines are no baseline")
    try:
        first = json_value(lines[0].decode())
        if not isinstance(first, dict) or first.get("kind") != KIND:
            bad("it is neither a certificate nor a baseline")
        if first.get("version") != VERSION:
            bad(f"a baseline of version {str(first.get('version'))[:20]}, not {VERSION}: write it anew with --propose")
        head = from_json(_Head, first, "line 1")
        rows = tuple(
            from_json(TrialRow, json_value(line.decode()), f"line {number}") for number, line in enumerate(lines[1:], 2)
        )
    except (SpellingError, UnicodeDecodeError) as error:
        bad(f"a line is no JSON that can be read: {error}")
    except CertificateError as error:
        if str(error).startswith(f"{file}: "):
            raise
        bad(str(error))
    if len(rows) != head.trials:
        bad(f"{len(rows)} trials, and its first line speaks of {head.trials}")
    return Side(str(file), head.codec, head.metric, head.photographs, rows, head.facts, head.lines, head.searched)


def propose(path: Path, side: Side) -> None:
    """Write ``side`` as a baseline, whole or not at all; the same trials give the same bytes.

    Raises:
        CertificateError: it can't be written.
    """
    head = _Head(
        KIND,
        VERSION,
        side.codec,
        side.label,
        side.metric,
        len(side.rows),
        side.facts,
        side.photographs,
        side.lines,
        side.searched,
    )
    rows = sorted(side.rows, key=lambda row: (row.channel, row.image, row.number))
    text = "".join(
        json.dumps(to_json(record), sort_keys=True, allow_nan=False, separators=(",", ":")) + "\n"
        for record in (head, *rows)
    )
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise CertificateError(f"{path} can't be written: {error}") from error


# -- sides that are run


@dataclass(frozen=True)
class Plan:
    """Which trials a codec goes through.

    Attributes:
        codec: whose name seeds the damage; ``None`` for the codec's own.
        seed: of the trials.
        jobs: image and number of each trial, by channel.
    """

    codec: str | None
    seed: int
    jobs: Mapping[Channel, Sequence[tuple[str, int]]]

    @classmethod
    def like(cls, side: Side) -> Plan:
        """The trials that a stored side has.

        Raises:
            CertificateError: it has none, or such as can't be drawn again.
        """
        seeds = {row.seed for row in side.rows}
        if len(seeds) != 1:
            raise CertificateError(f"{side.label} has trials of {len(seeds)} seeds, so they can't be run again")
        jobs: dict[Channel, list[tuple[str, int]]] = {}
        for row in side.rows:
            jobs.setdefault(_channel(row.channel), []).append((row.image, row.number))
        return cls(side.codec, seeds.pop(), jobs)


def _channel(text: str) -> Channel:
    try:
        return parse(text)
    except ValueError as error:
        raise CertificateError(f"a trial's channel can't be read: {error}") from error


@contextmanager
def first_in_path(folder: Path | None) -> Iterator[None]:
    """Workers that start meanwhile import from ``folder`` first; this process imports no codec."""
    if folder is None:
        yield
        return
    before = list(sys.path)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before


def run(subject: Subject, plan: Plan, *, label: str, tell: Callable[[str], None] = lambda _: None) -> Side:
    """Take a codec through the trials of ``plan``; those of images that it was not given are left out.

    Args:
        subject: the codec, with its images.
        plan: the trials.
        label: as messages call the side.
        tell: called with a line of progress now and then.

    Raises:
        CleanRoundTripFailed: an image could not be encoded, or its clean stream not decoded.
        CodecUnavailable: the codec can't run here.
        ChannelError: a channel can't be drawn for a stream.
    """
    own = subject.workers.attributes.name
    subject.own_name = plan.codec or own
    subject.seed = plan.seed
    clean = subject.clean
    jobs = [
        Job(image, channel, number) for channel, found in plan.jobs.items() for image, number in found if image in clean
    ]
    rows = []
    for trial in subject.run(_of_one_shape(subject, jobs)):
        rows.append(collect.row(subject, trial))
        if len(rows) % CHUNK == 0:
            tell(f"{label}: {len(rows)} of {len(jobs)} trials")
    order = [str(channel) for channel in plan.jobs]
    rows.sort(key=lambda row: (order.index(row.channel), row.image, row.number))
    facts = {**collect.facts(subject), "settings": locks.settings_of(subject)}
    return Side(label, own, subject.metric, collect.photographs(subject), tuple(rows), facts)


def _of_one_shape(subject: Subject, jobs: Iterable[Job]) -> list[Job]:
    """Side by side those of equal shape, so that whole batches share one."""
    return sorted(jobs, key=lambda job: (str(job.channel), subject.clean[job.image].shape, job.image, job.number))
