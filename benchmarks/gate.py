"""What a verdict is worth: how often a limit is falsely kept or broken, which regressions are missed, at what cost.

First on simulated losses, six images a run, with the truth known; then on stored trials of real codecs
(benchmarks/record_trials.py): profiles are proposed from half of them, and judged on runs drawn from the other half.
Run it with ``python benchmarks/gate.py``; it takes some minutes, or a tenth of that with ``--quick``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from robustkit import ErrorPattern, Outcome, Profile, Promise, evalues
from robustkit.channels import Channel, ladders, parse
from robustkit.judging.assess import ERROR, KEPT, Rule, allowed_beyond
from robustkit.judging.effort import EFFORTS, FIRST, STEP
from robustkit.judging.propose import propose
from robustkit.judging.trial import Trial

Floats = npt.NDArray[np.float64]

STORED = Path(__file__).parent / "data" / "trials.npz"
IMAGES = 6
#: Where simulated losses are clipped: the limit of the worst trial in twenty, and below, in dB.
WORST, BEST = 12.0, -1.0
#: A true mean, and the share of the variance that lies between images.
MEAN = 1.0
BETWEEN = (0.0, 0.3, 0.9)
#: By how much a run's losses may be moved for that, in dB.
SPARE = 3.0
#: Findings that share the error of a simulated run.
FINDINGS = 30
#: dB that a grey picture loses, and the shares of decodes that it takes the place of.
GREY, GREYS = 17.0, (0.01, 0.02, 0.05)
WORSE = (0.1, 0.3, 1.0)
#: Clean quality in dB, of which ``propose`` asks whether a catastrophe can be told from the rest.
QUALITY = 30.0


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
    """What each of many runs says of one limit, with the largest effort.

    Attributes:
        kept, broken: the round after which it is; infinite if never.
        hopeless: by effort, where the limit is too small for it to be proved, which runs see no more than it allows.
    """

    kept: Floats
    broken: Floats
    hopeless: Mapping[str, npt.NDArray[np.bool_]]

    def good(self, effort: str) -> npt.NDArray[np.bool_]:
        """Which runs of an effort have nothing against the limit."""
        most = rounds(effort)
        kept = (self.kept <= most) & (self.kept <= self.broken)
        return kept | ((self.broken > most) & self.hopeless[effort])

    def bad(self, effort: str) -> npt.NDArray[np.bool_]:
        """Which runs of an effort break it."""
        return (self.broken <= rounds(effort)) & (self.broken < self.kept)

    def decided(self, effort: str) -> Floats:
        """The round after which it is decided."""
        known: Floats = np.where(self.hopeless[effort], 0.0, np.minimum(self.kept, self.broken))
        return known


def rounds(effort: str) -> int:
    """The most that an effort has, of six images."""
    return math.ceil(EFFORTS[effort].trials / IMAGES)


def first(evidence: Floats, needed: float) -> Floats:
    enough = evidence >= needed
    found: Floats = np.where(enough.any(axis=1), enough.argmax(axis=1) + 1.0, np.inf)
    return found


def told(numbers: Floats, limit: float, least: float, most: float, findings: int, *, share: bool = False) -> Told:
    """Judge runs x rounds x images; as :mod:`robustkit.judging.assess`, without Holm's last step."""
    if limit >= most:
        nothing = np.zeros(len(numbers))
        return Told(nothing, nothing + np.inf, dict.fromkeys(EFFORTS, nothing > 0))
    hopeless = {}
    for name, effort in EFFORTS.items():
        small = share and (limit <= 0 or evalues.trials_to_prove(limit, needed=KEPT) > effort.trials)
        hopeless[name] = small & (np.nanmean(numbers[:, : rounds(name)], axis=(1, 2)) <= limit)
    least = min(least, limit)
    kept = first(evalues.below(numbers, limit, most=most), KEPT)
    return Told(kept, first(evalues.above(numbers, limit, least=least), findings / ERROR), hopeless)


# -- simulated losses


def losses(shape: str, between: float, runs: int, rng: np.random.Generator) -> Floats:
    """Clipped losses, runs x rounds x images; the true mean of each run's images is ``MEAN``."""
    size = (runs, rounds("nightly"), IMAGES)
    means = MEAN + rng.standard_normal((runs, 1, IMAGES)) * np.sqrt(between)
    clipped = np.clip(means + SHAPES[shape](rng, size) * np.sqrt(1 - between), BEST, WORST)
    # What clipping leaves of an image's mean, looked up by that mean; then all losses of a run are moved.
    deviations = SHAPES[shape](np.random.default_rng(2), (200_000,)) * np.sqrt(1 - between)
    grid = np.linspace(means.min(), means.max() + 1e-9, 60)
    left = np.array([np.clip(mean + deviations, BEST, WORST).mean() for mean in grid])
    truth = np.interp(means, grid, left).mean(axis=2, keepdims=True)
    return np.clip(clipped + MEAN - truth, BEST - SPARE, WORST + SPARE)


