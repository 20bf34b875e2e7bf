"""What DiffC has of its own: its channel's law, its entropy coder, its noise levels and its parity."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustkit import DecodeError, ErrorPattern, Image
from robustkit.codecs.rcc import zipf
from robustkit.codecs.rcc.container import HEADER_BYTES, Header
from robustkit.codecs.rcc.diffc import Climb, DiffC, DiffCParameters
from robustkit.codecs.rcc.poisson import PoissonChannel, padded_length
from robustkit.codecs.rcc.schedule import reverse_step
from robustkit.images import photographs
from robustkit.priors.base import NoiseLevel
from robustkit.quality import measure

CPU = torch.device("cpu")
QUICK = {"T": 8, "K": 1 << 10, "bpp": 1.0}


@pytest.fixture(scope="module")
def codec() -> DiffC:
    return DiffC(**QUICK)


@pytest.fixture(scope="module")
def photograph() -> Image:
    return photographs(crop=64)["astronaut"]


@pytest.fixture(scope="module")
def stream(codec: DiffC, photograph: Image) -> bytes:
    return codec.encode(photograph)


@pytest.fixture(scope="module")
def protecting() -> DiffC:
    return DiffC(**QUICK, protect=True)


@pytest.fixture(scope="module")
def protected(protecting: DiffC, photograph: Image) -> bytes:
    return protecting.encode(photograph)


# -- the channel ------------------------------------------------------------------------------------------


def shift_of(length: int, nats: float, seed: int) -> torch.Tensor:
    """A mean of that KL divergence from 0 whose energy lies in a few numbers, as that of latents does."""
    direction = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    direction *= torch.linspace(1, 0, length) ** 4
    return direction * math.sqrt(2 * nats) / direction.norm()


@pytest.mark.parametrize(("length", "bits"), [(512, 2.0), (768, 4.0)])
def test_what_is_sent_has_the_law_of_q(length: int, bits: float) -> None:
    channel, chunks, trials = PoissonChannel((1 << 13) - 1, length, 3, CPU), 4, 300
    nats = chunks * bits * math.log(2)
    along, across, sizes = [], [], []
    for step in range(trials):
        shift = shift_of(length, nats, step)
        noise = channel.sample(step, channel.send(step, chunks, shift)[None])[0]
        along.append(float(noise @ shift) / math.sqrt(2 * nats))
        other = shift_of(length, nats, step + trials)
        other -= shift * (other @ shift) / (shift @ shift)
        across.append(float(noise @ other / other.norm()))
        sizes.append(float(noise.square().mean()))
    # N(|d|, 1) along the shift and N(0, 1) across it; four standard errors, and 2% for what the pool cuts off.
    error = 4 / math.sqrt(trials)
    assert abs(np.mean(along) - math.sqrt(2 * nats)) < error + 0.02 * math.sqrt(2 * nats)
    assert abs(np.mean(across)) < error
    assert 0.85 < np.std(along) < 1.15
    assert 0.85 < np.std(across) < 1.15
    assert np.mean(sizes) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("bits", [3.0, 6.0])
def test_indices_cost_what_the_theory_allows(bits: float) -> None:
    channel, chunks = PoissonChannel((1 << 14) - 1, 2048, 3, CPU), 8
    sent = [channel.send(step, chunks, shift_of(2048, chunks * bits * math.log(2), step)) for step in range(150)]
    octaves = [zipf.octaves_of(indices) for indices in sent]
    coded = 8 * len(zipf.write_octaves([(0, own) for own in octaves], 14))
    per_chunk = (coded + np.concatenate(octaves).sum()) / (150 * chunks)
    # Li and El Gamal 2018, theorem 1: at most KL + log2(KL + 1) + 4; no code is below KL.
    assert bits < per_chunk < bits + math.log2(bits + 1) + 2.5


def test_no_divergence_costs_little() -> None:
    channel = PoissonChannel((1 << 12) - 1, 1024, 3, CPU)
    sent = np.concatenate([channel.send(step, 8, torch.zeros(1024)) for step in range(30)])
    assert np.array_equal(sent, np.zeros(240))


def test_a_pool_too_small_gives_its_best() -> None:
    channel, shift = PoissonChannel(255, 512, 3, CPU), shift_of(512, 2 * 40 * math.log(2), 0)
    indices = channel.send(0, 2, shift)
    products = [float(channel.sample(0, np.array([[i, indices[1]]]))[0] @ shift) for i in range(255)]
    assert int(np.argmax(products)) == indices[0]


@settings(deadline=None, max_examples=30)
@given(length=st.integers(32, 3000), log2_size=st.integers(2, 10), data=st.data())
def test_inner_products_are_those_of_the_samples(length: int, log2_size: int, data: st.DataObject) -> None:
    chunks = data.draw(st.integers(1, max(1, padded_length(length) // 32)))
    channel = PoissonChannel((1 << log2_size) - 1, length, 9, CPU)
    indices = np.array([data.draw(st.lists(st.integers(0, channel.size - 1), min_size=chunks, max_size=chunks))])
    # A mean that is a sample many times over is met by that very sample, unless a chunk is too short to tell.
    noise = channel.sample(2, indices)[0]
    assert noise.shape == (length,)
    again = channel.sample(2, channel.send(2, chunks, 100 * noise)[None])[0]
    assert float(again @ noise) >= 0.999 * float(noise @ noise)


def test_the_candidates_never_change_silently() -> None:
    """Streams in the field name these very candidates: a change here is a new container version."""
    noise = PoissonChannel(1023, 768, 88888888, CPU).sample(4, np.array([[5, 1000, 77]]))[0]
    assert (noise * 32).round().tolist()[:12] == [66, 70, -26, 10, -6, -14, 10, -6, -6, -22, 30, 42]


# -- the entropy coder ------------------------------------------------------------------------------------


@st.composite
def step_lists(draw: st.DrawFn) -> tuple[int, list[zipf.Step]]:
    count = draw(st.integers(2, 20))
    steps = st.tuples(
        st.integers(-zipf.LARGEST_CORRECTION, zipf.LARGEST_CORRECTION),
        st.lists(st.integers(0, count - 1), min_size=1, max_size=40).map(lambda o: np.array(o, dtype=np.int64)),
    )
    return count, draw(st.lists(steps, min_size=1, max_size=12))


def plain(steps: object) -> list[tuple[int, list[int]]]:
    return [(correction, octaves.tolist()) for correction, octaves in steps]  # type: ignore[attr-defined]


@settings(deadline=None)
@given(step_lists(), st.integers(0, 9))
def test_octaves_come_back(case: tuple[int, list[zipf.Step]], zeros: int) -> None:
    count, steps = case
    written = zipf.write_octaves(steps, count) + bytes(zeros)
    assert plain(zipf.read_octaves(written, [len(octaves) for _, octaves in steps], count)) == plain(steps)


@settings(deadline=None)
@given(st.lists(st.integers(0, (1 << 20) - 2), min_size=1, max_size=50))
def test_places_come_back(indices: list[int]) -> None:
    given_indices = np.array(indices, dtype=np.int64)
    octaves, bits = zipf.octaves_of(given_indices), zipf.write_places(given_indices)
    assert len(bits) == octaves.sum() == sum((i + 1).bit_length() - 1 for i in indices)
    assert np.array_equal(zipf.read_places(bits, octaves), given_indices)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.lists(st.integers(1, 30), min_size=1, max_size=10), st.integers(2, 20))
def test_any_bytes_read_as_octaves(written: bytes, chunks: list[int], count: int) -> None:
    # constriction's panics are no Exceptions: here they would end the test.
    for (correction, octaves), chunk in zip(zipf.read_octaves(written, chunks, count), chunks, strict=False):
        assert abs(correction) <= zipf.LARGEST_CORRECTION
        assert len(octaves) == chunk
        assert octaves.min() >= 0
        assert octaves.max() < count


def test_the_octaves_law_is_the_indices_law() -> None:
    index = np.arange((1 << 12) - 1)
    of_indices = np.bincount(zipf.octaves_of(index), (index + 1.0) ** -1.2)
    law = zipf.zipf(1.2, 12)
    assert law.sum() == pytest.approx(1, abs=1e-5)
    # The first octaves hold too few indices for their sums to be integrals.
    assert np.allclose(law[5:] / law[4:-1], of_indices[5:] / of_indices[4:-1], rtol=0.015)


# -- the codec --------------------------------------------------------------------------------------------


def test_the_shift_that_is_sent_is_that_of_the_posterior(codec: DiffC) -> None:
    # mu_q - mu_p over the standard deviation is sqrt(rise in SNR) times what the estimate lacks.
    now, following = NoiseLevel(0.3, 0), NoiseLevel(0.45, 0)
    noisy, estimate, clean = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    silent = torch.zeros_like(noisy)
    apart = reverse_step(noisy, clean, now, following, silent) - reverse_step(noisy, estimate, now, following, silent)
    deviation = math.sqrt((1 - 0.45) / (1 - 0.3) * (1 - 0.3 / 0.45))
    rise = 0.45 / 0.55 - 0.3 / 0.7
    assert torch.allclose(apart / deviation, math.sqrt(rise) * (clean - estimate), atol=1e-5)


def test_every_step_has_the_divergence_that_its_chunks_are_for(codec: DiffC) -> None:
    climb = Climb(codec.prior, elements=1000, nats=6.0, log_snr=-1.0)
    for error in (20.0, 80.0, 600.0):
        after = climb.after(climb.correction(error), 5)
        divergence = (math.exp(after.log_snr) - math.exp(-1.0)) * error / 2
        # Corrections are eighths of a doubling.
        assert divergence == pytest.approx(5 * 6.0, rel=0.05)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.builds(
        DiffCParameters, **{name: st.integers(0, (1 << bits) - 1) for name, bits in DiffCParameters.fields}
    ),
    payload=st.binary(max_size=40),
    said=st.integers(0, (1 << 32) - 1) | st.integers(0, 60),
)
def test_settings_that_a_header_may_say_are_refused_or_decoded(
    codec: DiffC, stream: bytes, method: DiffCParameters, payload: bytes, said: int
) -> None:
    header = replace(Header.unpack(stream, codec.methods), method=method, payload=said)
    with contextlib.suppress(DecodeError):
        assert codec.decode(header.pack() + payload).shape == (64, 64, 3)
    assert codec.layout(header.pack() + payload).bits == 8 * (HEADER_BYTES + len(payload))


def test_a_flip_in_the_plain_bits_harms_one_chunk(codec: DiffC, stream: bytes, photograph: Image) -> None:
    layout = codec.layout(stream)
    octaves = next(region for region in layout if region.name == "octaves")
    chunks = [region.start for region in layout if region.name.startswith("step 1 chunk")]
    flips = chunks[:8] + [octaves.start + 12 + i for i in range(8)]
    images = codec.decode_batch([stream, *(ErrorPattern(layout.bits, [bit]).apply(stream) for bit in flips)])
    clean, *damaged = (measure("psnr", photograph, image) for image in images)
    assert clean - np.mean(damaged[:8]) < (clean - np.mean(damaged[8:])) / 2


def test_protected_octaves_are_repaired(protecting: DiffC, protected: bytes) -> None:
    layout = protecting.layout(protected)
    first = next(region for region in layout if region.name == "octaves")
    parity = next(region for region in layout if region.name == "parity")
    flips = [first.start + 3, first.start + 40, first.stop - 2, parity.start, parity.stop - 1]
    damaged = ErrorPattern(layout.bits, flips).apply(protected)
    assert np.array_equal(protecting.decode(damaged), protecting.decode(protected))


def test_octaves_come_before_all_chunks_and_parity_only_if_asked_for(
    codec: DiffC, stream: bytes, protected: bytes
) -> None:
    for written, parity in ((stream, False), (protected, True)):
        names = [region.name for region in codec.layout(written)]
        # A chunk in the first octave takes no bits of its own.
        assert names.index("octaves") < min(names.index(name) for name in names if name.startswith("step 0 chunk"))
        assert ("parity" in names) is parity
