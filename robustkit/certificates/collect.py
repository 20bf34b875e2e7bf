"""From a judged codec to its certificate: what only the process that ran it knows, and what is known at the end.

A part is the first of them, as a file, because under pytest-xdist several processes run the checks of one codec.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import robustkit
from robustkit.certificates import corpus, power
from robustkit.certificates import lock as locks
from robustkit.certificates.model import (
    Artifact,
    Assessed,
    Certificate,
    CertificateError,
    Certified,
    ChannelResult,
    Corpus,
    Counterexample,
    ErrorRate,
    Line,
    Photograph,
    Tolerance,
    TrialRow,
    from_json,
    to_json,
)
from robustkit.channels import Channel, ladders
from robustkit.isolation import WorkerError, fingerprint
from robustkit.judging.assess import Assessment
from robustkit.judging.evidence import Kept
from robustkit.judging.finding import CLAIMS, Finding, RunVerdict, Said, Verdict, states
from robustkit.judging.silent import is_silent
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Trial
from robustkit.quality import METRICS
from robustkit.registry import CodecUnavailable

#: A message is quoted so far.
_LONGEST = 2000
_NAMED = 4
_PROMISED = ("mean_drop", "p5_drop", "corrupted", "catastrophes")
#: Of severities, by what grades a channel.
_UNITS = {"ber": "BER", "length": "bits", "keep": "share of the stream", "rate": "share of bytes"}
_GENERAL = ", images in general"


@dataclass(frozen=True)
class Part:
    """What a process that ran a codec's checks knows of it.

    Attributes:
        codec: its own name.
        settings: as JSON.
        metric: of quality.
        profile: as TOML; empty where nothing is promised.
        promises: how many channels are promised.
        facts: what the codec says of itself.
        tolerance: as a certificate has it.
        corpus: what was tried, with the clean round trips.
        judged: whether the trials of all promises were run and judged here.
        assessments, channels, certified, rates, rows, counterexamples: as a certificate has them.
        files: by path in ``replay/``, where the files of counterexamples lie now.
        subject: what the codec is made of; empty where that was not asked for, or could not be found out.
    """

    codec: str
    settings: str
    metric: str
    profile: str
    promises: int
    facts: Mapping[str, str]
    tolerance: Tolerance
    corpus: Corpus
    judged: bool
    assessments: tuple[Assessed, ...] = ()
    channels: tuple[ChannelResult, ...] = ()
    certified: tuple[Certified, ...] = ()
    rates: tuple[ErrorRate, ...] = ()
    rows: tuple[TrialRow, ...] = ()
    counterexamples: tuple[Counterexample, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    subject: tuple[Artifact, ...] = ()

    def write(self, path: Path) -> None:
        """Put it into a file."""
        aside = path.with_name(path.name + ".tmp")
        aside.write_text(json.dumps(to_json(self)), encoding="utf-8", errors="surrogatepass")
        os.replace(aside, path)

    @classmethod
    def read(cls, path: Path) -> Part:
        """Read what :meth:`write` wrote.

        Raises:
            CertificateError: it is none.
        """
        try:
            return from_json(cls, json.loads(path.read_text(encoding="utf-8", errors="surrogatepass")), "part")
        except (OSError, ValueError, RecursionError) as error:
            raise CertificateError(f"{path.name} can't be read: {error}") from error


@dataclass(frozen=True)
class Run:
    """What is known of a run as a whole.

    Attributes:
        asked: the codec as it was asked for.
        findings: on it.
        verdict: what they say together; ``None`` where no check examined the codec.
        loosened: what the profile allows beyond the codec's own.
        other_images: options by which the images are others than the profile's.
        dirty: what is not committed of the codec's sources; ``None`` where all is.
        lock: as it lay there before the run.
        effort: its name.
        device: that was asked for.
        started, finished: ISO 8601 in UTC.
        command: that makes a certificate like it.
        withheld: whether streams that show failures are left out.
        trouble: why the parts are not all there.
        less: options by which less was tried than the effort says.
        hashed: whether the codec's files were hashed, which takes a certificate that was asked for.
    """

    asked: str
    findings: Sequence[Finding]
    verdict: RunVerdict | None
    loosened: Sequence[str]
    other_images: Sequence[str]
    dirty: str | None
    lock: locks.Found | None
    effort: str
    device: str
    started: str
    finished: str
    command: str
    withheld: bool = False
    trouble: Sequence[str] = ()
    less: Sequence[str] = ()
    hashed: bool = True


def part_of(subject: Subject, *, effort: str, certifying: bool) -> Part | None:
    """What a process knows of a codec; ``None`` where no image came back.

    Args:
        subject: the codec, its checks done. Nothing is decoded for this.
        effort: its name.
        certifying: whether a certificate is wanted, for which error rates are simulated and files hashed.
    """
    if not subject.round_trips:
        return None
    profile, judged, metric = subject.profile, subject.judged, subject.metric
    images = photographs(subject)
    channels = () if profile is None else tuple(str(promise.channel) for promise in profile.promises)
    tried = Corpus("", images, channels, subject.seed, str(subject.search_seed), effort, subject.trials_per_image)
    tried = replace(tried, digest=corpus.digest_of(tried))
    assessments = subject.assessments if judged else []
    examples, files = counterexamples(subject.kept)
    return Part(
        subject.own_name,
        locks.settings_of(subject),
        metric,
        "" if profile is None else profile.to_toml(),
        len(channels),
        facts(subject),
        Tolerance(*subject.tolerance),
        tried,
        bool(judged),
        tuple(assessed(found, len(images)) for found in assessments),
        tuple(_channel(channel, trials, metric) for channel, trials in judged.items()),
        tuple(certified(judged, assessments)),
        tuple(
            power.rates(profile, judged, metric, subject.rule, rounds=subject.trials_per_image)
            if certifying and profile is not None
            else ()
        ),
        tuple(row(subject, trial) for trials in judged.values() for trial in trials),
        tuple(examples),
        files,
        tuple(artifacts(subject)) if certifying else (),
    )


def photographs(subject: Subject) -> tuple[Photograph, ...]:
    """The codec's images and clean round trips, in the order of their names."""
    return tuple(
        Photograph(
            name,
            fingerprint(clean.original),
            *clean.shape,
            hashlib.sha256(clean.bitstream).hexdigest(),
            len(clean.bitstream),
            clean.bpp,
            clean.metrics[subject.metric],
            "" if clean.decoded.image is None else fingerprint(clean.decoded.image),
        )
        for name, clean in sorted(subject.round_trips.items())
    )


