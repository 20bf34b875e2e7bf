"""Assessments: what a promise's trials amount to, which trial is shown, and what minimising must keep."""

import math
from dataclasses import replace

import numpy as np
import pytest

from robustkit import ErrorPattern, Outcome, Profile, Promise
from robustkit.channels import BSC, Burst
from robustkit.judging.assess import (
    assess_corrupted,
    assess_monotone,
    assess_quality,
    assess_refused,
    by_image,
    corrupted,
    interval,
    judge_share,
    mean_drop,
    p5_drop,
    refused,
)
from robustkit.judging.finding import Verdict
from robustkit.judging.trial import Trial
from robustkit.statistics import Bound

CHANNEL = BSC(1e-3)
PROMISE = Promise(CHANNEL, mean_drop=1.0, p5_drop=2.0, corrupted=0.1)
IMAGES = ("cat", "dog", "owl", "emu", "yak", "ape")


def trial(image, number, drop, *, channel=CHANNEL, outcome=None):
    """A trial that lost ``drop`` dB, or gave no image."""
    seen = outcome or (Outcome.REFUSED if drop is None else Outcome.DEGRADED)
    metrics, drops = ({}, {}) if drop is None else ({"psnr": 30.0 - drop}, {"psnr": drop})
    return Trial("x", image, channel, number, 0, ErrorPattern(8), seen, 1.0, 0.01, metrics, drops)


def run(drop, *, each=10, **more):
    """``each`` trials of each image; ``drop(place, number)`` is lost."""
    return [trial(image, n, drop(i, n), **more) for i, image in enumerate(IMAGES) for n in range(each)]


def test_a_kept_promise_has_both_its_quantities_and_its_worst_trial():
    trials = run(lambda i, n: 0.5 + 0.01 * i + 0.001 * n)
    mean, tail = assess_quality(PROMISE, trials, "psnr")
    assert (mean.quantity, tail.quantity) == ("mean_drop", "p5_drop")
    assert (mean.verdict, tail.verdict) == (Verdict.KEPT, Verdict.KEPT)
    assert mean.severity == tail.severity == "bsc(ber=0.001)"
    assert mean.worst == tail.worst
    assert (mean.worst.image, mean.worst.number) == ("ape", 9)
    assert mean.bound.estimate == pytest.approx(np.mean([t.drops["psnr"] for t in trials]))
    assert mean.numbers["trials"] == 60
    assert mean.numbers["declared"] == 1.0
    assert tail.numbers["p5_drop"] == pytest.approx(np.percentile([t.drops["psnr"] for t in trials], 95))
    assert mean.measured.startswith("mean drop 0.53 [")
    assert tail.declared == "at most 2 in 95% of trials"


def test_a_broken_mean_shows_a_trial_that_minimising_may_reduce():
    trials = run(lambda i, n: 3.0 + 0.01 * n)
    mean, tail = assess_quality(PROMISE, trials, "psnr")
    assert (mean.verdict, tail.verdict) == (Verdict.BROKEN, Verdict.BROKEN)
    assert mean.offends(mean.worst)
    assert not mean.offends(trial("cat", 0, 1.0))
    assert mean.offends(trial("cat", 0, 1.01))
    assert not mean.offends(trial("cat", 0, None))
    # The tail's trial must lose more than the tail's limit.
    assert not tail.offends(trial("cat", 0, 2.0))
    assert tail.offends(trial("cat", 0, 2.01))


def test_a_limit_within_the_interval_is_unproved():
    mean, _ = assess_quality(PROMISE, run(lambda i, n: 0.2 + 0.32 * i), "psnr")
    assert mean.verdict is Verdict.UNPROVED


def test_the_tail_is_judged_at_its_limit_and_one_in_twenty():
    tail = assess_quality(PROMISE, run(lambda i, n: 2.5 if n == 0 else 0.1), "psnr")[1]
    assert tail.bound.estimate == pytest.approx(0.1)
    assert tail.verdict is not Verdict.KEPT
    tail = assess_quality(PROMISE, run(lambda i, n: 2.0 if n == 0 else 0.1), "psnr")[1]
    assert (tail.bound.estimate, tail.verdict) == (0.0, Verdict.KEPT)


