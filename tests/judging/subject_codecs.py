"""Codecs of test_subject.py, apart from what the tests import: their processes start in a third of the time."""

from typing import ClassVar

import numpy as np

from robustkit import Codec, DecodeError, EncodeError, Layout, Profile, Promise, Region

PROFILE = Profile(bpp=24.1, quality=99.0, promises=(Promise("bsc(ber=0.01)", mean_drop=60.0, p5_drop=80.0),))


class Store(Codec):
    """Stores the pixels of images 8 wide after a byte that must stay zero; refuses small images."""

    name = "store"
    family = "test"
    profile = PROFILE

    def encode(self, image):
        if image.shape[0] < 4:
            raise EncodeError("too small")
        return b"\0" + image[:, :8].tobytes()

    def decode(self, bitstream):
        if bitstream[:1] != b"\0":
            raise DecodeError("the first byte is not zero")
        if len(bitstream) % 24 != 1:
            raise ZeroDivisionError("odd length")
        return np.frombuffer(bitstream[1:], np.uint8).reshape(-1, 8, 3)

    def layout(self, bitstream):
        bits = 8 * len(bitstream)
        start = min(8, bits)
        return Layout((Region("guard", 0, start, header=True), Region("pixels", start, bits)), bits)


class Brittle(Store):
    """Raises when the highest bit of any sample in the first row is set; that of the first sample is bit 8."""

    name = "brittle"

    def decode(self, bitstream):
        image = super().decode(bitstream)
        if (image[0] & 128).any():
            raise RuntimeError("brittle")
        return image


class Wide(Codec):
    """Stores images of any width, and of at least two rows; one that is a pixel wide comes back turned."""

    name = "wide"
    family = "test"

    def encode(self, image):
        if image.shape[0] < 2:
            raise EncodeError("too low")
        return image.shape[1].to_bytes(2, "big") + image.tobytes()

    def decode(self, bitstream):
        width = int.from_bytes(bitstream[:2], "big")
        pixels = np.frombuffer(bitstream[2:], np.uint8)
        return pixels.reshape(-1, width, 3) if width > 1 else pixels.reshape(width, -1, 3)

    def layout(self, bitstream):
        return Layout((Region("all", 0, 8 * len(bitstream)),), 8 * len(bitstream))


class LongLayout(Store):
    name = "long-layout"

    def layout(self, bitstream):
        return Layout((), 8 * len(bitstream) + 8)


class Confused(Store):
    name = "confused"
    known_defects: ClassVar = {"crash": "https://example.org/1"}


class OldFashioned(Store):
    name = "old-fashioned"
    known_defects: ClassVar = {"decoding is deterministic": "https://example.org/2"}


class Together(Store):
    """Decodes in batches, as codecs do whose libraries have threads."""

    name = "store"

    def decode_batch(self, bitstreams):
        return super().decode_batch(bitstreams)


class Mending(Store):
    """Gives the original where the byte behind the guard is odd, which it never writes, and else a darker picture."""

    name = "mending"

    def encode(self, image):
        return b"\0" + bytes(24) + image[:, :8].tobytes()

    def decode(self, bitstream):
        image = super().decode(bitstream[:1] + bitstream[25:])
        return image if bitstream[1] & 1 else image // 2


class Lax(Store):
    """Says that its pixels may be any."""

    name = "lax"
    tolerance = (255.0, 255.0)


class Exact(Store):
    name = "exact"
    tolerance = (1.0, 0.02)
