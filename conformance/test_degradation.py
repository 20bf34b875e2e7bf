"""Quality degrades no further than declared: seeded trials, and bounds clustered by image, for every promise."""

import numpy as np
import pytest

from robustkit import channels, statistics
from robustkit.statistics import Verdict

#: Share of trials that may lose more than a promise's ``p5_drop``.
ONE_IN_TWENTY = 0.05
#: By how much (dB, or the metric's unit) more damage may seem to help before it is called better.
NOISE = 0.05


def by_image(trials, value):
    """``value(trial)`` of each trial, gathered by image; ``None`` is left out."""
    values = {trial.image: [] for trial in trials}
    for trial in trials:
        found = value(trial)
        if found is not None:
            values[trial.image].append(found)
    return {image: np.array(found) for image, found in values.items()}


def interval(bound, digits=2):
    """The estimate with its one-sided 95% bounds, as text."""
    if np.isnan(bound.estimate):
        return "no image to measure"
    return f"{bound.estimate:.{digits}f} [{bound.low:.{digits}f}, {bound.high:.{digits}f}]"


def settle(claim, verdict, measured, declared, *, severity, numbers, offender, still):
    """Put a judged bound into the table; where it is broken, show the worst trial reduced to what matters."""
    if verdict is Verdict.KEPT:
        claim.kept(measured, declared, severity=severity, numbers=numbers)
    elif verdict is Verdict.UNPROVED:
        claim.unproved(measured, declared, severity=severity, numbers=numbers, trial=offender)
    else:
        why, last = claim.worst(offender, still)
        claim.broken(measured, declared, severity=severity, numbers=numbers, why=why, last=last)


def numbers_of(bound, declared, trials):
    return {
        "estimate": bound.estimate,
        "low": bound.low,
        "high": bound.high,
        "declared": declared,
        "trials": float(len(trials)),
    }


def test_quality_degrades_within_the_declared_thresholds(promised, claim):
    """Catches a codec that loses more quality under damage than it declares, on average or in the worst trials."""
    for promise in promised.profile.promises:
        trials = promised.trials(promise.channel)
        with_image = [t for t in trials if t.drop is not None]
        if not with_image:
            claim.note("noted", "no trial gave an image", f"{promise.mean_drop:g}", severity=promise.channel)
            continue
        worst = max(with_image, key=lambda t: t.drop)
        bound = statistics.mean_bound(by_image(trials, lambda t: t.drop))
        settle(
            claim,
            statistics.judge(bound, promise.mean_drop),
            f"mean drop {interval(bound)}",
            f"at most {promise.mean_drop:g}",
            severity=promise.channel,
            numbers=numbers_of(bound, promise.mean_drop, with_image),
            offender=worst,
            still=lambda t, limit=promise.mean_drop: t.drop is not None and t.drop > limit,
        )
        limit = promise.p5_drop
        beyond = statistics.share_bound(by_image(trials, lambda t, limit=limit: t.drop is not None and t.drop > limit))
        drop = np.percentile([t.drop for t in with_image], 95)
        settle(
            claim,
            statistics.judge(beyond, ONE_IN_TWENTY),
            f"p5 drop {drop:.2f}; {beyond.estimate:.1%} of trials beyond the limit (up to {beyond.high:.1%})",
            f"at most {limit:g} in 95% of trials",
            severity=promise.channel,
            numbers={**numbers_of(beyond, limit, with_image), "p5_drop": float(drop)},
            offender=worst,
            still=lambda t, limit=limit: t.drop is not None and t.drop > limit,
        )


