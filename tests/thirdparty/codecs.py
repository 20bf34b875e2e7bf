"""Codecs of a few lines each around libraries from PyPI, as one writes them in the first hour.

An image library's stream is taken as it is. Libraries of arrays keep no size that a reader could use, so 4 bytes of
height and width come first. RuntimeError and ValueError, with which these libraries refuse, become refusals.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import struct
from typing import ClassVar

import numpy as np

from robustkit import Codec, DecodeError

SIZE = struct.Struct(">HH")


class Library(Codec):
    """One format of one library: ``pack(image)`` gives a stream, and ``unpack(stream)`` an image."""

    family = "third-party"
    #: The distribution that it comes from, and the module in it.
    distribution: str
    module: str

    def __init__(self):
        self.library = importlib.import_module(self.module)

    def encode(self, image):
        return bytes(self.pack(image))

    def decode(self, bitstream):
        try:
            return self.unpack(bitstream)
        except (RuntimeError, ValueError) as error:
            raise DecodeError(f"{type(error).__name__}: {error}") from error

    def describe(self):
        return {self.distribution: importlib.metadata.version(self.distribution)}

    @classmethod
    def missing(cls):
        return None if importlib.util.find_spec(cls.module) else f"pip install {cls.distribution}"


class Array(Library):
    """What packs arrays: ``pack_array(array)`` gives a stream; ``unpack_array(stream, shape)``, an array or bytes."""

    dtype = np.uint8

    def pack(self, image):
        return SIZE.pack(*image.shape[:2]) + bytes(self.pack_array(image.astype(self.dtype)))

    def unpack(self, bitstream):
        if len(bitstream) < SIZE.size:
            raise ValueError("no size")
        shape = (*SIZE.unpack_from(bitstream), 3)
        found = self.unpack_array(bitstream[SIZE.size :], shape)
        if not isinstance(found, np.ndarray):
            found = np.frombuffer(found, self.dtype)
        if found.dtype != np.uint8:
            found = np.nan_to_num(found, nan=0, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)
        return found.reshape(shape)


class Imagecodecs(Library):
    """``imagecodecs.STEM_encode`` and ``STEM_decode``, with options of the encoder's."""

    distribution = module = "imagecodecs"
    stem: str
    options: ClassVar[dict] = {}

    def pack(self, image):
        return getattr(self.library, f"{self.stem}_encode")(image, **self.options)

    def unpack(self, bitstream):
        return getattr(self.library, f"{self.stem}_decode")(bitstream)


class ImagecodecsArray(Array, Imagecodecs):
    """The same for what packs arrays; a decoder that must be told takes shape and dtype."""

    told = True

    def pack_array(self, array):
        return Imagecodecs.pack(self, array)

    def unpack_array(self, stream, shape):
        decode = getattr(self.library, f"{self.stem}_decode")
        return decode(stream, shape=shape, dtype=self.dtype) if self.told else decode(stream)


class Jpeg8(Imagecodecs):
    name, stem, options = "imagecodecs-jpeg8", "jpeg8", {"level": 85}


class JpegLs(Imagecodecs):
    name, stem = "imagecodecs-jpegls", "jpegls"


class JpegXr(Imagecodecs):
    name, stem, options = "imagecodecs-jpegxr", "jpegxr", {"level": 0.8}


class Htj2k(Imagecodecs):
    name, stem = "imagecodecs-htj2k", "htj2k"


class Jpeg2k(Imagecodecs):
    name, stem, options = "imagecodecs-jpeg2k", "jpeg2k", {"level": 40}


class JpegXl(Imagecodecs):
    name, stem, options = "imagecodecs-jpegxl", "jpegxl", {"level": 85}


class Lerc(Imagecodecs):
    name, stem = "imagecodecs-lerc", "lerc"


class Spng(Imagecodecs):
    name, stem = "imagecodecs-spng", "spng"


class Png(Imagecodecs):
    name, stem = "imagecodecs-png", "png"


class Apng(Imagecodecs):
    name, stem = "imagecodecs-apng", "apng"


class Qoi(Imagecodecs):
    name, stem = "imagecodecs-qoi", "qoi"


class WebP(Imagecodecs):
    name, stem, options = "imagecodecs-webp", "webp", {"level": 85, "lossless": False}


class Avif(Imagecodecs):
    name, stem, options = "imagecodecs-avif", "avif", {"level": 60, "speed": 10}


class Bmp(Imagecodecs):
    name, stem = "imagecodecs-bmp", "bmp"


class Tiff(Imagecodecs):
    name, stem = "imagecodecs-tiff", "tiff"


