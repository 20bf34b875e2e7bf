"""What Turbo-DDCM and Robust Turbo-DDCM have of their own: which atoms they choose, and what becomes of damage."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from robustkit import DecodeError, EncodeError, ErrorPattern, Image, channels
from robustkit.codecs.rcc.container import HEADER_BYTES, WRITERS
from robustkit.codecs.rcc.protocol import IndependentIndices
from robustkit.codecs.rcc.turbo import PROTOCOLS, RobustTurboDDCM, RobustTurboDDCMUEP, TurboDDCM
from robustkit.images import photographs
from robustkit.quality import measure

QUICK = {"T": 8, "bpp": 1.0}


@pytest.fixture(scope="module")
def robust() -> RobustTurboDDCM:
    return RobustTurboDDCM(**QUICK)


@pytest.fixture(scope="module")
def joint() -> TurboDDCM:
    return TurboDDCM(**QUICK)


@pytest.fixture(scope="module")
def photograph() -> Image:
    return photographs(crop=64)["astronaut"]


def test_the_two_codecs_choose_the_same_atoms(photograph: Image) -> None:
    robust, joint = RobustTurboDDCM(T=6, M=5), TurboDDCM(T=6, M=5)
    assert np.array_equal(robust.decode(robust.encode(photograph)), joint.decode(joint.encode(photograph)))
    assert len(joint.encode(photograph)) < len(robust.encode(photograph))


def test_the_ordered_decoder_wins_quality_back_and_changes_no_clean_decode(photograph: Image) -> None:
    ordered, plain = (RobustTurboDDCM(T=12, M=60, K=1 << 12, decoder=decoder) for decoder in ("ordered", "plain"))
    stream = ordered.encode(photograph)
    assert plain.encode(photograph) == stream
    assert np.array_equal(ordered.decode(stream), plain.decode(stream))
    noise = channels.parse("bsc(ber=0.01)")
    damaged = [
        noise.sample(8 * len(stream), channels.generator("ordered", "astronaut", noise.name, number)).apply(stream)
        for number in range(3)
    ]
    lost = {
        codec: np.mean([measure("psnr", photograph, image) for image in codec.decode_batch(damaged)])
        for codec in (ordered, plain)
    }
    clean = measure("psnr", photograph, plain.decode(stream))
    assert clean - lost[ordered] < (clean - lost[plain]) / 2


def test_streams_in_the_order_of_the_indices_are_still_read(photograph: Image, robust: RobustTurboDDCM) -> None:
    settings = {"T": 6, "M": 12, "K": 1 << 14}
    older = OrderOfIndices(**settings).encode(photograph)
    now = RobustTurboDDCM(**settings).encode(photograph)
    assert len(older) == len(now)
    assert older != now
    assert np.array_equal(robust.decode(older), robust.decode(now))


class OrderOfIndices(RobustTurboDDCM):
    protocols: ClassVar = {"largest": IndependentIndices}


def test_the_decoder_believes_every_word_unless_asked_to_look_at_their_order() -> None:
    defaults = {kind: kind(T=4).decoder for kind in (RobustTurboDDCM, RobustTurboDDCMUEP)}
    assert defaults == {RobustTurboDDCM: "plain", RobustTurboDDCMUEP: "ordered"}


def test_by_default_nothing_but_the_header_is_protected(robust: RobustTurboDDCM, photograph: Image) -> None:
    stream = robust.encode(photograph)
    layout, method = robust.layout(stream), robust._parse(stream)[0].method
    assert [region.name for region in layout if "parity" in region.name] == ["header parity"]
    steps = sum(region.stop - region.start for region in layout if region.name.startswith("step"))
    assert steps == (method.steps - 1) * method.atoms * (method.size_log2 + 1)
    assert layout.bits - 8 * HEADER_BYTES - steps < 8


def test_a_published_decoder_reads_the_words_in_whatever_order(photograph: Image) -> None:
    codec = RobustTurboDDCM(T=6, M=12, K=1 << 14)
    stream = codec.encode(photograph)
    payload = codec._parse(stream)[1]
    bits = np.unpackbits(np.frombuffer(payload, np.uint8))
    words, shifts = 12 * 15, 1 << np.arange(13, -1, -1)
    for number in range(5):
        step = bits[number * words : (number + 1) * words]
        indices, signs = step[: 12 * 14].reshape(12, 14) @ shifts, 1 - 2 * step[12 * 14 :].astype(int)
        assert len(set(indices.tolist())) == 12
        read = IndependentIndices(1 << 14, 12).read(step)
        assert np.array_equal(read, (indices, signs))


def test_streams_of_the_protected_codec_are_refused_by_its_name(photograph: Image) -> None:
    stream = RobustTurboDDCMUEP(**QUICK).encode(photograph)
    with pytest.raises(
        DecodeError, match="bit protocol 2: give the stream to robust-turbo-ddcm-uep; this codec reads 6, 1"
    ):
        RobustTurboDDCM(**QUICK).decode(stream)


def test_whoever_wrote_a_protocol_reads_it() -> None:
    kinds = {kind.name: kind for kind in (TurboDDCM, RobustTurboDDCM, RobustTurboDDCMUEP)}
    for protocol in PROTOCOLS:
        assert protocol in kinds[WRITERS[protocol]].methods
    for kind in kinds.values():
        assert {n for n, p in PROTOCOLS.items() if p in kind.protocols.values()} <= set(kind.methods)


def test_streams_with_protected_steps_of_one_codebook_are_read_by_both(photograph: Image) -> None:
    # What the protected codec wrote with selection="largest".
    stream = RobustTurboDDCMUEP(T=8, M=8, selection="largest").encode(photograph)
    decoded = [kind(T=4).decode(stream) for kind in (RobustTurboDDCM, RobustTurboDDCMUEP)]
    assert np.array_equal(*decoded)


def test_what_another_codec_has_is_named() -> None:
    with pytest.raises(
        ValueError, match="'sections' of robust-turbo-ddcm: give largest, or take robust-turbo-ddcm-uep"
    ):
        RobustTurboDDCM(selection="sections")
    with pytest.raises(ValueError, match=r"'reference' of robust-turbo-ddcm-uep: .* robust-turbo-ddcm has it"):
        RobustTurboDDCMUEP(codebook="reference", container="raw", M=4)


@pytest.mark.parametrize("selection", ["largest", "sections"])
def test_interleaving_changes_the_order_of_bits_alone(selection: str, photograph: Image) -> None:
    settings = {"T": 14, "M": 6, "selection": selection, "protect": 0.2}
    straight, mixed = (RobustTurboDDCMUEP(**settings, interleave=interleave) for interleave in (False, True))
    streams = [codec.encode(photograph) for codec in (straight, mixed)]
    assert len(streams[0]) == len(streams[1])
    assert np.array_equal(straight.decode(streams[1]), straight.decode(streams[0]))
    assert mixed.layout(streams[1]).at(8 * len(streams[1]) - 9).name == "steps 10 to 12, interleaved"  # type: ignore[union-attr]
    assert mixed.decode(streams[1][:-20]).shape == photograph.shape


def test_one_flipped_bit_harms_one_atom(joint: TurboDDCM, photograph: Image) -> None:
    # An early step's bit: the robust stream hardly notices, the joint rank loses the step's whole subset.
    losses = {}
    for codec in (RobustTurboDDCM(**QUICK), joint):
        stream = codec.encode(photograph)
        flips = [ErrorPattern(8 * len(stream), [8 * HEADER_BYTES + bit]) for bit in range(30, 50, 2)]
        clean, *damaged = codec.decode_batch([stream, *(flip.apply(stream) for flip in flips)])
        quality = np.mean([measure("psnr", photograph, image) for image in damaged])
        losses[codec.name] = measure("psnr", photograph, clean) - quality
    assert losses["robust-turbo-ddcm"] < losses["turbo-ddcm"] / 2


def test_damage_to_protected_steps_is_undone(photograph: Image) -> None:
    codec = RobustTurboDDCMUEP(**QUICK, protect=0.5)
    stream = codec.encode(photograph)
    layout = codec.layout(stream)
    lead = [region for region in layout if region.name.startswith(("step 0", "step 1", "step 2", "parity"))]
    flips = [region.start for region in lead[:: len(lead) // 5]]
    assert np.array_equal(codec.decode(ErrorPattern(layout.bits, flips).apply(stream)), codec.decode(stream))
    later = next(region.start for region in layout if region.name.startswith("step 3"))
    assert not np.array_equal(codec.decode(ErrorPattern(layout.bits, [later]).apply(stream)), codec.decode(stream))


def test_a_codebook_too_large_for_the_image_is_refused(photograph: Image) -> None:
    with pytest.raises(EncodeError, match="M = 2000 sections of K = 16384"):
        RobustTurboDDCMUEP(T=4, M=2000).encode(photograph)


def test_a_rank_that_names_no_subset_is_refused_alone_and_in_a_batch(joint: TurboDDCM, photograph: Image) -> None:
    stream = joint.encode(photograph)
    damaged = stream[:HEADER_BYTES] + b"\xff" * (len(stream) - HEADER_BYTES)
    with pytest.raises(DecodeError, match="step 0: a rank beyond the last"):
        joint.decode(damaged)
    refused, decoded = joint.decode_batch([damaged, stream])
    assert isinstance(refused, DecodeError)
    assert np.array_equal(decoded, joint.decode(stream))
