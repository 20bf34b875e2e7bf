"""Two records: a clean round trip, and a trial, one damaged stream decoded and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustkit.channels import Channel
from robustkit.codec import Image, Layout
from robustkit.isolation import Decoded
from robustkit.outcome import Failure, Outcome
from robustkit.patterns import ErrorPattern


@dataclass(frozen=True)
class Clean:
    """A clean round trip of one image.

    Attributes:
        image: its name.
        original: uint8, H x W x 3.
        bitstream: what the codec wrote.
        layout: the bitstream's regions.
        decoded: what became of it.
        metrics: quality against the original, by metric; empty without an image.
    """

    image: str
    original: Image = field(repr=False)
    bitstream: bytes = field(repr=False)
    layout: Layout = field(repr=False)
    decoded: Decoded = field(repr=False)
    metrics: Mapping[str, float]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.original.shape[0], self.original.shape[1]

    @property
    def bits(self) -> int:
        """Length of the bitstream."""
        return 8 * len(self.bitstream)

    @property
    def bpp(self) -> float:
        """Rate in bits per pixel of the original."""
        return self.bits / (self.shape[0] * self.shape[1])

    def judge(self, decoded: Decoded) -> Outcome:
        """The outcome of decoding a damaged version of this stream."""
        return decoded.judged(self.decoded.image)


@dataclass(frozen=True)
class Trial:
    """One damaged stream, decoded and measured.

    Attributes:
        codec, image, channel, number, seed: what the trial's generator was keyed with; ``number`` counts from 0.
        pattern: the damage.
        outcome: what happened.
        bpp: rate of the clean stream, in bits per pixel of the original.
        seconds: of the decode.
        metrics: quality against the original, by metric; empty without an image.
        drops: quality lost against the clean decode, by metric, positive where it got worse; empty without an image.
        message: what the worker said.
        failure: which kind of failure this is, if it is one.
        memory: bytes that the worker's process held for the decode, as :attr:`Decoded.memory`.
        pixels: digest of the decoded image, as :func:`robustkit.isolation.fingerprint` has it; empty without one, and
            for a trial that was not run here.
        tolerated: whether its pixels are others than the clean decode's, and no further off than the codec's tolerance:
            then they may be rounding. False for a trial that was not run here.
    """

    codec: str
    image: str
    channel: Channel
    number: int
    seed: int
    pattern: ErrorPattern = field(repr=False)
    outcome: Outcome
    bpp: float
    seconds: float
    metrics: Mapping[str, float]
    drops: Mapping[str, float]
    message: str = ""
    failure: Failure | None = None
    memory: int = field(default=0, compare=False)
    pixels: str = field(default="", compare=False)
    tolerated: bool = field(default=False, compare=False)

    def drop(self, metric: str) -> float | None:
        """Quality lost in ``metric``; ``None`` without an image."""
        return self.drops.get(metric)

    def to_row(self) -> dict[str, Any]:
        """All but the pattern, which the channel draws again, in JSON's own types."""
        return {
            "codec": self.codec,
            "image": self.image,
            "channel": str(self.channel),
            "number": self.number,
            "seed": self.seed,
            "outcome": self.outcome.value,
            "bpp": self.bpp,
            "seconds": self.seconds,
            "metrics": dict(self.metrics),
            "drops": dict(self.drops),
            "message": self.message,
        }
