"""Channels: random damage of a named kind and severity, and the one place that seeds it.

A channel draws an :class:`~robustkit.patterns.ErrorPattern` for a stream of known length, at a cost in
proportion to the flips. The draws use uniform numbers, integers, comparisons and the four operations alone,
which IEEE 754 rounds alike everywhere, so one seed gives one pattern on every platform.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from robustkit.errors import RobustkitError
from robustkit.layout import Layout, Part
from robustkit.patterns import ErrorPattern
from robustkit.spelling import nearest

Positions = npt.NDArray[np.int64]

#: The part of a stream that a channel may be limited to.
Region = Literal["header", "payload"]


class ChannelError(RobustkitError, ValueError):
    """A channel that can't be read, a parameter out of range, or a stream that it can't be drawn for."""


def generator(codec: str, image: str, channel: str, trial: int, *, seed: int = 0) -> np.random.Generator:
    """The generator of one trial: Philox (Salmon et al., SC 2011), keyed by the SHA-256 of its names.

    A counter-based generator makes trials independent of one another and of their order, so that any one
    can be repeated alone.

    Args:
        codec: the codec's name.
        image: the image's name.
        channel: ``str(channel)``, the canonical spelling: ``"bsc(ber=1e-3)"`` is another key than
            ``"bsc(ber=0.001)"``.
        trial: number of the trial, from 0.
        seed: one number for the whole run.
    """
    # JSON, because joining the names would let ("a", "bc") and ("ab", "c") meet.
    named = json.dumps([codec, image, channel, int(trial), int(seed)]).encode("ascii")
    key = int.from_bytes(hashlib.sha256(named).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(frozen=True)
class Channel(ABC):
    """Random damage of one kind and severity. ``str(channel)`` names it and :func:`parse` reads that name."""

    #: The kind's name, as :func:`parse` reads it.
    kind: ClassVar[str]
    #: The parameter that grades the damage.
    graded_by: ClassVar[str]

    @property
    def name(self) -> str:
        """Kind and parameters, defaults left out: ``"bsc(ber=0.001)"``, ``"header-burst(length=32)"``."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        part = given.pop("region", None)
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        text = ", ".join(f"{k}={_number(v)}" for k, v in given.items() if v != defaults.get(k))
        return f"{part + '-' if part else ''}{self.kind}({text})"

    def __str__(self) -> str:
        return self.name

    @property
    def severity(self) -> float:
        """Grows with the damage; comparable among channels that differ in nothing else."""
        return float(getattr(self, self.graded_by))

    @abstractmethod
    def sample(self, bits: int, rng: np.random.Generator, layout: Layout | None = None) -> ErrorPattern:
        """Draw the damage to a stream of ``bits`` bits; it may be none at all.

        Args:
            bits: length of the stream.
            rng: see :func:`generator`.
            layout: the stream's regions; only a channel limited to one part of the stream needs it.

        Raises:
            ChannelError: the channel needs a layout and has none, or one of another stream, or one without that
                part.
        """

    def draw(
        self, bits: int, layout: Layout | None = None, *, codec: str, image: str, trial: int, seed: int = 0
    ) -> ErrorPattern:
        """The damage of one trial: the one place that seeds a channel and samples it.

        Args:
            bits, layout: as :meth:`sample` takes them.
            codec, image, trial, seed: what the generator is keyed with; see :func:`generator`.

        Raises:
            ChannelError: as :meth:`sample`.
        """
        return self.sample(bits, generator(codec, image, self.name, trial, seed=seed), layout)


@dataclass(frozen=True)
class BSC(Channel):
    """Binary symmetric channel: every bit flips with probability ``ber``, 0 to 1, on its own.

    With ``region`` only the bits of the header, or all the others, may flip.
    """

    kind = "bsc"
    graded_by = "ber"
    ber: float
    region: Region | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _real(self, "ber", 0, 1)
        _part(self)

    def sample(self, bits: int, rng: np.random.Generator, layout: Layout | None = None) -> ErrorPattern:
        within = _within(self, self.region, bits, layout)
        flips = _successes(bits if within is None else len(within), self.ber, rng)
        return ErrorPattern(bits, flips if within is None else within[flips])