class Sz3(ImagecodecsArray):
    name, stem, dtype, options = "imagecodecs-sz3", "sz3", np.float32, {"mode": "abs", "abs": 2.0}


class Sperr(ImagecodecsArray):
    name, stem, dtype, options = "imagecodecs-sperr", "sperr", np.float32, {"level": 40, "mode": "psnr"}
    told = False


class Zfp(ImagecodecsArray):
    name, stem, dtype, options = "imagecodecs-zfp", "zfp", np.float32, {"level": 1.0, "mode": "a"}
    told = False


class Pcodec(ImagecodecsArray):
    name, stem, dtype = "imagecodecs-pcodec", "pcodec", np.uint16


class Blosc(ImagecodecsArray):
    name, stem, told, options = "imagecodecs-blosc", "blosc", False, {"level": 9, "typesize": 3}


class Blosc2(ImagecodecsArray):
    name, stem, told = "imagecodecs-blosc2", "blosc2", False


class Zstd(ImagecodecsArray):
    name, stem, told = "imagecodecs-zstd", "zstd", False


class Numcodecs(Array):
    """A codec of numcodecs, by its identity."""

    distribution = module = "numcodecs"
    config: dict

    def __init__(self):
        super().__init__()
        self.codec = self.library.get_codec(dict(self.config))

    def pack_array(self, array):
        return self.codec.encode(array)

    def unpack_array(self, stream, shape):
        return self.codec.decode(stream)


class NumcodecsBlosc(Numcodecs):
    name, config = "numcodecs-blosc", {"id": "blosc"}


class NumcodecsZstd(Numcodecs):
    name, config = "numcodecs-zstd", {"id": "zstd"}


class NumcodecsLz4(Numcodecs):
    name, config = "numcodecs-lz4", {"id": "lz4"}


class OpenCv(Library):
    """A format of OpenCV's, by its suffix."""

    distribution, module = "opencv-python-headless", "cv2"
    suffix: str

    def pack(self, image):
        return self.library.imencode(self.suffix, np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes()

    def unpack(self, bitstream):
        image = self.library.imdecode(np.frombuffer(bitstream, np.uint8), self.library.IMREAD_COLOR)
        if image is None:
            raise ValueError("no image")
        return np.ascontiguousarray(image[:, :, ::-1])


class OpenCvJpeg(OpenCv):
    name, suffix = "opencv-jpeg", ".jpg"


class OpenCvPng(OpenCv):
    name, suffix = "opencv-png", ".png"


class OpenCvWebP(OpenCv):
    name, suffix = "opencv-webp", ".webp"


class OpenCvBmp(OpenCv):
    name, suffix = "opencv-bmp", ".bmp"


class OpenCvJpeg2000(OpenCv):
    name, suffix = "opencv-jp2", ".jp2"


class SimpleJpeg(Library):
    name, distribution, module = "simplejpeg", "simplejpeg", "simplejpeg"

    def pack(self, image):
        return self.library.encode_jpeg(np.ascontiguousarray(image), quality=85)

    def unpack(self, bitstream):
        return self.library.decode_jpeg(bitstream)


class PlainCompressAI(Library):
    """A hyperprior of compressai's behind 4 bytes of size and 4 of the first string's length."""

    name, distribution, module = "compressai-hyperprior", "compressai", "compressai"

    def __init__(self):
        super().__init__()
        self.inner = importlib.import_module("robustkit.codecs.learned").SmallHyperprior()

    def pack(self, image):
        torch = importlib.import_module("torch")
        padded = np.pad(image, [(0, -side % 64) for side in image.shape[:2]] + [(0, 0)], mode="edge")
        with torch.inference_mode():
            pixels = torch.tensor(padded).permute(2, 0, 1)[None].float() / 255
            first, second = (strings[0] for strings in self.inner.model.compress(pixels)["strings"])
        return SIZE.pack(*image.shape[:2]) + struct.pack(">I", len(first)) + first + second

    def unpack(self, bitstream):
        torch = importlib.import_module("torch")
        if len(bitstream) < 8:
            raise ValueError("no size")
        height, width, length = struct.unpack_from(">HHI", bitstream)
        if height * width > 1 << 20:
            raise ValueError("too large")
        strings = [[bitstream[8 : 8 + length]], [bitstream[8 + length :]]]
        with torch.inference_mode():
            found = self.inner.model.decompress(strings, (-(-height // 64), -(-width // 64)))["x_hat"][0]
        image = (found.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(image[:height, :width])


#: By name.
CODECS = {
    found.name: found
    for found in list(globals().values())
    if isinstance(found, type) and issubclass(found, Library) and "name" in vars(found)
}
