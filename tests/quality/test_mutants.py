"""The conformance suite catches every mistake in :mod:`mutants`, and passes the codec they were made from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from suites import lean

ROOT = Path(__file__).parents[2]
GOLDEN = "golden_reconstructions"
#: Golden files are of the default settings; everything else shows with fewer noise levels, too.
FEWER = "T=12"
#: Promises that the sound codecs then keep on small crops: drops of the mean and the worst 5% at BER 1e-3 and 1e-2.
PROMISES = """
bpp = 0.4
quality = {}

[[promises]]
channel = "bsc(ber=1e-3)"
mean_drop = {}
p5_drop = {}

[[promises]]
channel = "bsc(ber=1e-2)"
mean_drop = {}
p5_drop = {}
"""
PLAIN, UEP = PROMISES.format(24.0, 1.6, 4.0, 9.0, 14.0), PROMISES.format(24.0, 0.25, 1.2, 2.0, 4.0)
OF_UEP = ("UnrepairedSteps", "LastStepsProtected", "SwappedSections", "robust-turbo-ddcm-uep")


@pytest.fixture(autouse=True)
def _mutants_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of this tree, as robustkit is, wherever another is installed.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT / "tests" / "quality", ROOT))))


def examine(pytester: pytest.Pytester, codec: str, claims: str, *, trials: int) -> pytest.RunResult:
    profile = pytester.makefile(".toml", promises=UEP if codec.removeprefix("mutants:") in OF_UEP else PLAIN)
    settings = () if claims == GOLDEN else ("--robustkit-set", FEWER)
    # Golden files are of images of their own.
    crop = "64" if claims in (GOLDEN, "deterministic") else "128"
    return pytester.runpytest_subprocess(
        str(ROOT / "conformance"),
        # A mutant is no codec of robustkit's, for all its name: it is told which files are its own.
        *("--robustkit-golden-dir", str(ROOT / "golden")),
        *("--codec", codec, *settings, "-k", claims, "--robustkit-profile", str(profile), "--robustkit-crop", crop),
        *("--robustkit-trials", str(trials)),
        *lean("--rootdir", str(ROOT)),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "claims", "broken"),
    [
        ("WrongBitOrder", GOLDEN, "golden_reconstructions_match"),
        ("OffByOneIndex", "clean", "clean_round_trip_meets_the_declared_quality_and_rate"),
        ("LostSign", "clean", "clean_round_trip_meets_the_declared_quality_and_rate"),
        ("JointRankPutBack", "degrades", "quality_degrades_within_the_declared_thresholds"),
        ("UnprotectedHeader", "corrupted", "corrupted_share_stays_within_the_declared"),
        ("UnrepairedSteps", "degrades", "quality_degrades_within_the_declared_thresholds"),
        ("LastStepsProtected", "degrades", "quality_degrades_within_the_declared_thresholds"),
        ("SwappedSections", "clean", "clean_round_trip_meets_the_declared_quality_and_rate"),
        ("CodebookOfItsProcess", "deterministic", "encoding_is_deterministic decoding_is_deterministic"),
        ("SkippedStep", GOLDEN, "golden_reconstructions_match"),
    ],
)
def test_the_suite_catches_the_mutant(pytester: pytest.Pytester, mutant: str, claims: str, broken: str) -> None:
    # Few trials are enough to break a promise, and not to prove one.
    result = examine(pytester, f"mutants:{mutant}", claims, trials=3)
    result.stdout.fnmatch_lines_random([f"FAILED *test_{claim}*" for claim in broken.split()])
    result.stdout.fnmatch_lines(["mutants:*: does not conform: *broken*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["robust-turbo-ddcm", "robust-turbo-ddcm-uep"])
def test_the_suite_passes_what_the_mutants_were_made_from(pytester: pytest.Pytester, codec: str) -> None:
    # Its golden files are compared where all its claims are judged.
    result = examine(pytester, codec, "clean or degrades or corrupted or deterministic", trials=12)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
