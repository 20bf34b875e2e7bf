"""Noise schedules: which noise levels an RCC codec visits, and a step of the reverse diffusion between two."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from robustkit.priors.base import NoiseLevel, Prior

#: Log-SNR of the first level: as good as pure noise.
START_LOG_SNR = -12.0
#: Span of log-SNR that a prior without a measured information curve is stepped through evenly.
PLAIN_LOG_SNR = (-5.0, 3.5)
#: Rise of log-SNR over the closing steps.
CLOSING_LOG_SNR = 2.0


def noise_levels(prior: Prior, *, steps: int, closing: int, correlation: float, efficiency: float) -> list[NoiseLevel]:
    """The ``steps`` noise levels, from pure noise to the last before the final estimate.

    A DDPM step from one SNR to the next wants a noise whose squared correlation with the residual is the rise in
    SNR times the residual's mean square (the term in x0 of the posterior mean over its standard deviation). The
    atoms give the same correlation at every step, so each step may rise by that correlation over the mean square.

    Args:
        prior: its error curve says how large the residual is; without one the levels are even in log-SNR.
        steps: T, levels in all; each takes one call of the denoiser.
        closing: N, the levels at the end that are reached without bits.
        correlation: squared, of one step's noise with the residual
            (:meth:`robustkit.codecs.rcc.protocol.BitProtocol.correlation`).
        efficiency: factor on each rise. A level reached too early costs more than one reached too late.
    """
    coded = steps - 1 - closing
    if prior.mmse is None:
        positions = np.linspace(*PLAIN_LOG_SNR, steps - 1).tolist()
        return [prior.level_at_snr(position) for position in (START_LOG_SNR, *positions)]
    positions = [START_LOG_SNR]
    for _ in range(coded):
        rise = efficiency * correlation / expected_error(prior, positions[-1])
        positions.append(math.log(math.exp(positions[-1]) + rise))
    positions += (positions[-1] + np.linspace(0, CLOSING_LOG_SNR, closing + 1)[1:]).tolist()
    return [prior.level_at_snr(position) for position in positions]


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
    return math.exp(float(logarithms[-1] + slope * (log_snr - positions[-1])))


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
    direction = (noisy - math.sqrt(a) * clean) / math.sqrt(1 - a)
    variance = 0.0 if noise is None else max(0.0, (1 - b) / (1 - a) * (1 - a / b))
    moved = math.sqrt(b) * clean + math.sqrt(max(0.0, 1 - b - variance)) * direction
    return moved if noise is None else moved + math.sqrt(variance) * noise
