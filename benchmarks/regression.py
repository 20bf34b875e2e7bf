"""What the regression gate sees: losses found, and false alarms, on real drops of real codecs.

The drops of each codec are measured once, far more than a run has. From them runs are drawn: what was recorded, and
what a quick run measures now, of the same streams (the same trials) or of new ones (others), with a loss laid on top.
Run it with ``python benchmarks/regression.py``; it takes some twenty minutes, or five with ``--quick``.
"""

import json
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import track

from robustkit.channels import parse
from robustkit.images import photographs
from robustkit.judging import golden_drops, regression
from robustkit.judging.golden_drops import Drops, Loss, Picture
from robustkit.judging.subject import Subject
from robustkit.outcome import Outcome
from robustkit.registry import registry

CODECS = ("jpeg", "jpeg-restart", "jpeg2000", "webp")
#: Trials of each image and channel: measured here, recorded, of a quick run, and where the quick run goes on.
MEASURED, RECORDED, QUICK, MORE = 300, golden_drops.RECORDED, golden_drops.LEAST, golden_drops.RECORDED
#: A new stream has other bits, and so another digest.
SAME, NEW = "0" * 64, "1" * 64
DEALS = 399

#: What is laid on a drop, from the drop, the channel's mean, and random numbers. Each adds 0.1 dB on average where the
#: stream was hit, but for the first three.
Change = Callable[[float, float, np.random.Generator], float]
CHANGES: dict[str, Change] = {
    "nothing": lambda drop, mean, rng: drop,
    "rounding: 0.01 dB, either way": lambda drop, mean, rng: drop + 0.01 * rng.standard_normal(),
    "neutral: 0.2 dB, either way": lambda drop, mean, rng: drop + 0.2 * rng.standard_normal(),
    "0.1 dB in each trial": lambda drop, mean, rng: drop + 0.1,
    "0.1 dB on average, in proportion": lambda drop, mean, rng: drop * (1 + 0.1 / max(mean, 0.1)),
    "5 dB in one trial of 50": lambda drop, mean, rng: drop + 5.0 * (rng.random() < 0.02),
}
#: Nothing got worse; on new streams the third is left out, because it makes small losses of none.
NEUTRAL = tuple(CHANGES)[:3]
BAR = "0.1 dB in each trial"


def measure(codec: str, each: int) -> Drops:
    """The drops of one codec, from its own promises' channels."""
    with tempfile.TemporaryDirectory() as directory:
        subject = Subject(
            registry.get(codec).spec(), images=photographs(256), directory=Path(directory), trials=each, seed=1
        )
        with closing(subject):
            assert subject.profile is not None
            trials = {}
            for promise in subject.profile.promises:
                found = list(subject.run([j for j in subject.jobs(promise.channel) if j.number < each]))
                trials[promise.channel] = found
            return golden_drops.measured(subject, trials, {})


def read(file: Path) -> Drops:
    """Drops of another source: JSON, by channel and image a list of drops, null for unharmed, "x" for no image."""
    rows = json.loads(file.read_text())
    known: dict[str, Loss] = {"x": Outcome.REFUSED}
    losses = {
        parse(c): {i: tuple(known[v] if isinstance(v, str) else v for v in row) for i, row in images.items()}
        for c, images in rows.items()
    }
    images = {i: Picture(SAME, SAME, 0.0) for i in next(iter(losses.values()))}
    return Drops(file.stem, "cpu", "psnr", 0, {}, {}, images, losses)


def part(source: Drops, order: dict[tuple[str, str], list[int]], stream: str) -> Drops:
    """Some of the measured trials, as a run of their own."""
    losses = {
        c: {i: tuple(row[n] for n in order[str(c), i]) for i, row in rows.items()} for c, rows in source.losses.items()
    }
    return replace(source, losses=losses, pictures={i: Picture(SAME, stream, 0.0) for i in source.pictures})


def changed(drops: Drops, change: Change, rng: np.random.Generator) -> Drops:
    losses = {}
    for channel, rows in drops.losses.items():
        hit = [v for row in rows.values() for v in row if isinstance(v, float)]
        mean = float(np.mean(hit)) if hit else 0.0
        losses[channel] = {
            i: tuple(change(v, mean, rng) if isinstance(v, float) else v for v in row) for i, row in rows.items()
        }
    return replace(drops, losses=losses)


def first(drops: Drops, each: int) -> Drops:
    return replace(drops, losses={c: {i: r[:each] for i, r in rows.items()} for c, rows in drops.losses.items()})


def run(source: Drops, change: Change, rng: np.random.Generator, *, new: bool, more: int) -> bool:
    """Whether one quick run, as the suite does it, ends with an alarm."""
    places = {
        (str(c), i): [int(n) for n in rng.permutation(len(row))]
        for c, rows in source.losses.items()
        for i, row in rows.items()
    }
    recorded = min(RECORDED, min(map(len, places.values())) // 2)
    before = part(source, {key: place[:recorded] for key, place in places.items()}, SAME)
    theirs = {key: place[recorded : 2 * recorded] if new else place[:recorded] for key, place in places.items()}
    now = changed(part(source, theirs, NEW if new else SAME), change, rng)
    quick = first(now, QUICK)
    if not regression.unchanged(before, quick):
        quick = first(now, max(QUICK, more))
    return any(found.worse for found in regression.compare(before, quick, deals=DEALS))


@click.command()
@click.option("--runs", default=400, show_default=True, help="Runs drawn for each figure.")
@click.option("--quick", is_flag=True, help="A tenth of the runs.")
@click.option("--codec", "codecs", multiple=True, default=CODECS, show_default=True, help="Whose drops; repeatable.")
@click.option("--more", default=MORE, show_default=True, help="Trials an image where a quick run goes on; 10: nowhere.")
@click.option(
    "--drops",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Drops measured elsewhere, as JSON; repeatable.",
)
def main(runs: int, quick: bool, codecs: tuple[str, ...], more: int, files: tuple[Path, ...]) -> None:
    """Print the share of runs that end with an alarm; at most 1% may where nothing got worse."""
    runs = runs // 10 if quick else runs
    console = Console(stderr=True)
    sources = [read(file) for file in files]
    if not files:
        for codec in codecs:
            console.print(f"measuring {codec}")
            sources.append(measure(codec, MEASURED))
    print("| codec | what changed | same streams | new streams |\n|---|---|---|---|")
    good = True
    # Three standard errors are allowed for the simulation itself.
    allowed = 0.01 + 3 * np.sqrt(0.01 / runs)
    for source, name in track([(s, n) for s in sources for n in CHANGES], transient=True, console=console):
        found = []
        for new in (False, True)[: 1 if name == NEUTRAL[-1] else 2]:
            rngs = [np.random.default_rng([number, new]) for number in range(runs)]
            found.append(sum(run(source, CHANGES[name], rng, new=new, more=more) for rng in rngs) / runs)
        shares = [f"{share:.1%}" for share in found] + ["-"] * (2 - len(found))
        print(f"| `{source.codec}` | {name} | {' | '.join(shares)} |", flush=True)
        if name in NEUTRAL:
            good &= max(found) <= allowed
        elif name == BAR:
            good &= found[0] >= 0.95
    said = "yes" if good else "NO"
    print(f"\nfalse alarms at most 1% a run, {BAR} of the same streams found in 95%: {said}")
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
