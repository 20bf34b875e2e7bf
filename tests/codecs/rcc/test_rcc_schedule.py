"""Noise schedules: what each promises, for any prior and any curve that a file may hold."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipeline import save_tiny_flux, save_tiny_pipeline

from robustkit.codecs.rcc.schedule import (
    MOST_LOG_SNR,
    PUBLISHED_TIMESTEPS,
    SCHEDULES,
    check_schedule,
    noise_levels,
    usual_schedule,
)
from robustkit.priors import load_prior
from robustkit.priors.base import NoiseLevel, Prior
from robustkit.priors.calibration import ERROR_BOUNDS, LEAST_GAP, LOG_SNR_BOUNDS


@pytest.fixture(scope="module")
def embedded() -> Prior:
    return load_prior("embedded")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_prior(str(save_tiny_pipeline(tmp_path_factory.mktemp("diffusion"))))


def levels_of(prior: Prior, steps: int = 30, closing: int = 5, **settings: object) -> list[NoiseLevel]:
    return noise_levels(prior, steps=steps, closing=closing, **{"correlation": 0.05, "efficiency": 0.85, **settings})  # type: ignore[arg-type]


def log_snr(level: NoiseLevel) -> float:
    return math.log(level.alpha_bar / (1 - level.alpha_bar))


def test_the_published_list_falls_to_the_last_timestep() -> None:
    assert PUBLISHED_TIMESTEPS[0] == 999
    assert PUBLISHED_TIMESTEPS[-1] == 1
    assert all(a > b for a, b in itertools.pairwise(PUBLISHED_TIMESTEPS))


@given(steps=st.integers(2, len(PUBLISHED_TIMESTEPS)))
def test_published_timesteps_are_picked_evenly_with_both_ends(diffusion: Prior, steps: int) -> None:
    levels = levels_of(diffusion, steps, 0, schedule="published")
    timesteps = [int(level.timestep) for level in levels]
    places = [PUBLISHED_TIMESTEPS.index(timestep) for timestep in timesteps]
    assert len(places) == steps
    assert (places[0], places[-1]) == (0, len(PUBLISHED_TIMESTEPS) - 1)
    gaps = np.diff(places)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    alphas = diffusion.alphas_bar  # type: ignore[attr-defined]
    assert [level.alpha_bar for level in levels] == [alphas[timestep] for timestep in timesteps]


def test_the_paper_s_timesteps(diffusion: Prior) -> None:
    timesteps = [level.timestep for level in levels_of(diffusion, schedule="published")]
    assert timesteps[:4] == [999, 834, 704, 591]
    assert timesteps[-3:] == [12, 7, 1]


def test_a_prior_without_timesteps_takes_stable_diffusion_s(embedded: Prior, diffusion: Prior, tmp_path: Path) -> None:
    theirs, ours = (levels_of(prior, schedule="published") for prior in (diffusion, embedded))
    assert [log_snr(a) for a in ours] == pytest.approx([log_snr(b) for b in theirs], abs=1e-3)
    flux = load_prior(str(save_tiny_flux(tmp_path)))
    assert [level.timestep for level in levels_of(flux, schedule="published")] == [b.timestep for b in theirs]


def test_the_usual_schedule_is_information_where_it_is_known(embedded: Prior, diffusion: Prior) -> None:
    assert (usual_schedule(embedded), usual_schedule(diffusion)) == ("information", "even")
    for prior in (embedded, diffusion):
        assert levels_of(prior) == levels_of(prior, schedule=usual_schedule(prior))


def test_a_schedule_that_cannot_be_had_is_named(embedded: Prior, diffusion: Prior) -> None:
    for prior, schedule, steps, problem in (
        (embedded, "random", 30, "'random': give information, even, published"),
        (diffusion, "information", 30, "calibrate-prior"),
        (embedded, "published", 163, "162 timesteps: T = 163"),
    ):
        assert problem in (check_schedule(prior, schedule, steps) or "")
        with pytest.raises(ValueError, match="schedule"):
            levels_of(prior, steps, schedule=schedule)
    assert all(check_schedule(embedded, schedule, 162) is None for schedule in SCHEDULES)


@st.composite
def curves(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Whatever a file may hold."""
    count = draw(st.integers(2, 6))
    gaps = draw(st.lists(st.floats(LEAST_GAP, 8), min_size=count - 1, max_size=count - 1))
    start = draw(st.floats(LOG_SNR_BOUNDS[0], LOG_SNR_BOUNDS[1] - 40))
    errors = draw(st.lists(st.floats(*ERROR_BOUNDS), min_size=count, max_size=count))
    return start + np.cumsum([0.0, *gaps]), np.array(errors)


@given(
    curve=curves(),
    steps=st.integers(2, 255),
    closing=st.integers(0, 253),
    correlation=st.floats(1e-9, 1),
    efficiency=st.floats(0.01, 2.55),
)
def test_information_rises_from_noise_within_bounds_whatever_the_curve(
    embedded: Prior,
    curve: tuple[np.ndarray, np.ndarray],
    steps: int,
    closing: int,
    correlation: float,
    efficiency: float,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "mmse", curve)
        levels = levels_of(embedded, steps, min(closing, steps - 2), correlation=correlation, efficiency=efficiency)
    assert len(levels) == steps
    snrs = [log_snr(level) for level in levels]
    assert snrs[0] == pytest.approx(-12)
    assert all(a <= b + 1e-6 for a, b in itertools.pairwise(snrs))
    assert snrs[-1] <= MOST_LOG_SNR + 1e-6


def test_each_step_rises_by_what_its_atoms_carry(embedded: Prior) -> None:
    assert embedded.mmse is not None
    *coded, _, _ = levels_of(embedded, 20, 2)
    for now, following in itertools.pairwise(coded):
        rise = math.exp(log_snr(following)) - math.exp(log_snr(now))
        error = math.exp(np.interp(log_snr(now), embedded.mmse[0], np.log(embedded.mmse[1])))
        assert rise * error == pytest.approx(0.05 * 0.85, rel=1e-3)
