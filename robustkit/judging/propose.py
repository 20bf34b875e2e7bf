"""Proposing: the tightest profile that runs of the suite prove, and how tight a declared one is.

Both play runs through with trials drawn from those measured, by the very evidence that the suite judges with. A run
first draws the trials that there might have been in place of those measured, and then its own from these: so it knows
that others might have been measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from robustkit import evalues
from robustkit.channels import Channel, generator
from robustkit.errors import RobustkitError
from robustkit.evalues import Floats
from robustkit.judging import assess
from robustkit.judging.assess import KEPT, ONE_IN_TWENTY, Rule, allowed_beyond, in_rounds, is_refused, judge, quantities
from robustkit.judging.effort import CLEAR, EFFORTS
from robustkit.judging.finding import Verdict
from robustkit.judging.trial import Trial
from robustkit.profile import Profile, Promise
from robustkit.quality import METRICS

#: Runs of the suite that are played through, each with trials drawn from those measured.
RUNS = 400
#: Share of those runs that keep a proposed profile; and in which a regression counts as caught.
HOLDS = 0.99
#: Of the trials of a channel, the share that must give an image for a promise on it.
LEAST = 0.1
#: Added to each limit: the trials measured are not all there are, and other machines round differently.
MARGIN = 0.05
#: How much tighter a promise is shown to fail.
TIGHTER = 0.8
#: The share of trials that may lie beyond a proposed ``p5_drop``: a quick run proves one in twenty with one of its
#: trials beyond, and meets two in one of 400 runs.
_BEYOND = 0.0005
#: The share beyond a proposed catastrophe, none of which may be seen.
_NEVER = 1e-6
#: How often limits that hold one by one are slackened by ``MARGIN`` until they hold together.
_TIMES = 20


class ProposalError(RobustkitError, ValueError):
    """Trials from which no profile can be proposed."""


@dataclass(frozen=True)
class Limit:
    """A limit, proposed or declared, and what is known of it.

    Attributes:
        channel: ``None`` for all promises together.
        quantity: the field of :class:`Promise`, or "refused".
        value: the limit.
        first: what the measured trials say of it, judged as one run; noted where no trial gave an image.
        kept: share of the quick runs that prove it, or find nothing against it where it is too small to be proved.
        tighter_kept: the same of a limit 20% tighter.
        trials: how many were measured.
        caught: of a mean drop, by how much a codec must get worse for 99% of the runs with the effort ci not to keep
            the channel's promises; ``None`` elsewhere, infinite where nothing is.
    """

    channel: Channel | None
    quantity: str
    value: float
    first: Verdict
    kept: float
    tighter_kept: float
    trials: int
    caught: float | None = None

    @property
    def loose(self) -> bool:
        """Whether one 20% tighter is as safe."""
        return self.value > 0 and self.first.good and self.tighter_kept >= HOLDS


def least_trials(images: int) -> int:
    """The trials of each image and channel that decide a clear case: with fewer nothing can be said of one."""
    return math.ceil(CLEAR / max(1, images))


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
    """The tightest profile that 99 of 100 runs with the quick effort keep whole, and what is known of each limit.

    Args:
        measured: the trials of each channel. One on which fewer than one trial in ten gave an image gets no promise;
            without any promise no refusal is allowed.
        bpp: mean rate of the clean streams.
        quality: mean quality of the clean decodes.
        metric: of ``quality`` and of the drops.

    Raises:
        ProposalError: fewer trials than decide a clear case.
    """
    channels = [c for c, trials in measured.items() if _share_with_image(trials, metric) >= LEAST]
    promised = {channel: list(measured[channel]) for channel in channels}
    runs = _Runs(promised, metric)
    # One of a hundred runs may fail, by any limit.
    holds = min(1 - (1 - HOLDS) / (3 * len(promised) + 1), 1 - 1 / RUNS)
    promises, slack = [], 0
    for channel, trials in promised.items():
        promises.append(_promise(channel, trials, runs, holds, quality, metric))
    refused, share = 0.0, 0.0
    if promises:
        share = float(np.mean([is_refused(t) for trials in promised.values() for t in trials]))
        if share:
            refused = _share_limit(lambda limit: float(runs.refused(limit).mean()), share, holds)
    profile = Profile(
        bpp=math.ceil(round(1000 * bpp, 6)) / 1000,
        quality=_slackened(quality, metric),
        refused=refused,
        promises=tuple(promises),
        metric=metric,
        expected_refused=_expected(share, refused) if promises else None,
    )
    while promises and runs.all_kept(profile) < HOLDS and slack < _TIMES:
        profile, slack = _slacker(profile), slack + 1
    return profile, _limits(profile, promised, runs)


def examine(profile: Profile, measured: Mapping[Channel, Sequence[Trial]]) -> list[Limit]:
    """How tight a declared profile is: what runs with the quick effort say of each of its limits.

    Args:
        profile: the promises.
        measured: the trials of its channels. Of one without trials nothing is said, nor then of the refused share,
            which is of all promises together.

    Raises:
        ProposalError: fewer trials than decide a clear case.
    """
    promised = {p.channel: list(measured[p.channel]) for p in profile.promises if p.channel in measured}
    return _limits(profile, promised, _Runs(promised, profile.metric))


def expecting(profile: Profile, measured: Mapping[Channel, Sequence[Trial]]) -> Profile:
    """A declared profile with what was measured beside its limits, where it keeps them; the limits stay.

    Args:
        profile: the promises.
        measured: the trials of its channels; a promise on one without trials stays as it is.
    """
    promises = []
    for promise in profile.promises:
        if not (trials := measured.get(promise.channel)):
            promises.append(promise)
            continue
        drops = in_rounds(trials, partial(_drop, metric=profile.metric))
        mean = float(np.nanmean(np.minimum(drops, promise.p5_drop))) if np.isfinite(drops).any() else math.nan
        p95 = assess.worst_in_twenty(drops)
        lost = sum(t.outcome.corrupted for t in trials) / len(trials)
        promises.append(
            replace(
                promise,
                expected_mean_drop=_expected(mean, promise.mean_drop) if math.isfinite(mean) else None,
                expected_p5_drop=_expected(p95, promise.p5_drop) if math.isfinite(p95) else None,
                expected_corrupted=_expected(lost, promise.corrupted),
            )
        )
    refused = profile.expected_refused
    if promises and all(measured.get(promise.channel) for promise in promises):
        shares = [np.mean([is_refused(t) for t in measured[promise.channel]]) for promise in promises]
        refused = _expected(float(np.mean(shares)), profile.refused)
    return replace(profile, promises=tuple(promises), expected_refused=refused)


def remark(limit: Limit, metric: str = "psnr") -> str:
    """Why a limit can't be both safe and tight, if so."""
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


