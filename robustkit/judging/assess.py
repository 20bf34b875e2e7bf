"""Assessing: a promise held against trials gives a bound, its limit, a verdict and the trial to look at.

What is judged is a mean over *these images*: each trial of each of them counts alike. Shares are means of 0 and 1;
losses are clipped, so that a mean has bounds. The verdicts are those of :mod:`robustkit.evalues`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from robustkit import evalues, statistics
from robustkit.channels import Channel, ladders
from robustkit.evalues import Floats
from robustkit.judging.effort import CLEAR, EFFORTS, FIRST
from robustkit.judging.finding import Verdict
from robustkit.judging.trial import Trial
from robustkit.outcome import Outcome
from robustkit.profile import Profile, Promise
from robustkit.quality import METRICS
from robustkit.statistics import Bound

#: Share of trials that may lose more than a promise's ``p5_drop``.
ONE_IN_TWENTY = 0.05
#: Evidence that keeps a limit: a codec at the limit or beyond it has that in one of twenty runs at most.
KEPT = 20.0
#: The share of runs in which a codec that keeps all its limits may be called broken, by any of them.
ERROR = 0.01
#: Images from which on something is said of images in general; and the share of sets of so many whose upper bound lies
#: under the truth, where losses are lognormal and nine tenths of their variance lies between images (``python
#: benchmarks/gate.py --part general``).
GENERAL, TOO_LOW = 20, 0.16


@dataclass(frozen=True)
class Rule:
    """What evidence a verdict takes.

    Attributes:
        findings: that share the error of a run, :data:`ERROR`.
        trials: that the effort spends on a promise; a limit that so many without an event don't prove is too small.
    """

    findings: int = 1
    trials: int = 144

    @property
    def enough(self) -> int:
        """Trials in which a limit that they can't prove may be broken: 66, 165 and 550 of the three efforts.

        Of 550 one event shows a share of 1% with probability 99.6%.
        """
        return self.trials * CLEAR // EFFORTS["quick"].trials

    @property
    def broken(self) -> float:
        """Evidence that breaks a limit as soon as it is there."""
        return self.findings / ERROR

    @classmethod
    def of(cls, profile: Profile, trials: int) -> Rule:
        """The rule for a run over all promises of ``profile``."""
        promises = profile.promises
        each = sum(3 + (promise.catastrophe is not None) for promise in promises)
        return cls(each + 1 + sum(map(len, ladders([p.channel for p in promises]))), trials)


@dataclass(frozen=True)
class Assessment:
    """One quantity of a promise, judged.

    Attributes:
        quantity: "mean_drop", "p5_drop", "corrupted", "catastrophes", "refused" or "gain".
        severity: the channel, two of them, or "all promises".
        bound: the estimate; its upper bound at 95%, and the lower one by which a run breaks it. Both hold whenever the
            run stopped. (Of "p5_drop": of the share of trials beyond the limit.)
        limit: what the bound is compared with.
        verdict: what the evidence says of the limit; noted where there was nothing to measure.
        measured, declared: the same in words.
        trials: how many the bound is computed from.
        worst: the trial that says most about it, ``None`` where there is none.
        offends: whether a trial shows what the promise excludes; minimising keeps that. ``None`` where no single trial
            does.
        more: further numbers.
        why: lines that explain the verdict.
        advice: what would decide it, where it is unproved.
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
    advice: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """For machines; not all of them need be finite. Of a share all are shares, but for those in ``more``."""
        bound = self.bound
        return {
            "estimate": bound.estimate,
            "low": bound.low,
            "high": bound.high,
            "declared": self.limit,
            "trials": float(self.trials),
            **self.more,
        }


