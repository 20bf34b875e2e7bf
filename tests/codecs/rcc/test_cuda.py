"""What only a machine with an NVIDIA GPU can show: ``pytest tests/codecs/rcc/test_cuda.py -m "slow or not slow" -s``.

Golden reconstructions are the suite's: ``pytest conformance --codec NAME --robustkit-device cuda``. ``.ci/cuda`` runs
both.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipeline import save_full_size_pipeline

from robustkit import DecodeError, Image, images, load_codec
from robustkit.codecs.rcc.codebook import CODEBOOKS
from robustkit.judging.golden_files import distance, folder, read
from robustkit.plugin.golden_check import UNRECORDED
from robustkit.quality import measure

GOLDEN = Path(__file__).parents[3] / "golden"
RCC_CODECS = ("robust-turbo-ddcm", "robust-turbo-ddcm-uep", "turbo-ddcm", "ddcm", "diffc", "psc")
#: How far apart, in grey levels, CPU and GPU may decode one stream: at worst, and on average over an image.
ACROSS = {"psc": (58, 0.35)}
ACROSS_USUALLY = (2, 0.05)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: run it on a machine with one")


@needs_cuda
@pytest.mark.parametrize("kind", CODEBOOKS)
def test_cpu_and_cuda_have_the_same_atoms(kind: str) -> None:
    for size, length in [(1024, 768), (4096, 4096), (4096, 1536)]:
        atoms = []
        for device in (torch.device("cpu"), torch.device("cuda")):
            codebook = CODEBOOKS[kind](size, length, 1, device)
            atoms.append(codebook.inner_products(2, torch.eye(length, device=device)).cpu())
        assert torch.equal(*atoms)


@needs_cuda
def test_cpu_and_cuda_add_the_same_atoms_up() -> None:
    sums = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        codebook = CODEBOOKS["structured"](1 << 17, 49152, 1, device)
        indices = torch.randint(1 << 17, (3, 40), generator=torch.Generator().manual_seed(0))
        sums.append(codebook.combine(2, indices.to(device), torch.ones(3, 40, device=device)).cpu())
    assert torch.allclose(*sums, atol=1e-5)


def assert_near(codec: str, pairs: Iterable[tuple[Image, Image]]) -> None:
    distances = [distance(expected, actual) for expected, actual in pairs]
    largest, mean = (max(values) for values in zip(*distances, strict=True))
    print(f"{codec}: {len(distances)} images, up to {largest:g} grey levels apart, on average {mean:.2g} at worst")
    most, most_on_average = ACROSS.get(codec, ACROSS_USUALLY)
    assert largest <= most
    assert mean <= most_on_average


@needs_cuda
@pytest.mark.parametrize("codec", RCC_CODECS)
def test_what_a_cpu_wrote_a_gpu_decodes(codec: str) -> None:
    path = folder(GOLDEN, codec, "cpu")
    manifest, pairs = read(path), []
    decoder = load_codec(codec, **manifest.settings, device="cuda")
    for photograph in manifest.photographs:
        stream = (path / photograph.bitstream).read_bytes()
        damaged = [r.error_pattern(8 * len(stream)).apply(stream) for r in photograph.reconstructions]
        for golden, decoded in zip(photograph.reconstructions, decoder.decode_batch(damaged), strict=True):
            assert isinstance(decoded, DecodeError) == (golden.file is None), (photograph.name, golden.pattern)
            if golden.file is not None:
                assert isinstance(decoded, np.ndarray)
                pairs.append((images.read(path / golden.file), decoded))
    assert_near(codec, pairs)


@pytest.mark.parametrize("codec", RCC_CODECS)
def test_cpu_and_gpu_wrote_the_same_streams_and_decoded_them_alike(codec: str) -> None:
    on_cpu, on_gpu = (folder(GOLDEN, codec, device) for device in ("cpu", "cuda"))
    if (codec, "cuda") in UNRECORDED and not on_gpu.exists():
        pytest.skip(f"{codec} has no golden files of a GPU yet: run .ci/cuda on a machine with one")
    cpu, gpu = read(on_cpu), read(on_gpu)
    assert cpu.photographs == gpu.photographs
    for photograph in cpu.photographs:
        assert (on_cpu / photograph.bitstream).read_bytes() == (on_gpu / photograph.bitstream).read_bytes()
    files = [r.file for photograph in cpu.photographs for r in photograph.reconstructions if r.file is not None]
    assert_near(codec, ((images.read(on_cpu / file), images.read(on_gpu / file)) for file in files))


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Stable Diffusion 2.1-base with random weights, in float16."""
    return str(save_full_size_pipeline(tmp_path_factory.mktemp("full-size"), device="cuda"))


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("codec", ["robust-turbo-ddcm", "turbo-ddcm", "ddcm"])
def test_the_paper_s_setting_fits_a_gpu(codec: str, stable_diffusion: str) -> None:
    fewer = {"T": 100} if codec == "ddcm" else {}
    subject = load_codec(codec, preset="paper", prior=stable_diffusion, **fewer)
    photograph = np.tile(images.photographs(crop=256)["astronaut"], (2, 2, 1))
    subject.encode(photograph)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    stream = subject.encode(photograph)
    encoded = time.perf_counter()
    decoded = subject.decode(stream)
    ended = time.perf_counter()
    gib = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{codec} as in the paper{', ' + str(fewer) if fewer else ''}, 512x512, {8 * len(stream) / 512**2:.5f} bpp: "
        f"encode {encoded - started:.2f} s, decode {ended - encoded:.2f} s, {gib:.2f} GiB"
    )
    assert decoded.shape == photograph.shape
    assert subject.encode(photograph) == stream
    assert gib < 8


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_embedded_prior_in_each_precision(dtype: str) -> None:
    subject = load_codec("robust-turbo-ddcm", device="cuda", dtype=dtype)
    quality, times = [], []
    for photograph in images.photographs(crop=256).values():
        started = time.perf_counter()
        decoded = subject.decode(subject.encode(photograph))
        times.append(time.perf_counter() - started)
        quality.append(measure("psnr", photograph, decoded))
    print(f"{dtype}: {np.mean(quality):.2f} dB, encode + decode {np.median(times):.2f} s")
    assert np.mean(quality) > 28
