"""What pipelines of a VAE and a denoiser in its latents have in common: their files, their VAE, their error curve."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from robustkit.priors.base import Prior, PriorError
from robustkit.priors.calibration import curve_file, identity_with_curve, read_curve

#: What a folder that is damaged, or holds something else, makes the libraries raise.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)


def pipeline_kind(name: str) -> str:
    """The class that wrote a diffusers pipeline; of one on the hub, its ``model_index.json`` alone is fetched.

    Raises:
        PriorError: no such folder, and nothing on the hub.
    """
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(name)
    except (OSError, ValueError) as error:
        raise PriorError(
            f"prior {name!r} is no Stable Diffusion folder, nor FLUX's, and can't be had from the hub: {error}"
        ) from error
    if not isinstance(index, Mapping) or not isinstance(index.get("_class_name"), str):
        raise PriorError(f"prior {name!r}: its model_index.json names no pipeline class")
    return str(index["_class_name"])


class LatentPrior(Prior):
    """A diffusers pipeline, read from safetensors only.

    Args:
        name: a folder written by ``save_pretrained``, or a hub name (which downloads, once, if it is not cached).
        device: a torch device.
        dtype: of the denoiser and the text encoders; the VAE runs in float32 on a CPU and in ``dtype`` elsewhere.

    Attributes:
        weights: SHA-256 of config and weights. ``identity`` covers the error curve, too, which decides what is decoded.
        curve_file: where the error curve is kept, or would be.

    Raises:
        PriorError: no such pipeline, or a file of it is damaged.
    """

    #: The folder's subfolders that decide what comes out.
    parts: ClassVar[tuple[str, ...]]
    weights: bytes
    curve_file: Path
    vae: Any

    def __init__(self, name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        from diffusers import AutoencoderKL, DiffusionPipeline

        self.device, self.dtype = torch.device(device), dtype
        try:
            folder = Path(name)
            if not folder.is_dir():
                folder = Path(DiffusionPipeline.download(name, use_safetensors=True, safety_checker=None))
            # The text encoders come first and are gone before the denoiser needs the memory.
            with torch.inference_mode():
                self._encode_empty_prompt(folder)
            self._load_denoiser(folder)
            precision = torch.float32 if self.device.type == "cpu" else dtype
            self.vae = self._ready(AutoencoderKL, folder / "vae", precision)
        except PriorError:
            raise
        except UNREADABLE as error:
            raise PriorError(f"prior {name!r} can't be loaded: {type(error).__name__}: {error}") from error
        self.weights = _hash_of(folder, self.parts)
        self.curve_file = curve_file(name, self.weights)
        files = [path for part in self.parts for path in _files_of(folder, part)]
        self.weight_files = (*files, *([self.curve_file] if self.curve_file.is_file() else []))
        self.mmse = read_curve(self.curve_file, self.weights)
        self.identity = identity_with_curve(self.weights, self.mmse)

    @abstractmethod
    def _encode_empty_prompt(self, folder: Path) -> None:
        """Keep what the denoiser is told of an empty prompt."""

    @abstractmethod
    def _load_denoiser(self, folder: Path) -> None:
        """Load the network, and what its noise levels are."""

    def _ready(self, kind: Any, folder: Path, dtype: torch.dtype) -> Any:
        """A model of the pipeline, on the device, for inference alone."""
        model, found = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
        if found["missing_keys"]:
            # diffusers would go on with random numbers.
            raise PriorError(f"{folder} lacks the weights {sorted(found['missing_keys'])[0]} and perhaps others")
        return model.eval().requires_grad_(False).to(self.device)

    @property
    def vae_factor(self) -> int:
        """Pixels a latent cell is wide."""
        return 1 << (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return (self.vae.config.latent_channels, height // self.vae_factor, width // self.vae_factor)

    def encode(self, images: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist.mode().float()
        scaled: Tensor = (latents - self._shift) * self.vae.config.scaling_factor
        return scaled

    def decode(self, latents: Tensor) -> Tensor:
        scaled = (latents / self.vae.config.scaling_factor + self._shift).to(self.vae.dtype)
        # One at a time: the VAE, not the denoiser, is what fills the memory.
        return torch.cat([self.vae.decode(one[None]).sample.float() for one in scaled])

    @property
    def _shift(self) -> float:
        """The mean that the latents are freed of; Stable Diffusion's VAEs have none."""
        return self.vae.config.shift_factor or 0.0


def _hash_of(folder: Path, parts: tuple[str, ...]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        for path in _files_of(folder, part):
            digest.update(f"{part}/{path.name}\n".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()


def _files_of(folder: Path, part: str) -> list[Path]:
    # Another variant of the weights, model.fp16.safetensors, may lie beside those that are loaded.
    found = sorted((folder / part).glob("*"))
    return [path for path in found if path.suffix in (".json", ".safetensors") and path.name.count(".") == 1]
