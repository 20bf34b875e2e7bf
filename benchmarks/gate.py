"""What a verdict is worth: how often a limit is falsely kept or broken, which regressions are missed, at what cost.

First on simulated losses, six images a run, with the truth known; then on stored trials of real codecs
(benchmarks/record_trials.py): profiles are proposed from half of them, and judged on runs drawn from the other half;
robust-turbo-ddcm's own is judged, since its decodes take too long for both.
Run it with ``python benchmarks/gate.py``; it takes some twenty minutes of one core, or a tenth of that with
``--quick``. With ``--keep FILE`` a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from scipy import special

from robustkit import ErrorPattern, Outcome, Profile, Promise, channels, evalues, statistics
from robustkit.channels import Channel, ladders, parse
from robustkit.images import photographs
from robustkit.judging import assess, golden_drops, propose, regression
from robustkit.judging import effort as efforts
from robustkit.judging.assess import ERROR, GENERAL, KEPT, Rule, allowed_beyond
from robustkit.judging.effort import CLEAR, EFFORTS, STEP
from robustkit.judging.golden_drops import Drops, Loss, Picture
from robustkit.judging.trial import Trial
from robustkit.registry import registry

Floats = npt.NDArray[np.float64]
#: A cell is one piece of work, named by its kind and its arguments; its figures by name.
Cell = tuple[str, ...]
Figures = dict[str, Any]

STORED = Path(__file__).parent / "data" / "trials.npz"
IMAGES = 6
#: Where simulated losses are clipped: the limit of the worst trial in twenty, and below, in dB.
WORST, BEST = 12.0, -1.0
#: A true mean, and the share of the variance that lies between images.
MEAN = 1.0
BETWEEN = ("0", "0.3", "0.9")
#: By how much a run's losses may be moved for that, in dB.
SPARE = 3.0
#: Findings that share the error of a simulated run.
FINDINGS = 30
#: Losses that are the largest of a ladder, and by how much more damage is better, in dB.
MOST, GAINS = ("5", "30"), ("0.2", "0.5", "1", "3")
SHARES = ("0", "0.005", "0.01", "0.05", "0.1", "0.2")
#: Clean quality in dB, of which ``propose`` asks whether a catastrophe can be told from the rest.
QUALITY = 30.0
#: Trials after which a promise is first asked, and then again: as the suite does, and otherwise.
ASKED = ((None, STEP), (CLEAR, STEP), (36, 6), (6, 6))
#: One of so many runs is compared with golden drops of other streams; and how often those are dealt.
UNPAIRED, DEALS = 10, 199
#: The least loss that golden drops are to find.
TENTH = "+0.1 dB"
#: Trials of each image that golden drops have, where a decode takes a second.
SLOW = {"robust-turbo-ddcm": CLEAR // IMAGES}


def _rare(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    """One trial in a hundred loses everything that it can; the others next to nothing."""
    return np.where(rng.random(size) < 0.01, 1.0, 0.0) * 10 - 0.1


def _mean(drops: Floats) -> float:
    """Of the trials that lost or gained something."""
    hit = np.isfinite(drops) & (drops != 0)
    return float(drops[hit].mean()) if hit.any() else 0.0


#: Deviations from the mean with mean 0; scaled to a standard deviation of 1 below, but for the rare catastrophe.
SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "exponential": lambda rng, size: rng.exponential(1, size) - 1,
    "lognormal": lambda rng, size: (rng.lognormal(0, 1, size) - np.exp(0.5)) / 2.16,
    "bimodal": lambda rng, size: np.where(rng.random(size) < 0.1, 3.0, -1 / 3),
    "rare catastrophe": _rare,
}

#: What is done to the drop of every trial that lost or gained something; NaN is no image, and infinite a grey picture.
#: A stream that arrived unharmed is not made worse by any decoder, and which did is not stored.
CHANGES: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "nothing": lambda drops, rng: drops,
    TENTH: lambda drops, rng: drops + 0.1,
    "+0.3 dB": lambda drops, rng: drops + 0.3,
    "+1 dB": lambda drops, rng: drops + 1,
    "0.1 dB in proportion": lambda drops, rng: drops * (1 + 0.1 / max(0.1, _mean(drops))),
    "1 dB in proportion": lambda drops, rng: drops * (1 + 1 / max(0.1, _mean(drops))),
    "0.2 dB, either way": lambda drops, rng: drops + 0.2 * rng.standard_normal(drops.shape),
    "5 dB, 2%": lambda drops, rng: drops + 5.0 * (rng.random(drops.shape) < 0.02),
    "10x errors": lambda drops, rng: drops,
    **{
        f"{share}% {what}": lambda drops, rng, share=share, loss=loss: np.where(
            rng.random(drops.shape) < share / 100, loss, drops
        )
        for what, loss in (("grey", math.inf), ("no image", math.nan))
        for share in (1, 2, 5)
    },
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

    def proved(self, effort: str) -> npt.NDArray[np.bool_]:
        """Which runs of an effort keep the limit."""
        found: npt.NDArray[np.bool_] = (self.kept <= rounds(effort)) & (self.kept <= self.broken)
        return found

    def good(self, effort: str, run: Floats | None = None) -> npt.NDArray[np.bool_]:
        """Which runs of an effort have nothing against the limit: kept, or too small to be proved and not disproved.

        Args:
            run: rounds that each has before all limits of the promise are decided; by default all of the effort.
        """
        return self.proved(effort) | ((self.broken > (rounds(effort) if run is None else run)) & self.hopeless[effort])

    def bad(self, effort: str, run: Floats | None = None) -> npt.NDArray[np.bool_]:
        """Which runs of an effort break it; ``run`` as above."""
        return (self.broken <= (rounds(effort) if run is None else run)) & (self.broken < self.kept)

    def decided(self, effort: str) -> Floats:
        """The round after which it is decided."""
        known = np.minimum(self.kept, self.broken)
        looked_at = math.ceil(Rule(1, EFFORTS[effort].trials).enough / IMAGES)
        found: Floats = np.where(self.hopeless[effort], np.minimum(known, looked_at), known)
        return found


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
        seen = np.nanmean(numbers[:, : rounds(name)], axis=(1, 2)) if small else np.full(len(numbers), math.inf)
        hopeless[name] = seen <= limit if limit > 0 else np.full(len(numbers), small)
    kept, broken = (np.full(len(numbers), math.inf) for _ in range(2))
    # What is decided early is not looked at again: only the first of the two verdicts counts.
    for most_rounds in (rounds("ci"), rounds("nightly")):
        open_ = np.flatnonzero(np.isinf(kept) & np.isinf(broken))
        some = numbers[open_, :most_rounds]
        if len(open_):
            kept[open_] = first(evalues.below(some, limit, most=most), KEPT)
            broken[open_] = first(evalues.above(some, limit, least=min(least, limit)), findings / ERROR)
    return Told(kept, broken, hopeless)


def seeded(*cell: str) -> np.random.Generator:
    """A cell's own random numbers, so that its figures depend on no other cell."""
    return channels.generator("", "", json.dumps(cell), 0)


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


