"""BPG (Bellard's specification 0.9.5) from ffmpeg's libraries: an HEVC key frame by x265 without its VPS and SPS.

A BPG file holds the few fields of the sequence parameter set that an encoder may choose; decoding rebuilds the two
parameter sets around them. PyAV brings x265 and ffmpeg's HEVC decoder, so no program need be installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from robustkit.codec import Codec, DecodeError, EncodeError, Image, Layout
from robustkit.codecs.command import CommandLine
from robustkit.codecs.frame import check_fits
from robustkit.codecs.pillow import Fields, is_int, size_stamp
from robustkit.profile import Profile, Promise

MAGIC = 0x425047FB
XMP = 3
#: x265 wants two of its smallest coding blocks a side.
SMALLEST_SIDE = 9

Chroma = Literal["4:2:0", "4:4:4"]
Planes = list[npt.NDArray[np.uint8]]

_PIXEL_FORMATS: Mapping[int, Chroma] = {1: "4:2:0", 3: "4:4:4"}
_FFMPEG_FORMATS: Mapping[Chroma, str] = {"4:2:0": "yuv420p", "4:4:4": "yuv444p"}
_VPS, _SPS, _PPS = 32, 33, 34
#: No coding block is larger, so that sizes are bounded before a decoder sees them.
_LARGEST_BLOCK = 6
_LEVEL = 186  # 6.2, the largest
#: Bytes that ffmpeg may read beyond a packet's end (its ``AV_INPUT_BUFFER_PADDING_SIZE``).
_PADDING = 64


@dataclass(frozen=True)
class _Sequence:
    """The fields of an HEVC sequence parameter set that a BPG file keeps (the specification's ``hevc_header``)."""

    log2_min_block: int
    log2_diff_block: int
    log2_min_transform: int
    log2_diff_transform: int
    depth: int
    offset: int
    strong_smoothing: int


@dataclass(frozen=True)
class _File:
    width: int
    height: int
    chroma: Chroma
    stamp: bytes | None
    sequence: _Sequence
    units: bytes


class Bpg(Codec):
    """BPG, 8 bits, BT.601 in full range, encoded by x265 and decoded by ffmpeg, through PyAV.

    Args:
        quality: the quantiser, 0 (best) to 51; 26 by default, about 1 bpp on photographs of 256x256. Not together with
            ``bpp``.
        bpp: rate in bits per pixel to come closest to, found for each image by bisection over ``quality``.
        chroma: ``"4:2:0"`` or ``"4:4:4"``.
        check_size: write the image's size a second time, with a CRC-32, as XMP, and refuse a stream in which the two
            disagree or the XMP is missing. Turn it off to decode files of another program.
        max_pixels: largest image, in pixels, that is encoded or decoded. Checked before any is allocated.

    Raises:
        ValueError: a setting is out of range.
    """

    needs: ClassVar[str] = "the extra `bpg`"
    name: ClassVar[str] = "bpg"
    family: ClassVar[str] = "classical"
    default_quality: ClassVar[int] = 26
    neutral_settings: ClassVar[frozenset[str]] = frozenset({"max_pixels"})
    #: Measured as :class:`robustkit.codecs.jpeg.Jpeg`'s.
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.959,
        quality=34.9,
        refused=0.0895,
        promises=(
            Promise("bsc(ber=1e-06)", mean_drop=4.95, p5_drop=27.5),
            Promise("bsc(ber=1e-05)", mean_drop=18.0, p5_drop=35.5, corrupted=0.205),
            Promise("bsc(ber=0.0001)", mean_drop=29.0, p5_drop=34.5, corrupted=0.295),
            Promise("burst(length=32)", mean_drop=24.5, p5_drop=38.0, corrupted=0.295),
        ),
    )

    def __init__(
        self,
        *,
        quality: int | None = None,
        bpp: float | None = None,
        chroma: Chroma = "4:2:0",
        check_size: bool = True,
        max_pixels: int = 2**24,
    ) -> None:
        if quality is not None and bpp is not None:
            raise ValueError(f"quality = {quality} and bpp = {bpp} exclude each other: give one")
        if quality is not None and (not is_int(quality) or not 0 <= quality <= 51):
            raise ValueError(f"quality = {quality!r}: give a whole number from 0 (best) to 51")
        if bpp is not None and not (isinstance(bpp, int | float) and 0 < bpp < float("inf")):
            raise ValueError(f"bpp = {bpp!r}: give a positive number of bits per pixel")
        if chroma not in get_args(Chroma):
            raise ValueError(f"chroma = {chroma!r}: one of {', '.join(get_args(Chroma))}")
        if not isinstance(check_size, bool):
            raise ValueError(f"check_size = {check_size!r}: true or false")
        if not is_int(max_pixels) or max_pixels < 1:
            raise ValueError(f"max_pixels = {max_pixels!r}: give a positive whole number")
        self.quality = None if bpp is not None else (self.default_quality if quality is None else quality)
        self.bpp, self.chroma, self.check_size, self.max_pixels = bpp, chroma, check_size, max_pixels
        self.profile = self.promised(self.promises)
        import av

        av.logging.set_level(av.logging.PANIC)

    @classmethod
    def changed_settings(cls, settings: Mapping[str, Any]) -> frozenset[str]:
        changed = super().changed_settings(settings)
        return changed - {"quality"} if settings.get("quality") == cls.default_quality else changed

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """PyAV is an extra."""
        return None if importlib.util.find_spec("av") else "pip install 'robustkit[bpg]'"

    # -- encoding ---------------------------------------------------------------------------------------------

    def encode(self, image: Image) -> bytes:
        """Compress ``image`` (uint8, H x W x 3).

        Raises:
            EncodeError: another dtype or shape, a side below 9 or above 65535, or more than ``max_pixels``.
        """
        check_fits(image, self.max_pixels)
        if min(image.shape[:2]) < SMALLEST_SIDE:
            raise EncodeError(f"{image.shape[1]}x{image.shape[0]}: x265 takes sides of {SMALLEST_SIDE} pixels or more")
        planes = _to_planes(image, self.chroma)
        size = (image.shape[1], image.shape[0])
        if self.quality is not None:
            return self._write(planes, size, self.quality)
        assert self.bpp is not None
        target = self.bpp * size[0] * size[1] / 8
        best, low, high = self._write(planes, size, self.default_quality), 0, 51
        while low <= high:
            middle = (low + high) // 2
            stream = self._write(planes, size, middle)
            if abs(len(stream) - target) < abs(len(best) - target):
                best = stream
            low, high = (low, middle - 1) if len(stream) < target else (middle + 1, high)
        return best

    def _write(self, planes: Planes, size: tuple[int, int], quality: int) -> bytes:
        units = _nal_units(_x265(planes, _FFMPEG_FORMATS[self.chroma], quality))
        kinds = [(unit[0] >> 1) & 0x3F for unit in units]
        if kinds[:3] != [_VPS, _SPS, _PPS]:
            raise EncodeError(f"x265 wrote NAL units {kinds}, not VPS, SPS, PPS and slices")
        sequence = _read_sps(units[1])
        header = _Bits()
        header.unsigned(32, MAGIC)
        header.unsigned(3, next(number for number, chroma in _PIXEL_FORMATS.items() if chroma == self.chroma))
        header.unsigned(1 + 4 + 4, 0)  # alpha, bit depth - 8, colour space
        header.unsigned(1, int(self.check_size))  # extension
        header.unsigned(3, 0)  # alpha, limited range, animation
        stamp = b""
        if self.check_size:
            text = size_stamp(size)
            stamp = _ue7(XMP) + _ue7(len(text)) + text
        kept = _Bits()
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
        # The first unit goes without its start code.
        data = _ue7(len(kept.bytes())) + kept.bytes() + b"\0\0\1".join(units[2:])
        extension = _ue7(len(stamp)) + stamp if self.check_size else b""
        return header.bytes() + _ue7(size[0]) + _ue7(size[1]) + _ue7(len(data)) + extension + data

    # -- decoding ---------------------------------------------------------------------------------------------

    def decode(self, bitstream: bytes) -> Image:
        """Reconstruct an image, uint8, H x W x 3.

        Raises:
            DecodeError: not a BPG file of this kind, one whose size fails its check, or data that ffmpeg's decoder
                calls broken.
        """
        file = self._read(bitstream)
        block = 1 << file.sequence.log2_min_block
        width, height = (-(-side // block) * block for side in (file.width, file.height))
        sps = _sps(file.sequence, width, height, file.chroma)
        stream = b"".join(b"\0\0\0\1" + unit for unit in (_vps(), sps)) + b"\0\0\0\1" + file.units
        planes = _ffmpeg(stream, _FFMPEG_FORMATS[file.chroma], width, height)
        return _to_image(planes, file.chroma)[: file.height, : file.width].copy()

    def _read(self, bitstream: bytes) -> _File:
        fields = _Walk(bitstream)
        try:
            file = fields.file()
        except _End as end:
            raise DecodeError(f"the header is damaged or cut short: {end}") from None
        if file.width * file.height > self.max_pixels:
            raise DecodeError(
                f"the header declares {file.width}x{file.height}, {file.width * file.height} pixels, "
                f"above max_pixels = {self.max_pixels}"
            )
        if self.check_size and file.stamp != size_stamp((file.width, file.height)):
            raise DecodeError(
                f"the header's size {file.width}x{file.height} fails its check: one of them is damaged, or the file "
                "was not written with check_size (check_size=false decodes it)"
            )
        return file

    def layout(self, bitstream: bytes) -> Layout:
        """Name the file's fields and its NAL units; all but the slices' data is header. Takes any bytes."""
        walk = _Walk(bitstream)
        with contextlib.suppress(_End):
            walk.file()
        walk.fields.until(len(bitstream), "rest", header=True)
        return walk.fields.layout()

    def describe(self) -> Mapping[str, str]:
        """Versions of PyAV and ffmpeg's codecs, and the settings."""
        import av

        rate = f"bpp={self.bpp:g}" if self.bpp is not None else f"quality={self.quality}"
        return {
            "pyav": av.__version__,
            "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
            "settings": f"{rate} chroma={self.chroma} check_size={str(self.check_size).lower()}",
        }


class BpgReference(CommandLine):
    """BPG through Bellard's own programs, ``bpgenc`` and ``bpgdec``.

    Args:
        quality: bpgenc's ``-q``, 0 (best) to 51.
    """

    needs: ClassVar[str] = "`bpgenc` and `bpgdec`"
    family = "classical"  # type: ignore[misc]
    commands_: ClassVar[Mapping[str, Any]] = {
        "name": "bpg-reference",
        "family": "classical",
        "encode": ("bpgenc", "-q", "{quality}", "-o", "{output}", "{input}"),
        "decode": ("bpgdec", "-o", "{output}", "{input}"),
        "stream": ".bpg",
        "quality": 29,
        "layout": "bpg",
        "install": "build libbpg from https://bellard.org/bpg/",
    }

    def __init__(self, *, quality: float | str | None = None) -> None:
        super().__init__(commands=self.commands_, quality=quality)

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """The programs are nobody's package."""
        return super().missing(commands=cls.commands_)


class _End(Exception):
    """The stream ends, or stops making sense; says where."""


class _Walk:
    """Reads a BPG file field by field, naming each, and believes nothing."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.fields = Fields(stream)

    def file(self) -> _File:
        if self._unsigned("magic", 32) != MAGIC:
            raise _End("no BPG magic")
        chroma = _PIXEL_FORMATS.get(self._unsigned("pixel format", 3))
        others = [
            self._unsigned("alpha flag", 1),
            self._unsigned("bit depth", 4),
            self._unsigned("colour space", 4),
        ]
        extended = self._unsigned("extension flag", 1)
        others += [self._unsigned(f"{name} flag", 1) for name in ("alpha 2", "limited range", "animation")]
        if chroma is None or any(others):
            raise _End("only 8-bit YCbCr BT.601 in full range, 4:2:0 or 4:4:4, without alpha and animation is read")
        width, height = self._ue7("width"), self._ue7("height")
        if not width or not height:
            raise _End("a side of 0 pixels")
        length = self._ue7("data length")
        stamp = self._extension() if extended else None
        start = self.fields.byte
        if length not in (0, len(self.stream) - start):
            raise _End(f"{length} bytes of data are announced, {len(self.stream) - start} follow")
        sequence = self._sequence()
        return _File(width, height, chroma, stamp, sequence, self._units())

    def _unsigned(self, name: str, bits: int) -> int:
        if self.fields.bit + bits > 8 * len(self.stream):
            raise _End(f"no room for {name}")
        return self.fields.field(name, bits)

    def _ue7(self, name: str) -> int:
        start = self.fields.byte
        value, place = 0, start
        while True:
            if place >= len(self.stream) or place - start > 4:
                raise _End(f"{name} has no end")
            byte = self.stream[place]
            value, place = value << 7 | byte & 0x7F, place + 1
            if not byte & 0x80:
                break
        if value >> 32 or self.stream[start] == 0x80:
            raise _End(f"{name} is no number of 32 bits at most, in the fewest bytes")
        self.fields.field(name, 8 * (place - start))
        return value

    def _extension(self) -> bytes | None:
        end = self._ue7("extension length") + self.fields.byte
        if end > len(self.stream):
            raise _End("the extension is longer than the file")
        found = None
        while self.fields.byte < end:
            tag, length = self._ue7("extension tag"), self._ue7("extension tag length")
            start = self.fields.byte
            if start + length > end:
                raise _End("an extension is longer than all of them")
            if tag == XMP:
                found = self.stream[start : start + length]
            self.fields.until(start + length, "XMP" if tag == XMP else f"extension {tag}", header=True)
        return found

    def _sequence(self) -> _Sequence:
        length = self._ue7("HEVC header length")
        end = self.fields.byte + length
        if end > len(self.stream):
            raise _End("the HEVC header is longer than the file")
        names = ("min coding block", "coding block range", "min transform block", "transform block range", "depth")
        sizes = [self._exp_golomb(name, end) for name in names]
        offset, pulse = self._unsigned("sample adaptive offset flag", 1), self._unsigned("PCM flag", 1)
        strong, extension = self._unsigned("strong smoothing flag", 1), self._unsigned("SPS extension flag", 1)
        log2_min_block, log2_min_transform = sizes[0] + 3, sizes[2] + 2
        if pulse or extension or self.fields.bit > 8 * end:
            raise _End("an HEVC header with PCM or an SPS extension, or one that does not fit its length")
        if (
            log2_min_block + sizes[1] > _LARGEST_BLOCK
            or log2_min_transform >= log2_min_block
            or log2_min_transform + sizes[3] > min(log2_min_block + sizes[1], 5)
            or sizes[4] > log2_min_block + sizes[1] - log2_min_transform
        ):
            raise _End("block sizes that HEVC does not have")
        self.fields.until(end, "HEVC header end", header=True)
        return _Sequence(log2_min_block, sizes[1], log2_min_transform, sizes[3], sizes[4], offset, strong)

    def _exp_golomb(self, name: str, end: int) -> int:
        start, zeros = self.fields.bit, 0
        while not self._bit(start + zeros, end):
            zeros += 1
            if zeros > 8:
                raise _End(f"{name} is too large")
        return self.fields.field(name, 2 * zeros + 1) - 1

    def _bit(self, place: int, end: int) -> int:
        if place >= 8 * min(end, len(self.stream)):
            raise _End("the HEVC header is cut short")
        return self.stream[place // 8] >> (7 - place % 8) & 1

    def _units(self) -> bytes:
        start = self.fields.byte
        starts = [start] + [start + m.end() for m in re.finditer(b"\0\0\1", self.stream[start:])]
        for at in starts:
            self.fields.until(min(at, len(self.stream)), "start code", header=True)
            if at + 2 > len(self.stream):
                continue
            kind = self.stream[at] >> 1 & 0x3F
            self.fields.field(f"NAL unit header, type {kind}", 16)
            following = [s - 3 for s in starts if s > at]
            stop = following[0] if following else len(self.stream)
            name = {_PPS: "PPS"}.get(kind, "slice" if kind < 32 else "NAL unit")
            self.fields.until(stop, name, header=name != "slice")
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


def _read_sps(unit: bytes) -> _Sequence:
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
    return _Sequence(sizes[0] + 3, sizes[1], sizes[2] + 2, sizes[3], intra, offset, strong)


def _profile(bits: _Bits) -> None:
    """The format range extensions' profile: any of our pictures fits it."""
    bits.unsigned(2 + 1, 0)
    bits.unsigned(5, 4)
    bits.unsigned(32, 1 << (31 - 4))
    bits.unsigned(48, 0)
    bits.unsigned(8, _LEVEL)


def _vps() -> bytes:
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
    return _unit(_VPS, bits)


def _sps(sequence: _Sequence, width: int, height: int, chroma: Chroma) -> bytes:
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
    return _unit(_SPS, bits)


def _unit(kind: int, bits: _Bits) -> bytes:
    """A NAL unit, with its emulation prevention bytes."""
    bits.end()
    payload = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", bits.bytes())
    return bytes([kind << 1, 1]) + payload


def _nal_units(stream: bytes) -> list[bytes]:
    return [unit.rstrip(b"\0") for unit in re.split(b"\0\0\0?\1", stream) if unit]


def _ue7(value: int) -> bytes:
    """The specification's numbers: seven bits a byte, the first bit set in all but the last."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def _x265(planes: Planes, pixel_format: str, quality: int) -> bytes:
    """A key frame of x265, on one thread."""
    import av

    height, width = planes[0].shape
    encoder = av.CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, pixel_format, Fraction(1, 25)
    # What BPG takes for granted, then one thread, on which the same image gives the same bits.
    fixed = "rect=1:amp=1:keyint=1:repeat-headers=1:info=0:ipratio=1:aq-mode=0:log-level=none"
    fixed += ":pools=none:frame-threads=1:no-wpp=1"
    encoder.options = {"preset": "slow", "tune": "psnr", "x265-params": f"qp={quality}:{fixed}"}
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, samples in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = samples
        plane.update(padded.tobytes())
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def _ffmpeg(stream: bytes, pixel_format: str, width: int, height: int) -> Planes:
    """The planes of the first picture.

    Raises:
        DecodeError: there is none, it is marked as corrupt, or of another size or format.
    """
    import av

    decoder = av.CodecContext.create("hevc", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode"}
    try:
        # PyAV gives ffmpeg these very bytes, and a damaged slice makes it read beyond them: zeros, not what lies there.
        frames = [*decoder.decode(av.Packet(stream + bytes(_PADDING))), *decoder.decode(None)]
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"ffmpeg: {error}") from error
    if not frames:
        raise DecodeError("ffmpeg finds no picture in the data")
    frame = frames[0]
    if (frame.width, frame.height, frame.format.name.replace("yuvj", "yuv")) != (width, height, pixel_format):
        found = f"{frame.width}x{frame.height} {frame.format.name}"
        raise DecodeError(f"the data hold {found}, the header declares {width}x{height} {pixel_format}")
    if frame.is_corrupt:
        raise DecodeError("ffmpeg calls the picture corrupt")
    return [
        np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].copy()
        for plane in frame.planes
    ]


def _to_planes(image: Image, chroma: Chroma) -> Planes:
    """Y, Cb and Cr (BT.601, full range), padded by repetition to multiples of the smallest coding block, 8."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge").astype(np.float32)
    red, green, blue = np.moveaxis(padded, 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128]
    if chroma == "4:2:0":
        planes[1:] = [p.reshape(p.shape[0] // 2, 2, p.shape[1] // 2, 2).mean(axis=(1, 3)) for p in planes[1:]]
    return [plane.round().clip(0, 255).astype(np.uint8) for plane in planes]


def _to_image(planes: Planes, chroma: Chroma) -> Image:
    luma, *others = (plane.astype(np.float32) for plane in planes)
    if chroma == "4:2:0":
        others = [_doubled(_doubled(plane).T).T for plane in others]
    blue_difference, red_difference = (plane - 128 for plane in others)
    red, blue = luma + 1.402 * red_difference, luma + 1.772 * blue_difference
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    image: Image = np.stack([red, green, blue], axis=2).round().clip(0, 255).astype(np.uint8)
    return image


def _doubled(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Twice the rows by linear interpolation, the old ones' centres between two new ones."""
    around = np.concatenate([plane[:1], plane, plane[-1:]])
    doubled = np.empty((2 * len(plane), plane.shape[1]), np.float32)
    doubled[0::2] = 0.75 * plane + 0.25 * around[:-2]
    doubled[1::2] = 0.75 * plane + 0.25 * around[2:]
    return doubled
