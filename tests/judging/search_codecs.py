"""Codecs of test_search.py, apart from what the tests import: their processes start in a third of the time."""

import os
import signal
import time

import numpy as np

from robustkit import Codec, DecodeError, Layout, Region


class Store(Codec):
    """Stores the pixels of images 8 wide behind 300 bytes that must stay zero."""

    name = "store"
    family = "test"
    HEAD = 300

    def encode(self, image):
        return bytes(self.HEAD) + image[:, :8].tobytes()

    def decode(self, bitstream):
        if len(bitstream) < self.HEAD or (len(bitstream) - self.HEAD) % 24 or len(bitstream) == self.HEAD:
            raise DecodeError("length")
        return np.frombuffer(bitstream[self.HEAD :], np.uint8).reshape(-1, 8, 3)

    def layout(self, bitstream):
        return Layout((), 8 * len(bitstream))


class Nothing(Store):
    """Has nothing but the empty stream."""

    name = "nothing"

    def encode(self, image):
        return b""

    def decode(self, bitstream):
        return np.zeros((4, 8, 3), np.uint8)


class Named(Store):
    """The same with a header of three bytes, in two parts."""

    name = "named"

    def layout(self, bitstream):
        bits = 8 * len(bitstream)
        parts = (Region("magic", 0, 16, header=True), Region("size", 800, 808, header=True), Region("rest", 808, bits))
        return Layout(tuple(r for r in parts if r.stop <= bits), bits)


class OneBit(Store):
    """Dies of one bit of its header."""

    name = "one-bit"

    def decode(self, bitstream):
        if bitstream[171:172] == b"\x10":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().decode(bitstream)


class Brittle(Named):
    """Raises for a set bit 30 to 37, or for a bit of 2400 and of 2410 together; misshapen for bit 0."""

    name = "brittle"

    def decode(self, bitstream):
        bits = np.unpackbits(np.frombuffer(bitstream, np.uint8))
        if bits[30:38].any():
            raise RuntimeError(f"brittle {bits[30:38].sum()}")
        if bits[:1].any():
            return np.zeros((1, 1, 3), np.uint8)
        return super().decode(bitstream)


class Pairs(Store):
    """Raises where bytes 2 to 19 and 20 to 59 have a bit set each; and where exactly 30 bytes are cut off."""

    name = "pairs"

    def decode(self, bitstream):
        if any(bitstream[2:20]) and any(bitstream[20:60]):
            raise KeyError("pair")
        if len(bitstream) == self.HEAD + 96 - 30:
            raise IndexError("cut")
        return super().decode(bitstream)


class Aborts(Named):
    """Aborts on nearly every flip; one of its first bit gives a wrong shape."""

    name = "aborts"

    def layout(self, bitstream):
        return Layout((Region("magic", 0, min(8, 8 * len(bitstream)), header=True),), 8 * len(bitstream))

    def decode(self, bitstream):
        bits = np.unpackbits(np.frombuffer(bitstream, np.uint8)[: self.HEAD])
        if bits[1:].any():
            os.abort()
        return super().decode(bitstream)[: 3 if bits[0] else None]


class Hangs(Named):
    """Hangs where byte 20 is not zero."""

    name = "hangs"

    def decode(self, bitstream):
        while any(bitstream[20:21]):
            time.sleep(1)
        return super().decode(bitstream)


class Slow(Named):
    name = "slow"

    def decode(self, bitstream):
        time.sleep(0.1)
        return super().decode(bitstream)


class Works(Named):
    """Works for as long as the file ``idle`` is there; with a machine full of others it takes three times as long."""

    name = "works"

    def __init__(self, *, idle):
        self.idle = idle

    def decode(self, bitstream):
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        if not os.path.exists(self.idle):
            time.sleep(0.04)
        return super().decode(bitstream)


class BatchWorks(Works):
    name = "batch-works"

    def decode_batch(self, bitstreams):
        return [self.decode(bitstream) for bitstream in bitstreams]