def test_a_gain_counts_as_what_it_is():
    mean, _ = assess_quality(PROMISE, run(lambda i, n: -0.5 if n % 2 else 0.5), "psnr")
    assert mean.bound.estimate == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("share", "loses", "verdict"),
    [
        (0.0, 2.5, Verdict.KEPT),
        # Of 60 trials none may be beyond a limit that 95% must keep; and a few more than that say nothing yet.
        (0.1, 2.5, Verdict.UNPROVED),
        (0.2, 2.5, Verdict.BROKEN),
        (0.2, 2.01, Verdict.BROKEN),
        (0.2, 1.99, Verdict.KEPT),
        (0.2, 40.0, Verdict.BROKEN),
    ],
)
def test_more_than_one_in_twenty_beyond_the_limit_breaks_the_tail(share, loses, verdict):
    tail = assess_quality(PROMISE, run(lambda i, n: loses if n < 10 * share else 0.1), "psnr")[1]
    assert tail.bound.estimate == pytest.approx(share if loses > 2.0 else 0.0)
    assert tail.verdict is verdict
    # Shares of trials all of them, and what is in dB says so.
    assert (tail.limit, tail.numbers["declared"]) == (0.05, 0.05)
    assert tail.numbers["p5_drop_declared"] == 2.0


@pytest.mark.parametrize(
    ("seen", "limit", "verdict"),
    [
        # The estimate is within the limit, and only the whole interval would prove it.
        (3, 0.06, Verdict.UNPROVED),
        (3, 0.15, Verdict.KEPT),
        (3, 0.04, Verdict.UNPROVED),
        (3, 0.009, Verdict.BROKEN),
        (0, 0.04, Verdict.UNPROVED),
        (0, 0.05, Verdict.KEPT),
        (60, 0.9, Verdict.BROKEN),
        (60, 1.0, Verdict.KEPT),
    ],
)
def test_a_share_is_judged_by_its_interval_and_not_by_its_estimate(seen, limit, verdict):
    promise = replace(PROMISE, corrupted=limit)
    # Spread over the images, as independent trials are.
    trials = run(lambda i, n: None if 6 * n + i < seen else 0.1)
    found = assess_corrupted(promise, trials)
    assert (found.bound.estimate, found.verdict) == (pytest.approx(seen / 60), verdict)
    profile = Profile(bpp=1.0, quality=20.0, refused=limit, promises=(PROMISE,))
    assert assess_refused(profile, trials).verdict is verdict


def test_the_tail_is_proved_by_no_less_than_95_of_a_hundred():
    """One of 60 beyond the limit leaves a share of a tenth possible, and that is not a twentieth."""
    tail = assess_quality(PROMISE, run(lambda i, n: 2.5 if i == n == 0 else 0.1), "psnr")[1]
    assert 0.09 < tail.bound.high < 0.1
    assert tail.verdict is Verdict.UNPROVED


def test_a_share_counts_what_was_seen_and_shows_the_first():
    trials = run(lambda i, n: None if i == 1 and n < 3 else 0.1)
    profile = Profile(bpp=1.0, quality=20.0, refused=0.5, promises=(PROMISE,))
    found = assess_refused(profile, trials)
    assert found.measured.startswith("3 of 60 trials, 0.050 [")
    assert found.worst is trials[10]
    assert assess_refused(profile, trials[:10]).worst is trials[0]
    assert assess_corrupted(PROMISE, trials[:10]).worst is trials[0]


def test_a_share_of_nothing_seen_is_unproved_at_a_limit_of_none():
    assert judge_share(Bound(math.nan, 0.0, 1.0), 0.0) is Verdict.UNPROVED
    assert judge_share(Bound(0.0, 0.0, 0.05), 0.0) is Verdict.KEPT
    assert judge_share(Bound(0.5, 0.4, 0.6), 0.0) is Verdict.BROKEN