def losses_cell(runs: int, shape: str, between: str) -> Figures:
    """A limit on a mean: at it, and half a decibel off it to either side."""
    drawn = losses(shape, float(between), runs, seeded("losses", shape, between))
    at, under, over = (told(drawn, MEAN + gap, BEST - SPARE, WORST + SPARE, FINDINGS) for gap in (0.0, 0.5, -0.5))
    return {
        effort: {
            "kept": int(at.proved(effort).sum()),
            "broken": int(at.bad(effort).sum()),
            "kept below": float(under.good(effort).mean()),
            "spent": float(np.median(np.minimum(under.decided(effort), rounds(effort)))) * IMAGES,
            "broken above": float(over.bad(effort).mean()),
        }
        for effort in EFFORTS
    }


def share_cell(runs: int, share: str) -> Figures:
    """A limit of 5% on a share that is ``share`` in truth."""
    events = (seeded("share", share).random((runs, rounds("nightly"), IMAGES)) < float(share)).astype(float)
    found = told(events, 0.05, 0.0, 1.0, FINDINGS, share=True)
    return {
        effort: {
            "kept": int(found.good(effort).sum()),
            "broken": int(found.bad(effort).sum()),
            "spent": float(np.median(np.minimum(found.decided(effort), rounds(effort)))) * IMAGES,
        }
        for effort in EFFORTS
    }


