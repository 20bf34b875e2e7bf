"""How good the instrument is: how often a codec at its limits is called broken, and one beyond them is caught.

Computed where that is possible; else simulated, by drawing runs from the run's own trials, image by image and channel
by channel, and judging them as :mod:`robustkit.judging.assess` does: the same e-values, thresholds and times of asking.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from robustkit import evalues
from robustkit.certificates.model import ErrorRate
from robustkit.channels import Channel
from robustkit.evalues import Floats
from robustkit.judging.assess import ERROR, KEPT, Quantity, Rule, first_look, in_rounds, quantities
from robustkit.judging.effort import STEP
from robustkit.judging.regression import ALARM
from robustkit.judging.trial import Trial
from robustkit.profile import Profile, Promise
from robustkit.quality import METRICS
from robustkit.statistics import share_bound

#: Simulated runs of a rate.
RUNS = 400
#: What a worse codec loses beyond its promise, in dB; and in a metric that is none in dB.
WORSE, WORSE_PLAIN = (0.5, 1.0), (0.02, 0.05)
#: And of how many trials more it gives no image.
LOST = 0.01

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Limit:
    """A limit on the mean of numbers, as :class:`robustkit.judging.assess.Quantity` has it."""

    name: str
    limit: float
    least: float
    most: float
    share: bool

    @classmethod
    def of(cls, quantity: Quantity) -> _Limit:
        return cls(quantity.name, quantity.limit, quantity.least, quantity.most, quantity.share)

    def numbers(self, drops: Floats, promise: Promise) -> Floats:
        """What is judged, from drops that are NaN without an image."""
        found: Floats
        if self.name == "mean_drop":
            found = np.clip(drops, self.least, self.most)
        elif self.name == "corrupted":
            found = np.isnan(drops).astype(float)
        elif self.name == "p5_drop":
            found = (~(drops <= promise.p5_drop)).astype(float)
        else:
            found = (drops > (math.inf if promise.catastrophe is None else promise.catastrophe)).astype(float)
        return found


def rates(
    profile: Profile,
    trials: Mapping[Channel, Sequence[Trial]],
    metric: str,
    rule: Rule,
    *,
    rounds: int,
    runs: int = RUNS,
) -> list[ErrorRate]:
    """The instrument's error rates, with this corpus, profile and effort.

    Args:
        profile: the promises.
        trials: of each of its channels.
        metric: of the drops.
        rule: that the run is judged by.
        rounds: trials of each image and channel, at the most.
        runs: simulated of a rate.

    Returns:
        Nothing, where there is no promise.
    """
    if not profile.promises or not all(trials.get(promise.channel) for promise in profile.promises):
        return []
    found = [ErrorRate("a codec exactly at its limits is called broken", "false alarm", ERROR, 0.0, ERROR, "bound")]
    unit = METRICS[metric].unit
    for worse in WORSE if unit == "dB" else WORSE_PLAIN:
        what = (
            f"a codec that loses {worse:g} {unit or metric} more than promised, on one channel alone, is not certified"
        )
        each = [_losing_quality(p, trials[p.channel], metric, rule, rounds, worse, runs) for p in profile.promises]
        found += _least(what, each)
    what = "a codec that gives no image in one trial of 100 more than promised, on one channel alone, is not certified"
    found += _least(what, [_losing_images(p, trials[p.channel], metric, rule, rounds, runs) for p in profile.promises])
    return found


def compared(found: Sequence[ErrorRate]) -> tuple[ErrorRate, ...]:
    """The rates of a run that compared golden drops, too: their exact tests err by themselves, now and then."""
    return tuple(
        replace(rate, rate=rate.rate + ALARM, high=rate.high + ALARM) if rate.how == "bound" else rate for rate in found
    )


@dataclass(frozen=True)
class _Rate:
    """How often that is caught on one channel; by simulation where there are runs."""

    rate: float
    runs: int
    channel: Channel


def _least(what: str, each: Sequence[_Rate | None]) -> list[ErrorRate]:
    """The rate on the channel that hides it best; none where no channel promises so little that it could be broken."""
    found = [one for one in each if one is not None]
    if not found:
        return []
    worst = min(found, key=lambda one: one.rate)
    if len(found) > 1:
        what += f" (on {worst.channel}, which hides it best of {len(found)})"
    if not worst.runs:
        return [ErrorRate(what, "detection", worst.rate, worst.rate, worst.rate, "exact")]
    # The same interval as scipy.stats has it, whose import every run would wait for.
    found_out = np.arange(worst.runs) < round(worst.rate * worst.runs)
    share = share_bound({"": found_out}, two_sided=True)
    return [ErrorRate(what, "detection", worst.rate, share.low, share.high, "simulated", worst.runs)]


def _losing_quality(
    promise: Promise, trials: Sequence[Trial], metric: str, rule: Rule, rounds: int, worse: float, runs: int
) -> _Rate | None:
    drops, limits = _drops(trials, metric), _limits(promise, trials, metric)
    moved = _moved(drops, promise, next(limit for limit in limits if limit.name == "mean_drop"), worse)
    if moved is None:
        return None
    drawn = _drawn(moved, rounds, runs, _seed(promise))
    return _Rate(float((~_good(promise, limits, drawn, rule)).mean()), runs, promise.channel)


def _moved(drops: Floats, promise: Promise, limit: _Limit, worse: float) -> Floats | None:
    """The drops, moved until their mean is ``worse`` beyond its limit; ``None`` where they can't be."""
    wanted = limit.limit + worse
    if not np.isfinite(drops).any() or wanted >= limit.most:
        return None
    low, high = limit.least - float(np.nanmax(drops)), limit.most - float(np.nanmin(drops))
    for _ in range(60):
        middle = (low + high) / 2
        if np.nanmean(limit.numbers(drops + middle, promise)) < wanted:
            low = middle
        else:
            high = middle
    return drops + high


