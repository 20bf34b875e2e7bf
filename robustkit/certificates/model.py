"""What a certificate says, as plain records: everything that its page shows, its verifier checks and a gate compares.

Digests are SHA-256 in hexadecimal. Texts from outside (messages, names) are as they came: who prints them escapes them.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from robustkit.errors import RobustkitError

#: Of the records below; another version is another format.
VERSION = 1
#: The type of our own in-toto predicate.
PREDICATE = "urn:robustkit:certificate:v1"

#: No number of ours is so large; an integer beyond it is no float.
_HUGE = 1e300

R = TypeVar("R")


class CertificateError(RobustkitError, ValueError):
    """What is no certificate, or one that can't be used; the message says what is wrong, and where."""


@dataclass(frozen=True)
class Artifact:
    """A file that was judged, or that the verdict depends on.

    Attributes:
        name: as a reader would look for it: a path inside its package, a program's name.
        kind: what it is.
        sha256: of its bytes.
    """

    name: str
    kind: Literal["package", "library", "program", "weights", "source"]
    sha256: str


@dataclass(frozen=True)
class Photograph:
    """An image of the corpus, and its clean round trip.

    Attributes:
        name: as trials name it.
        sha256: of its pixels, as :func:`robustkit.isolation.fingerprint` has it.
        height, width: in pixels.
        stream: digest of the clean stream.
        stream_bytes: its length.
        bpp: rate in bits per pixel.
        quality: of the clean decode, in the metric's unit.
        pixels: digest of the clean decode.
    """

    name: str
    sha256: str
    height: int
    width: int
    stream: str
    stream_bytes: int
    bpp: float
    quality: float
    pixels: str


@dataclass(frozen=True)
class Corpus:
    """What was tried, fixed before the run.

    Attributes:
        digest: of the definition: images by digest, channels, seed, rounds at most.
        images: in the order of their names.
        channels: canonical spellings, in the profile's order.
        seed: of the trials.
        search_seed: of the searches.
        effort: its name.
        rounds: trials of each image and channel, at the most.
    """

    digest: str
    images: tuple[Photograph, ...]
    channels: tuple[str, ...]
    seed: int
    search_seed: str
    effort: str
    rounds: int


@dataclass(frozen=True)
class Tolerance:
    """How far the pixels of one stream may lie apart between machines, in grey levels.

    Attributes:
        maximum, mean: at worst, and on average.
    """

    maximum: float
    mean: float


@dataclass(frozen=True)
class Line:
    """A finding on a claim, as the suite's table has it.

    Attributes:
        claim, title, severity, measured, declared, verdict, numbers, waiver, advice: as
            :class:`robustkit.judging.finding.Finding` has them.
    """

    claim: str
    title: str
    severity: str
    measured: str
    declared: str
    verdict: str
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    waiver: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Assessed:
    """One promise held against trials, as :class:`robustkit.judging.assess.Assessment` has it.

    Attributes:
        quantity, severity, estimate, low, high, limit, verdict, measured, declared, trials: as there; what is not
            finite is ``None``.
        images: how many the trials are of.
        estimand: what the figure speaks of.
    """

    quantity: str
    severity: str
    estimate: float | None
    low: float | None
    high: float | None
    limit: float | None
    verdict: str
    measured: str
    declared: str
    trials: int
    images: int
    estimand: Literal["these images", "images in general"] = "these images"


@dataclass(frozen=True)
class ChannelResult:
    """What the trials of one channel came to.

    Attributes:
        channel: canonical spelling.
        kind: its name alone, such as "bsc".
        severity: its severity, a bit error rate for most.
        outcomes: how many trials ended so, by outcome.
        harmless: how many streams arrived unharmed.
        silent: trials with another picture than the clean one, beyond the codec's tolerance, and no refusal: silently
            wrong.
        mean_drop: over trials with an image, in the metric's unit; ``None`` without any.
        quality: mean quality of the trials with an image; ``None`` without any.
    """

    channel: str
    kind: str
    severity: float
    outcomes: Mapping[str, int]
    harmless: int
    silent: int
    mean_drop: float | None
    quality: float | None


