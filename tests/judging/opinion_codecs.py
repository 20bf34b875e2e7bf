"""Codecs of test_opinion.py, apart from what the tests import: their processes start in a third of the time."""

import ctypes
import os
import struct
import subprocess
import threading
import time
import zlib

import numpy as np

from robustkit import Codec, DecodeError, Layout, Profile, Region

HEADER = struct.Struct(">HHI")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


class Means(Codec):
    """The mean colour of blocks of 8 x 8, each with a check sum of its own, behind a header that is refused if hit."""

    name = "means"
    family = "test"
    profile = Profile(bpp=9.0, quality=5.0)

    def encode(self, image):
        height, width = (side // 8 for side in image.shape[:2])
        size = struct.pack(">HH", height, width)
        blocks = image[: 8 * height, : 8 * width].reshape(height, 8, width, 8, 3).mean(axis=(1, 3)).astype(np.uint8)
        rows = b"".join(row.tobytes() + bytes([zlib.crc32(row.tobytes()) & 255]) for row in blocks)
        return size + struct.pack(">I", zlib.crc32(size)) + rows

    def rows(self, bitstream):
        """Size, rows, and which of them arrived unharmed."""
        if len(bitstream) < HEADER.size:
            raise DecodeError("short")
        height, width, check = HEADER.unpack_from(bitstream)
        if check != zlib.crc32(bitstream[:4]):
            raise DecodeError("header")
        size = 3 * width + 1
        body = bitstream[HEADER.size :]
        rows = [body[size * i : size * (i + 1)] for i in range(height)]
        good = [len(row) == size and row[-1] == zlib.crc32(row[:-1]) & 255 for row in rows]
        return height, width, rows, good

    def decode(self, bitstream):
        height, width, rows, good = self.rows(bitstream)
        blocks = np.full((height, width, 3), 128, np.uint8)
        for i, (row, fine) in enumerate(zip(rows, good, strict=True)):
            if fine:
                blocks[i] = np.frombuffer(row[:-1], np.uint8).reshape(width, 3)
        return self.shown(blocks, damaged=not all(good))

    def shown(self, blocks, *, damaged):
        return blocks.repeat(8, axis=0).repeat(8, axis=1)

    def layout(self, bitstream):
        bits = 8 * len(bitstream)
        start = min(64, bits)
        return Layout((Region("size", 0, start, header=True), Region("rows", start, bits)), bits)


class KeepsRows(Means):
    """V1: a damaged row stays as it was in the picture before."""

    name = "keeps-rows"
    buffer = None

    def decode(self, bitstream):
        height, width, rows, good = self.rows(bitstream)
        if self.buffer is None or self.buffer.shape != (height, width, 3):
            self.buffer = np.full((height, width, 3), 128, np.uint8)
        for i, (row, fine) in enumerate(zip(rows, good, strict=True)):
            if fine:
                self.buffer[i] = np.frombuffer(row[:-1], np.uint8).reshape(width, 3)
        return self.shown(self.buffer, damaged=False)


class Sulks(Means):
    """V7: 40 grey levels off after any refusal."""

    name = "sulks"
    off = 0

    def decode(self, bitstream):
        try:
            return super().decode(bitstream) ^ np.uint8(self.off)
        except DecodeError:
            self.off = 40
            raise


class Helped(Means):
    """Starts a helper process with each decode, and leaves it."""

    name = "helped"

    def decode(self, bitstream):
        subprocess.Popen(["sleep", "60"])
        return super().decode(bitstream)


class ReadsOn(Means):
    """D2: what did not arrive is whatever lies in fresh memory."""

    name = "reads-on"

    def decode(self, bitstream):
        if len(bitstream) < HEADER.size:
            raise DecodeError("short")
        height, width, check = HEADER.unpack_from(bitstream)
        if check != zlib.crc32(bitstream[:4]):
            raise DecodeError("header")
        size = HEADER.size + height * (3 * width + 1)
        address = libc.malloc(size)
        ctypes.memmove(address, bitstream, min(size, len(bitstream)))
        whole = ctypes.string_at(address, size)
        libc.free(address)
        rows = np.frombuffer(whole[HEADER.size :], np.uint8).reshape(height, 3 * width + 1)
        return rows[:, :-1].reshape(height, width, 3).repeat(8, axis=0).repeat(8, axis=1)


class DiesLater(Means):
    """E6: a damaged stream starts what ends the process 50 ms later, in the decode of another one."""

    name = "dies-later"

    def shown(self, blocks, *, damaged):
        if damaged:
            threading.Timer(0.05, os.abort).start()
        else:
            time.sleep(0.1)
        return super().shown(blocks, damaged=damaged)


class Deadlocks(Means):
    """A refusal leaves a lock locked, so that the next decode hangs."""

    name = "deadlocks"

    def __init__(self):
        self.lock = threading.Lock()

    def decode(self, bitstream):
        self.lock.acquire()
        image = super().decode(bitstream)
        self.lock.release()
        return image


class Aborts(Means):
    name = "aborts"

    def shown(self, blocks, *, damaged):
        if damaged:
            os.abort()
        return super().shown(blocks, damaged=damaged)


class Slow(Means):
    """D5: more than a second on damage."""

    name = "slow"

    def shown(self, blocks, *, damaged):
        if damaged:
            time.sleep(1.1)
        return super().shown(blocks, damaged=damaged)


class Stalls(Means):
    """A sound codec on a machine that was busy once."""

    name = "stalls"

    def __init__(self, *, stalled):
        self.stalled = stalled

    def shown(self, blocks, *, damaged):
        if damaged and not os.path.exists(self.stalled):
            with open(self.stalled, "w"):
                time.sleep(1.1)
        return super().shown(blocks, damaged=damaged)


class Large(Means):
    """D5: 300 MiB on damage."""

    name = "large"

    def shown(self, blocks, *, damaged):
        if damaged:
            np.ones(300 * 2**20, np.uint8)
        return super().shown(blocks, damaged=damaged)


class Leaks(Means):
    """100 MiB more with each damaged stream."""

    name = "leaks"

    def __init__(self):
        self.kept = []

    def shown(self, blocks, *, damaged):
        if damaged:
            self.kept.append(np.ones(100 * 2**20, np.uint8))
        return super().shown(blocks, damaged=damaged)


class Gone(Means):
    """Another stream from a process that works elsewhere."""

    name = "gone"

    def encode(self, image):
        return super().encode(image) + os.getcwd().encode()


class Clock(Means):
    """V6: the time in the stream, in seconds."""

    name = "clock"

    def encode(self, image):
        return super().encode(image) + struct.pack(">I", int(time.time()))


class Hashes(Means):
    """V6: the hash of a string in the stream."""

    name = "hashes"

    def encode(self, image):
        return super().encode(image) + struct.pack(">q", hash("x"))


class Batch:
    """Decodes in batches, as codecs do whose libraries have threads."""

    def decode_batch(self, bitstreams):
        return super().decode_batch(bitstreams)


class BatchKeepsRows(Batch, KeepsRows):
    name = "batch-keeps-rows"


class BatchReadsOn(Batch, ReadsOn):
    name = "batch-reads-on"
