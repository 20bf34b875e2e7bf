"""Means as published, intervals beside them, both conventions, exact shares; nothing is averaged over infinities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from kept_rows import real, real_grey, results, row
from scipy import stats

from robustkit import statistics
from robustkit.experiments import intervals, text


def point_of(values, **more):
    """Trials of one codec: by image, PSNR a trial, ``None`` where there is no image."""
    found = results(
        [
            row("a", image, "bsc(ber=0.01)", trial, psnr=value)
            for image, trials in values.items()
            for trial, value in enumerate(trials)
        ],
        **more,
    )
    return found.points["a", "bsc(ber=0.01)"], found.metric("psnr")


def test_the_mean_and_the_deviation_are_pooled_as_published():
    point, measure = point_of({"i": [10.0, 20.0, None], "j": [30.0]})
    found = intervals.left_out(point, measure)
    assert (found.trials, found.counted, found.identical) == (4, 3, 0)
    assert found.mean == 20.0
    assert found.sd == pytest.approx(np.std([10, 20, 30], ddof=1))
    # Beside them: the mean over images, with images as clusters.
    assert found.bound == statistics.mean_bound({"i": [10.0, 20.0], "j": [30.0]}, two_sided=True)
    assert found.bound.estimate == 22.5


def test_the_published_means_come_out_of_real_rows():
    found = real()
    point, measure = found.points["jpeg", "bsc(ber=0.001)"], found.metric("psnr")
    values = point.metrics["psnr"][point.has_image]
    summary = intervals.left_out(point, measure)
    assert 0 < len(values) < 24
    assert summary.mean == pytest.approx(values.mean())
    assert summary.sd == pytest.approx(values.std(ddof=1))
    assert summary.bound.low < summary.bound.estimate < summary.bound.high


def test_a_lost_image_is_charged_as_its_own_mid_grey():
    point, measure = point_of({"i": [10.0, None], "j": [None, None]})
    found = intervals.charged(point, measure, {"i": 6.0, "j": 8.0})
    assert found is not None
    assert (found.counted, found.mean) == (4, 8.0)
    assert intervals.charged(point, measure, {"i": 6.0}) is None
    assert intervals.left_out(point, measure).mean == 10.0


def test_charging_is_never_better_than_leaving_out_on_real_rows():
    found, grey = real(), real_grey()["psnr"]
    measure = found.metric("psnr")
    seen = 0
    for entry in ("jpeg", "webp", "jpeg2000@q30"):
        point = found.points[entry, "bsc(ber=0.001)"]
        charged, left = intervals.charged(point, measure, grey), intervals.left_out(point, measure)
        assert charged is not None
        assert charged.counted == 24
        seen += charged.mean < left.mean
    assert seen == 3


def test_equal_images_are_counted_and_not_averaged():
    point, measure = point_of({"i": [math.inf, 100.0, 20.0], "j": [30.0]})
    found = intervals.left_out(point, measure)
    assert (found.counted, found.identical, found.mean) == (2, 2, 25.0)
    assert text.spread(found, measure) == "25.00 ± 7.07 (2 identical left out)"
    point, measure = point_of({"i": [100.0, 100.0], "j": [math.inf]})
    found = intervals.left_out(point, measure)
    assert math.isnan(found.mean)
    assert text.spread(found, measure) == "∞ (3 identical)"


def test_real_lossless_rows_have_no_mean():
    found = real()
    summary = intervals.left_out(found.points["png", "clean"], found.metric("psnr"))
    assert (summary.counted, summary.identical) == (0, 6)


def test_an_image_that_was_not_measured_is_no_zero():
    point, measure = point_of({"i": [10.0, 12.0]})
    point.metrics["psnr"][0] = math.nan
    found = intervals.left_out(point, measure)
    assert (found.counted, found.unmeasured, found.mean) == (1, 1, 12.0)
    assert text.spread(found, measure) == "12.00 (1 not measured)"


def test_none_of_n_is_an_upper_bound():
    point, _ = point_of({f"i{n}": [30.0] * 10 for n in range(6)})
    share = intervals.corrupted(point)
    assert share.none
    assert share.bound.high == pytest.approx(1 - 0.05 ** (1 / 60))
    assert share.bound.low == 0
    assert text.counted(share) == "0 of 60: ≤ 4.87%"
    assert text.short(share) == "0.00 (≤ 4.87)"


def test_all_of_n_is_a_lower_bound():
    point, _ = point_of({f"i{n}": [None] * 10 for n in range(6)})
    share = intervals.corrupted(point)
    assert share.bound.low == pytest.approx(0.05 ** (1 / 60))
    assert text.counted(share) == "60 of 60: ≥ 95.13%"


def test_shares_of_one_image_are_clopper_and_pearsons():
    point, _ = point_of({"i": [None] * 3 + [30.0] * 17})
    share = intervals.corrupted(point)
    exact = stats.binomtest(3, 20).proportion_ci(0.95, "exact")
    assert (share.bound.low, share.bound.high) == pytest.approx((exact.low, exact.high))
    assert text.counted(share) == "3 of 20: 15.00% [3.21%, 37.89%]"


def test_shares_of_unlike_images_are_less_sure():
    alike, _ = point_of({f"i{n}": [None] * 2 + [30.0] * 8 for n in range(5)})
    unlike, _ = point_of({f"i{n}": [None if n == 0 else 30.0] * 10 for n in range(5)})
    one, two = intervals.corrupted(alike), intervals.corrupted(unlike)
    assert one.events == two.events == 10
    assert two.bound.high > one.bound.high + 0.1


def test_pairs_are_on_the_same_images():
    channel = "bsc(ber=0.01)"
    rows = [row("a", image, channel, 0, psnr=value) for image, value in (("i", 30.0), ("j", 20.0), ("k", 10.0))]
    rows += [row("b", image, channel, 0, psnr=value) for image, value in (("i", 29.0), ("j", 18.0), ("k", None))]
    found = results(rows)
    one, other, measure = found.points["a", channel], found.points["b", channel], found.metric("psnr")
    difference = intervals.paired(one, other, measure)
    assert (difference.images, difference.left_out, difference.bound.estimate) == (2, 1, 1.5)
    charged = intervals.paired(one, other, measure, grey={"k": 5.0})
    assert (charged.images, charged.left_out) == (3, 0)
    assert charged.bound.estimate == pytest.approx((1 + 2 + 5) / 3)
    assert math.isnan(intervals.paired(one, other, measure, grey={}).bound.estimate)


def test_pairs_see_what_the_spread_of_images_hides():
    """Every image is a decibel better, and images are twenty apart: side by side that is noise, paired it is sure."""
    channel = "bsc(ber=0.01)"
    values = {f"i{n}": 10.0 + 4 * n for n in range(6)}
    shift = {image: 1.0 + 0.1 * n for n, image in enumerate(values)}
    rows = [row("a", image, channel, 0, psnr=value + shift[image]) for image, value in values.items()]
    found = results(rows + [row("b", image, channel, 0, psnr=value) for image, value in values.items()])
    one, other, measure = found.points["a", channel], found.points["b", channel], found.metric("psnr")
    assert intervals.left_out(other, measure).bound.high > intervals.left_out(one, measure).bound.low
    assert intervals.paired(one, other, measure).told_apart
