"""The bit protocols: bijections between sets of atoms and bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import DecodeError
from robustkit.codecs.rcc.protocol import BitProtocol, IndependentIndices, JointRank

PROTOCOLS = [JointRank, IndependentIndices]


@st.composite
def atoms(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray]:
    """(K, rising indices, signs)."""
    size = 1 << draw(st.integers(1, 18))
    chosen = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=min(size, 40)))
    signs = draw(st.lists(st.sampled_from([-1, 1]), min_size=len(chosen), max_size=len(chosen)))
    return size, np.array(sorted(chosen)), np.array(signs)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(atoms())
def test_read_gives_back_what_was_written(
    protocol: type[BitProtocol], chosen: tuple[int, np.ndarray, np.ndarray]
) -> None:
    size, indices, signs = chosen
    one = protocol(size, len(indices))
    bits = one.write(indices, signs)
    assert bits.dtype == np.uint8
    assert len(bits) == one.bits == sum(length for _, length in one.fields())
    read_indices, read_signs = one.read(bits)
    assert np.array_equal(read_indices, indices)
    assert np.array_equal(read_signs, signs)


@pytest.mark.parametrize(("size", "count"), [(2, 1), (8, 1), (8, 3), (8, 5), (8, 8), (16, 2)])
def test_rank_is_the_position_in_lexicographic_order(size: int, count: int) -> None:
    protocol = JointRank(size, count)
    for position, subset in enumerate(itertools.combinations(range(size), count)):
        assert protocol.rank(np.array(subset)) == position
        assert tuple(protocol.unrank(position)) == subset


@given(st.data())
def test_unrank_then_rank_is_the_identity_at_published_sizes(data: st.DataObject) -> None:
    protocol = JointRank(16384, 114)
    rank = data.draw(st.integers(0, protocol.subsets - 1))
    indices = protocol.unrank(rank)
    assert np.all(np.diff(indices) > 0)
    assert protocol.rank(indices) == rank


def test_a_rank_beyond_the_last_subset_is_refused() -> None:
    protocol = JointRank(8, 3)
    bits = protocol.write(np.array([5, 6, 7]), np.array([1, 1, 1]))
    last = protocol.subsets - 1
    assert int("".join(map(str, bits[: protocol.rank_bits])), 2) == last
    bits[: protocol.rank_bits] = 1
    with pytest.raises(DecodeError, match=r"C\(8, 3\)"):
        protocol.read(bits)


@given(st.data())
def test_every_word_of_independent_indices_decodes_and_a_flip_harms_one_atom(data: st.DataObject) -> None:
    protocol = IndependentIndices(1 << 10, 7)
    word = np.array(data.draw(st.lists(st.integers(0, 1), min_size=protocol.bits, max_size=protocol.bits)), np.uint8)
    indices, signs = protocol.read(word)
    assert np.all((indices >= 0) & (indices < protocol.size))
    flipped = word.copy()
    flipped[data.draw(st.integers(0, protocol.bits - 1))] ^= 1
    other_indices, other_signs = protocol.read(flipped)
    assert np.count_nonzero((indices != other_indices) | (signs != other_signs)) == 1


def test_the_published_rates() -> None:
    # Turbo-DDCM T=30, K=16384, N=5, M=73, written independently: 24 * 73 * 15 bits, 0.10025 bpp at 512x512.
    assert 24 * IndependentIndices(16384, 73).bits / 512**2 == pytest.approx(0.10025, abs=5e-6)
    assert JointRank(16384, 114).bits < IndependentIndices(16384, 114).bits


@pytest.mark.parametrize(("size", "count"), [(1, 1), (6, 2), (8, 0), (8, 9)])
def test_sizes_that_no_protocol_takes(size: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"K = |M = "):
        IndependentIndices(size, count)
