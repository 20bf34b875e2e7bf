"""The bounds cover what they should, collapse where nothing varies, and give the verdicts they may."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robustkit.statistics import mean_bound, share_bound

values = st.lists(st.floats(-100, 100), min_size=1, max_size=12)
by_image = st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=5)


def images(table) -> dict[str, list[float]]:
    return {str(i): list(row) for i, row in enumerate(table)}


@given(by_image)
def test_an_interval_holds_its_estimate_and_two_sides_are_wider(data):
    for bound in (mean_bound,):
        one, two = bound(data), bound(data, two_sided=True)
        slack = 1e-9
        assert two.low - slack <= one.low <= one.estimate + slack
        assert one.estimate - slack <= one.high <= two.high + slack
        assert one == bound(data)
        assert (one.two_sided, two.two_sided) == (False, True)


@given(st.floats(-100, 100), st.integers(1, 6), st.integers(1, 9))
def test_equal_values_give_that_value(value, count, trials):
    data = images([[value] * trials] * count)
    bound = mean_bound(data)
    assert bound.estimate == value
    assert (bound.low, bound.high) == ((-math.inf, math.inf) if count * trials == 1 else (value, value))


def test_no_values_prove_nothing():
    for bound in (mean_bound({}), mean_bound({"a": []}), share_bound({})):
        assert math.isnan(bound.estimate)
        assert (bound.low, bound.high) in [(-math.inf, math.inf), (0.0, 1.0)]


def test_the_mean_is_at_least_as_wide_as_students_t_on_image_means():
    table = np.random.default_rng(3).normal(size=(6, 10)) + np.arange(6)[:, None]
    means = table.mean(axis=1)
    low, high = stats.t.interval(0.9, 5, means.mean(), stats.sem(means))
    bound = mean_bound(images(table))
    assert bound.estimate == pytest.approx(table.mean())
    assert bound.low <= low + 1e-12
    assert bound.high >= high - 1e-12
    assert bound.high - bound.low < 1.3 * (high - low)


def test_the_mean_sees_the_scatter_within_images_whose_means_agree():
    bound = mean_bound(images([[-1.0, 1.0] * 10] * 6))
    assert bound.estimate == 0
    assert 0.1 < bound.high < 0.3


def test_images_weigh_alike():
    data = {"many": [1.0] * 30, "few": [0.0] * 2}
    assert mean_bound(data).estimate == 0.5
    assert share_bound(data).estimate == 0.5


def test_clustering_widens_every_bound():
    rng = np.random.default_rng(0)
    effect = rng.normal(size=(12, 1))
    clustered = effect + 0.1 * rng.normal(size=(12, 20))
    mixed = rng.permutation(clustered.ravel()).reshape(12, 20)
    for bound in (
        mean_bound,
        lambda d: share_bound({k: np.array(v) > 0 for k, v in d.items()}),
    ):
        wide, narrow = bound(images(clustered)), bound(images(mixed))
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("seen", "trials", "side"), [(0, 60, "less"), (3, 30, "less"), (3, 30, "greater"), (30, 30, "greater")]
)
def test_one_image_gets_clopper_and_pearsons_bounds(seen, trials, side):
    exact = stats.binomtest(seen, trials, alternative=side).proportion_ci(0.95, method="exact")
    bound = share_bound({"a": [True] * seen + [False] * (trials - seen)})
    end = bound.high if side == "less" else bound.low
    assert end == pytest.approx(exact.high if side == "less" else exact.low)


def test_no_event_in_any_image_gives_clopper_and_pearsons_bound():
    bound = share_bound(images([[False] * 10] * 6), two_sided=True)
    assert (bound.estimate, bound.low) == (0, 0)
    assert bound.high == pytest.approx(stats.binomtest(0, 60).proportion_ci(0.95, method="exact").high)
    assert share_bound(images([[True] * 10] * 6)).high == 1


def test_events_of_one_image_alone_weigh_less_than_scattered_ones():
    gathered = share_bound(images([[True] * 10, *[[False] * 10] * 5]))
    scattered = share_bound(images([[True] * 2 + [False] * 8] * 5 + [[False] * 10]))
    assert gathered.estimate == scattered.estimate == pytest.approx(1 / 6)
    assert gathered.high > scattered.high
    assert gathered.low < scattered.low


def korn_and_graubard(table: list[list[bool]], tail: float) -> tuple[float, float]:
    """The interval of a share, step by step as the paper has it, for images of equally many trials."""
    images, trials = len(table), sum(map(len, table))
    shares = [sum(row) / len(row) for row in table]
    share = sum(shares) / images
    between = sum((s - share) ** 2 for s in shares) / (images - 1) / images
    effect = max(1.0, between / (share * (1 - share) / trials))
    shrunk = (stats.t.ppf(1 - tail, trials - 1) / stats.t.ppf(1 - tail, images - 1)) ** 2
    effective = trials / effect * shrunk
    events = share * effective
    low = stats.beta.ppf(tail, events, effective - events + 1)
    return float(low), float(stats.beta.ppf(1 - tail, events + 1, effective - events))


@pytest.mark.parametrize("counts", [(1, 0, 0), (3, 1), (0, 5, 10, 2, 1, 0), (1, 1, 1, 1), (10, 0)])
@pytest.mark.parametrize("two_sided", [False, True])
def test_a_share_has_korn_and_graubards_bounds(counts, two_sided):
    table = [[True] * n + [False] * (10 - n) for n in counts]
    bound = share_bound(images(table), two_sided=two_sided)
    assert (bound.low, bound.high) == pytest.approx(korn_and_graubard(table, 0.025 if two_sided else 0.05))
    assert bound.two_sided == two_sided


def test_bounds_are_the_same_numbers_for_ever():
    """Whoever proved a promise has proved it: another sample of the bootstrap would be another verdict."""
    skewed = [[((7 * image + 3 * n * n) % 11) ** 3 / 100 for n in range(8)] for image in range(4)]
    bound = mean_bound(images(skewed))
    assert (bound.estimate, bound.low, bound.high) == pytest.approx(ONE_SIDED, abs=1e-9)
    bound = mean_bound(images(skewed), two_sided=True)
    assert (bound.estimate, bound.low, bound.high) == pytest.approx(TWO_SIDED, abs=1e-9)


#: Estimate, low and high of the bootstrap, which is the wider one here.
ONE_SIDED = (2.344375, 1.4713125, 3.297953125)
TWO_SIDED = (2.344375, 1.305578125, 3.5218046875)


def test_all_trials_of_one_value_but_one_are_not_one_value():
    for table in ([[1.0, 2.0, 2.0]], [[2.0, 1.0, 2.0]], [[2.0, 2.0, 1.0]], [[2.0], [2.0], [1.0]]):
        assert mean_bound(images(table)).low < mean_bound(images(table)).high


@pytest.mark.parametrize("bound", [mean_bound, share_bound])
def test_an_image_without_a_trial_says_nothing(bound):
    data = {"a": [0.0, 1.0, 1.0], "b": [0.0, 0.0, 1.0]}
    assert bound({"none": [], **data, "neither": []}) == bound(data)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mean_bound({"a": [1, math.inf]}), "needs finite values"),
        (lambda: mean_bound({"a": [[1.0]]}), "values of image 'a' have 2 dimensions"),
        (lambda: share_bound({"a": [0.5]}), "events are booleans"),
        (lambda: share_bound({"a": [True]}, confidence=95), "confidence = 95"),
        (lambda: mean_bound({"a": [1, 2]}, confidence=1.5), "confidence = 1.5"),
        (lambda: mean_bound({"a": [1, 2], "b": [math.nan, 1]}), "needs finite values"),
        (lambda: share_bound({"a": [True], "b": [True, 0.5]}), "events are booleans"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def coverage(count: int, between: float, simulations: int = 400) -> dict[str, int]:
    """How often each bound misses the truth: ten normal trials an image, ``between`` of the variance among images."""
    rng = np.random.default_rng(11)
    missed = dict.fromkeys(("mean low", "mean high", "share low", "share high"), 0)
    for _ in range(simulations):
        effects = rng.normal(size=(count, 1)) * between**0.5
        table = effects + rng.normal(size=(count, 10)) * (1 - between) ** 0.5
        data = images(table)
        for name, truth, bound in (
            ("mean", 0, mean_bound(data)),
            ("share", 0.2, share_bound(images(table > stats.norm.ppf(0.8)))),
        ):
            missed[f"{name} low"] += int(bound.low > truth)
            missed[f"{name} high"] += int(bound.high < truth)
    return missed


@pytest.mark.slow
@pytest.mark.parametrize(("count", "between"), [(6, 0.0), (6, 0.3), (24, 0.3)])
def test_coverage(count, between):
    missed = coverage(count, between)
    # At a nominal 5% of 400, more than 31 misses has a chance of 1%.
    allowed = dict.fromkeys(missed, 31)
    assert {name: n for name, n in missed.items() if n > allowed[name]} == {}
    assert sum(missed.values()) > 20, "bounds that never miss are far too wide"