class _Runs:
    """Runs of the suite, drawn from measured trials: what each would say of a limit.

    Args:
        promised: the trials of each channel.
        metric: of the drops.
    """

    def __init__(self, promised: Mapping[Channel, Sequence[Trial]], metric: str) -> None:
        images = {t.image for trials in promised.values() for t in trials}
        for channel, trials in promised.items():
            fewest = min(sum(t.image == image for t in trials) for image in images)
            if fewest < least_trials(len(images)):
                raise ProposalError(
                    f"{channel}: {fewest} trials of an image are too few to decide anything: give --trials "
                    f"{least_trials(len(images))} or more"
                )
        self.metric = metric
        self.images = len(images)
        self.drops = {c: in_rounds(trials, partial(_drop, metric=metric)) for c, trials in promised.items()}
        self._lost = {c: in_rounds(trials, lambda t: float(t.outcome.corrupted)) for c, trials in promised.items()}
        self._refused = {c: in_rounds(trials, lambda t: float(is_refused(t))) for c, trials in promised.items()}
        self._picks: dict[tuple[Channel, int], npt.NDArray[np.intp]] = {}

    def rounds(self, effort: str) -> int:
        """The most rounds that an effort has."""
        return math.ceil(EFFORTS[effort].trials / max(1, self.images))

    def _drawn(self, table: Floats, channel: Channel, effort: str) -> Floats:
        """Runs x rounds x images; the same trials whatever is asked of them."""
        key = channel, self.rounds(effort)
        if key not in self._picks:
            have = len(table)
            rng = generator("", str(channel), "measure-profile", key[1])
            worlds = rng.integers(0, have, (RUNS, have, self.images))
            picks = rng.integers(0, have, (RUNS, key[1], self.images))
            self._picks[key] = np.take_along_axis(worlds, picks, axis=1)
        found: Floats = table[self._picks[key], np.arange(self.images)]
        return found

    def mean(self, channel: Channel, limit: float, p5: float, effort: str = "quick", worse: float = 0.0) -> Floats:
        """Which runs keep a mean drop; with every drop ``worse`` by so much."""
        drops = self._drawn(self.drops[channel], channel, effort)
        return _kept(np.minimum(drops + worse, p5), limit, p5)

    def tail(self, channel: Channel, limit: float, p5: float, effort: str = "quick", worse: float = 0.0) -> Floats:
        """Which runs keep the share of trials beyond ``p5``."""
        drops = self._drawn(self.drops[channel], channel, effort)
        return _kept((~(drops + worse <= p5)).astype(float), limit, 1.0)

    def lost(self, channel: Channel, limit: float) -> Floats:
        """Which runs keep the corrupted share."""
        return _kept(self._drawn(self._lost[channel], channel, "quick"), limit, 1.0)

    def ever_lost(self) -> bool:
        """Whether any trial gave no image."""
        return any(table.any() for table in self._lost.values())

    def perhaps(self, channel: Channel, limit: float) -> Floats:
        """Which runs keep a share of which half an event was seen: what was never seen may yet come."""
        shape = RUNS, self.rounds("quick"), self.images
        share = 0.5 / self._lost[channel].size
        return _kept((generator("", str(channel), "never-seen", 0).random(shape) < share).astype(float), limit, 1.0)

    def refused(self, limit: float) -> Floats:
        """Which runs keep the share refused in all channels."""
        drawn = [self._drawn(table, channel, "quick") for channel, table in self._refused.items()]
        return _kept(np.concatenate(drawn, axis=2), limit, 1.0)

    def of(self, promise: Promise, by: float = 1.0) -> dict[str, Floats]:
        """Which runs keep each limit of a promise, taken ``by`` times as large, the others as they are."""
        channel, p5 = promise.channel, promise.p5_drop
        found = {
            "mean_drop": self.mean(channel, by * promise.mean_drop, p5),
            "p5_drop": self.tail(channel, allowed_beyond(promise.corrupted), by * p5),
            "corrupted": self.lost(channel, by * promise.corrupted),
        }
        if promise.catastrophe is not None:
            drops = self._drawn(self.drops[channel], channel, "quick")
            found["catastrophes"] = _kept((drops > promise.catastrophe).astype(float), by * promise.catastrophes, 1.0)
        return found

    def all_kept(self, profile: Profile) -> float:
        """The share of runs that keep every limit."""
        kept = [self.refused(profile.refused), *(k for p in profile.promises for k in self.of(p).values())]
        return float(np.min(kept, axis=0).mean())

    def caught(self, promise: Promise) -> float:
        """By how much every drop must grow for 99% of the runs with the effort ci not to keep the promise."""

        def seen(worse: float) -> bool:
            limits = promise.mean_drop, allowed_beyond(promise.corrupted)
            mean, tail = (
                way(promise.channel, limit, promise.p5_drop, "ci", worse)
                for way, limit in zip((self.mean, self.tail), limits, strict=True)
            )
            return bool(np.minimum(mean, tail).mean() <= 1 - HOLDS)

        most = 2 * promise.p5_drop + 1
        return _least(seen, 0.0, most) if seen(most) else math.inf