@dataclass(frozen=True)
class Certified:
    """The highest severity of one ladder of channels up to which every promise is proved.

    Tested from mild to harsh, and stopped at the first that is not proved: a fixed sequence, which needs no correction.

    Attributes:
        ladder: what its channels share, in words: "bsc".
        unit: of ``highest``: "BER" for most.
        highest: the severity; ``None`` where not even the mildest is proved.
        channel: that channel; ``None`` likewise.
        stopped_at: the first channel that is not proved; ``None`` where all are.
        estimand: what the trials speak of.
    """

    ladder: str
    unit: str
    highest: float | None
    channel: str | None
    stopped_at: str | None
    estimand: Literal["these images", "images in general"] = "these images"


@dataclass(frozen=True)
class ErrorRate:
    """How often the instrument itself errs or catches, with this corpus and effort.

    Attributes:
        what: in words: "a codec exactly at its limits is called broken".
        kind: whether a small rate is good ("false alarm") or a large one ("detection").
        rate: 0 to 1.
        low, high: a 95% interval where it was simulated; equal to ``rate``, or a bound, where it was computed.
        how: by computation or by simulation.
        runs: simulated; 0 where it was computed.
    """

    what: str
    kind: Literal["false alarm", "detection"]
    rate: float
    low: float
    high: float
    how: Literal["exact", "bound", "simulated"]
    runs: int = 0


@dataclass(frozen=True)
class Counterexample:
    """A stream that shows that a claim is broken.

    Attributes:
        claim: its id.
        outcome: what happened.
        message: what the worker said.
        stream: digest of the damaged stream.
        damage: what was done to it, a line each.
        replay: path of the file inside the certificate's folder; empty where it is withheld or not kept.
        command: that shows it again.
    """

    claim: str
    outcome: str
    message: str
    stream: str
    damage: tuple[str, ...]
    replay: str
    command: str


@dataclass(frozen=True)
class Lock:
    """Whether what is promised and tried was written down before the run.

    Attributes:
        registered: whether a ``robustkit.lock`` says the same as this run, and was committed before it.
        said: in a sentence: where and when, or "declared with the result".
        commit: that has the lock; empty where there is none.
        sha256: of the lock; empty likewise.
    """

    registered: bool = False
    said: str = "declared with the result"
    commit: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Certificate:
    """A statement about one codec.

    Attributes:
        version: of this format.
        codec: the codec's own name.
        asked: as it was asked for.
        settings: its settings, as JSON.
        verdict: what :class:`robustkit.judging.finding.Said` says.
        sentence: the run's verdict in one line.
        certified: whether nothing blocks it.
        blockers: what does, each named; empty where it is certified.
        kit: version of robustkit, with the digest of its sources.
        kit_sha256: that digest.
        metric: of quality, with its unit in ``metric_unit`` and its direction in ``higher_is_better``.
        profile: the promises as TOML, and their digest.
        profile_sha256: that digest.
        prior: name and digest of a generative prior; empty where there is none.
        subject: what was judged; empty where it could not be identified.
        environment: what else the result depends on: Python, NumPy, platform, device.
        tolerance: how far the codec says that its pixels may lie apart between machines.
        corpus: what was tried.
        lines: the findings.
        assessments: the promises, judged.
        channels: what the trials came to.
        certified_severities: one a ladder.
        error_rates: of the instrument.
        counterexamples: streams that break a claim.
        lock: what was registered before the run.
        trials_root: Merkle root over the rows of trials; empty where there are none.
        trials_count: how many rows.
        files: digests of the folder's other files that do not follow from it, by their paths: the page, ``replay/``.
        started, finished: of the run; ISO 8601 in UTC, to the second.
        command: that makes a certificate like it.
    """

    codec: str
    asked: str
    settings: str
    verdict: str
    sentence: str
    certified: bool
    blockers: tuple[str, ...]
    kit: str
    kit_sha256: str
    metric: str
    metric_unit: str
    higher_is_better: bool
    profile: str
    profile_sha256: str
    prior: str
    subject: tuple[Artifact, ...]
    environment: Mapping[str, str]
    tolerance: Tolerance
    corpus: Corpus
    lines: tuple[Line, ...]
    assessments: tuple[Assessed, ...]
    channels: tuple[ChannelResult, ...]
    certified_severities: tuple[Certified, ...]
    error_rates: tuple[ErrorRate, ...]
    counterexamples: tuple[Counterexample, ...]
    lock: Lock
    trials_root: str
    trials_count: int
    files: Mapping[str, str]
    started: str
    finished: str
    command: str
    version: int = VERSION