@dataclass(frozen=True)
class Quantity:
    """One quantity of a promise, not judged yet: the mean of ``rounds``, which is to be at most ``limit``.

    Attributes:
        name: as :attr:`Assessment.quantity`; ``severity`` and ``declared`` likewise.
        rounds: numbers between ``least`` and ``most``, rounds x images; NaN for a trial that has none.
        words: what was measured, from the bound.
        share: whether the numbers are events.
        worst, offends, more, why: as :class:`Assessment` has them.
    """

    name: str
    severity: str
    rounds: Floats = field(repr=False)
    limit: float
    least: float
    most: float
    words: Callable[[Bound], str] = field(repr=False)
    declared: str
    worst: Trial | None
    offends: Callable[[Trial], bool] | None = field(repr=False)
    share: bool = True
    more: Mapping[str, float] = field(default_factory=dict)
    why: tuple[str, ...] = ()

    @cached_property
    def trials(self) -> int:
        """How many have a number."""
        return int(np.isfinite(self.rounds).sum())

    @cached_property
    def _kept(self) -> Floats:
        if self.limit >= self.most:
            return np.full(max(1, len(self.rounds)), math.inf)
        return evalues.below(self.rounds, self.limit, most=self.most)

    @cached_property
    def _broken(self) -> Floats:
        if self.limit >= self.most:
            return np.ones(max(1, len(self.rounds)))
        return evalues.above(self.rounds, self.limit, least=min(self.least, self.limit))

    @cached_property
    def broken(self) -> float:
        """The evidence against the limit, before there was enough for it."""
        kept = np.flatnonzero(self._kept >= KEPT)
        found = self._broken[: kept[0]] if len(kept) else self._broken
        return float(found[-1]) if len(found) else 1.0

    @property
    def kept(self) -> bool:
        """Whether there is enough evidence for the limit."""
        return len(self._kept) > 0 and bool(self._kept[-1] >= KEPT)

    def hopeless(self, rule: Rule) -> bool:
        """Whether the limit is too small for the effort to prove, and no more was seen than it allows."""
        if not self.share or np.nansum(self.rounds) > self.limit * self.trials:
            return False
        return self.limit <= 0 or evalues.trials_to_prove(self.limit, needed=KEPT) > rule.trials

    def decided(self, rule: Rule) -> bool:
        """Whether more trials would tell no more; of a limit that none prove, whether there are enough of them."""
        found = self.kept or self.broken >= rule.broken or not self.trials
        return found or (self.hopeless(rule) and self.trials >= rule.enough)

    def judged(self, rule: Rule, needed: float | None = None) -> Assessment:
        """The assessment; broken from evidence ``needed`` on, by default the rule's."""
        enough = rule.broken if needed is None else needed
        bound, advice = self._bound(enough), ""
        if not self.trials:
            verdict = Verdict.NOTED
        elif self.broken >= enough:
            verdict = Verdict.BROKEN
        elif self.kept:
            verdict = Verdict.KEPT
        elif self.name == "gain" or self.hopeless(rule):
            verdict = Verdict.NOT_DISPROVED
        else:
            verdict, advice = Verdict.UNPROVED, self._advice(rule)
        return Assessment(
            self.name,
            self.severity,
            bound,
            self.limit,
            verdict,
            self.words(bound),
            self.declared,
            self.trials,
            self.worst,
            self.offends,
            self.more,
            self.why,
            advice,
        )

    def _bound(self, enough: float) -> Bound:
        if not self.trials:
            return Bound(math.nan, -math.inf, math.inf)
        least = min(self.least, self.limit)
        low, high = evalues.bounds(self.rounds, least=least, most=self.most, kept=KEPT, broken=enough)
        return Bound(float(np.nanmean(self.rounds)), low, high)

    def _advice(self, rule: Rule) -> str:
        """How many trials would prove the limit, if they were like those there are."""
        images = self.rounds.shape[1]
        estimate = float(np.nanmean(self.rounds))
        if estimate >= self.limit:
            return "what was measured lies at the limit or beyond it: more trials would not prove it"
        growth = evalues.growth(self.rounds, self.limit, most=self.most)
        if growth <= 0:
            return "too few trials to tell, and no number of them follows from these"
        # Half again: the next ones may be less lucky.
        per_image = math.ceil(1.5 * math.log(KEPT / 0.05) / growth / images)
        return f"too few trials to tell: --robustkit-trials {max(per_image, len(self.rounds) + 1)} should"


