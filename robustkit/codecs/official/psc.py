"""PSC: an adapter to its authors' code."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustkit.codec import DecodeError, EncodeError, Image
from robustkit.codecs.frame import Frame
from robustkit.codecs.official.base import OfficialCode


class PSCOfficial(OfficialCode):
    """PSC (Elata et al. 2024, arXiv 2407.09896) in the latents of Stable Diffusion 2.1. Its code runs on CUDA alone.

    One byte a measurement, with no entropy coding: a real number in eight bits (e4m3). Images of 512x512 alone.

    Args:
        weights: a folder that holds ``stabilityai/stable-diffusion-2-1-base``.
        measurements: N, steps of r measurements.
        rank: r.
        prompt: that the sampler is given, on both sides.
        seed: of encoder and decoder.
    """

    name: ClassVar[str] = "psc-official"
    repository: ClassVar[str] = "https://github.com/noamelata/PSC"
    commit: ClassVar[str] = "ce777297"
    files: ClassVar[str] = "a folder that holds stabilityai/stable-diffusion-2-1-base (about 5 GB)"
    packages: ClassVar[tuple[str, ...]] = ("diffusers", "transformers")
    parts: ClassVar[tuple[str, ...]] = ("measurements",)
    side: ClassVar[int] = 512

    def __init__(
        self, *, measurements: int = 256, rank: int = 12, prompt: str = "", seed: int = 0, **settings: Any
    ) -> None:
        self.measurements, self.rank, self.prompt, self.seed = measurements, rank, prompt, seed
        super().__init__(**settings)

    def _load(self) -> None:
        # It loads its pipeline as it is imported, by a name that is a folder here too.
        with contextlib.chdir(self.weights):
            self.model: Any = importlib.import_module("psc")

    def encode(self, image: Image) -> bytes:
        if image.shape[:2] != (self.side, self.side):
            raise EncodeError(f"{self.name} takes images of {self.side}x{self.side} alone: crop this one")
        return super().encode(image)

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        self.model.set_seed(self.seed)
        codes = self.model.Latent_PSC_compress(pixels[0] * 2 - 1, self.prompt, self.measurements, self.rank, None)
        return [codes.numpy().tobytes()]

    def _decompress(self, frame: Frame) -> Tensor:
        (codes,) = frame.parts
        if (frame.height, frame.width) != (self.side, self.side) or len(codes) != self.measurements * self.rank:
            raise DecodeError(f"{self.name} takes {self.measurements * self.rank} measurements of 512x512 pixels")
        given = torch.frombuffer(bytearray(codes), dtype=torch.uint8).reshape(-1, 1)
        self.model.set_seed(self.seed)
        decoded: Tensor = self.model.Latent_PSC_decompress(given, self.prompt, self.measurements, self.rank, None)
        return decoded.float()[None] * 0.5 + 0.5
