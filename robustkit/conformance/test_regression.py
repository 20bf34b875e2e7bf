"""Regression: under the same damage the codec loses no more than when its golden drops were recorded."""

import pytest

from robustkit.judging.subject import Subject
from robustkit.plugin.claim import Claim
from robustkit.plugin.golden_check import GoldenCheck
from robustkit.plugin.regression_check import check_drops


@pytest.mark.robustkit_claim("degradation.regression")
def test_golden_drops_are_not_exceeded(promised: Subject, golden: GoldenCheck, claim: Claim) -> None:
    """Catches a change that costs quality under damage, however much the promises would still allow."""
    check_drops(promised, golden, claim)
