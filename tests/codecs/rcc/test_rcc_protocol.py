"""The bit protocols: bijections between sets of atoms and bits."""

from __future__ import annotations

import itertools

import gmpy2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustkit import DecodeError
from robustkit.codecs.rcc.codebook import StructuredCodebook
from robustkit.codecs.rcc.protocol import (
    FEW,
    BitProtocol,
    HashOrderedIndices,
    IndependentIndices,
    JointRank,
    SectionIndices,
)

LARGEST = [JointRank, IndependentIndices]
PROTOCOLS = [*LARGEST, HashOrderedIndices, SectionIndices]


def products_for(protocol: BitProtocol, *, seed: int, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, protocol.atoms, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", PROTOCOLS)
@given(size=st.integers(1, 12).map(lambda n: 1 << n), count=st.integers(1, 40), seed=st.integers(0, 1000))
def test_read_gives_back_what_was_chosen_and_written(kind: type[BitProtocol], size: int, count: int, seed: int) -> None:
    protocol = kind(size, min(count, kind.most_atoms(size)))
    indices, signs = (part[0].numpy() for part in protocol.choose(products_for(protocol, seed=seed)))
    bits = protocol.write(indices, signs)
    assert bits.dtype == np.uint8
    assert len(bits) == protocol.bits == sum(length for _, length in protocol.fields())
    read_indices, read_signs = protocol.read(bits)
    assert np.array_equal(read_indices, indices)
    assert np.array_equal(read_signs, signs)


@pytest.mark.parametrize(("size", "count"), [(2, 1), (64, 40), (2048, 20), (2048, 2048), (1 << 17, 66)])
@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_products_are_chosen(kind: type[BitProtocol], size: int, count: int) -> None:
    protocol = kind(size, count)
    products = products_for(protocol, seed=0)
    indices, signs = protocol.choose(products)
    assert torch.all(indices.diff(dim=1) > 0)
    for row in range(2):
        largest = products[row].abs().sort(descending=True).indices[:count].sort().values
        assert torch.equal(indices[row], largest)
        assert torch.equal(signs[row], products[row][largest].sign())


@given(size=st.integers(1, 20), count=st.integers(1, 60), seed=st.integers(0, 1000))
def test_the_hash_orders_the_largest_atoms_and_names_each_word_once(size: int, count: int, seed: int) -> None:
    protocol, plain = (kind(1 << size, min(count, 1 << size)) for kind in (HashOrderedIndices, IndependentIndices))
    products = products_for(protocol, seed=seed)
    indices, signs = protocol.choose(products)
    for row in range(2):
        keys = protocol.keys((2 * indices + (signs < 0))[row].numpy())
        assert np.all(np.diff(keys) > 0)
        assert keys.min() >= 0
        assert keys.max() < 2 << size
    in_order = indices.argsort(dim=1)
    for mine, theirs in zip((indices, signs), plain.choose(products), strict=True):
        assert torch.equal(mine.gather(1, in_order), theirs)


@pytest.mark.parametrize("size", range(8, 21))
def test_the_hash_moves_a_word_far_with_every_flip(size: int) -> None:
    protocol = HashOrderedIndices(1 << size, 1)
    bits = size + 1
    words = np.random.default_rng(size).integers(0, 1 << bits, 4000)
    moved = np.abs(protocol.keys(words[:, None] ^ 1 << np.arange(bits)) - protocol.keys(words)[:, None]) / (1 << bits)
    # Two mean gaps of 50 words, wherever the bit is.
    assert np.all(np.mean(moved > 2 / 51, axis=0) > 0.95)


def test_each_section_gives_its_best_atom() -> None:
    protocol = SectionIndices(256, 7)
    products = products_for(protocol, seed=0)
    indices, signs = protocol.choose(products)
    for row in range(2):
        for section, index in enumerate(indices[row].tolist()):
            mine = products[row, 256 * section : 256 * (section + 1)]
            assert 0 <= index - 256 * section < 256
            assert products[row, index].abs() == mine.abs().max()
            assert signs[row, section] == products[row, index].sign()


@pytest.mark.parametrize(
    ("kind", "size", "count"),
    [
        (IndependentIndices, 1 << 12, 16),
        (IndependentIndices, 1 << 14, 40),
        (SectionIndices, 1 << 10, 16),
        (SectionIndices, 2, 40),
    ],
)
def test_the_correlation_of_atoms_is_what_they_have(kind: type[BitProtocol], size: int, count: int) -> None:
    protocol = kind(size, count)
    codebook = StructuredCodebook(protocol.atoms, 12288, 5, torch.device("cpu"))
    residual = torch.randn(64, 12288, generator=torch.Generator().manual_seed(0))
    noise = codebook.combine(0, *protocol.choose(codebook.inner_products(0, residual)))
    correlation = torch.nn.functional.cosine_similarity(noise, residual).mean()
    assert float(correlation**2) == pytest.approx(protocol.correlation(12288), rel=0.05)


def test_sections_find_more_than_as_many_bits_of_ordered_indices() -> None:
    # 15 bits an atom, either way.
    assert SectionIndices(1 << 14, 40).correlation(49152) > 1.25 * IndependentIndices(1 << 14, 40).correlation(49152)


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


@pytest.mark.parametrize(("size", "count"), [(1 << 13, 900), (1 << 12, 2048), (1 << 11, 2040), (1 << 16, 560)])
def test_large_ranks_are_sums_of_binomials(size: int, count: int) -> None:
    protocol, rng = JointRank(size, count), np.random.default_rng(0)
    lots = np.sort(rng.choice(size, count, replace=False))
    ends = np.concatenate([np.arange(count // 2), np.arange(size - count + count // 2, size)])
    for subset in (lots, ends, np.arange(count), np.arange(size - count, size)):
        complements = size - 1 - subset
        terms = (gmpy2.comb(int(c), count - place) for place, c in enumerate(complements))
        rank = protocol.rank(subset)
        assert rank == protocol.subsets - 1 - sum(terms)
        assert np.array_equal(protocol.unrank(rank), subset)


def test_a_large_rank_makes_few_binomials_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    # As many atoms as turbo-ddcm has a step at 2048x2048. Each C(n, k) of its own would take milliseconds.
    protocol, comb = JointRank(1 << 18, 8418), gmpy2.comb
    anew: list[int] = []

    def counted(n: int, k: int) -> gmpy2.mpz:
        anew.append(k)
        return comb(n, k)

    subset = np.sort(np.random.default_rng(0).choice(protocol.size, protocol.count, replace=False))
    monkeypatch.setattr(gmpy2, "comb", counted)
    assert np.array_equal(protocol.unrank(protocol.rank(subset)), subset)
    assert sum(k > FEW for k in anew) < 20


def test_a_rank_beyond_the_last_subset_is_refused() -> None:
    protocol = JointRank(8, 3)
    bits = protocol.write(np.array([5, 6, 7]), np.array([1, 1, 1]))
    last = protocol.subsets - 1
    assert int("".join(map(str, bits[: protocol.rank_bits])), 2) == last
    bits[: protocol.rank_bits] = 1
    with pytest.raises(DecodeError, match=r"C\(8, 3\)"):
        protocol.read(bits)


@pytest.mark.parametrize("kind", [IndependentIndices, SectionIndices])
@given(data=st.data())
def test_every_word_of_independent_indices_decodes_and_a_flip_harms_one_atom(
    kind: type[BitProtocol], data: st.DataObject
) -> None:
    protocol = kind(1 << 10, 7)
    word = np.array(data.draw(st.lists(st.integers(0, 1), min_size=protocol.bits, max_size=protocol.bits)), np.uint8)
    indices, signs = protocol.read(word)
    assert np.all((indices >= 0) & (indices < protocol.atoms))
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


@pytest.mark.parametrize("size", [8, 1024])
def test_of_a_section_s_equal_products_the_first_is_chosen(size: int) -> None:
    products = torch.randint(-2, 3, (3, 40 * size), generator=torch.Generator().manual_seed(0)).float()
    indices, signs = SectionIndices(size, 40).choose(products)
    first = products.view(3, 40, size).abs().numpy().argmax(axis=2) + size * np.arange(40)
    assert np.array_equal(indices.numpy(), first)
    assert torch.equal(signs, torch.where(products.gather(1, indices) < 0, -1.0, 1.0))
