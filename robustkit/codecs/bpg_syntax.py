"""BPG's file syntax (Bellard's specification 0.9.5), and the HEVC parameter sets that a file leaves out.

A file holds the few fields of the sequence parameter set that an encoder may choose; decoding rebuilds the two
parameter sets around them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from robustkit.codec import EncodeError
from robustkit.codecs.pillow import Fields

MAGIC = 0x425047FB
XMP = 3

Chroma = Literal["4:2:0", "4:4:4"]

_PIXEL_FORMATS: Mapping[int, Chroma] = {1: "4:2:0", 3: "4:4:4"}
VPS, SPS, PPS = 32, 33, 34
#: No coding block is larger, so that sizes are bounded before a decoder sees them.
_LARGEST_BLOCK = 6
_LEVEL = 186  # 6.2, the largest


@dataclass(frozen=True)
class SequenceParameters:
    """The fields of an HEVC sequence parameter set that a BPG file keeps (the specification's ``hevc_header``)."""

    log2_min_block: int
    log2_diff_block: int
    log2_min_transform: int
    log2_diff_transform: int
    depth: int
    offset: int
    strong_smoothing: int


@dataclass(frozen=True)
class BpgFile:
    """What a BPG file of this kind says.

    Attributes:
        width, height: of the image, in pixels.
        chroma: how the planes are sampled.
        stamp: the XMP, if there is any.
        sequence: what is kept of the sequence parameter set.
        units: the NAL units behind it, the first without its start code.
    """

    width: int
    height: int
    chroma: Chroma
    stamp: bytes | None
    sequence: SequenceParameters
    units: bytes

    def pack(self) -> bytes:
        """The file's bytes."""
        header = _Bits()
        header.unsigned(32, MAGIC)
        header.unsigned(3, next(number for number, chroma in _PIXEL_FORMATS.items() if chroma == self.chroma))
        header.unsigned(1 + 4 + 4, 0)  # alpha, bit depth - 8, colour space
        header.unsigned(1, int(self.stamp is not None))  # extension
        header.unsigned(3, 0)  # alpha, limited range, animation
        extension = b""
        if self.stamp is not None:
            tagged = _ue7(XMP) + _ue7(len(self.stamp)) + self.stamp
            extension = _ue7(len(tagged)) + tagged
        sequence, kept = self.sequence, _Bits()
        for value in (
            sequence.log2_min_block - 3,
            sequence.log2_diff_block,
            sequence.log2_min_transform - 2,
            sequence.log2_diff_transform,
            sequence.depth,
        ):
            kept.exp_golomb(value)
        for flag in (sequence.offset, 0, sequence.strong_smoothing, 0):  # 0: pulse-code modulation, extension
            kept.unsigned(1, flag)
        kept.end()
        data = _ue7(len(kept.bytes())) + kept.bytes() + self.units
        return header.bytes() + _ue7(self.width) + _ue7(self.height) + _ue7(len(data)) + extension + data


class End(Exception):
    """The stream ends, or stops making sense; says where."""


class Walk:
    """Reads a BPG file field by field, naming each, and believes nothing."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.fields = Fields(stream)

    def file(self) -> BpgFile:
        if self._unsigned("magic", 32) != MAGIC:
            raise End("no BPG magic")
        chroma = _PIXEL_FORMATS.get(self._unsigned("pixel format", 3))
        others = [
            self._unsigned("alpha flag", 1),
            self._unsigned("bit depth", 4),
            self._unsigned("colour space", 4),
        ]
        extended = self._unsigned("extension flag", 1)
        others += [self._unsigned(f"{name} flag", 1) for name in ("alpha 2", "limited range", "animation")]
        if chroma is None or any(others):
            raise End("only 8-bit YCbCr BT.601 in full range, 4:2:0 or 4:4:4, without alpha and animation is read")
        width, height = self._ue7("width"), self._ue7("height")
        if not width or not height:
            raise End("a side of 0 pixels")
        length = self._ue7("data length")
        stamp = self._extension() if extended else None
        start = self.fields.byte
        if length not in (0, len(self.stream) - start):
            raise End(f"{length} bytes of data are announced, {len(self.stream) - start} follow")
        sequence = self._sequence()
        return BpgFile(width, height, chroma, stamp, sequence, self._units())

    def _unsigned(self, name: str, bits: int) -> int:
        if self.fields.bit + bits > 8 * len(self.stream):
            raise End(f"no room for {name}")
        return self.fields.field(name, bits)

    def _ue7(self, name: str) -> int:
        start = self.fields.byte
        value, place = 0, start
        while True:
            if place >= len(self.stream) or place - start > 4:
                raise End(f"{name} has no end")
            byte = self.stream[place]
            value, place = value << 7 | byte & 0x7F, place + 1
            if not byte & 0x80:
                break
        if value >> 32 or self.stream[start] == 0x80:
            raise End(f"{name} is no number of 32 bits at most, in the fewest bytes")
        self.fields.field(name, 8 * (place - start))
        return value

    def _extension(self) -> bytes | None:
        end = self._ue7("extension length") + self.fields.byte
        if end > len(self.stream):
            raise End("the extension is longer than the file")
        found = None
        while self.fields.byte < end:
            tag, length = self._ue7("extension tag"), self._ue7("extension tag length")
            start = self.fields.byte
            if start + length > end:
                raise End("an extension is longer than all of them")
            if tag == XMP:
                found = self.stream[start : start + length]
            self.fields.until(start + length, "XMP" if tag == XMP else f"extension {tag}", header=True)
        return found

    def _sequence(self) -> SequenceParameters:
        length = self._ue7("HEVC header length")
        end = self.fields.byte + length
        if end > len(self.stream):
            raise End("the HEVC header is longer than the file")
        names = ("min coding block", "coding block range", "min transform block", "transform block range", "depth")
        sizes = [self._exp_golomb(name, end) for name in names]
        offset, pulse = self._unsigned("sample adaptive offset flag", 1), self._unsigned("PCM flag", 1)
        strong, extension = self._unsigned("strong smoothing flag", 1), self._unsigned("SPS extension flag", 1)
        log2_min_block, log2_min_transform = sizes[0] + 3, sizes[2] + 2
        if pulse or extension or self.fields.bit > 8 * end:
            raise End("an HEVC header with PCM or an SPS extension, or one that does not fit its length")
        if (
            log2_min_block + sizes[1] > _LARGEST_BLOCK
            or log2_min_transform >= log2_min_block
            or log2_min_transform + sizes[3] > min(log2_min_block + sizes[1], 5)
            or sizes[4] > log2_min_block + sizes[1] - log2_min_transform
        ):
            raise End("block sizes that HEVC does not have")
        self.fields.until(end, "HEVC header end", header=True)
        return SequenceParameters(log2_min_block, sizes[1], log2_min_transform, sizes[3], sizes[4], offset, strong)

    def _exp_golomb(self, name: str, end: int) -> int:
        start, zeros = self.fields.bit, 0
        while not self._bit(start + zeros, end):
            zeros += 1
            if zeros > 8:
                raise End(f"{name} is too large")
        return self.fields.field(name, 2 * zeros + 1) - 1

    def _bit(self, place: int, end: int) -> int:
        if place >= 8 * min(end, len(self.stream)):
            raise End("the HEVC header is cut short")
        return self.stream[place // 8] >> (7 - place % 8) & 1

    def _units(self) -> bytes:
        start = self.fields.byte
        starts = [start] + [start + m.end() for m in re.finditer(b"\0\0\1", self.stream[start:])]
        for at, following in zip(starts, [*(s - 3 for s in starts[1:]), len(self.stream)], strict=True):
            self.fields.until(min(at, len(self.stream)), "start code", header=True)
            if at + 2 > len(self.stream):
                continue
            kind = self.stream[at] >> 1 & 0x3F
            self.fields.field(f"NAL unit header, type {kind}", 16)
            name = {PPS: "PPS"}.get(kind, "slice" if kind < 32 else "NAL unit")
            self.fields.until(following, name, header=name != "slice")
        return self.stream[start:]


class _Bits:
    """Writes bits, the highest first."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def unsigned(self, bits: int, value: int) -> None:
        self._text.append(f"{value:0{bits}b}")

    def exp_golomb(self, value: int) -> None:
        word = f"{value + 1:b}"
        self._text.append("0" * (len(word) - 1) + word)

    def end(self) -> None:
        """A one, and zeros up to the byte's end (``rbsp_trailing_bits``)."""
        self._text.append("1")
        self._text.append("0" * (-sum(map(len, self._text)) % 8))

    def bytes(self) -> bytes:
        text = "".join(self._text)
        return int(text, 2).to_bytes(len(text) // 8, "big")


class _Reader:
    """Reads bits of what x265 wrote."""

    def __init__(self, payload: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in payload)
        self._at = 0

    def unsigned(self, bits: int) -> int:
        self._at += bits
        return int(self._text[self._at - bits : self._at], 2)

    def exp_golomb(self) -> int:
        zeros = self._text.index("1", self._at) - self._at
        self._at += zeros
        return self.unsigned(zeros + 1) - 1


def read_sps(unit: bytes) -> SequenceParameters:
    """The fields that a BPG file keeps of x265's sequence parameter set (H.265, 7.3.2.2).

    Raises:
        EncodeError: it has something that a BPG file can't say.
    """
    bits = _Reader(unit[2:].replace(b"\0\0\3", b"\0\0"))
    layers = bits.unsigned(4 + 3)  # VPS id, sub-layers - 1
    bits.unsigned(1 + 88 + 8)  # nesting, profile, level
    ids = bits.exp_golomb()
    if bits.exp_golomb() == 3:
        ids += bits.unsigned(1)  # separate colour planes
    bits.exp_golomb(), bits.exp_golomb()  # width, height
    window = bits.unsigned(1)
    depths = bits.exp_golomb() + bits.exp_golomb()
    order_bits = bits.exp_golomb()
    bits.unsigned(1)
    for _ in range(3):
        bits.exp_golomb()  # of the picture buffer
    sizes = [bits.exp_golomb() for _ in range(4)]
    inter, intra = bits.exp_golomb(), bits.exp_golomb()
    scaling, asymmetric, offset, pulse = (bits.unsigned(1) for _ in range(4))
    references = bits.exp_golomb() + bits.unsigned(1)
    temporal, strong = bits.unsigned(1), bits.unsigned(1)
    given = (layers, ids, window, depths, order_bits, intra - inter, scaling, asymmetric, pulse, references, temporal)
    if given != (0, 0, 0, 0, 4, 0, 0, 1, 0, 0, 1):
        raise EncodeError(f"x265 chose what BPG can't say: {given}")
    return SequenceParameters(sizes[0] + 3, sizes[1], sizes[2] + 2, sizes[3], intra, offset, strong)


def _profile(bits: _Bits) -> None:
    """The format range extensions' profile: any of our pictures fits it."""
    bits.unsigned(2 + 1, 0)
    bits.unsigned(5, 4)
    bits.unsigned(32, 1 << (31 - 4))
    bits.unsigned(48, 0)
    bits.unsigned(8, _LEVEL)


def vps() -> bytes:
    """A video parameter set (H.265, 7.3.2.1) of one layer."""
    bits = _Bits()
    for size, value in ((4, 0), (2, 3), (6, 0), (3, 0), (1, 1), (16, 0xFFFF)):
        bits.unsigned(size, value)
    _profile(bits)
    bits.unsigned(1, 1)
    for _ in range(3):
        bits.exp_golomb(0)
    bits.unsigned(6, 0)
    bits.exp_golomb(0)
    bits.unsigned(2, 0)  # timing, extension
    return _unit(VPS, bits)


def sps(sequence: SequenceParameters, width: int, height: int, chroma: Chroma) -> bytes:
    """The sequence parameter set that a BPG file stands for."""
    bits = _Bits()
    for size, value in ((4, 0), (3, 0), (1, 1)):
        bits.unsigned(size, value)
    _profile(bits)
    bits.exp_golomb(0)
    bits.exp_golomb(next(number for number, known in _PIXEL_FORMATS.items() if known == chroma))
    if chroma == "4:4:4":
        bits.unsigned(1, 0)
    bits.exp_golomb(width)
    bits.exp_golomb(height)
    bits.unsigned(1, 0)  # conformance window
    bits.exp_golomb(0)
    bits.exp_golomb(0)  # bit depths - 8
    bits.exp_golomb(4)  # bits of the picture order count - 4
    bits.unsigned(1, 1)
    for _ in range(3):
        bits.exp_golomb(0)
    for value in (
        sequence.log2_min_block - 3,
        sequence.log2_diff_block,
        sequence.log2_min_transform - 2,
        sequence.log2_diff_transform,
        sequence.depth,
        sequence.depth,
    ):
        bits.exp_golomb(value)
    for flag in (0, 1, sequence.offset, 0):  # scaling lists, asymmetric partitions, offset, pulse-code modulation
        bits.unsigned(1, flag)
    bits.exp_golomb(0)  # reference picture sets
    for flag in (0, 1, sequence.strong_smoothing, 0, 0):  # long-term references, temporal MVP, ..., VUI, extension
        bits.unsigned(1, flag)
    return _unit(SPS, bits)


def _unit(kind: int, bits: _Bits) -> bytes:
    """A NAL unit, with its emulation prevention bytes."""
    bits.end()
    payload = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", bits.bytes())
    return bytes([kind << 1, 1]) + payload


def nal_units(stream: bytes) -> list[bytes]:
    """The NAL units of a stream, without their start codes."""
    return [unit.rstrip(b"\0") for unit in re.split(b"\0\0\0?\1", stream) if unit]


def nal_kind(unit: bytes) -> int:
    """``nal_unit_type`` (H.265, 7.4.2.2)."""
    return (unit[0] >> 1) & 0x3F


def _ue7(value: int) -> bytes:
    """The specification's numbers: seven bits a byte, the first bit set in all but the last."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))
