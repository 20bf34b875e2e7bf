"""JPEG XL through pillow-jxl-plugin and libjxl: VarDCT in the format's container."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image as PillowImage
from PIL import ImageFile

from robustkit import extras
from robustkit.codec import Layout
from robustkit.codecs.boxes import Boxes
from robustkit.codecs.pillow import PillowCodec, RefusingFormat, size_stamp
from robustkit.profile import Profile, Promise


class JpegXl(RefusingFormat):
    """Lossy JPEG XL (ISO/IEC 18181), VarDCT.

    Args:
        quality: libjxl's quality, 1 to 99; 70 by default, about 1 bpp on photographs of 256x256. Not together with
            ``bpp``.
        bpp: rate in bits per pixel to come closest to, found for each image by bisection over ``quality``.
        check_size: write the image's size a second time, with a CRC-32, where the container keeps Exif data, and refuse
            a stream in which the two disagree or it is missing. Turn it off to decode files of another program.
        max_pixels: largest image, in pixels, that is encoded or decoded. Checked before any is allocated.

    Raises:
        ValueError: a setting is out of range.
    """

    needs: ClassVar[str] = "the extra `jpeg-xl`"
    name: ClassVar[str] = "jpeg-xl"
    format: ClassVar[str] = "JPEG XL"
    library: ClassVar[tuple[str, str]] = ("libjxl", "")
    qualities: ClassVar[range] = range(1, 100)
    default_quality: ClassVar[int] = 70
    #: The format's own bound is 2**30; no image below ``max_pixels`` has a longer side than this.
    max_side: ClassVar[int] = 2**26
    # The plug-in raises RuntimeError for every error of libjxl.
    refusals: ClassVar[tuple[type[Exception], ...]] = (*PillowCodec.refusals, RuntimeError)

    #: Limits as :class:`robustkit.codecs.jpeg.Jpeg`'s; what is expected is of the golden drops, 600 trials a channel.
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.995,
        quality=32.9,
        refused=0.46,
        expected_refused=0.265,
        promises=(
            Promise(
                "bsc(ber=1e-06)",
                mean_drop=0.05,
                p5_drop=0.05,
                corrupted=0.26,
                expected_mean_drop=7.16e-05,
                expected_corrupted=0.0667,
            ),
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=0.05,
                p5_drop=0.05,
                corrupted=0.75,
                expected_mean_drop=0.000857,
                expected_corrupted=0.463,
            ),
        ),
    )

    def _write(self, image: PillowImage.Image, quality: int) -> bytes:
        import pillow_jxl  # noqa: F401  (registers the format)

        buffer = io.BytesIO()
        stamp = size_stamp(image.size) if self.check_size else None
        image.save(buffer, "JXL", quality=quality, use_container=True, exif=stamp, num_threads=0)
        return buffer.getvalue()

    def _open(self, stream: io.BytesIO) -> ImageFile.ImageFile:
        from pillow_jxl import JpegXLImagePlugin

        # The plug-in decodes as it opens, so the size is read before.
        width, height = declared_size(stream.getvalue())
        if width * height > self.max_pixels:
            raise SyntaxError(f"{width}x{height} pixels exceeds limit of max_pixels = {self.max_pixels}")
        JpegXLImagePlugin.DECODE_THREADS = 0
        opened: ImageFile.ImageFile = JpegXLImagePlugin.JXLImageFile(stream)
        return opened

    def _stamp(self, opened: ImageFile.ImageFile) -> object:
        return opened.info.get("exif")

    def describe(self) -> Mapping[str, str]:
        """Versions of Pillow and the plug-in, which holds its libjxl and does not name it, and the settings."""
        facts = dict(super().describe())
        del facts["libjxl"]
        return {**facts, "pillow-jxl-plugin": importlib.metadata.version("pillow-jxl-plugin")}

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """pillow-jxl-plugin is an extra."""
        return extras.missing("pillow_jxl")

    def layout(self, bitstream: bytes) -> Layout:
        """Name the container's boxes; all but the codestream is header. Takes any bytes."""
        return Boxes(bitstream).layout()


#: Width over height that three bits stand for; 0 says that the width follows.
_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def declared_size(stream: bytes) -> tuple[int, int]:
    """Width and height that the codestream's SizeHeader declares (ISO/IEC 18181-1, D.2), bits from the lowest.

    Raises:
        SyntaxError: neither a bare codestream nor a container that begins with one.
    """
    if stream.startswith(b"\0\0\0\x0cJXL "):
        # The codestream begins in the first box of its kind; jxlp has an index before it.
        places = [(stream.find(kind), skipped) for kind, skipped in ((b"jxlc", 4), (b"jxlp", 8))]
        start = min((place + skipped for place, skipped in places if place >= 0), default=len(stream))
    else:
        start = 0
    if stream[start : start + 2] != b"\xff\x0a":
        raise SyntaxError("no codestream")
    bits = int.from_bytes(stream[start + 2 : start + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side() -> int:
        return 8 * (take(5) + 1) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    height = side()
    ratio = _RATIOS[take(3)]
    width = side() if ratio is None else height * ratio[0] // ratio[1]
    return width, height
