"""What all RCC codecs share: their settings, container and rate knobs, and images to latents and back."""

from __future__ import annotations

import functools
import itertools
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustkit import pixels
from robustkit.codec import Codec, DecodeError, EncodeError, Image, Layout, Region
from robustkit.codecs.rcc.codebook import AHEAD
from robustkit.codecs.rcc.container import HEADER_BYTES, PRIOR_BYTES, Header, P, check_size, header_fields
from robustkit.codecs.rcc.protocol import Integers
from robustkit.codecs.rcc.reference import Published
from robustkit.codecs.rcc.schedule import SCHEDULES, noise_levels, reverse_step, usual_schedule
from robustkit.priors import load_prior
from robustkit.priors.base import NoiseLevel
from robustkit.profile import Profile

#: Rate of the default settings, in bits per pixel.
USUAL_BPP = 0.4
#: Rates in bits per pixel between which a target PSNR is looked for, and how near to the least that reaches it.
PSNR_RATES = (1 / 32, 8.0)
PSNR_PRECISION = 1.03

#: Work is counted in pixels times calls of the denoiser. A decoder does as much as the final estimate takes at 512x512,
#: whatever arrived: less than a second. Beyond that each byte behind the first few of the payload pays for half a
#: million. At the usual rate a stream takes less than a thousand a byte, and large ones decode cut to a thousandth;
#: 1000 steps of one atom of 2**13 (DDCM, at 512x512) take 160,000.
FREE_WORK = 1 << 20
FREE_BYTES = 64
WORK_OF_A_BYTE = 1 << 19
#: A small image's call takes as long as one of so many pixels.
LEAST_PIXELS = 1 << 14
#: Calls of the final estimate.
FINAL_CALLS = 4

#: Where Linux tells the version of NVIDIA's driver.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")

Read = TypeVar("Read")
#: What a step's bits say, in a method's own numbers.
Words = npt.NDArray[Any]
#: Writes the payload for a header and clean latents ``(1, c, h, w)``.
Write: TypeAlias = Callable[[Header[P], Tensor], bytes]


class CommonSettings(TypedDict, total=False):
    """Settings that every RCC codec takes; :class:`RCCCodec` says what they mean."""

    bpp: float | None
    psnr: float | None
    seed: int
    prior: str
    container: str
    size: tuple[int, int] | None
    schedule: str | None
    efficiency: float
    device: str
    dtype: str


def check_one_rate(setting: str, value: int | None, common: CommonSettings) -> None:
    """Raise ValueError where a method's own setting of the rate, M say, is given beside ``bpp`` or ``psnr``."""
    for rate, asked in (("bpp", common.get("bpp")), ("psnr", common.get("psnr"))):
        if value is not None and asked is not None:
            raise ValueError(f"{setting} = {value} and {rate} = {asked}: give one, the other follows")


class OutOfProportion(EncodeError):
    """A whole stream would be refused, for the work that it asks for."""


