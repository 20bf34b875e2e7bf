"""The strategies reach the damage they promise and shrink to the least of it."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from robustkit import ErrorPattern, Layout, Region, strategies

LAYOUT = Layout(
    (
        Region("magic", 0, 16, header=True),
        Region("size", 16, 48, header=True),
        Region("scan 1", 48, 240),
        Region("checksum", 240, 256, header=True),
        Region("scan 2", 256, 480),
    ),
    480,
)
PATIENT = settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def least(strategy, condition):
    return find(strategy, condition, settings=PATIENT, random=random.Random(1))


def flips(*positions: int) -> ErrorPattern:
    return ErrorPattern(LAYOUT.bits, np.array(positions, dtype=np.int64))


layouts = st.builds(
    lambda head, length: Layout((Region("head", 0, min(head, 8 * length), header=True),), 8 * length),
    st.integers(0, 40),
    st.integers(0, 30),
)


@given(layouts, st.data())
def test_damage_fits_the_stream_and_is_never_harmless(layout, data):
    pattern = data.draw(strategies.damage(layout))
    assert pattern.bits == layout.bits
    assert not pattern.harmless
    stream = bytes(layout.bits // 8)
    assert pattern.apply(stream) != stream


FLIPPING = {
    "bit_flips": strategies.bit_flips(LAYOUT),
    "bursts": strategies.bursts(LAYOUT),
    "header_flips": strategies.header_flips(LAYOUT),
    "damage": strategies.damage(LAYOUT),
}


@pytest.mark.parametrize("name", FLIPPING)
def test_anything_shrinks_to_the_first_bit(name):
    assert least(FLIPPING[name], lambda pattern: True) == flips(0)


@pytest.mark.parametrize("name", FLIPPING)
def test_one_bit_that_matters_is_left_alone(name):
    assert least(FLIPPING[name], lambda pattern: 247 in pattern.flips) == flips(247)


@pytest.mark.parametrize("name", FLIPPING)
def test_a_region_that_matters_leaves_its_lowest_bit(name):
    found = least(FLIPPING[name], lambda pattern: ((pattern.flips >= 16) & (pattern.flips < 48)).any())
    assert found == flips(16)


@pytest.mark.parametrize("name", FLIPPING)
def test_a_count_that_matters_leaves_the_lowest_bits(name):
    found = least(FLIPPING[name], lambda pattern: len(pattern.flips) >= 3)
    assert found == flips(0, 1, 2)


def test_many_flips_are_reached():
    seen = []
    with pytest.raises(NoSuchExample):
        find(
            strategies.damage(LAYOUT),
            lambda p: seen.append(len(p.flips)),
            settings=settings(PATIENT, max_examples=200),
            random=random.Random(1),
        )
    assert max(seen) >= 32
    assert sum(count == 1 for count in seen) >= 20


@pytest.mark.parametrize("name", ["bit_flips", "damage"])
def test_two_bits_that_matter_together_are_left_alone(name):
    found = least(FLIPPING[name], lambda pattern: (pattern.flips < 16).any() and (pattern.flips >= 49).any())
    assert found == flips(0, 49)


def test_two_bits_of_a_burst_that_matter_together_are_left_alone():
    found = least(FLIPPING["bursts"], lambda pattern: (pattern.flips < 16).any() and (pattern.flips >= 49).any())
    assert len(found.flips) == 2
    assert found.flips[1] == 49


@given(strategies.header_flips(LAYOUT))
def test_header_flips_stay_in_the_header(pattern):
    assert 1 <= len(pattern.flips) <= 16
    assert all(LAYOUT.at(int(bit)).header for bit in pattern.flips)


@given(strategies.bursts(LAYOUT, max_length=20))
def test_a_burst_stays_within_its_length(pattern):
    assert len(pattern.flips) >= 1
    assert pattern.flips[-1] - pattern.flips[0] < 20


@given(strategies.bit_flips(LAYOUT, max_flips=5))
def test_flips_keep_to_their_number(pattern):
    assert 1 <= len(pattern.flips) <= 5
    assert pattern.keep is None
    assert not pattern.append


def test_truncations_shrink_to_the_shortest_cut():
    cuts = strategies.truncations(LAYOUT)
    assert least(cuts, lambda p: True) == ErrorPattern(480, keep=59)
    assert least(cuts, lambda p: p.keep <= 40) == ErrorPattern(480, keep=40)
    assert least(cuts, lambda p: p.keep == 0) == ErrorPattern(480, keep=0)
    # An edge in the midst of 60,000 bytes, which blind search would need thousands of tries for.
    big = Layout((Region("head", 0, 8 * 31_415, header=True),), 8 * 60_000)
    found = find(
        strategies.truncations(big),
        lambda p: p.keep == 31_415,
        settings=settings(PATIENT, max_examples=200),
        random=random.Random(1),
    )
    assert found.keep == 31_415


def test_appended_bytes_shrink_to_one_zero():
    assert least(strategies.appended(LAYOUT), lambda p: True) == ErrorPattern(480, append=b"\0")
    assert least(strategies.appended(LAYOUT), lambda p: len(p.append) >= 9).append == bytes(9)


def test_the_union_reaches_every_kind_and_their_mixture():
    union = strategies.damage(LAYOUT)
    assert least(union, lambda p: p.keep is not None) == ErrorPattern(480, keep=59)
    assert least(union, lambda p: p.append) == ErrorPattern(480, append=b"\0")
    mixed = least(union, lambda p: p.keep is not None and p.append and (p.flips >= 300).any())
    assert mixed == ErrorPattern(480, np.array([300]), keep=59, append=b"\0")


def test_a_mixture_never_comes_to_nothing():
    with pytest.raises(NoSuchExample):
        least(strategies.damage(Layout((), 16), max_flips=1), lambda p: p.harmless)


@given(strategies.garbage(max_bytes=9))
def test_garbage_is_short_bytes(stream):
    assert isinstance(stream, bytes)
    assert len(stream) <= 9


def test_garbage_shrinks_to_the_empty_stream():
    assert least(strategies.garbage(), lambda stream: True) == b""


def test_without_a_header_the_union_has_no_header_flips():
    bare = Layout((Region("payload", 0, 80),), 80)
    with pytest.raises(ValueError, match="names no header regions"):
        strategies.header_flips(bare)
    assert find(strategies.damage(bare), lambda p: True) == ErrorPattern(80, np.array([0]))


def test_an_empty_stream_can_only_grow():
    empty = Layout((), 0)
    for strategy in (strategies.bit_flips, strategies.bursts, strategies.truncations):
        with pytest.raises(ValueError, match="the stream is empty"):
            strategy(empty)
    assert find(strategies.damage(empty), lambda p: True) == ErrorPattern(0, append=b"\0")
    with pytest.raises(NoSuchExample):
        find(strategies.damage(empty), lambda p: not p.append)


def test_zero_flips_cannot_be_asked_for():
    with pytest.raises(ValueError, match="max_flips = 0"):
        strategies.bit_flips(LAYOUT, max_flips=0)
