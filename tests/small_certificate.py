"""A real certificate of a small codec, from trials that were run, for tests of whatever reads one."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from robustkit.certificates import badge, collect, statement, summary, trials
from robustkit.certificates.model import Certificate, TrialRow
from robustkit.certificates.write import write
from robustkit.images import photographs
from robustkit.judging.finding import Finding, Verdict, run_verdict
from robustkit.judging.subject import Subject
from robustkit.registry import CodecSpec, Target

#: JPEG under another name, with promises of its own that it keeps.
MODULE = """
import time
import numpy as np
from robustkit import Layout, Region
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

class Slow(Small):
    def decode(self, stream):
        time.sleep(30.0)

class Other(Small):
    name = "other"

class Headless(Small):
    def layout(self, stream):
        return Layout((Region("payload", 0, 8 * len(stream)),), 8 * len(stream))

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
    assert subject.assessments
    part = collect.part_of(subject, effort="quick", certifying=True)
    assert part is not None
    finding = Finding(CODEC, "decode.deterministic", "decoding is deterministic", "", "same", "", Verdict.KEPT)
    run = collect.Run(
        asked=CODEC,
        findings=[finding],
        verdict=run_verdict(CODEC, [finding]),
        loosened=(),
        other_images=(),
        dirty=None,
        lock=None,
        effort="quick",
        device="cpu",
        started="2026-01-02T03:04:05Z",
        finished="2026-01-02T03:04:06Z",
        command=f"robustkit certify {CODEC}",
    )
    return collect.certificate(part, run), list(part.rows)


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
    (folder / "summary.md").write_bytes(summary.render(found).encode("utf-8", "replace"))
    (folder / "badge.svg").write_bytes(badge.svg(found).encode("utf-8", "replace"))
    (folder / "badge.json").write_text(json.dumps(badge.endpoint(found), indent=1) + "\n")


__all__ = ["CODEC", "CROP", "ROUNDS", "SEED", "images", "make", "rewrite"]
