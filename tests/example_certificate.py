"""A small certificate that looks like a real one, with the rows of its trials, for tests of whatever reads some."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from robustkit.certificates import canonical
from robustkit.certificates.model import (
    Artifact,
    Assessed,
    Certificate,
    Certified,
    ChannelResult,
    Corpus,
    Counterexample,
    ErrorRate,
    Line,
    Lock,
    Photograph,
    Tolerance,
    TrialRow,
)
from robustkit.certificates.write import complete
from robustkit.judging.finding import CLAIMS

CHANNELS = ("bsc(ber=0.0001)", "bsc(ber=0.001)", "burst(length=32)")
IMAGES = ("astronaut", "motorcycle")
_SEVERITIES = {"bsc(ber=0.0001)": 1e-4, "bsc(ber=0.001)": 1e-3, "burst(length=32)": 32.0}
_PROFILE = 'metric = "psnr"\nmin_quality = 28.0\nmax_bpp = 0.5\n'


def sha(text: str) -> str:
    """A digest that stands for something."""
    return hashlib.sha256(text.encode()).hexdigest()


def rows(seed: int = 0) -> tuple[TrialRow, ...]:
    """Four trials of each channel and image; one is refused, one arrived unharmed."""
    found = []
    for channel in CHANNELS:
        for image in IMAGES:
            for number in range(4):
                where = f"{channel} {image} {number} {seed}"
                if (channel, number) == (CHANNELS[1], 3):
                    ending: Any = ("refused", None, None, None, None)
                elif (channel, number) == (CHANNELS[0], 0):
                    ending = ("intact", None, 31.25, 0.0, sha(f"clean {image}"))
                else:
                    drop = 400 * min(_SEVERITIES[channel], 0.002) * (1 + number) + 0.015625
                    ending = ("degraded", None, 31.25 - drop, drop, sha(where))
                flips = 0 if ending[0] == "intact" else 1 + number
                stream = sha(f"stream {image}") if not flips else sha(f"damaged {where}")
                found.append(TrialRow(channel, image, number, seed, flips, stream, *ending))
    return tuple(found)


def certificate(**changes: Any) -> Certificate:
    """A codec that conforms, with :func:`rows` as its trials; ``changes`` are fields of it."""
    images = tuple(
        Photograph(name, sha(name), 256, 384, sha(f"stream {name}"), 4096, 1 / 3, 31.25, sha(f"clean {name}"))
        for name in IMAGES
    )
    definition = {"images": [i.sha256 for i in images], "channels": CHANNELS, "seed": 0, "rounds": 4}
    lines = [
        Line(identity, title, "", "as it should be", "", "kept")
        for identity, title in CLAIMS.items()
        if not identity.startswith("degradation.")
    ]
    assessments = []
    for channel in CHANNELS:
        numbers = {"estimate": 0.5, "low": 0.25, "high": 0.75, "declared": 1.0, "trials": 8.0}
        measured = "mean drop 0.50 [0.25, 0.75]"
        identity = "degradation.quality"
        lines.append(Line(identity, CLAIMS[identity], channel, measured, "at most 1", "kept", numbers))
        assessments.append(
            Assessed("mean_drop", channel, 0.5, 0.25, 0.75, 1.0, "kept", measured, "at most 1", 8, len(IMAGES))
        )
        refused = sum(row.channel == channel and row.outcome == "refused" for row in rows())
        share = Assessed(
            "corrupted",
            channel,
            refused / 8,
            0.0,
            0.5,
            0.25,
            "kept",
            f"{refused} of 8 trials",
            "share at most 0.25",
            8,
            2,
        )
        assessments.append(share)
    made = Certificate(
        codec="example",
        asked="example_codec:Example",
        settings='{"quality": 75}',
        verdict="conforms",
        sentence="example: conforms: 30 of 30 claims hold",
        certified=True,
        blockers=(),
        kit="0.1.0",
        kit_sha256=sha("kit"),
        metric="psnr",
        metric_unit="dB",
        higher_is_better=True,
        profile=_PROFILE,
        profile_sha256=hashlib.sha256(_PROFILE.encode()).hexdigest(),
        prior="",
        subject=(Artifact("example_codec/__init__.py", "package", sha("package")),),
        environment={"python": "3.11.7", "numpy": "2.4.0", "platform": "Linux-x86_64", "device": "cpu"},
        tolerance=Tolerance(2.0, 0.05),
        corpus=Corpus(canonical.digest(definition), images, CHANNELS, 0, "0", "ci", 4),
        lines=tuple(lines),
        assessments=tuple(assessments),
        channels=tuple(_channel(channel) for channel in CHANNELS),
        certified_severities=(
            Certified("bsc", "BER", 1e-3, CHANNELS[1], None),
            Certified("burst", "bits", 32.0, CHANNELS[2], None),
        ),
        error_rates=(
            ErrorRate("a codec exactly at its limits is called broken", "false alarm", 0.01, 0.0, 0.01, "bound"),
            ErrorRate("a codec that loses 1 dB more is caught", "detection", 0.995, 0.99, 1.0, "simulated", 1000),
        ),
        counterexamples=(),
        lock=Lock(),
        trials_root="",
        trials_count=0,
        files={},
        started="2026-01-02T03:04:05Z",
        finished="2026-01-02T03:14:15Z",
        command="robustkit certify example_codec:Example --out certificate --effort ci",
    )
    return complete(replace(made, **changes), rows())[0]


def broken(**changes: Any) -> Certificate:
    """The same codec, with one claim broken by a stream that crashes it, and a text with markup in it."""
    message = "IndexError: <script>alert(1)</script> & 'quotes' |pipes| in a message"
    claim = "decode.survives.bit-flips"
    whole = certificate()
    lines = tuple(
        replace(line, verdict="broken", measured=message, severity="raised") if line.claim == claim else line
        for line in whole.lines
    )
    found = Counterexample(
        claim,
        "raised",
        message,
        sha("crashing"),
        ("flip bit 17 (header: width)",),
        "replay/crash.bin",
        "robustkit replay DIR",
    )
    values = {
        "verdict": "does not conform",
        "sentence": "example: does not conform: 1 of 30 claims broken",
        "certified": False,
        "blockers": (f"broken claim: {claim}", "a counterexample of the search: decode survives bit flips"),
        "lines": lines,
        "counterexamples": (found,),
    }
    return replace(whole, **(values | changes))


def _channel(channel: str) -> ChannelResult:
    here = [row for row in rows() if row.channel == channel]
    with_image = [row for row in here if row.quality is not None and row.drop is not None]
    outcomes = {outcome: sum(row.outcome == outcome for row in here) for outcome in ("intact", "degraded", "refused")}
    return ChannelResult(
        channel,
        channel.partition("(")[0],
        _SEVERITIES[channel],
        outcomes,
        sum(row.flips == 0 for row in here),
        outcomes["degraded"],
        sum(row.drop or 0.0 for row in with_image) / len(with_image),
        sum(row.quality or 0.0 for row in with_image) / len(with_image),
    )
