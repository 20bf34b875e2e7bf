"""DDCM: one atom a step or a matching pursuit, on the embedded prior and on tiny Stable Diffusion pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_pipeline import save_tiny_pipeline

from robustkit import DecodeError, EncodeError, ErrorPattern, Image
from robustkit.codecs.rcc.container import HEADER_BYTES, Header
from robustkit.codecs.rcc.ddcm import DDCM, DDCMParameters
from robustkit.images import photographs
from robustkit.quality import measure

QUICK = {"T": 10, "K": 1 << 12, "C": 2, "bpp": 1.2}


@pytest.fixture(scope="module")
def codec() -> DDCM:
    return DDCM(**QUICK)


@pytest.fixture(scope="module")
def photograph() -> Image:
    return photographs(crop=64)["astronaut"]


def method_of(stream: bytes) -> DDCMParameters:
    return Header.unpack(stream, DDCM.methods).method


@pytest.mark.parametrize("wanted", [{"C": 0}, {"C": 3}, {"codebook": "gaussian", "K": 1 << 10, "T": 24}])
def test_a_photograph_survives_the_round_trip(wanted: dict[str, object], photograph: Image) -> None:
    codec = DDCM(**({"T": 40, "bpp": 1.5} | wanted))  # type: ignore[arg-type]
    stream = codec.encode(photograph)
    decoded = codec.decode(stream)
    assert decoded.dtype == np.uint8
    assert decoded.shape == photograph.shape
    assert 1.4 < 8 * len(stream) / 64**2 <= 1.5
    assert method_of(stream).atoms > 1
    assert measure("psnr", photograph, decoded) > 20


def test_a_single_atom_a_step_carries_the_image(photograph: Image) -> None:
    codec = DDCM(T=60, M=1)
    stream = codec.encode(photograph)
    assert len(stream) == HEADER_BYTES + -(-59 * 20 // 8)
    # The first step's noise alone: an image about as wrong as the mean of all.
    nothing = codec.decode(stream[:HEADER_BYTES])
    quality = measure("psnr", photograph, codec.decode(stream))
    assert quality > measure("psnr", photograph, nothing) + 5
    assert quality > 16


def test_more_bits_give_more_quality(photograph: Image) -> None:
    qualities = []
    for bpp in (0.4, 1.0, 2.5):
        codec = DDCM(T=20, bpp=bpp)
        qualities.append(measure("psnr", photograph, codec.decode(codec.encode(photograph))))
    assert qualities == sorted(qualities)
    assert qualities[-1] > qualities[0] + 4


@pytest.mark.parametrize("size", [(64, 64), (40, 50), (33, 31)])
@pytest.mark.parametrize("C", [0, 3])
@pytest.mark.parametrize("bpp", [0.6, 1.0, 2.7])
def test_a_rate_is_kept_and_used(bpp: float, C: int, size: tuple[int, int]) -> None:
    codec = DDCM(bpp=bpp, C=C)
    header = codec._header_for(*size)
    bits = 8 * (HEADER_BYTES + header.payload)
    pixels = size[0] * size[1]
    # All but less than one step's bits are spent, or the last step is the only one.
    step = header.method.atoms * (20 + C) - C
    assert bits <= bpp * pixels or header.method.steps == 2
    assert bits > bpp * pixels - step - 16


def test_less_than_an_atom_a_step_makes_fewer_steps() -> None:
    method = DDCM(T=60, bpp=0.2)._header_for(64, 64).method
    assert (method.steps, method.closing, method.atoms) == (17, 0, 1)


def test_a_rate_beyond_the_largest_pursuit_takes_a_larger_codebook() -> None:
    method = DDCM(T=3, bpp=2.0)._header_for(256, 256).method
    assert (method.size_log2, method.atoms) == (24, 2047)
    given = DDCM(T=3, K=16, bpp=2.0)._header_for(256, 256).method
    assert (given.size_log2, given.atoms) == (4, 4)


def test_a_target_quality_is_reached_and_hardly_more(photograph: Image) -> None:
    codec = DDCM(T=12, psnr=20)
    assert 20 <= measure("psnr", photograph, codec.decode(codec.encode(photograph))) < 20.7


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (33, 31), (64, 65)])
def test_images_of_any_size(codec: DDCM, size: tuple[int, int]) -> None:
    image = photographs(crop=128)["coffee"][: size[0], : size[1]]
    assert codec.decode(codec.encode(image)).shape == image.shape


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_payload_of_the_right_length_decodes(codec: DDCM, photograph: Image, data: st.DataObject) -> None:
    stream = codec.encode(photograph[:32, :32])
    payload = data.draw(st.binary(min_size=len(stream) - HEADER_BYTES, max_size=len(stream) - HEADER_BYTES))
    assert codec.decode(stream[:HEADER_BYTES] + payload).shape == (32, 32, 3)


def test_flips_in_the_padding_change_nothing(photograph: Image) -> None:
    codec = DDCM(T=6, M=3, K=1 << 10)
    stream = codec.encode(photograph)
    layout = codec.layout(stream)
    padding = [region for region in layout if region.name == "padding"]
    assert [(region.start, region.stop) for region in padding] == [(layout.bits - 2, layout.bits)]
    damaged = ErrorPattern(layout.bits, [layout.bits - 2, layout.bits - 1]).apply(stream)
    assert np.array_equal(codec.decode(damaged), codec.decode(stream))


def test_a_batch_decodes_as_its_streams_do_alone(codec: DDCM, photograph: Image) -> None:
    streams = [codec.encode(photograph), codec.encode(photograph[:40]), b"", codec.encode(photograph[::-1].copy())]
    together = codec.decode_batch(streams)
    assert isinstance(together[2], DecodeError)
    for place in (0, 1, 3):
        alone, batched = codec.decode(streams[place]), together[place]
        assert isinstance(batched, np.ndarray)
        # Batched convolutions add in another order, so a pixel on the edge may round the other way.
        assert np.abs(alone.astype(int) - batched).max() <= 1


def test_streams_of_a_batch_share_the_denoiser_until_they_part(
    codec: DDCM, photograph: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = codec.encode(photograph)
    layout = codec.layout(stream)
    steps = method_of(stream).steps
    (at,) = (region.start for region in layout if region.name == "step 5 atom 0 index")
    later = ErrorPattern(layout.bits, [at]).apply(stream)
    predict, states = codec.prior.predict_clean, []
    monkeypatch.setattr(codec.prior, "predict_clean", lambda x, level: states.append(len(x)) or predict(x, level))
    images = codec.decode_batch([stream, later, stream])
    # Steps 0 to 5 are one state's; the final estimate is a mean of four.
    assert states == [1] * 6 + [2] * (steps - 7 + 4)
    assert np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[1])
    assert not np.shares_memory(images[0], images[2])


def test_a_stream_cut_short_decodes_with_the_steps_that_arrived(photograph: Image) -> None:
    codec = DDCM(T=16, bpp=1.5)
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


def test_the_layout_names_every_bit(codec: DDCM, photograph: Image) -> None:
    stream = codec.encode(photograph)
    layout = codec.layout(stream)
    assert layout.bits == 8 * len(stream)
    assert np.array_equal(np.concatenate([np.arange(r.start, r.stop) for r in layout]), np.arange(layout.bits))
    assert np.array_equal(layout.bits_of(header=True), np.arange(8 * HEADER_BYTES))
    names = [region.name for region in layout if not region.header]
    atoms = method_of(stream).atoms
    assert names[: atoms + 1] == [*(f"step 0 atom {i} index" for i in range(atoms)), "step 0 atom 1 coefficient"]


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_layout_takes_anything(codec: DDCM, stream: bytes) -> None:
    assert codec.layout(stream).bits == 8 * len(stream)


def test_the_decoder_reads_its_settings_from_the_stream(codec: DDCM, photograph: Image) -> None:
    stream = DDCM(T=5, M=3, K=1 << 10, C=4, seed=4, codebook="gaussian", N=1).encode(photograph)
    assert np.array_equal(codec.decode(stream), DDCM(T=9, M=1).decode(stream))


def test_raw_streams_are_the_payload_alone(photograph: Image) -> None:
    framed, raw = DDCM(T=6, M=4), DDCM(T=6, M=4, container="raw", size=(64, 64))
    stream = raw.encode(photograph)
    assert framed.encode(photograph)[HEADER_BYTES:] == stream
    assert np.array_equal(raw.decode(stream), framed.decode(framed.encode(photograph)))


def test_refusals_say_which(codec: DDCM, photograph: Image, tmp_path: Path) -> None:
    stream = codec.encode(photograph)
    with pytest.raises(DecodeError, match="beyond repair"):
        codec.decode(bytes(len(stream)))
    with pytest.raises(DecodeError, match=f"{len(stream) + 1} bytes, where the settings need {len(stream)}"):
        codec.decode(stream + b"x")
    other = DDCM(prior=str(save_tiny_pipeline(tmp_path)), T=4, M=2, K=64)
    with pytest.raises(DecodeError, match="encoded with the prior"):
        other.decode(stream)
    with pytest.raises(EncodeError, match="uint16"):
        codec.encode(np.zeros((8, 8, 3), np.uint16))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 1},
        {"steps": 0},
        {"closing": 9},
        {"size_log2": 0},
        {"size_log2": 25},
        {"atoms": 0},
        {"atoms": 1025},
        {"coefficient_bits": 5},
        {"steps": 65535},
    ],
)
def test_a_header_that_contradicts_itself_is_refused(wrong: dict[str, int], photograph: Image) -> None:
    codec = DDCM(T=10, M=3, K=1 << 12, C=2)
    stream = codec.encode(photograph[:32, :32])
    header = Header.unpack(stream, DDCM.methods)
    changed = Header(**{**vars(header), "method": DDCMParameters(**{**vars(header.method), **wrong})})
    with pytest.raises(DecodeError, match="contradict"):
        codec.decode(changed.pack() + stream[HEADER_BYTES:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"T": 1},
        {"T": 65536},
        {"N": 9, "T": 10},
        {"K": 1000},
        {"K": 1 << 25},
        {"M": 0},
        {"M": 5, "K": 16},
        {"M": 2048},
        {"M": 3, "bpp": 0.4},
        {"M": 3, "psnr": 30.0},
        {"C": 8},
        {"C": -1},
        {"codebook": "random"},
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DDCM(**wrong)  # type: ignore[arg-type]


def test_facts_name_the_settings() -> None:
    assert DDCM(T=9, M=2, C=3).describe()["settings"].startswith("T=9 N=0 K=1048576 C=3 codebook=structured M=2 seed=")
    assert "C=0 codebook=structured bpp=0.4 seed=" in DDCM().describe()["settings"]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_stable_diffusion_folder_is_a_prior(prediction: str, photograph: Image, tmp_path: Path) -> None:
    folder = save_tiny_pipeline(tmp_path, prediction_type=prediction)
    codec = DDCM(prior=str(folder), T=30, M=2, K=1 << 13, C=3)
    stream = codec.encode(photograph[:50])
    decoded = codec.decode(stream)
    assert decoded.shape == (50, 64, 3)
    assert np.array_equal(DDCM(prior=str(folder), T=3, M=1).decode(stream), decoded)
