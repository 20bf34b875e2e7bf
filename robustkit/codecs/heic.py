"""HEIC through pillow-heif, libheif, x265 and libde265: an HEVC key frame in an ISO base media file."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image as PillowImage
from PIL import ImageFile

from robustkit import extras
from robustkit.codec import Layout
from robustkit.codecs.boxes import Boxes
from robustkit.codecs.pillow import PillowCodec, RefusingFormat, size_stamp
from robustkit.profile import Profile, Promise


class Heic(RefusingFormat):
    """HEIC (ISO/IEC 23008-12), 8 bits, 4:2:0, encoded by x265 and decoded by libde265.

    Args:
        quality: libheif's quality, 0 to 100; 46 by default, about 1 bpp on photographs of 256x256. Not together with
            ``bpp``.
        bpp: rate in bits per pixel to come closest to, found for each image by bisection over ``quality``.
        check_size: write the image's size a second time, with a CRC-32, as XMP, and refuse a stream in which the two
            disagree or the XMP is missing. Turn it off to decode files of another program.
        max_pixels: largest image, in pixels, that is encoded or decoded. Checked before any is allocated.

    Raises:
        ValueError: a setting is out of range.
    """

    needs: ClassVar[str] = "the extra `heic`"
    name: ClassVar[str] = "heic"
    format: ClassVar[str] = "HEIC"
    library: ClassVar[tuple[str, str]] = ("libheif", "")
    qualities: ClassVar[range] = range(101)
    default_quality: ClassVar[int] = 46
    max_side: ClassVar[int] = 8192
    # libheif's errors, by their kind.
    refusals: ClassVar[tuple[type[Exception], ...]] = (*PillowCodec.refusals, ValueError, RuntimeError, EOFError)

    #: Limits as :class:`robustkit.codecs.jpeg.Jpeg`'s; what is expected is of the golden drops, 600 trials a channel.
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.979,
        quality=34.4,
        refused=0.16,
        expected_refused=0.0694,
        promises=(
            Promise(
                "bsc(ber=1e-06)",
                mean_drop=4.1,
                p5_drop=26.0,
                corrupted=0.1,
                expected_mean_drop=0.918,
                expected_p5_drop=6.87,
                expected_corrupted=0.00167,
            ),
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=14.0,
                p5_drop=27.0,
                corrupted=0.15,
                expected_mean_drop=7.79,
                expected_p5_drop=25.5,
                expected_corrupted=0.0233,
            ),
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=26.0,
                p5_drop=29.0,
                corrupted=0.47,
                expected_mean_drop=22.7,
                expected_corrupted=0.206,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=21.5,
                p5_drop=28.0,
                corrupted=0.28,
                expected_mean_drop=17.5,
                expected_p5_drop=28.0,
                expected_corrupted=0.0467,
            ),
        ),
    )

    def _write(self, image: PillowImage.Image, quality: int) -> bytes:
        from pillow_heif import from_pillow

        buffer = io.BytesIO()
        file = from_pillow(image)
        file.save(buffer, quality=quality, xmp=size_stamp(image.size) if self.check_size else None)
        return buffer.getvalue()

    def _open(self, stream: io.BytesIO) -> ImageFile.ImageFile:
        from pillow_heif import HeifImageFile, options

        options.DECODE_THREADS = 1
        opened: ImageFile.ImageFile = HeifImageFile(stream)  # type: ignore[no-untyped-call]
        return opened

    def _stamp(self, opened: ImageFile.ImageFile) -> object:
        return opened.info.get("xmp")

    def describe(self) -> Mapping[str, str]:
        """Versions of Pillow, pillow-heif, libheif and the HEVC codecs, and the settings."""
        import pillow_heif

        about = pillow_heif.libheif_info()
        codecs = "\n".join([*about["encoders"].values(), *about["decoders"].values()])
        return {
            **super().describe(),
            "pillow-heif": pillow_heif.__version__,
            "libheif": about["libheif"],
            **dict(re.findall(r"(x265|libde265) .*?(\d+(?:\.\d+)+)", codecs)),
        }

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """pillow-heif is an extra."""
        return extras.missing("pillow_heif")

    def layout(self, bitstream: bytes) -> Layout:
        """Name the boxes, and the fields of the image's size; all but the media data is header. Takes any bytes."""
        return Boxes(bitstream).layout()
