"""Trials of real codecs, stored compactly for benchmarks/gate.py: what each lost under the damage that it promises.

Run it with ``python benchmarks/record_trials.py``; it takes some ten minutes, nearly all of them for robust-turbo-ddcm.
The seed is none of the suite's. Trials are kept beside the file as they come, so a run that was stopped goes on.
"""

import json
import tempfile
from contextlib import closing
from pathlib import Path

import click
import numpy as np

from robustkit.images import photographs
from robustkit.isolation import Limits
from robustkit.judging.store import TrialStore
from robustkit.judging.subject import Subject
from robustkit.registry import registry

#: Trials of each image and channel, by codec: a decode of the last one takes a second.
CODECS = {"jpeg": 100, "jpeg2000": 100, "webp": 100, "robust-turbo-ddcm": 12}
SEED = 7
#: As ``robustkit measure`` has them, so that each can go on with the other's trials: ``--seed 7 --out
#: benchmarks/data/NAME``.
LIMITS = Limits(seconds=300)
STORED = Path(__file__).parent / "data" / "trials.npz"


def measured(name: str, each: int, workers: int) -> dict[str, np.ndarray]:
    """Drops in dB of each promised channel, trials x images; NaN without an image."""
    images = photographs(256)
    with tempfile.TemporaryDirectory() as directory:
        subject = Subject(
            registry.get(name).spec(),
            images=images,
            directory=Path(directory),
            trials=each,
            limits=LIMITS,
            seed=SEED,
            workers=workers,
            progress=click.echo,
            second_opinion=False,
        )
        with closing(subject):
            assert subject.profile is not None
            store = TrialStore(STORED.parent / f"{name}.trials.jsonl", subject, tell=click.echo)
            found = {}
            for promise in subject.profile.promises:
                jobs = subject.jobs(promise.channel)
                for _ in store.run(jobs):
                    pass
                drops = np.full((each, len(images)), np.nan)
                for trial in store.trials(jobs):
                    drop = trial.drop("psnr")
                    if drop is not None:
                        drops[trial.number, list(images).index(trial.image)] = drop
                found[str(promise.channel)] = np.round(drops, 3).astype(np.float32)
                click.echo(f"{name} {promise.channel}: {np.isfinite(drops).mean():.1%} gave an image")
            return found


@click.command()
@click.option("--each", type=int, help="Trials of each image and channel.  [default: 100, of robust-turbo-ddcm 12]")
@click.option("--workers", default=1, show_default=True, help="Decoding processes.")
@click.option("--codec", "names", multiple=True, default=[*CODECS], show_default=True, help="Which to measure anew.")
def main(each: int | None, workers: int, names: tuple[str, ...]) -> None:
    """Measure, and write benchmarks/data/trials.npz."""
    stored = dict(np.load(STORED, allow_pickle=False)) if STORED.exists() else {}
    for name in names:
        for channel, drops in measured(name, each or CODECS.get(name, 100), workers).items():
            stored[json.dumps([name, channel])] = drops
        STORED.parent.mkdir(exist_ok=True)
        np.savez_compressed(STORED, allow_pickle=False, **stored)
    click.echo(f"{STORED}: {STORED.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