def judge(quantities: Sequence[Quantity], rule: Rule) -> list[Assessment]:
    """Judge all quantities of a run together, so that their verdicts "broken" share its error.

    Each is broken as soon as its evidence reaches the rule's; at the end by Holm's procedure (Scandinavian Journal of
    Statistics 6, 1979), where one that is broken leaves its share to the others.
    """
    left = rule.findings
    for evidence in sorted((q.broken for q in quantities), reverse=True):
        if evidence < max(1, left) / ERROR:
            break
        left -= 1
    return [quantity.judged(rule, max(1, left) / ERROR) for quantity in quantities]


def best(metric: str) -> float:
    """Where losses are clipped from below: no damage makes an image better by more."""
    return -1.0 if METRICS[metric].unit == "dB" else -0.05


def noise(metric: str) -> float:
    """By how much more damage may seem to help before it is called better."""
    return 0.05 if METRICS[metric].unit == "dB" else 0.002


def in_rounds(trials: Iterable[Trial], value: Callable[[Trial], float]) -> Floats:
    """``value`` of each trial: rounds x images, NaN where there is no trial."""
    found = {(t.number, t.image): value(t) for t in trials}
    images = list(dict.fromkeys(image for _, image in found))
    rounds = np.full((max((number + 1 for number, _ in found), default=0), len(images)), math.nan)
    for (number, image), number_of in found.items():
        rounds[number, images.index(image)] = number_of
    return rounds


def by_image(trials: Iterable[Trial], value: Callable[[Trial], float | None]) -> dict[str, list[float]]:
    """``value`` of each trial, gathered by image; ``None`` is left out."""
    values: dict[str, list[float]] = {}
    for trial in trials:
        found = value(trial)
        values.setdefault(trial.image, []).extend([] if found is None else [found])
    return values


def is_refused(trial: Trial) -> bool:
    """Whether the codec refused the stream."""
    return trial.outcome is Outcome.REFUSED


def interval(bound: Bound, digits: int = 2) -> str:
    """The estimate with its bounds, as text."""
    if math.isnan(bound.estimate):
        return "no image to measure"
    return f"{bound.estimate:.{digits}f} [{bound.low:.{digits}f}, {bound.high:.{digits}f}]"


def allowed_beyond(corrupted: float) -> float:
    """The share of trials that may lose more than ``p5_drop``: one in twenty of those that are to give an image.

    A trial without an image is one beyond, so those that a promise allows are allowed here, too.
    """
    return corrupted + ONE_IN_TWENTY * (1 - corrupted)


def first_look(promise: Promise) -> int:
    """Trials, over all images, after which it is first asked whether they decide a promise; fewer hardly ever do.

    When is asked changes no verdict, since evidence is never taken back.
    """
    limits = [promise.corrupted, allowed_beyond(promise.corrupted)]
    limits += [] if promise.catastrophe is None else [promise.catastrophes]
    fewest = [CLEAR if limit <= 0 else evalues.trials_to_prove(limit, needed=KEPT) for limit in limits if limit < 1]
    return max(FIRST, min(CLEAR, max(fewest, default=0)))


