"""DDCM: each diffusion step's noise is one atom, or a few that matching pursuit finds one after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

import numpy as np
from torch import Tensor

from robustkit.codec import Image
from robustkit.codecs.rcc.base import CommonSettings, Words, check_one_rate
from robustkit.codecs.rcc.codebook import CODEBOOKS, Codebook
from robustkit.codecs.rcc.container import Header, Parameters
from robustkit.codecs.rcc.presets import takes_preset
from robustkit.codecs.rcc.priority import PriorityCodec
from robustkit.codecs.rcc.protocol import Integers
from robustkit.codecs.rcc.pursuit import Pursuit
from robustkit.codecs.rcc.reference import PublishedDDCM
from robustkit.codecs.rcc.schedule import SCHEDULES, check_schedule, reverse_step
from robustkit.priors.base import NoiseLevel
from robustkit.profile import Profile, Promise

CODEBOOK_NAMES = tuple(CODEBOOKS)
#: log2 of the K that the rate may choose.
USUAL_SIZE, LARGEST_SIZE = 20, 24
#: The largest M and N that a header can say.
MOST_ATOMS, MOST_CLOSING = 2047, 4095


@dataclass(frozen=True)
class DDCMParameters(Parameters):
    """Attributes:
    steps, closing, atoms, coefficient_bits: T, N, M and C.
    codebook: number of the codebook's kind.
    size_log2: log2 of K.
    """

    steps: int = 2
    closing: int = 0
    atoms: int = 1
    coefficient_bits: int = 0
    codebook: int = 0
    size_log2: int = 1

    fields = (
        ("steps", 16),
        ("closing", 12),
        ("atoms", 11),
        ("coefficient_bits", 3),
        ("codebook", 1),
        ("size_log2", 5),
    )


DDCMHeader = Header[DDCMParameters]


class DDCM(PriorityCodec[DDCMParameters, Integers]):
    """DDCM (Ohayon et al., arXiv 2502.01189): many steps, each one atom or the few of a matching pursuit.

    Unlike its paper's, by default it has a small prior, a structured codebook of 2**20 atoms, equal weights instead of
    coefficients, 60 noise levels by information instead of 1000, and a protected header.

    As published with ``T=1000, K=2**13, M=2, C=3`` in all but the coefficients' grid (:class:`Pursuit`). Coefficients
    cost more than they bring at every M and K tried, so by default there are none.

    Args:
        T: noise levels, one call of the denoiser each, up to 65535.
        M: atoms a step. By default the rate decides: the least M that spends it, and of the T steps as many as it
            then pays for. 1 is DDCM without matching pursuit.
        K: atoms of a step's codebook, a power of two; 2**20, or more where even the largest M leaves rate over.
        C: bits of each coefficient in matching pursuit, 0 (equal weights, the default) to 7.
        N: closing steps without bits.
        codebook: ``"structured"``, ``"gaussian"``, or ``"reference"``: bit for bit the published streams, with a Stable
            Diffusion prior, ``container="raw"`` and M; K is then 2**13 and C 3 by default, and seed, N, schedule and
            efficiency have no part (:mod:`robustkit.codecs.rcc.reference`).
        common: what every RCC codec takes (:class:`robustkit.codecs.rcc.base.RCCCodec`).

    Raises:
        ValueError: a setting is out of range; the message names it.
        PriorError: the prior can't be loaded.
    """

    name = "ddcm"
    methods: ClassVar[Mapping[int, type[DDCMParameters]]] = {3: DDCMParameters}
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.4,
        quality=29.0,
        expected_refused=0.0,
        promises=(
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=0.6,
                p5_drop=3.0,
                expected_mean_drop=0.188,
                expected_p5_drop=0.742,
                expected_corrupted=0.0,
            ),
            Promise(
                "bsc(ber=0.001)",
                mean_drop=3.05,
                p5_drop=8.45,
                expected_mean_drop=2.05,
                expected_p5_drop=4.88,
                expected_corrupted=0.0,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=0.75,
                p5_drop=6.35,
                expected_mean_drop=0.194,
                expected_p5_drop=0.749,
                expected_corrupted=0.0,
            ),
        ),
    )

    @takes_preset
    def __init__(
        self,
        *,
        T: int = 60,
        M: int | None = None,
        K: int | None = None,
        C: int | None = None,
        N: int = 0,
        codebook: str = "structured",
        **common: Unpack[CommonSettings],
    ) -> None:
        if not 2 <= T <= 65535:
            raise ValueError(f"T = {T}: give 2 to 65535 noise levels")
        if not 0 <= N <= min(T - 2, MOST_CLOSING):
            raise ValueError(f"N = {N} closing steps of T = {T}: give 0 to {min(T - 2, MOST_CLOSING)}")
        if K is not None and (K < 2 or K & (K - 1) or K > 1 << LARGEST_SIZE):
            raise ValueError(f"K = {K}: give a power of two from 2 to 2**{LARGEST_SIZE}")
        check_one_rate("M", M, common)
        most = _most_atoms(USUAL_SIZE if K is None else K.bit_length() - 1)
        if M is not None and not 1 <= M <= most:
            raise ValueError(f"M = {M}: give 1 to {most} atoms a step")
        published = codebook == "reference"
        if C is None:
            C = 3 if published else 0
        if not 0 <= C <= 7:
            raise ValueError(f"C = {C}: give 0 to 7 bits a coefficient")
        if codebook not in CODEBOOKS and not published:
            raise ValueError(f"codebook {codebook!r}: give {', '.join(CODEBOOKS)} or reference")
        if published and (common.get("container") != "raw" or M is None or N):
            raise ValueError(
                f"codebook 'reference' with container={common.get('container', 'framed')!r}, M={M}, N={N}: "
                "give container='raw', the atoms M, and no N"
            )
        super().__init__(**common)
        if problem := check_schedule(self.prior, self.schedule, T):
            raise ValueError(problem)
        if published:
            self.published = PublishedDDCM(self.prior, T=T, K=K or 1 << 13, M=M or 1, C=C)
        self.atoms, self.sizes = M, range(USUAL_SIZE, LARGEST_SIZE + 1)
        if K is not None:
            self.sizes = range(K.bit_length() - 1, K.bit_length())
        self.settings = DDCMParameters(
            steps=T,
            closing=N,
            coefficient_bits=C,
            codebook=0 if published else CODEBOOK_NAMES.index(codebook),
            size_log2=self.sizes[0],
        )

    # -- bitstreams ---------------------------------------------------------------------------------------

    def _settle(self, header: DDCMHeader, budget: int) -> DDCMHeader:
        method = self.settings if self.atoms is None else replace(self.settings, atoms=self.atoms)
        if self.atoms is None:
            method = self._at_rate(8 * max(budget, 0))
        header = replace(header, method=method)
        return replace(header, protocol=3, payload=_pursuit(header).payload_bytes(_coded(header)))

    def _at_rate(self, bits: int) -> DDCMParameters:
        """The settings that spend ``bits`` bits: the least K that can, the least M, and the steps that they pay for."""
        method, steps = self.settings, self.settings.steps - 1 - self.settings.closing
        for size in self.sizes:
            # An atom takes its index and, but for the first, its coefficient.
            atoms = (bits // steps + method.coefficient_bits) // (size + method.coefficient_bits) + 1
            method = replace(method, size_log2=size, atoms=min(atoms, _most_atoms(size)))
            if atoms == method.atoms:
                break
        pursuit = Pursuit(1 << method.size_log2, method.atoms, method.coefficient_bits)
        coded = min(steps, max(1, bits // pursuit.bits))
        return replace(method, steps=coded + 1 + method.closing)

    def _problem(self, header: DDCMHeader) -> str | None:
        method = header.method
        if (
            not 0 <= method.closing <= method.steps - 2
            or not 1 <= method.size_log2 <= LARGEST_SIZE
            or not 1 <= method.atoms <= _most_atoms(method.size_log2)
            or method.codebook >= len(CODEBOOKS)
            or header.payload != _pursuit(header).payload_bytes(_coded(header))
        ):
            return "the header's settings contradict each other"
        return check_schedule(self.prior, SCHEDULES[header.schedule], method.steps)

    def _work(self, header: DDCMHeader, payload: int) -> int:
        method, coded = header.method, _coded(header)
        pursuit = _pursuit(header)
        arrived = pursuit.arrived(payload, coded)
        atoms = CODEBOOKS[CODEBOOK_NAMES[method.codebook]].work(
            pursuit.size, math.prod(self._latent_shape(header)), method.atoms
        )
        return arrived * (self._call(header) + atoms) + (arrived == coded) * method.closing * self._call(header)

    def _fields(self, header: DDCMHeader, payload: bytes) -> Iterator[tuple[str, int]]:
        pursuit, steps = _pursuit(header), _coded(header)
        yield from ((f"step {step} {name}", bits) for step in range(steps) for name, bits in pursuit.fields())
        yield "padding", 8 * header.payload - steps * pursuit.bits

    # -- coding -------------------------------------------------------------------------------------------

    def _write(self, header: DDCMHeader, clean: Tensor, weights: Tensor | None = None) -> bytes:
        pursuit, codebook, levels = self._parts(header)
        state, words = self._first_noise(header), []
        for step, (now, following) in enumerate(itertools.pairwise(levels[: _coded(header) + 1])):
            estimate = self.prior.predict_clean(state, now)
            residual = clean - estimate if weights is None else weights * (clean - estimate)
            words.append(pursuit.choose(codebook.inner_products(step, residual.flatten(1))))
            noise = pursuit.noise(codebook, step, words[-1]).view_as(state)
            state = reverse_step(state, estimate, now, following, noise)
        return pursuit.write(np.concatenate(words))

    def _read(self, header: DDCMHeader, payload: bytes) -> Integers:
        return _pursuit(header).read(payload, _coded(header))

    def _reconstruct(self, header: DDCMHeader, payloads: list[Integers]) -> list[Image]:
        coded, arrived = _coded(header), max(map(len, payloads))
        pursuit, codebook, levels = self._parts(header, None if arrived == coded else arrived)

        def noise(step: int, words: Words) -> Tensor:
            return pursuit.noise(codebook, step, words)

        return self._images_of_words(header, levels, payloads, noise, coded=coded)

    def _parts(self, header: DDCMHeader, arrived: int | None = None) -> tuple[Pursuit, Codebook, list[NoiseLevel]]:
        pursuit, method = _pursuit(header), header.method
        elements = int(np.prod(self._latent_shape(header)))
        levels = self._levels(
            header,
            steps=method.steps,
            closing=method.closing,
            correlation=pursuit.correlation(elements),
            arrived=arrived,
        )
        kind = CODEBOOKS[CODEBOOK_NAMES[method.codebook]]
        return pursuit, kind(pursuit.size, elements, header.seed, self.prior.device), levels

    def describe(self) -> Mapping[str, str]:
        method, facts = self.settings, dict(super().describe())
        facts["settings"] = (
            f"T={method.steps} N={method.closing} K={1 << method.size_log2} C={method.coefficient_bits} "
            f"codebook={'reference' if self.published else CODEBOOK_NAMES[method.codebook]} "
            + (facts["settings"] if self.atoms is None else f"M={self.atoms} {facts['settings'].partition(' ')[2]}")
        )
        return facts


def _most_atoms(size_log2: int) -> int:
    return min(MOST_ATOMS, Pursuit.most_atoms(1 << size_log2))


def _coded(header: DDCMHeader) -> int:
    """Steps that carry bits."""
    return header.method.steps - 1 - header.method.closing


def _pursuit(header: DDCMHeader) -> Pursuit:
    return Pursuit(1 << header.method.size_log2, header.method.atoms, header.method.coefficient_bits)