def test_the_bounds_of_a_channel_are_of_its_trials():
    trials = run(lambda i, n: None if n == 9 else 0.1 * (n + 1))
    assert mean_drop(trials, "psnr").estimate == pytest.approx(0.5)
    assert corrupted(trials).estimate == refused(trials).estimate == pytest.approx(0.1)
    died = [trial(image, n, None, outcome=Outcome.CRASHED) for image in IMAGES for n in range(10)]
    assert (corrupted(died).estimate, refused(died).estimate) == (1.0, 0.0)


def test_the_5th_percentile_of_quality_is_the_95th_of_the_drop():
    """One trial in ten lost 9 dB: at the 80th or the 90th percentile it would not be seen."""
    assert p5_drop(run(lambda i, n: 9.0 if n == 0 else 1.0), "psnr").estimate == 9.0
    assert p5_drop(run(lambda i, n: 9.0 if n == 0 and i == 0 else 1.0), "psnr").estimate == 1.0
    # A trial without an image is no loss here: it is the corrupted share's.
    assert p5_drop(run(lambda i, n: None if n == 0 else 1.0), "psnr").estimate == 1.0
    assert p5_drop(run(lambda i, n: None if n else 1.0), "psnr").low == -math.inf
    hundred = run(lambda i, n: float(n), each=100)
    assert p5_drop(hundred, "psnr").estimate == 94.0


def test_without_any_image_there_is_a_note_and_numbers_are_still_numbers():
    (noted,) = assess_quality(PROMISE, run(lambda i, n: None), "psnr")
    assert (noted.verdict, noted.measured, noted.worst) == (Verdict.NOTED, "no trial gave an image", None)
    assert math.isnan(noted.numbers["estimate"])
    assert (noted.numbers["low"], noted.numbers["high"]) == (-math.inf, math.inf)
    assert (noted.numbers["trials"], noted.limit, noted.declared) == (0.0, 1.0, "1")
    assert noted.offends(trial("cat", 0, 1.1))
    assert not noted.offends(trial("cat", 0, None))


def test_images_without_an_image_are_left_out_of_the_mean():
    trials = run(lambda i, n: None if i == 0 else 0.5)
    mean, _ = assess_quality(PROMISE, trials, "psnr")
    assert mean.trials == 50
    assert mean.bound.estimate == 0.5


@pytest.mark.parametrize(("share", "verdict"), [(0, Verdict.KEPT), (1, Verdict.BROKEN), (10, Verdict.BROKEN)])
def test_a_corrupted_share_of_none_is_kept_until_one_is_seen(share, verdict):
    promise = replace(PROMISE, corrupted=0.0)
    trials = run(lambda i, n: None if 10 * i + n < share else 0.1)
    found = assess_corrupted(promise, trials)
    assert found.verdict is verdict
    assert found.measured.startswith(f"{share} of 60 trials")
    assert found.worst.outcome.corrupted == (share > 0)
    assert found.offends(trial("cat", 0, None, outcome=Outcome.CRASHED))


def test_only_refusals_count_as_refused():
    profile = Profile(bpp=1.0, quality=20.0, refused=0.0, promises=(PROMISE,))
    crashes = [trial(image, n, None, outcome=Outcome.CRASHED) for image in IMAGES for n in range(10)]
    found = assess_refused(profile, crashes)
    assert (found.verdict, found.bound.estimate, found.severity) == (Verdict.KEPT, 0.0, "all promises")
    assert not found.offends(crashes[0])
    assert assess_refused(profile, run(lambda i, n: None)).verdict is Verdict.BROKEN


def test_more_damage_that_helps_is_broken_by_the_best_trial():
    mild, harsh = BSC(1e-3), BSC(1e-2)
    trials = {
        harsh: run(lambda i, n: 0.5 + 0.01 * n, channel=harsh),
        mild: run(lambda i, n: 5.0 + 0.01 * n, channel=mild),
        Burst(32): run(lambda i, n: 1.0, channel=Burst(32)),
    }
    found = {a.severity: a for a in assess_monotone(trials, IMAGES, "psnr")}
    assert list(found) == [
        "clean -> bsc(ber=0.001)",
        "bsc(ber=0.001) -> bsc(ber=0.01)",
        "clean -> burst(length=32)",
    ]
    assert [a.verdict for a in found.values()] == [Verdict.KEPT, Verdict.BROKEN, Verdict.KEPT]
    broken = found["bsc(ber=0.001) -> bsc(ber=0.01)"]
    assert broken.worst.drops["psnr"] == 0.5
    assert broken.offends is None
    assert broken.why == ("best trial: photograph cat, trial 0, drop 0.50",)


