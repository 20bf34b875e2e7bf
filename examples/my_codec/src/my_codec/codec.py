"""Blocks of 8 x 8, a discrete cosine transform, and a fixed number of bits for each coefficient.

Nothing in the payload says how long anything is, so a flipped bit hurts one block and no other. Only the header has
to be whole: it is written twice, each copy with a check sum.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from scipy.fft import dctn, idctn

from robustkit import Codec, DecodeError, EncodeError, Layout, Profile, Region

#: Side of a block in pixels.
SIDE = 8
#: Coefficients that are kept: row, column, bits and the step between two values. The first is the block's mean.
LUMA = ((0, 0, 8, 8.0), (0, 1, 5, 16.0), (1, 0, 5, 16.0), (1, 1, 4, 24.0), (0, 2, 3, 32.0), (2, 0, 3, 32.0))
CHROMA = ((0, 0, 6, 32.0),)
COPY = 8
HEADER = 2 * COPY
PLANES = (LUMA, CHROMA, CHROMA)
#: Of one block.
BITS = sum(bits for plane in PLANES for _, _, bits, _ in plane)
#: From RGB to luma and two colour differences, as JPEG's JFIF has it.
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
LARGEST = 65535


class MyCodec(Codec):
    """The whole codec."""

    name, family = "my-codec", "example"
    profile = Profile.from_toml(Path(__file__).with_name("profile.toml"))

    def encode(self, image):
        height, width = image.shape[:2]
        if not (0 < height <= LARGEST and 0 < width <= LARGEST):
            raise EncodeError(f"sides of 1 to {LARGEST} pixels, not {height} x {width}")
        padded = np.pad(image, [(0, -side % SIDE) for side in image.shape[:2]] + [(0, 0)], mode="edge")
        rows, columns = padded.shape[0] // SIDE, padded.shape[1] // SIDE
        planes = np.moveaxis(padded @ TO_YCC.T, 2, 0) - np.array([128, 0, 0]).reshape(3, 1, 1)
        blocks = planes.reshape(3, rows, SIDE, columns, SIDE).transpose(0, 1, 3, 2, 4)
        found = dctn(blocks, axes=(3, 4), norm="ortho")
        fields = []
        for plane, coefficients in zip(PLANES, found, strict=True):
            for row, column, bits, step in plane:
                most = 1 << (bits - 1)
                value = np.clip(np.rint(coefficients[:, :, row, column] / step), -most, most - 1).astype(np.int64)
                fields.append(((value + most)[..., None] >> np.arange(bits)[::-1]) & 1)
        bits = np.concatenate(fields, axis=2).astype(np.uint8)
        return _header(height, width) * 2 + np.packbits(bits).tobytes()

    def decode(self, bitstream):
        height, width = _size(bitstream)
        rows, columns = -(-height // SIDE), -(-width // SIDE)
        if len(bitstream) != HEADER + -(-rows * columns * BITS // 8):
            raise DecodeError(f"{len(bitstream)} bytes are no stream of {height} x {width} pixels")
        bits = np.unpackbits(np.frombuffer(bitstream, np.uint8, offset=HEADER), count=rows * columns * BITS)
        bits = bits.reshape(rows, columns, BITS).astype(np.int64)
        blocks, at = np.zeros((3, rows, columns, SIDE, SIDE)), 0
        for plane, coefficients in zip(PLANES, blocks, strict=True):
            for row, column, count, step in plane:
                value = bits[:, :, at : at + count] @ (1 << np.arange(count)[::-1])
                coefficients[:, :, row, column] = (value - (1 << (count - 1))) * step
                at += count
        planes = idctn(blocks, axes=(3, 4), norm="ortho").transpose(0, 1, 3, 2, 4)
        planes = planes.reshape(3, rows * SIDE, columns * SIDE) + np.array([128, 0, 0]).reshape(3, 1, 1)
        image = np.moveaxis(planes, 0, 2) @ np.linalg.inv(TO_YCC).T
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)[:height, :width]

    def layout(self, bitstream):
        bits = 8 * len(bitstream)
        ends = [min(8 * end, bits) for end in (COPY, HEADER)]
        return Layout(
            (
                Region("size and check sum", 0, ends[0], header=True),
                Region("size and check sum, again", ends[0], ends[1], header=True),
                Region("blocks", ends[1], bits),
            ),
            bits,
        )


def _header(height, width):
    size = struct.pack(">HH", height, width)
    return size + struct.pack(">I", zlib.crc32(size))


def _size(bitstream):
    for copy in (bitstream[:COPY], bitstream[COPY:HEADER]):
        if len(copy) == COPY:
            height, width = struct.unpack(">HH", copy[:4])
            if copy == _header(height, width) and height and width:
                return height, width
    raise DecodeError("both copies of the header are damaged")
