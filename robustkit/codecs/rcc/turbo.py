"""Turbo-DDCM and Robust Turbo-DDCM: each diffusion step's noise is a sum of M signed atoms, chosen all at once."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustkit.codec import Codec, DecodeError, EncodeError, Image, Layout, Region
from robustkit.codecs.rcc import ordered
from robustkit.codecs.rcc.codebook import CODEBOOKS, Codebook
from robustkit.codecs.rcc.container import (
    HEADER_BYTES,
    HEADER_FIELDS,
    PRIOR_BYTES,
    Header,
    check_size,
)
from robustkit.codecs.rcc.payload import Payload
from robustkit.codecs.rcc.protocol import (
    BitProtocol,
    Floats,
    HashOrderedIndices,
    IndependentIndices,
    Integers,
    JointRank,
    SectionIndices,
)
from robustkit.codecs.rcc.schedule import noise_levels, reverse_step
from robustkit.priors import load_prior
from robustkit.priors.base import NoiseLevel
from robustkit.profile import Profile, Promise

PROTOCOLS: tuple[type[BitProtocol], ...] = (JointRank, IndependentIndices, SectionIndices, HashOrderedIndices)
CODEBOOK_NAMES = tuple(CODEBOOKS)
DECODERS = ("ordered", "plain")


class TurboDDCM(Codec):
    """Turbo-DDCM (Vaisman et al., arXiv 2511.06424): the M atoms of a step are written as one joint rank.

    Args:
        T: noise levels, one call of the denoiser each.
        M: atoms a step; instead of ``bpp``.
        K: atoms that an index can name, a power of two; 2**18, and 2**14 in each section.
        N: closing steps without bits.
        bpp: rate in bits per pixel, header included; picks M for the image's size.
        seed: of the first noise and the codebook, below 2**32.
        prior: ``"embedded"``, a folder, or a hub name (:func:`robustkit.priors.load_prior`).
        codebook: ``"structured"`` or ``"gaussian"``.
        selection: which atoms a step may choose: the M with the ``"largest"`` inner products of a codebook of K, as
            published, or (robust-turbo-ddcm alone, and its default) the best one of each of M ``"sections"`` of K.
        protect: share of the coded steps, from the first, under Reed-Solomon coding, in steps of 1/100: all later
            steps inherit their damage. 0 is as published, and turbo-ddcm's default; robust-turbo-ddcm has 0.4.
        decoder: ``"ordered"`` repairs a step by the order of its atoms, where the protocol has one
            (:mod:`robustkit.codecs.rcc.ordered`); ``"plain"`` believes every word, as published. Streams are the same.
        interleave: write the unprotected steps in interleaved groups, so that a burst spreads over all of a group
            (:class:`robustkit.codecs.rcc.payload.Payload`): it hits more atoms, each in fewer bits.
        container: ``"framed"`` (a protected header, then the payload) or ``"raw"`` (the payload alone; the decoder then
            needs the same settings and ``size``).
        size: (height, width) of the image, for raw streams.
        efficiency: share of the atoms' information that the noise schedule counts on, in steps of 1/100.
        device: a torch device.
        dtype: of the denoiser: ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Raises:
        ValueError: a setting is out of range; the message names it.
        PriorError: the prior can't be loaded.
    """

    name = "turbo-ddcm"
    family = "rcc"
    #: By selection, the default first.
    protocols: ClassVar[Mapping[str, type[BitProtocol]]] = {"largest": JointRank}
    #: Protocols that older streams have.
    also_reads: ClassVar[tuple[type[BitProtocol], ...]] = ()
    usual_size: ClassVar[int] = 1 << 18
    usual_protection: ClassVar[float] = 0.0
    #: What the default settings promise, on photographs of 256x256; measured by benchmarks/measure_profile.py.
    promises: ClassVar[Profile] = Profile(
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

    def __init__(
        self,
        *,
        T: int = 28,
        M: int | None = None,
        K: int | None = None,
        N: int = 0,
        bpp: float | None = None,
        seed: int = 88888888,
        prior: str = "embedded",
        codebook: str = "structured",
        selection: str | None = None,
        protect: float | None = None,
        decoder: str = "ordered",
        interleave: bool = False,
        container: str = "framed",
        size: tuple[int, int] | None = None,
        efficiency: float = 0.85,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        if not 2 <= T <= 255:
            raise ValueError(f"T = {T}: give 2 to 255 noise levels")
        if not 0 <= N <= T - 2:
            raise ValueError(f"N = {N} closing steps of T = {T}: give 0 to {T - 2}")
        usual = inspect.signature(TurboDDCM.__init__).parameters
        names = ["T", "M", "K", "N", "bpp", "prior", "codebook", "selection", "protect", "interleave", "container"]
        names.append("efficiency")
        given = (T, M, K, N, bpp, prior, codebook, selection, protect, interleave, container, efficiency)
        self.profile = self.promises if given == tuple(usual[name].default for name in names) else None
        selection = next(iter(self.protocols)) if selection is None else selection
        if selection not in self.protocols:
            raise ValueError(f"selection {selection!r} of {self.name}: give {' or '.join(self.protocols)}")
        if K is None:
            K = self.usual_size if selection == next(iter(self.protocols)) else TurboDDCM.usual_size
        if K < 2 or K & (K - 1) or K > 1 << 24:
            raise ValueError(f"K = {K}: give a power of two from 2 to 2**24")
        if M is not None and bpp is not None:
            raise ValueError(f"M = {M} and bpp = {bpp}: give one, the other follows")
        most = self.protocols[selection].most_atoms(K)
        if M is not None and not 1 <= M <= most:
            raise ValueError(f"M = {M}: give 1 to {most} atoms a step")
        protect = self.usual_protection if protect is None else protect
        if not 0 <= protect <= 1:
            raise ValueError(f"protect = {protect}: give a share of the steps, 0 to 1")
        if bpp is not None and not bpp > 0:
            raise ValueError(f"bpp = {bpp}: give a positive rate")
        if not 0 <= seed < 1 << 32:
            raise ValueError(f"seed = {seed}: give 0 to 2**32 - 1")
        if codebook not in CODEBOOKS:
            raise ValueError(f"codebook {codebook!r}: give {' or '.join(CODEBOOKS)}")
        if not isinstance(interleave, bool):
            raise ValueError(f"interleave = {interleave!r}: give True or False")
        if decoder not in DECODERS:
            raise ValueError(f"decoder {decoder!r}: give {' or '.join(DECODERS)}")
        if container not in ("framed", "raw"):
            raise ValueError(f"container {container!r}: give framed or raw")
        if not 0.01 <= efficiency <= 2.55:
            raise ValueError(f"efficiency = {efficiency}: give 0.01 to 2.55")
        if size is not None and (problem := check_size(*size)):
            raise ValueError(f"size: {problem}")
        self.prior = load_prior(prior, device=device, dtype=dtype)
        self.prior_name = prior
        self.bpp = 0.4 if bpp is None and M is None else bpp
        self.container, self.size, self.decoder = container, size, decoder
        self.settings = Header(
            protocol=PROTOCOLS.index(self.protocols[selection]),
            height=0,
            width=0,
            steps=T,
            closing=N,
            protected=round(protect * 100),
            atoms=M or 0,
            size_log2=K.bit_length() - 1,
            codebook=CODEBOOK_NAMES.index(codebook),
            seed=seed,
            efficiency=round(efficiency * 100),
            prior=self.prior.identity[:PRIOR_BYTES],
            payload=0,
            interleaved=interleave,
        )

    # -- bitstreams ---------------------------------------------------------------------------------------

    def _header_for(self, height: int, width: int) -> Header:
        """The header of an image's stream; picks M where the rate is what was asked for."""
        header = replace(self.settings, height=height, width=width)
        if self.bpp is not None:
            framing = HEADER_BYTES if self.container == "framed" else 0
            budget = int(self.bpp * height * width) // 8 - framing
            header = replace(header, atoms=1)
            # Where even one atom a step is too much, the last steps go without.
            while len(_payload(header)) > budget and header.closing < header.steps - 2:
                header = replace(header, closing=header.closing + 1)
            header = replace(header, atoms=_most_atoms(header, budget))
        if problem := _check_codebook(header):
            raise EncodeError(problem)
        return replace(header, payload=len(_payload(header)))

    def _parse(self, bitstream: bytes) -> Header:
        """The header of ``bitstream``, checked against this codec.

        Raises:
            DecodeError: not this codec's stream, another prior, or more bytes than the settings need. A payload that is
                cut short decodes with the steps that arrived.
        """
        if self.container == "raw":
            if self.size is None:
                raise DecodeError("a raw stream has no header: give the codec size=(height, width)")
            header, framing = self._header_for(*self.size), 0
        else:
            header, framing = Header.unpack(bitstream), HEADER_BYTES
            known = (*self.protocols.values(), *self.also_reads)
            if header.protocol >= len(PROTOCOLS) or PROTOCOLS[header.protocol] not in known:
                raise DecodeError(f"bit protocol {header.protocol}: not a stream of {self.name}")
            if header.prior != self.prior.identity[:PRIOR_BYTES]:
                raise DecodeError(
                    f"encoded with the prior {header.prior.hex()}, "
                    f"this is {self.prior.identity[:PRIOR_BYTES].hex()} ({self.prior_name})"
                )
            if problem := check_size(header.height, header.width):
                raise DecodeError(problem)
            if (
                not 0 <= header.closing <= header.steps - 2
                or not 1 <= header.size_log2 <= 24
                or not 1 <= header.atoms <= PROTOCOLS[header.protocol].most_atoms(1 << header.size_log2)
                or header.codebook >= len(CODEBOOKS)
                or not header.efficiency
                or header.protected > 100
                or header.payload != len(_payload(header))
            ):
                raise DecodeError("the header's settings contradict each other")
            if problem := _check_codebook(header):
                raise DecodeError(problem)
        if len(bitstream) > framing + header.payload:
            raise DecodeError(f"{len(bitstream)} bytes, where the settings need {framing + header.payload}")
        return header

    def layout(self, bitstream: bytes) -> Layout:
        bits = 8 * len(bitstream)
        header = HEADER_FIELDS if self.container == "framed" else ()
        try:
            payload = _payload(self._parse(bitstream)).fields()
        except DecodeError:
            payload = [("payload", bits)]
        fields = [(f"header {name}", length, True) for name, length in header]
        fields += [(name, length, False) for name, length in payload]
        regions, start = [], 0
        for name, length, in_header in fields:
            regions.append(Region(name, min(start, bits), min(start + length, bits), in_header))
            start += length
        return Layout(tuple(regions), bits)

    # -- coding -------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, image: Image) -> bytes:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise EncodeError(f"{_kind(image)}: give uint8, height x width x 3")
        if problem := check_size(*image.shape[:2]):
            raise EncodeError(problem)
        header = self._header_for(*image.shape[:2])
        clean = self.prior.encode(_to_tensor(image, self.prior.pixel_multiple))
        protocol, codebook, levels = self._parts(header, clean[0].numel())
        state = self._first_noise(header, clean.shape[1:])
        written = []
        for step in range(_payload(header).steps):
            estimate = self.prior.predict_clean(state, levels[step])
            indices, signs = protocol.choose(codebook.inner_products(step, (clean - estimate).flatten(1)))
            written.append(protocol.write(indices[0].cpu().numpy(), signs[0].cpu().numpy().astype(np.int64)))
            noise = codebook.combine(step, indices, signs).view_as(state)
            state = reverse_step(state, estimate, levels[step], levels[step + 1], noise)
        payload = _payload(header).pack(np.stack(written))
        return payload if self.container == "raw" else header.pack() + payload

    def decode(self, bitstream: bytes) -> Image:
        (decoded,) = self.decode_batch([bitstream])
        if isinstance(decoded, DecodeError):
            raise decoded
        return decoded

    @torch.inference_mode()
    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Image | DecodeError]:
        decoded: list[Image | DecodeError] = [DecodeError("not decoded")] * len(bitstreams)
        groups: dict[tuple[Header, int], list[tuple[int, Integers, Floats]]] = {}
        for place, bitstream in enumerate(bitstreams):
            try:
                header = self._parse(bitstream)
                framing = HEADER_BYTES if self.container == "framed" else 0
                indices, signs = _payload(header).read(bitstream[framing:])
                weights = signs.astype(np.float64)
                if self.decoder == "ordered":
                    indices, weights = ordered.believe(_protocol(header), indices, signs)
                groups.setdefault((header, len(indices)), []).append((place, indices, weights))
            except DecodeError as error:
                decoded[place] = error
        for (header, _), members in groups.items():
            indices, weights = (np.stack([m[part] for m in members], axis=1) for part in (1, 2))
            for (place, _, _), image in zip(members, self._reconstruct(header, indices, weights), strict=True):
                decoded[place] = image
        return decoded

    def _reconstruct(self, header: Header, indices: Integers, weights: Floats) -> list[Image]:
        """Images from indices and weights, both ``(coded steps, b, M)``; steps that did not arrive are closing steps.

        Streams that have agreed so far share one state, and so the denoiser's calls: damaged copies of one stream
        part at their first flips, and copies damaged in the header alone never do.
        """
        device = self.prior.device
        shared = np.zeros(indices.shape[1], dtype=np.int64)  # the state of each stream
        multiple = self.prior.pixel_multiple
        shape = self.prior.latent_shape(*(-(-side // multiple) * multiple for side in (header.height, header.width)))
        _, codebook, levels = self._parts(header, int(np.prod(shape)))
        state = self._first_noise(header, shape)
        for step, (now, following) in enumerate(itertools.pairwise(levels)):
            estimate = self.prior.predict_clean(state, now)
            noise = None
            if step < len(indices):
                atoms = np.column_stack([shared, indices[step], weights[step]])
                _, first, after = np.unique(atoms, axis=0, return_index=True, return_inverse=True)
                parent, shared = torch.from_numpy(shared[first]).to(device), after.reshape(-1)
                state, estimate = state[parent], estimate[parent]
                chosen = torch.from_numpy(indices[step][first]).to(device)
                coefficients = torch.from_numpy(weights[step][first]).to(device, torch.float32)
                noise = codebook.combine(step, chosen, coefficients).view(-1, *shape)
            state = reverse_step(state, estimate, now, following, noise)
        images = self.prior.decode(self.prior.predict_final(state, levels[-1]))
        images = images[:, :, : header.height, : header.width]
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        found = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        # Copies, so that nobody who writes on one image changes its twin.
        return [found[number].copy() for number in shared]

    def _parts(self, header: Header, elements: int) -> tuple[BitProtocol, Codebook, list[NoiseLevel]]:
        protocol = _protocol(header)
        kind = CODEBOOKS[CODEBOOK_NAMES[header.codebook]]
        levels = noise_levels(
            self.prior,
            steps=header.steps,
            closing=header.closing,
            correlation=protocol.correlation(elements),
            efficiency=header.efficiency / 100,
        )
        return protocol, kind(protocol.atoms, elements, header.seed, self.prior.device), levels

    def _first_noise(self, header: Header, shape: Sequence[int]) -> Tensor:
        """x_T: about standard normal, from counted coin flips, so that every device has the same."""
        # Steps draw from the streams (seed, 0), (seed, 1), ...; this one is none of them.
        words = np.random.Philox(key=[header.seed, 1 << 32]).random_raw(int(np.prod(shape)))
        heads = torch.from_numpy(np.bitwise_count(words).astype(np.float32)).to(self.prior.device)
        return ((heads - 32) / 4).view(1, *shape)

    def describe(self) -> Mapping[str, str]:
        settings = self.settings
        return {
            "torch": torch.__version__,
            "device": _device_name(self.prior.device),
            "dtype": str(self.prior.dtype).removeprefix("torch."),
            "prior": f"{self.prior_name} {self.prior.identity[:PRIOR_BYTES].hex()}",
            "settings": f"T={settings.steps} N={settings.closing} K={1 << settings.size_log2} "
            + f"protocol={PROTOCOLS[settings.protocol].__name__} protect={settings.protected / 100} "
            + (f"M={settings.atoms}" if self.bpp is None else f"bpp={self.bpp:g}")
            + f" seed={settings.seed} codebook={CODEBOOK_NAMES[settings.codebook]}"
            + f" efficiency={settings.efficiency / 100}"
            + " interleave" * settings.interleaved
            + f" decoder={self.decoder}" * (PROTOCOLS[settings.protocol].order is not None),
        }


class RobustTurboDDCM(TurboDDCM):
    """Robust Turbo-DDCM (arXiv 2604.05743): Turbo-DDCM with each atom's index written on its own.

    As published with ``selection="largest", protect=0, decoder="plain"``. The defaults go further: see
    :class:`SectionIndices`, and :mod:`robustkit.codecs.rcc.protection`.
    """

    name = "robust-turbo-ddcm"
    protocols: ClassVar[Mapping[str, type[BitProtocol]]] = {"sections": SectionIndices, "largest": HashOrderedIndices}
    also_reads: ClassVar[tuple[type[BitProtocol], ...]] = (IndependentIndices,)
    usual_size: ClassVar[int] = 1 << 14
    usual_protection: ClassVar[float] = 0.4
    promises: ClassVar[Profile] = Profile(
        bpp=0.4,
        quality=28.55,
        promises=(
            Promise("bsc(ber=0.001)", mean_drop=0.2, p5_drop=0.42),
            Promise("bsc(ber=0.01)", mean_drop=1.6, p5_drop=3.15),
            Promise("burst(length=32)", mean_drop=0.115, p5_drop=0.73),
            Promise("header-bsc(ber=0.01)", mean_drop=0.05, p5_drop=0.05),
        ),
    )


def _protocol(header: Header) -> BitProtocol:
    return PROTOCOLS[header.protocol](1 << header.size_log2, header.atoms)


def _payload(header: Header) -> Payload:
    steps = header.steps - 1 - header.closing
    protected = steps * header.protected // 100
    return Payload(_protocol(header), steps=steps, protected=protected, interleaved=header.interleaved)


def _most_atoms(header: Header, budget: int) -> int:
    """The largest M whose payload takes at most ``budget`` bytes; at least 1."""
    most = PROTOCOLS[header.protocol].most_atoms(1 << header.size_log2)
    # Ranks get shorter again beyond K/2, an atom takes a bit a step at least, and C(K, M) with a large M is slow.
    low, high = 1, max(1, min(most // 2, 8 * budget // (header.steps - 1 - header.closing)))
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(_payload(replace(header, atoms=middle))) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _check_codebook(header: Header) -> str | None:
    """Why a step's codebook is too large to be made for an image of this size, or ``None``."""
    atoms, most = _protocol(header).atoms, max(1 << 24, 32 * header.height * header.width)
    if atoms <= most:
        return None
    size = 1 << header.size_log2
    return f"M = {header.atoms} sections of K = {size} atoms are more than {most} for this size: give a smaller K or M"


def _to_tensor(image: Image, multiple: int) -> Tensor:
    """An image to float32 ``(1, 3, H, W)`` in [-1, 1], padded by reflection to a multiple on each side."""
    padding = [(0, -side % multiple) for side in image.shape[:2]]
    padded = np.pad(image, [*padding, (0, 0)], mode="symmetric")
    return torch.from_numpy(padded).permute(2, 0, 1)[None].to(torch.float32) / 127.5 - 1


def _kind(image: object) -> str:
    if isinstance(image, np.ndarray):
        return f"{image.dtype} array of shape {image.shape}"
    return type(image).__name__


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # Both decide in which order sums are added up.
    return f"{device.type} ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"
