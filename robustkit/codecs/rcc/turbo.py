"""Turbo-DDCM and Robust Turbo-DDCM: each diffusion step's noise is a sum of M signed atoms, chosen all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from robustkit.codec import EncodeError, Image
from robustkit.codecs.rcc.base import CommonSettings, records_settings
from robustkit.codecs.rcc.codebook import CODEBOOKS, Codebook
from robustkit.codecs.rcc.container import Header, Parameters
from robustkit.codecs.rcc.payload import Payload
from robustkit.codecs.rcc.priority import PriorityCodec
from robustkit.codecs.rcc.protocol import BitProtocol, IndependentIndices, Integers, JointRank, SectionIndices
from robustkit.codecs.rcc.schedule import noise_levels, reverse_step
from robustkit.priors.base import NoiseLevel
from robustkit.profile import Profile, Promise

PROTOCOLS: tuple[type[BitProtocol], ...] = (JointRank, IndependentIndices, SectionIndices)
CODEBOOK_NAMES = tuple(CODEBOOKS)


@dataclass(frozen=True)
class TurboParameters(Parameters):
    """Attributes:
    steps, closing, atoms: T, N and M.
    protected: share of the coded steps, from the first, under forward error correction, in 1/100.
    codebook: number of the codebook's kind.
    size_log2: log2 of K.
    """

    steps: int = 2
    closing: int = 0
    protected: int = 0
    atoms: int = 1
    codebook: int = 0
    size_log2: int = 1

    fields = (("steps", 8), ("closing", 8), ("protected", 8), ("atoms", 16), ("codebook", 3), ("size_log2", 5))


TurboHeader = Header[TurboParameters]
#: Indices and signs of the steps that arrived, int64 ``(steps, M)`` each.
Atoms = tuple[Integers, Integers]


class TurboDDCM(PriorityCodec[TurboParameters, Atoms]):
    """Turbo-DDCM (Vaisman et al., arXiv 2511.06424): the M atoms of a step are written as one joint rank.

    Args:
        T: noise levels, one call of the denoiser each.
        M: atoms a step; by default what the rate allows.
        K: atoms that an index can name, a power of two; 2**18, and 2**14 in each section.
        N: closing steps without bits.
        codebook: ``"structured"`` or ``"gaussian"``.
        selection: which atoms a step may choose: the M with the ``"largest"`` inner products of a codebook of K, as
            published, or (robust-turbo-ddcm alone, and its default) the best one of each of M ``"sections"`` of K.
        protect: share of the coded steps, from the first, under Reed-Solomon coding, in steps of 1/100: all later
            steps inherit their damage. 0 is as published, and turbo-ddcm's default; robust-turbo-ddcm has 0.4.
        common: what every RCC codec takes (:class:`robustkit.codecs.rcc.base.RCCCodec`).

    Raises:
        ValueError: a setting is out of range; the message names it.
        PriorError: the prior can't be loaded.
    """

    name = "turbo-ddcm"
    methods: ClassVar[Mapping[int, type[TurboParameters]]] = {0: TurboParameters}
    #: By selection, the default first.
    protocols: ClassVar[Mapping[str, type[BitProtocol]]] = {"largest": JointRank}
    usual_size: ClassVar[int] = 1 << 18
    usual_protection: ClassVar[float] = 0.0
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.4,
        quality=28.75,
        refused=0.11,
        # Refusals are ranks beyond the last: one in sixty at 1e-3, none seen in 120 trials of the two others.
        promises=(
            Promise("bsc(ber=0.0001)", mean_drop=5.45, p5_drop=27.0, corrupted=0.1),
            Promise("bsc(ber=0.001)", mean_drop=14.5, p5_drop=24.5, corrupted=0.295),
            Promise("burst(length=32)", mean_drop=3.55, p5_drop=20.0, corrupted=0.1),
        ),
    )

    @records_settings
    def __init__(
        self,
        *,
        T: int = 28,
        M: int | None = None,
        K: int | None = None,
        N: int = 0,
        codebook: str = "structured",
        selection: str | None = None,
        protect: float | None = None,
        **common: Unpack[CommonSettings],
    ) -> None:
        if not 2 <= T <= 255:
            raise ValueError(f"T = {T}: give 2 to 255 noise levels")
        if not 0 <= N <= T - 2:
            raise ValueError(f"N = {N} closing steps of T = {T}: give 0 to {T - 2}")
        selection = next(iter(self.protocols)) if selection is None else selection
        if selection not in self.protocols:
            raise ValueError(f"selection {selection!r} of {self.name}: give {' or '.join(self.protocols)}")
        if K is None:
            K = self.usual_size if selection == next(iter(self.protocols)) else TurboDDCM.usual_size
        if K < 2 or K & (K - 1) or K > 1 << 24:
            raise ValueError(f"K = {K}: give a power of two from 2 to 2**24")
        for rate in ("bpp", "psnr"):
            if M is not None and common.get(rate) is not None:
                raise ValueError(f"M = {M} and {rate} = {common.get(rate)}: give one, the other follows")
        most = self.protocols[selection].most_atoms(K)
        if M is not None and not 1 <= M <= most:
            raise ValueError(f"M = {M}: give 1 to {most} atoms a step")
        protect = self.usual_protection if protect is None else protect
        if not 0 <= protect <= 1:
            raise ValueError(f"protect = {protect}: give a share of the steps, 0 to 1")
        if codebook not in CODEBOOKS:
            raise ValueError(f"codebook {codebook!r}: give {' or '.join(CODEBOOKS)}")
        super().__init__(**common)
        self.atoms = M
        self.protocol = PROTOCOLS.index(self.protocols[selection])
        self.settings = TurboParameters(
            steps=T,
            closing=N,
            protected=round(protect * 100),
            codebook=CODEBOOK_NAMES.index(codebook),
            size_log2=K.bit_length() - 1,
        )

    # -- bitstreams ---------------------------------------------------------------------------------------

    def _settle(self, header: TurboHeader, budget: int) -> TurboHeader:
        method = replace(self.settings, atoms=self.atoms or 1)
        header = replace(header, protocol=self.protocol, method=method)
        if self.atoms is None:
            # Where even one atom a step is too much, the last steps go without.
            while len(_payload(header)) > budget and method.closing < method.steps - 2:
                method = replace(method, closing=method.closing + 1)
                header = replace(header, method=method)
            header = _with_atoms(header, _most_atoms(header, budget))
        if problem := _check_codebook(header):
            raise EncodeError(problem)
        return replace(header, payload=len(_payload(header)))

    def _problem(self, header: TurboHeader) -> str | None:
        method = header.method
        if (
            not 0 <= method.closing <= method.steps - 2
            or not 1 <= method.size_log2 <= 24
            or not 1 <= method.atoms <= PROTOCOLS[header.protocol].most_atoms(1 << method.size_log2)
            or method.codebook >= len(CODEBOOKS)
            or method.protected > 100
            or header.payload != len(_payload(header))
        ):
            return "the header's settings contradict each other"
        return _check_codebook(header)

    def _fields(self, header: TurboHeader, payload: bytes) -> list[tuple[str, int]]:
        return _payload(header).fields()

    # -- coding -------------------------------------------------------------------------------------------

    def _write(self, header: TurboHeader, clean: Tensor, weights: Tensor | None = None) -> bytes:
        protocol, codebook, levels = self._parts(header, clean[0].numel())
        state = self._first_noise(header)
        written = []
        for step in range(_payload(header).steps):
            estimate = self.prior.predict_clean(state, levels[step])
            residual = clean - estimate if weights is None else weights * (clean - estimate)
            indices, signs = protocol.choose(codebook.inner_products(step, residual.flatten(1)))
            written.append(protocol.write(indices[0].cpu().numpy(), signs[0].cpu().numpy().astype(np.int64)))
            noise = codebook.combine(step, indices, signs).view_as(state)
            state = reverse_step(state, estimate, levels[step], levels[step + 1], noise)
        return _payload(header).pack(np.stack(written))

    def _read(self, header: TurboHeader, payload: bytes) -> Atoms:
        return _payload(header).read(payload)

    def _reconstruct(self, header: TurboHeader, payloads: list[Atoms]) -> list[Image]:
        device, count = self.prior.device, header.method.atoms
        _, codebook, levels = self._parts(header, int(np.prod(self._latent_shape(header))))

        def noise(step: int, words: Integers) -> Tensor:
            indices, signs = (torch.from_numpy(part).to(device) for part in np.split(words, [count], axis=1))
            return codebook.combine(step, indices, signs.to(torch.float32))

        words = [np.concatenate(atoms, axis=1) for atoms in payloads]
        return self._images_of_words(header, levels, words, noise)

    def _parts(self, header: TurboHeader, elements: int) -> tuple[BitProtocol, Codebook, list[NoiseLevel]]:
        protocol, method = _protocol(header), header.method
        kind = CODEBOOKS[CODEBOOK_NAMES[method.codebook]]
        levels = noise_levels(
            self.prior,
            steps=method.steps,
            closing=method.closing,
            correlation=protocol.correlation(elements),
            efficiency=header.efficiency / 100,
        )
        return protocol, kind(protocol.atoms, elements, header.seed, self.prior.device), levels

    def describe(self) -> Mapping[str, str]:
        method, facts = self.settings, dict(super().describe())
        facts["settings"] = (
            f"T={method.steps} N={method.closing} K={1 << method.size_log2} "
            f"protocol={PROTOCOLS[self.protocol].__name__} protect={method.protected / 100} "
            f"codebook={CODEBOOK_NAMES[method.codebook]} "
            + (facts["settings"] if self.atoms is None else f"M={self.atoms} {facts['settings'].partition(' ')[2]}")
        )
        return facts


class RobustTurboDDCM(TurboDDCM):
    """Robust Turbo-DDCM (arXiv 2604.05743): Turbo-DDCM with each atom's index written on its own.

    As published with ``selection="largest", protect=0``. The defaults go further: see :class:`SectionIndices`, and
    :mod:`robustkit.codecs.rcc.protection`.
    """

    name = "robust-turbo-ddcm"
    methods: ClassVar[Mapping[int, type[TurboParameters]]] = {2: TurboParameters, 1: TurboParameters}
    protocols: ClassVar[Mapping[str, type[BitProtocol]]] = {"sections": SectionIndices, "largest": IndependentIndices}
    usual_size: ClassVar[int] = 1 << 14
    usual_protection: ClassVar[float] = 0.4
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.4,
        quality=28.55,
        promises=(
            Promise("bsc(ber=0.001)", mean_drop=0.2, p5_drop=0.42),
            Promise("bsc(ber=0.01)", mean_drop=1.6, p5_drop=3.15),
            Promise("burst(length=32)", mean_drop=0.115, p5_drop=0.73),
            Promise("header-bsc(ber=0.01)", mean_drop=0.05, p5_drop=0.05),
        ),
    )


def _protocol(header: TurboHeader) -> BitProtocol:
    return PROTOCOLS[header.protocol](1 << header.method.size_log2, header.method.atoms)


def _payload(header: TurboHeader) -> Payload:
    steps = header.method.steps - 1 - header.method.closing
    return Payload(_protocol(header), steps=steps, protected=steps * header.method.protected // 100)


def _with_atoms(header: TurboHeader, atoms: int) -> TurboHeader:
    return replace(header, method=replace(header.method, atoms=atoms))


def _most_atoms(header: TurboHeader, budget: int) -> int:
    """The largest M whose payload takes at most ``budget`` bytes; at least 1."""
    most = PROTOCOLS[header.protocol].most_atoms(1 << header.method.size_log2)
    # Ranks get shorter again beyond K/2, an atom takes a bit a step at least, and C(K, M) with a large M is slow.
    steps = header.method.steps - 1 - header.method.closing
    low, high = 1, max(1, min(most // 2, 8 * budget // steps))
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(_payload(_with_atoms(header, middle))) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _check_codebook(header: TurboHeader) -> str | None:
    """Why a step's codebook is too large to be made for an image of this size, or ``None``."""
    atoms, most = _protocol(header).atoms, max(1 << 24, 32 * header.height * header.width)
    if atoms <= most:
        return None
    size = 1 << header.method.size_log2
    return (
        f"M = {header.method.atoms} sections of K = {size} atoms are more than {most} for this size: "
        "give a smaller K or M"
    )
