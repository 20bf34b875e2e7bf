"""What isolation costs: the median time of decoding one 512x512 JPEG in this process and in a worker.

The bar is an overhead of at most 1 ms. Run it with ``python benchmarks/isolation.py``; calls alternate, so that both
figures come from one run under one load.
"""

import tempfile
import time

import click
import numpy as np
from skimage.data import astronaut

from robustkit import registry
from robustkit.isolation import CodecWorkers

BAR_MS = 1.0


@click.command()
@click.option("--codec", default="jpeg", show_default=True, help="A registered codec.")
@click.option("--repeats", default=300, show_default=True, help="Decodes of each kind.")
def main(codec: str, repeats: int) -> None:
    """Print the medians and 90th percentiles, in milliseconds; exit with 1 over the bar."""
    spec = registry.get(codec).spec()
    here = spec.load()
    with (
        tempfile.TemporaryDirectory() as directory,
        CodecWorkers(spec, directory=directory) as workers,
    ):
        stream = here.encode(astronaut())
        alone, isolated, inside = [], [], []
        for _ in range(repeats):
            started = time.perf_counter()
            expected = here.decode(stream)
            alone.append(time.perf_counter() - started)
            started = time.perf_counter()
            decoded = workers.decode(stream, shape=(512, 512))
            isolated.append(time.perf_counter() - started)
            inside.append(decoded.seconds)
            if decoded.image is None or not np.array_equal(decoded.image, expected):
                raise SystemExit(f"the worker's image differs: {decoded.outcome} {decoded.message}")
    for name, times in (
        ("in this process", alone),
        ("in a worker", isolated),
        ("  of which decode", inside),
    ):
        print(f"{name:18} median {1e3 * np.median(times):6.3f} ms   p90 {1e3 * np.percentile(times, 90):6.3f} ms")
    transport = 1e3 * np.median(np.subtract(isolated, inside))
    print(f"{'all but the decode':18} median {transport:6.3f} ms")
    overhead = 1e3 * float(np.median(isolated) - np.median(alone))
    print(f"{'overhead':18} median {overhead:6.3f} ms   at most {BAR_MS} ms: {'yes' if overhead <= BAR_MS else 'NO'}")
    if overhead > BAR_MS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
