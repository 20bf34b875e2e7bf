"""Repair of the words of a step by the order that they were written in, which damage breaks.

M words in rising order spend ``log2 M!`` bits on it. The decoder gets them back: a word that breaks the order was hit,
and of the words near it in Hamming distance few would mend the order. The forward-backward algorithm (Bahl, Cocke,
Jelinek and Raviv, 1974) weighs all rising sequences of such words at once. It gives each word's posterior probability,
which is the coefficient that a sum of atoms wants: the estimate of the least mean square error. The single likeliest
sequence (Viterbi) believes doubtful words whole, which repairs as many and leaves more damage.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from robustkit.codecs.rcc.protocol import BitProtocol, Floats, Integers

#: Chance of a flip that candidates are weighed by. Any from 1e-3 to 2e-2 repairs as much, at any bit error rate there.
FLIP = 5e-3
#: Chance that a word is beyond its candidates, as after a burst: it may then have been any.
LOST = 1e-2
#: Flips of a candidate.
REACH = 2
#: Words of a chain at most: a longer step is read as several chains, each word in turn, so that time is linear in M.
CHAIN = 128
#: Cells that keys are rounded to, for each word of a chain.
CELLS = 8
#: Numbers of a table of one pass.
_TABLE = 1 << 22


def believe(protocol: BitProtocol, indices: Integers, signs: Integers) -> tuple[Integers, Floats]:
    """The likeliest atoms of steps as they were received, and how far to believe each.

    Steps whose words rise come back as they are; so do all those of a protocol without an order. What is kept of
    others with a weight above 1/2 rises, to the precision of the cells.

    Args:
        protocol: wrote them.
        indices: int64 ``(steps, M)``, as read.
        signs: int64 ``(steps, M)``, +1 and -1.

    Returns:
        indices, and signs times the posterior probability of the atom, float64 ``(steps, M)``.
    """
    if protocol.order is None or not len(indices):
        return indices, signs.astype(np.float64)
    words = 2 * indices + (signs < 0)
    weights = np.ones(words.shape)
    chains = -(-words.shape[1] // CHAIN)
    for start in range(chains):
        chain = words[:, start::chains]
        broken = np.flatnonzero((np.diff(protocol.keys(chain), axis=1) <= 0).any(axis=1))
        size = max(1, _TABLE // (_cells(chain.shape[1], protocol) * chain.shape[1]))
        for rows in np.split(broken, range(size, len(broken), size)):
            mended = _posterior(protocol, chain[rows])
            words[rows, start::chains], weights[rows, start::chains] = mended
    return words >> 1, weights * (1 - 2 * (words & 1))


def _posterior(protocol: BitProtocol, words: Integers) -> tuple[Integers, Floats]:
    """The likeliest word at each place of rising chains, and its probability, both ``(chains, L)``.

    Cells stand for the keys, so that a sum over all lesser keys is one look-up. A lost word may have any key.
    """
    chains, length = words.shape
    bits = protocol.index_bits + 1
    cells = _cells(length, protocol)
    masks, chances = _candidates(bits)
    candidates = words.T[:, :, None] ^ masks
    # Of each candidate in tables of (chains, cells) laid flat.
    places = protocol.keys(candidates) >> (bits - cells.bit_length() + 1)
    places += cells * np.arange(chains)[:, None]
    lost = LOST / cells
    before = np.ones((length, chains, cells))  # that the words so far rise to a cell at most
    reached = np.empty(candidates.shape)
    for place in range(length):
        np.multiply(chances, before[place].take(places[place]), out=reached[place])
        if place + 1 < length:
            ends = _sums(places[place], reached[place], cells) + lost * before[place]
            np.cumsum(ends, axis=1, out=before[place + 1])
            before[place + 1] /= before[place + 1, :, -1:]
    after = np.ones((chains, cells))  # that the words to come rise from a cell at least
    best, weights = np.empty(words.shape, dtype=np.int64), np.empty(words.shape)
    for place in reversed(range(length)):
        following = after.take(places[place])
        joint = reached[place] * following
        total = joint.sum(axis=1) + lost * np.einsum("ij,ij->i", before[place], after)
        best[:, place] = joint.argmax(axis=1)
        weights[:, place] = joint.max(axis=1) / np.maximum(total, np.finfo(np.float64).tiny)
        starts = _sums(places[place], chances * following, cells) + lost * after
        after = np.cumsum(starts[:, ::-1], axis=1)[:, ::-1]
        after = after / after[:, :1]
    return words ^ masks[best], weights


def _sums(places: Integers, values: Floats, cells: int) -> Floats:
    """Values added up by cell, ``(chains, cells)``."""
    chains = len(places)
    sums = np.bincount(places.ravel(), values.ravel(), chains * cells).astype(np.float64, copy=False)
    return sums.reshape(chains, cells)


def _cells(length: int, protocol: BitProtocol) -> int:
    """Cells for a chain of ``length`` words, a power of two."""
    return min(2 * protocol.size, max(256, CELLS << (length - 1).bit_length()))


@lru_cache
def _candidates(bits: int) -> tuple[Integers, Floats]:
    """Masks of up to ``REACH`` flips of ``bits`` bits, and each one's chance."""
    flips = [places for count in range(REACH + 1) for places in itertools.combinations(range(bits), count)]
    masks = np.array([sum(1 << place for place in places) for places in flips], dtype=np.int64)
    counts = np.bitwise_count(masks)
    return masks, FLIP**counts * (1 - FLIP) ** (bits - counts)
