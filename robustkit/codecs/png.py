"""PNG through Pillow and zlib: the lossless control, which check sums make refuse nearly every damage."""

from __future__ import annotations

import io
from typing import Any, ClassVar

from PIL import Image as PillowImage
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from robustkit.codec import Layout
from robustkit.codecs.pillow import Fields, PillowCodec, Truncated
from robustkit.profile import Profile, Promise


class Png(PillowCodec):
    """PNG (ISO/IEC 15948), 8 bits a sample, RGB.

    Its chunks have check sums, so the image's size needs no other. Pillow leaves that of the pixels' chunk unread, and
    zlib checks what is inflated.

    Args:
        compression: zlib's level, 0 to 9.
        truncated: what to do with a stream that Pillow calls truncated or broken: "refuse" it, or "tolerate" it and
            return what was decoded so far, the rest black.
        max_pixels: largest image, in pixels, that is encoded or decoded. Checked before any is allocated.

    Raises:
        ValueError: a setting is out of range.
    """

    name: ClassVar[str] = "png"
    format: ClassVar[str] = "PNG"
    library: ClassVar[tuple[str, str]] = ("zlib", "zlib")
    # Pillow's reader of the chunks raises ValueError where one is too short.
    refusals: ClassVar[tuple[type[Exception], ...]] = (*PillowCodec.refusals, ValueError)
    #: Here, a level of zlib.
    qualities: ClassVar[range] = range(10)
    default_quality: ClassVar[int] = 6
    #: The format's own bound is 2**31 - 1; no image below ``max_pixels`` has a longer side than this.
    max_side: ClassVar[int] = 2**26

    #: Limits as :class:`robustkit.codecs.jpeg.Jpeg`'s; what is expected is of the golden drops, 600 trials a channel.
    promises: ClassVar[Profile | None] = Profile(
        bpp=13.56,
        quality=99.95,
        refused=0.54,
        expected_refused=0.321,
        promises=(
            Promise(
                "bsc(ber=1e-07)",
                mean_drop=0.05,
                p5_drop=0.05,
                corrupted=0.28,
                expected_mean_drop=0.0,
                expected_corrupted=0.0833,
            ),
            Promise(
                "bsc(ber=1e-06)",
                mean_drop=0.05,
                p5_drop=0.05,
                corrupted=0.815,
                expected_mean_drop=0.000189,
                expected_corrupted=0.558,
            ),
        ),
    )

    def __init__(self, *, compression: int = 6, truncated: Truncated = "refuse", max_pixels: int = 2**26) -> None:
        if compression not in self.qualities or isinstance(compression, bool):
            raise ValueError(f"compression = {compression!r}: give a level of zlib, 0 to 9")
        super().__init__(quality=compression, bpp=None, truncated=truncated, check_size=True, max_pixels=max_pixels)

    def _write(self, image: PillowImage.Image, quality: int) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=quality)
        return buffer.getvalue()

    def _open(self, stream: io.BytesIO) -> ImageFile.ImageFile:
        return PngImageFile(stream)

    def _size_is_sound(self, opened: ImageFile.ImageFile) -> bool:
        return True  # IHDR's own check sum was read as it was opened

    def _settings(self) -> dict[str, Any]:
        return {"compression": self.quality, "truncated": self.truncated}

    def layout(self, bitstream: bytes) -> Layout:
        """Name the chunks and IHDR's fields; all but IDAT's data is header. Takes any bytes."""
        return _Chunks(bitstream).layout()


class _Chunks(Fields):
    """Walks the chunks (ISO/IEC 15948, clause 5.3)."""

    def layout(self) -> Layout:
        self.field("signature", 64)
        while self.byte < len(self.stream):
            name = self.stream[self.byte + 4 : self.byte + 8].decode("ascii", "replace")
            stop = min(self.field(f"{name} length", 32) + self.byte + 4, len(self.stream))
            self.field(f"{name} type", 32)
            if name == "IHDR":
                for what, bits in [("width", 32), ("height", 32), ("bit depth", 8), ("colour type", 8)]:
                    self.field(f"IHDR {what}", bits, limit=stop)
                for what in ("compression method", "filter method", "interlace method"):
                    self.field(f"IHDR {what}", 8, limit=stop)
            self.until(stop, f"{name} data", header=name != "IDAT")
            self.field(f"{name} CRC", 32)
        return super().layout()
