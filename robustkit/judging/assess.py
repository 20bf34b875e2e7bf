"""Assessing: a promise held against trials gives a bound, its limit, a verdict and the trial to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from robustkit import statistics
from robustkit.channels import Channel, ladders
from robustkit.judging.finding import Verdict
from robustkit.judging.trial import Trial
from robustkit.outcome import Outcome
from robustkit.profile import Profile, Promise
from robustkit.quality import METRICS
from robustkit.statistics import Bound

#: Share of trials that may lose more than a promise's ``p5_drop``.
ONE_IN_TWENTY = 0.05
#: By how much more damage may seem to help before it is called better: in dB, and on scales of 0 to 1.
NOISE, UNIT_NOISE = 0.05, 0.002


@dataclass(frozen=True)
class Assessment:
    """One quantity of a promise, judged.

    Attributes:
        quantity: "mean_drop", "p5_drop", "corrupted", "refused" or "gain".
        severity: the channel, two of them, or "all promises".
        bound: the estimate and its one-sided 95% bounds (of "p5_drop": of the share of trials beyond the limit).
        limit: what was declared, in the bound's unit: of "p5_drop" a share of trials, one in twenty.
        verdict: what the bound says of the limit; noted where there was nothing to measure.
        measured, declared: the same in words.
        trials: how many the bound is computed from.
        worst: the trial that says most about it, ``None`` where there is none.
        offends: whether a trial shows what the promise excludes; minimising keeps that. ``None`` where no single trial
            does.
        more: further numbers.
        why: lines that explain the verdict.
    """

    quantity: str
    severity: str
    bound: Bound
    limit: float
    verdict: Verdict
    measured: str
    declared: str
    trials: int
    worst: Trial | None
    offends: Callable[[Trial], bool] | None
    more: Mapping[str, float] = field(default_factory=dict)
    why: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, float]:
        """For machines; not all of them need be finite."""
        bound = self.bound
        return {
            "estimate": bound.estimate,
            "low": bound.low,
            "high": bound.high,
            "declared": self.limit,
            "trials": float(self.trials),
            **self.more,
        }


def noise(metric: str) -> float:
    """Differences in ``metric`` up to this are noise: 0.05 dB, or 0.002 where the scale is not in decibels."""
    return NOISE if METRICS[metric].unit == "dB" else UNIT_NOISE


def judge(bound: Bound, declared: float, *, at_least: bool = False) -> Verdict:
    """Whether a quantity was shown to stay at or below what was declared; with ``at_least``, at or above.

    With one-sided bounds, each verdict but ``UNPROVED`` is wrong with probability at most ``1 - confidence``.
    """
    low, high, limit = (-bound.high, -bound.low, -declared) if at_least else (bound.low, bound.high, declared)
    if high <= limit:
        return Verdict.KEPT
    return Verdict.BROKEN if low > limit else Verdict.UNPROVED


def judge_share(bound: Bound, declared: float) -> Verdict:
    """As :func:`judge`, for a share of trials declared at most.

    A declared share of exactly 0 can be disproved but never proved: it is kept for as long as no event is seen,
    however many trials that took; ``bound.high`` says what share they leave possible.
    """
    if declared == 0 and not math.isnan(bound.estimate):
        return Verdict.KEPT if bound.estimate == 0 else Verdict.BROKEN
    return judge(bound, declared)


def by_image(trials: Iterable[Trial], value: Callable[[Trial], float | None]) -> dict[str, list[float]]:
    """``value`` of each trial, gathered by image; ``None`` is left out."""
    values: dict[str, list[float]] = {}
    for trial in trials:
        found = value(trial)
        values.setdefault(trial.image, []).extend([] if found is None else [found])
    return values


def mean_drop(trials: Iterable[Trial], metric: str) -> Bound:
    """The mean drop of quality over the trials that gave an image."""
    return statistics.mean_bound(by_image(trials, lambda t: t.drop(metric)))


def p5_drop(trials: Iterable[Trial], metric: str) -> Bound:
    """The 95th percentile of the drop; a trial without an image is the corrupted share's business, here it has none."""

    def drop(trial: Trial) -> float:
        found = trial.drop(metric)
        return -math.inf if found is None else found

    return statistics.percentile_bound(by_image(trials, drop), 95)


def corrupted(trials: Iterable[Trial]) -> Bound:
    """The share of trials that gave no usable image."""
    return statistics.share_bound(by_image(trials, lambda t: t.outcome.corrupted))


def refused(trials: Iterable[Trial]) -> Bound:
    """The share of trials that the codec refused."""
    return statistics.share_bound(by_image(trials, is_refused))


def is_refused(trial: Trial) -> bool:
    """Whether the codec refused the stream."""
    return trial.outcome is Outcome.REFUSED


