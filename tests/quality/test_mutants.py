"""The conformance suite catches every mistake in :mod:`mutants`, and passes the codec they were made from."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = "golden_reconstructions"
#: Golden files are of the default settings; everything else shows with fewer noise levels, too.
FEWER = "T=12"
#: Promises that the sound codec then keeps on small crops.
PROMISES = """
bpp = 0.4
quality = 24.0

[[promises]]
channel = "bsc(ber=1e-3)"
mean_drop = 0.35
p5_drop = 1.2

[[promises]]
channel = "bsc(ber=1e-2)"
mean_drop = 2.0
p5_drop = 4.0
"""


@pytest.fixture(autouse=True)
def _mutants_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "quality"))


def examine(pytester: pytest.Pytester, codec: str, claims: str, *, trials: int) -> pytest.RunResult:
    profile = pytester.makefile(".toml", promises=PROMISES)
    settings = () if claims == GOLDEN else ("--robustkit-set", FEWER)
    return pytester.runpytest_subprocess(
        str(ROOT / "conformance"),
        # A mutant is no codec of robustkit's, for all its name: it is told which files are its own.
        *("--robustkit-golden-dir", str(ROOT / "golden")),
        *("--codec", codec, *settings, "-k", claims, "--robustkit-profile", str(profile), "--robustkit-crop", "128"),
        *("--robustkit-trials", str(trials)),
        *("-p", "no:cacheprovider", "--rootdir", str(ROOT)),
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
def test_the_suite_passes_what_the_mutants_were_made_from(pytester: pytest.Pytester) -> None:
    # Its golden files are compared where all its claims are judged.
    result = examine(pytester, "robust-turbo-ddcm", "clean or degrades or corrupted or deterministic", trials=12)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
