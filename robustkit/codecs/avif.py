"""AVIF through Pillow, libavif and its AV1 codecs: an AV1 key frame in an ISO base media file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import ClassVar

from PIL import AvifImagePlugin, ImageFile
from PIL import Image as PillowImage

from robustkit.codec import Layout
from robustkit.codecs.boxes import Boxes
from robustkit.codecs.pillow import PillowCodec, RefusingFormat, size_stamp
from robustkit.profile import Profile, Promise

#: Named in facts, because the streams and what their damage does depend on them.
AV1 = ("aom", "dav1d")


class Avif(RefusingFormat):
    """AVIF (AV1 Image File Format), 8 bits, 4:2:0, encoded by libaom and decoded by dav1d.

    libavif refuses what is truncated; it has no other way here.

    Args:
        quality: libavif's quality, 0 to 100; 62 by default, about 1 bpp on photographs of 256x256. Not together with
            ``bpp``.
        bpp: rate in bits per pixel to come closest to, found for each image by bisection over ``quality``.
        check_size: write the image's size a second time, with a CRC-32, as XMP, and refuse a stream in which the two
            disagree or the XMP is missing: about 110 bytes. Turn it off to decode files of another program.
        max_pixels: largest image, in pixels, that is encoded or decoded. Checked before any is allocated.

    Raises:
        ValueError: a setting is out of range.
    """

    name: ClassVar[str] = "avif"
    format: ClassVar[str] = "AVIF"
    library: ClassVar[tuple[str, str]] = ("libavif", "avif")
    qualities: ClassVar[range] = range(101)
    default_quality: ClassVar[int] = 62
    #: AV1's.
    max_side: ClassVar[int] = 65536
    # libavif's errors come as SyntaxError, ValueError or RuntimeError, by their kind.
    refusals: ClassVar[tuple[type[Exception], ...]] = (*PillowCodec.refusals, ValueError, RuntimeError)

    #: Limits as :class:`robustkit.codecs.jpeg.Jpeg`'s; what is expected is of the golden drops, 600 trials a channel.
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.996,
        quality=34.65,
        refused=0.305,
        expected_refused=0.167,
        promises=(
            Promise(
                "bsc(ber=1e-06)",
                mean_drop=4.6,
                p5_drop=24.0,
                corrupted=0.135,
                expected_mean_drop=0.924,
                expected_p5_drop=15.9,
                expected_corrupted=0.0125,
            ),
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=15.5,
                p5_drop=28.0,
                corrupted=0.29,
                expected_mean_drop=8.06,
                expected_corrupted=0.0867,
            ),
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=27.0,
                p5_drop=30.5,
                corrupted=0.605,
                expected_mean_drop=22.3,
                expected_corrupted=0.303,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=24.5,
                p5_drop=28.5,
                corrupted=0.55,
                expected_mean_drop=19.5,
                expected_corrupted=0.264,
            ),
        ),
    )

    def _write(self, image: PillowImage.Image, quality: int) -> bytes:
        buffer = io.BytesIO()
        xmp = size_stamp(image.size) if self.check_size else b""
        image.save(buffer, "AVIF", quality=quality, codec="aom", max_threads=1, xmp=xmp)
        return buffer.getvalue()

    def _open(self, stream: io.BytesIO) -> ImageFile.ImageFile:
        before = AvifImagePlugin.DECODE_CODEC_CHOICE, AvifImagePlugin.DEFAULT_MAX_THREADS
        AvifImagePlugin.DECODE_CODEC_CHOICE, AvifImagePlugin.DEFAULT_MAX_THREADS = "dav1d", 1
        try:
            return AvifImagePlugin.AvifImageFile(stream)
        finally:
            AvifImagePlugin.DECODE_CODEC_CHOICE, AvifImagePlugin.DEFAULT_MAX_THREADS = before

    def _stamp(self, opened: ImageFile.ImageFile) -> object:
        return opened.info.get("xmp")

    def describe(self) -> Mapping[str, str]:
        """Versions of Pillow, libavif and the AV1 codecs, and the settings."""
        codecs = {name: AvifImagePlugin.get_codec_version(name) or "missing" for name in AV1}
        return {**super().describe(), **codecs}

    def layout(self, bitstream: bytes) -> Layout:
        """Name the boxes, and the fields of the image's size; all but the media data is header. Takes any bytes."""
        return Boxes(bitstream).layout()