def simulated(runs: int) -> dict[str, float]:
    """Print the tables of simulated losses; the worst shares of false verdicts."""
    worst = {"kept": 0.0, "broken": 0.0}
    columns = "kept at the limit | broken at the limit | kept 0.5 dB below it | median trials | broken 0.5 dB above"
    print(f"| losses | between images | effort | {columns} |\n" + "|---" * 8 + "|")
    for shape in SHAPES:
        for between in BETWEEN:
            drawn = losses(shape, between, runs, np.random.default_rng([1, len(shape), int(10 * between)]))
            at, under, over = (
                told(drawn, MEAN + gap, BEST - SPARE, WORST + SPARE, FINDINGS) for gap in (0.0, 0.5, -0.5)
            )
            for effort in EFFORTS:
                kept, broken = at.good(effort).mean(), at.bad(effort).mean()
                worst = {"kept": max(worst["kept"], kept), "broken": max(worst["broken"], broken)}
                spent = np.median(np.minimum(under.decided(effort), rounds(effort))) * IMAGES
                print(
                    f"| {shape} | {between:g} | {effort} | {kept:.1%} | {broken:.2%} | {under.good(effort).mean():.0%} "
                    f"| {spent:.0f} | {over.bad(effort).mean():.0%} |",
                    flush=True,
                )
    print("\n| share beyond a limit of 5% | effort | kept | broken | median trials |\n" + "|---" * 5 + "|")
    for share in (0.0, 0.005, 0.01, 0.05, 0.1, 0.2):
        rng = np.random.default_rng([3, int(1000 * share)])
        events = (rng.random((runs, rounds("nightly"), IMAGES)) < share).astype(float)
        found = told(events, 0.05, 0.0, 1.0, FINDINGS, share=True)
        for effort in EFFORTS:
            spent = np.median(np.minimum(found.decided(effort), rounds(effort))) * IMAGES
            kept, broken = found.good(effort).mean(), found.bad(effort).mean()
            if share == 0.05:
                worst = {"kept": max(worst["kept"], kept), "broken": max(worst["broken"], broken)}
            print(f"| {share:.1%} | {effort} | {kept:.1%} | {broken:.1%} | {spent:.0f} |", flush=True)
    return worst


# -- real codecs


def stored() -> dict[str, dict[Channel, Floats]]:
    """Drops of each codec and channel, trials x images."""
    found: dict[str, dict[Channel, Floats]] = {}
    with np.load(STORED, allow_pickle=False) as file:
        for key in file.files:
            codec, channel = json.loads(key)
            found.setdefault(codec, {})[parse(channel)] = file[key].astype(np.float64)
    return found


def as_trials(codec: str, channel: Channel, drops: Floats) -> list[Trial]:
    """Trials that lost so much; one without an image was refused."""
    return [
        Trial(
            *(codec, f"image {image}", channel, number, 0, ErrorPattern(8)),
            Outcome.REFUSED if math.isnan(drop) else Outcome.DEGRADED,
            *(1.0, 0.01),
            *([{}, {}] if math.isnan(drop) else [{"psnr": QUALITY - drop}, {"psnr": float(drop)}]),
        )
        for number, row in enumerate(drops)
        for image, drop in enumerate(row)
    ]


def drawn(drops: Floats, runs: int, key: int) -> Floats:
    """Runs x rounds x images, each drawn from the trials of its image."""
    rng = np.random.default_rng([5, key])
    picks = rng.integers(0, len(drops), (runs, rounds("nightly"), IMAGES))
    found: Floats = drops[picks, np.arange(IMAGES)]
    return found


def of_promise(promise: Promise, drops: Floats, findings: int) -> list[Told]:
    """What runs say of each limit of a promise."""
    p5 = promise.p5_drop
    lost, beyond = np.isnan(drops).astype(float), (~(drops <= p5)).astype(float)
    found = [
        told(np.clip(drops, BEST, p5), promise.mean_drop, BEST, p5, findings),
        told(beyond, allowed_beyond(promise.corrupted), 0.0, 1.0, findings, share=True),
        told(lost, promise.corrupted, 0.0, 1.0, findings, share=True),
    ]
    if promise.catastrophe is not None:
        grey = (drops > promise.catastrophe).astype(float)
        found.append(told(grey, promise.catastrophes, 0.0, 1.0, findings, share=True))
    return found


def spent(limits: Sequence[Told], effort: str) -> Floats:
    """Trials of a promise until all its limits are decided, and it is asked."""
    known = np.max([limit.decided(effort) for limit in limits], axis=0)
    step, start = STEP // IMAGES, FIRST // IMAGES
    asked = np.where(known <= start, start, start + step * np.ceil((known - start) / step))
    found: Floats = np.minimum(asked, rounds(effort)) * IMAGES
    return found


