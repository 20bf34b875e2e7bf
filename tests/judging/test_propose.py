"""Proposed profiles: fresh runs of the suite prove them, and disprove tighter ones; declared ones are told how tight.

tests/cli/test_cli_measure.py has the suite itself prove one.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import ErrorPattern, Outcome, Profile, Promise, quality
from robustkit.channels import parse
from robustkit.judging.assess import Rule, judge, quantities, refused
from robustkit.judging.finding import Verdict
from robustkit.judging.propose import (
    ProposalError,
    as_python,
    examine,
    floor,
    least_trials,
    propose,
    remark,
    rounded_up,
)
from robustkit.judging.trial import Trial
from robustkit.quality import Metric

IMAGES = ("astronaut", "chelsea", "coffee", "ihc", "motorcycle", "rocket")
BSC, HARDER, CUT = map(parse, ("bsc(ber=0.001)", "bsc(ber=0.1)", "truncation(keep=0.5)"))


def drawn(seed, per_image, *, share=0.0, scale=1.0, channel=BSC, metric="psnr"):
    """Trials of a codec that loses about ``scale`` dB, images alike to a fifth, and refuses ``share`` of streams."""
    rng = np.random.default_rng(seed)
    trials = []
    for place, image in enumerate(IMAGES):
        drops = scale * (0.8 + 0.08 * place) * rng.gamma(16, 1 / 16, per_image)
        for number, (drop, lost) in enumerate(zip(drops, rng.random(per_image) < share, strict=True)):
            outcome = Outcome.REFUSED if lost else Outcome.DEGRADED
            found = {} if lost else {metric: float(drop)}
            trials.append(
                Trial("drawn", image, channel, number, 0, ErrorPattern(8), outcome, 0.4, 0.01, found, dict(found))
            )
    return trials


def tightened(profile, by=0.8):
    promises = [
        Promise(p.channel, by * p.mean_drop, by * p.p5_drop, min(1.0, by * p.corrupted), p.catastrophe)
        if p.catastrophe is None or p.catastrophe >= by * p.p5_drop
        else Promise(p.channel, by * p.mean_drop, by * p.p5_drop, min(1.0, by * p.corrupted))
        for p in profile.promises
    ]
    return replace(profile, refused=min(1.0, by * profile.refused), promises=tuple(promises), expected_refused=None)


def verdicts(profile, trials):
    """What the suite says of a profile with one promise."""
    (promise,) = profile.promises
    found = [*quantities(promise, trials, profile.metric), refused(profile, {promise.channel: trials})]
    return {a.quantity: a.verdict for a in judge(found, Rule.of(profile, 144))}


@pytest.fixture
def few_runs(monkeypatch):
    """Where it doesn't matter how many runs are played through."""
    monkeypatch.setattr("robustkit.judging.propose.RUNS", 20)


# -- proposing


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.15])
def test_fresh_runs_keep_the_proposal_and_no_tighter_mean(share):
    profile, limits = propose({BSC: drawn(1, 100, share=share)}, bpp=0.4, quality=28.0)
    runs = [drawn(100 + run, 24, share=share) for run in range(200)]
    whole = sum(all(verdict.good for verdict in verdicts(profile, run).values()) for run in runs)
    assert whole >= 194
    mean = next(limit for limit in limits if limit.quantity == "mean_drop")
    promise = replace(profile.promises[0], mean_drop=0.8 * mean.value, expected_mean_drop=None)
    tighter = replace(profile, promises=(promise,))
    kept = sum(verdicts(tighter, run)["mean_drop"] is Verdict.KEPT for run in runs[:100])
    # What is said of the proposal is what fresh trials show.
    assert abs(kept / 100 - mean.tighter_kept) < 0.2


