"""PSC on the embedded prior and on a tiny Stable Diffusion pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_pipeline import save_tiny_pipeline

from robustkit import DecodeError, EncodeError, ErrorPattern, Image
from robustkit.codecs.rcc.container import HEADER_BYTES, Header
from robustkit.codecs.rcc.psc import PSC, PSCParameters, _pack, _Survey, _unpack
from robustkit.images import photographs
from robustkit.quality import measure

QUICK = {"steps": 5, "samples": 2, "bpp": 1.5}


@pytest.fixture(scope="module")
def codec() -> PSC:
    return PSC(**QUICK)


@pytest.fixture(scope="module")
def photograph() -> Image:
    return photographs(crop=64)["astronaut"]


@pytest.fixture(scope="module")
def stream(codec: PSC, photograph: Image) -> bytes:
    return codec.encode(photograph)


def parts(codec: PSC, stream: bytes) -> tuple[Header[PSCParameters], _Survey]:
    header, _ = codec._parse(stream)
    return header, codec._survey(header)


def test_a_photograph_survives_the_round_trip(photograph: Image) -> None:
    codec = PSC(bpp=2.0)
    stream = codec.encode(photograph)
    decoded = codec.decode(stream)
    assert (decoded.dtype, decoded.shape) == (np.uint8, photograph.shape)
    assert measure("psnr", photograph, decoded) > 21


def test_more_bits_give_more_quality(photograph: Image) -> None:
    qualities = []
    for bpp in (0.5, 1.0, 2.5):
        codec = PSC(steps=10, bpp=bpp)
        qualities.append(measure("psnr", photograph, codec.decode(codec.encode(photograph))))
    assert qualities == sorted(qualities)
    assert qualities[-1] > qualities[0] + 2


@pytest.mark.parametrize("bpp", [0.125, 0.13, 0.4, 1.0, 3.0])
def test_the_rate_is_kept(bpp: float, photograph: Image) -> None:
    stream = PSC(steps=4, samples=2, bpp=bpp).encode(photograph)
    assert bpp - 0.05 < 8 * len(stream) / 64**2 <= bpp


def test_a_target_quality_is_reached(photograph: Image) -> None:
    codec = PSC(steps=8, samples=2, psnr=18)
    assert 18 <= measure("psnr", photograph, codec.decode(codec.encode(photograph))) < 20


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (33, 31), (64, 65)])
def test_images_of_any_size(codec: PSC, size: tuple[int, int]) -> None:
    image = photographs(crop=128)["coffee"][: size[0], : size[1]]
    assert codec.decode(codec.encode(image)).shape == image.shape


def test_images_it_cannot_take_are_refused(codec: PSC) -> None:
    with pytest.raises(EncodeError, match="uint8, height x width x 3"):
        codec.encode(np.zeros((8, 8), np.uint8))


def test_what_is_measured_is_kept(codec: PSC, photograph: Image, stream: bytes) -> None:
    """Every measured number of the final latent lies in the cell that its measurement says."""
    header, survey = parts(codec, stream)
    clean = codec.prior.encode(torch.from_numpy(photograph).permute(2, 0, 1)[None] / 127.5 - 1)
    codes = codec._read(header, stream[HEADER_BYTES:]).reshape(5, -1)
    with torch.inference_mode():
        knowledge = survey.start(codec._first_samples(header))
        for step, word in enumerate(codes):
            knowledge = survey.sample(knowledge, step)
            rows = survey.choose(knowledge, step)
            assert np.array_equal(rows.measure(clean.flatten()).numpy(), word)
            knowledge = knowledge.given(rows, torch.from_numpy(word))
            low, middle, high = rows.bounds(torch.from_numpy(word))
            assert (low < middle).all()
            assert (middle < high).all()
        ((_, final),) = survey.finals(survey.start(codec._first_samples(header)), {0: codes.flatten()})
    assert (knowledge.low <= clean[0]).all()
    assert (clean[0] <= knowledge.high).all()
    assert (knowledge.low <= final[0]).all()
    assert (final[0] <= knowledge.high).all()
    assert (knowledge.low.isfinite() | knowledge.high.isfinite()).sum() > 500


def test_rows_are_different_numbers_that_follow_the_samples(codec: PSC, stream: bytes) -> None:
    header, survey = parts(codec, stream)
    numbers = survey.numbers
    generator = torch.Generator().manual_seed(0)
    lively = torch.zeros(survey.shape)
    lively[:, :4, :4] = 1.0
    samples = torch.randn((2, *survey.shape), generator=generator) * (1e-3 + lively)
    rows = survey.choose(survey.start(samples), 0)
    assert len(set(rows.places.tolist())) == header.method.rows < numbers
    assert lively.flatten()[rows.places].mean() > 2 * lively.mean()


@settings(deadline=None, max_examples=50)
@given(bits=st.integers(1, 6), data=st.data())
def test_codes_are_read_as_written(bits: int, data: st.DataObject) -> None:
    method = PSCParameters(steps=data.draw(st.integers(1, 5)), rows=data.draw(st.integers(1, 9)), bits=bits)
    half = 1 << bits - 1
    count = method.steps * method.rows
    codes = np.array(data.draw(st.lists(st.integers(-half, half - 1), min_size=count, max_size=count)), dtype=np.int64)
    packed = _pack(codes.reshape(method.steps, -1), bits)
    assert np.array_equal(_unpack(packed, method), codes)
    assert np.array_equal(_unpack(packed[:-1], method), codes[: 8 * (len(packed) - 1) // bits])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_payload_gives_finite_numbers(codec: PSC, stream: bytes, data: st.DataObject) -> None:
    header, survey = parts(codec, stream)
    size = len(stream) - HEADER_BYTES
    filled = st.integers(0, 255).map(lambda byte: bytes([byte]) * size)
    payload = data.draw(filled | st.binary(min_size=size, max_size=size))
    with torch.inference_mode():
        start = survey.start(codec._first_samples(header))
        ((_, final),) = survey.finals(start, {0: codec._read(header, payload)})
    assert final.isfinite().all()
    assert codec.decode(stream[:HEADER_BYTES] + payload).shape == (64, 64, 3)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["coffee", pytest.param("astronaut", marks=pytest.mark.slow)])
def test_another_number_of_threads_makes_the_same_choices(name: str, threads: Callable[[int], None]) -> None:
    image = photographs(crop=32)[name]
    threads(1)
    stream = PSC(**QUICK).encode(image)
    one = PSC(**QUICK).decode(stream)
    threads(2)
    assert np.abs(PSC(**QUICK).decode(stream).astype(int) - one).max() <= 1


def test_a_batch_decodes_exactly_as_its_streams_do_alone(codec: PSC, stream: bytes, photograph: Image) -> None:
    bits = 8 * len(stream)
    flips = [ErrorPattern(bits, [bit]).apply(stream) for bit in (5, bits - 9, bits // 2)]
    streams = [stream, *flips, codec.encode(photograph[:40]), b"", stream[: len(stream) // 2], stream]
    together = codec.decode_batch(streams)
    for one, batched in zip(streams, together, strict=True):
        if one:
            assert np.array_equal(codec.decode(one), batched)
        else:
            assert isinstance(batched, DecodeError)
    assert np.array_equal(together[0], together[1])  # its flip is in the header, which is repaired
    assert not np.array_equal(together[0], together[2])
    assert not np.shares_memory(together[0], together[-1])


def test_streams_of_a_batch_share_their_samples_until_they_part(
    codec: PSC, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = ErrorPattern(8 * len(stream), [8 * len(stream) - 12]).apply(stream)
    codec.decode(stream)
    predict, calls = codec.prior.predict_clean, []
    monkeypatch.setattr(codec.prior, "predict_clean", lambda x, level: calls.append(len(x)) or predict(x, level))
    codec.decode_batch([stream, last, stream])
    # Four steps after the first, whose samples are the prior's own; then the mean of four estimates for each image.
    assert calls == [2] * 4 + [1] * 8


def test_a_stream_cut_short_decodes_with_the_measurements_that_arrived(photograph: Image) -> None:
    codec = PSC(steps=8, samples=2, bpp=2.0)
    stream = codec.encode(photograph)
    payload = len(stream) - HEADER_BYTES
    cuts = [stream[: HEADER_BYTES + payload * share // 4] for share in range(5)]
    qualities = [measure("psnr", photograph, codec.decode(cut)) for cut in cuts]
    assert qualities[4] > qualities[2] > qualities[0]
    for cut in cuts:
        assert sum(r.stop - r.start for r in codec.layout(cut)) == 8 * len(cut)
    # A byte of a measurement more is an image of its own.
    assert not np.array_equal(codec.decode(cuts[2]), codec.decode(cuts[2][:-1]))


def test_refusals_say_which(codec: PSC, stream: bytes) -> None:
    with pytest.raises(DecodeError, match="beyond repair"):
        codec.decode(bytes(len(stream)))
    with pytest.raises(DecodeError, match=f"{len(stream) + 1} bytes, where the settings need {len(stream)}"):
        codec.decode(stream + b"x")
    with pytest.raises(DecodeError, match="too few"):
        codec.decode(b"")


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"rows": 0}, {"bits": 0}, {"bits": 7}, {"samples": 1}, {"rows": 4097}, {"samples": 3}]
)
def test_a_header_that_contradicts_itself_is_refused_before_anything_is_made(
    wrong: dict[str, int], codec: PSC, stream: bytes
) -> None:
    header, _ = parts(codec, stream)
    method = replace(header.method, **wrong)
    lie = replace(header, method=method, payload=header.payload + (wrong == {"samples": 3}))
    with pytest.raises(DecodeError, match="contradict each other"):
        codec.decode(lie.pack() + stream[HEADER_BYTES:])


def test_the_decoder_reads_its_settings_from_the_stream(photograph: Image) -> None:
    small = photograph[:32, :32]
    stream = PSC(steps=3, rows=20, bits=5, samples=4, seed=4).encode(small)
    assert np.array_equal(PSC(steps=3, rows=20, bits=5, samples=4).decode(stream), PSC(steps=9).decode(stream))


def test_raw_streams_are_the_payload_alone(photograph: Image) -> None:
    chosen = {"steps": 3, "rows": 20, "samples": 2}
    framed, raw = PSC(**chosen), PSC(**chosen, container="raw", size=(64, 64))
    stream = raw.encode(photograph)
    assert framed.encode(photograph)[HEADER_BYTES:] == stream
    assert np.array_equal(raw.decode(stream), framed.decode(framed.encode(photograph)))


def test_the_layout_names_every_bit(codec: PSC, stream: bytes) -> None:
    layout = codec.layout(stream)
    covered = np.concatenate([np.arange(r.start, r.stop) for r in layout])
    assert np.array_equal(covered, np.arange(8 * len(stream)))
    assert np.array_equal(layout.bits_of(header=True), np.arange(8 * HEADER_BYTES))
    region = layout.at(8 * HEADER_BYTES + 4 * 17)
    assert region is not None
    assert region.name == "step 0 measurement 17"


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_layout_takes_anything(codec: PSC, stream: bytes) -> None:
    assert codec.layout(stream).bits == 8 * len(stream)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"steps": 256}, {"bits": 0}, {"bits": 7}, {"samples": 1}, {"rows": 0}, {"rows": 3, "bpp": 0.4}],
)
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PSC(**wrong)  # type: ignore[arg-type]


def test_a_stable_diffusion_folder_is_a_prior(photograph: Image, tmp_path: Path) -> None:
    folder = save_tiny_pipeline(tmp_path)
    codec = PSC(prior=str(folder), steps=4, samples=2, rows=20)
    stream = codec.encode(photograph[:50])
    decoded = codec.decode(stream)
    assert decoded.shape == (50, 64, 3)
    assert np.array_equal(PSC(prior=str(folder)).decode(stream), decoded)
    with pytest.raises(DecodeError, match="encoded with the prior"):
        PSC().decode(stream)


def test_a_rate_beyond_any_need_still_decodes(photograph: Image) -> None:
    codec = PSC(steps=6, samples=2, bits=6, bpp=64, efficiency=2.55)
    small = photograph[:8, :8]
    assert codec.decode(codec.encode(small)).shape == small.shape
