"""A real certificate of a small codec, from trials that were run, for tests of whatever reads one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from robustkit.certificates import canonical, statement, trials
from robustkit.certificates.model import (
    Assessed,
    Certificate,
    Certified,
    ChannelResult,
    Corpus,
    Line,
    Lock,
    Photograph,
    TrialRow,
)
from robustkit.certificates.write import write
from robustkit.images import photographs
from robustkit.isolation import fingerprint
from robustkit.judging.subject import Subject
from robustkit.outcome import Outcome
from robustkit.registry import CodecSpec, Target

#: JPEG under another name, with promises of its own that it keeps.
MODULE = """
import numpy as np
from robustkit.codecs.jpeg import Jpeg
from robustkit.profile import Profile, Promise

class Small(Jpeg):
    name = "small-jpeg"
    promises = Profile(
        bpp=9.0,
        quality=15.0,
        refused=0.9,
        promises=(
            Promise("bsc(ber=0.0005)", mean_drop=25.0, p5_drop=30.0, corrupted=0.95),
            Promise("burst(length=32)", mean_drop=25.0, p5_drop=30.0, corrupted=0.95),
        ),
    )

class Faithless(Small):
    def decode(self, stream):
        return np.clip(super().decode(stream).astype(int) + 9, 0, 255).astype(np.uint8)

class Rounding(Small):
    def decode(self, stream):
        image = super().decode(stream).copy()
        image[::9, ::9] = np.clip(image[::9, ::9].astype(int) + 1, 0, 255)
        return image

class Exact(Rounding):
    tolerance = (0.0, 0.0)

class Other(Small):
    name = "other"

class Stricter(Small):
    promises = Profile(
        bpp=9.0,
        quality=15.0,
        refused=0.9,
        promises=(
            Promise("bsc(ber=0.0005)", mean_drop=5.0, p5_drop=30.0, corrupted=0.95),
            Promise("burst(length=32)", mean_drop=25.0, p5_drop=30.0, corrupted=0.95),
        ),
    )
"""
CROP, ROUNDS, SEED = 64, 8, 3
CODEC = "small_codec:Small"


def images():
    return {name: image for name, image in photographs(CROP).items() if name in ("coffee", "rocket")}


def codec(folder: Path) -> Path:
    """The folder that has the codec's module."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small_codec.py").write_text(MODULE)
    return folder


def make(folder: Path) -> None:
    """Put a certificate into ``folder/certificate`` and its codec into ``folder/codec``."""
    target = Target("small_codec", "Small")
    spec = CodecSpec(CODEC, target, {})
    module = codec(folder / "codec")
    with tempfile.TemporaryDirectory() as directory, on_path(module):
        found = Subject(spec, images=images(), directory=Path(directory), trials=ROUNDS, seed=SEED)
        with contextlib.closing(found) as subject:
            certificate, rows = of(subject)
    write(certificate, rows, folder / "certificate")