@dataclass(frozen=True)
class TrialRow:
    """One trial, as ``trials.parquet`` has it; nothing in it depends on the machine's speed.

    Attributes:
        channel: canonical spelling.
        image: its name.
        number: from 0.
        seed: of the trial.
        flips: how many bits differ.
        stream: digest of the damaged stream.
        outcome: what happened.
        failure: which kind of failure; ``None`` where it is none.
        quality: in the metric's unit; ``None`` without an image.
        drop: quality lost against the clean decode; ``None`` without an image.
        pixels: digest of the decoded image; ``None`` without one.
        tolerated: whether they are others than the clean decode's, and no further off than the codec's tolerance.
    """

    channel: str
    image: str
    number: int
    seed: int
    flips: int
    stream: str
    outcome: str
    failure: str | None
    quality: float | None
    drop: float | None
    pixels: str | None
    tolerated: bool = False


def to_json(record: Any) -> Any:
    """A record in JSON's own types. Numbers that are not finite are refused: a record has ``None`` for them."""
    if is_dataclass(record):
        return {f.name: to_json(getattr(record, f.name)) for f in fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, tuple | list):
        return [to_json(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        raise CertificateError(f"{record} in a certificate: None stands for what is not finite")
    return record


def from_json(kind: type[R], value: Any, where: str = "certificate") -> R:
    """The record that ``value`` spells; nothing but the fields of ``kind``, each of its own type.

    Args:
        kind: a record of this module.
        value: as a JSON reader gives it; how deep it is looked into depends on ``kind`` alone.
        where: what messages call it.

    Raises:
        CertificateError: a field is missing, unknown or of another type; the message names it.
    """
    found: R = _read(kind, value, where)
    return found


def _read(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return _record(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _read(next(part for part in inner if part is not type(None)), value, where)
    if origin is Literal:
        if type(value) is not str or value not in inner:
            raise CertificateError(f"{where} is {_short(value)}, not one of {', '.join(inner)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise CertificateError(f"{where} is {_short(value)}, not a list")
        return tuple(_read(inner[0], part, f"{where}[{index}]") for index, part in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise CertificateError(f"{where} is {_short(value)}, not an object")
        return {key: _read(inner[1], part, f"{where}.{str(key)[:40]}") for key, part in value.items()}
    if kind is float and type(value) in (int, float) and abs(value) < _HUGE:
        return float(value)
    if kind is float or type(value) is not kind:
        raise CertificateError(f"{where} is {_short(value)}, not of type {kind.__name__}")
    return value


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise CertificateError(f"{where} is {_short(value)}, not an object")
    hints = get_type_hints(kind)
    if unknown := [key for key in value if key not in hints]:
        raise CertificateError(f"{where} has an unknown field {_short(unknown[0])}")
    if missing := [name for name in hints if name not in value]:
        raise CertificateError(f"{where} lacks {missing[0]!r}")
    return kind(**{name: _read(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def _short(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return repr(value[:40])
    return f"{value}"[:40]
