"""Hypothesis strategies for damage: they search for what breaks a decoder, and shrink what they find.

They shrink to the fewest flips at the lowest positions and the shortest cut, never to no damage at all. Their
examples are adaptive, so they never enter a confidence bound: for that there is :mod:`robustkit.channels`.
"""

from __future__ import annotations

import bisect

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from robustkit.layout import Layout
from robustkit.patterns import ErrorPattern


def bit_flips(layout: Layout, *, max_flips: int = 64) -> SearchStrategy[ErrorPattern]:
    """From one to ``max_flips`` flips anywhere in the stream.

    Raises:
        ValueError: the stream is empty.
    """
    bits = _bits(layout, "flip")
    return (_alone(bits) | _positions(bits, max_flips)).map(lambda flips: _pattern(layout, flips))


def header_flips(layout: Layout, *, max_flips: int = 16) -> SearchStrategy[ErrorPattern]:
    """From one to ``max_flips`` flips in the header's regions.

    Raises:
        ValueError: the layout names no header.
    """
    header = layout.bits_of(header=True)
    if not len(header):
        raise ValueError("the layout names no header regions: mark them with header=True, or use bit_flips")
    indices = _alone(len(header)) | _positions(len(header), max_flips)
    return indices.map(lambda flips: _pattern(layout, header[flips]))


def bursts(layout: Layout, *, max_length: int = 64) -> SearchStrategy[ErrorPattern]:
    """Flips within one run of at most ``max_length`` bits, each bit of the run flipping or not.

    Raises:
        ValueError: the stream is empty.
    """
    bits = _bits(layout, "flip")
    masks = st.integers(1, min(max_length, bits)).flatmap(
        lambda length: st.lists(st.booleans(), min_size=length, max_size=length)
    )

    def build(start: int, mask: list[bool]) -> ErrorPattern:
        flips = [start + i for i, flipped in enumerate(mask) if flipped and start + i < bits]
        # The first bit flips only where no other does: forced, it would stay in every shrunk example.
        return ErrorPattern(bits, np.array(flips or [start], dtype=np.int64))

    return st.builds(build, st.integers(0, bits - 1), masks)


def truncations(layout: Layout) -> SearchStrategy[ErrorPattern]:
    """A stream that loses from one byte to all of them; half the cuts fall on the edge of a region.

    Raises:
        ValueError: the stream has no byte to lose.
    """
    length = _bytes(layout)
    return _cuts(layout).map(lambda cut: ErrorPattern(layout.bits, keep=length - cut))


def appended(layout: Layout, *, max_bytes: int = 64) -> SearchStrategy[ErrorPattern]:
    """From one to ``max_bytes`` bytes after an unharmed stream. Shrinks to one zero byte."""
    return st.binary(min_size=1, max_size=max_bytes).map(lambda extra: ErrorPattern(layout.bits, append=extra))


def garbage(*, max_bytes: int = 4096) -> SearchStrategy[bytes]:
    """Bytes that no encoder wrote, the empty stream among them: whole streams, not patterns."""
    return st.binary(max_size=max_bytes)


def damage(layout: Layout, *, max_flips: int = 64) -> SearchStrategy[ErrorPattern]:
    """Every kind of damage that the stream can suffer, and flips together with a cut and appended bytes.

    An empty stream can only have bytes appended; one whose layout names no header has no header flips.
    """
    if not layout.bits // 8:
        return appended(layout)
    kinds = [bit_flips(layout, max_flips=max_flips), bursts(layout), truncations(layout), appended(layout)]
    if any(region.header and region.start < region.stop for region in layout):
        kinds.insert(1, header_flips(layout))
    return st.one_of(*kinds, _mixtures(layout, max_flips))


def _mixtures(layout: Layout, max_flips: int) -> SearchStrategy[ErrorPattern]:
    length = _bytes(layout)

    def build(flips: list[int], cut: int, extra: bytes) -> ErrorPattern:
        pattern = _pattern(layout, flips)
        return ErrorPattern(layout.bits, pattern.flips, keep=length - cut if cut else None, append=extra)

    # Each ingredient may go, so that what shrinking leaves is what the failure needs; never all of them.
    return st.builds(
        build,
        _positions(layout.bits, max_flips, least=0),
        st.just(0) | _cuts(layout),
        st.binary(max_size=16),
    ).filter(lambda pattern: not pattern.harmless)


def _alone(room: int) -> SearchStrategy[list[int]]:
    """One flip: the damage that gets furthest into a decoder, and in a union the simplest of all examples."""
    return st.integers(0, room - 1).map(lambda flip: [flip])


def _positions(room: int, most: int, *, least: int = 1) -> SearchStrategy[list[int]]:
    if most < 1:
        raise ValueError(f"max_flips = {most}: a pattern has at least one flip")
    most = min(most, room)

    def lists(at_least: int) -> SearchStrategy[list[int]]:
        # Not unique=True: on short ranges it draws from what is left, so that no element can be taken out alone.
        return st.lists(st.integers(0, room - 1), min_size=at_least, max_size=most)

    # Lists alone are seldom long; some damage takes many flips to show.
    return lists(least) | lists(max(least, most // 2))


def _cuts(layout: Layout) -> SearchStrategy[int]:
    """Bytes cut off the end, from one to all."""
    length = _bytes(layout)
    edges = {length - edge // 8 for region in layout for edge in (region.start, region.stop)}
    at_edges = sorted(edge for edge in edges if edge > 0)

    def build(cut: int, to_edge: bool) -> int:
        # To the next shorter cut, so that shrinking can undo the move: a longer cut mostly fails as well.
        shorter = bisect.bisect_right(at_edges, cut)
        return at_edges[shorter - 1] if to_edge and shorter else cut

    return st.builds(build, st.integers(1, length), st.booleans())


def _pattern(layout: Layout, flips: object) -> ErrorPattern:
    return ErrorPattern(layout.bits, np.array(flips, dtype=np.int64))


def _bits(layout: Layout, to: str) -> int:
    if not layout.bits:
        raise ValueError(f"the stream is empty: there is no bit to {to}; use appended or garbage")
    return layout.bits


def _bytes(layout: Layout) -> int:
    if not layout.bits // 8:
        raise ValueError("the stream is empty: there is no byte to cut off; use appended or garbage")
    return layout.bits // 8
