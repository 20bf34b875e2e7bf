"""The instrument's error rates: the simulation judges as the suite does, and its figures are what they must be."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from robustkit import ErrorPattern, Outcome, Profile, Promise
from robustkit.certificates import power
from robustkit.channels import parse
from robustkit.judging import assess
from robustkit.judging.assess import Rule
from robustkit.judging.finding import Verdict
from robustkit.judging.trial import Trial

IMAGES = 6
CHANNEL = parse("bsc(ber=0.001)")
PROMISE = Promise("bsc(ber=0.001)", mean_drop=2.0, p5_drop=8.0, corrupted=0.1)


def trials(drops):
    """Rounds x images; NaN was refused."""
    return [
        Trial(
            *("codec", f"image {image}", CHANNEL, number, 0, ErrorPattern(8)),
            Outcome.REFUSED if math.isnan(drop) else Outcome.DEGRADED,
            *(1.0, 0.01),
            *([{}, {}] if math.isnan(drop) else [{"psnr": 30 - drop}, {"psnr": float(drop)}]),
        )
        for number, row in enumerate(drops)
        for image, drop in enumerate(row)
    ]


def profile(promise=PROMISE):
    return Profile(bpp=1.0, quality=25.0, refused=0.5, promises=(promise,))


def some(rounds=24, mean=1.5, lost=0.05, key=0):
    rng = np.random.default_rng(key)
    drops = rng.normal(mean, 0.5, (rounds, IMAGES))
    drops = np.where(rng.random(drops.shape) < 0.03, 10.0, drops)
    return np.where(rng.random(drops.shape) < lost, math.nan, drops)


@pytest.mark.parametrize(("mean", "lost"), [(1.5, 0.05), (2.2, 0.05), (1.8, 0.1), (1.0, 0.2), (1.5, 0.0)])
@pytest.mark.parametrize("corrupted", [0.0, 0.1])
def test_simulated_runs_are_judged_as_the_suite_judges_them(mean, lost, corrupted):
    promise = replace(PROMISE, corrupted=corrupted, catastrophe=9.0, catastrophes=0.05)
    rule = Rule.of(profile(promise), 144)
    runs = np.stack([some(24, mean, lost, key) for key in range(12)])
    limits = power._limits(promise, trials(runs[0]), "psnr")
    told = power._good(promise, limits, runs, rule)
    for run, good in zip(runs, told, strict=True):
        found = []
        # As judging.subject runs them: some rounds, then a few more, until all is decided.
        for asked in power._asked(assess.first_look(promise), 24, IMAGES):
            found = assess.quantities(promise, trials(run[:asked]), "psnr")
            if all(quantity.decided(rule) for quantity in found):
                break
        verdicts = [quantity.judged(rule).verdict for quantity in found]
        assert good == all(verdict in (Verdict.KEPT, Verdict.NOT_DISPROVED) for verdict in verdicts), verdicts


def rates(promise, drops):
    whole = profile(promise)
    found = power.rates(whole, {CHANNEL: trials(drops)}, "psnr", Rule.of(whole, 144), rounds=24, runs=60)
    return {rate.what: rate for rate in found}


def named(found, words):
    (rate,) = [rate for what, rate in found.items() if words in what]
    return rate


def test_a_larger_loss_is_caught_more_often_and_a_loss_of_everything_always():
    found = rates(PROMISE, some())
    half, whole = named(found, "0.5 dB"), named(found, "1 dB")
    assert half.how == whole.how == "simulated"
    assert half.rate <= whole.rate
    assert whole.rate == 1
    assert whole.low < 1 == whole.high
    alarm = named(found, "at its limits")
    assert (alarm.how, alarm.high) == ("bound", 0.01)
    compared = power.compared(list(found.values()))
    assert compared[0].high == compared[0].rate == pytest.approx(0.02)
    assert list(compared[1:]) == list(found.values())[1:]


def test_where_nothing_may_be_lost_the_chance_is_computed():
    drops = some(lost=0)
    rate = named(rates(replace(PROMISE, corrupted=0.0), drops), "in one trial of 100")
    assert rate.how == "exact"
    assert rate.rate == pytest.approx(1 - 0.99**drops.size)
    assert rate.low == rate.high == rate.rate


def test_a_promise_that_nothing_can_break_has_no_rate():
    vacuous = replace(PROMISE, mean_drop=8.0, corrupted=1.0)
    assert list(rates(vacuous, some())) == ["a codec exactly at its limits is called broken"]
    assert power.rates(Profile(bpp=1.0, quality=25.0), {}, "psnr", Rule(), rounds=24) == []


def test_moved_losses_have_the_mean_that_is_asked_for():
    drops = some(mean=3.0)
    (limit, *_) = power._limits(PROMISE, trials(drops), "psnr")
    moved = power._moved(drops, PROMISE, limit, 0.5)
    assert np.nanmean(limit.numbers(moved, PROMISE)) == pytest.approx(2.5)


@pytest.mark.parametrize(("caught", "runs"), [(0, 40), (1, 40), (39, 40), (40, 40), (397, 400), (1, 1)])
def test_a_simulated_rate_has_the_exact_interval(caught, runs):
    (found,) = power._least("it", [power._Rate(caught / runs, runs, CHANNEL)])
    exact = stats.binomtest(caught, runs).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert (found.rate, found.runs) == (caught / runs, runs)
