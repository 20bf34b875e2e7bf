"""E-values: false evidence is as rare as it says at any time of looking, and true evidence comes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robustkit import evalues

RUNS = 1500


def events(shares, rounds, seed=0):
    """Runs x rounds x images of events, each image with a share of its own."""
    return (np.random.default_rng(seed).random((RUNS, rounds, len(shares))) < np.array(shares)).astype(float)


def losses(rounds, images, seed=0):
    """Skewed losses from 0 to 12 with mean 1 over images that differ: most small, one in fifty large."""
    rng = np.random.default_rng(seed)
    means = np.linspace(0.4, 1.6, images)
    large = rng.random((RUNS, rounds, images)) < means / 50
    return np.where(large, 12, rng.random(large.shape) * 1.52 * means / (1 - means / 50))


# Each share of false evidence may be 5%: of 1,500 runs, 75 +- 8.4.
@pytest.mark.parametrize("shares", [[0.05] * 6, [0.3, 0, 0, 0, 0, 0], [0.1, 0.1, 0.1, 0, 0, 0], [0.05]])
def test_false_evidence_about_a_share_is_rare_at_any_time(shares):
    runs = events(shares, 120)
    kept = sum(evalues.below(run, 0.05)[-1] >= 20 for run in runs)
    broken = sum(evalues.above(run, 0.05)[-1] >= 20 for run in runs)
    assert kept <= 75 + 4 * 8.4
    assert broken <= 75 + 4 * 8.4


def test_false_evidence_about_a_skewed_mean_is_rare_at_any_time():
    runs = losses(100, 6)
    assert runs.mean() == pytest.approx(1, abs=0.01)
    assert sum(evalues.below(run, 1.0, most=12)[-1] >= 20 for run in runs) <= 75 + 4 * 8.4
    assert sum(evalues.above(run, 1.0, least=0)[-1] >= 20 for run in runs) <= 75 + 4 * 8.4


def test_true_evidence_comes():
    assert all(evalues.below(run, 0.05)[-1] >= 20 for run in events([0.005] * 6, 100)[:300])
    assert all(evalues.above(run, 0.05)[-1] >= 300 for run in events([0.2] * 6, 100)[:300])
    assert all(evalues.below(run, 2.0, most=12)[-1] >= 20 for run in losses(100, 6)[:300])
    assert all(evalues.above(run, 0.5)[-1] >= 20 for run in losses(200, 6)[:300])


@pytest.mark.parametrize(("events", "trials"), [(0, 65), (1, 142), (2, 191)])
def test_so_many_trials_prove_a_share_of_one_in_twenty(events, trials):
    evidence = evalues.below([[1.0]] * events + [[0.0]] * 300, 0.05)
    assert int(np.argmax(evidence >= 20)) + 1 == trials


@pytest.mark.parametrize("share", [0.9, 0.05, 0.01, 0.0001])
def test_trials_to_prove_are_the_fewest(share):
    fewest = evalues.trials_to_prove(share)
    evidence = evalues.below(np.zeros((fewest, 1)), share)
    assert evidence[-1] >= 20
    assert (evidence[:-1] < 20).all()


def test_evidence_grows_as_it_is_said_to():
    growing = evalues.growth(np.zeros((9, 4)), 0.05)
    assert growing == pytest.approx(-math.log(0.95))
    # A trial without a number brings none.
    assert evalues.growth([[0.0, math.nan]], 0.05) == pytest.approx(growing / 2)
    assert evalues.growth([[0.1, 0.1]], 0.05) < 0


def test_a_trial_without_a_number_carries_no_bet():
    some = np.array([[0.0, math.nan], [math.nan, math.nan], [0.3, 0.1]])
    one = evalues.below([[0.0], [0.3], [0.1]], 0.5)
    assert evalues.below(some, 0.5)[-1] == pytest.approx(one[-1])
    assert evalues.above([[math.nan, 1.0]], 0.0).tolist() == [math.inf]


def test_false_evidence_is_rare_where_images_give_numbers_unequally_often():
    """The image that loses most gives a number in one of ten trials: the mean of all numbers is at the limit."""
    rng = np.random.default_rng(4)
    runs = np.where(rng.random((RUNS, 100, 3)) < (0.9, 0.8, 0.1), 0.2 * rng.random((RUNS, 100, 3)), math.nan)
    runs[:, :, 2] *= 5
    limit = (0.9 * 0.1 + 0.8 * 0.1 + 0.1 * 0.5) / 1.8
    assert sum(evalues.below(run, limit)[-1] >= 20 for run in runs) <= 75 + 4 * 8.4
    assert sum(evalues.above(run, limit)[-1] >= 20 for run in runs) <= 75 + 4 * 8.4


def test_one_event_disproves_a_share_of_zero():
    assert evalues.above([[0, 0], [0, 1], [0, 0]], 0.0).tolist() == [1, math.inf, math.inf]
    assert evalues.above(np.zeros((9, 2)), 0.0).tolist() == [1] * 9


numbers = arrays(np.float64, st.tuples(st.integers(0, 40), st.integers(1, 3)), elements=st.floats(0, 1))


@given(numbers, st.floats(0.01, 0.99))
def test_more_rounds_never_take_evidence_back(rounds, limit):
    for evidence in (evalues.below(rounds, limit), evalues.above(rounds, limit)):
        assert (np.diff(evidence) >= 0).all()
        assert (evidence >= 1).all()


@given(numbers, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_the_looser_limit_is_the_easier_to_keep(rounds, one, two):
    low, high = sorted((one, two))
    assert (evalues.below(rounds, high) >= evalues.below(rounds, low) * (1 - 1e-9)).all()
    assert (evalues.above(rounds, low) >= evalues.above(rounds, high) * (1 - 1e-9)).all()


@given(numbers, st.floats(0.01, 0.99), st.floats(-3, 3), st.floats(0.1, 9))
def test_scale_and_origin_change_nothing(rounds, limit, shift, scale):
    moved, at = rounds * scale + shift, limit * scale + shift
    below = evalues.below(np.minimum(moved, scale + shift), at, most=scale + shift)
    assert below == pytest.approx(evalues.below(rounds, limit), rel=1e-6)
    above = evalues.above(np.maximum(moved, shift), at, least=shift)
    assert above == pytest.approx(evalues.above(rounds, limit), rel=1e-6)


@given(numbers)
@settings(max_examples=30)
def test_bounds_are_where_the_evidence_ends(rounds):
    low, high = evalues.bounds(rounds)
    assert 0 <= low <= 1
    assert 0 <= high <= 1
    if high < 1:
        assert evalues.below(rounds, high)[-1] >= 20 * (1 - 1e-9)
        assert evalues.below(rounds, high - 1e-9)[-1] < 20
    if low > 0:
        assert evalues.above(rounds, low)[-1] >= 20 * (1 - 1e-9)
        assert evalues.above(rounds, low + 1e-9)[-1] < 20


def test_bounds_hold_the_truth_and_narrow():
    runs = events([0.02, 0.1, 0.0], 300)[:40]
    ends = np.array([evalues.bounds(run) for run in runs])
    assert ((ends[:, 0] <= 0.04) & (ends[:, 1] >= 0.04)).mean() >= 0.9
    assert np.median(ends[:, 1] - ends[:, 0]) < 0.06


def test_bounds_without_numbers_are_the_range():
    assert evalues.bounds(np.empty((0, 6)), least=-1, most=3) == (-1, 3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: evalues.below([[2.0]], 0.5), "above most"),
        (lambda: evalues.below([[0.0]], 1.0), "give one below"),
        (lambda: evalues.above([[-1.0]], 0.5), "below least"),
        (lambda: evalues.above([[0.0]], -0.5), "at least least"),
        (lambda: evalues.above([0.0], 0.5), "1 dimensions"),
    ],
)
def test_what_can_t_be_judged_says_why(call, says):
    with pytest.raises(ValueError, match=says):
        call()
