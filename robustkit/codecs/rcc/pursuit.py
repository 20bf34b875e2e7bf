"""Matching pursuit: which atoms a step of DDCM adds up, with which weights, and how both become bits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

from robustkit.codecs.rcc.codebook import Codebook
from robustkit.codecs.rcc.protocol import Bits, Integers

Floats = npt.NDArray[np.float64]


class Pursuit:
    """M atoms of one codebook, added one after another, each with a coefficient that C bits say.

    As published (Ohayon et al., arXiv 2502.01189), a step's noise is its first atom, and each further one joins it as
    ``sqrt(c) * noise + sqrt(1 - c) * atom``, rescaled to unit deviation; atom and ``c`` are those whose result has the
    largest inner product with the residual. Atoms have no sign.

    Not as published: ``c`` is ``j / (j + g)`` where j atoms are added already, and C bits say g in (0, 1] in even
    steps. With ``g = 1`` all atoms weigh the same, and since the best come first, no later one should weigh more. The
    published grid, C bits for c in [0, 1] in even steps, spends half its codes on second atoms that outweigh the
    first and two on adding none, and has no code near what the tenth atom needs, 0.9. So C = 0 means something here:
    equal weights.

    Args:
        size: K, a power of two: atoms of the codebook.
        count: M, up to :meth:`most_atoms`.
        coefficient_bits: C.
    """

    def __init__(self, size: int, count: int, coefficient_bits: int) -> None:
        self.size, self.count, self.coefficient_bits = size, count, coefficient_bits
        self.index_bits = size.bit_length() - 1

    @staticmethod
    def most_atoms(size: int) -> int:
        """The largest M for a K: a quarter of K, whose inner products with any residual are hardly ever negative."""
        return max(1, size // 4)

    # -- bits ---------------------------------------------------------------------------------------------

    @property
    def bits(self) -> int:
        """Bits that one step takes."""
        return self.count * self.index_bits + (self.count - 1) * self.coefficient_bits

    def payload_bytes(self, steps: int) -> int:
        """Bytes that ``steps`` steps take: one after another, then zeros up to a whole byte."""
        return -(-steps * self.bits // 8)

    def arrived(self, length: int, steps: int) -> int:
        """How many of ``steps`` steps are whole in ``length`` bytes."""
        return min(steps, 8 * length // self.bits)

    def fields(self) -> Iterator[tuple[str, int]]:
        """Names and bit counts of a step's parts, in their order."""
        yield from ((f"atom {atom} index", self.index_bits) for atom in range(self.count))
        yield from ((f"atom {atom} coefficient", self.coefficient_bits) for atom in range(1, self.count))

    def write(self, words: Integers) -> bytes:
        """Indices and coefficients, int64 ``(steps, 2 M - 1)``, to a payload."""
        parts = [
            (values[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(len(words), -1)
            for values, bits in zip(np.split(words, [self.count], axis=1), self._widths(), strict=True)
        ]
        return np.packbits(np.concatenate(parts, axis=1).astype(np.uint8)).tobytes()

    def read(self, payload: bytes, steps: int) -> Integers:
        """The words of those of ``steps`` steps that arrived whole; every payload says some."""
        arrived = self.arrived(len(payload), steps)
        bits: Bits = np.unpackbits(np.frombuffer(payload, np.uint8), count=arrived * self.bits)
        parts = np.split(bits.reshape(arrived, self.bits), [self.count * self.index_bits], axis=1)
        counts = (self.count, self.count - 1)
        return np.concatenate(
            [
                part.reshape(arrived, count, width) @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64))
                for part, count, width in zip(parts, counts, self._widths(), strict=True)
            ],
            axis=1,
        )

    def _widths(self) -> tuple[int, int]:
        return self.index_bits, self.coefficient_bits

    # -- atoms and weights --------------------------------------------------------------------------------

    def noise(self, codebook: Codebook, step: int, words: Integers) -> Tensor:
        """The noise ``(b, n)``, of unit deviation, that words ``(b, 2 M - 1)`` say."""
        indices, coefficients = np.split(words, [self.count], axis=1)
        weights = torch.from_numpy(self.weights(coefficients).astype(np.float32))
        return codebook.combine(step, torch.from_numpy(indices).to(codebook.device), weights.to(codebook.device))

    def weights(self, coefficients: Integers) -> Floats:
        """Weights ``(..., M)`` of the atoms, up to a common factor, from coefficients ``(..., M - 1)``.

        With orthogonal atoms nothing needs rescaling on the way: the recursion over ``c`` is then a product, and up to
        a factor the j-th atom's squared weight is g times the mean of those before it.
        """
        shares = self._grid()[coefficients]
        before = np.arange(1, self.count)
        ones = np.ones((*coefficients.shape[:-1], 1))
        squares = np.concatenate([ones, np.cumprod(1 + shares / before, axis=-1)], axis=-1)
        return np.concatenate([ones, np.sqrt(shares * squares[..., :-1] / before)], axis=-1)

    def _grid(self) -> Floats:
        """What the coefficients' codes mean: g."""
        codes = 1 << self.coefficient_bits
        return np.arange(1, codes + 1) / codes

    def choose(self, products: Tensor) -> Integers:
        """The words ``(b, 2 M - 1)`` for residuals with these inner products ``(b, K)`` with all atoms.

        Atoms that are orthogonal, as those of one basis of the structured codebook are, leave each other's inner
        products as they were, so matching pursuit finds the M best of all: one transform finds them at once. Others
        are taken as orthogonal, which they nearly are; to reckon with their overlaps takes a transform an atom, and
        brings a step 2% more information where n is 512 M, under half a percent where it is 2000 M.
        """
        best = products.topk(self.count, dim=1)
        coefficients = [self._coefficients(row)[0] for row in best.values.double().cpu().numpy()]
        return np.concatenate([best.indices.cpu().numpy(), np.stack(coefficients)], axis=1)

    def _coefficients(self, products: Floats) -> tuple[Integers, float]:
        """The best coefficients ``(M - 1,)`` of orthogonal atoms with these falling inner products ``(M,)``.

        Also the inner product of their sum, scaled to one atom's length.
        """
        coefficients = np.zeros(self.count - 1, dtype=np.int64)
        product, square = float(products[0]), 1.0
        for atom in range(1, self.count):
            weights = np.sqrt(self._grid() * (square / atom))
            found = int(((product + weights * products[atom]) / np.sqrt(square + weights**2)).argmax())
            coefficients[atom - 1] = found
            product += weights[found] * products[atom]
            square += weights[found] ** 2
        return coefficients, product / math.sqrt(square)

    def correlation(self, elements: int) -> float:
        """Squared correlation of a Gaussian residual with the noise chosen for it, for the noise schedule.

        The inner products of unit atoms with it, over its deviation, are K independent standard normal numbers. The
        pursuit of the expected M largest (Blom 1958) says what they add up to.

        Args:
            elements: n, numbers in the residual.
        """
        ranks = np.arange(1, self.count + 1)
        largest = ndtri((self.size - ranks + 0.625) / (self.size + 0.25))
        _, product = self._coefficients(largest)
        return min(1.0, product**2 / elements)