def _kept(rounds: Floats, limit: float, most: float) -> Floats:
    """1 for each run that keeps a limit, or finds nothing against one that it can't prove; 0 for the others."""
    if limit >= most:
        return np.ones(len(rounds))
    kept = evalues.below(rounds, limit, most=most)[:, -1] >= KEPT
    if most == 1.0 and (limit <= 0 or evalues.trials_to_prove(limit, needed=KEPT) > EFFORTS["quick"].trials):
        kept |= np.nanmean(rounds, axis=(1, 2)) <= limit
    return kept.astype(float)


def _least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least number from ``low`` to ``high`` that holds, where all above it do."""
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _share_with_image(trials: Sequence[Trial], metric: str) -> float:
    return sum(t.drop(metric) is not None for t in trials) / max(1, len(trials))


def _share_limit(kept: Callable[[float], float], seen: float, holds: float) -> float:
    """The limit of a share that enough runs keep."""
    return min(1.0, rounded_up((1 + MARGIN) * _least(lambda limit: kept(limit) >= holds, seen, 1.0)))


def _promise(
    channel: Channel, trials: Sequence[Trial], runs: _Runs, holds: float, quality: float, metric: str
) -> Promise:
    drops = runs.drops[channel][np.isfinite(runs.drops[channel])]
    lost = sum(t.outcome.corrupted for t in trials) / len(trials)
    # A codec that never fails is promised never to; one that fails elsewhere may fail here, too.
    corrupted = 0.0
    if runs.ever_lost():
        way = runs.lost if lost else runs.perhaps
        corrupted = _share_limit(lambda limit: float(way(channel, limit).mean()), lost, holds)
    allowed = allowed_beyond(corrupted)
    p5 = _least(lambda value: float(runs.tail(channel, allowed, value).mean()) >= holds, 0.0, float(drops.max()) + 1e-9)
    # Where most trials may be lost, hardly any limit is broken, and a mean of losses clipped below them says nothing.
    seen = float(np.quantile(drops, 1 - ONE_IN_TWENTY)) if lost and allowed < 1 else _tail(drops, _BEYOND)
    p5 = rounded_up(max(floor(metric), (1 + MARGIN) * max(p5, seen)))
    clipped = float(np.minimum(drops, p5).mean())
    mean = _least(lambda value: float(runs.mean(channel, value, p5).mean()) >= holds, min(clipped, p5), p5)
    mean = rounded_up(max(floor(metric), (1 + MARGIN) * mean))
    # The tail of one in ten says nothing of a loss that comes once in a thousand trials: it was seen, so it comes.
    never = max(_tail(drops, _NEVER, most=math.inf), 1.25 * float(drops.max()))
    catastrophe = rounded_up(max(1.25 * p5 + floor(metric), never))
    fits = METRICS[metric].higher_is_better and catastrophe < quality / 2
    p95 = assess.worst_in_twenty(runs.drops[channel])
    return Promise(
        channel,
        mean,
        p5,
        corrupted,
        catastrophe=catastrophe if fits else None,
        expected_mean_drop=_expected(clipped, mean),
        expected_p5_drop=_expected(p95, p5) if math.isfinite(p95) else None,
        expected_corrupted=_expected(lost, corrupted),
    )


def _drop(trial: Trial, metric: str) -> float:
    """The drop; NaN without an image."""
    found = trial.drop(metric)
    return math.nan if found is None else found


def _expected(value: float, limit: float) -> float:
    return min(limit, float(f"{value:.3g}"))


def _slacker(profile: Profile) -> Profile:
    """Every limit but those of 0, by the margin."""
    more = 1 + MARGIN
    promises = [
        replace(
            p,
            mean_drop=rounded_up(more * p.mean_drop),
            p5_drop=(p5 := rounded_up(more * p.p5_drop)),
            corrupted=min(1.0, rounded_up(more * p.corrupted)),
            catastrophe=None if p.catastrophe is None else max(p5, p.catastrophe),
        )
        for p in profile.promises
    ]
    return replace(profile, refused=min(1.0, rounded_up(more * profile.refused)), promises=tuple(promises))


def _tail(drops: Floats, share: float, most: float = 1.25) -> float:
    """The drop that a share of the trials exceeds, beyond those measured if need be.

    The tail above the 90th percentile is taken as exponential (Pickands, Annals of Statistics 3, 1975, with shape 0),
    and cut off at ``most`` times the largest drop, because drops are bounded.
    """
    start = np.quantile(drops, 0.9)
    excess = (drops[drops >= start] - start).mean()
    found = float(start + excess * math.log(0.1 / share))
    return min(found, most * max(float(drops.max()), 0.0)) if math.isfinite(most) else found


def _limits(profile: Profile, promised: Mapping[Channel, Sequence[Trial]], runs: _Runs) -> list[Limit]:
    limits = []
    rule = Rule.of(profile, EFFORTS["quick"].trials)
    promises = [promise for promise in profile.promises if promise.channel in promised]
    for promise in promises:
        trials = promised[promise.channel]
        first = {a.quantity: a.verdict for a in judge(quantities(promise, trials, profile.metric), rule)}
        shares, closer = runs.of(promise), runs.of(promise, by=TIGHTER)
        for quantity, verdict in first.items():
            limits.append(
                Limit(
                    promise.channel,
                    quantity,
                    getattr(promise, quantity),
                    verdict,
                    float(shares[quantity].mean()),
                    float(closer[quantity].mean()),
                    len(trials),
                    runs.caught(promise) if quantity == "mean_drop" and verdict is not Verdict.NOTED else None,
                )
            )
    if not promises or len(promises) < len(profile.promises):
        return limits
    (refused,) = judge([assess.refused(profile, promised)], rule)
    kept, tighter = (float(runs.refused(by * profile.refused).mean()) for by in (1.0, TIGHTER))
    total = sum(map(len, promised.values()))
    return [*limits, Limit(None, "refused", profile.refused, refused.verdict, kept, tighter, total)]


def _slackened(quality: float, metric: str) -> float:
    """``quality``, a little worse, and rounded: nothing is drawn here, but other machines round otherwise."""
    steps = 20 if METRICS[metric].unit == "dB" else 1000
    if METRICS[metric].higher_is_better:
        return math.floor(steps * quality - 0.5) / steps
    return math.ceil(steps * quality + 0.5) / steps
