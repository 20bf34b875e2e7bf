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
    interval,
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


def test_without_any_image_there_is_a_note_and_numbers_are_still_numbers():
    (noted,) = assess_quality(PROMISE, run(lambda i, n: None), "psnr")
    assert (noted.verdict, noted.measured, noted.worst) == (Verdict.NOTED, "no trial gave an image", None)
    assert math.isnan(noted.numbers["estimate"])


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


def test_values_are_gathered_by_image_and_none_is_left_out():
    trials = [trial("a", 0, 1.0), trial("b", 0, None), trial("a", 1, 2.0)]
    assert by_image(trials, lambda t: t.drop("psnr")) == {"a": [1.0, 2.0], "b": []}


def test_intervals_are_words():
    assert interval(Bound(1.234, 1.0, 1.5)) == "1.23 [1.00, 1.50]"
    assert interval(Bound(math.nan, -math.inf, math.inf)) == "no image to measure"
