"""A prior's error curve: measured, kept, read back, and part of what the prior is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from tiny_pipeline import save_tiny_flux, save_tiny_pipeline

from robustkit import DecodeError
from robustkit.cli import main
from robustkit.codecs.rcc.turbo import RobustTurboDDCM
from robustkit.images import photographs
from robustkit.priors import load_prior
from robustkit.priors.base import NoiseLevel, PriorError
from robustkit.priors.calibration import (
    FILE,
    LOG_SNR_BOUNDS,
    MOST_BYTES,
    error_curve,
    latents_of,
    levels_to_measure,
    read_curve,
    write_curve,
)

WEIGHTS = bytes(range(32))
POINTS = [(-6.0, 1.0), (0.0, 0.4), (5.0, 0.02)]


def calibrate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["calibrate-prior", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_pipeline(tmp_path / "prior")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    target = tmp_path / "pictures"
    target.mkdir()
    for name in ("coffee", "chelsea"):
        PILImage.fromarray(photographs(crop=70)[name]).save(target / f"{name}.png")
    return target


# -- measuring ------------------------------------------------------------------------------------------------


def test_the_curve_of_a_known_denoiser_is_the_known_one() -> None:
    # Of white latents of variance v, the linear estimate errs by v / (1 + snr v): Wiener's formula.
    variance = 0.7
    clean = math.sqrt(variance) * torch.randn(8, 4, 32, 32, generator=torch.Generator().manual_seed(5))

    def wiener(noisy: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        a = level.alpha_bar
        return noisy * (math.sqrt(a) * variance / (a * variance + 1 - a))

    levels = [NoiseLevel(1 / (1 + math.exp(-log_snr)), log_snr) for log_snr in (-5.0, 0.0, 4.0)]
    for split in ([clean], list(clean.split([1, 3, 4]))):
        for log_snr, error in error_curve(wiener, split, levels):
            assert error == pytest.approx(variance / (1 + math.exp(log_snr) * variance), rel=0.03)


def test_the_embedded_prior_s_curve_comes_out_again() -> None:
    # Its training measured it, on other photographs.
    prior = load_prior("embedded")
    assert prior.mmse is not None
    levels = [prior.level_at_snr(log_snr) for log_snr in (-3.0, 1.0)]
    latents = latents_of(prior, list(photographs().values()))
    for log_snr, error in error_curve(prior.predict_clean, latents, levels):
        known = math.exp(np.interp(log_snr, prior.mmse[0], np.log(prior.mmse[1])))
        assert known / 2 < error < 2 * known


def test_levels_to_measure_rise_and_differ(folder: Path) -> None:
    prior = load_prior(str(folder))
    levels = levels_to_measure(prior)
    assert len({level.timestep for level in levels}) == len(levels)
    # Beyond the last timesteps there is nothing to measure.
    assert 20 < len(levels) < len(levels_to_measure(load_prior("embedded")))
    alphas = [level.alpha_bar for level in levels]
    assert alphas == sorted(alphas)


# -- the file -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0.01, 4), st.floats(1e-9, 1e3)), min_size=2, max_size=10),
    st.floats(LOG_SNR_BOUNDS[0], -10),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_back(tmp_path: Path, steps: list[tuple[float, float]], start: float) -> None:
    places = np.round(start + np.cumsum([gap + 0.01 for gap, _ in steps]), 6)
    points = [(float(place), error) for place, (_, error) in zip(places, steps, strict=True)]
    write_curve(tmp_path / "curve.json", WEIGHTS, points, note="how")
    curve = read_curve(tmp_path / "curve.json", WEIGHTS)
    assert curve is not None
    assert list(zip(*(part.tolist() for part in curve), strict=True)) == points
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "recipe"}, "its kind is not"),
        ({"prior": WEIGHTS[::-1].hex()}, "another prior"),
        ({"log_snr": [-6, 0]}, "2 log-SNRs and 3 errors"),
        ({"log_snr": [1], "squared_error": [1]}, "at least 2"),
        ({"log_snr": [-6, 0, 0]}, "does not rise"),
        ({"log_snr": [-6, 0, math.nan]}, "a log_snr is not in"),
        ({"log_snr": [-6, 0, 31]}, "a log_snr is not in"),
        ({"squared_error": [1, 0, 1]}, "a squared_error is not in"),
        ({"squared_error": [1, -1, 1]}, "a squared_error is not in"),
        ({"squared_error": [1, math.inf, 1]}, "a squared_error is not in"),
        ({"squared_error": [1, 10**400, 1]}, "too large"),
        ({"squared_error": [1, [2], 1]}, "squared_error is not a list of numbers"),
        ({"squared_error": {"1": 1, "2": 2, "3": 3}}, "squared_error is not a list of numbers"),
        ({"squared_error": "123"}, "squared_error is not a list of numbers"),
        ({"squared_error": [True, True, True]}, "squared_error is not a list of numbers"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    file = tmp_path / FILE
    write_curve(file, WEIGHTS, POINTS)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(PriorError, match=problem) as caught:
        read_curve(file, WEIGHTS)
    assert str(file) in str(caught.value)


@given(
    st.one_of(st.binary(max_size=200), st.just(b"[" * 60_000), st.just(b" " * (MOST_BYTES + 1)), st.just(b"9" * 5000))
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_prior_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(PriorError, match=FILE):
        read_curve(tmp_path / FILE, WEIGHTS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_a_prior_error_or_a_curve(tmp_path: Path, data: st.DataObject) -> None:
    write_curve(tmp_path / FILE, WEIGHTS, POINTS)
    content = bytearray((tmp_path / FILE).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    (tmp_path / FILE).write_bytes(content)
    try:
        curve = read_curve(tmp_path / FILE, WEIGHTS)
    except PriorError:
        return
    assert curve is not None
    assert np.isfinite(curve).all()


def test_a_curve_that_no_denoiser_has_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(PriorError, match="can't be used: a squared_error"):
        write_curve(tmp_path / FILE, WEIGHTS, [(-1.0, math.nan), (1.0, 1.0)])
    assert not list(tmp_path.iterdir())


# -- the command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [save_tiny_pipeline, save_tiny_flux])
def test_a_calibrated_prior_is_another_one(save: Any, tmp_path: Path, pictures: Path) -> None:
    folder = save(tmp_path / "kind")
    image = photographs(crop=64)["astronaut"]
    before = RobustTurboDDCM(prior=str(folder), T=6, M=8, K=1 << 10)
    result = calibrate(folder, "--images", pictures, "--crop", 64)
    assert result.exit_code == 0, result.output
    assert f"{folder / FILE}: " in result.stderr
    after = RobustTurboDDCM(prior=str(folder), T=6, M=8, K=1 << 10)
    assert after.prior.mmse is not None
    log_snr, errors = after.prior.mmse
    assert np.all(np.diff(log_snr) > 0)
    assert np.all(errors > 0)
    stream = after.encode(image)
    assert np.array_equal(RobustTurboDDCM(prior=str(folder), T=3, M=1).decode(stream), after.decode(stream))
    for codec, stream in ((before, after.encode(image)), (after, before.encode(image))):
        with pytest.raises(DecodeError, match="encoded with the prior"):
            codec.decode(stream)
    # Measured again, it is the same.
    curve = json.loads((folder / FILE).read_text())
    assert calibrate(folder, "--images", pictures, "--crop", 64).exit_code == 0
    again = json.loads((folder / FILE).read_text())
    assert again["squared_error"] == pytest.approx(curve["squared_error"], rel=1e-3)
    assert again["images"] == ["chelsea.png", "coffee.png"]


def test_scikit_image_s_photographs_are_the_default(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "curve.json"
    result = calibrate(folder, "--crop", 40, "--out", out)
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["images"] == list(photographs())
    # Nothing changed but that file.
    assert load_prior(str(folder)).mmse is None


def test_the_curve_of_a_hub_name_is_kept_in_the_user_s_cache(
    folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    load_config = diffusers.DiffusionPipeline.load_config
    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", lambda name: load_config(str(folder)))
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", lambda name, **_: str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = "somebody/tiny-stable-diffusion"
    before = load_prior(name)
    assert calibrate(name, "--images", pictures, "--crop", 32).exit_code == 0
    (kept,) = (tmp_path / "cache" / "robustkit" / "priors").iterdir()
    assert kept.name == f"{before.identity.hex()}.json"
    after = load_prior(name)
    assert after.mmse is not None
    assert after.identity != before.identity
    assert load_prior(str(folder)).identity == before.identity


def test_a_bad_file_beside_the_prior_is_named(folder: Path) -> None:
    (folder / FILE).write_text("{}")
    with pytest.raises(PriorError, match=FILE):
        load_prior(str(folder))
    result = calibrate(folder)
    assert result.exit_code == 1
    assert "remove it" in result.output


def test_what_cannot_be_calibrated_is_said(folder: Path, pictures: Path, tmp_path: Path) -> None:
    for status, message, arguments in (
        (2, "its training measured it", ["embedded"]),
        (2, "multiples of 8 pixels", [folder, "--crop", 7]),
        (1, "a crop of 80 does not fit", [folder, "--images", pictures, "--crop", 80]),
        (1, "is not a folder", [folder, "--images", tmp_path / "none"]),
        (1, "config.json", [tmp_path]),
        (1, "device 'abacus'", [folder, "--device", "abacus"]),
        (1, "can't be written", [folder, "--crop", 8, "--out", folder / "model_index.json" / "curve.json"]),
    ):
        result = calibrate(*arguments)
        assert result.exit_code == status, result.output
        assert message in " ".join(result.output.replace("│", " ").split()), result.output
