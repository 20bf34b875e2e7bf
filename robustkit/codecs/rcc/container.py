"""The stream's container: a header that survives heavy damage, then a payload of fixed layout."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, Self, TypeVar

from reedsolo import ReedSolomonError, RSCodec

from robustkit.codec import DecodeError

MAGIC = b"RK"
VERSION = 1
PRIOR_BYTES = 5
#: Sides of an image that the codecs take, checked before anything is allocated.
MAX_SIDE = 8192
MAX_PIXELS = 1 << 24

#: 29 bytes and 32 of Reed-Solomon parity: any 16 wrong bytes are repaired, so a burst of 120 bits, and all but 2
#: headers in a million at BER 1e-2 (for that, repetition with a majority vote needs 9 copies, 252 bytes).
_PACKING = struct.Struct(">2sBHH6sIB5sI")
_METHOD_BITS = 48
_CHECK = struct.Struct(">H")
PARITY = 32
#: Which codec reads the streams of a bit protocol.
WRITERS: Mapping[int, str] = {
    0: "turbo-ddcm",
    1: "robust-turbo-ddcm",
    2: "robust-turbo-ddcm-uep",
    3: "ddcm",
    4: "diffc",
    5: "psc",
    6: "robust-turbo-ddcm",
}
HEADER_BYTES = _PACKING.size + _CHECK.size + PARITY
_code = RSCodec(PARITY)


class Parameters:
    """A method's own settings in the header: a frozen dataclass of non-negative integers.

    ``fields`` names them in their order, each with its width, at most 48 bits in all.
    """

    fields: ClassVar[tuple[tuple[str, int], ...]]

    def pack(self) -> bytes:
        """Six bytes, the fields from the highest bit down."""
        packed, used = 0, 0
        for name, bits in self.fields:
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} = {value} takes more than {bits} bits")
            packed, used = packed << bits | value, used + bits
        return (packed << _METHOD_BITS - used).to_bytes(_METHOD_BITS // 8)

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """The settings that :meth:`pack` wrote; every six bytes give some."""
        values, left = {}, int.from_bytes(packed) >> _METHOD_BITS - sum(bits for _, bits in cls.fields)
        for name, bits in reversed(cls.fields):
            values[name], left = left & (1 << bits) - 1, left >> bits
        return cls(**values)


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Header(Generic[P]):
    """Everything a decoder must know.

    Attributes:
        schedule: number of the noise schedule.
        protocol: number of the bit protocol.
        height, width: of the image, in pixels.
        method: the method's own settings.
        seed: of the first noise and the codebook.
        efficiency: the noise schedule's efficiency, in 1/100.
        prior: first bytes of the prior's identity.
        payload: bytes that follow the header.
    """

    schedule: int
    protocol: int
    height: int
    width: int
    method: P
    seed: int
    efficiency: int
    prior: bytes
    payload: int

    def pack(self) -> bytes:
        """The header as ``HEADER_BYTES`` bytes, parity included."""
        packed = _PACKING.pack(
            MAGIC,
            self.schedule << 6 | VERSION << 4 | self.protocol,
            self.height,
            self.width,
            self.method.pack(),
            self.seed,
            self.efficiency,
            self.prior,
            self.payload,
        )
        check = _CHECK.pack(zlib.crc32(packed) & 0xFFFF)
        return bytes(_code.encode(packed + check))

    @classmethod
    def unpack(cls, stream: bytes, methods: Mapping[int, type[P]]) -> Header[P]:
        """Read, and where damaged repair, the header at the start of ``stream``.

        Args:
            stream: a header and what follows.
            methods: what the settings of each bit protocol are that the caller reads.

        Raises:
            DecodeError: too short, beyond repair, not this format or version, or another bit protocol.
        """
        if len(stream) < HEADER_BYTES:
            raise DecodeError(f"{len(stream)} bytes are too few for the header's {HEADER_BYTES}")
        try:
            repaired = bytes(_code.decode(stream[:HEADER_BYTES])[0])
        except ReedSolomonError as error:
            raise DecodeError("the header is damaged beyond repair, or this is no RCC stream") from error
        packed, check = repaired[: _PACKING.size], repaired[_PACKING.size :]
        if _CHECK.pack(zlib.crc32(packed) & 0xFFFF) != check:
            raise DecodeError("the header is damaged beyond repair: its checksum is wrong")
        magic, version, height, width, method, *more = _PACKING.unpack(packed)
        schedule, version, protocol = version >> 6, version >> 4 & 3, version & 15
        if magic != MAGIC or version != VERSION:
            raise DecodeError(f"magic {magic!r} version {version}, not {MAGIC!r} version {VERSION}")
        if protocol not in methods:
            known = ", ".join(map(str, methods))
            other = f"give the stream to {WRITERS[protocol]}; " if protocol in WRITERS else ""
            raise DecodeError(f"bit protocol {protocol}: {other}this codec reads {known}")
        return cls(schedule, protocol, height, width, methods[protocol].unpack(method), *more)


def header_fields(method: type[Parameters]) -> tuple[tuple[str, int], ...]:
    """Names and bit counts of the header's fields, in their order in the stream."""
    return (
        ("magic", 16),
        ("schedule", 2),
        ("version", 2),
        ("protocol", 4),
        ("height", 16),
        ("width", 16),
        *((name.replace("_", " "), bits) for name, bits in method.fields),
        ("unused", _METHOD_BITS - sum(bits for _, bits in method.fields)),
        ("seed", 32),
        ("efficiency", 8),
        ("prior", 8 * PRIOR_BYTES),
        ("payload length", 32),
        ("checksum", 16),
        ("parity", 8 * PARITY),
    )


def check_size(height: int, width: int) -> str | None:
    """Why an image of this size is not taken, or ``None`` if it is."""
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width <= MAX_PIXELS):
        return f"{height}x{width} pixels: sides are 1 to {MAX_SIDE}, and at most {MAX_PIXELS} pixels in all"
    return None