def gain_cell(runs: int, most: str, gain: str) -> Figures:
    """More damage that is better by ``gain`` dB, of losses up to ``most`` that differ by a tenth of that.

    Beside draws of their own for each severity, the most that shared ones could give: no difference but the gain.
    """
    worst, better = float(most), float(gain)
    noise = seeded("gain", most, gain).standard_normal((runs, rounds("nightly"), IMAGES))
    found = {}
    for name, spread in (("own", math.sqrt(2) * worst / 10), ("shared", 0.0)):
        gains = np.clip(better + spread * noise, BEST - worst, worst - BEST)
        evidence = evalues.above(gains, assess.noise("psnr"), least=BEST - worst)
        seen = first(evidence, FINDINGS / ERROR)
        found[name] = {effort: float((seen <= rounds(effort)).mean()) for effort in EFFORTS}
    return found


def general_cell(runs: int, shape: str, between: str) -> Figures:
    """What is said of images in general, from as few as it is said of; their own means differ by the same shape."""
    rng, share, trials = seeded("general", shape, between), float(between), math.ceil(EFFORTS["quick"].trials / GENERAL)

    def drops(rng: np.random.Generator, images: int, trials: int) -> Floats:
        means = MEAN + SHAPES[shape](rng, (images, 1)) * math.sqrt(share)
        return np.clip(means + SHAPES[shape](rng, (images, trials)) * math.sqrt(1 - share), BEST, WORST)

    truth = float(drops(np.random.default_rng(3), 1_000_000, 1).mean())
    bounds = [
        statistics.mean_bound({str(i): row for i, row in enumerate(drops(rng, GENERAL, trials))}) for _ in range(runs)
    ]
    return {
        "high": float(np.mean([b.high < truth for b in bounds])),
        "low": float(np.mean([b.low > truth for b in bounds])),
    }


# -- real codecs


def stored() -> dict[str, dict[Channel, Floats]]:
    """Drops of each codec and channel, trials x images; NaN without an image."""
    found: dict[str, dict[Channel, Floats]] = {}
    with np.load(STORED, allow_pickle=False) as file:
        for key in file.files:
            codec, channel = json.loads(key)
            found.setdefault(codec, {})[parse(channel)] = file[key].astype(np.float64)
    return found


def grey(codec: str) -> Floats:
    """What a grey picture loses against the codec's clean decode, by image, in dB."""
    errors = [float(np.mean((image.astype(np.float64) - 128) ** 2)) for image in photographs(256).values()]
    profile = registry.get(codec).target.resolve().promises
    found: Floats = profile.quality - 10 * np.log10(255**2 / np.array(errors))
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