def _losing_images(
    promise: Promise, trials: Sequence[Trial], metric: str, rule: Rule, rounds: int, runs: int
) -> _Rate | None:
    if promise.corrupted <= 0:
        # A single trial without an image breaks the limit.
        return _Rate(1 - (1 - LOST) ** len(trials), 0, promise.channel)
    drops, limits = _drops(trials, metric), _limits(promise, trials, metric)
    share = promise.corrupted + LOST
    if share >= 1 or not np.isfinite(drops).any():
        return None
    with_image = np.where(np.isnan(drops), np.nanmean(drops), drops)
    drawn = _drawn(with_image, rounds, runs, _seed(promise))
    rng = np.random.default_rng([8, _seed(promise)])
    drawn = np.where(rng.random(drawn.shape) < share, math.nan, drawn)
    return _Rate(float((~_good(promise, limits, drawn, rule)).mean()), runs, promise.channel)


def _drops(trials: Sequence[Trial], metric: str) -> Floats:
    """Rounds x images; NaN without an image."""

    def drop(trial: Trial) -> float:
        found = trial.drop(metric)
        return math.nan if found is None else found

    return in_rounds(trials, drop)


def _limits(promise: Promise, trials: Sequence[Trial], metric: str) -> list[_Limit]:
    return [_Limit.of(quantity) for quantity in quantities(promise, trials, metric)]


def _drawn(drops: Floats, rounds: int, runs: int, key: int) -> Floats:
    """Runs x rounds x images, each drawn from the trials of its image."""
    rng = np.random.default_rng([7, key])
    picks = rng.integers(0, len(drops), (runs, rounds, drops.shape[1]))
    found: Floats = drops[picks, np.arange(drops.shape[1])]
    return found


def _seed(promise: Promise) -> int:
    return int.from_bytes(str(promise.channel).encode()[:6], "big")


def _good(promise: Promise, limits: Sequence[_Limit], drops: Floats, rule: Rule) -> Bools:
    """Which runs have nothing against the promise, and stop with all of it proved as far as it can be."""
    told = [_Told(limit, limit.numbers(drops, promise), rule) for limit in limits]
    runs, rounds, images = drops.shape
    good, open_ = np.zeros(runs, dtype=bool), np.ones(runs, dtype=bool)
    for asked in _asked(first_look(promise), rounds, images):
        decided = np.all([one.decided(asked) for one in told], axis=0) | (asked == rounds)
        fine = np.all([one.good(asked) for one in told], axis=0)
        good |= open_ & decided & fine
        open_ &= ~decided
    return good


def _asked(first: int, rounds: int, images: int) -> Iterator[int]:
    """After how many rounds a run is asked whether they decide."""
    done = 0
    while done < rounds:
        done = min(rounds, math.ceil(first / images) if not done else done + math.ceil(STEP / images))
        yield done


class _Told:
    """What each of many runs says of one limit, after any round."""

    def __init__(self, limit: _Limit, numbers: Floats, rule: Rule) -> None:
        runs, rounds = numbers.shape[:2]
        if limit.limit >= limit.most:
            self._kept, self._broken = np.zeros((runs, rounds), dtype=int) == 0, np.zeros((runs, rounds), dtype=bool)
            self._hopeless = self._looked_at = self._broken
            return
        kept = evalues.below(numbers, limit.limit, most=limit.most) >= KEPT
        broken = evalues.above(numbers, limit.limit, least=min(limit.least, limit.limit)) >= rule.broken
        # Evidence against a limit counts until there is enough for it.
        before = np.concatenate([np.zeros((runs, 1), dtype=bool), kept[:, :-1]], axis=1)
        self._kept = kept
        self._broken = np.maximum.accumulate(broken & ~before, axis=1)
        small = limit.share and (limit.limit <= 0 or evalues.trials_to_prove(limit.limit, needed=KEPT) > rule.trials)
        seen = np.nansum(numbers, axis=2).cumsum(axis=1)
        count = np.isfinite(numbers).sum(axis=2).cumsum(axis=1)
        self._hopeless = small & (seen <= limit.limit * count)
        self._looked_at = self._hopeless & (count >= rule.enough)

    def decided(self, asked: int) -> Bools:
        at = asked - 1
        found: Bools = self._kept[:, at] | self._broken[:, at] | self._looked_at[:, at]
        return found

    def good(self, asked: int) -> Bools:
        at = asked - 1
        found: Bools = ~self._broken[:, at] & (self._kept[:, at] | self._hopeless[:, at])
        return found
