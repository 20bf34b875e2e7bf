"""A sound codec of block means, and mutants of it: each has one flaw that shows where tests of small images don't look.

They are for the suite to find, claim by claim. All of them conform but for the flaw.
"""

from __future__ import annotations

import os
import signal
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from robustkit import Codec, DecodeError, EncodeError, Image, Layout, Profile, Promise, Region

BLOCK = 4
HEADER = struct.Struct(">HHI")


class Means(Codec):
    """The mean colour of each block of 4 x 4 pixels behind its size and a check sum; no mistake."""

    name = "means"
    family: ClassVar[str] = "flawed"
    profile = Profile(
        bpp=1.6,
        quality=17.0,
        refused=0.2,
        promises=(Promise("bsc(ber=0.0003)", mean_drop=0.3, p5_drop=6.0, corrupted=0.2),),
    )

    def encode(self, image: Image) -> bytes:
        height, width = image.shape[:2]
        padded = np.pad(image, ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0)), mode="edge")
        blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK, 3)
        size = struct.pack(">HH", height, width)
        return size + struct.pack(">I", zlib.crc32(size)) + blocks.mean(axis=(1, 3)).astype(np.uint8).tobytes()

    def decode(self, bitstream: bytes) -> Image:
        height, width = self.size(bitstream)
        return self.picture(bitstream, height, width)

    def size(self, bitstream: bytes) -> tuple[int, int]:
        if len(bitstream) < HEADER.size or zlib.crc32(bitstream[:4]) != HEADER.unpack_from(bitstream)[2]:
            raise DecodeError("the header is damaged")
        height, width, _ = HEADER.unpack_from(bitstream)
        return height, width

    def picture(self, bitstream: bytes, height: int, width: int) -> Image:
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        if len(bitstream) != HEADER.size + 3 * rows * columns:
            raise DecodeError("the payload has another length")
        blocks = np.frombuffer(bitstream, np.uint8, offset=HEADER.size).reshape(rows, columns, 3)
        return blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width].copy()

    def layout(self, bitstream: bytes) -> Layout:
        bits, header = 8 * len(bitstream), min(8 * HEADER.size, 8 * len(bitstream))
        return Layout((Region("size", 0, header, header=True), Region("blocks", header, bits)), bits)


class Budget(Means):
    """Spends the same bytes on every image: 16 x 16 colours, whatever its size; and no mistake."""

    name = "budget"
    profile = Profile(bpp=1.6, quality=15.0, refused=1.0)
    colours = 16

    def encode(self, image: Image) -> bytes:
        means = image.astype(float)
        for axis, side in enumerate(image.shape[:2]):
            starts = np.arange(self.colours) * side // self.colours
            counts = np.maximum(np.diff(np.append(starts, side)), 1)
            means = np.add.reduceat(means, starts, axis) / np.expand_dims(counts, tuple({0, 1, 2} - {axis}))
        size = struct.pack(">HH", *image.shape[:2])
        return size + struct.pack(">I", zlib.crc32(size)) + means.astype(np.uint8).tobytes()

    def picture(self, bitstream: bytes, height: int, width: int) -> Image:
        if len(bitstream) != HEADER.size + 3 * self.colours**2:
            raise DecodeError("the payload has another length")
        colours = np.frombuffer(bitstream, np.uint8, offset=HEADER.size).reshape(self.colours, self.colours, 3)
        rows, columns = (
            np.searchsorted(np.arange(self.colours) * side // self.colours, np.arange(side), side="right") - 1
            for side in (height, width)
        )
        return colours[rows][:, columns]


class Batched(Means):
    """Decodes several at a time, and no mistake."""

    name = "batched"

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Image | DecodeError]:
        return super().decode_batch(bitstreams)


class SwappedInLargeBatches(Batched):
    """Two neighbours change places in batches above six."""

    name = "swapped-in-large-batches"

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Image | DecodeError]:
        decoded = super().decode_batch(bitstreams)
        if len(decoded) > 6:
            decoded[0], decoded[1] = decoded[1], decoded[0]
        return decoded


class LosesRefusals(Batched):
    """In a batch, a refused stream gives the picture before it."""

    name = "loses-refusals"

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Image | DecodeError]:
        decoded = super().decode_batch(bitstreams)
        for place in range(1, len(decoded)):
            if isinstance(decoded[place], DecodeError):
                decoded[place] = decoded[place - 1]
        return decoded


class OtherKernels(Batched):
    """In a batch, one sample in 200 comes out two levels off, as with sums in another order; and no mistake."""

    name = "other-kernels"
    off: ClassVar[int] = 2

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Image | DecodeError]:
        decoded = super().decode_batch(bitstreams)
        for image in decoded:
            if isinstance(image, np.ndarray):
                image.reshape(-1)[::200] ^= self.off
        return decoded


class FourLevelsOff(OtherKernels):
    """In a batch, one sample in 200 comes out four levels off."""

    name = "four-levels-off"
    off = 4


