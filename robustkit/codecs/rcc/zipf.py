"""Entropy coding of DiffC's indices: the octave, under a Zipf law, by a range coder, the place in it in plain bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from robustkit.codecs.rcc.protocol import Bits, Integers

#: Exponents of the Zipf law that a stream can choose from.
EXPONENTS = np.arange(64) / 32
#: Largest magnitude of a correction, and in how many of them its probability halves.
LARGEST_CORRECTION = 31
HALVES_IN = 1.0
#: Probabilities are multiples of one in so many, so that machines that round powers differently have the same ones.
_GRAINS = 1 << 20
_WORD = np.dtype(">u4")

#: A step's correction, and its indices or their octaves, int64 ``(B,)``.
Step = tuple[int, Integers]


def octaves_of(indices: Integers) -> Integers:
    """``floor(log2(i + 1))``: octave o has the 2**o indices from 2**o - 1 on."""
    octaves: Integers = np.frexp(indices + 1)[1].astype(np.int64) - 1
    return octaves


def zipf(exponent: float, octaves: int) -> npt.NDArray[np.float64]:
    """Probabilities of the octaves where index i has one of about ``(i + 1) ** -exponent``.

    Within an octave all indices are written as equally likely, which costs 0.03 bits an index.
    """
    return _grained(np.exp2(np.arange(octaves) * (1 - exponent)))


def best_exponent(octaves: Integers, count: int) -> int:
    """Number of the exponent that writes ``octaves``, each below ``count``, in the fewest bits."""
    seen = np.bincount(octaves, minlength=count)
    return int(np.argmin([-(seen * np.log2(zipf(exponent, count))).sum() for exponent in EXPONENTS]))


def write_octaves(steps: Sequence[Step], count: int) -> bytes:
    """The range coder's bytes for each step's correction and octaves, each octave below ``count``."""
    exponent = best_exponent(np.concatenate([octaves for _, octaves in steps]), count)
    uniform, corrections, law = _models(exponent, count)
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(exponent, uniform)
    for correction, octaves in steps:
        coder.encode(correction + LARGEST_CORRECTION, corrections)
        coder.encode(octaves.astype(np.int32), law)
    return _shortest(coder.get_compressed().astype(_WORD).tobytes(), [len(octaves) for _, octaves in steps], count)


def read_octaves(written: bytes, chunks: Sequence[int], count: int) -> Iterator[Step]:
    """The steps of ``chunks`` octaves each that :func:`write_octaves` wrote.

    Damaged bytes give other steps, or fewer: a range coder meets words that no symbol has.

    Args:
        written: all or more than all of the bytes; zeros stand for those beyond.
        chunks: octaves of each step.
        count: that each octave is below.
    """
    padded = written + bytes(-len(written) % _WORD.itemsize + 2 * _WORD.itemsize)
    coder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, _WORD).astype(np.uint32))
    try:
        _, corrections, law = _models(int(coder.decode(_models(0, count)[0])), count)
        for chunk in chunks:
            correction = int(coder.decode(corrections)) - LARGEST_CORRECTION
            yield correction, coder.decode(law, chunk).astype(np.int64)
    except AssertionError:  # constriction's word for such words
        return


def write_places(indices: Integers) -> Bits:
    """Each index's place in its octave o, o bits from the highest down."""
    octaves = octaves_of(indices)
    places = indices + 1 - (1 << octaves)
    owner = np.repeat(np.arange(len(indices)), octaves)
    below = np.repeat(np.cumsum(octaves), octaves) - 1 - np.arange(len(owner))
    bits: Bits = ((places[owner] >> below) & 1).astype(np.uint8)
    return bits


def read_places(bits: Bits, octaves: Integers) -> Integers:
    """The indices of ``octaves``, from ``octaves.sum()`` bits."""
    owner = np.repeat(np.arange(len(octaves)), octaves)
    below = np.repeat(np.cumsum(octaves), octaves) - 1 - np.arange(len(owner))
    indices = (1 << octaves) - 1
    np.add.at(indices, owner, bits.astype(np.int64) << below)
    return indices


def _models(exponent: int, count: int) -> tuple[Any, Any, Any]:
    """Of the exponent's number, of a correction, and of an octave."""
    model = constriction.stream.model
    magnitudes = np.abs(np.arange(-LARGEST_CORRECTION, LARGEST_CORRECTION + 1))
    return (
        model.Uniform(len(EXPONENTS)),
        model.Categorical(_grained(2.0 ** (-magnitudes / HALVES_IN)), perfect=False),
        model.Categorical(zipf(float(EXPONENTS[exponent]), count), perfect=False),
    )


def _grained(weights: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    grains: npt.NDArray[np.float64] = np.maximum(1, np.rint(weights / weights.sum() * _GRAINS))
    return grains / _GRAINS


def _shortest(written: bytes, chunks: Sequence[int], count: int) -> bytes:
    """The fewest bytes that say the same: the coder ends on whole words."""

    def says(some: bytes) -> list[tuple[int, list[int]]]:
        return [(correction, octaves.tolist()) for correction, octaves in read_octaves(some, chunks, count)]

    wanted = says(written)
    for length in range(max(0, len(written) - 2 * _WORD.itemsize), len(written)):
        head = int.from_bytes(written[:length])
        # Zeros follow, so the head alone is below what the coder wrote, and the next one above.
        for value in (head, head + 1):
            if value < 1 << 8 * length and says(short := value.to_bytes(length)) == wanted:
                return short
    return written
