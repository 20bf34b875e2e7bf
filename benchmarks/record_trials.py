"""Trials of real codecs, stored compactly for benchmarks/gate.py: what each lost under the damage that it promises.

Run it with ``python benchmarks/record_trials.py``; it takes some twenty minutes on two cores, nearly all of them for
robust-turbo-ddcm. The seed is none of the suite's.
"""

import json
import tempfile
from contextlib import closing
from pathlib import Path

import click
import numpy as np

from robustkit.images import photographs
from robustkit.judging.subject import Subject
from robustkit.registry import registry

CODECS = ("jpeg", "jpeg2000", "webp", "robust-turbo-ddcm")
SEED = 7
STORED = Path(__file__).parent / "data" / "trials.npz"


def measured(name: str, each: int, workers: int) -> dict[str, np.ndarray]:
    """Drops in dB of each promised channel, trials x images; NaN without an image."""
    images = photographs(256)
    with tempfile.TemporaryDirectory() as directory:
        spec = registry.get(name).spec()
        subject = Subject(
            spec, images=images, directory=Path(directory), trials=each, seed=SEED, workers=workers, progress=click.echo
        )
        with closing(subject):
            assert subject.profile is not None
            found = {}
            for promise in subject.profile.promises:
                drops = np.full((each, len(images)), np.nan)
                for trial in subject.run(subject.jobs(promise.channel)):
                    drop = trial.drop("psnr")
                    if drop is not None:
                        drops[trial.number, list(images).index(trial.image)] = drop
                found[str(promise.channel)] = np.round(drops, 3).astype(np.float32)
                click.echo(f"{name} {promise.channel}: {np.isfinite(drops).mean():.1%} gave an image")
            return found


@click.command()
@click.option("--each", default=100, show_default=True, help="Trials of each image and channel.")
@click.option("--workers", default=2, show_default=True, help="Decoding processes.")
@click.option("--codec", "names", multiple=True, default=CODECS, show_default=True, help="Which to measure anew.")
def main(each: int, workers: int, names: tuple[str, ...]) -> None:
    """Measure, and write benchmarks/data/trials.npz."""
    stored = dict(np.load(STORED, allow_pickle=False)) if STORED.exists() else {}
    for name in names:
        for channel, drops in measured(name, each, workers).items():
            stored[json.dumps([name, channel])] = drops
        STORED.parent.mkdir(exist_ok=True)
        np.savez_compressed(STORED, allow_pickle=False, **stored)
    click.echo(f"{STORED}: {STORED.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
