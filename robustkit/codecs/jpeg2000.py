"""JPEG 2000 through Pillow and OpenJPEG: wavelets and bit planes in a bare codestream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import ClassVar

from PIL import Image as PillowImage
from PIL import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from robustkit.codec import Layout
from robustkit.codecs.pillow import Fields, PillowCodec, Truncated, size_stamp
from robustkit.profile import Profile, Promise


class Jpeg2000(PillowCodec):
    """JPEG 2000 Part 1 (ITU-T T.800), irreversible 9/7 wavelet, one tile, one quality layer.

    A codestream without the JP2 boxes around it, whose damage Pillow's reader answers with failed assertions. With
    ``check_size=False`` it is taken out of them, if it is RGB without a palette.
    OpenJPEG's error resilience (SOP and EPH markers, segmentation symbols) has no switch in Pillow.

    Args:
        quality: PSNR in dB that OpenJPEG aims at, 15 to 60; 34 by default, about 1 bpp on
            photographs of 256x256. Not together with ``bpp``.
        bpp: rate in bits per pixel, which OpenJPEG keeps to.
        packet_lengths: write the lengths of the packets (PLT), so that the layout can name them; no decoder needs them.
        truncated: what to do with a stream that Pillow calls truncated or broken: "refuse" it, or "tolerate" it.
        check_size: write the image's size a second time, with a CRC-32, in a comment (COM), and refuse a stream in
            which the two disagree or the comment is missing. Turn it off to decode files of another program.
        max_pixels: largest image, in pixels, that is encoded or decoded. Checked before any is allocated.

    Raises:
        ValueError: a setting is out of range.
    """

    name: ClassVar[str] = "jpeg2000"
    format: ClassVar[str] = "JPEG 2000"
    library: ClassVar[tuple[str, str]] = ("openjpeg", "jpg_2000")
    qualities: ClassVar[range] = range(15, 61)
    default_quality: ClassVar[int] = 34
    #: The format's own bound is 2**32 - 1; no image below ``max_pixels`` has a longer side than this.
    max_side: ClassVar[int] = 2**26
    # Pillow's reader of the codestream's markers raises ValueError where a length is out of range.
    refusals: ClassVar[tuple[type[Exception], ...]] = (*PillowCodec.refusals, ValueError)

    #: Measured as :class:`robustkit.codecs.jpeg.Jpeg`'s.
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.985,
        quality=33.75,
        refused=0.225,
        expected_refused=0.132,
        promises=(
            Promise(
                "bsc(ber=1e-06)",
                mean_drop=0.6,
                p5_drop=5.0,
                corrupted=0.069,
                expected_mean_drop=0.0725,
                expected_p5_drop=0.155,
                expected_corrupted=0.000833,
            ),
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=3.15,
                p5_drop=14.0,
                corrupted=0.115,
                expected_mean_drop=1.2,
                expected_p5_drop=7.62,
                expected_corrupted=0.0108,
            ),
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=13.5,
                p5_drop=28.5,
                corrupted=0.29,
                expected_mean_drop=7.97,
                expected_corrupted=0.075,
            ),
            Promise(
                "bsc(ber=0.001)",
                mean_drop=27.0,
                p5_drop=30.0,
                corrupted=0.85,
                expected_mean_drop=21.8,
                expected_corrupted=0.542,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=6.95,
                p5_drop=28.0,
                corrupted=0.16,
                expected_mean_drop=3.01,
                expected_p5_drop=26.7,
                expected_corrupted=0.0292,
            ),
        ),
    )

    def __init__(
        self,
        *,
        quality: int | None = None,
        bpp: float | None = None,
        packet_lengths: bool = True,
        truncated: Truncated = "refuse",
        check_size: bool = True,
        max_pixels: int = 2**26,
    ) -> None:
        super().__init__(quality=quality, bpp=bpp, truncated=truncated, check_size=check_size, max_pixels=max_pixels)
        self.packet_lengths = packet_lengths

    def _write(self, image: PillowImage.Image, quality: int) -> bytes:
        return self._save(image, "dB", quality)

    def _closest(self, image: PillowImage.Image, target: float) -> bytes:
        return self._save(image, "rates", 3 * image.width * image.height / target)

    def _save(self, image: PillowImage.Image, mode: str, layer: float) -> bytes:
        # OpenJPEG has five decompositions by default, and refuses more than the shorter side can be halved.
        resolutions = min(6, min(image.size).bit_length())
        buffer = io.BytesIO()
        image.save(
            buffer,
            "JPEG2000",
            no_jp2=True,
            quality_mode=mode,
            quality_layers=[layer],
            num_resolutions=resolutions,
            irreversible=True,
            mct=1,
            plt=self.packet_lengths,
            comment=size_stamp(image.size) if self.check_size else b"",
        )
        return buffer.getvalue()

    def _open(self, stream: io.BytesIO) -> ImageFile.ImageFile:
        if not self.check_size and stream.getvalue().startswith(_SIGNATURE):
            stream = io.BytesIO(_unboxed(stream.getvalue()))
        if not stream.getvalue().startswith(b"\xff\x4f\xff\x51"):
            raise SyntaxError("no SOC and SIZ markers")
        return Jpeg2KImageFile(stream)

    def layout(self, bitstream: bytes) -> Layout:
        """Name the markers' fields, and the packets where PLT has their lengths; all but packets is header."""
        return _Markers(bitstream).layout()


