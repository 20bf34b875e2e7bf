"""Decoding never crashes: damaged streams are tried, and what fails is made small.

Surviving means an image of the right shape or a DecodeError. The damage is of every kind, not what a channel does, so
it never enters a confidence bound; the promises are judged in test_degradation.py.
"""

import pytest

from robustkit.judging import draws
from robustkit.judging.search import search, search_garbage, search_header, try_streams
from robustkit.judging.subject import Subject
from robustkit.plugin.claim import Claim


@pytest.mark.robustkit_claim("decode.survives.bit-flips")
def test_decode_survives_bit_flips(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that crashes, hangs, raises or gives a wrong shape when scattered bits flip."""
    claim.survives(search(sound_codec, draws.bit_flips))


@pytest.mark.robustkit_claim("decode.survives.bursts")
def test_decode_survives_bursts(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that stumbles when a run of neighbouring bits is hit."""
    claim.survives(search(sound_codec, draws.bursts))


@pytest.mark.robustkit_claim("decode.survives.header-flips")
def test_decode_survives_header_flips(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that believes its header: sizes, counts and offsets that were hit."""
    if any(not len(clean.layout.bits_of(header=True)) for clean in sound_codec.small.values()):
        pytest.skip(f"the layout of {sound_codec.name} names no header regions")
    claim.survives(search(sound_codec, draws.header_flips))


@pytest.mark.robustkit_claim("decode.survives.header-bits")
def test_decode_survives_each_flip_of_its_header(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that fails at one bit of its header, which a search through the whole stream would miss."""
    claim.survives(search_header(sound_codec))


@pytest.mark.robustkit_claim("decode.survives.truncation")
def test_decode_survives_truncation(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that reads beyond the end of a stream that was cut off."""
    claim.survives(search(sound_codec, draws.truncations))


@pytest.mark.robustkit_claim("decode.survives.appended-bytes")
def test_decode_survives_appended_bytes(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that loses its way in bytes that follow the stream."""
    claim.survives(search(sound_codec, draws.appended))


@pytest.mark.robustkit_claim("decode.survives.mixed-damage")
def test_decode_survives_mixed_damage(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that copes with each kind of damage alone, but not with several at once."""
    claim.survives(search(sound_codec, draws.mixed))


@pytest.mark.robustkit_claim("decode.survives.garbage")
def test_decode_survives_garbage(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that takes bytes which no encoder wrote for a stream, and comes to grief."""
    claim.survives(search_garbage(sound_codec))


@pytest.mark.robustkit_claim("decode.survives.empty-stream")
def test_decode_survives_the_empty_stream(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that looks at the first byte before it knows that there is one."""
    claim.survives(try_streams(sound_codec, [b""]))
