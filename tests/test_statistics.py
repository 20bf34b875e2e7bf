"""The bounds cover what they should, collapse where nothing varies, and give the verdicts they may."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robustkit.judging.assess import judge, judge_share
from robustkit.judging.finding import Verdict
from robustkit.statistics import (
    Bound,
    improvement_bound,
    mean_bound,
    percentile_bound,
    share_bound,
    trials_to_prove,
)

values = st.lists(st.floats(-100, 100), min_size=1, max_size=12)
by_image = st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=5)


def images(table) -> dict[str, list[float]]:
    return {str(i): list(row) for i, row in enumerate(table)}


@given(by_image)
def test_an_interval_holds_its_estimate_and_two_sides_are_wider(data):
    for bound in (mean_bound, lambda d, **kw: percentile_bound(d, 95, **kw)):
        one, two = bound(data), bound(data, two_sided=True)
        slack = 1e-9
        assert two.low - slack <= one.low <= one.estimate + slack
        assert one.estimate - slack <= one.high <= two.high + slack
        assert one == bound(data)
        assert (one.two_sided, two.two_sided) == (False, True)


@given(st.floats(-100, 100), st.integers(1, 6), st.integers(1, 9))
def test_equal_values_give_an_exact_verdict(value, count, trials):
    data = images([[value] * trials] * count)
    for bound in (mean_bound(data), percentile_bound(data, 95)):
        assert bound.estimate == value
        if count * trials == 1:
            assert (bound.low, bound.high) == (-math.inf, math.inf)
        else:
            assert (bound.low, bound.high) == (value, value)
            assert judge(bound, value) is Verdict.KEPT
            assert judge(bound, np.nextafter(value, -math.inf)) is Verdict.BROKEN
            assert judge(bound, value, at_least=True) is Verdict.KEPT


def test_no_values_prove_nothing():
    for bound in (mean_bound({}), mean_bound({"a": []}), percentile_bound({}, 95), share_bound({})):
        assert math.isnan(bound.estimate)
        assert (bound.low, bound.high) in [(-math.inf, math.inf), (0.0, 1.0)]
        assert judge(bound, 0.5) is judge_share(bound, 0.0) is Verdict.UNPROVED


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
    assert percentile_bound(data, 40).estimate == 0
    assert percentile_bound(data, 60).estimate == 1


def test_clustering_widens_every_bound():
    rng = np.random.default_rng(0)
    effect = rng.normal(size=(12, 1))
    clustered = effect + 0.1 * rng.normal(size=(12, 20))
    mixed = rng.permutation(clustered.ravel()).reshape(12, 20)
    for bound in (
        mean_bound,
        lambda d: percentile_bound(d, 50),
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


@pytest.mark.parametrize(("share", "trials"), [(0.05, 59), (0.01, 299), (0.5, 5)])
def test_the_trials_that_a_share_needs(share, trials):
    assert trials_to_prove(share) == trials
    assert judge_share(share_bound({"a": [False] * trials}), share) is Verdict.KEPT
    assert judge_share(share_bound({"a": [False] * (trials - 1)}), share) is Verdict.UNPROVED


def test_a_share_of_zero_is_kept_until_it_is_disproved():
    assert judge_share(share_bound({"a": [False]}), 0.0) is Verdict.KEPT
    assert judge_share(share_bound(images([[False] * 99 + [True], [False] * 100])), 0.0) is Verdict.BROKEN
    assert judge_share(share_bound(images([[False] * 19 + [True], *[[False] * 20] * 11])), 0.05) is Verdict.KEPT
    assert judge_share(share_bound(images([[True] * 50] * 4)), 0.5) is Verdict.BROKEN


def test_a_percentile_is_that_of_the_order_statistics():
    data = {"a": list(range(1, 201))}
    bound = percentile_bound(data, 95)
    assert bound.estimate == 190
    # P(X > x) of 200 trials: the exact binomial limits for 5%.
    assert bound.high == 196
    assert stats.binom.cdf(200 - 196, 200, 0.05) <= 0.05 < stats.binom.cdf(200 - 195, 200, 0.05)
    assert stats.binom.sf(200 - bound.low, 200, 0.05) <= 0.05 < stats.binom.sf(200 - (bound.low + 1), 200, 0.05)


def test_a_percentile_needs_enough_trials_for_an_upper_bound():
    rng = np.random.default_rng(0)
    assert percentile_bound({"a": rng.normal(size=58)}, 95).high == math.inf
    drops = rng.normal(size=59)
    assert percentile_bound({"a": drops}, 95).high == drops.max()
    # Disproving takes far fewer: six trials of which all lose more than was declared.
    assert judge(percentile_bound({"a": [3.0, 3.1, 3.2, 3.3, 3.4, 3.5]}, 95), 2.9) is Verdict.BROKEN


def test_trials_without_an_image_are_the_worst_of_all():
    data = images([[0.1 * i for i in range(9)] + [math.inf]] * 6)
    assert percentile_bound(data, 95).estimate == math.inf
    assert percentile_bound(data, 50).high < 1


@pytest.mark.parametrize(
    ("bound", "declared", "verdict", "at_least"),
    [
        (Bound(1, 0.5, 1.5), 1.5, Verdict.KEPT, Verdict.UNPROVED),
        (Bound(1, 0.5, 1.5), 1.0, Verdict.UNPROVED, Verdict.UNPROVED),
        (Bound(1, 0.5, 1.5), 0.5, Verdict.UNPROVED, Verdict.KEPT),
        (Bound(1, 0.5, 1.5), 0.4, Verdict.BROKEN, Verdict.KEPT),
        (Bound(1, 0.5, 1.5), 1.6, Verdict.KEPT, Verdict.BROKEN),
        (Bound(1, -math.inf, math.inf), 1.0, Verdict.UNPROVED, Verdict.UNPROVED),
    ],
)
def test_verdicts(bound, declared, verdict, at_least):
    assert judge(bound, declared) is verdict
    assert judge(bound, declared, at_least=True) is at_least


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


def test_a_percentile_is_where_the_share_beyond_is_bounded():
    """Every level is tried by the bounds of the share beyond it, one by one."""
    table = np.random.default_rng(9).normal(size=(5, 30)).round(1)
    for percentile, two_sided in [(95, False), (50, True), (20, False)]:
        tail, beyond = (0.025 if two_sided else 0.05), 1 - percentile / 100
        bound = percentile_bound(images(table), percentile, two_sided=two_sided)

        def ends(events, tail=tail):
            share = events.mean()
            return korn_and_graubard(events.tolist(), tail) if 0 < share < 1 else (share, share)

        levels = np.unique(table)
        assert bound.low == max(v for v in levels if all(ends(table >= w)[0] > beyond for w in levels if w <= v))
        assert bound.high == min(v for v in levels if all(ends(table > w)[1] <= beyond for w in levels if w >= v))
        assert bound.estimate == min(v for v in levels if (table > v).mean() <= beyond + 1e-12)


def test_a_percentile_may_have_no_bound_on_either_side():
    low = percentile_bound({"a": [1.0, 2.0, 3.0]}, 95)
    assert (low.estimate, low.low, low.high) == (3.0, 2.0, math.inf)
    high = percentile_bound({"a": [1.0, 2.0, 3.0]}, 5)
    assert (high.estimate, high.low) == (1.0, -math.inf)


def test_a_share_that_is_exactly_the_limit_is_within_it():
    table = [[1.0] * 19 + [2.0]] * 5
    assert percentile_bound(images(table), 95).estimate == 1.0
    assert percentile_bound(images(table), 94.9).estimate == 1.0
    assert percentile_bound(images(table), 95.1).estimate == 2.0


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
        assert percentile_bound(images(table), 50).estimate == 2.0


@pytest.mark.parametrize("bound", [mean_bound, share_bound, lambda data: percentile_bound(data, 60)])
def test_an_image_without_a_trial_says_nothing(bound):
    data = {"a": [0.0, 1.0, 1.0], "b": [0.0, 0.0, 1.0]}
    assert bound({"none": [], **data, "neither": []}) == bound(data)


def test_less_is_held_against_more_by_their_means():
    bound = improvement_bound({"a": [0.0, 4.0], "b": [3.0, 3.0]}, {"a": [1.0, 1.0], "b": [0.0, 4.0]})
    assert bound.estimate == 1.0


def test_more_damage_that_looks_better_is_found_and_noise_is_not():
    rng = np.random.default_rng(5)
    effect = rng.normal(3, 1, size=(6, 1))
    less, more, better = (effect + shift + 0.3 * rng.normal(size=(6, 8)) for shift in (0, 0, -1.5))
    assert judge(improvement_bound(images(less), images(more)), 0.1) is not Verdict.BROKEN
    assert judge(improvement_bound(images(less), images(better)), 0.1) is Verdict.BROKEN
    assert judge(improvement_bound(images(better), images(less)), 0.1) is Verdict.KEPT


def test_more_damage_is_compared_image_by_image():
    less = {"a": [5.0, 5.0], "b": [1.0], "c": [], "only here": [9.0]}
    more = {"b": [0.5], "a": [4.5, 4.5], "c": [1.0], "only there": [0.0]}
    bound = improvement_bound(less, more)
    assert (bound.estimate, bound.low, bound.high) == (0.5, 0.5, 0.5)
    assert bound.confidence == 0.99


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mean_bound({"a": [1, math.inf]}), "needs finite values"),
        (lambda: mean_bound({"a": [[1.0]]}), "values of image 'a' have 2 dimensions"),
        (lambda: percentile_bound({"a": [math.nan, 1]}, 95), "not NaN"),
        (lambda: percentile_bound({"a": [1, 2]}, 100), "percentile = 100 is out of range"),
        (lambda: share_bound({"a": [0.5]}), "events are booleans"),
        (lambda: share_bound({"a": [True]}, confidence=95), "confidence = 95"),
        (lambda: trials_to_prove(0), "share = 0"),
        (lambda: trials_to_prove(1), "share = 1"),
        (lambda: trials_to_prove(0.5, confidence=1), "confidence = 1 "),
        (lambda: percentile_bound({"a": [1, 2]}, 0), "percentile = 0 is out of range"),
        (lambda: percentile_bound({"a": [1, 2]}, 50, confidence=0.4), "confidence = 0.4"),
        (lambda: mean_bound({"a": [1, 2]}, confidence=1.5), "confidence = 1.5"),
        (lambda: mean_bound({"a": [1, 2], "b": [math.nan, 1]}), "needs finite values"),
        (lambda: percentile_bound({"a": [1, 2], "b": [math.nan, 1]}, 50), "not NaN"),
        (lambda: share_bound({"a": [True], "b": [True, 0.5]}), "events are booleans"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def coverage(count: int, between: float, simulations: int = 400) -> dict[str, int]:
    """How often each bound misses the truth: ten normal trials an image, ``between`` of the variance among images."""
    rng = np.random.default_rng(11)
    missed = dict.fromkeys(("mean low", "mean high", "p95 low", "p95 high", "share low", "share high"), 0)
    p95 = stats.norm.ppf(0.95)
    for _ in range(simulations):
        effects = rng.normal(size=(count, 1)) * between**0.5
        table = effects + rng.normal(size=(count, 10)) * (1 - between) ** 0.5
        data = images(table)
        for name, truth, bound in (
            ("mean", 0, mean_bound(data)),
            ("p95", p95, percentile_bound(data, 95)),
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
    # Documented in percentile_bound: among few images, clusters beyond the largest value go unseen.
    allowed["p95 high"] = 31 if not between else 65
    assert {name: n for name, n in missed.items() if n > allowed[name]} == {}
    assert sum(missed.values()) > 20, "bounds that never miss are far too wide"
