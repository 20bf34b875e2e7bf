"""The error patterns of arXiv 2604.05743's bit-flip experiment, drawn again from file sizes alone.

The published runs seed NumPy's legacy generator once and draw one uniform number for each bit of each file: error rate
after error rate, in each the trials, in each the images in their order. Nothing else draws, so a run's patterns depend
only on its file sizes and its seed. The seed is 123: with it, all flip counts that were read of the published tables
come out. The published code names 42.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from robustkit.errors import RobustkitError
from robustkit.patterns import ErrorPattern

#: Of the published runs.
SEED = 123
#: Bit error rates of the published runs, in the order in which they were run.
BERS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
#: Trials of each image at each error rate in the published runs.
TRIALS = 10
#: Numbers drawn at a time: eight megabytes.
_BLOCK = 1 << 20


class DrawError(RobustkitError, ValueError):
    """Sizes, error rates or trials that no run can have."""


def flips(
    sizes: Sequence[int], bers: Sequence[float] = BERS, trials: int = TRIALS, seed: int = SEED
) -> Iterator[tuple[int, int, int, npt.NDArray[np.int64]]]:
    """Which draws of a published run flip a bit, file after file.

    Memory is bounded: about 10 MB beside the flips of one file, however long the files.

    Args:
        sizes: bytes of the compressed files, in the run's order of images.
        bers: bit error rates, in the run's order.
        trials: of each image at each error rate.
        seed: of NumPy's legacy generator, 0 to 2^32 - 1.

    Yields:
        index into ``bers``, trial from 0, index into ``sizes``, and the int64 numbers of the file's draws that fell
        below the error rate, rising, from 0 to ``8 * size - 1``. :func:`pattern` makes an error pattern of them.

    Raises:
        DrawError: no size, a size below 0, an error rate outside 0 to 1, trials below 1, or a seed that the generator
            does not take.
    """
    if not len(sizes) or min(sizes) < 0:
        raise DrawError(f"sizes = {list(sizes)[:5]!r}: give the bytes of at least one file, none below 0")
    if not all(0 <= ber <= 1 for ber in bers):
        raise DrawError(f"bers = {list(bers)!r}: a bit error rate lies between 0 and 1")
    if trials < 1:
        raise DrawError(f"trials = {trials}: give at least 1")
    if not 0 <= seed < 2**32:
        raise DrawError(f"seed = {seed}: NumPy's legacy generator takes 0 to {2**32 - 1}")
    return _flips([int(size) for size in sizes], bers, trials, seed)


def _flips(
    sizes: Sequence[int], bers: Sequence[float], trials: int, seed: int
) -> Iterator[tuple[int, int, int, npt.NDArray[np.int64]]]:
    # The published runs used it, and its streams are frozen by NEP 19.
    stream = np.random.RandomState(seed)
    for level, ber in enumerate(bers):
        for trial in range(trials):
            for image, size in enumerate(sizes):
                yield level, trial, image, _below(stream, 8 * size, ber)


def _below(stream: np.random.RandomState, count: int, ber: float) -> npt.NDArray[np.int64]:
    found = [
        np.flatnonzero(stream.random_sample(min(_BLOCK, count - start)) < ber) + start
        for start in range(0, count, _BLOCK)
    ]
    return np.concatenate(found).astype(np.int64) if found else np.empty(0, dtype=np.int64)


def pattern(flips: npt.ArrayLike, bits: int) -> ErrorPattern:
    """The error pattern that flipped draws of a file stand for.

    Draw ``j`` belongs to byte ``j // 8``, and there to the bit of value ``2 ** (j % 8)``: the published runs count a
    byte's bits from its lowest, an :class:`~robustkit.patterns.ErrorPattern` from its highest.

    Args:
        flips: numbers of draws, as :func:`flips` yields them.
        bits: length of the file in bits.

    Raises:
        ValueError: a draw lies outside the file.
    """
    drawn = np.asarray(flips, dtype=np.int64)
    return ErrorPattern(bits, flips=drawn ^ 7)
