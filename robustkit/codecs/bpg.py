"""BPG (Bellard's specification 0.9.5) from ffmpeg's libraries: an HEVC key frame by x265 without its VPS and SPS.

PyAV brings x265 and ffmpeg's HEVC decoder, so no program need be installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, get_args

import numpy as np
import numpy.typing as npt

from robustkit import extras
from robustkit.codec import Codec, DecodeError, EncodeError, Image, Layout
from robustkit.codecs.bpg_syntax import (
    PPS,
    SPS,
    VPS,
    BpgFile,
    Chroma,
    End,
    Walk,
    nal_kind,
    nal_units,
    read_sps,
    sps,
    vps,
)
from robustkit.codecs.command import CommandLine
from robustkit.codecs.frame import check_fits
from robustkit.codecs.pillow import is_int, size_stamp
from robustkit.profile import Profile, Promise

#: x265 wants two of its smallest coding blocks a side.
SMALLEST_SIDE = 9

Planes = list[npt.NDArray[np.uint8]]

_FFMPEG_FORMATS: Mapping[Chroma, str] = {"4:2:0": "yuv420p", "4:4:4": "yuv444p"}
#: Bytes that ffmpeg may read beyond a packet's end (its ``AV_INPUT_BUFFER_PADDING_SIZE``).
_PADDING = 64


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
    #: From the lowest rate to the highest.
    qualities: ClassVar[range] = range(51, -1, -1)
    default_quality: ClassVar[int] = 26
    neutral_settings: ClassVar[frozenset[str]] = frozenset({"max_pixels"})
    #: Limits as :class:`robustkit.codecs.jpeg.Jpeg`'s; what is expected is of the golden drops, 600 trials a channel.
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.959,
        quality=34.9,
        refused=0.075,
        expected_refused=0.011,
        promises=(
            Promise(
                "bsc(ber=1e-06)",
                mean_drop=4.8,
                p5_drop=26.0,
                corrupted=0.085,
                expected_mean_drop=1.36,
                expected_p5_drop=17.4,
                expected_corrupted=0.000833,
            ),
            Promise(
                "bsc(ber=1e-05)",
                mean_drop=15.0,
                p5_drop=29.0,
                corrupted=0.105,
                expected_mean_drop=8.97,
                expected_p5_drop=25.6,
                expected_corrupted=0.000833,
            ),
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=26.0,
                p5_drop=30.0,
                corrupted=0.19,
                expected_mean_drop=23.0,
                expected_p5_drop=28.5,
                expected_corrupted=0.0375,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=23.5,
                p5_drop=29.0,
                corrupted=0.135,
                expected_mean_drop=19.5,
                expected_p5_drop=26.3,
                expected_corrupted=0.005,
            ),
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
        return extras.missing("av")

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
        units = nal_units(_x265(planes, _FFMPEG_FORMATS[self.chroma], quality))
        kinds = [nal_kind(unit) for unit in units]
        if kinds[:3] != [VPS, SPS, PPS]:
            raise EncodeError(f"x265 wrote NAL units {kinds}, not VPS, SPS, PPS and slices")
        stamp = size_stamp(size) if self.check_size else None
        return BpgFile(*size, self.chroma, stamp, read_sps(units[1]), b"\0\0\1".join(units[2:])).pack()

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
        units = (vps(), sps(file.sequence, width, height, file.chroma), file.units)
        stream = b"".join(b"\0\0\0\1" + unit for unit in units)
        planes = _ffmpeg(stream, _FFMPEG_FORMATS[file.chroma], width, height)
        return _to_image(planes, file.chroma)[: file.height, : file.width].copy()

    def _read(self, bitstream: bytes) -> BpgFile:
        fields = Walk(bitstream)
        try:
            file = fields.file()
        except End as end:
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
        walk = Walk(bitstream)
        with contextlib.suppress(End):
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
    #: From the lowest rate to the highest.
    qualities: ClassVar[range] = range(51, -1, -1)
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
