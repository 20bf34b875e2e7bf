"""The embedded prior: a small diffusion model of photographs in an orthonormal 8x8 block transform.

Small enough to live in the wheel and to run on a CPU, so that the RCC codecs work with no download.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustkit.priors.base import NoiseLevel, Prior, PriorError
from robustkit.priors.graphs import graphs_of
from robustkit.priors.unet import UNet, UNetConfig
from robustkit.priors.winograd import for_batches, in_parts

KIND = "robustkit-block-diffusion"
#: What a prior's folder has, and its identity is of.
_FILES = ("config.json", "model.safetensors")
BLOCK = 8
#: The network halves its grid twice, so a latent grid is a multiple of 4 blocks on each side.
PIXEL_MULTIPLE = 32
#: In float32, batches of latents of fewer numbers than those of 512x512 go to cuDNN. It computes single images in more
#: time than torch's own convolutions, and large ones in 15 times as much, with 22 GiB at 2048x2048.
CUDNN_BELOW = 64 * 64 * 64
#: Places of a batch's latents from which on a CPU's convolutions gain by fewer multiplications, and those of one image
#: up to which their workspace stays small.
WINOGRAD_FROM, WINOGRAD_TO = 2 * 32 * 32, 64 * 64


class BlockTransform:
    """An orthonormal transform of 8x8 RGB blocks that keeps the leading components.

    Args:
        basis: float32 ``(components, 3, 8, 8)``, orthonormal rows.
        mean: float32 ``(components,)``, the mean of each component.
        scale: factor that brings the mean component variance to one.
    """

    def __init__(self, basis: Tensor, mean: Tensor, scale: float) -> None:
        self.basis, self.mean, self.scale = basis, mean, scale

    def analyse(self, images: Tensor) -> Tensor:
        """Images in [-1, 1], ``(b, 3, 8h, 8w)``, to latents ``(b, components, h, w)``."""
        coefficients = F.conv2d(images, self.basis, stride=BLOCK)
        return (coefficients - self.mean.view(1, -1, 1, 1)) * self.scale

    def synthesise(self, latents: Tensor) -> Tensor:
        """Latents ``(b, components, h, w)`` to images in about [-1, 1], ``(b, 3, 8h, 8w)``."""
        coefficients = latents / self.scale + self.mean.view(1, -1, 1, 1)
        return F.conv_transpose2d(coefficients, self.basis, stride=BLOCK)


class WienerDenoiser(torch.nn.Module):
    """A network that corrects the per-component Wiener estimate of a noisy latent.

    ``x0 = w * x_t + sqrt(posterior variance) * F(x_t, snr)``: with ``F = 0`` it is the best linear
    denoiser that ignores the neighbours, so the network starts from a sound estimate and its output
    has about unit scale at every noise level.
    """

    variance: Tensor

    def __init__(self, network: UNet, variance: Tensor, log_snr_range: tuple[float, float]) -> None:
        super().__init__()
        self.network = network
        self.log_snr_range = log_snr_range
        self.register_buffer("variance", variance.reshape(1, -1, 1, 1))

    def forward(self, noisy: Tensor, alpha_bar: Tensor) -> Tensor:
        """Estimate the clean latent.

        Args:
            noisy: ``(b, c, h, w)``, ``sqrt(alpha_bar) * x0 + sqrt(1 - alpha_bar) * noise``.
            alpha_bar: ``(b,)`` in (0, 1).
        """
        alpha_bar = alpha_bar.to(noisy.dtype).view(-1, 1, 1, 1)
        noise_variance = 1 - alpha_bar
        total = alpha_bar * self.variance + noise_variance
        wiener = alpha_bar.sqrt() * self.variance / total
        posterior = self.variance * noise_variance / total
        low, high = self.log_snr_range
        log_snr = torch.log(alpha_bar / noise_variance).clamp(low, high).flatten()
        position = (log_snr - low) * (1000.0 / (high - low))
        correction: Tensor = self.network(noisy / total.sqrt(), position)
        return wiener * noisy + posterior.sqrt() * correction


def channels_last(denoiser: WienerDenoiser) -> WienerDenoiser:
    """Lay the weights out as CPU convolutions like them."""
    denoiser.to(memory_format=torch.channels_last)
    return denoiser


def make_network(config: Mapping[str, Any]) -> UNet:
    """Build the U-Net that ``config`` (the fields of :class:`UNetConfig`) describes."""
    return UNet(UNetConfig(**{**config, "block_out_channels": tuple(config["block_out_channels"])}))


class BlockDiffusionPrior(Prior):
    """The embedded prior, read from a folder with ``config.json`` and ``model.safetensors``.

    Raises:
        PriorError: the folder is missing a file, or a file is not what this class writes.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("kind") != KIND:
            raise PriorError(f"{folder}: kind is {config.get('kind')!r}, not {KIND!r}")
        weights_path = folder / "model.safetensors"
        self.config = config
        self.device, self.dtype = torch.device(device), dtype
        self.weight_files = tuple(folder / name for name in _FILES)
        self.identity = _identity(folder)
        self.graphs = graphs_of(self.device)
        tensors = {k: v.to(torch.float32) for k, v in load_file(weights_path).items()}
        self.transform = BlockTransform(
            tensors.pop("transform.basis").to(self.device),
            tensors.pop("transform.mean").to(self.device),
            float(config["scale"]),
        )
        denoiser = WienerDenoiser(make_network(config["network"]), tensors["variance"], tuple(config["log_snr_range"]))
        denoiser.load_state_dict(tensors)
        denoiser.eval().requires_grad_(False)
        self.denoiser = channels_last(denoiser.to(self.device, dtype))
        self._turned = [self._components_turned(quarters) for quarters in range(4)]
        self.mmse = (
            np.asarray(config["mmse"]["log_snr"], dtype=np.float64),
            np.asarray(config["mmse"]["squared_error"], dtype=np.float64),
        )

    def _components_turned(self, quarters: int) -> Tensor:
        """What turning every block does to its components: float32 ``(components, components)``."""
        basis = self.transform.basis
        return basis.flatten(1) @ torch.rot90(basis, quarters, (-2, -1)).flatten(1).T

    @property
    def pixel_multiple(self) -> int:
        return PIXEL_MULTIPLE

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return (self.transform.basis.shape[0], height // BLOCK, width // BLOCK)

    def _exactly(self, *, cudnn: bool = True) -> AbstractContextManager[None]:
        """On a GPU, float32 means float32 too: TF32, which cuDNN takes unasked, keeps 10 bits of a factor."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=cudnn, deterministic=True, allow_tf32=False)

    def encode(self, images: Tensor) -> Tensor:
        with self._exactly():
            return self.transform.analyse(images.to(self.device, torch.float32))

    def decode(self, latents: Tensor) -> Tensor:
        with self._exactly():
            return self.transform.synthesise(latents.to(torch.float32))

    def predict_clean(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        alpha_bar = torch.full((len(noisy),), level.alpha_bar, device=self.device, dtype=self.dtype)
        if self.graphs is None:
            return self._estimate(noisy, alpha_bar)[0]
        return self.graphs.run(("denoiser", self.identity, self.dtype), self._estimate, noisy, alpha_bar)[0]

    def _estimate(self, noisy: Tensor, alpha_bar: Tensor) -> tuple[Tensor]:
        batch = noisy.to(self.dtype).contiguous(memory_format=torch.channels_last)
        with self._exactly(cudnn=self.dtype != torch.float32 or (len(noisy) > 1 and noisy[0].numel() < CUDNN_BELOW)):
            estimate: Tensor = self.denoiser(batch, alpha_bar)
        return (estimate.to(torch.float32).contiguous(),)

    @cached_property
    def _for_batches(self) -> WienerDenoiser:
        return for_batches(self.denoiser)

    def predict_loosely(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        """A batch on a CPU in two thirds of the time, to some 1e-5 (:mod:`robustkit.priors.winograd`)."""
        places = math.prod(noisy.shape[2:])
        loose = len(noisy) > 1 and places <= WINOGRAD_TO and len(noisy) * places >= WINOGRAD_FROM
        if not loose or self.device.type != "cpu" or self.dtype != torch.float32:
            return self.predict_clean(noisy, level)
        alpha_bar = torch.full((len(noisy),), level.alpha_bar)
        batch = noisy.contiguous(memory_format=torch.channels_last)
        least = -(-WINOGRAD_FROM // places)
        return in_parts(self._for_batches, batch, alpha_bar, least=least).contiguous()

    def predict_final(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        """The mean of the estimates of the four quarter turns: 0.2 dB for three more calls.

        The mirrored ones, four more calls, would add 0.03 dB.
        """
        total = torch.zeros_like(noisy)
        weight = torch.zeros_like(self.denoiser.variance, dtype=torch.float32)
        for quarters, matrix in enumerate(self._turned):
            turned = torch.rot90(torch.einsum("ij,bjhw->bihw", matrix, noisy), quarters, (-2, -1))
            estimate = torch.rot90(self.predict_loosely(turned, level), -quarters, (-2, -1))
            total += torch.einsum("ji,bjhw->bihw", matrix, estimate)
            # Where only one component of a pair is kept, a quarter turn loses it, and the others speak for it.
            weight += matrix.square().sum(dim=0).view_as(weight)
        return total / weight

    def level_at_snr(self, log_snr: float) -> NoiseLevel:
        return NoiseLevel(alpha_bar=float(1 / (1 + np.exp(-log_snr))), timestep=log_snr)


def _identity(folder: Path) -> bytes:
    digest = hashlib.sha256()
    for name in _FILES:
        digest.update((folder / name).read_bytes())
    return digest.digest()


def save_prior(folder: Path, denoiser: WienerDenoiser, transform: BlockTransform, config: dict[str, Any]) -> None:
    """Write a prior folder: float16 network weights, float32 transform, ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().cpu().contiguous().to(torch.float16 if name.startswith("network.") else torch.float32)
        for name, value in denoiser.state_dict().items()
    }
    tensors["transform.basis"] = transform.basis.cpu().contiguous()
    tensors["transform.mean"] = transform.mean.cpu().contiguous()
    save_file(tensors, folder / "model.safetensors")
    text = json.dumps({"kind": KIND, "scale": transform.scale, **config}, indent=1, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
