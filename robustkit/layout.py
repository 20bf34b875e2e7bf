"""The named parts of one bitstream: what a flip hits, and what belongs to the header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Region:
    """A named run of bits, ``start`` to ``stop`` (exclusive); bit 0 is the highest bit of byte 0.

    Attributes:
        name: what a flip there hits: "SOF0 height", "step 7 atom 3 index".
        header: whether the decoder can do nothing useful without it.
    """

    name: str
    start: int
    stop: int
    header: bool = False


@dataclass(frozen=True)
class Layout:
    """The regions of one bitstream, in order of their start; later (inner) regions win where two overlap."""

    regions: tuple[Region, ...]
    bits: int

    def __post_init__(self) -> None:
        for region in self.regions:
            if not 0 <= region.start <= region.stop <= self.bits:
                raise ValueError(f"region {region} lies outside the stream's {self.bits} bits")

    def __iter__(self) -> Iterator[Region]:
        return iter(self.regions)

    def at(self, bit: int) -> Region | None:
        """The innermost region that holds ``bit``: the shortest, the last named among equals."""
        holding = [r for r in self.regions if r.start <= bit < r.stop]
        return min(reversed(holding), key=lambda r: r.stop - r.start, default=None)

    def bits_of(self, *, header: bool) -> npt.NDArray[np.int64]:
        """Positions of the header's bits, or of all the others, in rising order."""
        mask = np.zeros(self.bits, dtype=bool)
        for region in self.regions:
            if region.header:
                mask[region.start : region.stop] = True
        return np.flatnonzero(mask if header else ~mask)
