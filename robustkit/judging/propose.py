"""Proposing: the tightest profile that runs of the suite prove, and how tight a declared one is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustkit.channels import Channel, generator
from robustkit.errors import RobustkitError
from robustkit.judging import assess
from robustkit.judging.assess import assess_corrupted, assess_quality, by_image, judge, judge_share
from robustkit.judging.effort import EFFORTS
from robustkit.judging.finding import Verdict
from robustkit.judging.trial import Trial
from robustkit.profile import Profile, Promise
from robustkit.quality import METRICS
from robustkit.statistics import Bound

#: Runs of the suite that are played through, each with trials drawn from those measured.
RUNS = 400
#: Share of those runs that a proposed promise holds in.
HOLDS = 0.99
#: Added to each limit: the trials measured are not all there are, and other machines round differently.
MARGIN = 0.05
#: How much tighter a promise is shown to fail.
TIGHTER = 0.8


class ProposalError(RobustkitError, ValueError):
    """Trials from which no profile can be proposed."""


@dataclass(frozen=True)
class Limit:
    """A limit, proposed or declared, and what is known of it.

    Attributes:
        channel: ``None`` for all promises together.
        quantity: the field of :class:`Promise`, or "refused".
        value: the limit.
        first: what the suite's own run, the first of the trials, says of it; noted where no trial gave an image.
        kept: share of the runs that prove it.
        tighter_kept: share of the runs that prove one 20% tighter.
        trials: how many were measured.
    """

    channel: Channel | None
    quantity: str
    value: float
    first: Verdict
    kept: float
    tighter_kept: float
    trials: int

    @property
    def loose(self) -> bool:
        """Whether one 20% tighter is as safe."""
        return self.value > 0 and self.first is Verdict.KEPT and self.tighter_kept >= HOLDS


def least_trials(images: int) -> int:
    """The trials of each image and channel in a quick run of the suite: with fewer nothing can be said of one."""
    return math.ceil(EFFORTS["quick"].trials / max(1, images))


def floor(metric: str) -> float:
    """No promise of a loss in ``metric`` is tighter: 0.05 dB, or 0.002 where the scale is not in decibels."""
    return assess.noise(metric)


def rounded_up(value: float) -> float:
    """The next number with two digits, the second of them in halves: 0.0205, 1.35, 17.5."""
    if value <= 0 or math.isinf(value):
        return max(0.0, value)
    exponent = math.floor(math.log10(value)) - 1
    # Halves of a power of ten, as integers, so that 0.3 does not become 0.30000000000000004.
    halves = math.ceil(round(value * 2 * 10.0**-exponent, 6))
    return float(f"{halves / 2:.1f}e{exponent}")


def propose(
    measured: Mapping[Channel, Sequence[Trial]], *, bpp: float, quality: float, metric: str = "psnr"
) -> tuple[Profile, list[Limit]]:
    """The tightest profile that runs with the quick effort prove in 99 of 100, and what is known of each limit.

    A run proves a limit that lies at or above the upper end of its bound, so the limits come from the distribution
    of that end over runs, and from the run that the suite does, which has the first of the measured trials.

    Args:
        measured: the trials of each channel. One on which no trial gave an image gets no promise, nor does one on which
            a quick run may have too few for a bound; without any promise no refusal is allowed.
        bpp: mean rate of the clean streams.
        quality: mean quality of the clean decodes.
        metric: of ``quality`` and of the drops.

    Raises:
        ProposalError: fewer trials than a run of the suite has.
    """
    promised = {c: list(trials) for c, trials in measured.items() if any(t.drop(metric) is not None for t in trials)}
    runs = _runs(promised)
    limits, promises = [], []
    for channel, trials in promised.items():
        declared = {}
        for quantity, bound in _quantities(metric).items():
            values = [bound(run[channel]) for run in runs]
            declared[quantity] = _least(quantity, bound(trials), values, trials, metric)
            limits.append(_limit(channel, quantity, declared[quantity], values, trials))
        if all(map(math.isfinite, declared.values())):
            promises.append(Promise(channel, **declared))
    kept = [promise.channel for promise in promises]
    refused = 0.0
    if kept:
        everything = [t for channel in kept for t in promised[channel]]
        together = [assess.refused([t for channel in kept for t in run[channel]]) for run in runs]
        refused = _least("refused", assess.refused(everything), together, everything, metric)
        limits.append(_limit(None, "refused", refused, together, everything))
    profile = Profile(
        bpp=math.ceil(round(1000 * bpp, 6)) / 1000,
        quality=_slackened(quality, metric),
        refused=refused,
        promises=tuple(promises),
        metric=metric,
    )
    return profile, limits


def examine(profile: Profile, measured: Mapping[Channel, Sequence[Trial]]) -> list[Limit]:
    """How tight a declared profile is: what runs with the quick effort say of each of its limits.

    Args:
        profile: the promises.
        measured: the trials of its channels. Of one without trials nothing is said, nor then of the refused share,
            which is of all promises together.

    Raises:
        ProposalError: fewer trials than a run of the suite has.
    """
    examined = [promise for promise in profile.promises if promise.channel in measured]
    promised = {promise.channel: list(measured[promise.channel]) for promise in examined}
    runs, limits = _runs(promised), []
    for promise in examined:
        trials, suites_own = promised[promise.channel], runs[0][promise.channel]
        judged = [*assess_quality(promise, suites_own, profile.metric), assess_corrupted(promise, suites_own)]
        first = {assessment.quantity: assessment.verdict for assessment in judged}
        for quantity, bound in _quantities(profile.metric).items():
            values = [bound(run[promise.channel]) for run in runs]
            limit = _limit(promise.channel, quantity, getattr(promise, quantity), values, trials)
            limits.append(replace(limit, first=first.get(quantity, Verdict.NOTED)))
    if len(examined) < len(profile.promises):
        return limits
    together = [assess.refused([t for trials in run.values() for t in trials]) for run in runs]
    everything = [t for trials in promised.values() for t in trials]
    return [*limits, _limit(None, "refused", profile.refused, together, everything)]


def remark(limit: Limit, metric: str = "psnr") -> str:
    """Why a limit can't be both safe and tight, if so."""
    if math.isinf(limit.value):
        return "too few images in a quick run: no promise"
    if limit.first is Verdict.NOTED:
        return "no trial gave an image"
    if limit.tighter_kept <= 0.5:
        return ""
    if limit.value == 0:
        return f"never seen in {limit.trials} trials"
    if limit.quantity.endswith("drop") and limit.value <= floor(metric):
        return f"at the floor of {floor(metric):g}"
    return "quick runs differ by more than 20%"


