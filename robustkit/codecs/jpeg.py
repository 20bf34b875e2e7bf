"""JPEG through Pillow and libjpeg-turbo: the classical codec that every other one is compared with.

Strict by default: a stream that Pillow calls truncated or broken is refused.
"""

from __future__ import annotations

import io
import re
from typing import Any, ClassVar, Literal, get_args

from PIL import Image as PillowImage
from PIL import ImageFile, features
from PIL.JpegImagePlugin import JpegImageFile

from robustkit.codec import Layout
from robustkit.codecs.pillow import Fields, PillowCodec, Truncated, size_stamp
from robustkit.profile import Profile, Promise

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
Colours = Literal["refuse", "convert"]


class Jpeg(PillowCodec):
    """Baseline JPEG (ITU-T T.81), Huffman tables of its Annex K.

    Args:
        quality: libjpeg's quality, 1 to 100; 50 by default (the unscaled tables of Annex K, about 1 bpp on
            photographs of 256x256). Not together with ``bpp``.
        bpp: rate in bits per pixel to come closest to, found for each image by bisection over ``quality``.
        subsampling: of the chroma, "4:2:0", "4:2:2" or "4:4:4".
        truncated: what to do with a stream that Pillow calls truncated or broken: "refuse" it, or "tolerate"
            it and return what was decoded so far, the rest blank. Pillow does the latter under
            ``LOAD_TRUNCATED_IMAGES``, which the published bit-flip experiments (arXiv 2604.05743) had on.
        check_size: write the image's size a second time, with a CRC-32, in a comment segment, and refuse a
            stream in which the two disagree or the comment is missing. Without it a flip in the frame
            header's height gives an image of another size. The stream stays an ordinary JPEG file. Turn it
            off to decode files that another program wrote, or to reproduce experiments with plain JPEG.
        colours: what to do with a stream whose frame header declares one component or four: "refuse" it, or
            "convert" the grey or CMYK image to RGB, as the published bit-flip experiments do.
        max_pixels: largest image, in pixels, that is encoded or decoded. Checked before any is allocated.

    Raises:
        ValueError: a setting is out of range.
    """

    name: ClassVar[str] = "jpeg"
    format: ClassVar[str] = "JPEG"
    library: ClassVar[tuple[str, str]] = ("libjpeg-turbo", "libjpeg_turbo")
    #: libjpeg's JPEG_MAX_DIMENSION; the format's own fields would hold 65535.
    max_side: ClassVar[int] = 65500
    #: Rows of MCUs between two restart markers, 0 for none.
    restart_rows: ClassVar[int] = 0
    #: Measured on scikit-image's six photographs at 256x256: 1.032 bpp, 31.41 dB. Limits say what is unacceptable, and
    #: leave room for what quick runs can't tell. Both are of fresh trials (``robustkit measure --codec jpeg --seed 2
    #: --trials 200``), and slackened where the golden drops' own trials would miss a limit in one of a hundred runs.
    promises: ClassVar[Profile | None] = Profile(
        bpp=1.05,
        quality=31.3,
        refused=0.35,
        expected_refused=0.201,
        promises=(
            Promise(
                "bsc(ber=1e-06)",
                mean_drop=2.2,
                p5_drop=15.5,
                corrupted=0.0845,
                expected_mean_drop=0.364,
                expected_p5_drop=0.0025,
                expected_corrupted=0.000833,
            ),
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=8.15,
                p5_drop=25.0,
                corrupted=0.125,
                expected_mean_drop=3.43,
                expected_p5_drop=21.5,
                expected_corrupted=0.015,
            ),
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=21.5,
                p5_drop=27.0,
                corrupted=0.395,
                expected_mean_drop=16.7,
                expected_corrupted=0.15,
            ),
            Promise(
                "bsc(ber=0.001)",
                mean_drop=27.5,
                p5_drop=29.0,
                corrupted=0.995,
                expected_mean_drop=24.0,
                expected_corrupted=0.792,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=16.5,
                p5_drop=27.5,
                corrupted=0.22,
                expected_mean_drop=11.3,
                expected_p5_drop=27.5,
                expected_corrupted=0.0483,
            ),
        ),
    )

    def __init__(
        self,
        *,
        quality: int | None = None,
        bpp: float | None = None,
        subsampling: Subsampling = "4:2:0",
        truncated: Truncated = "refuse",
        check_size: bool = True,
        colours: Colours = "refuse",
        max_pixels: int = 2**26,
    ) -> None:
        super().__init__(quality=quality, bpp=bpp, truncated=truncated, check_size=check_size, max_pixels=max_pixels)
        if subsampling not in get_args(Subsampling):
            raise ValueError(f"subsampling = {subsampling!r}: one of {', '.join(get_args(Subsampling))}")
        if colours not in get_args(Colours):
            raise ValueError(f"colours = {colours!r}: one of {', '.join(get_args(Colours))}")
        self.subsampling = subsampling
        self.any_colours = colours == "convert"

    def _write(self, image: PillowImage.Image, quality: int) -> bytes:
        buffer = io.BytesIO()
        comment = size_stamp(image.size) if self.check_size else b""
        options = {"restart_marker_rows": self.restart_rows} if self.restart_rows else {}
        image.save(buffer, "JPEG", quality=quality, subsampling=self.subsampling, comment=comment, **options)
        return buffer.getvalue()

    def _open(self, stream: io.BytesIO) -> ImageFile.ImageFile:
        return JpegImageFile(stream)

    def _wrong_colours(self, opened: ImageFile.ImageFile) -> str:
        assert isinstance(opened, JpegImageFile)
        return f"the frame header declares {opened.layers} components, a colour image has 3"

    def layout(self, bitstream: bytes) -> Layout:
        """Name the fields of every segment; all but the entropy-coded data is header. Takes any bytes."""
        return _Segments(bitstream).layout()

    def _settings(self) -> dict[str, Any]:
        rate, *others = super()._settings().items()
        more = [("colours", "convert")] if self.any_colours else []
        return dict([rate, ("subsampling", self.subsampling), *others, *more])

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """Pillow can be built without libjpeg."""
        if features.check_codec("jpg"):
            return None
        return "this Pillow was built without JPEG: pip install --force-reinstall --only-binary :all: pillow"