def interval(bound: Bound, digits: int = 2) -> str:
    """The estimate with its bounds, as text."""
    if math.isnan(bound.estimate):
        return "no image to measure"
    return f"{bound.estimate:.{digits}f} [{bound.low:.{digits}f}, {bound.high:.{digits}f}]"


def assess_quality(promise: Promise, trials: Sequence[Trial], metric: str) -> list[Assessment]:
    """The mean drop and the 5th percentile of one promise, or a note where no trial gave an image."""
    with_image = [t for t in trials if t.drop(metric) is not None]
    severity = str(promise.channel)

    def beyond(limit: float) -> Callable[[Trial], bool]:
        return lambda t: (drop := t.drop(metric)) is not None and drop > limit

    if not with_image:
        nothing, declared = Bound(math.nan, -math.inf, math.inf), f"{promise.mean_drop:g}"
        said = "no trial gave an image"
        unseen = beyond(promise.mean_drop)
        return [
            Assessment(
                "mean_drop", severity, nothing, promise.mean_drop, Verdict.NOTED, said, declared, 0, None, unseen
            )
        ]
    worst = max(with_image, key=lambda t: t.drops[metric])
    bound = mean_drop(trials, metric)
    mean = Assessment(
        "mean_drop",
        severity,
        bound,
        promise.mean_drop,
        judge(bound, promise.mean_drop),
        f"mean drop {interval(bound)}",
        f"at most {promise.mean_drop:g}",
        len(with_image),
        worst,
        beyond(promise.mean_drop),
    )
    limit = promise.p5_drop
    share = statistics.share_bound(by_image(trials, beyond(limit)))
    drop = float(np.percentile([t.drops[metric] for t in with_image], 95))
    tail = Assessment(
        "p5_drop",
        severity,
        share,
        ONE_IN_TWENTY,
        judge(share, ONE_IN_TWENTY),
        f"p5 drop {drop:.2f}; {share.estimate:.1%} of trials beyond the limit (up to {share.high:.1%})",
        f"at most {limit:g} in 95% of trials",
        len(with_image),
        worst,
        beyond(limit),
        {"p5_drop": drop, "p5_drop_declared": limit},
    )
    return [mean, tail]


def assess_corrupted(promise: Promise, trials: Sequence[Trial]) -> Assessment:
    """The share of one promise's trials that gave no usable image."""
    found = [t for t in trials if t.outcome.corrupted]
    return _share("corrupted", str(promise.channel), corrupted(trials), promise.corrupted, trials, found)


def assess_refused(profile: Profile, trials: Sequence[Trial]) -> Assessment:
    """The share of the trials of all promises that the codec refused."""
    found = [t for t in trials if is_refused(t)]
    return _share("refused", "all promises", refused(trials), profile.refused, trials, found)


def _share(
    quantity: str, severity: str, bound: Bound, limit: float, trials: Sequence[Trial], found: Sequence[Trial]
) -> Assessment:
    return Assessment(
        quantity,
        severity,
        bound,
        limit,
        judge_share(bound, limit),
        f"{len(found)} of {len(trials)} trials, {interval(bound, 3)}",
        f"share at most {limit:g}",
        len(trials),
        found[0] if found else trials[0],
        is_refused if quantity == "refused" else lambda t: t.outcome.corrupted,
    )


def assess_monotone(trials: Mapping[Channel, Sequence[Trial]], images: Iterable[str], metric: str) -> list[Assessment]:
    """Whether more damage ever seems better, beyond noise: one severity after the other of each kind of channel.

    Args:
        trials: of each promised channel.
        images: the images' names; without damage none loses anything.
        metric: of the drops.
    """
    every = [t for found in trials.values() for t in found]
    # A trial without an image counts as the worst loss seen, or refusing everything would look like an improvement.
    worst = max((drop for t in every if (drop := t.drop(metric)) is not None), default=0.0)

    def charged(trial: Trial) -> float:
        drop = trial.drop(metric)
        return worst if drop is None else drop

    assessments = []
    names = list(images)
    for ladder in ladders(trials):
        less_name = "clean"
        less: dict[str, list[float]] = {image: [0.0] for image in names}
        for channel in ladder:
            more = by_image(trials[channel], charged)
            bound = statistics.improvement_bound(less, more)
            best = min(
                (t for t in trials[channel] if t.drop(metric) is not None), key=lambda t: t.drops[metric], default=None
            )
            gains = judge(bound, noise(metric)) is Verdict.BROKEN
            assessments.append(
                Assessment(
                    "gain",
                    f"{less_name} -> {channel}",
                    bound,
                    noise(metric),
                    Verdict.BROKEN if gains else Verdict.KEPT,
                    f"gains {interval(bound)}",
                    "no gain beyond noise",
                    len(trials[channel]),
                    best,
                    None,
                    why=(f"best trial: photograph {best.image}, trial {best.number}, drop {best.drops[metric]:.2f}",)
                    if best is not None
                    else (),
                )
            )
            less_name, less = str(channel), more
    return assessments
