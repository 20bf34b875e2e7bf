"""Any Stable Diffusion pipeline as a prior: its VAE's latents, its U-Net with the empty prompt, its noise schedule."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustkit.priors.base import NoiseLevel, Prior, PriorError

PARTS = ("unet", "vae", "text_encoder", "scheduler")


class StableDiffusionPrior(Prior):
    """A ``StableDiffusionPipeline`` of the epsilon or v_prediction kind, read from safetensors only.

    Args:
        name: a folder written by ``save_pretrained``, or a hub name (which downloads, once, if it is not cached).
        device: a torch device.
        dtype: of the U-Net; the VAE runs in float32 on a CPU and in ``dtype`` elsewhere.

    Attributes:
        scheduler: diffusers' DDIM with the pipeline's own noise schedule, as the published RCC codecs load it.

    Raises:
        PriorError: no such pipeline, or its U-Net predicts something else.
    """

    def __init__(self, name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        try:
            folder = Path(name if Path(name).is_dir() else StableDiffusionPipeline.download(name, use_safetensors=True))
            pipeline = StableDiffusionPipeline.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, safety_checker=None, requires_safety_checker=False
            )
        except (OSError, ValueError) as error:
            raise PriorError(
                f"prior {name!r} is no Stable Diffusion folder and can't be had from the hub: {error}"
            ) from error
        self.device, self.dtype = torch.device(device), dtype
        self.mmse = None
        self.scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.kind = pipeline.scheduler.config.prediction_type
        if self.kind not in ("epsilon", "v_prediction"):
            raise PriorError(f"prior {name!r} predicts {self.kind!r}, not epsilon or v_prediction")
        self.alphas_bar = pipeline.scheduler.alphas_cumprod.double().numpy()
        self.network = pipeline.unet.eval().requires_grad_(False).to(self.device)
        self.vae = pipeline.vae.eval().requires_grad_(False).to(self.device)
        if self.device.type == "cpu":
            self.vae = self.vae.float()
        pipeline.text_encoder.to(self.device)
        with torch.inference_mode():
            self.prompt = pipeline.encode_prompt("", self.device, 1, False)[0].to(dtype)
        self.identity = _identity(folder)

    @property
    def vae_factor(self) -> int:
        """Pixels a latent cell is wide."""
        return 1 << (len(self.vae.config.block_out_channels) - 1)

    @property
    def pixel_multiple(self) -> int:
        return self.vae_factor << (len(self.network.config.block_out_channels) - 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return (self.network.config.in_channels, height // self.vae_factor, width // self.vae_factor)

    def encode(self, images: Tensor) -> Tensor:
        latents = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist.mode()
        scaled: Tensor = latents * self.vae.config.scaling_factor
        return scaled.float()

    def decode(self, latents: Tensor) -> Tensor:
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        # One at a time: the VAE, not the U-Net, is what fills the memory.
        return torch.cat([self.vae.decode(one[None]).sample.float() for one in scaled])

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
        timestep = int(np.abs(known - log_snr).argmin())
        return NoiseLevel(alpha_bar=float(self.alphas_bar[timestep]), timestep=timestep)


def _identity(folder: Path) -> bytes:
    digest = hashlib.sha256()
    for part in PARTS:
        for path in sorted((folder / part).glob("*")):
            if path.suffix in (".json", ".safetensors"):
                digest.update(f"{part}/{path.name}\n".encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()
