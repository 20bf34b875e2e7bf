"""Reverse channel coding of a Gaussian step: Poisson functional representation in chunks, without a K x n matrix."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from robustkit.codecs.rcc.codebook import hadamard_factors, hadamard_transform
from robustkit.codecs.rcc.protocol import Integers

#: A chunk has at least this many coordinates, so that candidates of signs are about Gaussian in every direction.
LEAST_COORDINATES = 32


class PoissonChannel:
    """Sends a sample of N(shift, I) as indices, one a chunk, into candidates that are drawn from N(0, I) on both sides.

    In each chunk, candidate i arrives at the time T_i of a Poisson process, and the one with the least T_i p/q is sent:
    it has the law q, and its index needs about KL(q, p) bits (Li and El Gamal 2018, "Strong functional representation
    lemma and applications to coding theorems"; Theis et al. 2022, arXiv 2206.08889). The search costs exp(KL), so one
    long vector goes in chunks of few bits, each with its share of the coordinates. The pool is finite: where a chunk's
    KL is near its logarithm or beyond, the best of the pool is sent, which falls short of q.

    First the vector is lengthened by zeros to a power of two and turned: random signs, then a Walsh-Hadamard transform.
    That spreads it evenly, so every chunk of coordinates has about the same KL. A chunk's candidates are not Gaussian
    numbers but the rows of further such transforms, signs all of them: their inner products are about Gaussian, their
    norms all equal, and a fast transform gives all inner products of a chunk. As seen from the vector, before its turn,
    a sample's entries are sums of signs, and about Gaussian too.

    Args:
        size: K - 1, candidates of a chunk, K a power of two.
        length: n, numbers in a vector.
        seed: non-negative, below 2**64.
        device: where inner products are computed.
    """

    #: Inner products that are held at once.
    SLAB = 1 << 22

    def __init__(self, size: int, length: int, seed: int, device: torch.device) -> None:
        self.size, self.length, self.seed, self.device = size, length, seed, device
        self.turned = padded_length(length)

    def send(self, step: int, chunks: int, shift: Tensor) -> Integers:
        """The candidates that are sent for a mean.

        Args:
            step: which step's candidates.
            chunks: B, at most ``padded_length(length) / LEAST_COORDINATES``.
            shift: float32 ``(n,)``, the mean of q where p has 0 and both have the identity as covariance.

        Returns:
            int64 ``(B,)``, in [0, size).
        """
        rotation, chunk_signs, own = self._signs(step, chunks)
        block = own.shape[1]
        parts = torch.zeros(chunks, block, device=self.device)
        dealt = self._deal(self._turn(self._extended(shift[None]) * rotation) * chunk_signs, chunks)[0]
        parts[:, : dealt.shape[1]] = dealt
        # The decoder needs no arrival times. Chunks that shared theirs would not be independent.
        arrivals = np.random.Generator(np.random.Philox(key=[self.seed, step | 1 << 33]))
        factors, found = hadamard_factors(block, self.device), []
        for slab in torch.split(parts, max(1, self.SLAB // own.numel())):
            products = hadamard_transform(slab[:, None] * own, factors).flatten(1)[:, : self.size]
            waits = torch.from_numpy(arrivals.standard_exponential(products.shape, dtype=np.float32)).to(self.device)
            found.append((waits.cumsum(dim=1).log() - products).argmin(dim=1))
        return torch.cat(found).cpu().numpy().astype(np.int64)

    def sample(self, step: int, indices: Integers) -> Tensor:
        """The noise that was sent, of about unit variance.

        Args:
            step: which step's candidates.
            indices: int64 ``(b, B)``, in [0, size).

        Returns:
            float32 ``(b, n)``.
        """
        chunks = indices.shape[1]
        rotation, chunk_signs, own = self._signs(step, chunks)
        block, width = own.shape[1], -(-self.turned // chunks)
        rows = (indices % block).astype(np.int32)
        odd = np.bitwise_count(rows[..., None] & np.arange(width, dtype=np.int32)) & 1
        signs = torch.from_numpy(1 - 2 * odd.astype(np.float32)).to(self.device)
        signs *= own[torch.from_numpy(indices // block).to(self.device), :width]
        # (b, B, width) back to the order before the deal, less what the last turns had no coordinates for.
        gathered = signs.transpose(1, 2).flatten(1)[:, : self.turned]
        return (self._turn(gathered * chunk_signs) * rotation)[:, : self.length]

    def _signs(self, step: int, chunks: int) -> tuple[Tensor, Tensor, Tensor]:
        """+1 and -1: for the turn, for all chunks' coordinates, and ``(bases, block)`` that all chunks share."""
        block = padded_length(-(-self.turned // chunks))
        bases = -(-self.size // block)
        count = 2 * self.turned + bases * block
        raw = np.random.Philox(key=[self.seed, step]).random_raw(-(-count // 64)).astype("<u8").view(np.uint8)
        drawn = torch.from_numpy(1 - 2 * np.unpackbits(raw, count=count).astype(np.float32)).to(self.device)
        rotation, chunk_signs, own = torch.split(drawn, [self.turned, self.turned, bases * block])
        return rotation, chunk_signs, own.view(bases, block)

    def _extended(self, vectors: Tensor) -> Tensor:
        return torch.nn.functional.pad(vectors, (0, self.turned - self.length))

    def _turn(self, vectors: Tensor) -> Tensor:
        turned = hadamard_transform(vectors, hadamard_factors(self.turned, self.device))
        return turned / math.sqrt(self.turned)

    def _deal(self, vectors: Tensor, chunks: int) -> Tensor:
        """``(b, turned)`` to ``(b, chunks, width)``: coordinates dealt in turn, the last turn filled up with zeros."""
        width = -(-vectors.shape[1] // chunks)
        filled = torch.nn.functional.pad(vectors, (0, width * chunks - vectors.shape[1]))
        return filled.view(-1, width, chunks).transpose(1, 2)


def padded_length(length: int) -> int:
    """The least power of two that is not below ``length``."""
    return 1 << (length - 1).bit_length()
