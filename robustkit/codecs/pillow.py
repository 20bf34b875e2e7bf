"""What the codecs of Pillow's formats share: settings, refusals, the search for a rate, and the fields of a stream."""

from __future__ import annotations

import io
import threading
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import PIL
from PIL import Image as PillowImage
from PIL import ImageFile, features

from robustkit.codec import Codec, DecodeError, EncodeError, Image, Layout, Region
from robustkit.pixels import check_image
from robustkit.profile import Profile

Truncated = Literal["refuse", "tolerate"]

# Pillow keeps its tolerance of truncated files and its limit on pixels in variables of the process, so two decodes
# with different settings must not overlap.
_PILLOW_SWITCH = threading.Lock()


class PillowCodec(Codec):
    """An image format of Pillow's, strict by default: a stream that its library calls truncated or broken is refused.

    Args:
        quality: the library's own, within ``qualities``. Not together with ``bpp``.
        bpp: rate in bits per pixel to come closest to, found for each image by bisection over ``quality``.
        truncated: what to do with a stream that Pillow calls truncated or broken; ``None`` where the format's library
            leaves no choice, and refuses it.
        check_size: write the image's size a second time, with a CRC-32, where the format has room for text, and refuse
            a stream in which the two disagree.
        max_pixels: largest image, in pixels, that is encoded or decoded. Checked before any is allocated.

    Raises:
        ValueError: a setting is out of range.
    """

    family: ClassVar[str] = "classical"
    #: The format, as messages name it.
    format: ClassVar[str]
    #: The library, as facts name it, and what ``PIL.features`` calls it, or nothing if Pillow does not know it.
    library: ClassVar[tuple[str, str]]
    qualities: ClassVar[range] = range(1, 101)
    default_quality: ClassVar[int] = 50
    #: Longest side the format or its library takes, in pixels.
    max_side: ClassVar[int]
    #: What Pillow raises where a stream is not its format, ends early, or breaks its library's rules. Any other
    #: exception is a defect and stays one.
    refusals: ClassVar[tuple[type[Exception], ...]] = (SyntaxError, OSError, PillowImage.DecompressionBombError)
    #: Whether an image in other colours than RGB is converted, not refused.
    any_colours: bool = False
    #: What the default settings promise.
    promises: ClassVar[Profile | None] = None
    neutral_settings: ClassVar[frozenset[str]] = frozenset({"max_pixels"})

    def __init__(
        self,
        *,
        quality: int | None,
        bpp: float | None,
        truncated: Truncated | None,
        check_size: bool,
        max_pixels: int,
    ) -> None:
        if quality is not None and bpp is not None:
            raise ValueError(f"quality = {quality} and bpp = {bpp} exclude each other: give one")
        if quality is not None and (not is_int(quality) or quality not in self.qualities):
            low, high = self.qualities[0], self.qualities[-1]
            raise ValueError(f"quality = {quality!r}: give a whole number from {low} to {high}")
        if bpp is not None and not (isinstance(bpp, int | float) and 0 < bpp < float("inf")):
            raise ValueError(f"bpp = {bpp!r}: give a positive number of bits per pixel")
        if truncated is not None and truncated not in get_args(Truncated):
            raise ValueError(f"truncated = {truncated!r}: one of {', '.join(get_args(Truncated))}")
        if not isinstance(check_size, bool):
            raise ValueError(f"check_size = {check_size!r}: true or false")
        if not is_int(max_pixels) or max_pixels < 1:
            raise ValueError(f"max_pixels = {max_pixels!r}: give a positive whole number")
        self.quality = None if bpp is not None else (self.default_quality if quality is None else quality)
        self.bpp = bpp
        self.truncated = truncated
        self.check_size = check_size
        self.max_pixels = max_pixels
        self.profile = self.promised(self.promises)

    @classmethod
    def changed_settings(cls, settings: Mapping[str, Any]) -> frozenset[str]:
        changed = super().changed_settings(settings)
        return changed - {"quality"} if settings.get("quality") == cls.default_quality else changed

    # -- what a format says of itself -----------------------------------------------------------------------

    @abstractmethod
    def _write(self, image: PillowImage.Image, quality: int) -> bytes:
        """Compress ``image``, with :func:`size_stamp` in it if ``check_size``."""

    @abstractmethod
    def _open(self, stream: io.BytesIO) -> ImageFile.ImageFile:
        """Read the headers of a stream. Not ``Image.open``, which lets a stream choose its decoder."""

    def _stamp(self, opened: ImageFile.ImageFile) -> object:
        """What stands where ``_write`` put the stamp."""
        return opened.info.get("comment")

    def _size_is_sound(self, opened: ImageFile.ImageFile) -> bool:
        return not self.check_size or self._stamp(opened) == size_stamp(opened.size)

    def _wrong_colours(self, opened: ImageFile.ImageFile) -> str:
        return f"the header declares a {opened.mode} image, this codec's are RGB"

    # -- coding -----------------------------------------------------------------------------------------------

    def encode(self, image: Image) -> bytes:
        """Compress ``image`` (uint8, H x W x 3).

        Raises:
            EncodeError: another dtype or shape, a side of 0 or above the format's, or more than ``max_pixels``.
        """
        height, width, _ = check_image(image, EncodeError).shape
        if not (1 <= height <= self.max_side and 1 <= width <= self.max_side):
            raise EncodeError(f"{width}x{height}: each side of a {self.format} file has 1 to {self.max_side} pixels")
        if height * width > self.max_pixels:
            raise EncodeError(
                f"{width}x{height} is {height * width} pixels, above max_pixels = {self.max_pixels}: "
                "raise it, or crop the image"
            )
        pillow = PillowImage.fromarray(image)
        if self.quality is not None:
            return self._write(pillow, self.quality)
        assert self.bpp is not None
        return self._closest(pillow, self.bpp * height * width / 8)

    def _closest(self, image: PillowImage.Image, target: float) -> bytes:
        best, low, high = self._write(image, self.default_quality), self.qualities[0], self.qualities[-1]
        while low <= high:
            middle = (low + high) // 2
            stream = self._write(image, middle)
            if abs(len(stream) - target) < abs(len(best) - target):
                best = stream
            if len(stream) < target:
                low = middle + 1
            else:
                high = middle - 1
        return best

    def decode(self, bitstream: bytes) -> Image:
        """Reconstruct an image, uint8, H x W x 3.

        Raises:
            DecodeError: not a stream of this format, of three components, within ``max_pixels``; one whose size fails
                its check; or, unless ``truncated="tolerate"``, a truncated or broken one.
        """
        with self._pillow_as_set():
            try:
                opened = self._open(io.BytesIO(bitstream))
            except self.refusals as error:
                raise DecodeError(f"not a readable {self.format} header: {error}") from error
            width, height = opened.size
            if opened.mode != "RGB" and not self.any_colours:
                raise DecodeError(self._wrong_colours(opened))
            if width * height > self.max_pixels:
                raise DecodeError(
                    f"the header declares {width}x{height}, {width * height} pixels, "
                    f"above max_pixels = {self.max_pixels}"
                )
            if not self._size_is_sound(opened):
                raise DecodeError(
                    f"the header's size {width}x{height} fails its check: one of them is damaged, or the file was not "
                    "written with check_size (check_size=false decodes it)"
                )
            try:
                opened.load()
            except self.refusals as error:
                raise DecodeError(f"broken {self.format} data: {error}") from error
            if opened.size != (width, height):
                raise DecodeError(f"{opened.width}x{opened.height} were decoded, the header declares {width}x{height}")
            return np.array(opened.convert("RGB") if self.any_colours else opened, dtype=np.uint8)

    @contextmanager
    def _pillow_as_set(self) -> Iterator[None]:
        """Pillow's process-wide variables as this codec's settings want them."""
        with _PILLOW_SWITCH, warnings.catch_warnings():
            before = ImageFile.LOAD_TRUNCATED_IMAGES, PillowImage.MAX_IMAGE_PIXELS
            # Both ways: importing a module of pyiqa turns it on for the whole process.
            ImageFile.LOAD_TRUNCATED_IMAGES = self.truncated == "tolerate"
            # Where a decoder allocates as it opens, Pillow looks at the size before, and raises at twice this.
            PillowImage.MAX_IMAGE_PIXELS = -(-self.max_pixels // 2)
            warnings.simplefilter("ignore")  # of damaged Exif data, which has no part in the pixels
            try:
                yield
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES, PillowImage.MAX_IMAGE_PIXELS = before

    def _settings(self) -> dict[str, Any]:
        """The settings, as facts show them."""
        rate = {"bpp": f"{self.bpp:g}"} if self.bpp is not None else {"quality": self.quality}
        choice = {} if self.truncated is None else {"truncated": self.truncated}
        return {**rate, **choice, "check_size": str(self.check_size).lower()}

    def describe(self) -> Mapping[str, str]:
        """Versions of Pillow and of the format's library, and the settings."""
        library, feature = self.library
        settings = " ".join(f"{name}={value}" for name, value in self._settings().items())
        version = features.version(feature) if feature else None
        return {"pillow": PIL.__version__, library: version or "unknown", "settings": settings}

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """Pillow can be built without the format."""
        if features.check(cls.library[1]):
            return None
        return f"this Pillow was built without {cls.format}: pip install --force-reinstall --only-binary :all: pillow"


class RefusingFormat(PillowCodec):
    """A format whose library refuses what is truncated, and leaves no choice. Arguments as :class:`PillowCodec`."""

    def __init__(
        self,
        *,
        quality: int | None = None,
        bpp: float | None = None,
        check_size: bool = True,
        max_pixels: int = 2**26,
    ) -> None:
        super().__init__(quality=quality, bpp=bpp, truncated=None, check_size=check_size, max_pixels=max_pixels)


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def size_stamp(size: tuple[int, int]) -> bytes:
    """The text that repeats a stream's size (width, height), with its CRC-32."""
    text = b"%dx%d" % size
    return text + b" crc32=%08x" % zlib.crc32(text)


class Fields:
    """Names a stream's fields one after the other; every bit gets into one region."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.regions: list[Region] = []
        self.bit = 0  # everything before it has a region

    @property
    def byte(self) -> int:
        """Where the next field starts."""
        return self.bit // 8

    def field(self, name: str, bits: int, *, header: bool = True, limit: int | None = None) -> int:
        """Name the next ``bits`` bits, or as many as there are, and return their value if they are at most 64.

        Args:
            limit: byte where the enclosing structure ends.
        """
        start, stop = self.bit, min(self.bit + bits, 8 * (len(self.stream) if limit is None else limit))
        if stop <= start:
            return 0
        self.regions.append(Region(name, start, stop, header))
        self.bit = stop
        if bits > 64:
            return 0
        chunk = int.from_bytes(self.stream[start // 8 : (stop + 7) // 8], "big")
        return (chunk >> (-stop % 8)) & ((1 << (stop - start)) - 1)

    def until(self, byte: int, name: str, *, header: bool) -> None:
        """Name everything before ``byte`` that has no name yet."""
        self.field(name, 8 * byte - self.bit, header=header, limit=byte)

    def layout(self) -> Layout:
        return Layout(tuple(self.regions), 8 * len(self.stream))
