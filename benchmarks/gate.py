"""What a verdict is worth: how often a promise is falsely kept or broken, and how often a regression is seen.

Losses are simulated, six images a run, with the truth known. Two ways of judging stand side by side: the bounds of
robustkit.statistics at a fixed number of trials, and the e-values of robustkit.evalues, which stop when they know. Run
it with ``python benchmarks/gate.py``; it takes some ten minutes, or one with ``--quick``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from robustkit import evalues, statistics
from robustkit.judging.assess import judge
from robustkit.judging.effort import EFFORTS
from robustkit.judging.finding import Verdict

Floats = npt.NDArray[np.float64]

IMAGES = 6
#: Where losses are clipped: the limit of the worst trial in twenty, in dB.
WORST = 12.0
#: And from below: no damage makes an image better by more.
BEST = -1.0
#: A true mean, and the share of the variance that lies between images.
MEAN = 1.0
BETWEEN = (0.0, 0.3, 0.9)
#: Evidence that keeps a promise; and that breaks it, for thirty findings a run at 1% together.
KEPT, BROKEN = 20.0, 3000.0


def _rare(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    """One trial in a hundred loses everything that it can; the others next to nothing."""
    return np.where(rng.random(size) < 0.01, 1.0, 0.0) * 10 - 0.1


#: Deviations from the mean with mean 0; scaled to a standard deviation of 1 below, but for the rare catastrophe.
SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "exponential": lambda rng, size: rng.exponential(1, size) - 1,
    "lognormal": lambda rng, size: (rng.lognormal(0, 1, size) - np.exp(0.5)) / 2.16,
    "bimodal": lambda rng, size: np.where(rng.random(size) < 0.1, 3.0, -1 / 3),
    "rare catastrophe": _rare,
}


@dataclass(frozen=True)
class Told:
    """Shares of runs that ended kept and broken, and the median number of trials until they knew."""

    kept: float
    broken: float
    trials: float


def losses(shape: str, between: float, rounds: int, rng: np.random.Generator) -> Floats:
    """One run: rounds x images. These images' own mean is exactly ``MEAN`` before clipping."""
    means = rng.standard_normal(IMAGES) * np.sqrt(between)
    deviations = SHAPES[shape](rng, (rounds, IMAGES)) * np.sqrt(1 - between)
    return MEAN + means - means.mean() + deviations


def by_bounds(run: Floats, limit: float) -> tuple[Verdict, int]:
    bound = statistics.mean_bound({str(i): run[:, i] for i in range(IMAGES)})
    return judge(bound, limit), run.size


def by_evidence(run: Floats, limit: float) -> tuple[Verdict, int]:
    clipped = np.clip(run, BEST, WORST)
    kept = evalues.below(clipped, limit, most=WORST) >= KEPT
    broken = evalues.above(clipped, limit, least=BEST) >= BROKEN
    if not (known := kept | broken).any():
        return Verdict.UNPROVED, run.size
    first = int(np.argmax(known))
    return (Verdict.KEPT if kept[first] else Verdict.BROKEN), (first + 1) * IMAGES


def simulate(
    way: Callable[[Floats, float], tuple[Verdict, int]], shape: str, between: float, trials: int, gap: float, runs: int
) -> Told:
    """Judge ``runs`` runs against a limit that lies ``gap`` above the truth."""
    found = []
    for number in range(runs):
        rng = np.random.default_rng([number, trials])
        found.append(way(losses(shape, between, trials // IMAGES, rng), MEAN + gap))
    verdicts = [verdict for verdict, _ in found]
    return Told(
        verdicts.count(Verdict.KEPT) / runs,
        verdicts.count(Verdict.BROKEN) / runs,
        float(np.median([spent for _, spent in found])),
    )


@click.command()
@click.option("--runs", default=400, show_default=True, help="Simulated runs for each row.")
@click.option("--quick", is_flag=True, help="A tenth of the runs.")
def main(runs: int, quick: bool) -> None:
    """Print a table of shares of runs: at the limit, half a decibel below it and half a decibel above it."""
    runs = runs // 10 if quick else runs
    ways = {"bounds": by_bounds, "e-values": by_evidence}
    rows = [(s, between, effort, way) for s in SHAPES for between in BETWEEN for effort in EFFORTS for way in ways]
    worst = {"kept": 0.0, "broken": 0.0}
    columns = ("kept at the limit", "kept 0.5 dB below", "trials", "broken 0.5 dB above", "broken at the limit")
    print("| losses | between images | effort | by | " + " | ".join(columns) + " |\n" + "|---" * 9 + "|")
    for shape, between, effort, way in track(rows, transient=True, console=Console(stderr=True)):
        trials = EFFORTS[effort].trials
        at, under, over = (simulate(ways[way], shape, between, trials, gap, runs) for gap in (0.0, 0.5, -0.5))
        if way == "e-values":
            worst = {"kept": max(worst["kept"], at.kept), "broken": max(worst["broken"], at.broken)}
        print(
            f"| {shape} | {between:g} | {effort} | {way} | {at.kept:.1%} | {under.kept:.1%} | {under.trials:.0f} "
            f"| {over.broken:.1%} | {at.broken:.1%} |",
            flush=True,
        )
    # Three standard errors are allowed for the simulation itself.
    allowed = {"kept": 1 / KEPT, "broken": 10 / BROKEN}
    good = all(worst[k] <= share + 3 * np.sqrt(share / runs) for k, share in allowed.items())
    said = ", ".join(f"falsely {k} at most {share:.1%}" for k, share in worst.items())
    print(f"\ne-values: {said}; allowed are 5% and 1% a run: {'yes' if good else 'NO'}")
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