@dataclass(frozen=True)
class GilbertElliott(Channel):
    """Bursts by a two-state Markov chain: few errors or none in the good state, many in the bad one.

    Gilbert, "Capacity of a burst-noise channel", BSTJ 1960; Elliott, BSTJ 1963. The chain starts in
    its stationary distribution, so that every bit flips with probability ``ber``.

    Attributes:
        ber: mean bit error rate, from ``good`` to below ``bad``; the share of bits in the bad state is
            ``(ber - good) / (bad - good)``.
        burst: mean length of a stay in the bad state in bits, ``1 / P(bad -> good)``, at least 1. Flipped
            bits span a little less, since a stay may begin and end with bits that arrive unharmed.
        bad: bit error rate in the bad state, above 0 to 1.
        good: bit error rate in the good state: 0 is Gilbert's channel, more is Elliott's.
    """

    kind = "gilbert-elliott"
    graded_by = "ber"
    ber: float
    burst: float
    bad: float = 0.5
    good: float = 0.0

    def __post_init__(self) -> None:
        _real(self, "bad", 0, 1)
        _real(self, "burst", 1, math.inf)
        _real(self, "ber", 0, 1)
        _real(self, "good", 0, 1)
        if self.ber < self.good:
            raise ChannelError(
                f"{self}: ber = {self.ber:g}, the mean, must be at least good = {self.good:g}, the good state's"
            )
        if not self.ber < self.bad:
            raise ChannelError(
                f"{self}: ber = {self.ber:g} must be below bad = {self.bad:g}, the bad state's bit error rate"
            )
        least = (self.ber - self.good) / (self.bad - self.ber)
        if self.burst < least * (1 - 1e-9):
            raise ChannelError(
                f"{self}: bursts of {self.burst:g} bits can't fill a share of {self._share_bad:g}: "
                f"give burst = {least:g} or more"
            )

    @property
    def _share_bad(self) -> float:
        return (self.ber - self.good) / (self.bad - self.good)

    @property
    def _to_bad(self) -> float:
        """P(good -> bad), from the balance of the stationary distribution."""
        return min((self.ber - self.good) / (self.bad - self.ber) / self.burst, 1.0)

    def sample(self, bits: int, rng: np.random.Generator, layout: Layout | None = None) -> ErrorPattern:
        # No stream is so long that it meets a bad state that is rarer than a float can be without losing digits.
        if self._to_bad < sys.float_info.min or not bits:
            return ErrorPattern(bits, _successes(bits, self.good, rng))
        starts, stops = self._bad_runs(bits, rng)
        bad = Part(np.column_stack([starts, stops]))
        flips = bad[_successes(len(bad), self.bad, rng)]
        if self.good:
            # A bad run may follow on another at once: nothing lies between.
            between = np.column_stack([np.concatenate([[0], stops]), np.concatenate([starts, [bits]])])
            good = Part(between[between[:, 0] < between[:, 1]])
            flips = np.union1d(flips, good[_successes(len(good), self.good, rng)])
        return ErrorPattern(bits, flips)

    def _bad_runs(self, bits: int, rng: np.random.Generator) -> tuple[Positions, Positions]:
        cycle = 1 / self._to_bad + self.burst
        # The rest of a geometric stay is geometric too, so a first stay is like any other.
        starts_bad = rng.random() < self._share_bad
        edges: list[Positions] = []
        last = 0
        while last < bits:
            size = _batch((bits - last) / cycle)
            good = _gaps(size, self._to_bad, bits, rng) + 1
            bad = _gaps(size, 1 / self.burst, bits, rng) + 1
            if starts_bad and not edges:
                good[0] = 0
            edges.append(last + np.cumsum(np.column_stack([good, bad])))
            last = int(edges[-1][-1])
        turns = np.minimum(np.concatenate(edges), bits)
        starts, stops = turns[0::2], turns[1::2]
        return starts[starts < stops], stops[starts < stops]


@dataclass(frozen=True)
class Burst(Channel):
    """One burst of ``length`` bits at a uniformly drawn place: its ends flip, each inner bit flips with 1/2.

    That is a burst error of length L as coding theory has it. A stream shorter than the burst is hit from end
    to end. With ``region``, the place is drawn among the bits of that part as if they were sent alone.
    """

    kind = "burst"
    graded_by = "length"
    length: int
    region: Region | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _whole(self, "length", 1)
        _part(self)

    def sample(self, bits: int, rng: np.random.Generator, layout: Layout | None = None) -> ErrorPattern:
        within = _within(self, self.region, bits, layout)
        room = bits if within is None else len(within)
        if not room:
            return ErrorPattern(bits)
        length = min(self.length, room)
        start = int(rng.integers(0, room - length + 1))
        inner = 1 + _successes(max(length - 2, 0), 0.5, rng)
        flips = start + np.unique(np.concatenate([[0], inner, [length - 1]]))
        return ErrorPattern(bits, flips if within is None else within[flips])