class RCCCodec(Codec, Generic[P, Read]):
    """A codec that sends which noise a diffusion model's reverse process is to take.

    Args:
        bpp: rate in bits per pixel, header included; 0.4 unless something else decides the rate.
        psnr: quality in dB to reach, at the least rate that does (to 3%); instead of ``bpp``, and of framed streams.
        seed: of all that is pseudo-random, below 2**32.
        prior: ``"embedded"``, a folder, or a hub name (:func:`robustkit.priors.load_prior`).
        container: ``"framed"`` (a protected header, then the payload) or ``"raw"`` (the payload alone; the decoder then
            needs the same settings and ``size``).
        size: (height, width) of the image, for raw streams.
        schedule: which noise levels are visited (:data:`robustkit.codecs.rcc.schedule.SCHEDULES`): ``"information"``,
            the default where the prior's error curve is known, ``"even"``, or ``"published"``.
        efficiency: share of a step's information that the schedule by information counts on, in steps of 1/100.
        device: a torch device.
        dtype: of the denoiser: ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Raises:
        ValueError: a setting is out of range; the message names it.
        PriorError: the prior can't be loaded.
    """

    needs: ClassVar[str] = "the extra `rcc`"
    family = "rcc"
    #: The header's own settings of each bit protocol that the codec reads.
    methods: ClassVar[Mapping[int, type[Any]]]
    #: What the default settings promise, on photographs of 256x256; measured by `robustkit measure`.
    promises: ClassVar[Profile | None] = None
    #: They change neither the format nor what the profile promises of it.
    neutral_settings: ClassVar[frozenset[str]] = frozenset({"seed", "size", "device", "dtype"})
    #: With ``codebook="reference"``, the published coder that stands in for this one.
    published: Published | None = None

    def __init__(
        self,
        *,
        bpp: float | None = None,
        psnr: float | None = None,
        seed: int = 88888888,
        prior: str = "embedded",
        container: str = "framed",
        size: tuple[int, int] | None = None,
        schedule: str | None = None,
        efficiency: float = 0.85,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        if bpp is not None and psnr is not None:
            raise ValueError(f"bpp = {bpp} and psnr = {psnr}: give one, the other follows")
        if bpp is not None and not 0 < bpp <= 64:
            raise ValueError(f"bpp = {bpp}: give a rate above 0 and up to 64")
        if psnr is not None and not 5 <= psnr <= 60:
            raise ValueError(f"psnr = {psnr}: give 5 to 60 dB")
        if psnr is not None and container == "raw":
            raise ValueError(f"psnr = {psnr} with container='raw': the rate it finds is kept in the header")
        if not 0 <= seed < 1 << 32:
            raise ValueError(f"seed = {seed}: give 0 to 2**32 - 1")
        if container not in ("framed", "raw"):
            raise ValueError(f"container {container!r}: give framed or raw")
        if not 0.01 <= efficiency <= 2.55:
            raise ValueError(f"efficiency = {efficiency}: give 0.01 to 2.55")
        if size is not None and (problem := check_size(*size)):
            raise ValueError(f"size: {problem}")
        self.profile = self.promised(self.promises)
        self.prior = load_prior(prior, device=device, dtype=dtype)
        self.prior_name = prior
        self.weight_files = self.prior.weight_files
        self.schedule = usual_schedule(self.prior) if schedule is None else schedule
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {schedule!r}: give {', '.join(SCHEDULES)}")
        self.bpp, self.psnr, self.seed, self.efficiency = bpp, psnr, seed, round(efficiency * 100)
        self.container, self.size = container, size

    # -- what a method has of its own ---------------------------------------------------------------------

    @abstractmethod
    def _settle(self, header: Header[P], budget: int) -> Header[P]:
        """The header with the protocol, the method's settings and the payload's length.

        Args:
            header: of the image's size; its protocol, method and payload are still to be chosen.
            budget: bytes that the payload may take, where the rate is what was asked for.

        Raises:
            EncodeError: no settings do for this image.
        """

    @abstractmethod
    def _problem(self, header: Header[P]) -> str | None:
        """Why a stream that says ``header`` is not decoded, or ``None`` if it is."""

    @abstractmethod
    def _work(self, header: Header[P], payload: int) -> int:
        """Work on one image up to the final estimate: by :meth:`_call`, and what else takes as long as a call.

        Args:
            payload: bytes of the payload that arrived.
        """

    @abstractmethod
    def _fields(self, header: Header[P], payload: bytes) -> Iterable[tuple[str, int]]:
        """Names and bit counts of the payload's fields, in their order, those that did not arrive too: made as they are
        asked for."""

    @abstractmethod
    def _write(self, header: Header[P], clean: Tensor) -> bytes:
        """The payload for clean latents ``(1, c, h, w)``."""

    @abstractmethod
    def _read(self, header: Header[P], payload: bytes) -> Read:
        """What a payload says, before any diffusion.

        Raises:
            DecodeError: it says nothing.
        """

    @abstractmethod
    def _reconstruct(self, header: Header[P], payloads: list[Read]) -> list[Image]:
        """The images of payloads that have one header."""

    # -- bitstreams ---------------------------------------------------------------------------------------

    def _header_for(self, height: int, width: int, bpp: float | None = None) -> Header[P]:
        """The header of an image's stream, at ``bpp`` or at the codec's own rate."""
        rate = USUAL_BPP if self.bpp is None else self.bpp
        framing = HEADER_BYTES if self.container == "framed" else 0
        number, method = next(iter(self.methods.items()))
        empty: Header[P] = Header(
            schedule=SCHEDULES.index(self.schedule),
            protocol=number,
            height=height,
            width=width,
            method=method(),
            seed=self.seed,
            efficiency=self.efficiency,
            prior=self.prior.identity[:PRIOR_BYTES],
            payload=0,
        )
        return self._settle(empty, int((rate if bpp is None else bpp) * height * width) // 8 - framing)

    def _parse(self, bitstream: bytes) -> tuple[Header[P], bytes]:
        """The header and the payload of ``bitstream``, the header checked against this codec.

        Raises:
            DecodeError: not this codec's stream, another prior, or more bytes than the settings need.
        """
        if self.container == "raw":
            if self.size is None:
                raise DecodeError("a raw stream has no header: give the codec size=(height, width)")
            header, payload = self._header_for(*self.size), bitstream
        else:
            header, payload = Header.unpack(bitstream, self.methods), bitstream[HEADER_BYTES:]
            if header.prior != self.prior.identity[:PRIOR_BYTES]:
                raise DecodeError(
                    f"encoded with the prior {header.prior.hex()}, "
                    f"this is {self.prior.identity[:PRIOR_BYTES].hex()} ({self.prior_name})"
                )
            if problem := check_size(header.height, header.width):
                raise DecodeError(problem)
            if not header.efficiency or header.schedule >= len(SCHEDULES):
                raise DecodeError("the header's settings contradict each other")
            if problem := self._problem(header):
                raise DecodeError(problem)
        if len(payload) > header.payload:
            needed = len(bitstream) - len(payload) + header.payload
            raise DecodeError(f"{len(bitstream)} bytes, where the settings need {needed}")
        return header, payload

    def _disproportion(self, header: Header[P], payload: int) -> str | None:
        """Why a stream of which ``payload`` bytes arrived behind the header asks for too much work, or ``None``.

        Of raw streams the caller's own settings say how much it is.
        """
        if self.container == "raw":
            return None
        work = self._work(header, payload) + FINAL_CALLS * self._call(header)
        if work <= FREE_WORK + WORK_OF_A_BYTE * max(0, payload - FREE_BYTES):
            return None
        calls = work // self._call(header)
        return (
            f"work of {calls} calls of the denoiser at {header.height}x{header.width} is out of proportion to "
            f"{payload} bytes"
        )

    def _call(self, header: Header[P], images: int = 1) -> int:
        """Work of a call of the denoiser on so many images."""
        multiple = self.prior.pixel_multiple
        size = math.prod(-(-side // multiple) * multiple for side in (header.height, header.width))
        return max(images * size, LEAST_PIXELS)

    def _check_encodable(self, header: Header[P]) -> None:
        """Raise OutOfProportion where the whole stream would be refused."""
        if problem := self._disproportion(header, header.payload):
            raise OutOfProportion(f"{problem}: give a higher rate or fewer steps")

    def layout(self, bitstream: bytes) -> Layout:
        bits = 8 * len(bitstream)
        if self.published:
            whole = self.size is not None and len(bitstream) == self.published.length(*self.size)
            said = self.published.fields(*self.size) if self.size and whole else [("payload", bits)]
            return _regions(((name, length, False) for name, length in said), bits)
        header = header_fields(next(iter(self.methods.values()))) if self.container == "framed" else ()
        try:
            parsed, payload = self._parse(bitstream)
            header = header and header_fields(type(parsed.method))
            fields: Iterable[tuple[str, int]] = self._fields(parsed, payload)
        except DecodeError:
            fields = [("payload", bits)]
        named = ((f"header {name}", length, True) for name, length in header)
        return _regions(itertools.chain(named, ((name, length, False) for name, length in fields)), bits)

    # -- coding -------------------------------------------------------------------------------------------

    def encode(self, image: Image) -> bytes:
        return self._encode(image, self._write)

    @torch.inference_mode()
    def _encode(self, image: Image, write: Write[P]) -> bytes:
        """The stream of ``image``, its payload by ``write``: :meth:`_write`, or as a caller would have it."""
        check_fits(image)
        if self.published:
            return self.published.encode(image)
        clean = self.prior.encode(_to_tensor(image, self.prior.pixel_multiple))
        if self.psnr is None:
            return self._stream(image, clean, write)
        return self._least_that_reaches(self.psnr, image, clean, write)

    def _stream(self, image: Image, clean: Tensor, write: Write[P], bpp: float | None = None) -> bytes:
        header = self._header_for(image.shape[0], image.shape[1], bpp)
        self._check_encodable(header)
        payload = write(header, clean)
        return payload if self.container == "raw" else replace(header, payload=len(payload)).pack() + payload

    def _least_that_reaches(self, psnr: float, image: Image, clean: Tensor, write: Write[P]) -> bytes:
        """The stream of least rate, to within ``PSNR_PRECISION``, whose image has ``psnr`` dB at least."""

        refused: OutOfProportion | None = None

        def attempt(bpp: float) -> tuple[bytes, float]:
            nonlocal refused
            try:
                stream = self._stream(image, clean, write, bpp)
            except OutOfProportion as error:
                refused = error
                return b"", -math.inf
            return stream, pixels.psnr(image, self.decode(stream))

        # From below: with few steps, quality falls again at rates that they can't use. One fall may be chance.
        low, high = PSNR_RATES[0], PSNR_RATES[0]
        best, found = attempt(high)
        most, falls = found, 0
        while found < psnr:
            low, high = high, 2 * high
            if high > PSNR_RATES[1] or falls == 2:
                if refused and most == -math.inf:
                    raise refused
                raise EncodeError(f"psnr = {psnr}: with these settings this image reaches {most:.2f} dB; ask for less")
            best, found = attempt(high)
            falls = falls + 1 if found < most else 0
            most = max(most, found)
        while high / low > PSNR_PRECISION:
            middle = math.sqrt(low * high)
            stream, found = attempt(middle)
            if found >= psnr:
                best, high = stream, middle
            else:
                low = middle
        return best

    def decode(self, bitstream: bytes) -> Image:
        (decoded,) = self.decode_batch([bitstream])
        if isinstance(decoded, DecodeError):
            raise decoded
        return decoded

    @torch.inference_mode()
    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Image | DecodeError]:
        if self.published and self.size:
            return self.published.decode_batch(bitstreams, *self.size)
        decoded: list[Image | DecodeError] = [DecodeError("not decoded")] * len(bitstreams)
        groups: dict[Header[P], list[tuple[int, Read]]] = {}
        for place, bitstream in enumerate(bitstreams):
            try:
                header, payload = self._parse(bitstream)
                if problem := self._disproportion(header, len(payload)):
                    raise DecodeError(problem)
                groups.setdefault(header, []).append((place, self._read(header, payload)))
            except DecodeError as error:
                decoded[place] = error
        for header, members in groups.items():
            images = self._reconstruct(header, [read for _, read in members])
            for (place, _), image in zip(members, images, strict=True):
                decoded[place] = image
        return decoded

    # -- parts for the methods ----------------------------------------------------------------------------

    def _levels(
        self, header: Header[P], *, steps: int, closing: int, correlation: float, arrived: int | None = None
    ) -> list[NoiseLevel]:
        """The noise levels (:func:`robustkit.codecs.rcc.schedule.noise_levels`).

        Args:
            arrived: steps that arrived of a stream that was cut short; only the levels that they lead to are given.
        """
        return noise_levels(
            self.prior,
            steps=steps,
            closing=closing,
            correlation=correlation,
            efficiency=header.efficiency / 100,
            schedule=SCHEDULES[header.schedule],
            first=None if arrived is None else arrived + 1,
        )

    def _latent_shape(self, header: Header[P]) -> tuple[int, int, int]:
        multiple = self.prior.pixel_multiple
        return self.prior.latent_shape(*(-(-side // multiple) * multiple for side in (header.height, header.width)))

    def _first_noise(self, header: Header[P]) -> Tensor:
        """x_T, ``(1, c, h, w)``: about standard normal, from counted coin flips, so that every device has the same."""
        return _noise_at_start(header.seed, (1, *self._latent_shape(header)), self.prior.device)

    def _images_of_words(
        self,
        header: Header[P],
        levels: list[NoiseLevel],
        words: Sequence[Words],
        noise: Callable[[int, Words], Tensor],
        *,
        coded: int,
    ) -> list[Image]:
        """The images of streams that say one word of numbers a step.

        Where steps are missing, the final estimate follows the last that arrived: work follows what arrived.

        Args:
            header: of all the streams.
            levels: noise levels, in their order, as far as a stream reaches them.
            words: ``(steps, w)`` for each stream: of the steps that arrived.
            noise: gives a step's noise ``(states, n)`` for the step's number and words ``(states, w)``.
            coded: how many steps a whole stream has.
        """

        def together(places: list[int]) -> list[Image]:
            said = np.stack([words[place] for place in places], axis=1)
            return self._reverse(header, levels if len(said) == coded else levels[: len(said) + 1], said, noise)

        return by_arrival(words, together)

    def _reverse(
        self,
        header: Header[P],
        levels: list[NoiseLevel],
        words: Words,
        noise: Callable[[int, Words], Tensor],
    ) -> list[Image]:
        """As :meth:`_images_of_words`, for words ``(steps, b, w)`` of which as many arrived of every stream."""
        shared = np.zeros(words.shape[1], dtype=np.int64)  # the state of each stream
        said, parents = [], []
        for step_words in words:
            first, before, shared = part(shared, step_words)
            said.append(step_words[first])
            parents.append(before)
        state = self._first_noise(header)
        most = max(map(len, parents), default=1)
        shape = (-1, *state.shape[1:])
        noises = _ahead(lambda step: noise(step, said[step]).view(shape), len(said), AHEAD // (most * state.numel()))
        for step, (now, following) in enumerate(itertools.pairwise(levels)):
            estimate = self.prior.predict_loosely(state, now)
            step_noise = next(noises, None)
            if step_noise is not None and len(step_noise) > len(state):
                parent = torch.from_numpy(parents[step]).to(self.prior.device)
                state, estimate = state[parent], estimate[parent]
            state = reverse_step(state, estimate, now, following, step_noise)
        found = self._images(header, self.prior.predict_final(state, levels[-1]))
        # Copies, so that nobody who writes on one image changes its twin.
        return [found[number].copy() for number in shared]

    def _images(self, header: Header[P], latents: Tensor) -> list[Image]:
        """The images of final latents ``(b, c, h, w)``."""
        images = self.prior.decode(latents)[:, :, : header.height, : header.width]
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())

    def describe(self) -> Mapping[str, str]:
        rate = f"bpp={USUAL_BPP if self.bpp is None else self.bpp:g}" if self.psnr is None else f"psnr={self.psnr:g}"
        return {
            "torch": torch.__version__,
            **_device_facts(self.prior.device),
            "dtype": str(self.prior.dtype).removeprefix("torch."),
            "prior": f"{self.prior_name} {self.prior.identity[:PRIOR_BYTES].hex()}",
            "settings": f"{rate} seed={self.seed} schedule={self.schedule} efficiency={self.efficiency / 100}",
        }


def coin_noise(seed: int, stream: int, shape: Sequence[int]) -> Tensor:
    """About standard normal numbers from counted coin flips, alike everywhere: float32 of ``shape``."""
    words = np.random.Philox(key=[seed, stream]).random_raw(math.prod(shape))
    return ((torch.from_numpy(np.bitwise_count(words).astype(np.float32)) - 32) / 4).view(*shape)


@functools.lru_cache(maxsize=1)
def _noise_at_start(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    # Steps draw from the streams (seed, 0), (seed, 1), ...; this one is none of them.
    return coin_noise(seed, 1 << 32, shape).to(device)


def _ahead(work: Callable[[int], Tensor], count: int, group: int) -> Iterator[Tensor]:
    """What ``work`` gives for 0 to ``count - 1``, worked out for so many at a time, or for one."""
    numbers = range(count)
    for first in numbers[:: max(1, group)]:
        yield from [work(number) for number in numbers[first : first + max(1, group)]]


def by_arrival(streams: Sequence[Sized], images_of: Callable[[list[int]], list[Image]]) -> list[Image]:
    """The images of streams that may be cut short, those of which equally many steps arrived together.

    Args:
        streams: what arrived of each, a step after the other.
        images_of: the images of the streams in these places, of which equally many steps arrived.
    """
    groups: dict[int, list[int]] = {}
    for place, stream in enumerate(streams):
        groups.setdefault(len(stream), []).append(place)
    images: dict[int, Image] = {}
    for places in groups.values():
        images |= dict(zip(places, images_of(places), strict=True))
    return [images[place] for place in range(len(streams))]


def part(shared: Integers, words: Words) -> tuple[Integers, Integers, Integers]:
    """Let streams that have shared their states part where their words differ.

    Damaged copies of one stream part at their first flips, and until then one state, and so one call of the denoiser,
    does for all of them.

    Args:
        shared: int64 ``(b,)``, the number of each stream's state.
        words: ``(b, ...)``, what each stream says next.

    Returns:
        a stream of each new state, the old state that each new one comes from, and the new ``shared``.
    """
    rows = np.column_stack([shared, words.reshape(len(words), -1)])
    states: dict[bytes, int] = {}
    after = np.array([states.setdefault(row.tobytes(), len(states)) for row in rows])
    first = np.unique(after, return_index=True)[1]
    return first, shared[first], after


def _regions(fields: Iterable[tuple[str, int, bool]], bits: int) -> Layout:
    """Fields by name, bit count and whether they are the header's, one after the other, as far as the stream goes.

    No more of them are asked for: a header may promise millions.
    """
    regions, start, left = [], 0, iter(fields)
    while start < bits and (field := next(left, None)):
        name, length, header = field
        if length:
            regions.append(Region(name, start, min(start + length, bits), header))
        start += length
    return Layout(tuple(regions), bits)


def check_fits(image: object) -> None:
    """Raise EncodeError, which says why, where ``image`` is none that RCC codecs take."""
    height, width, _ = pixels.check_image(image, EncodeError).shape
    if problem := check_size(height, width):
        raise EncodeError(problem)


def _to_tensor(image: Image, multiple: int) -> Tensor:
    """An image to float32 ``(1, 3, H, W)`` in [-1, 1], padded by reflection to a multiple on each side."""
    padding = [(0, -side % multiple) for side in image.shape[:2]]
    padded = np.pad(image, [*padding, (0, 0)], mode="symmetric")
    return torch.from_numpy(padded).permute(2, 0, 1)[None].to(torch.float32) / 127.5 - 1


def _device_facts(device: torch.device) -> dict[str, str]:
    """What of a device decides how its numbers are rounded."""
    if device.type == "cuda":
        facts = {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
        driver = re.search(r"\d+\.\d+(\.\d+)?", NVIDIA_DRIVER.read_text()) if NVIDIA_DRIVER.is_file() else None
        return {**facts, "driver": driver[0] if driver else "unknown"}
    # Both decide in which order sums are added up.
    return {"device": f"{device.type} ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"}
