"""The order-aware decoder: a rising step is left alone, and what broke the order is repaired or left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit.codecs.rcc import ordered
from robustkit.codecs.rcc.protocol import (
    BitProtocol,
    HashOrderedIndices,
    IndependentIndices,
    Integers,
    JointRank,
    SectionIndices,
)

ORDERED = [IndependentIndices, HashOrderedIndices]


def words_of(protocol: BitProtocol, rng: np.random.Generator, *, steps: int = 1) -> Integers:
    """Steps as an encoder writes them: random distinct atoms, their words in the protocol's order."""
    indices = np.stack([rng.choice(protocol.size, protocol.count, replace=False) for _ in range(steps)])
    words = 2 * indices + rng.integers(0, 2, indices.shape)
    return np.take_along_axis(words, protocol.keys(words).argsort(axis=1), axis=1)


def flipped(words: Integers, protocol: BitProtocol, ber: float, rng: np.random.Generator) -> Integers:
    bits = protocol.index_bits + 1
    return words ^ ((rng.random((*words.shape, bits)) < ber) @ (1 << np.arange(bits)))


def believe(protocol: BitProtocol, words: Integers) -> tuple[Integers, np.ndarray]:
    """The words believed and their weights."""
    indices, weights = ordered.believe(protocol, words >> 1, 1 - 2 * (words & 1))
    return 2 * indices + (weights < 0), np.abs(weights)


def cells_of(protocol: BitProtocol, words: Integers) -> Integers:
    return protocol.keys(words) * ordered._cells(words.shape[-1], protocol) // (2 * protocol.size)


@pytest.mark.parametrize("kind", ORDERED)
@given(size=st.integers(1, 18), count=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_rising_words_come_back_as_they_are(kind: type[BitProtocol], size: int, count: int, seed: int) -> None:
    protocol = kind(1 << size, min(count, 1 << size))
    words = words_of(protocol, np.random.default_rng(seed), steps=3)
    believed, weights = believe(protocol, words)
    assert np.array_equal(believed, words)
    assert np.all(weights == 1)


@pytest.mark.parametrize("kind", [SectionIndices, JointRank])
@given(seed=st.integers(0, 2**32))
def test_protocols_without_an_order_are_believed(kind: type[BitProtocol], seed: int) -> None:
    words = np.random.default_rng(seed).integers(0, 2 << 10, (3, 7))
    believed, weights = believe(kind(1 << 10, 7), words)
    assert np.array_equal(believed, words)
    assert np.all(weights == 1)


@pytest.mark.parametrize("kind", ORDERED)
@given(size=st.integers(1, 24), count=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_any_words_give_atoms_and_those_believed_rise(
    kind: type[BitProtocol], size: int, count: int, seed: int
) -> None:
    protocol = kind(1 << size, min(count, 1 << size))
    received = np.random.default_rng(seed).integers(0, 2 << size, (2, protocol.count))
    believed, weights = believe(protocol, received)
    assert np.all((believed >= 0) & (believed < 2 << size))
    assert np.all((weights >= 0) & (weights <= 1 + 1e-9))
    # Two atoms that are each likelier than not are so together in some rising sequence.
    for row, kept in zip(cells_of(protocol, believed), weights > 0.5, strict=True):
        assert np.all(np.diff(row[kept]) >= 0)


@given(count=st.integers(2, 80), seed=st.integers(0, 2**32), data=st.data())
def test_a_flip_that_breaks_the_order_is_repaired_or_left_out(count: int, seed: int, data: st.DataObject) -> None:
    protocol = HashOrderedIndices(1 << 18, count)
    words = words_of(protocol, np.random.default_rng(seed))
    place, bit = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, 18))
    received = words.copy()
    received[0, place] ^= 1 << bit
    believed, weights = believe(protocol, received)
    if np.all(np.diff(protocol.keys(received)) > 0):
        assert np.array_equal(believed, received)
    else:
        # A neighbour may be blamed as well, for no word alone is wrong for certain.
        kept = weights[0] > 0.5
        assert (believed[0, kept] != words[0, kept]).sum() <= 1
        assert not np.all(weights == 1)


@pytest.mark.parametrize(
    ("kind", "size", "count", "repaired", "trusted"),
    [
        (HashOrderedIndices, 18, 50, 0.55, 0.1),
        (HashOrderedIndices, 14, 80, 0.75, 0.06),
        (HashOrderedIndices, 18, 300, 0.8, 0.08),
        (IndependentIndices, 14, 80, 0.28, 0.65),
    ],
)
def test_what_is_repaired_at_a_bit_error_rate_of_one_in_a_hundred(
    kind: type[BitProtocol], size: int, count: int, repaired: float, trusted: float
) -> None:
    protocol = kind(1 << size, count)
    rng = np.random.default_rng(0)
    words = words_of(protocol, rng, steps=60)
    received = flipped(words, protocol, 1e-2, rng)
    believed, weights = believe(protocol, received)
    wrong, right, kept = received != words, believed == words, weights > 0.5
    assert (wrong & right & kept).sum() >= repaired * wrong.sum()
    assert (wrong & ~right & kept).sum() <= trusted * wrong.sum()
    assert (~wrong & ~(right & kept)).sum() <= 0.04 * wrong.sum()


def test_a_weight_is_the_chance_that_the_atom_is_right() -> None:
    protocol = HashOrderedIndices(1 << 16, 40)
    rng = np.random.default_rng(1)
    words = words_of(protocol, rng, steps=300)
    received = flipped(words, protocol, ordered.FLIP, rng)
    lost = rng.random(words.shape) < ordered.LOST
    received[lost] = rng.integers(0, 2 << 16, lost.sum())
    broken = (np.diff(protocol.keys(received), axis=1) <= 0).any(axis=1)
    believed, weights = believe(protocol, received)
    for low, high in ((0.15, 0.35), (0.35, 0.65), (0.65, 0.9), (0.9, 1.0)):
        these = (weights >= low) & (weights <= high) & broken[:, None]
        assert these.sum() > 20
        assert (believed == words)[these].mean() == pytest.approx(weights[these].mean(), abs=0.08)


def test_words_that_a_burst_made_random_do_less_harm() -> None:
    protocol = HashOrderedIndices(1 << 18, 50)
    rng = np.random.default_rng(2)
    words = words_of(protocol, rng, steps=50)
    received = words.copy()
    received[:, 20:24] = rng.integers(0, 2 << 18, (50, 4))
    believed, weights = believe(protocol, received)
    # Some come near the right place by chance.
    assert np.mean(weights[:, 20:24] ** 2) < 0.6
    others = np.delete(np.arange(50), range(20, 24))
    assert np.mean((believed == words)[:, others] & (weights[:, others] > 0.5)) > 0.98


def test_every_step_of_many_is_repaired_alone() -> None:
    protocol = HashOrderedIndices(1 << 14, 130)
    rng = np.random.default_rng(3)
    received = flipped(words_of(protocol, rng, steps=9), protocol, 1e-2, rng)
    together = believe(protocol, received)
    for step in range(9):
        for whole, alone in zip(together, believe(protocol, received[step : step + 1]), strict=True):
            assert np.array_equal(whole[step], alone[0])
    assert not np.array_equal(together[0], received)


def test_no_steps_are_no_atoms() -> None:
    empty = np.empty((0, 5), dtype=np.int64)
    assert [part.shape for part in ordered.believe(HashOrderedIndices(16, 5), empty, empty)] == [(0, 5), (0, 5)]
