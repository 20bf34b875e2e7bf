"""Error patterns: which bits of a stream flip, and where it is cut off."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

#: Where one bit in so many flips, a mask of all bits is faster than flip after flip.
_DENSE = 128


@dataclass(frozen=True, eq=False)
class ErrorPattern:
    """Damage to a stream of known length.

    Attributes:
        bits: length of the stream in bits.
        flips: int64 positions to flip, unique, rising, read-only; bit 0 is the highest bit of byte 0.
        keep: bytes that arrive, or ``None`` for all of them.
        append: bytes that follow the stream.

    Raises:
        ValueError: a position lies outside the stream, or ``keep`` exceeds it.
        TypeError: the positions are not integers.
    """

    bits: int
    flips: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    keep: int | None = None
    append: bytes = b""

    def __post_init__(self) -> None:
        given = np.asarray(self.flips)
        if given.size and given.dtype.kind not in "iu":
            raise TypeError(f"flips are bit positions, integers; these are {given.dtype}")
        # Channels draw them in rising order, and sorting them again would take longer than the draw.
        rising = given.ndim == 1 and bool((given[1:] > given[:-1]).all())
        flips = given if rising else np.unique(given)
        if len(flips) and (flips[0] < 0 or flips[-1] >= self.bits):
            raise ValueError(f"flips reach from {flips[0]} to {flips[-1]}, outside a stream of {self.bits} bits")
        if self.keep is not None and not 0 <= self.keep <= self.bits // 8:
            raise ValueError(f"keep = {self.keep} bytes of a stream of {self.bits // 8}")
        # Always a copy, because it is made read-only.
        flips = flips.astype(np.int64)
        flips.flags.writeable = False
        object.__setattr__(self, "flips", flips)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ErrorPattern)
            and (self.bits, self.keep, self.append) == (other.bits, other.keep, other.append)
            and np.array_equal(self.flips, other.flips)
        )

    def __hash__(self) -> int:
        return hash((self.bits, self.flips.tobytes(), self.keep, self.append))

    @property
    def harmless(self) -> bool:
        """Whether applying it changes nothing."""
        return not len(self.flips) and not self.append and self.keep in (None, self.bits // 8)

    def apply(self, bitstream: bytes) -> bytes:
        """The damaged stream. With flips alone, applying it twice gives the stream back.

        Raises:
            ValueError: the stream does not have the pattern's length.
        """
        if 8 * len(bitstream) != self.bits:
            raise ValueError(f"the pattern is for {self.bits} bits, the stream has {8 * len(bitstream)}")
        damaged = np.frombuffer(bitstream, dtype=np.uint8).copy()
        if _DENSE * len(self.flips) > self.bits:
            mask = np.zeros(self.bits, dtype=bool)
            mask[self.flips] = True
            damaged ^= np.packbits(mask)
        else:
            np.bitwise_xor.at(damaged, self.flips >> 3, (128 >> (self.flips & 7)).astype(np.uint8))
        return damaged[: self.keep].tobytes() + self.append