@pytest.mark.slow
def test_what_is_said_to_be_caught_is_caught_by_fresh_runs():
    trials = drawn(1, 100)
    profile, (mean, *_) = propose({BSC: trials}, bpp=0.4, quality=28.0)
    assert 0.05 < mean.caught < 1.0
    caught = 0
    for run in range(100):
        worse = [replace(t, drops={"psnr": t.drops["psnr"] + mean.caught}) for t in drawn(300 + run, 60)]
        caught += not all(verdict.good for verdict in verdicts(profile, worse).values())
    assert caught >= 96


def test_the_proposal_is_no_looser_than_what_was_measured_asks():
    trials = drawn(2, 50)
    profile, limits = propose({BSC: trials}, bpp=0.39, quality=28.03)
    (promise,) = profile.promises
    drops = [t.drop("psnr") for t in trials]
    assert np.mean(drops) < promise.mean_drop < 1.4 * np.mean(drops)
    assert max(drops) < promise.p5_drop < 1.4 * max(drops)
    assert (profile.bpp, profile.quality, profile.refused, promise.corrupted) == (0.39, 28.0, 0.0, 0.0)
    assert all(limit.kept >= 0.99 for limit in limits)
    assert all(limit.first.good for limit in limits)
    # What the codec does stands beside the limits.
    assert promise.expected_mean_drop == pytest.approx(np.mean(drops), rel=0.01)
    assert promise.expected_p5_drop == pytest.approx(np.quantile(drops, 0.95), rel=0.02)
    assert (promise.expected_corrupted, profile.expected_refused) == (0.0, 0.0)
    # A grey picture, which loses half of the quality, is one.
    assert 1.25 * promise.p5_drop < promise.catastrophe < 14


@pytest.mark.usefixtures("few_runs")
def test_a_loss_near_zero_is_promised_at_the_floor():
    profile, limits = propose({BSC: drawn(3, 20, scale=0.001)}, bpp=0.4, quality=28.0)
    assert profile.promises[0].mean_drop == floor("psnr") == 0.05
    assert {remark(limit) for limit in limits if limit.quantity.endswith("drop")} == {"at the floor of 0.05"}
    assert remark(limits[-1]) == "never seen in 120 trials"


@pytest.mark.usefixtures("few_runs")
@pytest.mark.parametrize(("lost", "catastrophe"), [(2.0, 2.5), (20.0, None)])
def test_what_was_seen_once_is_no_catastrophe_that_never_comes(lost, catastrophe):
    """Nothing else is lost, so the tail is short; and the limits are not slackened for that one trial."""
    trials = drawn(3, 300, scale=0.0)
    trials[7] = replace(trials[7], drops={"psnr": lost})
    profile, limits = propose({BSC: trials}, bpp=0.4, quality=28.0)
    (promise,) = profile.promises
    assert promise.catastrophe == catastrophe
    assert promise.p5_drop < 0.1
    assert (promise.corrupted, profile.refused) == (0.0, 0.0)
    assert all(limit.kept == 1.0 for limit in limits)


@pytest.mark.usefixtures("few_runs")
def test_a_channel_that_gives_no_image_is_not_promised():
    measured = {CUT: drawn(4, 20, share=1.0, channel=CUT), BSC: drawn(4, 20)}
    profile, limits = propose(measured, bpp=1, quality=9)
    assert [p.channel for p in profile.promises] == [BSC]
    # Nor do its refusals count among those of the promises.
    assert profile.refused == 0.0
    assert {limit.channel for limit in limits} == {BSC, None}


def test_what_was_never_seen_may_come_where_it_does_elsewhere():
    """A codec that never fails is promised never to; of one that fails on one channel, hardly the same is known."""
    profile, _ = propose({HARDER: drawn(4, 50, share=0.2, channel=HARDER), BSC: drawn(4, 50)}, bpp=1, quality=9)
    limits = {promise.channel: promise.corrupted for promise in profile.promises}
    assert limits[HARDER] > 0.2
    assert 0.02 < limits[BSC] < 0.15


def test_a_channel_that_gives_hardly_an_image_is_not_promised():
    nearly_all_refused = drawn(4, 20, share=0.97, channel=HARDER)
    profile, limits = propose({HARDER: nearly_all_refused, BSC: drawn(4, 20)}, bpp=1, quality=9)
    assert [p.channel for p in profile.promises] == [BSC]
    assert profile.refused == 0.0
    assert {limit.channel for limit in limits} == {BSC, None}


