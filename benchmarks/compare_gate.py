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
from typing import NamedTuple

import click
import numpy as np
import numpy.typing as npt
from gate import apart
from rich.console import Console
from rich.progress import track

from robustkit.certificates.compare import Comparison, compare
from robustkit.certificates.model import Photograph, TrialRow
from robustkit.certificates.pairing import Side
from robustkit.judging.effort import CLEAR, EFFORTS

Floats = npt.NDArray[np.float64]
STORED = Path(__file__).parent / "data" / "trials.npz"
#: Trials of each image and channel: the command's own default, what the effort ``ci`` has, and what a certificate has
#: of a promise that the first trials decide.
ROUNDS, CI, DECIDED = 24, EFFORTS["ci"].trials // 6, CLEAR // 6
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


class Case(NamedTuple):
    """What is laid on the new side, whether the streams are other ones, and the share of alarms that is asked for."""

    change: Change
    other: bool
    asked: str = ""
    rounds: int = ROUNDS
    stored: bool = False


NONE, RARE, SURE = "none", "at most 1%", "at least 99%"
CASES: dict[str, Case] = {
    "nothing, equal streams": Case(nothing, False, NONE),
    "nothing, other streams": Case(nothing, True, RARE),
    "nothing, other streams, `--trials 60`": Case(nothing, True, RARE, CI),
    "nothing, other streams, certificates": Case(nothing, True, RARE, DECIDED, stored=True),
    "0.2 dB either way, equal streams": Case(jitter, False, RARE),
    "0.1 dB more, equal streams": Case(more(0.1), False),
    "1 dB more, equal streams": Case(more(1.0), False, SURE),
    "1 dB more, other streams": Case(more(1.0), True, SURE),
    "1 dB more, other streams, `--trials 60`": Case(more(1.0), True, SURE, CI),
    "1 dB more, other streams, certificates": Case(more(1.0), True, "", DECIDED, stored=True),
    "5 dB more in one trial of 50, equal streams": Case(more(5.0, 0.02), False),
    "one trial in 100 crashes, equal streams": Case(crashes, False, SURE),
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


def drawn(stored: dict[str, Floats], rounds: int, rng: np.random.Generator) -> dict[str, Floats]:
    """A run: of each image and channel, trials drawn anew from those that are stored."""
    found = {}
    for channel, drops in stored.items():
        picked = rng.integers(0, len(drops), (rounds, drops.shape[1]))
        found[channel] = np.take_along_axis(drops, picked, axis=0)
    return found


def run(stored: dict[str, Floats], case: Case, key: list[int]) -> Comparison:
    """One comparison as the command makes it, with a repetition where there is an alarm, unless both are stored."""
    change, other = case.change, case.other
    rng = np.random.default_rng(key)

    def both(seed: int) -> tuple[Side, Side]:
        before = drawn(stored, case.rounds, rng)
        now = before
        if other:
            before, now = (
                {channel: apart(stored[channel], drops, rng) for channel, drops in side_.items()}
                for side_ in (before, drawn(stored, case.rounds, rng))
            )
        if change is nothing and not other:
            old = side(before, seed, "old", "before")
            return old, replace(old, label="now")
        changed = {channel: change(drops, rng) for channel, drops in now.items()}
        return side(before, seed, "old", "before"), side(changed, seed, "new" if other else "old", "now")

    old, new = both(0)
    return compare(old, new, again=None if case.stored else lambda: both(1), deals=DEALS)


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
        case = CASES[name]
        asked = case.asked
        count = unchanged if asked == NONE else runs
        status = np.zeros(6, dtype=int)
        stored = list(codecs.values())
        for number in track(range(count), name, transient=True, console=console):
            status[run(stored[number % len(stored)], case, [number, len(name)]).status] += 1
        alarms = status[1] / count
        met = {NONE: status[1] == 0, RARE: alarms <= 0.01, SURE: alarms >= 0.99}.get(asked, True)
        good = good and bool(met)
        shown = f"{status[1]} of {count}" if asked == NONE else f"{alarms:.1%}"
        print(f"| {name} | {count} | {shown} | {status[3] / count:.2%} | {asked}{'' if met else ': NO'} |", flush=True)
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
