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


class Part:
    """Bits of a stream as runs, however many they are: its length is their number, ``part[i]`` where the i-th lies.

    Args:
        bounds: start and stop of each run, int64, runs x 2, in rising order and apart from one another.
    """

    def __init__(self, bounds: npt.NDArray[np.int64]) -> None:
        self._stops = bounds[:, 1]
        self._ends = np.cumsum(bounds[:, 1] - bounds[:, 0])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        run = np.searchsorted(self._ends, indices, side="right")
        positions: npt.NDArray[np.int64] = indices + (self._stops - self._ends)[run]
        return positions


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

    def part(self, *, header: bool) -> Part:
        """The header's bits, or all the others."""
        # Runs of header bits that overlap or touch become one.
        runs: list[list[int]] = []
        for start, stop in sorted((r.start, r.stop) for r in self.regions if r.header and r.start < r.stop):
            if runs and start <= runs[-1][1]:
                runs[-1][1] = max(runs[-1][1], stop)
            else:
                runs.append([start, stop])
        edges = [0, *(edge for run in runs for edge in run), self.bits]
        bounds = np.array(edges[1:-1] if header else edges, dtype=np.int64).reshape(-1, 2)
        return Part(bounds[bounds[:, 0] < bounds[:, 1]])

    def bits_of(self, *, header: bool) -> npt.NDArray[np.int64]:
        """Positions of the header's bits, or of all the others, in rising order."""
        part = self.part(header=header)
        return part[np.arange(len(part), dtype=np.int64)]