def test_corrupted_share_stays_within_the_declared(promised, claim):
    """Catches a codec that gives no usable image more often than it declares."""
    for promise in promised.profile.promises:
        trials = promised.trials(promise.channel)
        bound = statistics.share_bound(by_image(trials, lambda t: t.outcome.corrupted))
        corrupted = [t for t in trials if t.outcome.corrupted]
        settle(
            claim,
            statistics.judge_share(bound, promise.corrupted),
            f"{len(corrupted)} of {len(trials)} trials, {interval(bound, 3)}",
            f"share at most {promise.corrupted:g}",
            severity=promise.channel,
            numbers=numbers_of(bound, promise.corrupted, trials),
            offender=corrupted[0] if corrupted else trials[0],
            still=lambda t: t.outcome.corrupted,
        )


def test_refused_share_stays_within_the_declared(promised, claim):
    """Catches a codec that saves its quality figures by refusing whatever is damaged."""
    everything = [t for p in promised.profile.promises for t in promised.trials(p.channel)]
    bound = statistics.share_bound(by_image(everything, lambda t: t.outcome.value == "refused"))
    refused = [t for t in everything if t.outcome.value == "refused"]
    settle(
        claim,
        statistics.judge_share(bound, promised.profile.refused),
        f"{len(refused)} of {len(everything)} trials, {interval(bound, 3)}",
        f"share at most {promised.profile.refused:g}",
        severity="all promises",
        numbers=numbers_of(bound, promised.profile.refused, everything),
        offender=refused[0] if refused else everything[0],
        still=lambda t: t.outcome.value == "refused",
    )


def test_trials_never_crash_the_decoder(promised, claim):
    """Catches a decoder that crashes, hangs or raises under the very damage that its profile speaks of."""
    everything = [t for p in promised.profile.promises for t in promised.trials(p.channel)]
    known = [t for t in everything if t.outcome in promised.known_defects]
    if known:
        measured = f"{len(known)} of {len(everything)} trials: {known[0].outcome}"
        claim.known(known[0].outcome, measured, severity=known[0].channel, last=claim.replay_trial(known[0]))
    failed = [t for t in everything if t.outcome.failure and t not in known]
    if not failed and known:
        return
    if not failed:
        claim.kept(f"0 of {len(everything)} trials", "no failure", numbers={"trials": float(len(everything))})
        return
    first = failed[0]
    why, last = claim.worst(first, lambda t: t.outcome is first.outcome)
    claim.broken(
        f"{len(failed)} of {len(everything)} trials: {', '.join(sorted({t.outcome.value for t in failed}))}",
        "no failure",
        severity=first.channel,
        why=why,
        last=last,
        numbers={"trials": float(len(everything)), "failures": float(len(failed))},
    )


def test_more_damage_is_never_better(promised, claim):
    """Catches a decoder that stops listening to its input once it looks damaged, or figures that can't be right."""
    names = {channels.parse(p.channel): p.channel for p in promised.profile.promises}
    every = [t for name in names.values() for t in promised.trials(name)]
    # A trial without an image counts as the worst loss seen, or refusing everything would look like an improvement.
    worst = max((t.drop for t in every if t.drop is not None), default=0.0)
    for ladder in channels.ladders(names):
        less_name, less = "clean", {image: np.zeros(1) for image in promised.clean}
        for channel in ladder:
            trials = promised.trials(names[channel])
            more = by_image(trials, lambda t: worst if t.drop is None else t.drop)
            bound = statistics.improvement_bound(less, more)
            numbers = {"estimate": bound.estimate, "low": bound.low, "high": bound.high}
            severity = f"{less_name} -> {channel}"
            measured = f"gains {interval(bound)}"
            if statistics.judge(bound, NOISE) is Verdict.BROKEN:
                best = min((t for t in trials if t.drop is not None), key=lambda t: t.drop)
                claim.broken(
                    measured,
                    "no gain beyond noise",
                    severity=severity,
                    numbers=numbers,
                    why=[f"best trial: photograph {best.image}, trial {best.number}, drop {best.drop:.2f}"],
                    last=claim.replay_trial(best),
                )
            else:
                claim.kept(measured, "no gain beyond noise", severity=severity, numbers=numbers)
            less_name, less = str(channel), more
    if not names:
        pytest.skip("the profile promises nothing")
