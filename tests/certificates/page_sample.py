"""The example certificate with something of everything that a page shows; and its worst cases and map."""

from dataclasses import fields, is_dataclass, replace

import example_certificate as example
import numpy as np

from robustkit.certificates.model import (
    Assessed,
    Certified,
    ChannelResult,
    Corpus,
    Counterexample,
    ErrorRate,
    Line,
)
from robustkit.certificates.scan import BINS, Part, Scan
from robustkit.certificates.worst import WorstCase

CHANNELS = example.CHANNELS

CERTIFICATE = example.certificate(
    sentence="example: conforms: 3 of 3 claims hold",
    lines=(
        Line("clean.round-trip", "clean round trip meets the declared", "", "32.2 dB", "32 dB", "kept"),
        Line("degradation.quality", "quality degrades within", CHANNELS[0], "mean drop 0.20", "at most 1", "kept"),
        Line("degradation.quality", "quality degrades within", CHANNELS[1], "mean drop 9.1", "at most 8", "broken"),
        Line("decode.jitter", "one ulp does not desynchronise", "", "no floats", "", "skipped"),
    ),
    assessments=(
        Assessed("mean_drop", CHANNELS[0], 0.2, 0.1, 0.4, 1.0, "kept", "mean drop 0.20", "at most 1", 144, 2),
        Assessed("mean_drop", CHANNELS[1], 9.1, 8.2, 10.0, 8.0, "broken", "mean drop 9.10", "at most 8", 144, 2),
    ),
    channels=(
        ChannelResult(CHANNELS[0], "bsc", 1e-4, {"intact": 100, "degraded": 43, "refused": 1}, 90, 43, 0.2, 31.05),
        ChannelResult(CHANNELS[1], "bsc", 1e-3, {"degraded": 100, "refused": 40, "crashed": 4}, 0, 100, 9.1, 22.15),
        ChannelResult(CHANNELS[2], "burst", 32.0, {"refused": 144}, 0, 0, None, None),
    ),
    certified_severities=(
        Certified("bsc", "BER", 1e-4, CHANNELS[0], CHANNELS[1]),
        Certified("burst", "bits", None, None, CHANNELS[2]),
    ),
    error_rates=(
        ErrorRate("a codec exactly at its limits is called broken", "false alarm", 0.009, 0.0, 0.01, "bound"),
        ErrorRate("a codec that loses 1 dB more is caught", "detection", 0.998, 0.995, 0.999, "simulated", 2000),
    ),
    counterexamples=(
        Counterexample(
            "decode.survives.bit-flips",
            "crashed",
            "signal 11\nFatal Python error",
            "5c" * 32,
            ("bit 171: SOF0 height",),
            "replay/a.replay.json",
            "robustkit replay replay/a.replay.json",
        ),
    ),
)

#: What a run that fails at once knows.
BARE = replace(
    CERTIFICATE,
    verdict="does not conform",
    sentence="example: does not conform: 1 of 1 claims broken",
    certified=False,
    profile="",
    profile_sha256="",
    kit_sha256="",
    subject=(),
    assessments=(),
    channels=(),
    certified_severities=(),
    error_rates=(),
    counterexamples=(),
    trials_root="",
    trials_count=0,
    corpus=Corpus("", (), (), 0, "0", "quick", 0),
    lines=(Line("clean.round-trip", "clean round trip", "", "astronaut: encoding failed", "", "broken"),),
)


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Noise, which compresses worst."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


CASE = WorstCase(
    *("example", "astronaut", CHANNELS[1], 3, 0, "degraded", "psnr", "dB", 12.5, 19.0, "", 7),
    ("bit 3: coefficients",),
    "robustkit replay replay/worst.replay.json",
    picture(1),
    picture(2),
    picture(3),
)
CRASHED = replace(CASE, outcome="crashed", quality=None, drop=None, message="signal 11", command="", damaged=None)


def _part(name: str, first: float, mean: float | None, failed: float = 0.0) -> Part:
    return Part(name, name == "size", first, 64, 5, {"degraded": 4, "refused": 1}, 0.2, failed, mean, mean, "coffee", 9)


SCAN = Scan(
    "example",
    "psnr",
    "dB",
    ("astronaut", "coffee"),
    0,
    10,
    49152,
    _part("the whole stream", 0.0, 3.0, 0.1),
    (_part("size", 0.0, None, 1.0), _part("coefficients", 0.1, 3.0)),
    tuple(_part("", i / BINS, i / 10) for i in range(BINS)),
)


def with_texts(record, change, skip=("claim", "verdict", "outcome", "kind")):
    """``record`` with each text of its own changed, in all that it holds."""
    if is_dataclass(record):
        return replace(
            record, **{f.name: _changed(getattr(record, f.name), f.name, change, skip) for f in fields(record)}
        )
    return record


def _changed(value, name, change, skip):
    if isinstance(value, str):
        fixed = name in skip or (name in {"how", "estimand"}) or not value
        return value if fixed else change(value)
    if isinstance(value, tuple):
        return tuple(_changed(item, name, change, skip) for item in value)
    if isinstance(value, dict):
        return {
            change(key) if name == "environment" else key: _changed(item, name, change, skip)
            for key, item in value.items()
        }
    return with_texts(value, change, skip)