def quantities(promise: Promise, trials: Sequence[Trial], metric: str) -> list[Quantity]:
    """The mean drop, the 5th percentile, the corrupted share and, where it is promised, that of catastrophes."""
    severity, limit = str(promise.channel), promise.p5_drop

    def drop(trial: Trial) -> float:
        found = trial.drop(metric)
        return math.nan if found is None else found

    def loses_more(than: float) -> Callable[[Trial], bool]:
        return lambda t: (found := t.drop(metric)) is not None and found > than

    def beyond(trial: Trial) -> bool:
        return trial.outcome.corrupted or drop(trial) > limit

    corrupted = [t for t in trials if t.outcome.corrupted]
    drops = in_rounds(trials, drop)
    with_image = [t for t in trials if not math.isnan(drop(t))]
    worst = max(with_image, key=drop, default=None)
    tail = worst if worst is not None and (drop(worst) > limit or not corrupted) else next(iter(corrupted), None)
    events = in_rounds(trials, lambda t: float(beyond(t)))
    charged, p5 = _charged(trials, metric, promise), worst_in_twenty(drops)
    least = min(best(metric), limit)
    found = [
        Quantity(
            "mean_drop",
            severity,
            np.clip(drops, least, limit),
            promise.mean_drop,
            least,
            limit,
            lambda bound: _mean_in_words(bound, charged, len(corrupted)),
            _at_most(promise.mean_drop, promise.expected_mean_drop),
            worst,
            loses_more(promise.mean_drop),
            share=False,
            more={"charged": charged, "unclipped": _mean(drops)},
        ),
        Quantity(
            "p5_drop",
            severity,
            events,
            allowed_beyond(promise.corrupted),
            0.0,
            1.0,
            lambda bound: _tail_in_words(bound, p5, int(np.nansum(events)), len(trials)),
            _tail_declared(promise),
            tail,
            beyond,
            more={"p5_drop": p5, "p5_limit": limit},
        ),
        _share(
            "corrupted",
            severity,
            trials,
            promise.corrupted,
            promise.expected_corrupted,
            lambda t: t.outcome.corrupted,
        ),
    ]
    if promise.catastrophe is not None:
        lost = loses_more(promise.catastrophe)
        found.append(
            _share("catastrophes", severity, trials, promise.catastrophes, None, lost, f" lose {promise.catastrophe:g}")
        )
    return found


def refused(profile: Profile, trials: Mapping[Channel, Sequence[Trial]]) -> Quantity:
    """The share of the trials of all promises that the codec refused: of the rounds that all of them have."""
    shortest = min((max(t.number for t in found) for found in trials.values() if found), default=-1)
    rounds = [
        in_rounds([t for t in found if t.number <= shortest], lambda t: float(is_refused(t)))
        for found in trials.values()
        if found
    ]
    every = [t for found in trials.values() for t in found if t.number <= shortest]
    plain = _share("refused", "all promises", every, profile.refused, profile.expected_refused, is_refused)
    return replace(plain, rounds=np.hstack(rounds) if rounds else np.empty((0, 0)))


def _share(
    name: str,
    severity: str,
    trials: Sequence[Trial],
    limit: float,
    expected: float | None,
    event: Callable[[Trial], bool],
    what: str = "",
) -> Quantity:
    found = [t for t in trials if event(t)]
    return Quantity(
        name,
        severity,
        in_rounds(trials, lambda t: float(event(t))),
        limit,
        0.0,
        1.0,
        lambda bound: f"{len(found)} of {len(trials)} trials{what}, {interval(bound, 3)}",
        "share " + _at_most(limit, expected),
        found[0] if found else next(iter(trials), None),
        event,
    )


def gains(
    promises: Sequence[Promise], trials: Mapping[Channel, Sequence[Trial]], images: Iterable[str], metric: str
) -> list[Quantity]:
    """Whether more damage ever seems better, beyond noise: one severity after the other of each kind of channel.

    A trial without an image counts as the worst loss that the two severities declare, or refusing everything would
    look like an improvement. Round by round, the trials of one severity are held against those of the next.

    Args:
        promises: of the channels.
        trials: of each promised channel.
        images: the images' names; without damage none loses anything.
        metric: of the drops.
    """
    by_channel = {promise.channel: promise for promise in promises}
    names, found = list(images), []
    for ladder in ladders(trials):
        for less, more in zip([None, *ladder], ladder, strict=False):
            worst = max(by_channel[c].p5_drop for c in (less, more) if c is not None)
            least, most = min(best(metric), worst), max(worst, 0.0)

            def charged(trial: Trial, least: float = least, most: float = most) -> float:
                drop = trial.drop(metric)
                return most if drop is None else min(max(drop, least), most)

            after = _by_name(trials[more], names, charged)
            before = np.zeros_like(after) if less is None else _by_name(trials[less], names, charged)
            both = min(len(before), len(after))
            top = max(
                (t for t in trials[more] if t.drop(metric) is not None), key=lambda t: -t.drops[metric], default=None
            )
            found.append(
                Quantity(
                    "gain",
                    f"{'clean' if less is None else less} -> {more}",
                    before[:both] - after[:both],
                    noise(metric),
                    (0.0 if less is None else least) - most,
                    (0.0 if less is None else most) - least,
                    lambda bound: f"gains {interval(bound)}",
                    "no gain beyond noise",
                    top,
                    None,
                    share=False,
                    why=(f"best trial: photograph {top.image}, trial {top.number}, drop {top.drops[metric]:.2f}",)
                    if top is not None
                    else (),
                )
            )
    return found


