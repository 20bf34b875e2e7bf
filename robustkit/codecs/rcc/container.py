"""The stream's container: a header that survives heavy damage, then a payload of fixed layout."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

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
_PACKING = struct.Struct(">2sBHHBBBHBIB5sI")
_CHECK = struct.Struct(">H")
PARITY = 32
HEADER_BYTES = _PACKING.size + _CHECK.size + PARITY
_code = RSCodec(PARITY)


@dataclass(frozen=True)
class Header:
    """Everything a decoder must know.

    Attributes:
        protocol: number of the bit protocol.
        height, width: of the image, in pixels.
        steps, closing, atoms: T, N and M.
        protected: share of the coded steps, from the first, under forward error correction, in 1/100.
        size_log2: log2 of K.
        codebook: number of the codebook's kind.
        seed: of the first noise and the codebook.
        efficiency: the schedule's efficiency, in 1/100.
        prior: first bytes of the prior's identity.
        payload: bytes that follow the header.
        interleaved: whether groups of unprotected steps are.
    """

    protocol: int
    height: int
    width: int
    steps: int
    closing: int
    protected: int
    atoms: int
    size_log2: int
    codebook: int
    seed: int
    efficiency: int
    prior: bytes
    payload: int
    interleaved: bool = False

    def pack(self) -> bytes:
        """The header as ``HEADER_BYTES`` bytes, parity included."""
        packed = _PACKING.pack(
            MAGIC,
            VERSION << 4 | self.interleaved << 3 | self.protocol,
            self.height,
            self.width,
            self.steps,
            self.closing,
            self.protected,
            self.atoms,
            self.codebook << 5 | self.size_log2,
            self.seed,
            self.efficiency,
            self.prior,
            self.payload,
        )
        check = _CHECK.pack(zlib.crc32(packed) & 0xFFFF)
        return bytes(_code.encode(packed + check))

    @classmethod
    def unpack(cls, stream: bytes) -> Header:
        """Read, and where damaged repair, the header at the start of ``stream``.

        Raises:
            DecodeError: too short, beyond repair, not this format or version.
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
        magic, version, height, width, *counts, book, seed, efficiency, prior, payload = _PACKING.unpack(packed)
        if magic != MAGIC or version >> 4 != VERSION:
            raise DecodeError(f"magic {magic!r} version {version >> 4}, not {MAGIC!r} version {VERSION}")
        steps, closing, protected, atoms = counts
        return cls(
            protocol=version & 7,
            height=height,
            width=width,
            steps=steps,
            closing=closing,
            protected=protected,
            atoms=atoms,
            size_log2=book & 31,
            codebook=book >> 5,
            seed=seed,
            efficiency=efficiency,
            prior=prior,
            payload=payload,
            interleaved=bool(version & 8),
        )


#: Names and bit counts of the header's fields, in their order in the stream.
HEADER_FIELDS = (
    ("magic", 16),
    ("version", 4),
    ("interleaved", 1),
    ("protocol", 3),
    ("height", 16),
    ("width", 16),
    ("steps", 8),
    ("closing steps", 8),
    ("protected share", 8),
    ("atoms", 16),
    ("codebook", 3),
    ("codebook size", 5),
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
