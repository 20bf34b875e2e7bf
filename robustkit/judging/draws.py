"""Draws: damage of each kind from a seeded generator, for the suite's searches.

Unlike Hypothesis's examples, which depend on the modules that happen to be loaded, the same generator draws the same
damage in every process. What a stream can't suffer is ``None``: an empty one has no bit to flip.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from robustkit.layout import Layout
from robustkit.patterns import ErrorPattern

Draw = Callable[[np.random.Generator, Layout], ErrorPattern | None]

MOST_FLIPS = 64
MOST_HEADER_FLIPS = 16
MOST_APPENDED = 4096


def bit_flips(rng: np.random.Generator, layout: Layout) -> ErrorPattern | None:
    """One flip as often as several, anywhere in the stream."""
    return _pattern(layout, _some(rng, np.arange(layout.bits), MOST_FLIPS))


def header_flips(rng: np.random.Generator, layout: Layout) -> ErrorPattern | None:
    """Several flips in the header's regions; each flip alone is a claim of its own."""
    return _pattern(layout, _some(rng, layout.bits_of(header=True), MOST_HEADER_FLIPS, alone=0.25))


def bursts(rng: np.random.Generator, layout: Layout) -> ErrorPattern | None:
    """Flips within a run of up to 64 bits, each bit flipping or not."""
    if not layout.bits:
        return None
    start, length = int(rng.integers(layout.bits)), int(rng.integers(1, 65))
    run = np.arange(start, min(start + length, layout.bits))
    # As often the whole run: stuck lines invert, or clear what was set.
    chosen = run if rng.random() < 0.25 else run[rng.random(len(run)) < 0.5]
    return _pattern(layout, chosen if len(chosen) else run[:1])


def truncations(rng: np.random.Generator, layout: Layout) -> ErrorPattern | None:
    """A cut, as often at the edge of a region, or a few bytes from the end, as anywhere."""
    length = layout.bits // 8
    if not length:
        return None
    return ErrorPattern(layout.bits, keep=_kept(rng, layout))


def appended(rng: np.random.Generator, layout: Layout) -> ErrorPattern | None:
    """Bytes after an unharmed stream, from one to 4096, mostly few."""
    return ErrorPattern(layout.bits, append=_bytes(rng, 1, MOST_APPENDED))


def mixed(rng: np.random.Generator, layout: Layout) -> ErrorPattern | None:
    """Flips, a cut and appended bytes, two of them or all three."""
    if not layout.bits // 8:
        return appended(rng, layout)
    left_out = int(rng.integers(4))
    flips = _some(rng, np.arange(layout.bits), MOST_FLIPS)
    keep = _kept(rng, layout)
    append = _bytes(rng, 1, MOST_APPENDED if rng.random() < 0.5 else 16)
    return ErrorPattern(
        layout.bits,
        flips if left_out != 0 else np.empty(0, np.int64),
        keep=keep if left_out != 1 else None,
        append=append if left_out != 2 else b"",
    )


def garbage(rng: np.random.Generator) -> bytes:
    """Bytes that no encoder wrote, up to 4096, mostly few: random, small numbers, or one byte over and over."""
    return _bytes(rng, 0, 4096)


def spread(count: int, most: int, *, seed: int) -> list[int]:
    """``most`` of the numbers below ``count``, or all, each once, in an order whose every start is spread evenly."""
    if count < 2:
        return list(range(min(count, most)))
    # Steps of the golden ratio leave gaps of two or three lengths at any time.
    step = next(n for n in range(round(count * 0.6180339887), 2 * count) if np.gcd(n, count) == 1)
    return [(seed + i * step) % count for i in range(min(count, most))]


def _pattern(layout: Layout, flips: npt.NDArray[np.int64]) -> ErrorPattern | None:
    return ErrorPattern(layout.bits, flips) if len(flips) else None


def _some(
    rng: np.random.Generator, among: npt.NDArray[np.int64], most: int, *, alone: float = 0.5
) -> npt.NDArray[np.int64]:
    """One of the positions, or up to ``most`` of them, mostly few."""
    if not len(among):
        return among
    count = 1 if rng.random() < alone else _few(rng, 2, max(2, most))
    return among[rng.integers(len(among), size=count)]


def _few(rng: np.random.Generator, least: int, most: int) -> int:
    """A number whose magnitude is what is drawn."""
    low, high = (least or 0.5), most + 1
    return min(most, int(low * (high / low) ** rng.random()))


def _kept(rng: np.random.Generator, layout: Layout) -> int:
    """Bytes before a cut: less than all."""
    length = layout.bits // 8
    edges = sorted({edge // 8 for region in layout for edge in (region.start, region.stop)} - {length})
    match int(rng.integers(4)):
        case 0:
            return length - _few(rng, 1, length)
        case 1 | 2 if edges:
            # One byte before or behind the edge is where a check that is off by one lies.
            return int(np.clip(edges[rng.integers(len(edges))] + rng.integers(-1, 2), 0, length - 1))
    return int(rng.integers(length))


def _bytes(rng: np.random.Generator, least: int, most: int) -> bytes:
    length = _few(rng, least, most)
    match int(rng.integers(4)):
        case 0:
            return bytes([(0, 255, int(rng.integers(256)))[rng.integers(3)]]) * length
        case 1:
            return rng.integers(4, size=length, dtype=np.uint8).tobytes()
    return rng.integers(256, size=length, dtype=np.uint8).tobytes()