def test_where_every_trial_may_be_lost_the_mean_still_says_something():
    (promise,) = propose({BSC: drawn(0, 50, share=0.88, scale=8.0)}, bpp=0.4, quality=30.0)[0].promises
    assert promise.corrupted == 1
    assert promise.expected_mean_drop == pytest.approx(8, rel=0.1)
    assert promise.p5_drop > promise.mean_drop > promise.expected_mean_drop


def test_where_nothing_gives_an_image_only_rate_and_quality_are_promised():
    profile, limits = propose({CUT: drawn(4, 20, share=1.0, channel=CUT)}, bpp=1.2345, quality=9.06)
    assert profile == Profile(bpp=1.235, quality=9.0)
    assert limits == []


def test_too_few_trials_to_decide_anything():
    with pytest.raises(ProposalError) as failed:
        propose({BSC: drawn(5, 10)}, bpp=0.4, quality=28.0)
    assert str(failed.value) == (
        "bsc(ber=0.001): 10 trials of an image are too few to decide anything: give --trials 11 or more"
    )
    assert [least_trials(images) for images in (1, 6, 7, 100)] == [66, 11, 10, 1]


@pytest.mark.usefixtures("few_runs")
@pytest.mark.parametrize(
    ("higher_is_better", "clean", "promised"), [(True, 0.9123, 0.911), (False, 0.1234, 0.124), (False, 0.0, 0.001)]
)
def test_metrics_other_than_decibels_have_their_own_steps(monkeypatch, higher_is_better, clean, promised):
    monkeypatch.setitem(quality._OWN, "toy", Metric("toy", higher_is_better=higher_is_better))
    profile, limits = propose({BSC: drawn(6, 20, scale=1e-5, metric="toy")}, bpp=0.4, quality=clean, metric="toy")
    assert (profile.metric, profile.quality) == ("toy", promised)
    assert profile.promises[0].mean_drop == floor("toy") == 0.002
    assert remark(limits[0], "toy") == "at the floor of 0.002"
    # Trials measured by one metric say nothing about another.
    assert propose({BSC: drawn(6, 20, metric="toy")}, bpp=0.4, quality=30.0)[0].promises == ()


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.3, 0.3), (0.301, 0.305), (1.01, 1.05), (17.2, 17.5), (0.05, 0.05), (9.99, 10.0), (0.0, 0.0)],
)
def test_limits_are_rounded_up_to_two_digits(value, rounded):
    assert rounded_up(value) == rounded


@given(st.floats(1e-6, 1e6))
def test_rounding_up_allows_little_more_and_never_less(value):
    found = rounded_up(value)
    assert value * (1 - 1e-6) <= found <= 1.06 * value
    # Two digits, the second in halves.
    halves = 2 * found / 10.0 ** (math.floor(math.log10(found)) - 1)
    assert halves == pytest.approx(round(halves), abs=1e-6)
    assert rounded_up(found) == found


# -- examining


@pytest.fixture(scope="module")
def measured():
    return {BSC: drawn(7, 30, share=0.15)}


@pytest.fixture(scope="module")
def proposed(measured):
    return propose(measured, bpp=0.4, quality=28.0)


def test_a_tight_profile_is_kept_and_is_not_loose(measured, proposed):
    profile, limits = proposed
    found = examine(profile, measured)
    # What was said when it was proposed.
    assert found == limits
    assert [limit.quantity for limit in found] == ["mean_drop", "p5_drop", "corrupted", "catastrophes", "refused"]
    assert all(limit.first.good for limit in found)
    assert not found[0].loose
    assert [limit.caught is None for limit in found] == [False, True, True, True, True]


