"""What PSC has of its own: what is measured, what measurements say, and choices that no last bit of a float turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustkit import Image
from robustkit.codecs.rcc.container import HEADER_BYTES, Header
from robustkit.codecs.rcc.psc import PSC, PSCParameters, _pack, _Survey, _unpack
from robustkit.images import photographs

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


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Threads that wait for one another take a hundred times as long as one alone; the suite's claims have them, too.
@pytest.mark.slow
def test_another_number_of_threads_makes_the_same_choices(threads: Callable[[int], None]) -> None:
    image = photographs(crop=32)["coffee"]
    threads(1)
    codec = PSC(**QUICK)
    stream = codec.encode(image)
    one = codec.decode(stream)
    threads(2)
    assert np.abs(PSC(**QUICK).decode(stream).astype(int) - one).max() <= 1


def test_a_byte_of_a_measurement_more_is_an_image_of_its_own(codec: PSC, stream: bytes) -> None:
    cut = stream[: (HEADER_BYTES + len(stream)) // 2]
    assert not np.array_equal(codec.decode(cut), codec.decode(cut[:-1]))