def row(subject: Subject, trial: Trial) -> TrialRow:
    """A trial as the certificate has it."""
    clean = subject.round_trips[trial.image]
    return TrialRow(
        str(trial.channel),
        trial.image,
        trial.number,
        trial.seed,
        len(trial.pattern.flips),
        hashlib.sha256(trial.pattern.apply(clean.bitstream)).hexdigest(),
        trial.outcome.value,
        None if trial.failure is None else _well_formed(str(trial.failure)),
        trial.metrics.get(subject.metric),
        trial.drop(subject.metric),
        trial.pixels or None,
        trial.tolerated,
    )


def assessed(found: Assessment, images: int) -> Assessed:
    """An assessment as a record; of trials of so many images."""
    estimate, low, high, limit = (
        float(number) if math.isfinite(number) else None
        for number in (found.bound.estimate, found.bound.low, found.bound.high, found.limit)
    )
    return Assessed(
        found.quantity,
        found.severity,
        estimate,
        low,
        high,
        limit,
        found.verdict.value,
        found.measured,
        found.declared,
        found.trials,
        images,
        "images in general" if found.severity.endswith(_GENERAL) else "these images",
    )


def certified(trials: Mapping[Channel, Sequence[Trial]], assessments: Sequence[Assessment]) -> Iterable[Certified]:
    """Of each ladder, the highest severity up to which all that is promised holds.

    A promise too small for any run of this effort to prove, such as that nothing is ever corrupted, holds while nothing
    speaks against it.
    """
    for ladder in ladders(trials):
        highest: Channel | None = None
        stopped: Channel | None = None
        for channel in ladder:
            mine = [a for a in assessments if a.severity == str(channel) and a.quantity in _PROMISED]
            if not mine or not all(a.verdict in (Verdict.KEPT, Verdict.NOT_DISPROVED) for a in mine):
                stopped = channel
                break
            highest = channel
        first = ladder[0]
        yield Certified(
            _ladder(first),
            _UNITS.get(first.graded_by, first.graded_by),
            None if highest is None else float(highest.severity),
            None if highest is None else str(highest),
            None if stopped is None else str(stopped),
        )


