"""PerCo (SD): an adapter to its authors' code."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustkit.codec import DecodeError
from robustkit.codecs.frame import Frame
from robustkit.codecs.official.base import OfficialCode, stub, up_to

#: Bytes of a caption that are unpacked.
_LONGEST_CAPTION = 4096


class PerCo(OfficialCode):
    """PerCo (SD) (Koerber et al. 2024, arXiv 2409.20255): vector-quantised latents and a caption.

    Args:
        weights: the pipeline's folder.
        caption: for every image, in place of BLIP-2's, which is not run.
        rate: target_rate that the weights were trained for.
        steps: of the sampler.
    """

    name: ClassVar[str] = "perco"
    repository: ClassVar[str] = "https://github.com/Nikolai10/PerCo"
    commit: ClassVar[str] = "da3be394"
    files: ClassVar[str] = "the pipeline's folder (model_index.json and all its parts), from the repository's README"
    packages: ClassVar[tuple[str, ...]] = ("diffusers", "torchac", "transformers", "vector_quantize_pytorch")
    roots: ClassVar[tuple[str, ...]] = ("src",)
    parts: ClassVar[tuple[str, ...]] = ("caption", "latents")
    multiple: ClassVar[int] = 64

    def __init__(self, *, caption: str = "", rate: float = 0.1250, steps: int = 20, **settings: Any) -> None:
        self.caption, self.rate, self.steps = caption, rate, steps
        super().__init__(**settings)

    def _load(self) -> None:
        stub("absl", "absl.app", "absl.flags", "cleanfid", "torchmetrics", "torchmetrics.image")
        self.config: Any = importlib.import_module("config").ConfigPerco
        self.config.global_path = str(self.checkout / "src")
        self.config.target_rate = self.rate
        # The pipeline's parts are found by these modules' names, so they come first.
        importlib.import_module("hyper_encoder")
        importlib.import_module("unet_2d_perco")
        pipeline: Any = importlib.import_module("pipeline_sd_perco").StableDiffusionPipelinePerco
        self.model: Any = pipeline.from_pretrained(
            str(self.weights), safety_checker=None, requires_safety_checker=False, low_cpu_mem_usage=False
        ).to(self.device)
        self.model.hyper_enc.quantizer.eval()
        self.coder: Any = importlib.import_module("compression_utils")

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        height, width = pixels.shape[2:]
        padded = F.pad(pixels * 2 - 1, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        # Upstream samples the latent unseeded; its mode makes the encoder deterministic.
        latents = self.model.vae.encode(padded).latent_dist.mode() * self.model.vae.config.scaling_factor
        indices = self.model.hyper_enc(latents).indices
        return zlib.compress(self.caption.encode(), 9), self.coder.compress_hyper_latent(indices)

    def _decompress(self, frame: Frame) -> Tensor:
        packed, latents = frame.parts
        unzip = zlib.decompressobj()
        try:
            # A damaged caption may unpack to gigabytes.
            caption = unzip.decompress(packed, _LONGEST_CAPTION).decode()
        except (zlib.error, UnicodeDecodeError) as error:
            raise DecodeError(f"the caption is damaged: {error}") from error
        height, width = (up_to(side, self.multiple) for side in (frame.height, frame.width))
        indices = self.coder.decompress_hyper_latent(latents, (height, width)).to(self.device)
        features = self.model.hyper_enc.quantizer.get_output_from_indices(indices.long()).permute(0, 3, 1, 2)
        image = self.model(
            caption,
            features,
            height=height,
            width=width,
            num_inference_steps=self.steps,
            guidance_scale=self.config.guidance_scale,
            generator=torch.Generator(device=self.device).manual_seed(self.config.random_seed),
        ).images[0]
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
