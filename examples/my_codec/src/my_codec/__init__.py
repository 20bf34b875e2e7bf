"""A small image codec whose streams bear bit errors: a fixed number of bits for each block."""

from my_codec.codec import MyCodec

__all__ = ["MyCodec"]
