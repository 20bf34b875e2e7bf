"""Tests of one's own, beside the suite: what is special about this codec."""

import numpy as np
import pytest
from my_codec import MyCodec
from my_codec.codec import COPY, HEADER

from robustkit import DecodeError
from robustkit.images import photographs


@pytest.fixture(scope="module")
def photo():
    return photographs(64)["coffee"]


def test_one_copy_of_the_header_is_enough(photo):
    codec = MyCodec()
    stream = codec.encode(photo)
    for lost in (slice(0, COPY), slice(COPY, HEADER)):
        damaged = bytearray(stream)
        damaged[lost] = bytes(COPY)
        assert np.array_equal(codec.decode(bytes(damaged)), codec.decode(stream))
    with pytest.raises(DecodeError, match="both copies"):
        codec.decode(bytes(HEADER) + stream[HEADER:])


def test_a_flipped_bit_hurts_one_block(photo):
    codec = MyCodec()
    stream = bytearray(codec.encode(photo))
    clean = codec.decode(bytes(stream))
    stream[HEADER + 20] ^= 1
    hurt = np.argwhere((codec.decode(bytes(stream)) != clean).any(axis=2)) // 8
    assert len(np.unique(hurt, axis=0)) == 1
