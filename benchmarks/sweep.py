"""What a sweep costs: JPEG's part of the paper's grid, against a plain loop of Pillow and NumPy.

24 images of 512x512, six bit error rates, ten trials each: 1,440 damaged JPEG files of about 1 bpp, decoded and
measured in PSNR. The bar is twice the CPU time of the loop, all processes counted. Run it with
``python benchmarks/sweep.py``.
"""

import io
import resource
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageFile

from robustkit.channels import BSC, generator
from robustkit.experiments import identity, pictures, plan, store, sweep
from robustkit.images import photographs

BAR = 2.0
#: Sampling and applying flips, as a share of the loop.
BAR_FLIPS = 0.02
BERS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
TRIALS = 10
SIDE = 512
TURNS = (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180)


def cpu() -> float:
    """Seconds of this process and of those that it has seen end."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def make_images(folder: Path, count: int) -> None:
    made = [(name, image, turn) for turn in TURNS for name, image in photographs(300).items()]
    for number, (_, image, turn) in enumerate(made[:count], start=1):
        picture = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        (picture if turn is None else picture.transpose(turn)).save(folder / f"{number}.png")


def plain(folder: Path, quality: int) -> tuple[int, float]:
    """The loop that a person would write; how many files were decoded, and the mean PSNR."""
    originals = [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    streams = []
    for image in originals:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        streams.append(buffer.getvalue())
    found = []
    for ber in BERS:
        for trial in range(TRIALS):
            for image, stream in zip(originals, streams, strict=True):
                rng = np.random.default_rng([trial, len(stream)])
                bits = 8 * len(stream)
                flips = np.unique(rng.integers(0, bits, rng.binomial(bits, ber)))
                damaged = np.frombuffer(stream, np.uint8).copy()
                np.bitwise_xor.at(damaged, flips >> 3, (128 >> (flips & 7)).astype(np.uint8))
                try:
                    decoded = np.array(Image.open(io.BytesIO(damaged.tobytes())).convert("RGB"))
                    if decoded.shape != image.shape:
                        continue
                    error = np.mean((decoded.astype(np.float64) - image.astype(np.float64)) ** 2)
                    found.append(10 * np.log10(255**2 / error))
                except Exception:  # whatever the parts of a damaged file lead to
                    continue
    return len(found), float(np.mean(found))


def flips_alone(sizes: list[int]) -> None:
    for ber in BERS:
        for trial in range(TRIALS):
            for number, size in enumerate(sizes):
                rng = generator("jpeg", str(number), str(BSC(ber)), trial)
                BSC(ber).sample(8 * size, rng).apply(bytes(size))


class Recording:
    """A generator that notes how many numbers it is asked for."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self.shapes = rng, []

    def random(self, shape: tuple[int, int]) -> np.ndarray:
        self.shapes.append(shape)
        return self._rng.random(shape)


def numbers_alone(sizes: list[int]) -> float:
    """Seconds that the random numbers of all flips take, and nothing else."""
    seconds = 0.0
    for ber in BERS:
        for trial in range(TRIALS):
            for number, size in enumerate(sizes):
                rng = generator("jpeg", str(number), str(BSC(ber)), trial)
                recording = Recording(rng)
                BSC(ber).sample(8 * size, recording)
                began = time.process_time()
                for shape in recording.shapes:
                    rng.random(shape)
                seconds += time.process_time() - began
    return seconds


@click.command()
@click.option("--images", default=24, show_default=True, help="Images, 24 at the most.")
@click.option("--quality", default=75, show_default=True, help="Of the JPEG files.")
@click.option(
    "--channel", default="bsc", show_default=True, help="Or published-bsc, whose draws are a cost of their own."
)
def main(images: int, quality: int, channel: str) -> None:
    """Print both CPU times and their ratio; exit with 1 over a bar."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory, "images")
        folder.mkdir()
        make_images(folder, images)
        began, clock = cpu(), time.perf_counter()
        decoded, mean = plain(folder, quality)
        loop, loop_clock = cpu() - began, time.perf_counter() - clock

        began, clock = cpu(), time.perf_counter()
        settings = {"quality": quality, "truncated": "tolerate", "check_size": False}
        said = {"codecs": [{"codec": "jpeg", "settings": settings}], "channels": [channel], "bers": BERS}
        wanted = plan.make({**said, "trials": TRIALS, "images": str(folder)})
        experiment, _ = identity.examine(wanted, pictures.find(wanted.images, None))
        out = Path(directory, "rows")
        sweep.sweep(out, sweep.begin(out, experiment), wanted)
        ours, our_clock = cpu() - began, time.perf_counter() - clock
        rows = store.read(out)

        both = zip(rows["stream_bytes"].to_pylist(), rows["trial"].to_pylist(), strict=True)
        sizes = [size for size, trial in both if trial < 0]
        began = cpu()
        flips_alone(sizes)
        flips = cpu() - began
        floor = numbers_alone(sizes)
    trials = rows.num_rows - images
    ratio, share = ours / loop, flips / loop
    print(f"{trials} damaged files of {images} images, {8 * sum(sizes) / len(sizes) / SIDE**2:.2f} bpp")
    print(f"plain loop   {loop:6.1f} s of CPU, {loop_clock:6.1f} s by the clock; {decoded} decoded, mean {mean:.2f} dB")
    print(f"sweep        {ours:6.1f} s of CPU, {our_clock:6.1f} s by the clock")
    print(f"ratio        {ratio:6.2f}   at most {BAR}: {'yes' if ratio <= BAR else 'NO'}")
    held = "yes" if share <= BAR_FLIPS else "NO"
    print(f"flips alone  {100 * share:6.2f}% of the loop   at most {100 * BAR_FLIPS:g}%: {held}")
    print(f"of these     {100 * floor / loop:6.2f}% are random numbers, which no seed's damage can do without")
    if ratio > BAR or share > BAR_FLIPS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