def test_a_loose_profile_is_kept_and_said_to_be_loose(measured, proposed):
    found = {limit.quantity: limit for limit in examine(tightened(proposed[0], by=2.0), measured)}
    assert all(limit.first.good and limit.kept == 1.0 for limit in found.values())
    assert all(found[quantity].loose for quantity in ("mean_drop", "p5_drop", "corrupted", "refused"))
    # And the looser it is, the worse must a codec get before it is caught.
    assert found["mean_drop"].caught > 2 * proposed[1][0].caught


def test_a_broken_profile_is_not_kept(measured, proposed):
    found = {limit.quantity: limit for limit in examine(tightened(proposed[0], by=0.2), measured)}
    assert found["mean_drop"].kept == found["p5_drop"].kept == 0.0
    assert {found["mean_drop"].first, found["p5_drop"].first} <= {Verdict.BROKEN, Verdict.UNPROVED}
    assert found["p5_drop"].first is Verdict.BROKEN
    assert not found["mean_drop"].loose


@pytest.mark.usefixtures("few_runs")
def test_what_is_said_of_the_measured_trials_is_what_the_suite_says(measured, proposed):
    for by in (0.3, 0.6, 0.8, 0.9, 1.0):
        profile = tightened(proposed[0], by=by)
        assert {limit.quantity: limit.first for limit in examine(profile, measured)} == verdicts(profile, measured[BSC])


@pytest.mark.usefixtures("few_runs")
def test_a_promise_under_which_nothing_gives_an_image_is_noted():
    profile = Profile(0.4, 28.0, refused=1.0, promises=(Promise(CUT, mean_drop=9.0, p5_drop=9.0, corrupted=1.0),))
    found = {limit.quantity: limit for limit in examine(profile, {CUT: drawn(8, 12, share=1.0, channel=CUT)})}
    mean = found["mean_drop"]
    assert (mean.first, mean.caught, remark(mean)) == (Verdict.NOTED, None, "no trial gave an image")
    assert {found[q].first for q in ("p5_drop", "corrupted", "refused")} == {Verdict.KEPT}


@pytest.mark.usefixtures("few_runs")
def test_of_channels_that_were_not_measured_nothing_is_said(measured, proposed):
    profile = proposed[0]
    more = replace(profile, promises=(*profile.promises, Promise(CUT, mean_drop=9.0, p5_drop=9.0)))
    found, alone = (examine(p, measured) for p in (more, profile))
    # The refused share is of all promises together: a part of them doesn't tell.
    assert [(limit.quantity, limit.first) for limit in found] == [(limit.quantity, limit.first) for limit in alone[:-1]]


def test_examining_needs_the_trials_that_decide_a_clear_case(proposed):
    with pytest.raises(ProposalError, match="10 trials of an image are too few"):
        examine(proposed[0], {BSC: drawn(5, 10)})


# -- writing it down


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_the_python_text_is_the_profile(metric):
    promises = (
        Promise("gilbert-elliott(ber=0.001, burst=16)", mean_drop=1.05, p5_drop=3, corrupted=0.0205),
        Promise("header-bsc(ber=1e-05)", mean_drop=0.05, p5_drop=17.5),
    )
    for profile in (Profile(0.4, 28.0, 0.5, promises, metric), Profile(1, 28.05, metric=metric)):
        names = {"Profile": Profile, "Promise": Promise}
        text = as_python(profile)
        exec(text, names)
        assert names["profile"] == profile
        assert ("metric" in text) == (metric != "psnr")
        assert "'" not in text


def test_the_python_text_reads_as_the_code_around_it():
    profile = Profile(0.4, 0.9, promises=(Promise("bsc(ber=0.001)", mean_drop=0.1, p5_drop=0.2),), metric="ssim")
    assert as_python(profile).splitlines() == [
        "profile = Profile(",
        "    bpp=0.4,",
        "    quality=0.9,",
        "    refused=0.0,",
        '    metric="ssim",',
        "    promises=(",
        '        Promise("bsc(ber=0.001)", mean_drop=0.1, p5_drop=0.2, corrupted=0.0),',
        "    ),",
        ")",
    ]
