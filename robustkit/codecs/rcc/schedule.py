"""Noise schedules: which noise levels an RCC codec visits, and a step of the reverse diffusion between two."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from robustkit.priors.base import NoiseLevel, Prior
from robustkit.priors.calibration import ERROR_BOUNDS

#: The choices; a choice's number is its place here.
#: ``information``: each step rises in SNR as far as its atoms carry it under the prior's error curve.
#: ``even``: even in log-SNR, for a prior whose curve was never measured.
#: ``published``: evenly picked from a list of timesteps, whatever the prior and the rate.
SCHEDULES = ("information", "even", "published")
#: Log-SNR of the first level: as good as pure noise.
START_LOG_SNR = -12.0
#: Span of log-SNR that a prior without a measured information curve is stepped through evenly.
PLAIN_LOG_SNR = (-5.0, 3.5)
#: Rise of log-SNR over the closing steps.
CLOSING_LOG_SNR = 2.0
#: Beyond this nothing is left to say of 8-bit pixels, and 1 - alpha_bar would round to 0.
MOST_LOG_SNR = 20.0
#: Stable Diffusion's timesteps of about equal information, as Vonderfecht and Liu published them for DiffC ("Lossy
#: compression with pretrained diffusion models", ICLR 2025), with Turbo-DDCM's first.
PUBLISHED_TIMESTEPS = (
    *(999, 972, 949, 929, 897, 869, 834, 805, 780, 751, 726, 704, 688, 670, 648, 627, 608, 591, 578, 561, 546, 530),
    *(520, 510, 498, 491, 480, 465, 455, 447, 438, 429, 419, 410, 402, 390, 380, 371, 361, 353, 345, 336, 326, 319),
    *(313, 305, 296, 289, 282, 276, 269, 261, 254, 247, 242, 237, 231, 224, 219, 213, 209, 204, 200, 194, 189, 185),
    *(181, 175, 170, 167, 163, 160, 156, 153, 149, 146, 143, 139, 135, 132, 129, 125, 121),
    *(118, 116, 113, 110, 107, 104, 101, 99, 96, 94, 92, 90, 87, 85, 82),
    *range(80, 48, -2),
    *range(48, 0, -1),
)


def usual_schedule(prior: Prior) -> str:
    """The schedule where none was asked for: by information, if the prior's error curve is known."""
    return "even" if prior.mmse is None else "information"


def check_schedule(prior: Prior, schedule: str, steps: int) -> str | None:
    """Why ``prior`` can't be stepped through in ``steps`` levels by this schedule, or ``None`` if it can."""
    if schedule not in SCHEDULES:
        return f"schedule {schedule!r}: give {', '.join(SCHEDULES)}"
    if schedule == "information" and prior.mmse is None:
        return (
            "schedule 'information' needs the prior's error curve: measure it with robustkit calibrate-prior, "
            "or give schedule 'even'"
        )
    if schedule == "published" and steps > len(PUBLISHED_TIMESTEPS):
        return f"schedule 'published' has {len(PUBLISHED_TIMESTEPS)} timesteps: T = {steps} are too many"
    return None


def noise_levels(
    prior: Prior,
    *,
    steps: int,
    closing: int,
    correlation: float,
    efficiency: float,
    schedule: str | None = None,
    first: int | None = None,
) -> list[NoiseLevel]:
    """The ``steps`` noise levels, from pure noise to the last before the final estimate.

    Args:
        prior: whose levels.
        steps: T, levels in all; each takes one call of the denoiser.
        closing: N, the levels at the end that are reached without bits.
        correlation: squared, of one step's noise with the residual
            (:meth:`robustkit.codecs.rcc.protocol.BitProtocol.correlation`).
        efficiency: factor on each rise. A level reached too early costs more than one reached too late.
        schedule: one of :data:`SCHEDULES`, or ``None`` for :func:`usual_schedule`. ``closing``, ``correlation`` and
            ``efficiency`` matter to ``information`` alone.
        first: how many of the levels to give, or ``None`` for all.

    Raises:
        ValueError: :func:`check_schedule` says why.
    """
    schedule = usual_schedule(prior) if schedule is None else schedule
    if problem := check_schedule(prior, schedule, steps):
        raise ValueError(problem)
    if schedule == "published":
        stride = (len(PUBLISHED_TIMESTEPS) - 1) / (steps - 1)
        return [prior.level_at_timestep(PUBLISHED_TIMESTEPS[round(step * stride)]) for step in range(steps)[:first]]
    if schedule == "even":
        positions = [START_LOG_SNR, *np.linspace(*PLAIN_LOG_SNR, steps - 1).tolist()]
    else:
        coded = steps - 1 - closing
        positions = _by_information(prior, coded if first is None else min(coded, first), efficiency * correlation)
        positions += (positions[-1] + np.linspace(0, CLOSING_LOG_SNR, closing + 1)[1:]).tolist()
    return [prior.level_at_snr(min(position, MOST_LOG_SNR)) for position in positions[:first]]


def _by_information(prior: Prior, coded: int, carried: float) -> list[float]:
    """Log-SNRs from pure noise on, each of the ``coded`` steps rising by what its atoms carry.

    A DDPM step from one SNR to the next wants a noise whose squared correlation with the residual is the rise in
    SNR times the residual's mean square (the term in x0 of the posterior mean over its standard deviation). The
    atoms give the same correlation at every step, so each step may rise by that correlation over the mean square.
    """
    positions = [START_LOG_SNR]
    for _ in range(coded):
        rise = carried / expected_error(prior, positions[-1])
        positions.append(min(MOST_LOG_SNR, math.log(math.exp(positions[-1]) + rise)))
    return positions


def expected_error(prior: Prior, log_snr: float) -> float:
    """The mean squared error of ``prior`` at ``log_snr``, or of the best estimate of normal latents if never measured.

    Between the measured points, and beyond their clean end, it is a power law of the SNR.
    """
    if prior.mmse is None:
        return 1 / (1 + math.exp(log_snr))
    positions, errors = prior.mmse
    logarithms = np.log(errors)
    if log_snr <= positions[-1]:
        return math.exp(float(np.interp(log_snr, positions, logarithms)))
    slope = (logarithms[-1] - logarithms[-2]) / (positions[-1] - positions[-2])
    beyond = logarithms[-1] + slope * (log_snr - positions[-1])
    return math.exp(float(np.clip(beyond, *np.log(ERROR_BOUNDS))))


def reverse_step(noisy: Tensor, clean: Tensor, now: NoiseLevel, following: NoiseLevel, noise: Tensor | None) -> Tensor:
    """One reverse step: DDPM with the given ``noise`` (eta = 1), or DDIM without (eta = 0).

    Song, Meng and Ermon 2021, equations 12 and 16.

    Args:
        noisy: latents at ``now``.
        clean: the denoiser's estimate of the clean latents.
        now, following: two levels, ``following`` the cleaner one.
        noise: latents of unit variance, or ``None``.
    """
    a, b = now.alpha_bar, following.alpha_bar
    variance = 0.0 if noise is None else max(0.0, (1 - b) / (1 - a) * (1 - a / b))
    # What is the noise in ``noisy``, scaled to the new level, and the clean latents: one pass over each tensor.
    scale = math.sqrt(max(0.0, 1 - b - variance) / (1 - a))
    moved = (noisy * scale).add_(clean, alpha=math.sqrt(b) - math.sqrt(a) * scale)
    return moved if noise is None else moved.add_(noise, alpha=math.sqrt(variance))