class JpegRestart(Jpeg):
    """JPEG with a restart marker after every row of MCUs: a flip's harm ends at the next one.

    Between two markers the decoder's predictions start anew (ITU-T T.81, F.1.1.5). The settings are those of
    :class:`Jpeg`.
    """

    name: ClassVar[str] = "jpeg-restart"
    restart_rows: ClassVar[int] = 1
    #: Measured as :class:`robustkit.codecs.jpeg.Jpeg`'s.
    promises: ClassVar[Profile | None] = Profile(
        bpp=1.039,
        quality=31.35,
        refused=0.285,
        expected_refused=0.185,
        promises=(
            Promise(
                "bsc(ber=1e-06)",
                mean_drop=0.495,
                p5_drop=3.6,
                corrupted=0.088,
                expected_mean_drop=0.0689,
                expected_p5_drop=0.00103,
                expected_corrupted=0.00333,
            ),
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=3.55,
                p5_drop=12.5,
                corrupted=0.135,
                expected_mean_drop=1.26,
                expected_p5_drop=10.2,
                expected_corrupted=0.0142,
            ),
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=12.0,
                p5_drop=18.5,
                corrupted=0.33,
                expected_mean_drop=8.64,
                expected_corrupted=0.122,
            ),
            Promise(
                "bsc(ber=0.001)",
                mean_drop=22.5,
                p5_drop=24.5,
                corrupted=0.975,
                expected_mean_drop=19.3,
                expected_corrupted=0.751,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=7.3,
                p5_drop=14.0,
                corrupted=0.18,
                expected_mean_drop=4.77,
                expected_p5_drop=14.0,
                expected_corrupted=0.035,
            ),
        ),
    )


