"""The profile that benchmarks/measure_profile.py proposes: the suite proves it, and disproves a tighter one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from robustkit import Outcome, Profile
from robustkit.statistics import Verdict, judge, judge_share

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "measure_profile.py"
IMAGES = ("astronaut", "chelsea", "coffee", "ihc", "motorcycle", "rocket")
BSC = "bsc(ber=0.001)"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure_profile", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_profile"] = module
    spec.loader.exec_module(module)
    return module


def drawn(script: ModuleType, seed: int, per_image: int, *, share: float, scale: float = 1.0) -> list:
    """Trials of a codec that loses about ``scale`` dB, images alike to a fifth, and refuses ``share`` of streams."""
    rng = np.random.default_rng(seed)
    trials = []
    for place, image in enumerate(IMAGES):
        drops = scale * (0.8 + 0.08 * place) * rng.gamma(16, 1 / 16, per_image)
        for number, (drop, refused) in enumerate(zip(drops, rng.random(per_image) < share, strict=True)):
            outcome = Outcome.REFUSED if refused else Outcome.DEGRADED
            trials.append(script.Seen(image, number, outcome, None if refused else float(drop)))
    return trials


def verdicts(script: ModuleType, profile: Profile, trials: list) -> dict[str, Verdict]:
    (promise,) = profile.promises
    return {
        "mean_drop": judge(script.mean_drop(trials), promise.mean_drop),
        "p5_drop": judge(script.p5_drop(trials), promise.p5_drop),
        "corrupted": judge_share(script.corrupted(trials), promise.corrupted),
        "refused": judge_share(script.refused(trials), profile.refused),
    }


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.15])
def test_fresh_runs_prove_the_proposal_and_no_tighter_one(script: ModuleType, share: float) -> None:
    measured = {BSC: drawn(script, 1, 100, share=share)}
    profile, limits = script.propose(measured, bpp=0.4, quality=28.0)
    (promise,) = profile.promises
    tighter = replace(
        profile,
        refused=0.8 * profile.refused,
        promises=(
            replace(
                promise,
                mean_drop=0.8 * promise.mean_drop,
                p5_drop=0.8 * promise.p5_drop,
                corrupted=0.8 * promise.corrupted,
            ),
        ),
    )
    runs = [drawn(script, 100 + run, 10, share=share) for run in range(100)]
    for limit in limits:
        kept, kept_tighter = (
            sum(verdicts(script, p, run)[limit.quantity] is Verdict.KEPT for run in runs) for p in (profile, tighter)
        )
        assert kept >= 98, limit
        # What the script says of its own proposal is what fresh trials show.
        assert abs(kept_tighter / 100 - limit.tighter_kept) < 0.2, limit
        if limit.quantity == "mean_drop":
            # Most runs can tell the two apart.
            assert kept_tighter < 50
        assert bool(script.remark(limit)) == (limit.tighter_kept > 0.5)


def test_the_proposal_is_no_looser_than_what_was_measured_asks(script: ModuleType) -> None:
    trials = drawn(script, 2, 50, share=0.0)
    profile, _ = script.propose({BSC: trials}, bpp=0.39, quality=28.03)
    (promise,) = profile.promises
    mean = np.mean([t.drop for t in trials])
    largest = max(t.drop for t in trials)
    assert mean < promise.mean_drop < 1.4 * mean
    assert largest < promise.p5_drop < 1.4 * largest
    assert (profile.bpp, profile.quality, profile.refused, promise.corrupted) == (0.39, 28.0, 0.0, 0.0)


def test_a_loss_near_zero_is_promised_at_the_floor(script: ModuleType) -> None:
    profile, limits = script.propose({BSC: drawn(script, 3, 20, share=0.0, scale=0.001)}, bpp=0.4, quality=28.0)
    assert profile.promises[0].mean_drop == script.FLOOR
    assert {script.remark(limit) for limit in limits if limit.quantity.endswith("drop")} == {"at the floor of 0.05"}


def test_a_channel_that_gives_no_image_is_not_promised(script: ModuleType) -> None:
    refused = drawn(script, 4, 20, share=1.0)
    profile, limits = script.propose(
        {"truncation(keep=0.5)": refused, BSC: drawn(script, 4, 20, share=0.0)}, bpp=1, quality=9
    )
    assert [p.channel for p in profile.promises] == [BSC]
    # Nor do its refusals count among those of the promises.
    assert profile.refused == 0.0
    assert not any("truncation" in limit.channel for limit in limits)


def test_a_channel_that_gives_too_few_images_for_a_bound_is_not_promised(script: ModuleType) -> None:
    nearly_all_refused = drawn(script, 4, 20, share=0.97)
    profile, limits = script.propose(
        {"bsc(ber=0.1)": nearly_all_refused, BSC: drawn(script, 4, 20, share=0.0)}, bpp=1, quality=9
    )
    assert [p.channel for p in profile.promises] == [BSC]
    assert profile.refused == 0.0
    remarks = {limit.quantity: script.remark(limit) for limit in limits if limit.channel == "bsc(ber=0.1)"}
    assert "no promise" in remarks["mean_drop"]


def test_too_few_trials_for_a_run_of_the_suite(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="--trials 10 or more"):
        script.propose({BSC: drawn(script, 5, 9, share=0.0)}, bpp=0.4, quality=28.0)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.3, 0.3), (0.301, 0.305), (1.01, 1.05), (17.2, 17.5), (0.05, 0.05), (9.99, 10.0), (0.0, 0.0)],
)
def test_limits_are_rounded_up_to_two_digits(script: ModuleType, value: float, rounded: float) -> None:
    assert script.rounded_up(value) == rounded


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "quality")}
    folder = tmp_path_factory.mktemp("profile")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def measured(run: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile of a codec that loses 3 dB after any damage."""
    out = tmp_path_factory.mktemp("measured") / "profile.toml"
    done = run(*command(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hostile:Degrades: clean" in done.stdout
    return out


def command(out: Path) -> list[str | Path]:
    channels = ["--channel", BSC, "--channel", "truncation(keep=0.99)"]
    options = ["--crop", "64", "--trials", "10", "--workers", "1"]
    return [SCRIPT, "--codec", "hostile:Degrades", *options, *channels, "--out", out]


def test_the_suite_proves_the_proposed_profile_and_breaks_a_tighter_one(
    run: Callable[..., subprocess.CompletedProcess[str]], measured: Path, tmp_path: Path
) -> None:
    profile = Profile.from_toml(measured)
    assert [p.channel for p in profile.promises] == [BSC, "truncation(keep=0.99)"]
    assert 3.0 < profile.promises[0].mean_drop < 3.5
    tighter = tmp_path / "tighter.toml"
    tightened = [replace(p, mean_drop=0.8 * p.mean_drop, p5_drop=0.8 * p.p5_drop) for p in profile.promises]
    tighter.write_text(replace(profile, promises=tuple(tightened)).to_toml(), encoding="utf-8")
    suite = [
        "-m",
        "pytest",
        ROOT / "conformance",
        "-p",
        "no:cacheprovider",
        "--codec",
        "hostile:Degrades",
        "--robustkit-crop=64",
    ]
    done = run(*suite, "--profile", measured)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(*suite, "--profile", tighter, "-k", "quality_degrades")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "broken" in done.stdout


def test_a_second_run_measures_nothing_again(
    run: Callable[..., subprocess.CompletedProcess[str]], measured: Path
) -> None:
    kept = measured.with_name("profile.toml.trials.json")
    stored = json.loads(kept.read_text())
    before = kept.stat().st_mtime_ns, measured.read_text()
    assert run(*command(measured)).returncode == 0
    assert (kept.stat().st_mtime_ns, measured.read_text()) == before
    # Of other settings, it is not taken for this codec's.
    stored["key"]["facts"] = {"prior": "another"}
    kept.write_text(json.dumps(stored))
    done = run(*command(measured))
    assert "measuring anew" in done.stdout.replace("\n", " ")
    assert json.loads(kept.read_text())["key"]["facts"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codec", "no-such"], "no-such"),
        (["--codec", "jpeg", "--channel", "bsk(ber=1)"], "bsk"),
    ],
)
def test_usage_errors(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run(SCRIPT, *arguments, "--out", tmp_path / "x.toml")
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