def as_python(profile: Profile) -> str:
    """The profile as Python to paste into a codec's class."""
    top = profile.to_mapping()
    rows = top.pop("promises")
    if top["metric"] == "psnr":
        del top["metric"]
    lines = ["profile = Profile(", *(f"    {name}={_literal(value)}," for name, value in top.items())]
    if rows:
        lines.append("    promises=(")
        for row in rows:
            given = [_literal(row.pop("channel")), *(f"{name}={_literal(value)}" for name, value in row.items())]
            lines.append(f"        Promise({', '.join(given)}),")
        lines.append("    ),")
    return "\n".join([*lines, ")"])


def _literal(value: str | float) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(float(value))


def _quantities(metric: str) -> dict[str, Callable[[Sequence[Trial]], Bound]]:
    return {
        "mean_drop": lambda trials: assess.mean_drop(trials, metric),
        "p5_drop": lambda trials: assess.p5_drop(trials, metric),
        "corrupted": assess.corrupted,
    }


def _runs(promised: Mapping[Channel, Sequence[Trial]]) -> list[dict[Channel, list[Trial]]]:
    """The run that the suite does, with the first trials of each image, and ``RUNS`` others drawn from all of them."""
    images = {t.image for trials in promised.values() for t in trials}
    per_image = least_trials(len(images))
    for channel, trials in promised.items():
        fewest = min(map(len, by_image(trials, lambda t: 0.0).values()))
        if fewest < per_image:
            raise ProposalError(
                f"{channel}: {fewest} trials of an image are fewer than a run of the suite has: give --trials "
                f"{per_image} or more"
            )
    runs = [{c: [t for t in trials if t.number < per_image] for c, trials in promised.items()}]
    for number in range(RUNS):
        # The key that these draws have always had: proposals stay what they were.
        rng = generator("", "", "measure-profile", number)
        runs.append({c: _resampled(trials, per_image, rng) for c, trials in promised.items()})
    return runs


