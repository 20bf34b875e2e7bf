"""The payload: every field has its place, and what is protected comes back after damage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reedsolo import RSCodec
from scipy.stats import binom

from robustkit import DecodeError, ErrorPattern
from robustkit.codecs.rcc import protection
from robustkit.codecs.rcc.payload import GROUP, Payload
from robustkit.codecs.rcc.protocol import IndependentIndices, JointRank

#: Of a byte at BER 1e-2.
BYTE_ERROR = 1 - 0.99**8


@given(data=st.binary(max_size=1500), bad=st.randoms(use_true_random=False))
def test_a_codeword_comes_back_with_half_its_parity_in_wrong_bytes(data: bytes, bad: object) -> None:
    parity = protection.parity(data)
    assert len(parity) == protection.parity_bytes(len(data))
    count = protection.codewords(len(data))
    damaged = bytearray(data + parity)
    for codeword in range(count):
        places = [*range(codeword, len(data), count), *range(len(data) + codeword, len(damaged), count)]
        for place in bad.sample(places, len(parity) // count // 2):  # type: ignore[attr-defined]
            damaged[place] ^= bad.randint(1, 255)  # type: ignore[attr-defined]
    assert protection.repair(bytes(damaged[: len(data)]), bytes(damaged[len(data) :])) == data


@given(data=st.binary(min_size=1, max_size=protection.DATA))
def test_the_parity_of_a_codeword_is_what_reedsolo_encodes(data: bytes) -> None:
    code = RSCodec(protection.parity_bytes(len(data)))
    assert data + protection.parity(data) == bytes(code.encode(data))


@given(st.binary(min_size=800, max_size=900), st.integers(0, 2**32))
def test_a_burst_of_64_bytes_is_repaired(data: bytes, seed: int) -> None:
    parity = protection.parity(data)
    rng = np.random.default_rng(seed)
    stream = bytearray(data + parity)
    start = rng.integers(len(stream) - 64)
    stream[start : start + 64] = rng.bytes(64)
    assert protection.repair(bytes(stream[: len(data)]), bytes(stream[len(data) :])) == data


@given(st.binary(min_size=1, max_size=1500), st.data())
def test_damage_beyond_repair_gives_bytes_of_the_same_length(data: bytes, more: st.DataObject) -> None:
    garbage = more.draw(st.binary(min_size=len(data), max_size=len(data)))
    assert len(protection.repair(garbage, protection.parity(data))) == len(data)


def test_few_codewords_are_beyond_repair_at_a_bit_error_rate_of_one_in_a_hundred() -> None:
    for length in range(1, protection.DATA + 1):
        parity = protection.parity_bytes(length)
        assert length + parity <= 255
        assert binom.sf(parity // 2, length + parity, BYTE_ERROR) < 0.0026


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("protected", [0, 1, 3, 9])
@given(data=st.data())
def test_read_gives_back_what_was_packed(protected: int, interleaved: bool, data: st.DataObject) -> None:
    protocol = IndependentIndices(1 << 10, 7)
    payload = Payload(protocol, steps=9, protected=protected, interleaved=interleaved)
    bits = np.frombuffer(data.draw(st.binary(min_size=9 * protocol.bits, max_size=9 * protocol.bits)), np.uint8) & 1
    packed = payload.pack(bits.reshape(9, -1))
    assert len(packed) == len(payload)
    assert 8 * len(packed) == sum(length for _, length in payload.fields())
    indices, signs = payload.read(packed)
    assert np.array_equal(np.stack([protocol.write(*step) for step in zip(indices, signs, strict=True)]).ravel(), bits)


def test_the_protected_steps_come_back_and_the_others_do_not() -> None:
    protocol = IndependentIndices(1 << 14, 37)
    payload = Payload(protocol, steps=40, protected=12)
    rng = np.random.default_rng(0)
    packed = payload.pack(rng.integers(0, 2, (40, protocol.bits), dtype=np.uint8))
    damaged = ErrorPattern(8 * len(packed), np.flatnonzero(rng.random(8 * len(packed)) < 1e-2)).apply(packed)
    wrong = (payload.read(packed)[0] != payload.read(damaged)[0]).any(axis=1)
    assert not wrong[:12].any()
    assert wrong[12:].all()


def test_fields_name_protected_steps_parity_and_padding() -> None:
    payload = Payload(JointRank(16, 2), steps=3, protected=1)
    assert list(payload.fields()) == [
        ("step 0 subset rank", 7),
        ("step 0 atom 0 sign", 1),
        ("step 0 atom 1 sign", 1),
        ("padding of the protected steps", 7),
        ("parity", 8 * 18),
        ("step 1 subset rank", 7),
        ("step 1 atom 0 sign", 1),
        ("step 1 atom 1 sign", 1),
        ("step 2 subset rank", 7),
        ("step 2 atom 0 sign", 1),
        ("step 2 atom 1 sign", 1),
        ("padding", 6),
    ]


def test_a_burst_spreads_over_an_interleaved_group() -> None:
    protocol = IndependentIndices(1 << 14, 37)
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 2, (20, protocol.bits), dtype=np.uint8)
    hit = {}
    for interleaved in (False, True):
        payload = Payload(protocol, steps=20, protected=0, interleaved=interleaved)
        packed = payload.pack(steps)
        damaged = ErrorPattern(8 * len(packed), np.arange(800, 864)).apply(packed)
        hit[interleaved] = (payload.read(packed)[0] != payload.read(damaged)[0]).any(axis=1).sum()
    assert hit == {False: 1 + (800 // protocol.bits != 863 // protocol.bits), True: GROUP}


def test_fields_name_interleaved_groups() -> None:
    payload = Payload(IndependentIndices(16, 2), steps=11, protected=1, interleaved=True)
    names = [name for name, _ in payload.fields() if "atom" not in name]
    assert names == [
        "padding of the protected steps",
        "parity",
        "steps 1 to 8, interleaved",
        "steps 9 to 10, interleaved",
        "padding",
    ]
    assert sum(length for _, length in payload.fields()) == 8 * len(payload)


def test_a_step_that_names_no_atoms_is_refused_by_number() -> None:
    payload = Payload(JointRank(16, 2), steps=3, protected=0)
    with pytest.raises(DecodeError, match="step 0: a rank beyond"):
        payload.read(b"\xff" * len(payload))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("protected", [0, 3, 9])
@given(data=st.data())
def test_a_payload_cut_short_gives_the_steps_that_arrived(
    protected: int, interleaved: bool, data: st.DataObject
) -> None:
    protocol = IndependentIndices(1 << 10, 7)
    payload = Payload(protocol, steps=9, protected=protected, interleaved=interleaved)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    indices = np.stack([np.sort(rng.choice(1 << 10, 7, replace=False)) for _ in range(9)])
    signs = rng.choice([-1, 1], (9, 7))
    whole = payload.pack(np.stack([protocol.write(i, s) for i, s in zip(indices, signs, strict=True)]))
    kept = data.draw(st.integers(0, len(whole)))
    read_indices, read_signs = payload.read(whole[:kept])
    arrived = len(read_indices)
    assert np.array_equal(read_indices, indices[:arrived])
    assert np.array_equal(read_signs, signs[:arrived])
    # No step is left out whose bits are all there, but for the parity between the two parts, and a group's others.
    lost = GROUP - 1 if interleaved else 0
    assert arrived >= min(9 - lost, 8 * (kept - payload._parity) // protocol.bits - 1 - lost)
    assert (arrived == 9) or kept < len(whole)