def halves(codec: str) -> tuple[dict[Channel, Floats], dict[Channel, Floats]]:
    """The stored drops from which a profile is proposed, and those that it is judged by.

    Where there are too few for both, none is proposed: the codec's own profile is judged by all of them.
    """
    by_channel = stored()[codec]
    if min(map(len, by_channel.values())) < 2 * propose.least_trials(IMAGES):
        return {}, by_channel
    half = {channel: len(drops) // 2 for channel, drops in by_channel.items()}
    return {c: d[: half[c]] for c, d in by_channel.items()}, {c: d[half[c] :] for c, d in by_channel.items()}


def profile_cell(runs: int, codec: str) -> Figures:
    """The profile that half of the trials propose, or the codec's own."""
    if not halves(codec)[0]:
        declared = registry.get(codec).target.resolve().promises
        return {"profile": declared.to_mapping()}
    measured = {channel: as_trials(codec, channel, drops) for channel, drops in halves(codec)[0].items()}
    return {"profile": propose.propose(measured, bpp=1.0, quality=QUALITY)[0].to_mapping()}


def drawn(drops: Floats, runs: int, rng: np.random.Generator) -> Floats:
    """Runs x rounds x images, each drawn from the trials of its image."""
    picks = rng.integers(0, len(drops), (runs, rounds("nightly"), IMAGES))
    found: Floats = drops[picks, np.arange(IMAGES)]
    return found


def apart(pool: Floats, picked: Floats, rng: np.random.Generator) -> Floats:
    """Trials picked from the ``pool``, each moved to anywhere halfway to the next of its image.

    Other streams lose what no trial before has lost. Without this, a loss less than the gap between two of the pool
    would show as so many trials beyond those that were recorded.
    """
    found = picked.copy()
    for image in range(pool.shape[1]):
        known = np.unique(pool[:, image][np.isfinite(pool[:, image]) & (pool[:, image] != 0)])
        drops = picked[..., image]
        hit = np.isfinite(drops) & (drops != 0)
        if len(known):
            place = np.searchsorted(known, drops[hit])
            edges = np.concatenate([known[:1], (known[1:] + known[:-1]) / 2, known[-1:]])
            found[..., image][hit] = rng.uniform(edges[place], edges[place + 1])
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


def spent(promise: Promise, limits: Sequence[Told], effort: str, asked: tuple[int | None, int]) -> Floats:
    """Trials of a promise until all its limits are decided, and it is asked."""
    known = np.max([limit.decided(effort) for limit in limits], axis=0)
    start = math.ceil((asked[0] or assess.first_look(promise)) / IMAGES)
    step = asked[1] // IMAGES
    when = np.where(known <= start, start, start + step * np.ceil((known - start) / step))
    found: Floats = np.minimum(when, rounds(effort)) * IMAGES
    return found


def change_cell(runs: int, codec: str, change: str, promised: Mapping[str, Any]) -> Figures:
    """What a run says of a codec that got worse: the promises, and the golden drops beside them."""
    profile = Profile.from_mapping(promised)
    findings = Rule.of(profile, 1).findings
    pool = halves(codec)[1]
    rng = seeded("change", codec)
    before = {p.channel: drawn(pool[p.channel], runs, rng) for p in profile.promises}
    # There is a bar for these, so all runs are looked at.
    unlike = range(runs if change in ("nothing", TENTH) else -(-runs // UNPAIRED))
    others = {c: apart(pool[c], drawn(pool[c], len(unlike), rng), rng) for c in before}
    fresh = {c: apart(pool[c], drops[: len(unlike)], rng) for c, drops in before.items()}

    def changed(drops: Mapping[Channel, Floats]) -> dict[Channel, Floats]:
        rng = seeded("changed", codec, change)
        drops = ten_times(drops) if change == "10x errors" else drops
        lost = {channel: np.where(d == 0, 0, CHANGES[change](d, rng)) for channel, d in drops.items()}
        return {channel: np.where(np.isposinf(d), grey(codec), d) for channel, d in lost.items()}

    now, other = changed(before), changed(fresh)
    verdicts = [of_promise(promise, now[promise.channel], findings) for promise in profile.promises]
    paired = [alarms(codec, before, now, run, same=True) for run in range(runs)]
    unpaired = [alarms(codec, others, other, run, same=False) for run in unlike]
    figures: Figures = {"other streams": float(np.mean([seen["quick"] for seen in unpaired]))}
    for effort in EFFORTS:
        seen = np.array([run[effort] for run in paired])
        both = list(zip(profile.promises, verdicts, strict=True))
        trials = [[spent(promise, limits, effort, asked) for promise, limits in both] for asked in ASKED]
        # A limit of 0 is broken in the trials that are run.
        ran = [(limits, s / IMAGES) for (_, limits), s in zip(both, trials[0], strict=True)]
        conforms = np.all([limit.good(effort, run) for limits, run in ran for limit in limits], axis=0)
        first = golden_drops.at_first(SLOW.get(codec, golden_drops.RECORDED), rounds(effort))
        figures[effort] = {
            "conforms": float(conforms.mean()),
            "broken": float(np.any([limit.bad(effort, run) for limits, run in ran for limit in limits], axis=0).mean()),
            "same streams": float(seen.mean()),
            "whole": float((~conforms | seen).mean()),
            "spent": [float(np.mean([s.mean() for s in by_promise])) for by_promise in trials],
            "with drops": float(np.mean([np.maximum(first * IMAGES, s).mean() for s in trials[0]])),
        }
    return figures


def ten_times(fresh: Mapping[Channel, Floats]) -> dict[Channel, Floats]:
    """In place of each channel the next one of its kind, whose bit errors are ten times as many."""
    harder = dict(fresh)
    for ladder in ladders(fresh):
        for channel, after in pairwise(ladder):
            harder[channel] = fresh[after]
    return harder


def alarms(
    codec: str, before: Mapping[Channel, Floats], now: Mapping[Channel, Floats], run: int, *, same: bool
) -> dict[str, bool]:
    """Whether a run's golden drops alarm, by effort: all are compared where the first ones show a difference."""
    each = SLOW.get(codec, golden_drops.RECORDED)
    old = _as_drops({c: drops[run, :each] for c, drops in before.items()}, "0")
    new = _as_drops({c: drops[run, :each] for c, drops in now.items()}, "0" if same else "1")
    if regression.unchanged(old, new):
        return dict.fromkeys(EFFORTS, False)
    seen = len(regression.ruined(old, new)[0]) >= regression.RUINED
    seen |= any(found.worse for found in regression.compare(old, new, deals=DEALS))
    found = {}
    for effort in EFFORTS:
        some = golden_drops.at_first(each, rounds(effort))
        at_first = _as_drops({c: drops[run, :some] for c, drops in now.items()}, "0")
        found[effort] = seen and not (same and regression.unchanged(old, at_first))
    return found


def _as_drops(drops: Mapping[Channel, Floats], stream: str) -> Drops:
    def row(values: Floats) -> tuple[Loss, ...]:
        return tuple(Outcome.REFUSED if math.isnan(v) else None if v == 0 else float(v) for v in values)

    images = {f"image {number}": Picture("0" * 64, stream * 64, QUALITY) for number in range(IMAGES)}
    losses = {c: {name: row(d[:, number]) for number, name in enumerate(images)} for c, d in drops.items()}
    return Drops("codec", "cpu", "psnr", 0, {}, {"version": "1"}, images, losses)


def limits_cell(runs: int, codec: str) -> Figures:
    """A codec whose every mean and share lies exactly at its limit: each by itself, and a run as a whole."""
    by_channel = stored()[codec]
    findings = 4 * len(by_channel) + 1
    rows, every = [], []
    for channel, drops in by_channel.items():
        for quantity, numbers, limit, most in at_the_limit(drops):
            numbers = drawn(numbers, runs, seeded("limit", codec, str(channel), quantity))
            least, share = (BEST, False) if quantity == "mean_drop" else (0.0, True)
            found = told(numbers, limit, least, most, findings, share=share)
            every.append(found)
            row = {e: {"kept": int(found.proved(e).sum()), "broken": int(found.bad(e).sum())} for e in EFFORTS}
            rows.append({"channel": str(channel), "quantity": quantity, **row})
    whole = {
        effort: {
            "kept": int(np.all([found.good(effort) for found in every], axis=0).sum()),
            "broken": int(np.any([found.bad(effort) for found in every], axis=0).sum()),
        }
        for effort in EFFORTS
    }
    return {"rows": rows, "whole": whole}


def at_the_limit(drops: Floats) -> Iterator[tuple[str, Floats, float, float]]:
    """Name, numbers, true mean and largest value of what is judged of a channel, where it is not always the same."""
    if np.isfinite(drops).mean() < 0.5:
        return
    p5 = float(np.nanquantile(drops, 0.97))
    clipped = np.clip(drops, BEST, p5)
    if (mean := float(np.nanmean(clipped))) < p5:
        yield "mean_drop", clipped, mean, p5
    for name, events in (("p5_drop", ~(drops <= p5)), ("corrupted", np.isnan(drops))):
        if events.any():
            yield name, events.astype(float), float(events.mean()), 1.0


# -- the cells


def planned() -> list[Cell]:
    """All cells but those that need a profile."""
    return [
        *(("losses", shape, between) for shape in SHAPES for between in BETWEEN),
        *(("share", share) for share in SHARES),
        *(("gain", most, gain) for most in MOST for gain in GAINS),
        *(("general", shape, between) for shape in SHAPES for between in BETWEEN),
        *(("profile", codec) for codec in stored()),
        *(("limits", codec) for codec in stored()),
    ]


def work(cell: Cell, runs: int, promised: Mapping[str, Any] | None = None) -> Figures:
    """The figures of a cell."""
    kind, *arguments = cell
    if kind == "change":
        assert promised is not None
        return change_cell(runs, *arguments, promised)
    cells: Mapping[str, Callable[..., Figures]] = {
        "losses": losses_cell,
        "share": share_cell,
        "gain": gain_cell,
        "general": general_cell,
        "profile": profile_cell,
        "limits": limits_cell,
    }
    return cells[kind](runs, *arguments)


def _digest(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


class Kept:
    """Figures by cell, in a file of JSON lines where one is given; those of other code or trials are not used.

    Args:
        path: of the file; it need not be there.
        runs: of each cell.
    """

    def __init__(self, path: Path | None, runs: int) -> None:
        self.path = path
        modules = (evalues, statistics, assess, efforts, golden_drops, propose, regression)
        files = [__file__, *(str(module.__file__) for module in modules)]
        self._code = f"{runs} runs, {_digest(Path(file).read_bytes() for file in files)}"
        self._data = {
            codec: _digest(part for channel, d in drops.items() for part in (str(channel).encode(), d.tobytes()))
            for codec, drops in stored().items()
        }
        self.found: dict[Cell, Figures] = {}
        text = path.read_text(encoding="utf-8") if path is not None and path.exists() else ""
        if path is not None and text and not text.endswith("\n"):
            # What comes next must not follow on what was cut.
            path.write_text(text + "\n", encoding="utf-8")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                if row["of"] == self.identity(tuple(row["cell"])):
                    self.found[tuple(row["cell"])] = row["figures"]
            except (ValueError, TypeError, KeyError):
                click.echo(f"{path}: a line that was cut is left out", err=True)

    def identity(self, cell: Cell) -> str:
        """What a cell's figures depend on beside its name."""
        return f"{self._code}, {self._data.get(cell[1], '')}"

    def add(self, cell: Cell, figures: Figures) -> None:
        self.found[cell] = figures
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"of": self.identity(cell), "cell": cell, "figures": figures}) + "\n")

    def complete(self, cells: Iterable[Cell], runs: int, jobs: int) -> None:
        """Work out those that are lacking."""
        lacking = [cell for cell in cells if cell not in self.found]
        console = Console(stderr=True)
        if jobs == 1:
            for cell in track(lacking, transient=True, console=console):
                self.add(cell, work(cell, runs, self._promised(cell)))
            return
        with ProcessPoolExecutor(jobs) as pool:
            asked = {pool.submit(work, cell, runs, self._promised(cell)): cell for cell in lacking}
            for done in track(as_completed(asked), total=len(asked), transient=True, console=console):
                self.add(asked[done], done.result())

    def _promised(self, cell: Cell) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.found["profile", cell[1]]["profile"] if cell[0] == "change" else None
        return found


# -- what is printed


def rate(number: int, runs: int) -> str:
    return f"{number / runs:.1%}"


def table(*columns: str) -> None:
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")


def show_simulated(found: Mapping[Cell, Figures], runs: int) -> None:
    table("losses", "between images", "effort", "kept at the limit", "broken at the limit",
          "kept 0.5 dB below it", "median trials", "broken 0.5 dB above")  # fmt: skip
    for cell, figures in found.items():
        if cell[0] == "losses":
            for effort, f in figures.items():
                print(
                    f"| {cell[1]} | {cell[2]} | {effort} | {rate(f['kept'], runs)} | {rate(f['broken'], runs)} "
                    f"| {f['kept below']:.0%} | {f['spent']:.0f} | {f['broken above']:.0%} |"
                )
    table("share beyond a limit of 5%", "effort", "kept", "broken", "median trials")
    for cell, figures in found.items():
        if cell[0] == "share":
            for effort, f in figures.items():
                share = f"{float(cell[1]):.1%}"
                print(
                    f"| {share} | {effort} | {rate(f['kept'], runs)} | {rate(f['broken'], runs)} | {f['spent']:.0f} |"
                )


def show_gains(found: Mapping[Cell, Figures]) -> None:
    table("losses up to", "more damage is better by", *(f"seen by {e}" for e in EFFORTS),
          *(f"at the most with shared flips, {e}" for e in EFFORTS))  # fmt: skip
    for cell, f in found.items():
        if cell[0] == "gain":
            seen = " | ".join(f"{f[way][e]:.0%}" for way in ("own", "shared") for e in EFFORTS)
            print(f"| {cell[1]} dB | {cell[2]} dB | {seen} |")


def show_general(found: Mapping[Cell, Figures]) -> None:
    table("losses", "between images", f"upper bound too low, {GENERAL} images", "lower bound too high")
    for cell, f in found.items():
        if cell[0] == "general":
            print(f"| {cell[1]} | {cell[2]} | {f['high']:.1%} | {f['low']:.1%} |")


def show_limits(found: Mapping[Cell, Figures], runs: int) -> None:
    table("codec", "channel", "quantity", "effort", "kept at the limit", "broken at the limit")
    for cell, figures in found.items():
        for row in figures["rows"] if cell[0] == "limits" else []:
            for e in EFFORTS:
                said = f"{rate(row[e]['kept'], runs)} | {rate(row[e]['broken'], runs)}"
                print(f"| {cell[1]} | {row['channel']} | {row['quantity']} | {e} | {said} |")
    table("codec with all quantities at their limits", "effort", "conforms", "broken, the run as a whole")
    for cell, figures in found.items():
        for e, f in figures["whole"].items() if cell[0] == "limits" else []:
            print(f"| {cell[1]} | {e} | {rate(f['kept'], runs)} | {rate(f['broken'], runs)} |")


def show_changes(found: Mapping[Cell, Figures]) -> None:
    table("codec", "what changed", *(f"conforms, {e}" for e in EFFORTS), *(f"same streams, {e}" for e in EFFORTS),
          "other streams", *(f"the suite catches, {e}" for e in EFFORTS))  # fmt: skip
    for cell, f in found.items():
        if cell[0] == "change":
            of_effort = (
                " | ".join(f"{f[e][what]:.1%}" for e in EFFORTS) for what in ("conforms", "same streams", "whole")
            )
            conforms, same, whole = of_effort
            print(f"| {cell[1]} | {cell[2]} | {conforms} | {same} | {f['other streams']:.1%} | {whole} |")
    asked = [f"asked after {a}, then every {b}" if a else "as the suite asks" for a, b in ASKED]
    table("codec", "effort", "broken", *(f"trials a promise, {when}" for when in asked), "with golden drops")
    for cell, f in found.items():
        if cell[0] == "change" and cell[2] == "nothing":
            for e, effort in EFFORTS.items():
                numbers = [*f[e]["spent"], f[e]["with drops"]]
                trials = " | ".join(f"{spent:.0f} ({1 - spent / effort.trials:.0%} saved)" for spent in numbers)
                print(f"| {cell[1]} | {e} | {f[e]['broken']:.1%} | {trials} |")


def interval(number: int, runs: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's, two-sided."""
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(number, runs - number + 1, tail)) if number else 0.0
    high = float(special.betaincinv(number + 1, runs - number, 1 - tail)) if number < runs else 1.0
    return low, high


def held(name: str, numbers: Sequence[int], allowed: float, runs: int) -> bool:
    """Say whether a false verdict is as rare as it may be, in the worst of many rows."""
    worst = max(numbers)
    # The worst of so many rows is looked at.
    low, high = interval(worst, runs, 1 - 0.05 / len(numbers))
    good = low <= allowed
    alone = interval(worst, runs, 0.95)
    print(
        f"{name}: {worst / runs:.2%} at worst of {len(numbers)} rows, {alone[0]:.2%} to {alone[1]:.2%} by itself, "
        f"{low:.2%} to {high:.2%} as the worst of them; allowed {allowed:.2%}: {'yes' if good else 'NO'}"
    )
    return good


def bars(found: Mapping[Cell, Figures], runs: int) -> bool:
    """Print each bar and whether it holds."""
    print()
    alone = [f[e] for cell, f in found.items() if cell[0] == "losses" or cell == ("share", "0.05") for e in EFFORTS]
    alone += [row[e] for cell, f in found.items() if cell[0] == "limits" for row in f["rows"] for e in EFFORTS]
    whole = [f["whole"][e] for cell, f in found.items() if cell[0] == "limits" for e in EFFORTS]
    good = []
    if alone:
        good.append(held("falsely kept", [row["kept"] for row in alone], 1 / KEPT, runs))
    if whole:
        good.append(held("conforms, all at the limit", [row["kept"] for row in whole], 1 / KEPT, runs))
        good.append(held("called broken, the run as a whole", [row["broken"] for row in whole], ERROR, runs))
    false = [
        round(f["other streams"] * runs) for cell, f in found.items() if cell[0] == "change" and cell[2] == "nothing"
    ]
    if false:
        good.append(held("false alarm of the golden drops, other streams", false, regression.ALARM, runs))
    for change, effort in (
        *(("10x errors", "ci"), ("+1 dB", "ci")),
        *(("1% no image", "nightly"), ("1% grey", "nightly")),
    ):
        caught = {cell[1]: f[effort]["whole"] for cell, f in found.items() if cell[0] == "change" and cell[2] == change}
        if caught:
            good.append(min(caught.values()) >= 0.99)
            said = ", ".join(f"{codec} {share:.1%}" for codec, share in caught.items())
            print(f"{change} caught in 99% with {effort}: {said}: {'yes' if good[-1] else 'NO'}")
    tenth = {cell[1]: f for cell, f in found.items() if cell[0] == "change" and cell[2] == TENTH}
    if tenth:
        for name, bar, shares in (
            ("the same streams", 0.95, {codec: f["quick"]["same streams"] for codec, f in tenth.items()}),
            ("other streams", 0.8, {codec: f["other streams"] for codec, f in tenth.items()}),
        ):
            good.append(min(shares.values()) >= bar)
            said = ", ".join(f"{codec} {share:.1%}" for codec, share in shares.items())
            print(f"+0.1 dB of {name} found in {bar:.0%} with quick: {said}: {'yes' if good[-1] else 'NO'}")
    saved = {
        cell[1]: 1 - f["quick"]["with drops"] / EFFORTS["quick"].trials
        for cell, f in found.items()
        if cell[0] == "change" and cell[2] == "nothing"
    }
    if saved:
        good.append(min(saved.values()) >= 0.5)
        said = ", ".join(f"{codec} {share:.0%}" for codec, share in saved.items())
        print(f"half of quick's trials saved: {said}: {'yes' if good[-1] else 'NO'}")
    return all(good)


PARTS = ("simulated", "gains", "general", "limits", "changes")


@click.command()
@click.option("--runs", default=1000, show_default=True, help="Runs for each row.")
@click.option("--quick", is_flag=True, help="A tenth of the runs.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("--part", "parts", multiple=True, default=PARTS, show_default=True, type=click.Choice(PARTS),
              help="Which tables.")  # fmt: skip
@click.option("--codec", "codecs", multiple=True, help="Of which stored codecs.  [default: all]")
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Figures that are known, as JSON lines; the same command goes on.")  # fmt: skip
def main(runs: int, quick: bool, jobs: int, parts: tuple[str, ...], codecs: tuple[str, ...], keep: Path | None) -> None:
    """Print what verdicts are worth, on simulated losses and on real trials; status 1 where they are worth less."""
    runs = runs // 10 if quick else runs
    kinds = {
        "simulated": {"losses", "share"},
        "gains": {"gain"},
        "general": {"general"},
        "limits": {"limits"},
        "changes": {"profile"},
    }
    chosen = {kind for part in parts for kind in kinds[part]}
    names = [codec for codec in stored() if not codecs or codec in codecs]
    cells = [c for c in planned() if c[0] in chosen and (c[0] not in ("limits", "profile") or c[1] in names)]
    kept = Kept(keep, runs)
    kept.complete(cells, runs, jobs)
    if "changes" in parts:
        changes: list[Cell] = [("change", codec, change) for codec in names for change in CHANGES]
        kept.complete(changes, runs, jobs)
        cells += changes
    found = {cell: kept.found[cell] for cell in cells}
    if "simulated" in parts:
        show_simulated(found, runs)
    if "gains" in parts:
        show_gains(found)
    if "general" in parts:
        show_general(found)
    if "limits" in parts:
        show_limits(found, runs)
    if "changes" in parts:
        show_changes(found)
    if not bars(found, runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
