"""Codebooks: the K pseudo-random atoms that encoder and decoder share at each step."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from robustkit.priors.graphs import graphs_of

#: How many numbers are worked out at once, ahead of the denoiser's calls: each call empties the caches, and what is
#: many small operations takes several times as long right after one.
AHEAD = 1 << 19
#: How many numbers a CPU transforms at a time: they and what becomes of them fit its cores' caches.
CACHED = 1 << 19
#: How many signs are kept for the next stream, 128 MiB: more than the 28 steps of an image of 512x512 have.
KEPT = 1 << 25

#: +1 and -1: for the shared rotation, ``(n,)``, and those of which every basis has ``(n,)`` from its shift on.
Signs: TypeAlias = tuple[Tensor, Tensor]
#: Indices and signs of atoms for their inner products, ``(b, K)``.
Choose: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


class Codebook(ABC):
    """K atoms of n numbers for each step, drawn from a seed; nothing else decides them.

    Args:
        size: K, the number of atoms.
        length: n, the numbers in an atom.
        seed: non-negative, below 2**64.
        device: where inner products are computed.
    """

    def __init__(self, size: int, length: int, seed: int, device: torch.device) -> None:
        self.size, self.length, self.seed, self.device = size, length, seed, device

    @staticmethod
    def work(size: int, length: int, atoms: int) -> int:
        """What :meth:`combine` of so many atoms takes beside a call of the denoiser, in pixels of such a call."""
        return 0

    @abstractmethod
    def inner_products(self, step: int, residuals: Tensor) -> Tensor:
        """Inner products of every atom with each residual, up to one common factor.

        Args:
            step: which step's atoms.
            residuals: float32 ``(b, n)``.

        Returns:
            float32 ``(b, K)``, overwritten by the next call.
        """

    def chosen(self, step: int, residuals: Tensor, choose: Choose, name: Hashable) -> tuple[Tensor, Tensor]:
        """What ``choose`` makes of :meth:`inner_products`.

        Args:
            name: of what ``choose`` does.
        """
        return choose(self.inner_products(step, residuals))

    @abstractmethod
    def combine(self, step: int, indices: Tensor, coefficients: Tensor) -> Tensor:
        """Sums of atoms.

        Args:
            step: which step's atoms.
            indices: int64 ``(b, M)``, in [0, K).
            coefficients: float32 ``(b, M)``.

        Returns:
            float32 ``(b, n)``, scaled to unit standard deviation; zeros where the sum is zero.
        """


def _interleave(values: Tensor, rows: int, columns: int) -> Tensor:
    """Transpose the last dimension, read as ``rows`` x ``columns``."""
    return values.reshape(len(values), rows, columns).transpose(1, 2).flatten(1)


def _unit_deviation(sums: Tensor) -> Tensor:
    return sums / sums.std(dim=1, keepdim=True, correction=1).clamp_min(1e-12)


class StructuredCodebook(Codebook):
    """Rows of randomised Walsh-Hadamard transforms: all K inner products in O(K log n), no K x n matrix.

    A basis is ``n`` orthogonal atoms. First comes a rotation that all bases share: random signs, then a Hadamard
    transform over each of ``n / b`` blocks of ``b`` numbers, where ``b`` is the largest power of two that divides n,
    and the blocks interleaved. It spreads a residual's energy, most of it in a few components, over all numbers;
    without it, atoms that differ in the signs of empty components would be one atom. Then come each basis' own signs,
    and the transform again. Atoms within a basis are exactly orthogonal; a codebook of more than ``n`` atoms joins
    several bases, whose signs are shifts of one draw.

    All entries are small integers made from Philox bits, so every device has the same atoms. Transforms:
    Ailon and Chazelle 2009, "The fast Johnson-Lindenstrauss transform".
    """

    def __init__(self, size: int, length: int, seed: int, device: torch.device) -> None:
        super().__init__(size, length, seed, device)
        self.graphs = graphs_of(device)
        self.bases = -(-size // length)
        self.block = length & -length
        self.factors = hadamard_factors(self.block, device)
        half = (self.block.bit_length() - 1) // 2
        self.left, self.right = (_hadamard(f).to(device) for f in (1 << half, self.block >> half))
        # An odd stride below n, so that no two bases share an alignment of signs.
        self.shifts = [base * 0x9E3779B1 % length for base in range(self.bases)]
        # Steps that are drawn at once; an image has tens of them.
        self._group = min(8, max(1, AHEAD // length))
        self._drawn: tuple[int, list[Signs]] | None = None
        self._kept = _kept(seed, length, self.bases, device)
        # Kept from step to step: megabytes that are given back and asked for again cost as much as the transform.
        self._products, self._scratch = torch.empty(0), torch.empty(0)

    def _signs(self, step: int) -> Signs:
        group, place = divmod(step, self._group)
        if self._drawn is None or self._drawn[0] != group:
            signs = self._kept.get(group)
            if signs is None:
                signs = self._draw(range(group * self._group, (group + 1) * self._group))
                if 3 * self.length * self._group * (len(self._kept) + 1) <= KEPT:
                    self._kept[group] = signs
            self._drawn = group, signs
        return self._drawn[1][place]

    def _draw(self, steps: range) -> list[Signs]:
        words = -(-self.length // 64)
        raw = np.concatenate([np.random.Philox(key=[self.seed, step]).random_raw(2 * words) for step in steps])
        signs = _SIGNS_OF_BYTE.take(raw.astype("<u8").view(np.uint8), axis=0).reshape(len(steps), 2, -1)
        shared, own = torch.from_numpy(signs[:, :, : self.length]).to(self.device).unbind(dim=1)
        return list(zip(shared.unbind(), torch.cat([own, own], dim=1).unbind(), strict=True))

    def _of_bases(self, own: Tensor, first: int = 0, stop: int | None = None) -> list[Tensor]:
        """The signs of the bases from ``first`` on."""
        return [own[shift : shift + self.length] for shift in self.shifts[first:stop]]

    def _transform(self, values: Tensor) -> Tensor:
        return hadamard_transform(values, self.factors)

    def inner_products(self, step: int, residuals: Tensor) -> Tensor:
        return self._products_of(residuals, *self._signs(step))

    def chosen(self, step: int, residuals: Tensor, choose: Choose, name: Hashable) -> tuple[Tensor, Tensor]:
        if self.graphs is None:
            return super().chosen(step, residuals, choose, name)

        def work(residuals: Tensor, shared: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
            return choose(self._products_of(residuals, shared, own))

        made = self.graphs.run(("choice", name, self.size, self.length), work, residuals, *self._signs(step))
        return made[0], made[1]

    def _products_of(self, residuals: Tensor, shared: Tensor, own: Tensor) -> Tensor:
        spread = _interleave(self._transform(residuals * shared), -1, self.block)
        if self.device.type != "cpu":
            products = hadamard_transform(spread[:, None] * torch.stack(self._of_bases(own)), self.factors)
        else:
            products = self._products_on_a_cpu(spread, own)
        return products.flatten(1)[:, : self.size]

    def _products_on_a_cpu(self, spread: Tensor, own: Tensor) -> Tensor:
        """A few bases at a time, as many as the caches hold."""
        few = max(1, CACHED // self.length)
        if len(self._products) != len(spread):
            self._products = torch.empty(len(spread), self.bases, self.length)
            self._scratch = torch.empty(2, few * self.length)
        for numbers, products in zip(spread, self._products, strict=True):
            for first in range(0, self.bases, few):
                out = products[first : first + few]
                signed = self._scratch[1, : out.numel()].view(out.shape)
                for row, signs in zip(signed, self._of_bases(own, first, first + few), strict=True):
                    torch.mul(numbers, signs, out=row)
                hadamard_transform(signed, self.factors, out, self._scratch)
        return self._products

    def combine(self, step: int, indices: Tensor, coefficients: Tensor) -> Tensor:
        if self.graphs is None:
            return self._combined(indices, coefficients, *self._signs(step))[0]
        name = "atoms", self.size, self.length
        return self.graphs.run(name, self._combined, indices, coefficients, *self._signs(step))[0]

    def _combined(self, indices: Tensor, coefficients: Tensor, shared: Tensor, own: Tensor) -> tuple[Tensor]:
        few = indices.shape[1] < self.bases * sum(map(len, self.factors))
        sums = (self._few_rows if few and self.device.type == "cpu" else self._rows)(indices, coefficients, own)
        return (_unit_deviation(self._transform(_interleave(sums, self.block, -1)) * shared),)

    def _rows(self, indices: Tensor, coefficients: Tensor, own: Tensor) -> Tensor:
        """Sums of the bases' signed Hadamard rows, ``(b, n)``, by transforms: their cost depends on n alone."""
        values = torch.zeros(len(indices), self.bases * self.length, device=self.device)
        values.scatter_add_(1, indices, coefficients)
        signs = torch.stack(self._of_bases(own))
        return (self._transform(values.view(-1, self.bases, self.length)) * signs).sum(dim=1)

    def _few_rows(self, indices: Tensor, coefficients: Tensor, own: Tensor) -> Tensor:
        """The same sums, to the bit, on a CPU, where the bases give few rows each: a row is an outer product of two."""
        left_rows, right_rows = self.left.numpy(), self.right.numpy()
        starts = self.length * np.arange(self.bases + 1)
        sums = torch.zeros(len(indices), self.length)
        product = torch.empty(self.length // len(right_rows), len(right_rows))
        for total, chosen, weights in zip(sums, indices.numpy(), coefficients.numpy(), strict=True):
            order = chosen.argsort(kind="stable")
            rising = chosen[order]
            block, row = np.divmod(rising % self.length, self.block)
            left = left_rows[row // len(right_rows)]
            left *= weights[order, None]
            if self.block < self.length:
                placed = np.zeros((len(rising), self.length // self.block, len(left_rows)), dtype=np.float32)
                placed[np.arange(len(rising)), block] = left
                left = placed.reshape(len(rising), -1)
            columns = torch.from_numpy(left.T)
            right = torch.from_numpy(right_rows[row % len(right_rows)])
            for shift, (first, stop) in zip(
                self.shifts, itertools.pairwise(rising.searchsorted(starts).tolist()), strict=True
            ):
                if first < stop:
                    torch.mm(columns[:, first:stop], right[first:stop], out=product)
                    total.addcmul_(product.view(-1), own[shift : shift + self.length])
        return sums


class GaussianCodebook(Codebook):
    """Independent standard normal atoms, a K x n matrix made anew each step, a slab at a time.

    The published codecs' codebook in kind (not in its numbers). Normal numbers go through ``log`` and ``cos``,
    so devices agree only to rounding.
    """

    SLAB = 1 << 24
    #: Numbers that are drawn in the time that a denoiser's call takes for a pixel.
    DRAWN_PER_PIXEL = 32

    @staticmethod
    def work(size: int, length: int, atoms: int) -> int:
        rows = _slab_rows(length)
        return min(atoms, -(-size // rows)) * min(rows, size) * length // GaussianCodebook.DRAWN_PER_PIXEL

    def _slabs(self, of: Iterable[int] | None = None) -> list[tuple[int, int]]:
        """First atom and end of every slab, or of those with these numbers."""
        rows = _slab_rows(self.length)
        numbers = range(-(-self.size // rows)) if of is None else of
        return [(number * rows, min((number + 1) * rows, self.size)) for number in numbers]

    def _atoms(self, step: int, start: int, stop: int) -> Tensor:
        generator = np.random.Generator(np.random.Philox(key=[self.seed, step], counter=[0, 0, 0, start]))
        atoms = generator.standard_normal((stop - start, self.length), dtype=np.float32)
        return torch.from_numpy(atoms).to(self.device)

    def inner_products(self, step: int, residuals: Tensor) -> Tensor:
        slabs = [residuals @ self._atoms(step, *slab).T for slab in self._slabs()]
        return torch.cat(slabs, dim=1)

    def combine(self, step: int, indices: Tensor, coefficients: Tensor) -> Tensor:
        sums = torch.zeros(len(indices), self.length, device=self.device)
        slabs = np.unique(indices.cpu().numpy() // _slab_rows(self.length))
        for start, stop in self._slabs(slabs.tolist()):
            here = (indices >= start) & (indices < stop)
            weights = torch.zeros(len(indices), stop - start, device=self.device)
            weights.scatter_add_(1, (indices - start).clamp(0, stop - start - 1), coefficients * here)
            sums += weights @ self._atoms(step, start, stop)
        return _unit_deviation(sums)


def _slab_rows(length: int) -> int:
    """Atoms of ``length`` numbers that a slab of the Gaussian codebook has."""
    return max(1, GaussianCodebook.SLAB // length)


CODEBOOKS: dict[str, type[Codebook]] = {"structured": StructuredCodebook, "gaussian": GaussianCodebook}


#: The eight signs that a byte's bits stand for, highest first: +1 for 0, -1 for 1.
_SIGNS_OF_BYTE = 1 - 2 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32)


@lru_cache(maxsize=1)
def _kept(seed: int, length: int, bases: int, device: torch.device) -> dict[int, list[Signs]]:
    """By group of steps, the signs that structured codebooks have drawn, from the last one on that had others."""
    return {}


def hadamard_factors(block: int, device: torch.device) -> list[Tensor]:
    """What :func:`hadamard_transform` wants for runs of ``block`` numbers, a power of two."""
    # A GPU would rather multiply more than start one more operation.
    largest = 32 if device.type == "cpu" else 256
    return [_hadamard(factor).to(device) for factor in _balanced_factors(block, largest)]


def hadamard_transform(
    values: Tensor, factors: list[Tensor], out: Tensor | None = None, scratch: Tensor | None = None
) -> Tensor:
    """Hadamard transform, unnormalised, of each run of numbers in the last dimension as long as ``factors`` say.

    Args:
        values: of any shape.
        factors: from :func:`hadamard_factors`.
        out: where to, of as many numbers, contiguous.
        scratch: two rows of at least as many numbers, of which ``values`` may lie in the second.
    """
    sizes = [factor.shape[0] for factor in factors]
    blocks, before, after = values, values.numel() // math.prod(sizes), math.prod(sizes)
    # Along one axis of a block after the other.
    for turn, (factor, size) in enumerate(zip(factors[:-1], sizes[:-1], strict=True)):
        after //= size
        shape = (before, size, after)
        target = None if scratch is None else scratch[turn % 2, : values.numel()].view(shape)
        blocks = torch.bmm(factor.expand(before, size, size), blocks.reshape(shape), out=target)
        before *= size
    rows = (before, sizes[-1])
    last = torch.mm(blocks.reshape(rows), factors[-1], out=None if out is None else out.view(rows))
    return last.view(values.shape)


@lru_cache
def _hadamard(order: int) -> Tensor:
    """Sylvester's Hadamard matrix, entries +1 and -1."""
    index = np.arange(order)
    parity = np.bitwise_count(index[:, None] & index[None, :]) & 1
    return torch.from_numpy((1.0 - 2.0 * parity).astype(np.float32))


def _balanced_factors(block: int, largest: int) -> list[int]:
    """Split a power of two into nearly equal powers of two of at most ``largest``."""
    exponent = block.bit_length() - 1
    parts = max(1, -(-exponent // (largest.bit_length() - 1)))
    return [1 << (exponent // parts + (part >= parts - exponent % parts)) for part in range(parts)]