def test_refusing_everything_is_no_improvement():
    mild, harsh = BSC(1e-3), BSC(1e-2)
    trials = {mild: run(lambda i, n: 5.0, channel=mild), harsh: run(lambda i, n: None, channel=harsh)}
    assert all(a.verdict is Verdict.KEPT for a in assess_monotone(trials, IMAGES, "psnr"))


def test_refusing_half_is_no_improvement():
    """A refusal counts as the worst that was seen, and not as a picture without any loss."""
    mild, harsh = BSC(1e-3), BSC(1e-2)
    trials = {
        mild: run(lambda i, n: 2.0, channel=mild),
        harsh: run(lambda i, n: None if n % 2 else 3.0, channel=harsh),
    }
    _, second = assess_monotone(trials, IMAGES, "psnr")
    assert second.bound.estimate == pytest.approx(-1.0)
    assert second.verdict is Verdict.KEPT
    assert (second.worst.drops["psnr"], second.trials) == (3.0, 60)


@pytest.mark.parametrize(("gain", "verdict"), [(0.04, Verdict.KEPT), (0.06, Verdict.BROKEN), (-1.0, Verdict.KEPT)])
def test_a_twentieth_of_a_decibel_is_noise(gain, verdict):
    mild, harsh = BSC(1e-3), BSC(1e-2)
    trials = {
        harsh: run(lambda i, n: 1.0 - gain, channel=harsh),
        mild: run(lambda i, n: 1.0, channel=mild),
    }
    first, second = assess_monotone(trials, IMAGES, "psnr")
    assert (first.bound.estimate, first.verdict) == (pytest.approx(-1.0), Verdict.KEPT)
    assert (second.bound.estimate, second.verdict) == (pytest.approx(gain), verdict)


@pytest.mark.parametrize(("gain", "verdict"), [(0.001, Verdict.KEPT), (0.003, Verdict.BROKEN)])
def test_on_a_scale_of_0_to_1_noise_is_smaller(gain, verdict):
    """0.05 dB is little, and 0.05 of SSIM or LPIPS is more than most codecs lose."""

    def seen(drop, channel):
        return [replace(t, drops={"ssim": drop}) for t in run(lambda i, n: drop, channel=channel)]

    mild, harsh = BSC(1e-3), BSC(1e-2)
    _, second = assess_monotone({mild: seen(0.1, mild), harsh: seen(0.1 - gain, harsh)}, IMAGES, "ssim")
    assert (second.verdict, second.limit) == (verdict, 0.002)


def test_a_picture_better_than_the_clean_one_is_broken():
    (found,) = assess_monotone({CHANNEL: run(lambda i, n: -0.2)}, IMAGES, "psnr")
    assert (found.severity, found.verdict) == ("clean -> bsc(ber=0.001)", Verdict.BROKEN)
    assert found.bound.estimate == pytest.approx(0.2)


def test_channels_that_gave_no_image_gain_nothing():
    (found,) = assess_monotone({CHANNEL: run(lambda i, n: None)}, IMAGES, "psnr")
    assert (found.verdict, found.worst, found.why) == (Verdict.KEPT, None, ())
    assert found.bound.estimate == 0.0


def test_values_are_gathered_by_image_and_none_is_left_out():
    trials = [trial("a", 0, 1.0), trial("b", 0, None), trial("a", 1, 2.0)]
    assert by_image(trials, lambda t: t.drop("psnr")) == {"a": [1.0, 2.0], "b": []}


def test_intervals_are_words():
    assert interval(Bound(1.234, 1.0, 1.5)) == "1.23 [1.00, 1.50]"
    assert interval(Bound(math.nan, -math.inf, math.inf)) == "no image to measure"
