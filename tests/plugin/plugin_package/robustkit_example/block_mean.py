"""A codec whose every payload byte stands alone: the mean colour of each block, after a header with a checksum."""

import struct
import zlib

import numpy as np

from robustkit import Codec, DecodeError, EncodeError, Layout, Profile, Promise, Region

HEADER = struct.Struct(">2sHHI")
MAGIC = b"BM"


class BlockMean(Codec):
    """Block means, one byte a colour.

    Args:
        block: side of a block in pixels.
    """

    name = "block-mean"
    family = "example"

    def __init__(self, *, block: int = 8) -> None:
        self.block = block
        if block == 8:
            self.profile = PROFILE

    def encode(self, image):
        height, width = image.shape[:2]
        if not (1 <= height <= 4096 and 1 <= width <= 4096):
            raise EncodeError(f"{width}x{height}: sides have 1 to 4096 pixels")
        down, right = (-height % self.block), (-width % self.block)
        padded = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
        rows, columns = padded.shape[0] // self.block, padded.shape[1] // self.block
        means = padded.reshape(rows, self.block, columns, self.block, 3).mean(axis=(1, 3))
        start = MAGIC + struct.pack(">HH", height, width)
        return start + struct.pack(">I", zlib.crc32(start)) + np.rint(means).astype(np.uint8).tobytes()

    def decode(self, bitstream):
        if len(bitstream) < HEADER.size:
            raise DecodeError(f"{len(bitstream)} bytes hold no header")
        magic, height, width, check = HEADER.unpack_from(bitstream)
        if magic != MAGIC or check != zlib.crc32(bitstream[:6]):
            raise DecodeError("the header fails its checksum")
        rows, columns = -(-height // self.block), -(-width // self.block)
        payload = np.frombuffer(bitstream, np.uint8, offset=HEADER.size)
        if len(payload) != rows * columns * 3:
            raise DecodeError(f"{len(payload)} bytes of payload, {width}x{height} has {rows * columns * 3}")
        blocks = payload.reshape(rows, columns, 3).repeat(self.block, axis=0).repeat(self.block, axis=1)
        return np.ascontiguousarray(blocks[:height, :width])

    def layout(self, bitstream):
        bits = 8 * len(bitstream)
        fields = [("magic", 16), ("height", 16), ("width", 16), ("checksum", 32)]
        regions, start = [], 0
        for name, length in fields:
            regions.append(Region(name, min(start, bits), min(start + length, bits), header=True))
            start += length
        return Layout((*regions, Region("block means", min(start, bits), bits)), bits)


PROFILE = Profile(
    bpp=0.377,
    quality=21.8,
    refused=0.3,
    promises=(
        Promise("bsc(ber=0.0001)", mean_drop=0.5, p5_drop=1.0, corrupted=0.15),
        Promise("bsc(ber=0.001)", mean_drop=1.0, p5_drop=2.0, corrupted=0.3),
    ),
)