def assess(
    profile: Profile, trials: Mapping[Channel, Sequence[Trial]], images: Iterable[str], metric: str, rule: Rule
) -> list[Assessment]:
    """Every promise of a profile, judged by one run's trials; and lines on images in general, where there are many.

    Args:
        profile: the promises.
        trials: of each of its channels.
        images: the images' names.
        metric: of the drops.
        rule: what evidence a verdict takes.
    """
    found = [q for p in profile.promises for q in quantities(p, trials[p.channel], metric)]
    found += [refused(profile, trials), *gains(profile.promises, trials, images, metric)]
    general = [line for p in profile.promises for line in in_general(p, trials[p.channel], metric)]
    return [*judge(found, rule), *general]


def in_general(promise: Promise, trials: Sequence[Trial], metric: str) -> list[Assessment]:
    """What the trials say of images in general, from :data:`GENERAL` images on: the mean drop, with Student's t."""
    values = by_image(trials, lambda t: None if (drop := t.drop(metric)) is None else min(drop, promise.p5_drop))
    if sum(map(bool, values.values())) < GENERAL:
        return []
    bound = statistics.mean_bound(values)
    error = f"too low for {TOO_LOW:.0%} of skewed sets of {GENERAL}"
    return [
        Assessment(
            "mean_drop",
            f"{promise.channel}, images in general",
            bound,
            promise.mean_drop,
            Verdict.NOTED,
            f"mean drop {interval(bound)}, from {len(values)} images; {error}",
            "",
            sum(map(len, values.values())),
            None,
            None,
        )
    ]


def _by_name(trials: Sequence[Trial], names: Sequence[str], value: Callable[[Trial], float]) -> Floats:
    rounds = np.full((max((t.number + 1 for t in trials), default=0), len(names)), math.nan)
    for trial in trials:
        rounds[trial.number, names.index(trial.image)] = value(trial)
    return rounds


def _mean(numbers: Floats) -> float:
    return float(np.nanmean(numbers)) if np.isfinite(numbers).any() else math.nan


def _charged(trials: Sequence[Trial], metric: str, promise: Promise) -> float:
    """The mean drop with each trial without an image as the worst loss that is declared, and none worse than it."""
    drops = (t.drop(metric) for t in trials)
    return _mean(np.array([promise.worst if drop is None else min(drop, promise.worst) for drop in drops]))


def worst_in_twenty(drops: Floats) -> float:
    """The drop that 95% of the trials do not exceed; infinite for a trial without an image."""
    found = np.sort(np.where(np.isnan(drops), math.inf, drops).ravel())
    return float(found[math.ceil(0.95 * len(found)) - 1]) if len(found) else math.nan


def _at_most(limit: float, expected: float | None) -> str:
    return f"at most {limit:g}" + (f" (expected {expected:g})" if expected is not None else "")


def _tail_declared(promise: Promise) -> str:
    share = 1 - allowed_beyond(promise.corrupted)
    if share <= 0:
        return "nothing: no trial need give an image"
    expected = promise.expected_p5_drop
    return f"at most {promise.p5_drop:g} in {100 * share:.3g}% of trials" + (
        f" (expected {expected:g})" if expected is not None else ""
    )


def _mean_in_words(bound: Bound, charged: float, without: int) -> str:
    if math.isnan(bound.estimate):
        return "no trial gave an image"
    said = f"mean drop {interval(bound)}"
    return said + (f"; {charged:.2f} with the {without} without an image charged" if without else "")


def _tail_in_words(bound: Bound, p5: float, beyond: int, trials: int) -> str:
    said = f"p5 drop {p5:.2f}" if math.isfinite(p5) else "p5: no image"
    return f"{said}; {beyond} of {trials} trials beyond the limit (up to {bound.high:.1%})"
