"""WebP through Pillow and libwebp: VP8 key frames in a RIFF file."""

from __future__ import annotations

import io
from typing import ClassVar

from PIL import Image as PillowImage
from PIL import ImageFile
from PIL.WebPImagePlugin import WebPImageFile

from robustkit.codec import Layout
from robustkit.codecs.pillow import Fields, PillowCodec, RefusingFormat, size_stamp
from robustkit.profile import Profile, Promise


class WebP(RefusingFormat):
    """Lossy WebP (RFC 9649, with the VP8 key frames of RFC 6386).

    libwebp refuses what is truncated; it has no other way.

    Args:
        quality: libwebp's quality, 0 to 100; 70 by default, about 1 bpp on photographs of 256x256. Not together with
            ``bpp``.
        bpp: rate in bits per pixel to come closest to, found for each image by bisection over ``quality``.
        check_size: write the image's size a second time, with a CRC-32, in an XMP chunk, and refuse a stream in which
            the two disagree or the chunk is missing: 54 bytes. Turn it off to decode files of another program.
        max_pixels: largest image, in pixels, that is encoded or decoded. Checked before any is allocated.

    Raises:
        ValueError: a setting is out of range.
    """

    name: ClassVar[str] = "webp"
    format: ClassVar[str] = "WebP"
    library: ClassVar[tuple[str, str]] = ("libwebp", "webp")
    qualities: ClassVar[range] = range(101)
    default_quality: ClassVar[int] = 70
    max_side: ClassVar[int] = 16383
    # Pillow raises EOFError where the first frame fails to decode.
    refusals: ClassVar[tuple[type[Exception], ...]] = (*PillowCodec.refusals, EOFError)

    #: Measured as :class:`robustkit.codecs.jpeg.Jpeg`'s.
    promises: ClassVar[Profile | None] = Profile(
        bpp=1.007,
        quality=33.6,
        refused=0.36,
        expected_refused=0.234,
        promises=(
            Promise(
                "bsc(ber=1e-06)",
                mean_drop=4.2,
                p5_drop=21.0,
                corrupted=0.15,
                expected_mean_drop=0.574,
                expected_p5_drop=12.3,
                expected_corrupted=0.0217,
            ),
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=12.0,
                p5_drop=24.5,
                corrupted=0.335,
                expected_mean_drop=6.13,
                expected_corrupted=0.136,
            ),
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=24.0,
                p5_drop=27.5,
                corrupted=0.42,
                expected_mean_drop=20.6,
                expected_corrupted=0.182,
            ),
            Promise(
                "bsc(ber=0.001)",
                mean_drop=26.0,
                p5_drop=28.0,
                corrupted=0.81,
                expected_mean_drop=23.4,
                expected_corrupted=0.55,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=20.5,
                p5_drop=27.5,
                corrupted=0.58,
                expected_mean_drop=16.4,
                expected_corrupted=0.283,
            ),
        ),
    )

    def _write(self, image: PillowImage.Image, quality: int) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, xmp=size_stamp(image.size) if self.check_size else b"")
        return buffer.getvalue()

    def _open(self, stream: io.BytesIO) -> ImageFile.ImageFile:
        return WebPImageFile(stream)

    def _stamp(self, opened: ImageFile.ImageFile) -> object:
        return opened.info.get("xmp")

    def layout(self, bitstream: bytes) -> Layout:
        """Name the chunks and the fields of VP8X and VP8; all but VP8's coded data is header. Takes any bytes."""
        return _Chunks(bitstream).layout()


class _Chunks(Fields):
    """Walks a RIFF file's chunks (RFC 9649, section 2.3); numbers are little-endian."""

    def layout(self) -> Layout:
        for what in ("RIFF tag", "RIFF size", "WEBP tag"):
            self.field(what, 32)
        while self.byte < len(self.stream):
            name = self.stream[self.byte : self.byte + 4].decode("ascii", "replace").strip()
            self.field(f"{name} tag", 32)
            size = int.from_bytes(self.stream[self.byte : self.byte + 4], "little")
            self.field(f"{name} size", 32)
            stop = min(self.byte + size, len(self.stream))
            self._body(name, stop)
            if size % 2:
                self.field(f"{name} padding", 8)
        return super().layout()

    def _body(self, name: str, stop: int) -> None:
        if name == "VP8X":
            for what, bits in [("flags", 8), ("reserved", 24), ("canvas width", 24), ("canvas height", 24)]:
                self.field(f"VP8X {what}", bits, limit=stop)
        elif name == "VP8":
            # RFC 6386, section 9.1.
            tag = int.from_bytes(self.stream[self.byte : self.byte + 3], "little")
            for what, bits in [("frame tag", 24), ("start code", 24), ("width", 16), ("height", 16)]:
                self.field(f"VP8 {what}", bits, limit=stop)
            self.until(min(self.byte + (tag >> 5), stop), "VP8 first partition", header=False)
            self.until(stop, "VP8 coefficients", header=False)
        self.until(stop, f"{name} data", header=name not in ("VP8L", "ALPH"))