def counterexamples(kept: Iterable[Kept]) -> tuple[list[Counterexample], dict[str, str]]:
    """Failing streams as records, and the files that show them again, by path in ``replay/``."""
    found, files = [], {}
    for one in kept:
        inside = ""
        if one.file is not None:
            inside = f"replay/{one.file.name}"
            files[one.file.name] = os.path.abspath(one.file)
            stream = one.file.with_name(one.file.name.removesuffix(".replay.json") + ".bin")
            files[stream.name] = os.path.abspath(stream)
        command = f"robustkit replay {inside}" if inside else ""
        message = one.message[:_LONGEST]
        found.append(Counterexample(one.claim, one.outcome.value, message, one.stream, one.damage, inside, command))
    return found, files


def artifacts(subject: Subject) -> list[Artifact]:
    """What the codec is made of, as its process says; none where it can't be found out."""
    try:
        told = subject.workers.identify()
    except (WorkerError, CodecUnavailable, OSError):
        return []
    found = []
    for name, text in sorted(told.items()):
        kind, _, digest = text.partition(" ")
        with contextlib.suppress(CertificateError):
            found.append(from_json(Artifact, {"name": name, "kind": kind, "sha256": digest}))
    return found


@cache
def kit_digest() -> str:
    """SHA-256 over robustkit's own Python files, by their paths in the package."""
    root, whole = Path(robustkit.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(root).as_posix()} {digest}\n".encode())
    return whole.hexdigest()


def joined(parts: Sequence[Part]) -> Part | None:
    """One part of several processes': the one that judged the trials, with what shows the failures of all."""
    if not parts:
        return None
    first = next((part for part in parts if part.judged), parts[0])
    examples = tuple(dict.fromkeys(example for part in parts for example in part.counterexamples))
    files = {name: path for part in parts for name, path in part.files.items()}
    return replace(first, counterexamples=examples, files=files)


def certificate(part: Part, run: Run) -> Certificate:
    """The certificate of a codec, complete but for the root over its rows."""
    broken = {claim for claim, verdict in states(run.findings).items() if verdict is Verdict.BROKEN}
    examples = [example for example in part.counterexamples if example.claim in broken]
    if run.withheld:
        # Which bits were flipped would be as good as the stream.
        examples = [replace(example, replay="", command="", damage=()) for example in examples]
    ours = locks.Entry(
        part.codec,
        part.settings,
        locks.profile_digest(part.profile),
        part.corpus.digest,
        run.effort,
        {image.name: image.sha256 for image in part.corpus.images},
        part.corpus.channels,
        part.corpus.seed,
        part.corpus.rounds,
    )
    lock, disagrees = locks.judged(run.lock, run.asked, ours)
    blocked = [*blockers(part, run), *disagrees]
    metric = METRICS[part.metric]
    verdict = run.verdict
    recorded = states(run.findings).get("degradation.regression")
    made = Certificate(
        codec=part.codec,
        asked=run.asked,
        settings=part.settings,
        verdict="not certified" if verdict is None else verdict.said.value,
        sentence=f"{run.asked}: not checked" if verdict is None else verdict.text,
        certified=not blocked,
        blockers=tuple(blocked),
        kit=robustkit.__version__,
        kit_sha256=kit_digest(),
        metric=part.metric,
        metric_unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        profile=part.profile,
        profile_sha256=locks.profile_digest(part.profile),
        prior=part.facts.get("prior", ""),
        subject=part.subject,
        environment={
            "python": platform.python_version(),
            "numpy": np.__version__,
            "platform": platform.platform(),
            "device": run.device,
            **{f"codec: {key}": text[:_LONGEST] for key, text in part.facts.items()},
        },
        tolerance=part.tolerance,
        corpus=part.corpus,
        lines=tuple(_line(finding) for finding in run.findings),
        assessments=part.assessments,
        channels=part.channels,
        certified_severities=part.certified,
        error_rates=part.rates if recorded in (None, Verdict.SKIPPED) else power.compared(part.rates),
        counterexamples=tuple(examples),
        lock=lock,
        trials_root="",
        trials_count=len(part.rows),
        files={},
        started=run.started,
        finished=run.finished,
        command=run.command,
    )
    return from_json(Certificate, _well_formed(to_json(made)))