@dataclass(frozen=True)
class Truncation(Channel):
    """The end of the stream is lost: from ``keep`` of the bytes to all but one arrive, drawn uniformly.

    The cut is drawn, because one fixed cut would make all trials of an image the same. So ``(1 + keep) / 2`` of the
    bytes arrive on average, 75% with ``truncation(keep=0.5)``.

    Attributes:
        keep: least share of the bytes that arrives, 0 to below 1, not the mean; the smaller, the more damage.
    """

    kind = "truncation"
    graded_by = "keep"
    keep: float

    def __post_init__(self) -> None:
        _real(self, "keep", 0, 1)
        if self.keep == 1:
            raise ChannelError(f"{self} cuts nothing off: give a keep below 1")

    @property
    def severity(self) -> float:
        return 1 - self.keep

    def sample(self, bits: int, rng: np.random.Generator, layout: Layout | None = None) -> ErrorPattern:
        length = bits // 8
        if not length:
            return ErrorPattern(bits)
        least = min(math.ceil(self.keep * length), length - 1)
        return ErrorPattern(bits, keep=int(rng.integers(least, length)))


@dataclass(frozen=True)
class ByteErasure(Channel):
    """Every byte is erased with probability ``rate``, 0 to 1, on its own, and the decoder isn't told which.

    An erased byte arrives as a uniformly random one: flips drawn without knowing the stream give exactly
    that, where zeros in its place would leave a run of zeros unharmed. One in 256 arrives as it was sent.
    """

    kind = "byte-erasure"
    graded_by = "rate"
    rate: float

    def __post_init__(self) -> None:
        _real(self, "rate", 0, 1)

    def sample(self, bits: int, rng: np.random.Generator, layout: Layout | None = None) -> ErrorPattern:
        erased = _successes(bits // 8, self.rate, rng)
        masks = np.frombuffer(rng.bytes(len(erased)), dtype=np.uint8).reshape(-1, 1)
        byte, bit = np.nonzero(np.unpackbits(masks, axis=1))
        return ErrorPattern(bits, 8 * erased[byte] + bit)


#: The channels by kind.
CHANNELS: Mapping[str, type[Channel]] = MappingProxyType(
    {c.kind: c for c in (BSC, GilbertElliott, Burst, Truncation, ByteErasure)}
)


def parse(text: str) -> Channel:
    """Read a channel's name: ``"bsc(ber=1e-3)"``, ``"gilbert-elliott(ber=1e-3, burst=16)"``,
    ``"header-burst(length=32)"``.

    ``parse(str(channel)) == channel`` for every channel.

    Raises:
        ChannelError: an unknown channel or parameter (the message names the nearest), a parameter that is
            missing or given twice, or a value out of range.
    """
    found = re.fullmatch(r"\s*([\w-]+)\s*\(([^()]*)\)\s*", text)
    if found is None:
        raise ChannelError(f"channel {text!r} can't be read: write it like bsc(ber=1e-3)")
    named, inside = found.groups()
    names = {c: (cls, None) for c, cls in CHANNELS.items()} | {
        f"{part}-{c}": (cls, part)
        for c, cls in CHANNELS.items()
        for part in ("header", "payload")
        if "region" in {f.name for f in fields(cls)}
    }
    if named not in names:
        raise ChannelError(f"no channel is named {named!r}: {nearest(named, names)}")
    cls, part = names[named]
    known = {f.name: f for f in fields(cls) if f.name != "region"}
    values: dict[str, Any] = {}
    for item in inside.split(",") if inside.strip() else []:
        key, _, value = (s.strip() for s in item.partition("="))
        if key not in known:
            raise ChannelError(f"{text!r}: {named} has no parameter {key!r}: {nearest(key, known)}")
        if key in values:
            raise ChannelError(f"{text!r}: {key} is given twice")
        number = int if known[key].type == "int" else float
        try:
            values[key] = number(value)
        except ValueError:
            kind = "an integer" if number is int else "a number"
            raise ChannelError(f"{text!r}: {key} = {value!r} is not {kind}") from None
    missing = [k for k, f in known.items() if f.default is MISSING and k not in values]
    if missing:
        raise ChannelError(f"{text!r}: {missing[0]} is missing: {named}({', '.join(f'{k}=…' for k in missing)})")
    return cls(**values, **({"region": part} if part else {}))


def ladders(channels: Iterable[Channel]) -> list[list[Channel]]:
    """Group channels that differ in severity alone, each group from the least damage to the most."""
    groups: dict[tuple[Any, ...], set[Channel]] = {}
    for channel in channels:
        others = tuple(getattr(channel, f.name) for f in fields(channel) if f.name != channel.graded_by)
        groups.setdefault((type(channel), *others), set()).add(channel)
    return [sorted(group, key=lambda c: c.severity) for group in groups.values()]


def _gaps(size: int, rate: float, beyond: int, rng: np.random.Generator) -> Positions:
    """``size`` geometric variates, failures before the first success; any above ``beyond`` is just above it.

    The binary digits of a geometric variate are independent, digit k being 1 with odds q^(2^k) to 1, since
    P(g) is proportional to q^g. Inversion would need a logarithm, whose last bit differs between libraries.
    """
    chances = _chances(rate, beyond.bit_length())
    digits = rng.random((size, len(chances))) < chances
    # Sums of different powers of two are whole and exact in float64, whose products are faster.
    found: Positions = (digits @ np.ldexp(1.0, np.arange(len(chances)))).astype(np.int64)
    return found


@functools.lru_cache(maxsize=64)
def _chances(rate: float, digits: int) -> npt.NDArray[np.float64]:
    """The chance of each binary digit of a geometric variate to be 1, and of those above, from the lowest."""
    power = 1 - rate
    chances: list[float] = []
    for _ in range(digits):
        chances.append(power / (1 + power))
        power *= power
    chances.append(power)  # of the digits above, together: any of them is beyond
    while chances and chances[-1] < 2.0**-54:
        chances.pop()
    return np.array(chances)


def _batch(expected: float) -> int:
    """How many variates to draw at once: about all that are needed, in bounded memory."""
    return min(int(1.05 * expected) + 8, 1 << 14)


def _successes(trials: int, rate: float, rng: np.random.Generator) -> Positions:
    """Which of ``trials`` independent trials succeed, in rising order, at a cost in proportion to those."""
    found = [np.empty(0, dtype=np.int64)]
    last = -1
    while last < trials and rate and trials:
        at = last + np.cumsum(_gaps(_batch((trials - last) * rate), rate, trials, rng) + 1)
        found.append(at[at < trials])
        last = int(at[-1])
    return np.concatenate(found)


def _within(channel: Channel, part: Region | None, bits: int, layout: Layout | None) -> Part | None:
    if part is None:
        return None
    if layout is None:
        raise ChannelError(f"{channel} needs the stream's layout: pass layout=codec.layout(bitstream)")
    if layout.bits != bits:
        raise ChannelError(f"{channel}: the layout is of {layout.bits} bits, the stream has {bits}")
    within = layout.part(header=part == "header")
    if not len(within):
        # No damage at all would let a promise about this part pass unseen.
        raise ChannelError(f"{channel}: the codec's layout names no {part} bits; promise {channel.kind} instead")
    return within


def _real(channel: Channel, name: str, low: float, high: float) -> None:
    value = getattr(channel, name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ChannelError(f"{channel.kind}: {name} = {value!r} is not a number") from None
    if not (low <= number <= high and math.isfinite(number)):
        bounds = f"{low:g} to {high:g}" if math.isfinite(high) else f"a finite number of at least {low:g}"
        raise ChannelError(f"{channel.kind}: {name} = {value!r} is out of range: give {bounds}")
    object.__setattr__(channel, name, number)


def _whole(channel: Channel, name: str, low: int) -> None:
    value = getattr(channel, name)
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
        raise ChannelError(f"{channel.kind}: {name} = {value!r} is out of range: give an integer of at least {low}")
    object.__setattr__(channel, name, int(value))


def _part(channel: BSC | Burst) -> None:
    if channel.region not in (None, "header", "payload"):
        raise ChannelError(f"{channel.kind}: region = {channel.region!r}: give 'header' or 'payload', or leave it out")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
