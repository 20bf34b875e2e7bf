"""What ``robustkit compare`` is worth: how often it alarms where nothing got worse, and which losses it catches.

Runs are drawn from stored trials of real codecs (benchmarks/record_trials.py), image by image, so both sides follow one
law unless a loss is laid on one of them. Where the streams are the same, so is each trial's damage; where they are
others, both sides draw trials of their own. Run it with ``python benchmarks/compare_gate.py``; it takes some twenty
minutes, or a tenth of that with ``--quick``.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from robustkit.certificates.compare import Comparison, compare
from robustkit.certificates.model import Photograph, TrialRow
from robustkit.certificates.pairing import Side

Floats = npt.NDArray[np.float64]
STORED = Path(__file__).parent / "data" / "trials.npz"
#: Trials of each image and channel, as the command's own default.
ROUNDS = 24
QUALITY, BPP = 30.0, 1.0
DEALS = 399
CRASH = -np.inf

#: What becomes of drops (NaN without an image, 0 where the stream arrived unharmed).
Change = Callable[[Floats, np.random.Generator], Floats]


def more(loss: float, share: float = 1.0) -> Change:
    """``loss`` dB more in a share of the trials that were hit."""
    return lambda drops, rng: np.where((drops != 0) & (rng.random(drops.shape) < share), drops + loss, drops)


def crashes(drops: Floats, rng: np.random.Generator) -> Floats:
    return np.where((drops != 0) & (rng.random(drops.shape) < 0.01), CRASH, drops)


def jitter(drops: Floats, rng: np.random.Generator) -> Floats:
    return np.where(drops != 0, drops + 0.2 * rng.standard_normal(drops.shape), drops)


def nothing(drops: Floats, rng: np.random.Generator) -> Floats:
    return drops


#: By name: what is laid on the new side, whether the streams are other ones, and the share of alarms that is asked for.
CASES: dict[str, tuple[Change, bool, str]] = {
    "nothing, equal streams": (nothing, False, "none"),
    "nothing, other streams": (nothing, True, "at most 1%"),
    "0.2 dB either way, equal streams": (jitter, False, "at most 1%"),
    "0.1 dB more, equal streams": (more(0.1), False, ""),
    "1 dB more, equal streams": (more(1.0), False, "at least 99%"),
    "1 dB more, other streams": (more(1.0), True, ""),
    "5 dB more in one trial of 50, equal streams": (more(5.0, 0.02), False, ""),
    "one trial in 100 crashes, equal streams": (crashes, False, "at least 99%"),
}


def side(found: dict[str, Floats], seed: int, stream: str, change: str) -> Side:
    """The side that drops of each channel are; equal drops have equal pixels."""
    images = range(next(iter(found.values())).shape[1])
    names = [f"image {i}" for i in images]
    photographs = tuple(
        Photograph(f"image {i}", f"{i}", 256, 256, f"{stream} {i}", 8192, BPP, QUALITY, f"{i}") for i in images
    )
    rows = []
    for channel, drops in found.items():
        for number, row in enumerate(drops.tolist()):
            for image, drop in enumerate(row):
                damaged = f"{stream} {image}" if drop == 0 else f"{stream} {channel} {image} {number} {seed}"
                outcome = "crashed" if drop == CRASH else "degraded" if drop == drop else "refused"
                shown = drop if outcome == "degraded" else None
                rows.append(
                    TrialRow(
                        *(channel, names[image], number, seed, 1, damaged, outcome),
                        "crashed" if outcome == "crashed" else None,
                        *((None, None, None) if shown is None else (QUALITY - shown, shown, f"{damaged} {shown}")),
                    )
                )
    return Side(f"{change} {seed}", "stored", "psnr", photographs, tuple(rows))


def drawn(stored: dict[str, Floats], rng: np.random.Generator) -> dict[str, Floats]:
    """A run: of each image and channel, trials drawn anew from those that are stored."""
    found = {}
    for channel, drops in stored.items():
        picked = rng.integers(0, len(drops), (ROUNDS, drops.shape[1]))
        found[channel] = np.take_along_axis(drops, picked, axis=0)
    return found


def run(stored: dict[str, Floats], change: Change, other: bool, key: list[int]) -> Comparison:
    """One comparison as the command makes it, with a repetition where there is an alarm."""
    rng = np.random.default_rng(key)

    def both(seed: int) -> tuple[Side, Side]:
        before = drawn(stored, rng)
        now = drawn(stored, rng) if other else before
        if change is nothing and not other:
            old = side(before, seed, "old", "before")
            return old, replace(old, label="now")
        changed = {channel: change(drops, rng) for channel, drops in now.items()}
        return side(before, seed, "old", "before"), side(changed, seed, "new" if other else "old", "now")

    old, new = both(0)
    return compare(old, new, again=lambda: both(1), deals=DEALS)


@click.command()
@click.option("--runs", default=400, show_default=True, help="Comparisons for each figure.")
@click.option("--unchanged", default=10_000, show_default=True, help="Of the case where nothing changed.")
@click.option("--quick", is_flag=True, help="A tenth of both.")
@click.option("--case", "chosen", multiple=True, type=click.Choice(list(CASES)), help="Only this one; repeatable.")
def main(runs: int, unchanged: int, quick: bool, chosen: tuple[str, ...]) -> None:
    """Print how often the comparison ends with a regression or broken, and how often undecided."""
    if quick:
        runs, unchanged = max(1, runs // 10), max(1, unchanged // 10)
    with np.load(STORED, allow_pickle=False) as file:
        codecs: dict[str, dict[str, Floats]] = {}
        for key in file.files:
            codec, channel = json.loads(key)
            codecs.setdefault(codec, {})[channel] = file[key].astype(np.float64)
    console, good = Console(stderr=True), True
    print("| what changed | comparisons | regression or broken | undecided | asked for |\n|---|---|---|---|---|")
    for name in chosen or CASES:
        change, other, asked = CASES[name]
        count = unchanged if asked == "none" else runs
        status = np.zeros(6, dtype=int)
        stored = list(codecs.values())
        for number in track(range(count), name, transient=True, console=console):
            status[run(stored[number % len(stored)], change, other, [number, len(name)]).status] += 1
        alarms = status[1] / count
        met = {"none": status[1] == 0, "at most 1%": alarms <= 0.01, "at least 99%": alarms >= 0.99}.get(asked, True)
        good = good and bool(met)
        shown = f"{status[1]} of {count}" if asked == "none" else f"{alarms:.1%}"
        print(f"| {name} | {count} | {shown} | {status[3] / count:.2%} | {asked}{'' if met else ': NO'} |", flush=True)
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