@contextlib.contextmanager
def on_path(folder: Path):
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def of(subject: Subject) -> tuple[Certificate, list[TrialRow]]:
    channels = [promise.channel for promise in subject.profile.promises]
    pictures = {}
    jobs = [job for channel in channels for job in subject.jobs(channel)]
    ran = list(subject.run(jobs, keep=lambda trial, image: pictures.setdefault(key(trial), fingerprint(image))))
    rows = [row(subject, trial, pictures.get(key(trial))) for trial in ran]
    corpus = tuple(photograph(clean) for _, clean in sorted(subject.clean.items()))
    definition = {
        "images": [image.sha256 for image in corpus],
        "channels": [str(channel) for channel in channels],
        "seed": SEED,
        "rounds": ROUNDS,
    }
    # As the run would have judged them: with the trials above.
    subject._trials = {channel: [trial for trial in ran if trial.channel == channel] for channel in channels}
    subject.__dict__.pop("promised_trials", None)
    assessments = tuple(map(assessed, subject.assessments))
    profile = subject.profile.to_toml()
    certificate = Certificate(
        codec=subject.own_name,
        asked=CODEC,
        settings=json.dumps(dict(subject.spec.settings), sort_keys=True),
        verdict="not certified",
        sentence="small-jpeg: not certified: 1 of 1 claims hold; others were left out",
        certified=False,
        blockers=("claims were left out",),
        kit="0",
        kit_sha256="0" * 64,
        metric="psnr",
        metric_unit="dB",
        higher_is_better=True,
        profile=profile,
        profile_sha256=hashlib.sha256(profile.encode()).hexdigest(),
        prior="",
        subject=(),
        environment={"platform": "test"},
        corpus=Corpus(canonical.digest(definition), corpus, tuple(map(str, channels)), SEED, "0", "quick", ROUNDS),
        lines=(Line("decode.deterministic", "decoding is deterministic", "", "same", "", "kept"),),
        assessments=assessments,
        channels=tuple(result(subject, channel, rows) for channel in channels),
        certified_severities=(Certified("bsc", "BER", None, None, str(channels[0])),),
        error_rates=(),
        counterexamples=(),
        lock=Lock(),
        trials_root="",
        trials_count=0,
        started="2026-01-02T03:04:05Z",
        finished="2026-01-02T03:04:06Z",
        command="robustkit certify small_codec:Small",
    )
    return certificate, rows


def key(trial):
    return trial.image, str(trial.channel), trial.number


def photograph(clean) -> Photograph:
    return Photograph(
        clean.image,
        fingerprint(clean.original),
        *clean.shape,
        hashlib.sha256(clean.bitstream).hexdigest(),
        len(clean.bitstream),
        clean.bpp,
        clean.metrics["psnr"],
        fingerprint(clean.decoded.image),
    )


def row(subject: Subject, trial, pixels: str | None) -> TrialRow:
    stream = trial.pattern.apply(subject.clean[trial.image].bitstream)
    if trial.outcome.has_image and pixels is None:
        pixels = fingerprint(subject.clean[trial.image].decoded.image)
    return TrialRow(
        str(trial.channel),
        trial.image,
        trial.number,
        trial.seed,
        len(trial.pattern.flips),
        hashlib.sha256(stream).hexdigest(),
        str(trial.outcome),
        None if trial.failure is None else str(trial.failure),
        trial.metrics.get("psnr"),
        trial.drops.get("psnr"),
        pixels,
    )


def assessed(one) -> Assessed:
    def finite(value):
        return float(value) if math.isfinite(value) else None

    return Assessed(
        one.quantity,
        one.severity,
        finite(one.bound.estimate),
        finite(one.bound.low),
        finite(one.bound.high),
        finite(one.limit),
        str(one.verdict),
        one.measured,
        one.declared,
        one.trials,
        2,
    )


def result(subject: Subject, channel, rows) -> ChannelResult:
    here = [row for row in rows if row.channel == str(channel)]
    outcomes = {str(outcome): sum(row.outcome == outcome for row in here) for outcome in Outcome}
    clean = {name: hashlib.sha256(found.bitstream).hexdigest() for name, found in subject.clean.items()}
    drops = [row.drop for row in here if row.drop is not None]
    return ChannelResult(
        str(channel),
        channel.name,
        float(channel.severity),
        {outcome: number for outcome, number in outcomes.items() if number},
        sum(row.stream == clean[row.image] for row in here),
        outcomes["degraded"],
        float(np.mean(drops)) if drops else None,
        float(np.mean([row.quality for row in here if row.quality is not None])) if drops else None,
    )


def rewrite(folder: Path, change=lambda found: found, rows=None) -> None:
    """What somebody does who changes a certificate and covers it up: its form is right again.

    Args:
        folder: the certificate's.
        change: takes a certificate, and gives another.
        rows: take the place of those that there are, root and all.
    """
    file = folder / "certificate.intoto.jsonl"
    found = change(statement.loads(file.read_bytes()))
    if rows is not None:
        trials.write(folder / trials.FILE, rows)
        found = replace(found, trials_root=trials.root(rows), trials_count=len(rows))
    file.write_bytes(statement.dumps(found))


__all__ = ["CODEC", "CROP", "ROUNDS", "SEED", "images", "make", "rewrite"]
