"""A codec of arrays in robustkit's frame: whole in five lines, and damage to the size is found out."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import DecodeError, EncodeError, Outcome
from robustkit.codecs.frame import Frame, FramedCodec
from robustkit.isolation import CodecWorkers
from robustkit.registry import registry


class Deflate(FramedCodec):
    name = "framed-deflate"
    refusals = (zlib.error,)

    def compress(self, image):
        return zlib.compress(image.tobytes())

    def decompress(self, data, height, width):
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, width, 3)


class Other(Deflate):
    name = "framed-other"


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (61, 43), (7, 130)])
def test_an_image_comes_back(shape):
    codec = Deflate()
    stream = codec.encode(image(*shape))
    assert np.array_equal(codec.decode(stream), image(*shape))
    header = codec.layout(stream).bits_of(header=True)
    assert np.array_equal(header, np.arange(8 * 20))


@given(st.integers(0, 8 * 20 - 1))
def test_every_flip_of_the_header_is_refused(bit):
    stream = bytearray(Deflate().encode(image(8, 8)))
    stream[bit // 8] ^= 0x80 >> bit % 8
    with pytest.raises(DecodeError):
        Deflate().decode(bytes(stream))


def test_what_the_compressor_refuses_is_refused_and_all_else_is_a_failure(tmp_path):
    spec = registry.get(f"{__name__}:Deflate").spec()
    with CodecWorkers(spec, directory=tmp_path) as workers:
        stream = workers.encode(image(8, 8))
        assert workers.decode(stream[:20] + bytes(len(stream) - 20)).outcome is Outcome.REFUSED
        short = Frame(stream[3:7], 8, 8, (zlib.compress(b"too short"),))
        found = workers.decode(short.pack())
    assert found.outcome is Outcome.RAISED
    assert "reshape" in found.message


def test_a_stream_of_another_codec_and_one_too_large_are_refused():
    stream = Deflate().encode(image(8, 8))
    with pytest.raises(DecodeError, match="framed-other is"):
        Other().decode(stream)
    with pytest.raises(DecodeError, match="above max_pixels = 63"):
        Deflate(max_pixels=63).decode(stream)
    with pytest.raises(EncodeError, match="above max_pixels = 63"):
        Deflate(max_pixels=63).encode(image(8, 8))