class ShiftsOddSizes(Means):
    """Keeps all but the lowest bit of each sample; a picture of odd width comes back a pixel too far right."""

    name = "shifts-odd-sizes"
    profile = Profile(bpp=24.5, quality=40.0, refused=1.0, promises=())

    def encode(self, image: Image) -> bytes:
        size = struct.pack(">HH", *image.shape[:2])
        return size + struct.pack(">I", zlib.crc32(size)) + (image & 0xFE).tobytes()

    def picture(self, bitstream: bytes, height: int, width: int) -> Image:
        if len(bitstream) != HEADER.size + 3 * height * width:
            raise DecodeError("the payload has another length")
        picture = np.frombuffer(bitstream, np.uint8, offset=HEADER.size).reshape(height, width, 3)
        return np.roll(picture, width % 2, axis=1)


class StalePicture(Means):
    """Gives the picture that it decoded last instead of a refusal, if the sizes match."""

    name = "stale-picture"
    last: Image | None = None

    def decode(self, bitstream: bytes) -> Image:
        try:
            self.last = super().decode(bitstream)
        except DecodeError:
            if self.last is None:
                raise
        assert self.last is not None
        return self.last


class LosesARow(Means):
    """A row is lost above 300, and the ones below move up."""

    name = "loses-a-row"

    def picture(self, bitstream: bytes, height: int, width: int) -> Image:
        image = super().picture(bitstream, height, width)
        if height > 300:
            image[300:-1] = image[301:].copy()
        return image


class LosesTheLastColumn(Means):
    """The last column is black above 300."""

    name = "loses-the-last-column"

    def picture(self, bitstream: bytes, height: int, width: int) -> Image:
        image = super().picture(bitstream, height, width)
        if width > 300:
            image[:, -1] = 0
        return image


class DiesAbove64KiB(Means):
    name = "dies-above-64-kib"

    def decode(self, bitstream: bytes) -> Image:
        if len(bitstream) > 65536:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().decode(bitstream)


class GreyTail(Means):
    """What lies beyond the stream's first 12,000 bytes is grey."""

    name = "grey-tail"

    def decode(self, bitstream: bytes) -> Image:
        return super().decode(bitstream[:12000] + bytes([128]) * (len(bitstream) - 12000))


class EncoderFailsAbove(Means):
    """The encoder raises what is no refusal above half a million pixels."""

    name = "encoder-fails-above"

    def encode(self, image: Image) -> bytes:
        if image.shape[0] * image.shape[1] > 500_000:
            raise MemoryError("half a million")
        return super().encode(image)


class TakesNoLargeImage(Means):
    """Refuses images above 300 pixels, as it may."""

    name = "takes-no-large-image"

    def encode(self, image: Image) -> bytes:
        if max(image.shape) > 300:
            raise EncodeError("at most 300 pixels a side")
        return super().encode(image)


class AllHeader(Means):
    """Calls its whole stream header."""

    name = "all-header"

    def layout(self, bitstream: bytes) -> Layout:
        return Layout((Region("all", 0, 8 * len(bitstream), header=True),), 8 * len(bitstream))


class HeaderAndPadding(Means):
    """Calls its whole stream header, but for a byte that means nothing."""

    name = "header-and-padding"

    def encode(self, image: Image) -> bytes:
        return super().encode(image) + b"\0"

    def decode(self, bitstream: bytes) -> Image:
        return super().decode(bitstream[:-1])

    def layout(self, bitstream: bytes) -> Layout:
        bits = 8 * len(bitstream)
        last = max(0, bits - 8)
        return Layout((Region("all", 0, last, header=True), Region("padding", last, bits)), bits)


class CheckSumUnread(Means):
    """Believes its header, whatever its check sum says, and has no limit of pixels."""

    name = "check-sum-unread"

    def size(self, bitstream: bytes) -> tuple[int, int]:
        if len(bitstream) < HEADER.size:
            raise DecodeError("no header")
        height, width, _ = HEADER.unpack_from(bitstream)
        return height, width

    def picture(self, bitstream: bytes, height: int, width: int) -> Image:
        blocks = 3 * -(-height // BLOCK) * -(-width // BLOCK)
        return super().picture(bitstream[: HEADER.size + blocks].ljust(HEADER.size + blocks, b"\0"), height, width)


class SometimesRedAndBlue(Means):
    """Swaps red and blue in one damaged stream of 32, as its bytes have it."""

    name = "sometimes-red-and-blue"

    def picture(self, bitstream: bytes, height: int, width: int) -> Image:
        image = super().picture(bitstream, height, width)
        return image[..., ::-1].copy() if zlib.crc32(bitstream) % 32 == 0 else image


class ShortOfItsPromise(Means):
    """Promises a tenth of a decibel less than it keeps."""

    name = "short-of-its-promise"
    profile = replace(Means.profile, promises=(Promise("bsc(ber=0.0003)", mean_drop=0.05, p5_drop=6.0, corrupted=0.2),))
