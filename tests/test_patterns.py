"""Laws of error patterns: what applying one changes, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import ErrorPattern

streams = st.binary(min_size=1, max_size=64)


@st.composite
def flipped(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    stream = draw(streams)
    return stream, draw(st.lists(st.integers(0, 8 * len(stream) - 1), max_size=40))


@given(flipped())
def test_flips_are_an_involution_and_hit_exactly_their_bits(case):
    stream, flips = case
    pattern = ErrorPattern(8 * len(stream), np.array(flips, dtype=np.int64))
    damaged = pattern.apply(stream)
    before, after = (np.unpackbits(np.frombuffer(s, dtype=np.uint8)) for s in (stream, damaged))
    assert np.flatnonzero(before != after).tolist() == sorted(set(flips))
    assert pattern.apply(damaged) == stream
    assert pattern.harmless == (damaged == stream)


@given(flipped(), st.data())
def test_a_cut_and_appended_bytes_follow_the_flips(case, data):
    stream, flips = case
    keep = data.draw(st.none() | st.integers(0, len(stream)))
    extra = data.draw(st.binary(max_size=5))
    bits = 8 * len(stream)
    both = ErrorPattern(bits, np.array(flips, dtype=np.int64), keep=keep, append=extra)
    alone = ErrorPattern(bits, np.array(flips, dtype=np.int64))
    assert both.apply(stream) == alone.apply(stream)[:keep] + extra
    assert not both.harmless or both.apply(stream) == stream


def test_bit_0_is_the_highest_of_byte_0():
    assert ErrorPattern(16, np.array([0, 15])).apply(b"\x00\x00") == b"\x80\x01"


def test_positions_are_sorted_unique_and_read_only():
    pattern = ErrorPattern(16, np.array([9, 3, 9], dtype=np.uint16))
    assert pattern.flips.tolist() == [3, 9]
    assert pattern.flips.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        pattern.flips[0] = 1


def test_equal_patterns_are_one_key():
    one, same = ErrorPattern(16, np.array([3, 9])), ErrorPattern(16, np.array([9, 3]))
    others = [ErrorPattern(24, one.flips), ErrorPattern(16), ErrorPattern(16, one.flips, keep=1)]
    assert one == same
    assert len({one, same, *others, ErrorPattern(16, one.flips, append=b"x")}) == 5


@pytest.mark.parametrize("flips", [[-1], [16], [2**63]])
def test_a_flip_outside_the_stream_is_refused(flips):
    with pytest.raises(ValueError, match="outside a stream of 16 bits"):
        ErrorPattern(16, np.array(flips))


def test_positions_that_are_not_integers_are_refused():
    with pytest.raises(TypeError, match="float64"):
        ErrorPattern(16, np.array([1.5]))
    with pytest.raises(TypeError, match="bool"):
        ErrorPattern(2, np.array([True, False]))


@pytest.mark.parametrize("keep", [-1, 3])
def test_a_cut_outside_the_stream_is_refused(keep):
    with pytest.raises(ValueError, match=f"keep = {keep} bytes of a stream of 2"):
        ErrorPattern(16, keep=keep)


def test_a_stream_of_another_length_is_refused():
    with pytest.raises(ValueError, match="for 16 bits, the stream has 8"):
        ErrorPattern(16).apply(b"x")


@pytest.mark.parametrize("count", [1, 7, 8, 9, 300, 1024])
def test_few_flips_and_many_are_applied_alike(count):
    stream = np.random.default_rng(0).bytes(128)
    flips = np.sort(np.random.default_rng(count).choice(1024, count, replace=False))
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    bits[flips] ^= 1
    assert ErrorPattern(1024, flips).apply(stream) == np.packbits(bits).tobytes()
