"""What the RCC codecs cost beside their denoiser: time, batches, repair, codebooks, memory, bit protocols.

Run it with ``python benchmarks/rcc.py``. What is compared alternates, so that a ratio's two sides see the same load.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console

from robustkit import Image, channels
from robustkit.codecs.rcc import ordered
from robustkit.codecs.rcc.codebook import CODEBOOKS
from robustkit.codecs.rcc.protocol import IndependentIndices, JointRank
from robustkit.codecs.rcc.turbo import RobustTurboDDCM, RobustTurboDDCMUEP, TurboDDCM, _payload, _protocol
from robustkit.images import photographs
from robustkit.judging.golden_files import distance
from robustkit.priors.base import NoiseLevel
from robustkit.priors.graphs import SWITCH
from robustkit.quality import measure

#: Of whole calls, in which a GPU is told of each operation by a processor that others use too.
GPU_REPEATS = 15
BAR_SECONDS = 2.5
BAR_RATIO = 1.10
BAR_BATCH = 2.0
#: On a GPU with CUDA graphs: over the denoiser's calls alone, over the same without graphs, and of a batch.
BAR_GPU_RATIO, BAR_GRAPHS, BAR_GPU_BATCH = 1.15, 3.0, 6.0
#: Grey levels that an image with and without graphs may lie apart, at worst and on average.
BAR_GRAPHS_APART = (2, 0.05)
#: Of the order-aware decoder's repair, in a decode.
BAR_REPAIR = 0.02
#: Of the resident memory for encoding and decoding an image with this side.
BAR_GIB = {512: 2.0, 2048: 4.0}
BAR_RANK_MS = 2.0
#: Of a step's rank, in a call of the denoiser.
BAR_RANK = 0.2
BAR_CODEBOOK_DB = 0.1
#: Of the published program, side by side on a processor with the settings below: seconds and GiB in all.
PUBLISHED_SECONDS, PUBLISHED_GIB = 16.1, 2.1
PUBLISHED_SETTINGS: dict[str, Any] = {"T": 8, "K": 16384, "M": 40, "N": 0, "size": (512, 512), "container": "raw"}
STREAMS = 16
#: Settings of the published Turbo-DDCM.
PUBLISHED_K, PUBLISHED_M = 16384, 114
#: K x n of the codebooks compared: the Gaussian one takes minutes a step at the codecs' default.
CODEBOOK_SIZE, CODEBOOK_CROP = 16384, 64

console = Console()
Row = tuple[str, str, str, bool | None]


class Denoising:
    """The denoiser calls of a codec at work, and the time that they take alone."""

    def __init__(self, codec: TurboDDCM) -> None:
        self.prior = codec.prior
        self.calls: list[tuple[torch.Size, NoiseLevel]] = []

    @contextmanager
    def replaced(self, by: Callable[[torch.Tensor, NoiseLevel], torch.Tensor]) -> Iterator[None]:
        self.prior.predict_clean = by  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.prior.predict_clean

    def record(self, work: Callable[[], object]) -> None:
        predict = self.prior.predict_clean

        def recorded(noisy: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
            self.calls.append((noisy.shape, level))
            return predict(noisy, level)

        with self.replaced(by=recorded):
            work()

    @torch.inference_mode()
    def repeat(self) -> None:
        """The recorded calls."""
        for shape, level in self.calls:
            estimate = self.prior.predict_clean(torch.ones(shape, device=self.prior.device), level)
        # A GPU is done with all calls once it is done with the last.
        estimate.sum().item()

    def overhead(self, work: Callable[[], object]) -> float:
        """Time of ``work`` over that of its calls alone, on a CPU.

        Each call is made twice in a row, and the second is the call alone: both sides of the ratio see the machine in
        the same state, which changes from second to second, and more than the overhead.
        """
        predict, alone = self.prior.predict_clean, 0.0

        def twice(noisy: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
            nonlocal alone
            estimate = predict(noisy, level)
            alone += seconds(lambda: predict(noisy, level))[0]
            return estimate

        with self.replaced(by=twice):
            whole, _ = seconds(work)
        return (whole - alone) / alone


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def medians(repeats: int, *works: Callable[[], object]) -> list[tuple[float, float]]:
    """Median wall-clock and processor time of each of ``works``, called in turn."""
    times = [[seconds(work) for work in works] for _ in range(repeats)]
    return [
        (statistics.median(t[i][0] for t in times), statistics.median(t[i][1] for t in times))
        for i in range(len(works))
    ]


def in_fresh_process(work: Callable[..., Any], *arguments: object) -> Any:
    # Not spawn: what exec starts inherits its parent's peak on Linux, what a fork server forks does not.
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as executor:
        return executor.submit(work, *arguments).result()


def peak_gib() -> float:
    """Largest memory of this process so far: on a GPU that it used, else resident."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def astronaut(side: int) -> Image:
    """The photograph, repeated where it is smaller."""
    photograph = photographs(crop=256)["astronaut"]
    return np.tile(photograph, (side // len(photograph), side // len(photograph), 1))


def peak_of_round_trip(settings: dict[str, Any], side: int) -> float:
    codec = RobustTurboDDCM(**settings)
    codec.decode(codec.encode(astronaut(side)))
    return peak_gib()


def memory(settings: dict[str, Any], side: int, most: float) -> Iterator[Row]:
    gib = in_fresh_process(peak_of_round_trip, settings, side)
    yield f"encode + decode of {side}x{side}, fresh process", f"{gib:.2f} GiB", f"at most {most:g} GiB", gib <= most


def cost_of_codebook(kind: str, length: int, count: int, repeats: int, device: str) -> tuple[float, float]:
    """Processor time in seconds and memory in GiB of choosing a step's atoms and combining them."""
    residual = torch.from_numpy(np.random.default_rng(0).standard_normal((1, length), dtype=np.float32)).to(device)
    before = peak_gib()
    codebook = CODEBOOKS[kind](CODEBOOK_SIZE, length, 1, torch.device(device))
    choose = IndependentIndices(CODEBOOK_SIZE, count).choose

    def step() -> None:
        # The number waits for a GPU, and so does the processor.
        codebook.combine(0, *choose(codebook.inner_products(0, residual))).sum().item()

    ((_, processor),) = medians(repeats, step)
    return processor, peak_gib() - before


def overhead(kind: type[TurboDDCM], settings: dict[str, Any], side: int, repeats: int) -> Iterator[Row]:
    codec, image = kind(**settings), astronaut(side)
    denoising = Denoising(codec)

    def work() -> None:
        codec.decode(codec.encode(image))

    denoising.record(work)
    if codec.prior.device.type == "cpu":
        times = [seconds(work)[0] for _ in range(repeats)]
        ratios = sorted(denoising.overhead(work) for _ in range(repeats))
    else:
        pairs = [(seconds(work)[0], seconds(denoising.repeat)[0]) for _ in range(GPU_REPEATS)]
        times, ratios = [whole for whole, _ in pairs], sorted(whole / alone for whole, alone in pairs)
    whole = statistics.median(times)
    limit, met = ("", None) if side > 256 else (f"at most {BAR_SECONDS} s", whole <= BAR_SECONDS)
    yield f"{kind.name} {side}x{side}: encode + decode", f"{whole:.2f} s", limit, met
    ratio, most = statistics.median(ratios), BAR_RATIO if codec.prior.device.type == "cpu" else BAR_GPU_RATIO
    yield (
        f"  over its {len(denoising.calls)} denoiser calls alone",
        f"{ratio:.3f} times ({ratios[0]:.3f} to {ratios[-1]:.3f})",
        f"at most {most} times",
        ratio <= most,
    )


@contextmanager
def graphs_switched(on: bool) -> Iterator[None]:
    before = os.environ.get(SWITCH, "")
    os.environ[SWITCH] = str(int(on))
    try:
        yield
    finally:
        os.environ[SWITCH] = before


def beside_plain(settings: dict[str, Any], side: int, repeats: int) -> Iterator[Row]:
    """With CUDA graphs and without, by turns: time, streams and pixels."""
    image, codecs = astronaut(side), {}
    for on in (False, True):
        with graphs_switched(on):
            codecs[on] = RobustTurboDDCM(**settings)

    def work(on: bool) -> tuple[bytes, Image]:
        with graphs_switched(on):
            stream = codecs[on].encode(image)
            return stream, codecs[on].decode(stream)

    # What graphs make is compared once they are captured.
    (plain, pixels), _, (captured, others) = (work(on) for on in (False, True, True))
    without, by_graphs = medians(repeats, partial(work, False), partial(work, True))
    gain = without[0] / by_graphs[0]
    yield (
        f"encode + decode of {side}x{side} by graphs, beside --plain",
        f"{by_graphs[0]:.3f} s, {gain:.2f} times faster",
        f"at least {BAR_GRAPHS:g} times",
        gain >= BAR_GRAPHS,
    )
    yield "  streams", "the same" if plain == captured else "different", "the same", plain == captured
    most, mean = distance(pixels, others)
    near = most <= BAR_GRAPHS_APART[0] and mean <= BAR_GRAPHS_APART[1]
    yield (
        "  pixels",
        f"up to {most:g} grey levels apart, {mean:.3g} on average",
        "at most {}, {}".format(*BAR_GRAPHS_APART),
        near,
    )


def batch_or_not(codec: TurboDDCM, streams: list[bytes]) -> tuple[Callable[[], object], Callable[[], object]]:
    return lambda: [codec.decode(stream) for stream in streams], lambda: codec.decode_batch(streams)


def batches(kind: type[TurboDDCM], settings: dict[str, Any], image: Image, repeats: int) -> Iterator[Row]:
    codec = kind(**settings)
    stream = codec.encode(image)
    layout = codec.layout(stream)
    least = BAR_BATCH if codec.prior.device.type == "cpu" else BAR_GPU_BATCH
    for text in ("bsc(ber=0.001)", "bsc(ber=0.0001)", "burst(length=32)"):
        noise = channels.parse(text)
        damaged = [
            noise.draw(layout.bits, layout, codec=codec.name, image="batch", trial=number).apply(stream)
            for number in range(STREAMS)
        ]
        singly, together = medians(repeats, *batch_or_not(codec, damaged))
        gain = singly[0] / together[0]
        yield (
            f"{kind.name}: decode_batch of {STREAMS} after {text}",
            f"{gain:.2f} times faster ({singly[1] / together[1]:.2f} in processor time)",
            f"at least {least:g} times",
            gain >= least,
        )


def repair(settings: dict[str, Any], image: Image, repeats: int) -> Iterator[Row]:
    """The order-aware decoder's work on a stream whose every step is hit."""
    codec = RobustTurboDDCM(**settings)
    stream, noise = codec.encode(image), channels.parse("bsc(ber=0.02)")
    damaged = noise.draw(8 * len(stream), codec=codec.name, image="repair", trial=0).apply(stream)
    header, payload = codec._parse(damaged)
    believe = partial(ordered.believe, _protocol(header), *_payload(header).read(payload))
    (repairing, _), (decoding, _) = medians(repeats, believe, partial(codec.decode, damaged))
    share = repairing / decoding
    yield f"repair after {noise.name}, of a decode", f"{share:.2%}", f"under {BAR_REPAIR:.0%}", share < BAR_REPAIR


def codebooks(device: dict[str, Any], repeats: int, images: list[Image]) -> Iterator[Row]:
    codecs = {
        kind: RobustTurboDDCM(T=20, K=CODEBOOK_SIZE, bpp=1.5, codebook=kind, **device)
        for kind in ("structured", "gaussian")
    }
    count = codecs["structured"]._header_for(*images[0].shape[:2]).method.atoms
    shape = codecs["structured"].prior.latent_shape(*images[0].shape[:2])
    length = int(np.prod(shape))
    times, quality = {}, {}
    for kind, codec in codecs.items():
        times[kind], gib = in_fresh_process(cost_of_codebook, kind, length, count, repeats, device["device"])
        quality[kind] = statistics.mean(measure("psnr", image, codec.decode(codec.encode(image))) for image in images)
        yield (
            f"{kind} codebook, K = {CODEBOOK_SIZE}, n = {length}, M = {count}",
            f"{1e3 * times[kind]:.2f} ms of processor time a step, {1024 * gib:.0f} MiB, {quality[kind]:.2f} dB",
            "",
            None,
        )
    loss = quality["gaussian"] - quality["structured"]
    yield (
        "  structured against Gaussian",
        f"{times['gaussian'] / times['structured']:.0f} times faster, {loss:+.2f} dB lost",
        f"at most {BAR_CODEBOOK_DB} dB",
        # One photograph's scatters by more than the bar.
        loss <= BAR_CODEBOOK_DB if len(images) > 1 else None,
    )


def work_of_reference(device: str) -> tuple[float, float, float]:
    """Seconds, and seconds of processor time, of encoding and decoding as published, and GiB."""
    with tempfile.TemporaryDirectory() as folder:
        # A pipeline of tiny networks, as the tests have it: the codebooks take the time, and most of the memory.
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from tiny_pipeline import save_tiny_pipeline

        prior = str(save_tiny_pipeline(Path(folder), vae_levels=4))
        codec = RobustTurboDDCM(codebook="reference", prior=prior, device=device, **PUBLISHED_SETTINGS)
    image = astronaut(512)
    times = seconds(lambda: codec.decode(codec.encode(image)))
    return *times, peak_gib()


def as_published(device: str) -> Iterator[Row]:
    """Beside the published program, which took as long for the same pipeline, image and settings."""
    whole, processor, gib = in_fresh_process(work_of_reference, device)
    said = {k: v for k, v in PUBLISHED_SETTINGS.items() if k in ("T", "K", "M")}
    yield (
        f"codebook='reference', {', '.join(f'{k}={v}' for k, v in said.items())}, 512x512",
        f"{whole:.1f} s, {processor:.1f} s of processor time",
        f"at most {PUBLISHED_SECONDS} s",
        whole <= PUBLISHED_SECONDS,
    )
    yield "  memory of its process", f"{gib:.2f} GiB", f"at most {PUBLISHED_GIB} GiB", gib <= PUBLISHED_GIB


def protocols(repeats: int) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    indices = np.sort(rng.choice(PUBLISHED_K, PUBLISHED_M, replace=False))
    signs = rng.choice([-1, 1], PUBLISHED_M)
    for kind in (JointRank, IndependentIndices):
        protocol = kind(PUBLISHED_K, PUBLISHED_M)
        (write, _), (read, _) = medians(
            repeats,
            partial(protocol.write, indices, signs),
            partial(protocol.read, protocol.write(indices, signs)),
        )
        yield (
            f"{kind.__name__}, K = {PUBLISHED_K}, M = {PUBLISHED_M}, without a table",
            f"{protocol.bits} bits; write {1e3 * write:.2f} ms, read {1e3 * read:.2f} ms a step",
            f"at most {BAR_RANK_MS:g} ms each",
            max(write, read) <= BAR_RANK_MS / 1e3,
        )


def ranks(device: dict[str, Any], repeats: int) -> Iterator[Row]:
    """Reading a step's rank beside a call of the denoiser, at the atoms that the usual rate gives."""
    codec = TurboDDCM(**device)
    for side in (512, 1024, 2048):
        protocol = _protocol(codec._header_for(side, side))
        assert isinstance(protocol, JointRank)
        chosen = np.random.default_rng(0).choice(protocol.size, protocol.count, replace=False)
        word = protocol.write(np.sort(chosen), np.ones(protocol.count, dtype=np.int64))
        denoising = Denoising(codec)
        shape = torch.Size((1, *codec.prior.latent_shape(side, side)))
        denoising.calls = [(shape, codec.prior.level_at_snr(0.0))]
        (read, _), (call, _) = medians(repeats, partial(protocol.read, word), denoising.repeat)
        yield (
            f"a step's rank at {side}x{side}, M = {protocol.count}",
            f"{protocol.bits} bits; read {1e3 * read:.1f} ms, {read / call:.3f} of a denoiser call",
            f"at most {BAR_RANK:g} of one",
            read / call <= BAR_RANK,
        )


@click.command()
@click.option(
    "--quick",
    is_flag=True,
    help="Ten noise levels, few repeats, one photograph: ratios to about a tenth, in four minutes.",
)
@click.option("--repeats", type=int, help="Calls of each kind.  [default: 5, with --quick 3]")
@click.option("--device", default="cpu", help="A torch device.  [default: cpu]")
@click.option("--dtype", default="float32", help="Of the denoiser.  [default: float32]")
@click.option("--plain", is_flag=True, help="On a GPU, without CUDA graphs.")
def main(quick: bool, repeats: int | None, device: str, dtype: str, plain: bool) -> None:
    """Print each measurement as it is made, beside its bar; exit with 1 where one is missed."""
    repeats = repeats or (3 if quick else 5)
    settings: dict[str, Any] = {"device": device, "dtype": dtype}
    # Fewer levels, but as many atoms a level as the codecs' defaults choose: the ratios depend on those.
    settings |= {"T": 10, "M": 40} if quick else {}
    cuda = torch.device(device).type == "cuda"
    where = torch.cuda.get_device_name(device) if cuda else f"{device} ({torch.get_num_threads()} threads)"
    os.environ[SWITCH] = str(int(cuda and not plain))
    how = ", by CUDA graphs" if cuda and not plain else ""
    console.print(f"RCC codecs: torch {torch.__version__}, {where}, {dtype}{how}", style="bold")
    missed = 0
    with console.status("measuring"):

        def add(rows: Iterator[Row]) -> None:
            nonlocal missed
            for what, measured, bar, met in rows:
                missed += met is False
                verdict = {True: "yes", False: "[red]NO[/red]", None: ""}[met]
                line = f"{what:<54} {measured:<54} {bar:<18} {verdict}"
                console.print(line.rstrip(), highlight=False, soft_wrap=True)

        for side, most in BAR_GIB.items():
            # The rate decides the memory: at the largest size as many atoms a pixel as elsewhere, in few steps.
            short = settings if side == 512 else {**settings, "T": 4, "bpp": 0.4 * 3 / 27, "M": None}
            add(memory(short, side, most))
        for side in (256,) if quick else (256, 512):
            for kind in (RobustTurboDDCM, RobustTurboDDCMUEP, TurboDDCM):
                add(overhead(kind, settings, side, repeats if side == 256 else min(repeats, 3)))
        if cuda and not plain:
            add(beside_plain(settings, 512, GPU_REPEATS))
        for kind in (RobustTurboDDCM, RobustTurboDDCMUEP):
            add(batches(kind, settings, astronaut(256), 1 if quick else min(repeats, 3)))
        add(repair(settings, astronaut(256), repeats))
        crops = list(photographs(crop=CODEBOOK_CROP).values())
        add(codebooks({"device": device, "dtype": dtype}, repeats, crops[:1] if quick else crops))
        add(as_published(device))
        add(protocols(40 * repeats))
        add(ranks({"device": device, "dtype": dtype}, repeats))
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
