"""What a long run leaves behind: damaged streams of the classical codecs, decoded in workers, and what has grown since.

Run it with ``python benchmarks/endurance.py``; 200,000 decodes take a few minutes.
"""

import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import track

from robustkit import ErrorPattern, channels, registry
from robustkit.images import photographs
from robustkit.isolation import CodecWorkers, Limits
from robustkit.isolation.limits import resident

CLASSICAL = "avif,bpg,heic,jpeg,jpeg-restart,jpeg-xl,jpeg2000,png,webp"
CHANNELS = ("bsc(ber=0.001)", "bsc(ber=0.01)", "burst(length=32)", "truncation(keep=0.5)")
CHUNK = 1000
#: Set in this process, and so in that of all that it starts; others may run workers of their own meanwhile.
OURS = "ROBUSTKIT_ENDURANCE"
#: Bytes by which the parent may grow after its first chunk of a codec.
BAR = 16 * 2**20


def processes() -> set[int]:
    """Ids of all processes that this one started, or that were started by one of those: they inherited a variable."""
    mark, found = f"{OURS}={os.environ[OURS]}".encode(), set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:
            continue
    return found


@click.command()
@click.option("--codec", "names", default=CLASSICAL, show_default=True, help="Names, separated by commas.")
@click.option("--decodes", default=200_000, show_default=True, help="Damaged streams, over all codecs.")
def main(names: str, decodes: int) -> None:
    """Print outcomes, lost trials, orphans and growth by codec; exit with 1 if there is any."""
    entries = [registry.get(name) for name in names.split(",")]
    each = -(-decodes // len(entries) // CHUNK) * CHUNK
    images = {name: image[:64, :64] for name, image in list(photographs(crop=64).items())[:2]}
    console = Console(stderr=True)
    os.environ[OURS] = str(os.getpid())
    bad = False
    print(f"{'codec':16} {'decodes':>8} {'lost':>5} {'orphans':>8} {'files':>6} {'grown':>9} {'ms each':>8}  outcomes")
    for entry in entries:
        outcomes: Counter[str] = Counter()
        sent = 0
        with tempfile.TemporaryDirectory() as folder:
            with CodecWorkers(entry.spec(), directory=folder, limits=Limits(seconds=10, memory=2**30)) as workers:
                streams = {name: workers.encode(np.ascontiguousarray(image)) for name, image in images.items()}
                layouts = {name: workers.layout(stream) for name, stream in streams.items()}
                cleans = {name: workers.decode(stream, shape=(64, 64)).image for name, stream in streams.items()}
                base, started = 0, time.monotonic()
                for number in track(range(0, each, CHUNK), description=entry.name, transient=True, console=console):
                    damaged = [_damage(streams, layouts, entry.name, number + i) for i in range(CHUNK)]
                    decoded = workers.decode_many([stream for _, stream in damaged], shape=(64, 64))
                    sent += len(damaged)
                    for (image, _), found in zip(damaged, decoded, strict=True):
                        outcomes[found.judged(cleans[image])] += 1
                    base = base or resident()
                milliseconds = 1e3 * (time.monotonic() - started) / sent
                grown = resident() - base
            files = sum(f.is_file() and f.suffix != ".bin" for f in Path(folder).rglob("*"))
        time.sleep(0.2)
        # The guard, which every process has that starts workers, ends with this one.
        orphans = len(processes()) - 1
        lost = sent - outcomes.total()
        print(
            f"{entry.name:16} {sent:8} {lost:5} {orphans:8} {files:6} {grown / 2**20:6.1f} MB {milliseconds:8.2f}  "
            + ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())),
            flush=True,
        )
        bad |= bool(lost or orphans or files or grown > BAR)
    print(f"nothing lost, nothing left, nothing grown: {'NO' if bad else 'yes'}")
    if bad:
        raise SystemExit(1)


def _damage(streams: dict[str, bytes], layouts: dict[str, object], codec: str, number: int) -> tuple[str, bytes]:
    """Damage of every channel in turn, on every image in turn; each eighth stream also has bytes appended."""
    image = sorted(streams)[number % len(streams)]
    stream = streams[image]
    channel = channels.parse(CHANNELS[number // len(streams) % len(CHANNELS)])
    pattern = channel.draw(8 * len(stream), layouts[image], codec=codec, image=image, trial=number, seed=0)
    if number % 8 == 7:
        pattern = ErrorPattern(pattern.bits, pattern.flips, pattern.keep, os.urandom(16))
    return image, pattern.apply(stream)


if __name__ == "__main__":
    main()
