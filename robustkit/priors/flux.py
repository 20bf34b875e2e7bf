"""FLUX.1, a flow-matching model, as a prior: the noise levels of its straight paths by their SNR."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from robustkit.priors.base import NoiseLevel, PriorError
from robustkit.priors.latent import LatentPrior

#: Latent cells on a side of the squares that the transformer takes as tokens.
PATCH = 2
#: As published: the guidance that a distilled model is told, 1 for none, and the sigmas of 1000 timesteps.
GUIDANCE = 1.0
TIMESTEPS = 1000


class FluxPrior(LatentPrior):
    """A ``FluxPipeline`` (FLUX.1-dev, FLUX.1-schnell), with the empty prompt.

    A rectified flow goes straight from image to noise, ``x_s = (1 - s) x0 + s noise``. The RCC codecs' state keeps
    its variance instead, ``sqrt(a) x0 + sqrt(1 - a) noise``; at equal SNR one is the other times a number, so
    ``s = 1 / (1 + sqrt(a / (1 - a)))`` (Vonderfecht and Liu 2025, for FLUX).
    """

    parts = ("transformer", "vae", "text_encoder", "text_encoder_2")

    def _encode_empty_prompt(self, folder: Path) -> None:
        from diffusers import FluxPipeline, FluxTransformer2DModel

        self.distilled = bool(FluxTransformer2DModel.load_config(folder / "transformer").get("guidance_embeds"))
        absent = dict.fromkeys(("transformer", "vae", "scheduler", "image_encoder", "feature_extractor"))
        pipeline = FluxPipeline.from_pretrained(folder, dtype=self.dtype, use_safetensors=True, **absent)
        pipeline.text_encoder.to(self.device)
        pipeline.text_encoder_2.to(self.device)
        # The lengths that the two models were trained with.
        length = 512 if self.distilled else 256
        prompt, pooled, places = pipeline.encode_prompt("", None, self.device, max_sequence_length=length)
        self.prompt, self.pooled, self.prompt_places = prompt.to(self.dtype), pooled.to(self.dtype), places

    def _load_denoiser(self, folder: Path) -> None:
        from diffusers import FluxTransformer2DModel

        self.network = self._ready(FluxTransformer2DModel, folder / "transformer", self.dtype)
        config = self.network.config
        if config.out_channels not in (None, config.in_channels):
            raise PriorError(
                f"{folder}: the transformer takes {config.in_channels} channels and gives {config.out_channels}: "
                "for editing or control?"
            )

    @property
    def pixel_multiple(self) -> int:
        return self.vae_factor * PATCH

    def predict_clean(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        share = level.timestep / TIMESTEPS
        straight = noisy * math.hypot(1 - share, share)
        count, _, height, width = noisy.shape
        guidance = torch.full((count,), GUIDANCE, device=self.device) if self.distilled else None
        velocity: Tensor = self.network(
            hidden_states=pack(straight).to(self.dtype),
            timestep=torch.full((count,), share, device=self.device),
            guidance=guidance,
            pooled_projections=self.pooled.expand(count, -1),
            encoder_hidden_states=self.prompt.expand(count, -1, -1),
            txt_ids=self.prompt_places,
            img_ids=self._places(height // PATCH, width // PATCH),
            return_dict=False,
        )[0]
        # The velocity is noise - x0.
        return straight - share * unpack(velocity.float(), height, width)

    def _places(self, rows: int, columns: int) -> Tensor:
        """Where each token is, ``(rows * columns, 3)``: 0, its row, its column."""
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([torch.zeros_like(row), row, column], dim=-1)
        return places.flatten(0, 1).to(self.device, self.dtype)

    def level_at_snr(self, log_snr: float) -> NoiseLevel:
        return _level(float(1 / (1 + np.exp(log_snr / 2))))

    def level_at_timestep(self, timestep: int) -> NoiseLevel:
        return _level(timestep / TIMESTEPS)


def _level(share: float) -> NoiseLevel:
    """The level of a share ``s`` of noise on the straight path."""
    return NoiseLevel(alpha_bar=(1 - share) ** 2 / ((1 - share) ** 2 + share**2), timestep=share * TIMESTEPS)


def pack(latents: Tensor) -> Tensor:
    """Latents ``(b, c, h, w)`` to tokens ``(b, h/2 * w/2, 4c)``, a 2x2 square each."""
    return pixel_unshuffle(latents, PATCH).flatten(2).mT


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens back to latents ``(b, c, height, width)``."""
    return pixel_shuffle(tokens.mT.reshape(len(tokens), -1, height // PATCH, width // PATCH), PATCH)
