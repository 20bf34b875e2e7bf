"""A length-checked frame for codecs whose authors leave the container open: a checked header, then named parts."""

from __future__ import annotations

import struct
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from robustkit.codec import Codec, DecodeError, EncodeError, Layout, Region
from robustkit.pixels import Image, check_image

MAGIC = b"RF"
VERSION = 1
#: No codec's frame has more parts, so that a count is known to be wrong before its lengths are read.
MOST_PARTS = 64
IDENTITY_BYTES = 4

_FIXED = struct.Struct(">2sB4sHHB")
_LENGTH = struct.Struct(">I")
_CHECK = struct.Struct(">I")
#: The header's fields before the lengths, in bits.
_FIELDS = (("magic", 16), ("version", 8), ("identity", 32), ("height", 16), ("width", 16), ("parts", 8))


@dataclass(frozen=True)
class Frame:
    """One image's stream.

    A header of ``16 + 4 n`` bytes, big-endian: magic ``RF``, version, identity (32 bits), height, width (16 bits each),
    the number n of parts (8 bits), their lengths in bytes (32 bits each), and the CRC-32 of all that. The parts follow,
    and nothing else does.

    Attributes:
        identity: four bytes that say which codec with which weights wrote the parts.
        height, width: of the image, in pixels.
        parts: what the codec wrote.
    """

    identity: bytes
    height: int
    width: int
    parts: tuple[bytes, ...]

    def pack(self) -> bytes:
        header = _FIXED.pack(MAGIC, VERSION, self.identity, self.height, self.width, len(self.parts))
        header += b"".join(_LENGTH.pack(len(part)) for part in self.parts)
        return header + _CHECK.pack(zlib.crc32(header)) + b"".join(self.parts)

    @classmethod
    def unpack(cls, stream: bytes, *, identity: bytes, writer: str, max_pixels: int) -> Frame:
        """Read a stream whose header is whole.

        Args:
            identity: what the header must say.
            writer: the codec, as messages name it.
            max_pixels: largest image.

        Raises:
            DecodeError: the header is damaged or another codec's, the lengths don't add up, or the image is too large.
        """
        if len(stream) < _FIXED.size:
            raise DecodeError(f"{len(stream)} bytes are too few for a header")
        magic, version, found, height, width, count = _FIXED.unpack_from(stream)
        if magic != MAGIC or version != VERSION or not 1 <= count <= MOST_PARTS:
            raise DecodeError("not a frame of this kind, or a damaged one")
        end = _FIXED.size + count * _LENGTH.size
        if len(stream) < end + _CHECK.size:
            raise DecodeError(f"{len(stream)} bytes are too few for a header of {count} parts")
        if _CHECK.unpack_from(stream, end) != (zlib.crc32(stream[:end]),):
            raise DecodeError("the header fails its check: it is damaged")
        if found != identity:
            raise DecodeError(f"written by a codec or weights {found.hex()}; {writer} is {identity.hex()}")
        check_size(height, width, max_pixels, DecodeError)
        lengths = [_LENGTH.unpack_from(stream, _FIXED.size + i * _LENGTH.size)[0] for i in range(count)]
        start = end + _CHECK.size
        if len(stream) != start + sum(lengths):
            raise DecodeError(f"{len(stream)} bytes, where the header announces {start + sum(lengths)}")
        parts = []
        for length in lengths:
            parts.append(stream[start : start + length])
            start += length
        return cls(identity, height, width, tuple(parts))


def check_size(height: int, width: int, max_pixels: int, error: type[ValueError]) -> None:
    """Refuse an image that no frame holds, or that is larger than the codec takes."""
    if not (1 <= height <= 0xFFFF and 1 <= width <= 0xFFFF):
        raise error(f"{width}x{height}: each side has 1 to 65535 pixels")
    if height * width > max_pixels:
        raise error(f"{width}x{height} is {height * width} pixels, above max_pixels = {max_pixels}: raise it, or crop")


def check_fits(image: Image, max_pixels: int) -> None:
    """Refuse what is no image, or one that no frame holds within ``max_pixels``.

    Raises:
        EncodeError: another dtype, another shape, or too large.
    """
    height, width, _ = check_image(image, EncodeError).shape
    check_size(height, width, max_pixels, EncodeError)


def layout(stream: bytes, names: Sequence[str]) -> Layout:
    """The header's fields, and the parts under their names; takes any bytes.

    Args:
        stream: a frame, damaged or not.
        names: of the parts; further ones are numbered.
    """
    bits = 8 * len(stream)
    count = stream[_FIXED.size - 1] if len(stream) >= _FIXED.size else 0
    count = count if 1 <= count <= MOST_PARTS else 0
    named = [names[i] if i < len(names) else f"part {i}" for i in range(count)]
    fields = [(f"header {name}", size, True) for name, size in _FIELDS]
    fields += [(f"header length of {name}", 32, True) for name in named]
    fields += [("header check sum", 32, True)]
    for i, name in enumerate(named):
        place = _FIXED.size + i * _LENGTH.size
        length = _LENGTH.unpack_from(stream, place)[0] if len(stream) >= place + _LENGTH.size else 0
        fields.append((name, 8 * length, False))
    regions, at = [], 0
    for name, size, in_header in fields:
        if at < bits:
            regions.append(Region(name, at, min(at + size, bits), in_header))
        at = min(at + size, bits)
    if at < bits:
        regions.append(Region("payload", at, bits))
    return Layout(tuple(regions), bits)


class FramedCodec(Codec):
    """A codec whose compressor knows nothing of images: the frame keeps their size, and finds out damage to it.

    A subclass has a :attr:`name` and two methods, :meth:`compress` and :meth:`decompress`.

    Args:
        max_pixels: of the largest image; a stream that announces more is refused.
    """

    #: What ``decompress`` raises on damaged bytes; anything else that it raises is a failure.
    refusals: tuple[type[Exception], ...] = ()

    def __init__(self, *, max_pixels: int = 1 << 24) -> None:
        self.max_pixels = max_pixels
        self._identity = zlib.crc32(self.name.encode()).to_bytes(4)

    @abstractmethod
    def compress(self, image: Image) -> bytes:
        """The image's bytes, whatever they are.

        Args:
            image: uint8, H x W x 3.
        """

    @abstractmethod
    def decompress(self, data: bytes, height: int, width: int) -> Image:
        """The image that :meth:`compress` was given: uint8, ``height`` x ``width`` x 3.

        Args:
            data: what ``compress`` returned, damaged or not.
            height, width: of the image, in pixels, which a check sum has found to be right.
        """

    def encode(self, image: Image) -> bytes:
        check_fits(image, self.max_pixels)
        height, width = image.shape[:2]
        return Frame(self._identity, height, width, (self.compress(image),)).pack()

    def decode(self, bitstream: bytes) -> Image:
        frame = Frame.unpack(bitstream, identity=self._identity, writer=self.name, max_pixels=self.max_pixels)
        if len(frame.parts) != 1:
            raise DecodeError(f"{len(frame.parts)} parts, where {self.name} writes one")
        try:
            return self.decompress(frame.parts[0], frame.height, frame.width)
        except self.refusals as error:
            raise DecodeError(f"{type(error).__name__}: {error}") from error

    def layout(self, bitstream: bytes) -> Layout:
        return layout(bitstream, ["data"])
