"""The two records: what a clean round trip and a trial say of themselves."""

from dataclasses import replace

import numpy as np
import pytest

from robustkit import ErrorPattern, Layout, Outcome, Region
from robustkit.channels import BSC
from robustkit.isolation import Decoded
from robustkit.judging.trial import Clean, Trial

PICTURE = np.arange(2 * 8 * 3, dtype=np.uint8).reshape(2, 8, 3)
STREAM = b"\x01\x02\x03"
CLEAN = Clean("cat", PICTURE, STREAM, Layout((Region("all", 0, 24),), 24), Decoded(PICTURE[::-1], None), {"psnr": 30.0})


def test_a_clean_round_trip_has_its_size_and_rate():
    assert CLEAN.shape == (2, 8)
    assert CLEAN.bits == 24
    assert CLEAN.bpp == 24 / 16


def test_a_clean_round_trip_judges_by_its_decode_and_not_by_the_original():
    assert CLEAN.judge(Decoded(PICTURE[::-1].copy(), None)) is Outcome.INTACT
    assert CLEAN.judge(Decoded(PICTURE, None)) is Outcome.DEGRADED
    assert CLEAN.judge(Decoded(None, Outcome.REFUSED)) is Outcome.REFUSED


TRIAL = Trial(
    "x", "cat", BSC(0.5), 3, 7, ErrorPattern(24), Outcome.DEGRADED, 1.5, 0.25, {"psnr": 9.0}, {"psnr": -1.0}, "said"
)


def test_a_trial_s_drop_is_none_where_nothing_was_measured():
    assert TRIAL.drop("psnr") == -1.0
    assert TRIAL.drop("ssim") is None


def test_a_trial_s_picture_is_wrong_unless_it_was_found_to_be_rounded():
    assert not TRIAL.tolerated


def test_a_trial_s_row_has_all_but_the_pattern():
    assert TRIAL.to_row() == {
        "codec": "x",
        "image": "cat",
        "channel": "bsc(ber=0.5)",
        "number": 3,
        "seed": 7,
        "outcome": "degraded",
        "bpp": 1.5,
        "seconds": 0.25,
        "metrics": {"psnr": 9.0},
        "drops": {"psnr": -1.0},
        "message": "said",
    }


def test_trials_are_compared_by_what_happened_and_not_by_what_was_kept_of_it():
    assert replace(TRIAL, pixels="0a", memory=9) == TRIAL
    assert replace(TRIAL, outcome=Outcome.INTACT) != TRIAL


def test_what_is_large_is_not_printed():
    assert repr(CLEAN) == "Clean(image='cat', metrics={'psnr': 30.0})"
    assert "pattern" not in repr(TRIAL)


@pytest.mark.parametrize("record", [CLEAN, TRIAL])
def test_a_record_stays_as_it_is(record):
    with pytest.raises(AttributeError):
        record.image = "dog"
