"""StableCodec: an adapter to its authors' code."""

from __future__ import annotations

import importlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustkit.codecs.frame import Frame
from robustkit.codecs.official.base import OfficialCode, up_to
from robustkit.registry import CodecUnavailable


class StableCodec(OfficialCode):
    """StableCodec (Zhang et al. 2025, arXiv 2506.21977): one step of SD-Turbo. Its code runs on CUDA alone."""

    name: ClassVar[str] = "stablecodec"
    repository: ClassVar[str] = "https://github.com/LuizScarlet/StableCodec"
    commit: ClassVar[str] = "e7994cf5"
    files: ClassVar[str] = "stablecodec_ft{2,3,4,6,8,12,16,24,32}.pkl, from the repository's README"
    places: ClassVar[Mapping[str, str]] = {
        "elic": "elic_official.pth, from the repository's README",
        "sd_turbo": "the folder of stabilityai/sd-turbo, from the Hugging Face hub",
    }
    packages: ClassVar[tuple[str, ...]] = ("compressai", "diffusers", "einops", "peft", "transformers")
    roots: ClassVar[tuple[str, ...]] = ("src", "")
    parts: ClassVar[tuple[str, ...]] = ("y", "z")
    smallest_side: ClassVar[int] = 129
    #: The decoder needs the encoder's own words; they are not in the stream.
    prompt: ClassVar[str] = (
        "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
    )

    def _load(self) -> None:
        arguments = types.SimpleNamespace(
            elic_path=str(self.others["elic"]),
            codec_path=str(self.weights),
            lora_rank_unet=32,
            lora_rank_vae=16,
            vae_decoder_tiled_size=160,
            vae_encoder_tiled_size=1024,
            latent_tiled_size=96,
            latent_tiled_overlap=32,
            lambda_rate=0.5,
            pos_prompt=self.prompt,
        )
        module: Any = importlib.import_module("StableCodec")
        self.model: Any = module.StableCodec(sd_path=str(self.others["sd_turbo"]), args=arguments)
        self.model.to(self.device).eval()
        self.model.codec.update(force=True)
        # Another release of compressai renames them, and the loader then leaves them out without a word.
        if not any("entropy_bottleneck._matrix0" in key for key in self.model.codec.state_dict()):
            raise CodecUnavailable("StableCodec's entropy model does not load with this compressai: install 1.2.6")

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        height, width = pixels.shape[2:]
        padded = F.pad(pixels * 2 - 1, (0, -width % 256, 0, -height % 256), mode="reflect")
        strings = self.model.compress(padded)["strings"]
        return strings[0][0], strings[1][0]

    def _decompress(self, frame: Frame) -> Tensor:
        y, z = frame.parts
        shape = torch.Size([up_to(side, 256) // 256 for side in (frame.height, frame.width)])
        decoded: Tensor = self.model.decompress([[y], [z]], shape, [1])
        return decoded * 0.5 + 0.5