def blockers(part: Part, run: Run) -> list[str]:
    """All that keeps a codec from being certified, each by name."""
    found: list[str] = []
    claims = states(run.findings)
    examples = {example.claim for example in part.counterexamples}
    words = {
        Verdict.BROKEN: "broken",
        Verdict.BLOCKED: "blocked by the clean round trip",
        Verdict.ERROR: "could not be checked",
        Verdict.UNPROVED: "not proved",
    }
    for claim, verdict in claims.items():
        title = CLAIMS.get(claim, claim)
        if verdict is Verdict.BROKEN and claim.startswith("decode.survives.") and claim in examples:
            found.append(f"counterexample: {title} ({claim})")
        elif verdict in words:
            found.append(f"{words[verdict]}: {title} ({claim})")
        elif verdict is Verdict.WAIVED:
            waivers = dict.fromkeys(f.waiver for f in run.findings if f.claim == claim and f.verdict is Verdict.WAIVED)
            found.append(f"known defect: {title} ({claim}), {', '.join(waivers)}")
    if left := [claim for claim in CLAIMS if claim not in claims]:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        found.append(f"left out: {', '.join(left[:_NAMED])}{more}")
    found += [f"loosened profile: {what}" for what in run.loosened]
    if run.other_images:
        found.append(f"other images than the profile's: {' '.join(run.other_images)}")
    if run.less:
        found.append(f"less was tried than the effort says: {' '.join(run.less)}")
    if not part.promises:
        found.append("nothing is promised under damage")
    elif not part.judged:
        found.append("the promises were not judged")
    if run.dirty is not None:
        found.append(f"dirty working tree: {run.dirty}")
    if run.hashed and not any(artifact.kind in ("package", "program") for artifact in part.subject):
        found.append("unidentified codec: nothing says which files were judged")
    found += run.trouble
    if not found and (run.verdict is None or run.verdict.said is not Said.CONFORMS):
        found.append("nothing was checked" if run.verdict is None else run.verdict.text)
    return found


def _well_formed(value: Any) -> Any:
    """JSON without halves of characters, which a codec's words may have and UTF-8 does not."""
    if isinstance(value, dict):
        return {_well_formed(key): _well_formed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_well_formed(inner) for inner in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def facts(subject: Subject) -> dict[str, str]:
    try:
        return dict(subject.workers.describe())
    except (WorkerError, CodecUnavailable, OSError) as error:
        return {"description": f"failed: {error}"[:_LONGEST]}


def _channel(channel: Channel, trials: Sequence[Trial], metric: str) -> ChannelResult:
    drops = [drop for trial in trials if (drop := trial.drop(metric)) is not None]
    qualities = [trial.metrics[metric] for trial in trials if metric in trial.metrics]
    return ChannelResult(
        str(channel),
        channel.kind,
        float(channel.severity),
        dict(sorted(Counter(trial.outcome.value for trial in trials).items())),
        sum(trial.pattern.harmless for trial in trials),
        sum(map(is_silent, trials)),
        float(np.mean(drops)) if drops else None,
        float(np.mean(qualities)) if qualities else None,
    )


def _ladder(channel: Channel) -> str:
    """What the channels of a ladder share: the spelling without the severity."""
    others = re.sub(rf"\b{channel.graded_by}=[^,)]*(, )?", "", str(channel))
    return others.replace(", )", ")").removesuffix("()")


def _line(found: Finding) -> Line:
    return Line(
        found.claim,
        found.title,
        found.severity,
        found.measured[:_LONGEST],
        found.declared[:_LONGEST],
        found.verdict.value,
        dict(found.numbers),
        found.waiver,
        found.advice,
    )
