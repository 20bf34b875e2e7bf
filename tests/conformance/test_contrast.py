"""JPEG keeps its own promises, and none of a robust codec's: the contrast that the suite is for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import suites

from robustkit.codecs.jpeg import Jpeg
from robustkit.codecs.rcc.turbo import RobustTurboDDCM

CONFORMANCE = str(suites.CONFORMANCE)
DAMAGE = "clean or degrades or corrupted"


def test_jpeg_keeps_its_own_promises(pytester: pytest.Pytester) -> None:
    result = suites.run_here(pytester, CONFORMANCE, "--codec", "jpeg", "-k", DAMAGE)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()


@pytest.mark.parametrize("own_rate", [False, True], ids=["at the robust codec's rate", "at its own rate"])
def test_jpeg_breaks_the_promises_of_robust_turbo_ddcm(pytester: pytest.Pytester, own_rate: bool) -> None:
    promises, own = RobustTurboDDCM.promises, Jpeg().profile
    assert own is not None
    if own_rate:
        promises = replace(promises, bpp=own.bpp, quality=own.quality)
    file = pytester.makefile(".toml", promises=promises.to_toml())
    result = suites.run_here(pytester, CONFORMANCE, "--codec", "jpeg", "-k", DAMAGE, f"--robustkit-profile={file}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    if own_rate:
        result.stdout.fnmatch_lines_random(
            ["FAILED *test_quality_degrades_within*", "FAILED *test_corrupted_share_stays*"]
        )
    else:
        result.stdout.fnmatch_lines(["FAILED *test_clean_round_trip_meets*"])