def real(runs: int) -> tuple[dict[str, float], bool]:
    """Print the tables of real codecs; the worst shares of false verdicts, and whether ten times the errors show."""
    worst, caught = {"kept": 0.0, "broken": 0.0}, True
    changes = [*(f"+{worse:g} dB" for worse in WORSE), "10x errors", *(f"{grey:.0%} grey" for grey in GREYS)]
    print("\n| codec | effort | conforms | broken | trials a promise | missed: " + " | ".join(changes) + " |")
    print("|---" * (5 + len(changes)) + "|")
    at_limits = []
    for codec, by_channel in track(stored().items(), transient=True, console=Console(stderr=True)):
        half = {channel: len(drops) // 2 for channel, drops in by_channel.items()}
        measured = {c: as_trials(codec, c, drops[: half[c]]) for c, drops in by_channel.items()}
        profile, _ = propose(measured, bpp=1.0, quality=QUALITY)
        findings = Rule.of(profile, 1).findings
        fresh = {
            p.channel: drawn(by_channel[p.channel][half[p.channel] :], runs, i) for i, p in enumerate(profile.promises)
        }
        harder = ten_times(profile, fresh)
        rng = np.random.default_rng(6)
        changed: dict[str, dict[Channel, Floats]] = {"": fresh}
        changed |= {f"+{worse:g} dB": {c: drops + worse for c, drops in fresh.items()} for worse in WORSE}
        changed["10x errors"] = harder
        for grey in GREYS:
            changed[f"{grey:.0%} grey"] = {c: np.where(rng.random(d.shape) < grey, GREY, d) for c, d in fresh.items()}
        verdicts = {
            name: [of_promise(p, numbers[p.channel], findings) for p in profile.promises]
            for name, numbers in changed.items()
        }
        for effort in EFFORTS:
            passed = {
                name: np.all([limit.good(effort) for limits in found for limit in limits], axis=0).mean()
                for name, found in verdicts.items()
            }
            broken = np.any([limit.bad(effort) for limits in verdicts[""] for limit in limits], axis=0).mean()
            trials = np.mean([spent(limits, effort) for limits in verdicts[""]])
            missed = " | ".join(f"{passed[name]:.0%}" for name in changes)
            print(
                f"| {codec} | {effort} | {passed['']:.1%} | {broken:.1%} | {trials:.0f} of {EFFORTS[effort].trials} "
                f"| {missed} |",
                flush=True,
            )
            caught &= effort != "ci" or passed["10x errors"] <= 0.01
        at_limits += at_the_limit(codec, by_channel, runs)
    print("\n| codec | channel | quantity | effort | kept at the limit | broken at the limit |\n" + "|---" * 6 + "|")
    for codec, channel, quantity, found in at_limits:
        for effort in EFFORTS:
            kept, broken = found.good(effort).mean(), found.bad(effort).mean()
            worst = {"kept": max(worst["kept"], kept), "broken": max(worst["broken"], broken)}
            print(f"| {codec} | {channel} | {quantity} | {effort} | {kept:.1%} | {broken:.2%} |")
    return worst, caught


def ten_times(profile: Profile, fresh: Mapping[Channel, Floats]) -> dict[Channel, Floats]:
    """In place of each channel the next one of its kind, whose bit errors are ten times as many."""
    harder = dict(fresh)
    for ladder in ladders(fresh):
        for channel, after in pairwise(ladder):
            harder[channel] = fresh[after]
    return harder


def at_the_limit(codec: str, by_channel: Mapping[Channel, Floats], runs: int) -> list[tuple[str, Channel, str, Told]]:
    """Runs of codecs whose true mean, or share beyond the p5 limit, lies at the limit."""
    found = []
    for number, (channel, drops) in enumerate(by_channel.items()):
        if np.isfinite(drops).mean() < 0.5 or not np.nanstd(drops):
            continue
        p5 = float(np.nanquantile(drops, 0.97))
        clipped = np.clip(drops, BEST, p5)
        if (mean := float(np.nanmean(clipped))) < p5:
            runs_of = drawn(clipped, runs, 100 + number)
            found.append((codec, channel, "mean_drop", told(runs_of, mean, BEST, p5, FINDINGS)))
        beyond = (~(drops <= p5)).astype(float)
        runs_of = drawn(beyond, runs, 200 + number)
        found.append((codec, channel, "p5_drop", told(runs_of, float(beyond.mean()), 0.0, 1.0, FINDINGS, share=True)))
    return found


@click.command()
@click.option("--runs", default=1000, show_default=True, help="Runs for each row.")
@click.option("--quick", is_flag=True, help="A tenth of the runs.")
def main(runs: int, quick: bool) -> None:
    """Print what verdicts are worth, on simulated losses and on real trials; status 1 where they are worth less."""
    runs = runs // 10 if quick else runs
    by_simulation = simulated(runs)
    by_trials, caught = real(runs)
    worst = {name: max(by_simulation[name], by_trials[name]) for name in by_simulation}
    # Three standard errors are allowed for the simulation itself; a run is broken by one of its findings.
    allowed = {"kept": 1 / KEPT, "broken": ERROR / FINDINGS}
    good = all(worst[k] <= share + 3 * np.sqrt(share / runs) for k, share in allowed.items())
    said = f"falsely kept at most {worst['kept']:.1%} (allowed 5%), falsely broken {worst['broken']:.2%} a finding"
    print(f"\n{said} (allowed {ERROR / FINDINGS:.2%}, 1% a run): {'yes' if good else 'NO'}")
    print(f"ten times the bit errors caught in 99% with ci: {'yes' if caught else 'NO'}")
    if not (good and caught):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
