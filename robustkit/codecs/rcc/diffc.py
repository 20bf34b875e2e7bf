"""DiffC: each diffusion step's noise is a sample of the true posterior, by the Poisson functional representation."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from robustkit.codec import Image
from robustkit.codecs.rcc import protection
from robustkit.codecs.rcc.base import USUAL_BPP, CommonSettings, RCCCodec, Write, by_arrival, part
from robustkit.codecs.rcc.container import HEADER_BYTES, Header, Parameters
from robustkit.codecs.rcc.poisson import LEAST_COORDINATES, PoissonChannel, padded_length
from robustkit.codecs.rcc.schedule import CLOSING_LOG_SNR, START_LOG_SNR, expected_error, reverse_step
from robustkit.codecs.rcc.zipf import (
    LARGEST_CORRECTION,
    Step,
    octaves_of,
    read_octaves,
    read_places,
    write_octaves,
    write_places,
)
from robustkit.priors.base import NoiseLevel, Prior
from robustkit.profile import Profile, Promise

PROTOCOL = 4
#: Corrections that double an image's error relative to the prior's.
PER_OCTAVE = 8
#: Largest magnitude of all corrections together, which undamaged streams never come near.
MOST_CORRECTION = 96
#: No step leads beyond this log-SNR: float32 latents have no finer noise.
END_LOG_SNR = 14.0
#: Signs of candidates that are drawn in the time that a denoiser's call takes for a pixel.
SIGNS_OF_A_PIXEL = 64
#: Bits that an index takes, as a share of log2 K, by efficiency: where to start looking for the number of chunks.
INDEX_SHARE = (
    (0.0, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.6, 2.55),
    (0.2, 0.67, 0.74, 0.78, 0.83, 0.865, 0.905, 0.935, 1.0),
)
#: What parity lengthens the payload by: it is an eighth of the octaves, which are three tenths.
PARITY_SHARE = 1.04
#: Share of the rate that the number of chunks aims at, what is enough, and how many numbers are tried: what indices
#: take is known only once they are written, to about 0.7% on photographs of 256x256.
AIM, ENOUGH, TRIES = 0.992, 0.97, 4


@dataclass(frozen=True)
class DiffCParameters(Parameters):
    """Attributes:
    steps, closing: steps that carry bits, and N, those at the end that do not.
    chunks: of all steps together.
    size_log2: log2 of K.
    coded: units of bytes that the range coder wrote (:meth:`coded_bytes`).
    protected: 1 where those are under forward error correction.
    """

    steps: int = 1
    closing: int = 0
    chunks: int = 1
    size_log2: int = 2
    coded: int = 0
    protected: int = 0

    fields = (("steps", 7), ("closing", 4), ("chunks", 19), ("size_log2", 5), ("coded", 12), ("protected", 1))

    @property
    def unit(self) -> int:
        """Bytes that ``coded`` counts in: one, and with many chunks a two-thousandth of what they take at most."""
        return 1 + self.chunks // 2000

    @property
    def counts(self) -> list[int]:
        """Chunks of each step, as even as can be."""
        ends = [step * self.chunks // self.steps for step in range(self.steps + 1)]
        return [after - before for before, after in itertools.pairwise(ends)]


DiffCHeader = Header[DiffCParameters]


class DiffC(RCCCodec[DiffCParameters, list[Step]]):
    """DiffC (Theis et al., arXiv 2206.08889; Vonderfecht and Liu, ICLR 2025): reverse channel coding of DDPM steps.

    Unlike its paper's, by default it has a small prior, and always it fits the noise levels to each image so that all
    chunks carry alike, writes the low bits of an index plain, and has a protected header.

    Both sides know the law p of a step's result given the state; the encoder, who knows the image, also has its true
    posterior q, of the same variance. It sends a sample of q by the Poisson functional representation
    (:class:`robustkit.codecs.rcc.poisson.PoissonChannel`), in chunks of ``efficiency * log2 K`` bits of KL divergence.
    The indices are entropy-coded under a Zipf law (:mod:`robustkit.codecs.rcc.zipf`). After the last step comes the
    prior's final estimate, or ``N`` DDIM steps before it.

    Where the published codec fixes its noise levels and sends each step's KL divergence, this one sends all steps alike
    in chunks and chooses the levels: a step rises in SNR as far as its chunks carry it for this very image, and a few
    bits a step say how far (:class:`Climb`). The exponent of the Zipf law is the best for the stream's own indices.
    Each index's octave is range-coded, first of all in the payload, and its place in the octave follows in plain bits,
    so that a bit that flips there harms one chunk alone.

    Args:
        T: noise levels, one call of the denoiser each.
        K: a power of two; a chunk has K - 1 candidates.
        N: closing steps without bits.
        protect: put the range coder's bytes, without which nothing is read, under Reed-Solomon coding. Not as
            published.
        common: what every RCC codec takes (:class:`robustkit.codecs.rcc.base.RCCCodec`). ``bpp`` is kept to from below,
            by trying numbers of chunks, unless the header and one chunk take more already. ``efficiency`` is the KL
            divergence of a chunk over log2 K: from about 0.6 on, the best of the pool falls short of a sample of q.
            ``container`` is ``"framed"``.

    Raises:
        ValueError: a setting is out of range; the message names it.
        PriorError: the prior can't be loaded.
    """

    name = "diffc"
    methods: ClassVar[Mapping[int, type[DiffCParameters]]] = {PROTOCOL: DiffCParameters}
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.4,
        quality=29.55,
        expected_refused=0.0,
        promises=(
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=5.95,
                p5_drop=22.5,
                expected_mean_drop=2.66,
                expected_p5_drop=9.18,
                expected_corrupted=0.0,
            ),
            Promise(
                "bsc(ber=0.001)",
                mean_drop=13.5,
                p5_drop=25.5,
                expected_mean_drop=10.0,
                expected_p5_drop=18.2,
                expected_corrupted=0.0,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=2.75,
                p5_drop=12.0,
                expected_mean_drop=1.19,
                expected_p5_drop=6.62,
                expected_corrupted=0.0,
            ),
        ),
    )

    def __init__(
        self,
        *,
        T: int = 28,
        K: int = 1 << 16,
        N: int = 0,
        protect: bool = False,
        **common: Unpack[CommonSettings],
    ) -> None:
        if not 2 <= T <= 128:
            raise ValueError(f"T = {T}: give 2 to 128 noise levels")
        if not 0 <= N <= min(T - 2, 15):
            raise ValueError(f"N = {N} closing steps of T = {T}: give 0 to {min(T - 2, 15)}")
        if K < 4 or K & (K - 1) or K > 1 << 20:
            raise ValueError(f"K = {K}: give a power of two from 4 to 2**20")
        if common.get("container") == "raw":
            raise ValueError(f"container 'raw': give framed, {self.name} keeps the lengths of its parts in the header")
        if common.get("schedule") is not None:
            raise ValueError(
                f"schedule {common['schedule']!r}: {self.name} chooses its levels by the image; leave it out"
            )
        super().__init__(**common)
        self.settings = DiffCParameters(
            steps=T - 1 - N, closing=N, size_log2=K.bit_length() - 1, protected=int(protect)
        )

    # -- bitstreams ---------------------------------------------------------------------------------------

    def _settle(self, header: DiffCHeader, budget: int) -> DiffCHeader:
        share = float(np.interp(header.efficiency / 100, *INDEX_SHARE))
        if self.settings.protected:
            share *= PARITY_SHARE
        return self._with_chunks(header, round(8 * budget / (share * self.settings.size_log2)))

    def _with_chunks(self, header: DiffCHeader, chunks: int) -> DiffCHeader:
        """The header with the number of chunks nearest to ``chunks`` that this codec can do for such an image."""
        most = self.settings.steps * self._most_chunks(header)
        chunks = max(1, min(chunks, most, (1 << dict(DiffCParameters.fields)["chunks"]) - 1))
        method = replace(self.settings, chunks=chunks, steps=min(self.settings.steps, chunks))
        return replace(header, method=method)

    def _most_chunks(self, header: DiffCHeader) -> int:
        """Chunks that a step has at most."""
        return max(1, padded_length(math.prod(self._latent_shape(header))) // LEAST_COORDINATES)

    def _problem(self, header: DiffCHeader) -> str | None:
        method = header.method
        most = _coded_bytes(method) + _parity_bytes(method) + -(-method.chunks * (method.size_log2 - 1) // 8)
        if (
            not 1 <= method.steps <= method.chunks
            or not 2 <= method.size_log2 <= 20
            or max(method.counts) > self._most_chunks(header)
            or not _coded_bytes(method) + _parity_bytes(method) <= header.payload <= most
        ):
            return "the header's settings contradict each other"
        return None

    def _work(self, header: DiffCHeader, payload: int) -> int:
        method = header.method
        # Octaves that were never written read as zeros, so steps take no bytes behind the range coder's.
        arrived = method.steps if payload >= _coded_bytes(method) else 0
        return (arrived + method.closing) * self._call(header) + arrived * ((1 << method.size_log2) // SIGNS_OF_A_PIXEL)

    def _fields(self, header: DiffCHeader, payload: bytes) -> Iterator[tuple[str, int]]:
        coded, parity = 8 * _coded_bytes(header.method), 8 * _parity_bytes(header.method)
        yield "octaves", coded
        yield "parity", parity
        left = 8 * len(payload) - coded - parity
        for number, (_, octaves) in enumerate(self._octaves(header, payload)):
            for chunk in np.flatnonzero(octaves).tolist():
                bits = int(octaves[chunk])
                yield f"step {number} chunk {chunk}", bits
                left -= bits
        yield "padding", max(0, left)

    def _octaves(self, header: DiffCHeader, payload: bytes) -> list[Step]:
        """The corrections and octaves of ``payload``, repaired; none if it ends before they do."""
        method = header.method
        coded, parity = _coded_bytes(method), _parity_bytes(method)
        if len(payload) < coded:
            return []
        written = payload[:coded]
        if method.protected and len(payload) >= coded + parity:
            written = protection.repair(written, payload[coded : coded + parity])
        return list(read_octaves(written, method.counts, method.size_log2))

    # -- coding -------------------------------------------------------------------------------------------

    def _stream(self, image: Image, clean: Tensor, write: Write[DiffCParameters], bpp: float | None = None) -> bytes:
        # Not by write: only once a payload is there are its parts' lengths known, which the header says.
        header = self._header_for(image.shape[0], image.shape[1], bpp)
        stream = self._with_payload(header, clean)
        if self.psnr is not None:
            return stream
        rate = USUAL_BPP if self.bpp is None else self.bpp
        budget = int(rate * image.shape[0] * image.shape[1]) // 8
        best, tries = b"", 1
        while True:
            if len(stream) <= budget:
                best = max(best, stream, key=len)
            if best and (len(best) >= ENOUGH * budget or tries >= TRIES):
                return best
            room = max(0, budget - HEADER_BYTES) / max(1, len(stream) - HEADER_BYTES)
            following = self._with_chunks(header, int(AIM * room * header.method.chunks))
            if following == header:
                return best or stream
            header, tries = following, tries + 1
            stream = self._with_payload(header, clean)

    def _with_payload(self, header: DiffCHeader, clean: Tensor) -> bytes:
        steps, method = self._steps(header, clean), header.method
        octaves = write_octaves([(correction, octaves_of(indices)) for correction, indices in steps], method.size_log2)
        method = replace(method, coded=-(-len(octaves) // method.unit))
        octaves = octaves.ljust(_coded_bytes(method), b"\0")
        places = np.packbits(np.concatenate([write_places(indices) for _, indices in steps])).tobytes()
        payload = octaves + (protection.parity(octaves) if method.protected else b"") + places
        header = replace(header, method=method, payload=len(payload))
        self._check_encodable(header)
        return header.pack() + payload

    def _steps(self, header: DiffCHeader, clean: Tensor) -> list[Step]:
        channel, climb = self._channel(header, clean[0].numel()), self._start(header)
        state, steps = self._first_noise(header), []
        for step, chunks in enumerate(header.method.counts):
            now = climb.level
            estimate = self.prior.predict_clean(state, now)
            missing = (clean - estimate).flatten()
            correction = climb.correction(float(missing.square().sum(dtype=torch.float64)))
            climb = climb.after(correction, chunks)
            shift = missing * math.sqrt(max(0.0, _snr(climb.level) - _snr(now)))
            indices = channel.send(step, chunks, shift)
            noise = channel.sample(step, indices[None]).view_as(state)
            state = reverse_step(state, estimate, now, climb.level, noise)
            steps.append((correction, indices))
        return steps

    def _read(self, header: DiffCHeader, payload: bytes) -> list[Step]:
        method = header.method
        bits = np.unpackbits(np.frombuffer(payload, np.uint8)[_coded_bytes(method) + _parity_bytes(method) :])
        steps: list[Step] = []
        for correction, octaves in self._octaves(header, payload):
            own, bits = np.split(bits, [octaves.sum()])
            if len(own) < octaves.sum():
                break
            steps.append((correction, read_places(own, octaves)))
        return steps

    def _reconstruct(self, header: DiffCHeader, payloads: list[list[Step]]) -> list[Image]:
        return by_arrival(payloads, lambda places: self._run(header, [payloads[place] for place in places]))

    def _run(self, header: DiffCHeader, streams: list[list[Step]]) -> list[Image]:
        """Images of streams of which equally many steps arrived."""
        shared = np.zeros(len(streams), dtype=np.int64)  # the state of each stream
        states, climbs = self._first_noise(header), [self._start(header)]
        channel, counts = self._channel(header, states[0].numel()), header.method.counts
        for step in range(len(streams[0])):
            estimates = _by_level(self.prior.predict_loosely, states, climbs)
            words = np.stack([np.append(indices, correction) for correction, indices in (s[step] for s in streams)])
            first, before, shared = part(shared, words)
            noises = channel.sample(step, words[first, :-1]).view(-1, *states.shape[1:])
            parent = torch.from_numpy(before).to(states.device)
            climbs = [climbs[old] for old in before]
            corrections = words[first, -1].tolist()
            following = [climb.after(own, counts[step]) for climb, own in zip(climbs, corrections, strict=True)]
            states, climbs = _moved(states[parent], estimates[parent], climbs, following, noises), following
        for _ in range(header.method.closing):
            estimates = _by_level(self.prior.predict_loosely, states, climbs)
            following = [climb.closer(CLOSING_LOG_SNR / header.method.closing) for climb in climbs]
            states, climbs = _moved(states, estimates, climbs, following, None), following
        found = self._images(header, _by_level(self.prior.predict_final, states, climbs))
        # Copies, so that nobody who writes on one image changes its twin.
        return [found[number].copy() for number in shared]

    def _write(self, header: DiffCHeader, clean: Tensor) -> bytes:
        return self._with_payload(header, clean)[HEADER_BYTES:]

    def _channel(self, header: DiffCHeader, elements: int) -> PoissonChannel:
        return PoissonChannel((1 << header.method.size_log2) - 1, elements, header.seed, self.prior.device)

    def _start(self, header: DiffCHeader) -> Climb:
        level = self.prior.level_at_snr(START_LOG_SNR)
        nats = math.log(2) * header.method.size_log2 * header.efficiency / 100
        return Climb(self.prior, math.prod(self._latent_shape(header)), nats, math.log(_snr(level)))

    def describe(self) -> Mapping[str, str]:
        method, facts = self.settings, dict(super().describe())
        facts["constriction"] = importlib.metadata.version("constriction")
        facts["settings"] = (
            f"T={method.steps + 1 + method.closing} N={method.closing} K={1 << method.size_log2} "
            f"protect={bool(method.protected)} {facts['settings']}"
        )
        return facts


@dataclass(frozen=True)
class Climb:
    """How far the reverse process has come, in encoder and decoder alike.

    A step from one SNR to the next has the KL divergence of half the rise in SNR times the squared error of the
    estimate. Each rise is the one that gives each of a step's chunks ``nats`` of it, from the error that the prior
    makes on photographs, corrected for this image.

    Attributes:
        prior: says what error to expect.
        elements: n, numbers in the latents.
        nats: KL divergence of a chunk.
        log_snr: of the level that is aimed at; a prior that knows few levels has the nearest.
        correction_so_far: of the error, in ``PER_OCTAVE`` parts of a factor of two.
    """

    prior: Prior
    elements: int
    nats: float
    log_snr: float
    correction_so_far: int = 0

    @property
    def level(self) -> NoiseLevel:
        return self.prior.level_at_snr(self.log_snr)

    def correction(self, squared_error: float) -> int:
        """The correction for an estimate whose squared errors add up to ``squared_error``."""
        expected = self.elements * expected_error(self.prior, self.log_snr)
        wanted = round(PER_OCTAVE * math.log2(max(squared_error, 1e-9) / expected)) - self.correction_so_far
        return max(-LARGEST_CORRECTION, min(wanted, LARGEST_CORRECTION))

    def after(self, correction: int, chunks: int) -> Climb:
        """Where a step of ``chunks`` chunks leads."""
        total = max(-MOST_CORRECTION, min(self.correction_so_far + correction, MOST_CORRECTION))
        error = self.elements * expected_error(self.prior, self.log_snr) * 2 ** (total / PER_OCTAVE)
        log_snr = math.log(math.exp(self.log_snr) + 2 * self.nats * chunks / error)
        return replace(self, log_snr=min(log_snr, END_LOG_SNR), correction_so_far=total)

    def closer(self, rise: float) -> Climb:
        """Where a step without bits leads."""
        return replace(self, log_snr=self.log_snr + rise)


def _snr(level: NoiseLevel) -> float:
    return level.alpha_bar / (1 - level.alpha_bar)


def _by_level(predict: Callable[[Tensor, NoiseLevel], Tensor], states: Tensor, climbs: Sequence[Climb]) -> Tensor:
    """``predict`` on states of several levels, one call a level: damaged streams climb differently."""
    groups: dict[NoiseLevel, list[int]] = {}
    for place, climb in enumerate(climbs):
        groups.setdefault(climb.level, []).append(place)
    estimates = torch.empty_like(states)
    for level, places in groups.items():
        estimates[places] = predict(states[places], level)
    return estimates


def _moved(
    states: Tensor, estimates: Tensor, now: Sequence[Climb], following: Sequence[Climb], noises: Tensor | None
) -> Tensor:
    """One reverse step of each state, between levels of its own."""
    moved = [
        reverse_step(state, estimate, now[i].level, following[i].level, None if noises is None else noises[i])
        for i, (state, estimate) in enumerate(zip(states, estimates, strict=True))
    ]
    return torch.stack(moved)


def _coded_bytes(method: DiffCParameters) -> int:
    return method.coded * method.unit


def _parity_bytes(method: DiffCParameters) -> int:
    return protection.parity_bytes(_coded_bytes(method)) if method.protected else 0
