"""Bit protocols: which sets of M signed atoms a step may choose, and how they become bits.

The Turbo-DDCM codecs differ here alone, and in what is protected.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar, TypeAlias, TypeVar

import gmpy2
import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from robustkit.codec import DecodeError

Bits = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = TypeVar("Words", Integers, Tensor)


#: The largest M that a header can say.
MOST_ATOMS = 65535
#: Atoms of a section that are looked through together.
RUN = 256
#: Up to this k, C(n, k) is made anew in a few microseconds.
FEW = 512

#: A number n and C(n, k).
Binomial: TypeAlias = tuple[int, gmpy2.mpz]


class BitProtocol(ABC):
    """Chooses M atoms, and writes their distinct indices and their signs (+1 or -1).

    Args:
        size: K, a power of two: how many atoms an index can name.
        count: M.
    """

    #: An odd factor: a step's words, twice an index and 1 more for the sign -1, are written in the order of their
    #: products with it modulo 2K. ``None``: their order says nothing.
    order: ClassVar[int | None] = None

    def __init__(self, size: int, count: int) -> None:
        if size < 2 or size & (size - 1):
            raise ValueError(f"K = {size} is not a power of two of at least 2")
        if not 1 <= count <= self.most_atoms(size):
            raise ValueError(f"M = {count} atoms of K = {size}: give 1 to {self.most_atoms(size)}")
        self.size, self.count = size, count
        self.index_bits = size.bit_length() - 1

    @staticmethod
    def most_atoms(size: int) -> int:
        """The largest M for a K."""
        return min(size, MOST_ATOMS)

    @property
    def atoms(self) -> int:
        """Atoms of a step's codebook."""
        return self.size

    def choose(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """The atoms for a residual: those with the largest absolute inner products (Turbo-DDCM's thresholding).

        Args:
            products: of every atom with each residual, float32 ``(b, atoms)``.

        Returns:
            indices int64 ``(b, M)``, rising, and the signs of their inner products, float32 ``(b, M)``.
        """
        if products.device.type == "cpu":
            indices = torch.stack([self._largest(row) for row in products.abs()])
        else:
            indices = products.abs().topk(self.count, dim=1, sorted=False).indices.sort(dim=1).values
        return indices, _signs_of(products, indices)

    def _largest(self, values: Tensor) -> Tensor:
        """Rising indices of the M largest of ``(K,)``, on a CPU: three times as fast as torch's ``topk``."""
        run = 1 << min(6, (self.size // self.count).bit_length() - 1)
        of_runs = values.view(-1, run).amax(dim=1).numpy()
        # At least M are as large as the M-th largest of the runs' largest, and not many more.
        able = np.flatnonzero(values.numpy() >= np.partition(of_runs, -self.count)[-self.count])
        largest = np.argpartition(values.numpy()[able], -self.count)[-self.count :]
        return torch.from_numpy(np.sort(able[largest]))

    def keys(self, words: Words) -> Words:
        """What words are sorted by, where the protocol has an ``order``: a number in [0, 2K) of each, all distinct."""
        assert self.order is not None
        return words * self.order & (2 * self.size - 1)

    def correlation(self, elements: int) -> float:
        """Squared correlation of a Gaussian residual with the sum of the atoms chosen for it.

        With ``g`` the mean of their absolute inner products with a unit Gaussian residual, the sum of M atoms has the
        squared correlation ``rho^2 = M g^2 / n`` with it. It carries about ``n rho^2 / 2`` nats.

        Args:
            elements: n, numbers in the residual.
        """
        return min(1.0, self.count * self._mean_product() ** 2 / elements)

    def _mean_product(self) -> float:
        """Mean of the M largest of K absolute standard normal values, K large."""
        share = self.count / self.size
        threshold = float(ndtri(1 - share / 2))
        return 2 * math.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi) / share

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits that one step takes."""

    @abstractmethod
    def write(self, indices: Integers, signs: Integers) -> Bits:
        """One step's atoms to ``bits`` zeros and ones (uint8)."""

    @abstractmethod
    def read(self, bits: Bits) -> tuple[Integers, Integers]:
        """Zeros and ones back to indices and signs.

        Raises:
            DecodeError: no set of atoms is written so.
        """

    @abstractmethod
    def fields(self) -> Iterator[tuple[str, int]]:
        """Names and bit counts of a step's parts, in their order."""


class IndependentIndices(BitProtocol):
    """Each index alone, ``log2 K`` bits, then the signs: a flipped bit harms one atom of M, and every word decodes."""

    order: ClassVar[int | None] = 1

    @property
    def bits(self) -> int:
        return self.count * (self.index_bits + 1)

    def write(self, indices: Integers, signs: Integers) -> Bits:
        shifts = np.arange(self.index_bits - 1, -1, -1)
        words = (indices[:, None] >> shifts) & 1
        return np.concatenate([words.ravel(), signs < 0]).astype(np.uint8)

    def read(self, bits: Bits) -> tuple[Integers, Integers]:
        words = bits[: self.count * self.index_bits].reshape(self.count, self.index_bits)
        indices = words.astype(np.int64) @ (1 << np.arange(self.index_bits - 1, -1, -1, dtype=np.int64))
        return indices, _signs(bits[self.count * self.index_bits :])

    def fields(self) -> Iterator[tuple[str, int]]:
        yield from ((f"atom {atom} index", self.index_bits) for atom in range(self.count))
        yield from ((f"atom {atom} sign", 1) for atom in range(self.count))


class HashOrderedIndices(IndependentIndices):
    """Independent indices in the order of a multiplicative hash, so that the order tells of every flip.

    In the order of the indices themselves, a flip among the lower bits moves a word less than the gap to the next, and
    shows nowhere: at M = 50 of K = 2**18, four flips in five. In the order of the words' products with an odd number
    modulo 2K, any flip, of the sign too, moves a word far. Multiplicative hashing: Knuth, volume 3, section 6.4.
    """

    #: Of random ones, that which leaves the fewest flips, of all word lengths, near nothing and near one another.
    order = 0xC9BC53

    def choose(self, products: Tensor) -> tuple[Tensor, Tensor]:
        indices, signs = super().choose(products)
        order = self.keys(2 * indices + (signs < 0)).argsort(dim=1)
        return indices.gather(1, order), signs.gather(1, order)


class SectionIndices(IndependentIndices):
    """One atom from each of M sections of the codebook, K atoms each: independent indices that say no order.

    M indices into one shared codebook spend ``log2 M!`` bits on the order they are written in, which nobody reads. An
    index that names an atom of its own section spends none, finds nearly as good a one, and stands as much alone.
    Sections: sparse regression codes, Joseph and Barron 2012; for lossy compression, Venkataramanan, Sarkar and
    Tatikonda, "Lossy compression via sparse linear regression", 2014.
    """

    order = None

    @staticmethod
    def most_atoms(size: int) -> int:
        return MOST_ATOMS

    @property
    def atoms(self) -> int:
        return self.size * self.count

    def choose(self, products: Tensor) -> tuple[Tensor, Tensor]:
        sections = products.reshape(-1, self.size)
        best = _largest_by_runs(sections) if products.device.type == "cpu" else sections.abs().argmax(dim=1)
        starts = self.size * torch.arange(self.count, device=best.device)
        indices = best.view(-1, self.count) + starts
        return indices, _signs_of(products, indices)

    def _mean_product(self) -> float:
        return _mean_largest(self.size)

    def write(self, indices: Integers, signs: Integers) -> Bits:
        return super().write(indices - self._starts(), signs)

    def read(self, bits: Bits) -> tuple[Integers, Integers]:
        indices, signs = super().read(bits)
        return indices + self._starts(), signs

    def _starts(self) -> Integers:
        return self.size * np.arange(self.count, dtype=np.int64)


class JointRank(BitProtocol):
    """The subset's lexicographic rank in ``ceil(log2 C(K, M))`` bits, then the signs in the order of the indices.

    The shortest fixed-length code, and a fragile one: a flipped bit of the rank changes most of the subset.
    """

    def __init__(self, size: int, count: int) -> None:
        super().__init__(size, count)
        self.subsets = _subsets(size, count)
        self.rank_bits = (self.subsets - 1).bit_length()

    @property
    def bits(self) -> int:
        return self.rank_bits + self.count

    def rank(self, indices: Integers) -> int:
        """Position of a rising index list among all C(K, M) of them in lexicographic order."""
        # The complement K-1-i turns lexicographic order into the combinatorial number system, reversed.
        total, term = gmpy2.mpz(0), None
        for place, index in enumerate(indices.tolist()):
            term = self.size - 1 - index, _binomial(self.size - 1 - index, self.count - place, term)
            total += term[1]
        return int(self.subsets - 1 - total)

    def unrank(self, rank: int) -> Integers:
        """The rising index list at ``rank`` in [0, C(K, M))."""
        left, term = gmpy2.mpz(self.subsets - 1 - rank), None
        indices = np.empty(self.count, dtype=np.int64)
        for place in range(self.count):
            term = _largest_below(left, self.count - place, term)
            left -= term[1]
            indices[place] = self.size - 1 - term[0]
        return indices

    def write(self, indices: Integers, signs: Integers) -> Bits:
        text = format(self.rank(indices), f"0{self.rank_bits}b") if self.rank_bits else ""
        rank = np.frombuffer(text.encode("ascii"), dtype=np.uint8) - ord("0")
        return np.concatenate([rank, signs < 0]).astype(np.uint8)

    def read(self, bits: Bits) -> tuple[Integers, Integers]:
        text = (bits[: self.rank_bits] + ord("0")).astype(np.uint8).tobytes().decode("ascii")
        rank = int(text or "0", 2)
        if rank >= self.subsets:
            raise DecodeError(f"a rank beyond the last of the C({self.size}, {self.count}) subsets")
        return self.unrank(rank), _signs(bits[self.rank_bits :])

    def fields(self) -> Iterator[tuple[str, int]]:
        yield "subset rank", self.rank_bits
        yield from ((f"atom {atom} sign", 1) for atom in range(self.count))


@lru_cache(maxsize=16)
def _subsets(size: int, count: int) -> int:
    """C(K, M), which takes a tenth of a second where both are large."""
    return int(gmpy2.comb(size, count))


@lru_cache
def _mean_largest(size: int) -> float:
    """Mean of the largest of so many absolute standard normal values."""
    # The integral of the chance that the largest exceeds a value.
    values = np.linspace(0, 12, 12001)
    return float(np.trapezoid(1 - (2 * ndtr(values) - 1) ** size, values))


def _largest_by_runs(values: Tensor) -> Tensor:
    """Where each row's largest absolute value is: int64 ``(b,)``, on a CPU, which finds values faster than places."""
    runs = values.view(len(values), -1, min(values.shape[1], RUN))
    # What is small goes through NumPy: torch's operations take several times as long to start.
    largest, least = runs.amax(dim=2).numpy(), runs.amin(dim=2).numpy()
    run = np.maximum(largest, -least).argmax(axis=1)
    place = np.abs(runs.numpy()[np.arange(len(runs)), run]).argmax(axis=1)
    return torch.from_numpy(run * runs.shape[2] + place)


def _signs_of(products: Tensor, indices: Tensor) -> Tensor:
    return torch.copysign(torch.ones(()), products.gather(1, indices))


def _signs(bits: Bits) -> Integers:
    return 1 - 2 * bits.astype(np.int64)


def _largest_below(value: gmpy2.mpz, k: int, above: Binomial | None) -> Binomial:
    """The largest ``c`` with ``C(c, k) <= value``, and ``C(c, k)``; ``above`` is as for :func:`_binomial`."""
    if value == 0:
        return k - 1, gmpy2.mpz(0)
    guess = _about(float(gmpy2.log(value)), k)
    if above:
        guess = min(guess, above[0] - 1)
    binomial = _binomial(guess, k, above)
    # The logarithms' rounding costs a few steps at most.
    while binomial > value:
        binomial = gmpy2.divexact(binomial * (guess - k), guess)
        guess -= 1
    while True:
        following = gmpy2.divexact(binomial * (guess + 1), guess + 1 - k)
        if following > value:
            return guess, binomial
        binomial, guess = following, guess + 1


def _about(logarithm: float, k: int) -> int:
    """The ``c`` of at least ``k`` whose ``C(c, k)`` has about this natural logarithm."""
    # C(c, k) is about (c - (k-1)/2)^k / k!; then Newton's method.
    found = max(float(k), math.exp((logarithm + math.lgamma(k + 1)) / k) + (k - 1) / 2)
    for _ in range(3):
        excess = math.lgamma(found + 1) - math.lgamma(k + 1) - math.lgamma(found - k + 1) - logarithm
        found = max(float(k), found - excess / math.log((found + 0.5) / (found - k + 0.5)))
    return int(found)


def _binomial(top: int, k: int, above: Binomial | None) -> gmpy2.mpz:
    """``C(top, k)``.

    Args:
        top: at least ``k - 1``.
        k: from 1 on.
        above: a larger number and its C(., k + 1), where that is known: with large ``k`` and a small gap it is sooner
            multiplied and divided by what differs.
    """
    if above is None or k <= FEW or above[0] - top > k // 2:
        return gmpy2.comb(top, k)
    gap, before = above[0] - 1 - top, above[0]
    # C(b - 1, k) = C(b, k + 1) (k + 1) / b, then each step down from n multiplies by (n - k) / n.
    factor = (k + 1) * gmpy2.comb(before - 1 - k, gap)
    return gmpy2.divexact(above[1] * factor, before * gmpy2.comb(before - 1, gap))
