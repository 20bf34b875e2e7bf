"""Turbo-DDCM and Robust Turbo-DDCM on the embedded prior and on tiny Stable Diffusion pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_pipeline import save_tiny_pipeline

from robustkit import DecodeError, EncodeError, ErrorPattern, Image, channels
from robustkit.codecs.rcc.container import HEADER_BYTES
from robustkit.codecs.rcc.protocol import IndependentIndices
from robustkit.codecs.rcc.turbo import RobustTurboDDCM, TurboDDCM
from robustkit.images import photographs
from robustkit.priors.base import PriorError
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


def drop(codec: TurboDDCM, stream: bytes, damaged: bytes, image: Image) -> float:
    return measure("psnr", image, codec.decode(stream)) - measure("psnr", image, codec.decode(damaged))


@pytest.mark.parametrize("kind", [RobustTurboDDCM, TurboDDCM])
def test_a_photograph_survives_the_round_trip(kind: type[TurboDDCM], photograph: Image) -> None:
    codec = kind(T=20, bpp=1.5)
    stream = codec.encode(photograph)
    decoded = codec.decode(stream)
    assert decoded.dtype == np.uint8
    assert decoded.shape == photograph.shape
    assert 8 * len(stream) <= 1.5 * 64 * 64
    assert measure("psnr", photograph, decoded) > 21


def test_more_bits_give_more_quality(photograph: Image) -> None:
    qualities = []
    for bpp in (0.7, 1.5, 3.0):
        codec = RobustTurboDDCM(T=20, bpp=bpp)
        qualities.append(measure("psnr", photograph, codec.decode(codec.encode(photograph))))
    assert qualities == sorted(qualities)
    assert qualities[-1] > qualities[0] + 2


@pytest.mark.parametrize("psnr", [20, 23])
def test_a_target_quality_is_reached_and_hardly_more(psnr: float, photograph: Image) -> None:
    codec = RobustTurboDDCM(T=8, psnr=psnr)
    stream = codec.encode(photograph)
    assert psnr <= measure("psnr", photograph, codec.decode(stream)) < psnr + 0.5


def test_a_quality_out_of_reach_is_refused(photograph: Image) -> None:
    with pytest.raises(EncodeError, match="psnr = 58: with these settings this image reaches"):
        RobustTurboDDCM(T=4, psnr=58).encode(photograph)


@pytest.mark.parametrize("bpp", [0.15, 0.25, 0.4])
def test_a_small_image_keeps_to_a_low_rate(bpp: float, photograph: Image) -> None:
    codec = RobustTurboDDCM(bpp=bpp)
    stream = codec.encode(photograph)
    assert 0.9 * bpp - 0.1 < 8 * len(stream) / 64**2 <= bpp
    assert measure("psnr", photograph, codec.decode(stream)) > 12


def test_as_published_the_two_codecs_choose_the_same_atoms(photograph: Image) -> None:
    robust, joint = RobustTurboDDCM(T=6, M=5, selection="largest", protect=0), TurboDDCM(T=6, M=5)
    assert np.array_equal(robust.decode(robust.encode(photograph)), joint.decode(joint.encode(photograph)))
    assert len(joint.encode(photograph)) < len(robust.encode(photograph))


def test_the_ordered_decoder_wins_quality_back_and_changes_no_clean_decode(photograph: Image) -> None:
    ordered, plain = (
        RobustTurboDDCM(T=12, M=60, K=1 << 12, selection="largest", protect=0, decoder=decoder)
        for decoder in ("ordered", "plain")
    )
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
    settings = {"T": 6, "M": 12, "K": 1 << 14, "selection": "largest"}
    older = OrderOfIndices(**settings).encode(photograph)
    now = RobustTurboDDCM(**settings).encode(photograph)
    assert len(older) == len(now)
    assert older != now
    assert np.array_equal(robust.decode(older), robust.decode(now))


class OrderOfIndices(RobustTurboDDCM):
    protocols: ClassVar = {"largest": IndependentIndices}


@pytest.mark.parametrize("selection", ["largest", "sections"])
def test_interleaving_changes_the_order_of_bits_alone(selection: str, photograph: Image) -> None:
    settings = {"T": 14, "M": 6, "selection": selection, "protect": 0.2}
    straight, mixed = (RobustTurboDDCM(**settings, interleave=interleave) for interleave in (False, True))
    streams = [codec.encode(photograph) for codec in (straight, mixed)]
    assert len(streams[0]) == len(streams[1])
    assert np.array_equal(straight.decode(streams[1]), straight.decode(streams[0]))
    assert mixed.layout(streams[1]).at(8 * len(streams[1]) - 9).name == "steps 10 to 12, interleaved"  # type: ignore[union-attr]
    assert mixed.decode(streams[1][:-20]).shape == photograph.shape


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (33, 31), (64, 65)])
def test_images_of_any_size(robust: RobustTurboDDCM, size: tuple[int, int]) -> None:
    image = photographs(crop=128)["coffee"][: size[0], : size[1]]
    assert robust.decode(robust.encode(image)).shape == image.shape


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8193, 1, 3), np.uint8),
        None,
    ],
    ids=["grey", "alpha", "16-bit", "empty", "too tall", "no array"],
)
def test_images_it_cannot_take_are_refused(robust: RobustTurboDDCM, image: Image) -> None:
    with pytest.raises(EncodeError):
        robust.encode(image)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_payload_of_the_right_length_decodes(
    robust: RobustTurboDDCM, photograph: Image, data: st.DataObject
) -> None:
    stream = robust.encode(photograph[:32, :32])
    payload = data.draw(st.binary(min_size=len(stream) - HEADER_BYTES, max_size=len(stream) - HEADER_BYTES))
    assert robust.decode(stream[:HEADER_BYTES] + payload).shape == (32, 32, 3)


def test_one_flipped_bit_harms_one_atom(joint: TurboDDCM, photograph: Image) -> None:
    # An early step's bit: the robust stream hardly notices, the joint rank loses the step's whole subset.
    losses = {}
    for codec in (RobustTurboDDCM(**QUICK, protect=0), joint):
        stream = codec.encode(photograph)
        flips = [ErrorPattern(8 * len(stream), [8 * HEADER_BYTES + bit]) for bit in range(30, 50, 2)]
        losses[codec.name] = np.mean([drop(codec, stream, f.apply(stream), photograph) for f in flips])
    assert losses["robust-turbo-ddcm"] < losses["turbo-ddcm"] / 2


def test_damage_to_protected_steps_is_undone(photograph: Image) -> None:
    codec = RobustTurboDDCM(**QUICK, protect=0.5)
    stream = codec.encode(photograph)
    layout = codec.layout(stream)
    lead = [region for region in layout if region.name.startswith(("step 0", "step 1", "step 2", "parity"))]
    flips = [region.start for region in lead[:: len(lead) // 5]]
    assert np.array_equal(codec.decode(ErrorPattern(layout.bits, flips).apply(stream)), codec.decode(stream))
    later = next(region.start for region in layout if region.name.startswith("step 3"))
    assert not np.array_equal(codec.decode(ErrorPattern(layout.bits, [later]).apply(stream)), codec.decode(stream))


def test_a_codebook_too_large_for_the_image_is_refused(photograph: Image) -> None:
    with pytest.raises(EncodeError, match="M = 2000 sections of K = 16384"):
        RobustTurboDDCM(T=4, M=2000).encode(photograph)


def test_a_batch_decodes_as_its_streams_do_alone(robust: RobustTurboDDCM, photograph: Image) -> None:
    streams = [robust.encode(photograph), robust.encode(photograph[:40]), b"", robust.encode(photograph[::-1].copy())]
    together = robust.decode_batch(streams)
    assert isinstance(together[2], DecodeError)
    for place in (0, 1, 3):
        alone, batched = robust.decode(streams[place]), together[place]
        assert isinstance(batched, np.ndarray)
        # Batched convolutions add in another order, so a pixel on the edge may round the other way.
        assert np.abs(alone.astype(int) - batched).max() <= 1


def test_streams_of_a_batch_share_the_denoiser_until_they_part(
    robust: RobustTurboDDCM, photograph: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = robust.encode(photograph)
    step = robust.layout(stream).at(8 * len(stream) - 16)
    assert step is not None
    assert step.name.startswith("step 6 ")
    last, header = (ErrorPattern(8 * len(stream), [bit]).apply(stream) for bit in (8 * len(stream) - 16, 5))
    predict, states = robust.prior.predict_clean, []
    monkeypatch.setattr(robust.prior, "predict_clean", lambda x, level: states.append(len(x)) or predict(x, level))
    images = robust.decode_batch([stream, last, header])
    # One state for all three up to the last coded step, then the one with the flip goes its own way: into the
    # final estimate, which is a mean of four.
    assert states == [1] * 7 + [2] * 4
    assert np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[1])
    assert not np.shares_memory(images[0], images[2])


def test_a_rank_that_names_no_subset_is_refused_alone_and_in_a_batch(joint: TurboDDCM, photograph: Image) -> None:
    stream = joint.encode(photograph)
    damaged = stream[:HEADER_BYTES] + b"\xff" * (len(stream) - HEADER_BYTES)
    with pytest.raises(DecodeError, match="step 0: a rank beyond the last"):
        joint.decode(damaged)
    refused, decoded = joint.decode_batch([damaged, stream])
    assert isinstance(refused, DecodeError)
    assert np.array_equal(decoded, joint.decode(stream))


@pytest.mark.parametrize("kind", [RobustTurboDDCM, TurboDDCM])
def test_a_stream_cut_short_decodes_with_the_steps_that_arrived(kind: type[TurboDDCM], photograph: Image) -> None:
    codec = kind(T=12, bpp=1.5)
    stream = codec.encode(photograph)
    payload = len(stream) - HEADER_BYTES
    cuts = [stream[: HEADER_BYTES + payload * share // 4] for share in range(5)]
    single = [codec.decode(cut) for cut in cuts]
    qualities = [measure("psnr", photograph, decoded) for decoded in single]
    assert qualities[4] > qualities[2] > qualities[0]
    for cut in cuts:
        assert sum(r.stop - r.start for r in codec.layout(cut)) == 8 * len(cut)
    # Beside whole streams in a batch, and in any order.
    for decoded, alone in zip(codec.decode_batch(cuts[::-1]), single[::-1], strict=True):
        assert np.abs(decoded.astype(int) - alone).max() <= 2


def test_refusals_say_which(robust: RobustTurboDDCM, joint: TurboDDCM, photograph: Image, tmp_path: Path) -> None:
    stream = robust.encode(photograph)
    with pytest.raises(DecodeError, match="beyond repair"):
        robust.decode(bytes(len(stream)))
    with pytest.raises(DecodeError, match=f"{len(stream) + 1} bytes, where the settings need {len(stream)}"):
        robust.decode(stream + b"x")
    with pytest.raises(DecodeError, match="bit protocol 2: this codec reads 0"):
        joint.decode(stream)
    with pytest.raises(DecodeError, match="too few"):
        robust.decode(b"")
    other = RobustTurboDDCM(prior=str(save_tiny_pipeline(tmp_path)), T=4, M=2, K=64)
    with pytest.raises(DecodeError, match="encoded with the prior"):
        other.decode(stream)


def test_the_decoder_reads_its_settings_from_the_stream(robust: RobustTurboDDCM, photograph: Image) -> None:
    stream = RobustTurboDDCM(T=5, M=3, K=1 << 10, seed=4, codebook="gaussian", N=1).encode(photograph)
    assert np.array_equal(robust.decode(stream), RobustTurboDDCM(T=9, M=1).decode(stream))


def test_raw_streams_are_the_payload_alone(photograph: Image) -> None:
    framed, raw = RobustTurboDDCM(T=6, M=4), RobustTurboDDCM(T=6, M=4, container="raw", size=(64, 64))
    stream = raw.encode(photograph)
    assert framed.encode(photograph)[HEADER_BYTES:] == stream
    assert np.array_equal(raw.decode(stream), framed.decode(framed.encode(photograph)))
    with pytest.raises(DecodeError, match="size="):
        RobustTurboDDCM(T=6, M=4, container="raw").decode(stream)


@pytest.mark.parametrize("kind", [RobustTurboDDCM, TurboDDCM])
def test_the_layout_names_every_bit(kind: type[TurboDDCM], photograph: Image) -> None:
    codec = kind(**QUICK)
    stream = codec.encode(photograph)
    layout = codec.layout(stream)
    assert layout.bits == 8 * len(stream)
    covered = np.concatenate([np.arange(r.start, r.stop) for r in layout])
    assert np.array_equal(covered, np.arange(layout.bits))
    assert np.array_equal(layout.bits_of(header=True), np.arange(8 * HEADER_BYTES))
    region = layout.at(8 * HEADER_BYTES)
    assert region is not None
    assert region.name == ("step 0 atom 0 index" if kind is RobustTurboDDCM else "step 0 subset rank")


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_layout_takes_anything(robust: RobustTurboDDCM, stream: bytes) -> None:
    layout = robust.layout(stream)
    assert layout.bits == 8 * len(stream)


@pytest.mark.parametrize(
    "wrong",
    [
        {"T": 1},
        {"T": 10, "N": 9},
        {"K": 1000},
        {"M": 0},
        {"selection": "random"},
        {"protect": -1},
        {"M": 3, "bpp": 0.4},
        {"bpp": -1.0},
        {"seed": -1},
        {"codebook": "random"},
        {"decoder": "viterbi"},
        {"interleave": 8},
        {"container": "zip"},
        {"efficiency": 0.0},
        {"container": "raw", "size": (0, 4)},
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "size" not in wrong else "size"):
        RobustTurboDDCM(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_stable_diffusion_folder_is_a_prior(prediction: str, photograph: Image, tmp_path: Path) -> None:
    folder = save_tiny_pipeline(tmp_path, prediction_type=prediction)
    codec = RobustTurboDDCM(prior=str(folder), T=6, M=8, K=1 << 10, N=2)
    stream = codec.encode(photograph[:50])
    decoded = codec.decode(stream)
    assert decoded.shape == (50, 64, 3)
    assert np.array_equal(RobustTurboDDCM(prior=str(folder), T=3, M=1).decode(stream), decoded)
    assert codec.describe()["prior"].startswith(str(folder))


def test_two_stable_diffusion_priors_do_not_read_each_other(photograph: Image, tmp_path: Path) -> None:
    one, two = (save_tiny_pipeline(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    stream = RobustTurboDDCM(prior=str(one), T=4, M=2).encode(photograph)
    with pytest.raises(DecodeError, match="encoded with the prior"):
        RobustTurboDDCM(prior=str(two), T=4, M=2).decode(stream)


def test_a_prior_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PriorError, match=r"config\.json"):
        RobustTurboDDCM(prior=str(tmp_path))
    with pytest.raises(PriorError, match="dtype"):
        RobustTurboDDCM(dtype="float8")
    with pytest.raises(PriorError, match="no Stable Diffusion folder"):
        RobustTurboDDCM(prior=str(tmp_path / "absent" / "folder"))
