"""Silently wrong: other pixels, and no word of it."""

from dataclasses import replace

import numpy as np
import pytest

from robustkit import ErrorPattern, Outcome
from robustkit.channels import BSC
from robustkit.judging.silent import is_silent, silently_wrong
from robustkit.judging.trial import Trial

RARE, OFTEN = BSC(1e-4), BSC(1e-2)


def trials(channel, *outcomes, image="cat"):
    pattern = ErrorPattern(24, np.array([3]))
    return [Trial("x", image, channel, n, 0, pattern, o, 1.0, 0.1, {}, {}) for n, o in enumerate(outcomes)]


@pytest.mark.parametrize("outcome", Outcome)
def test_only_a_picture_with_other_pixels_is_silently_wrong(outcome):
    (trial,) = trials(RARE, outcome)
    assert is_silent(trial) is (outcome is Outcome.DEGRADED)


def test_what_the_codecs_tolerance_allows_is_no_other_picture():
    (trial,) = trials(RARE, Outcome.DEGRADED)
    assert not is_silent(replace(trial, tolerated=True))
    (silent,) = silently_wrong([trial, replace(trial, number=1, tolerated=True)])
    assert silent.wrong == 1


def test_each_channel_has_its_share():
    degraded, refused, intact = Outcome.DEGRADED, Outcome.REFUSED, Outcome.INTACT
    rare = trials(RARE, intact, intact, refused, degraded) + trials(RARE, intact, intact, intact, intact, image="dog")
    often = trials(OFTEN, degraded, degraded, refused, Outcome.CRASHED)
    first, second = silently_wrong([*rare, *often])
    assert (first.channel, first.trials, first.refused, first.wrong) == (RARE, 8, 1, 1)
    assert first.share.estimate == 1 / 8
    assert first.share.low < 1 / 8 < first.share.high < 1
    assert (second.channel, second.trials, second.refused, second.wrong) == (OFTEN, 4, 1, 2)
    assert str(second).startswith("silently wrong 2 of 4, 0.500 [")
    assert str(second).endswith("]; 1 refused")
    numbers = first.numbers
    assert numbers == {
        **{"trials": 8.0, "refused": 1.0, "silently_wrong": 1.0, "estimate": 0.125},
        **{"low": first.share.low, "high": first.share.high},
    }
    assert list(silently_wrong([])) == []
