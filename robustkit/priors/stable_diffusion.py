"""Any Stable Diffusion pipeline as a prior: its VAE's latents, its U-Net with the empty prompt, its noise schedule."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from torch import Tensor

from robustkit.priors.base import NoiseLevel, PriorError
from robustkit.priors.latent import LatentPrior

#: Least share of signal and of noise: schedules that end in pure noise would divide by zero.
LEAST_SHARE = 2.0**-24


class StableDiffusionPrior(LatentPrior):
    """A ``StableDiffusionPipeline`` (1.x and 2.x, of any size) whose U-Net predicts epsilon or v.

    Attributes:
        scheduler: diffusers' DDIM with the pipeline's own noise schedule, as the published RCC codecs load it.

    Raises:
        PriorError: no such pipeline, its U-Net predicts something else, or takes more than a latent and a prompt.
    """

    parts = ("unet", "vae", "text_encoder", "scheduler")

    def _encode_empty_prompt(self, folder: Path) -> None:
        from diffusers import StableDiffusionPipeline

        absent = dict.fromkeys(("unet", "vae", "scheduler", "safety_checker", "feature_extractor", "image_encoder"))
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, dtype=self.dtype, use_safetensors=True, requires_safety_checker=False, **absent
        )
        pipeline.text_encoder.to(self.device)
        self.prompt = pipeline.encode_prompt("", self.device, 1, False)[0].to(self.dtype)

    def _load_denoiser(self, folder: Path) -> None:
        from diffusers import DDIMScheduler, UNet2DConditionModel

        # Whichever scheduler the pipeline was saved with, its betas and its prediction type mean the same.
        settings = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        if "beta_schedule" not in settings:
            raise PriorError(f"{folder}: {settings.get('_class_name')} is no scheduler of Stable Diffusion's")
        self.scheduler = scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        self.kind = scheduler.config.prediction_type
        if self.kind not in ("epsilon", "v_prediction"):
            raise PriorError(f"{folder} predicts {self.kind!r}, not epsilon or v_prediction")
        self.alphas_bar = scheduler.alphas_cumprod.double().numpy().clip(LEAST_SHARE, 1 - LEAST_SHARE)
        self.network = self._ready(UNet2DConditionModel, folder / "unet", self.dtype)
        channels = self.network.config.in_channels, self.network.config.out_channels
        if channels[0] != channels[1]:
            raise PriorError(
                f"{folder}: the U-Net takes {channels[0]} channels and gives {channels[1]}: for inpainting?"
            )

    @property
    def pixel_multiple(self) -> int:
        return self.vae_factor << (len(self.network.config.block_out_channels) - 1)

    def predict_clean(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        prompt = self.prompt.expand(len(noisy), -1, -1)
        predicted: Tensor = self.network(
            noisy.to(self.dtype), int(level.timestep), encoder_hidden_states=prompt
        ).sample.float()
        signal, noise = math.sqrt(level.alpha_bar), math.sqrt(1 - level.alpha_bar)
        if self.kind == "v_prediction":
            return signal * noisy - noise * predicted
        return (noisy - noise * predicted) / signal

    def level_at_snr(self, log_snr: float) -> NoiseLevel:
        known = np.log(self.alphas_bar / (1 - self.alphas_bar))
        return self.level_at_timestep(int(np.abs(known - log_snr).argmin()))

    def level_at_timestep(self, timestep: int) -> NoiseLevel:
        return NoiseLevel(alpha_bar=float(self.alphas_bar[timestep]), timestep=timestep)