#: The signature box of a JP2 file (ITU-T T.800, I.5.1), and the colour space sRGB of a colr box (I.5.3.3).
_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_SRGB = 16


def _unboxed(file: bytes) -> bytes:
    """The codestream of a JP2 file.

    Raises:
        SyntaxError: there is none, or what lies in it are not the samples of an sRGB image.
    """
    for kind, content in _boxes(file):
        if kind == b"jp2h":
            header = dict(reversed(list(_boxes(content))))
            if header.keys() & {b"pclr", b"cdef"}:
                raise SyntaxError("a JP2 file with a palette or an alpha channel")
            colour = header.get(b"colr", b"")
            if colour[:1] == b"\x01" and int.from_bytes(colour[3:7], "big") != _SRGB:
                raise SyntaxError("a JP2 file in another colour space than sRGB")
        elif kind == b"jp2c":
            return content
    raise SyntaxError("a JP2 file without a codestream")


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes that lie side by side in ``data``: type and content."""
    place = 0
    while place + 8 <= len(data):
        size, start = int.from_bytes(data[place : place + 4], "big"), place + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        # 0: to the end. Less than its own header is damage.
        stop = len(data) if size == 0 else place + size
        yield data[place + 4 : place + 8], data[start:stop]
        place = max(stop, start)


_NAMES = {0x4F: "SOC", 0x51: "SIZ", 0x52: "COD", 0x53: "COC", 0x55: "TLM", 0x57: "PLM", 0x58: "PLT", 0x5C: "QCD"}
_NAMES |= {0x5D: "QCC", 0x5E: "RGN", 0x5F: "POC", 0x60: "PPM", 0x61: "PPT", 0x63: "CRG", 0x64: "COM", 0x90: "SOT"}
_NAMES |= {0x91: "SOP", 0x92: "EPH", 0x93: "SOD", 0xD9: "EOC"}
#: Names and bits of the fields after a segment's length; the rest of it is its "data".
_FIELDS = {
    "SIZ": [
        *(("capabilities", 16), ("width", 32), ("height", 32), ("x offset", 32), ("y offset", 32)),
        *(("tile width", 32), ("tile height", 32), ("tile x offset", 32), ("tile y offset", 32), ("components", 16)),
    ],
    "COD": [
        *(("coding style", 8), ("progression", 8), ("layers", 16), ("colour transform", 8), ("decompositions", 8)),
        *(("code-block width", 8), ("code-block height", 8), ("code-block style", 8), ("wavelet", 8)),
    ],
    "QCD": [("style", 8)],
    "COM": [("registration", 16)],
    "SOT": [("tile", 16), ("length of the part", 32), ("part", 8), ("parts", 8)],
    "PLT": [("index", 8)],
}


class _Markers(Fields):
    """Walks the markers (ITU-T T.800, Annex A), which are followed by a length but for the delimiting ones."""

    def layout(self) -> Layout:
        part_ends = len(self.stream)
        tile = 0
        packets: list[int] = []
        while self.byte < len(self.stream):
            start = self.byte
            if self.stream[start] != 0xFF:
                break
            name = (
                _NAMES.get(self.stream[start + 1], f"marker {self.stream[start + 1]:02X}")
                if start + 1 < len(self.stream)
                else "marker"
            )
            self.field(f"{name} marker", 16)
            if name in ("SOC", "EPH", "EOC", "marker"):
                continue
            if name == "SOD":
                self._packets(tile, packets, min(part_ends, len(self.stream)))
                packets = []
                continue
            length = self.field(f"{name} length", 16)
            stop = min(start + 2 + max(2, length), len(self.stream))
            values = [self.field(f"{name} {what}", bits, limit=stop) for what, bits in _FIELDS.get(name, [])]
            if name == "SOT":
                tile = values[0]
                part_ends = start + values[1] if values[1] else len(self.stream) - 2
            elif name == "PLT":
                packets += _lengths(self.stream[self.byte : stop])
            self.until(stop, f"{name} data", header=True)
        self.until(len(self.stream), "bytes outside markers", header=False)
        return super().layout()

    def _packets(self, tile: int, lengths: list[int], stop: int) -> None:
        for number, length in enumerate(lengths):
            self.until(min(self.byte + length, stop), f"tile {tile} packet {number}", header=False)
        self.until(stop, f"tile {tile} packets", header=False)


def _lengths(data: bytes) -> list[int]:
    """The packet lengths of a PLT segment: seven bits a byte, all but the last byte of each with the top bit set."""
    lengths, value = [], 0
    for byte in data:
        # Bounded, because damage can chain as many bytes as the segment has.
        value = (value << 7 | byte & 127) & 0xFFFFFFFF
        if byte < 128:
            lengths.append(value)
            value = 0
    return lengths