_STANDALONE = {0x01: "TEM", 0xD8: "SOI", 0xD9: "EOI"} | {0xD0 + n: f"RST{n}" for n in range(8)}
_NAMED = {
    0xC4: "DHT",
    0xC8: "JPG",
    0xCC: "DAC",
    0xDA: "SOS",
    0xDB: "DQT",
    0xDC: "DNL",
    0xDD: "DRI",
    0xDE: "DHP",
}
_NAMED |= {0xDF: "EXP", 0xFE: "COM"} | {0xE0 + n: f"APP{n}" for n in range(16)}
_NAMED |= {0xC0 + n: f"SOF{n}" for n in range(16) if 0xC0 + n not in _NAMED}
# In entropy-coded data FF 00 is a data byte and FF FF a fill byte; any other FF begins a marker.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


class _Segments(Fields):
    """Walks the markers of a stream as ITU-T T.81, Annex B, lays them out."""

    def layout(self) -> Layout:
        scans = 0
        while (found := _MARKER.search(self.stream, self.byte)) is not None:
            self.until(found.start(), "bytes between segments", header=False)
            code = found[1][0]
            if code in _STANDALONE:
                self.field(f"{_STANDALONE[code]} marker", 16)
                if code == 0xD9:
                    break
                continue
            name = _NAMED.get(code, f"marker {code:02X}")
            self.field(f"{name} marker", 16)
            start = self.byte
            length = int.from_bytes(self.stream[start : start + 2], "big")
            self.field(f"{name} length", 16)
            stop = min(max(start + length, start + 2), len(self.stream))
            self._body(name, stop)
            if name == "SOS":
                scans += 1
                self._scan(f"scan {scans}")
        ended = bool(self.regions) and self.regions[-1].name == "EOI marker"
        self.until(len(self.stream), "bytes after EOI" if ended else "bytes between segments", header=False)
        return super().layout()

    def _body(self, name: str, stop: int) -> None:
        def field(what: str, bits: int) -> int:
            return self.field(f"{name} {what}", bits, limit=stop)

        def more() -> bool:
            return self.bit < 8 * stop

        if name == "APP0" and self.stream.startswith(b"JFIF\0", self.byte):
            for what, bits in [("identifier", 40), ("version", 16), ("density unit", 8), ("x density", 16)]:
                field(what, bits)
            for what, bits in [("y density", 16), ("thumbnail width", 8), ("thumbnail height", 8)]:
                field(what, bits)
        elif name.startswith("SOF") or name == "DHP":
            for what, bits in [("precision", 8), ("height", 16), ("width", 16)]:
                field(what, bits)
            for component in range(1, field("component count", 8) + 1):
                for what, bits in [
                    ("id", 8),
                    ("horizontal sampling", 4),
                    ("vertical sampling", 4),
                    ("table", 8),
                ]:
                    field(f"component {component} {what}", bits)
        elif name == "DQT":
            while more():
                precision, table = field("table precision", 4), field("table id", 4)
                field(f"{table} values", 64 * (16 if precision else 8))
        elif name == "DHT":
            while more():
                which = f"{'AC' if field('table class', 4) else 'DC'} {field('table id', 4)}"
                counts = self.stream[self.byte : min(self.byte + 16, stop)]
                field(f"{which} counts", 128)
                field(f"{which} symbols", 8 * sum(counts))
        elif name == "DRI":
            field("restart interval", 16)
        elif name == "SOS":
            for component in range(1, field("component count", 8) + 1):
                for what, bits in [("id", 8), ("DC table", 4), ("AC table", 4)]:
                    field(f"component {component} {what}", bits)
            for what, bits in [("first coefficient", 8), ("last coefficient", 8), ("approximation", 8)]:
                field(what, bits)
        elif name == "COM":
            field("text", 8 * stop - self.bit)
        self.until(stop, f"{name} data", header=True)

    def _scan(self, name: str) -> None:
        start = self.byte
        end = _END_OF_SCAN.search(self.stream, start)
        stop = len(self.stream) if end is None else end.start()
        restarts = [m.start() for m in re.finditer(rb"\xff[\xd0-\xd7]", self.stream[start:stop])]
        for interval, offset in enumerate(restarts):
            self.until(start + offset, f"{name} interval {interval}", header=False)
            self.field(f"{name} {_STANDALONE[self.stream[start + offset + 1]]} marker", 16, header=False)
        self.until(stop, f"{name} interval {len(restarts)}" if restarts else f"{name} data", header=False)
