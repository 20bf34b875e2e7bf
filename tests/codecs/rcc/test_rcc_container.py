"""The container's header: what it survives, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reedsolo import RSCodec

from robustkit import DecodeError, ErrorPattern
from robustkit.codecs.rcc.container import HEADER_BYTES, PARITY, Header, check_size, header_fields
from robustkit.codecs.rcc.turbo import TurboParameters

METHODS = {1: TurboParameters}
HEADER = Header(
    schedule=2,
    protocol=1,
    height=256,
    width=300,
    method=TurboParameters(steps=40, closing=0, protected=32, atoms=36, codebook=0, size_log2=18),
    seed=88888888,
    efficiency=60,
    prior=b"prior",
    payload=3321,
)
PACKED = HEADER.pack()


def test_unpack_gives_back_what_was_packed() -> None:
    assert len(PACKED) == HEADER_BYTES == sum(bits for _, bits in header_fields(TurboParameters)) // 8
    assert Header.unpack(PACKED + b"payload", METHODS) == HEADER


@given(start=st.integers(0, 8 * HEADER_BYTES - 32), inside=st.lists(st.booleans(), min_size=32, max_size=32))
def test_the_header_survives_every_burst_of_32_bits(start: int, inside: list[bool]) -> None:
    flips = start + np.flatnonzero(inside)
    assert Header.unpack(ErrorPattern(8 * HEADER_BYTES, flips).apply(PACKED), METHODS) == HEADER


@given(st.sets(st.integers(0, HEADER_BYTES - 1), max_size=16), st.randoms(use_true_random=False))
def test_the_header_survives_any_16_wrong_bytes(places: set[int], random: object) -> None:
    damaged = bytearray(PACKED)
    for place in places:
        damaged[place] ^= random.randint(1, 255)  # type: ignore[attr-defined]
    assert Header.unpack(bytes(damaged), METHODS) == HEADER


@pytest.mark.parametrize("seed", range(40))
def test_the_header_survives_exactly_16_wrong_bytes_and_never_lies_about_17(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def damaged(wrong: int) -> bytes:
        found = np.frombuffer(PACKED, np.uint8).copy()
        found[rng.choice(HEADER_BYTES, wrong, replace=False)] ^= rng.integers(1, 256, wrong, dtype=np.uint8)
        return found.tobytes()

    assert Header.unpack(damaged(16), METHODS) == HEADER
    for wrong in (17, 20, 30, HEADER_BYTES):
        with pytest.raises(DecodeError, match="beyond repair"):
            Header.unpack(damaged(wrong), METHODS)


def test_a_whole_codeword_with_a_wrong_checksum_is_refused() -> None:
    """What 17 wrong bytes may be taken for by the code alone."""
    told = bytearray(PACKED[:-PARITY])
    told[4] ^= 1
    with pytest.raises(DecodeError, match="its checksum is wrong"):
        Header.unpack(bytes(RSCodec(PARITY).encode(told)), METHODS)
    told[-1] ^= 1
    with pytest.raises(DecodeError, match="its checksum is wrong"):
        Header.unpack(bytes(RSCodec(PARITY).encode(told)), METHODS)


def test_the_header_survives_a_bit_error_rate_of_one_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        flips = np.flatnonzero(rng.random(8 * HEADER_BYTES) < 1e-2)
        assert Header.unpack(ErrorPattern(8 * HEADER_BYTES, flips).apply(PACKED), METHODS) == HEADER


def test_a_stream_of_another_bit_protocol_is_refused() -> None:
    with pytest.raises(DecodeError, match="bit protocol 1: give the stream to robust-turbo-ddcm; this codec reads 0"):
        Header.unpack(PACKED, {0: TurboParameters})


@given(st.binary(min_size=6, max_size=6))
def test_any_six_bytes_are_some_settings(packed: bytes) -> None:
    assert TurboParameters.unpack(packed).pack() == packed


@given(st.binary(max_size=2 * HEADER_BYTES))
def test_garbage_is_refused(stream: bytes) -> None:
    with pytest.raises(DecodeError):
        Header.unpack(stream, METHODS)


@pytest.mark.parametrize(
    ("height", "width", "taken"),
    [(1, 1, True), (8192, 2048, True), (0, 5, False), (8193, 1, False), (8192, 8192, False)],
)
def test_sizes_are_bounded(height: int, width: int, taken: bool) -> None:
    assert (check_size(height, width) is None) == taken