def _resampled(trials: Sequence[Trial], per_image: int, rng: np.random.Generator) -> list[Trial]:
    """One run of the suite: ``per_image`` trials of each image, drawn with replacement."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.image, []).append(trial)
    return [group[i] for group in groups.values() for i in rng.integers(0, len(group), per_image)]


def _extreme_drop(trials: Sequence[Trial], metric: str) -> float:
    """The drop that no trial of a quick run exceeds in 99 of 100 runs.

    So few trials prove a 5th percentile only where not one of them lies beyond, and the largest drop measured is not
    the largest there is. The tail above the 90th percentile is taken as exponential (Pickands, Annals of Statistics 3,
    1975, with shape 0), and cut off a quarter beyond the largest drop, because drops are bounded.
    """
    drops = np.array([drop for t in trials if (drop := t.drop(metric)) is not None])
    start = np.quantile(drops, 0.9)
    excess = (drops[drops >= start] - start).mean()
    chance = 1 - HOLDS ** (1 / EFFORTS["quick"].trials)
    return float(min(start + excess * math.log(0.1 / chance), 1.25 * drops.max()))


def _least(quantity: str, bound: Bound, values: Sequence[Bound], trials: Sequence[Trial], metric: str) -> float:
    """The least limit that enough of the runs prove."""
    share = quantity in ("corrupted", "refused")
    if share and bound.estimate == 0:
        # Never seen: promised never to happen, which no number of trials can prove.
        return 0.0
    ends = np.array([b.high for b in values])
    needed = max(float(np.quantile(ends, HOLDS, method="higher")), float(ends[0]))
    if quantity == "p5_drop":
        needed = max(needed, _extreme_drop(trials, metric))
    needed *= 1 + MARGIN
    return min(1.0, rounded_up(needed)) if share else rounded_up(max(floor(metric), needed))


def _limit(
    channel: Channel | None, quantity: str, value: float, values: Sequence[Bound], trials: Sequence[Trial]
) -> Limit:
    verdicts = [_verdict(quantity, bound, value) for bound in values]
    tighter = [_verdict(quantity, bound, TIGHTER * value) for bound in values]
    kept, tighter_kept = (sum(v is Verdict.KEPT for v in found) / len(found) for found in (verdicts, tighter))
    return Limit(channel, quantity, value, verdicts[0], kept, tighter_kept, len(trials))


def _verdict(quantity: str, bound: Bound, limit: float) -> Verdict:
    if bound.high == -math.inf:
        # A percentile without any image: a run can't prove it.
        return Verdict.NOTED
    return (judge_share if quantity in ("corrupted", "refused") else judge)(bound, limit)


def _slackened(quality: float, metric: str) -> float:
    """``quality``, a little worse, and rounded: nothing is drawn here, but other machines round otherwise."""
    steps = 20 if METRICS[metric].unit == "dB" else 1000
    if METRICS[metric].higher_is_better:
        return math.floor(steps * quality - 0.5) / steps
    return math.ceil(steps * quality + 0.5) / steps
