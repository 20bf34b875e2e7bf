"""What an RCC codec needs of a prior: latents, a denoiser, and how information grows with the SNR."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustkit.priors.errors import PriorError as PriorError


@dataclass(frozen=True)
class NoiseLevel:
    """One point of the diffusion process.

    Attributes:
        alpha_bar: share of signal power, in (0, 1): ``x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise``.
        timestep: what the prior's own network calls this level.
    """

    alpha_bar: float
    timestep: float


class Prior(ABC):
    """A diffusion model of images.

    Attributes:
        identity: SHA-256 of what decides its output (config, weights, and the curve below); two codecs can read
            each other's streams only if these agree.
        mmse: ``(log_snr, mean squared error)`` of the denoiser on photographs, log-SNR rising: how much
            information a step of SNR buys (Guo, Shamai and Verdu 2005). ``None`` where it was never measured.
        weight_files: that it was read from; those that ``identity`` is of.
    """

    device: torch.device
    dtype: torch.dtype
    identity: bytes
    weight_files: tuple[Path, ...] = ()
    mmse: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None

    @property
    @abstractmethod
    def pixel_multiple(self) -> int:
        """Both sides of an image given to :meth:`encode` are multiples of this."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape ``(c, h, w)`` of the latent of an image of ``height`` x ``width`` pixels."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images ``(b, 3, H, W)`` in [-1, 1] to float32 latents ``(b, c, h, w)``."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images ``(b, 3, H, W)`` in about [-1, 1], float32."""

    @abstractmethod
    def predict_clean(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        """Estimate clean float32 latents from noisy ones, ``(b, c, h, w)``, all at one noise level."""

    def predict_loosely(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        """As :meth:`predict_clean` but for the last bits, where that is faster: for decoders, which choose nothing."""
        return self.predict_clean(noisy, level)

    def predict_final(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        """The estimate that becomes the image: as :meth:`predict_clean`, and worth a few more calls."""
        return self.predict_clean(noisy, level)

    @abstractmethod
    def level_at_snr(self, log_snr: float) -> NoiseLevel:
        """The level whose ``ln(alpha_bar / (1 - alpha_bar))`` is nearest to ``log_snr``."""

    def level_at_timestep(self, timestep: int) -> NoiseLevel:
        """The level that published schedules call ``timestep``, 0 (clean) to 999.

        A prior without timesteps of its own has Stable Diffusion's.
        """
        alpha_bar = _stable_diffusion_alphas()[timestep]
        return self.level_at_snr(float(np.log(alpha_bar / (1 - alpha_bar))))


@lru_cache
def _stable_diffusion_alphas() -> npt.NDArray[np.float64]:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)
