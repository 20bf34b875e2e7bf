"""HiFiC: an adapter to its PyTorch port."""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustkit.codec import DecodeError
from robustkit.codecs.frame import Frame
from robustkit.codecs.official.base import OfficialCode, Unused, up_to


class HiFiC(OfficialCode):
    """HiFiC (Mentzer et al. 2020, arXiv 2006.09965) in its PyTorch port.

    Its vectorised rANS coder flushes 64 bits a channel, 4,320 bytes an image; they count.
    """

    name: ClassVar[str] = "hific"
    repository: ClassVar[str] = "https://github.com/Justin-Tan/high-fidelity-generative-compression"
    commit: ClassVar[str] = "7d4e9e78"
    files: ClassVar[str] = (
        "hific_low.pt, hific_med.pt or hific_hi.pt (1.5 to 2 GB) from https://zenodo.org/records/4026003"
    )
    packages: ClassVar[tuple[str, ...]] = ("autograd", "skimage")
    parts: ClassVar[tuple[str, ...]] = ("hyper-latents", "latents")
    smallest_side: ClassVar[int] = 65

    def _load(self) -> None:
        # The perceptual loss would download a network that no function called here uses.
        loss = types.ModuleType("src.loss.perceptual_similarity.perceptual_loss")
        loss.PerceptualLoss = Unused  # type: ignore[attr-defined]
        package = importlib.import_module("src.loss.perceptual_similarity")
        package.perceptual_loss = loss  # type: ignore[attr-defined]
        sys.modules[loss.__name__] = loss
        # And a module of metrics imports a name that scikit-image dropped.
        measure = importlib.import_module("skimage.measure")
        if not hasattr(measure, "compare_ssim"):
            measure.compare_ssim = None  # type: ignore[attr-defined]
        # Its coder mixes 32-bit arrays with a larger Python number, which NumPy 2 refuses.
        coder: Any = importlib.import_module("src.compression.ans")
        push = coder.push

        def wide(message: Any, starts: Any, frequencies: Any, precision: Any) -> Any:
            given = (np.asarray(part).astype(np.uint64) for part in (starts, frequencies))
            return push(message, *given, precision)

        coder.push = wide
        utils: Any = importlib.import_module("src.helpers.utils")
        saved = self._saved()
        arguments = utils.Struct(**saved["args"])
        arguments.ignore_schedule = True
        for name, value in (("use_latent_mixture_model", False), ("sample_noise", False), ("noise_dim", 0)):
            if not hasattr(arguments, name):
                setattr(arguments, name, value)
        model_module: Any = importlib.import_module("src.model")
        self.model: Any = model_module.Model(
            arguments, logging.getLogger("hific"), model_mode="evaluation", model_type=arguments.model_type
        )
        self.model.load_state_dict(saved["model_state_dict"], strict=False)
        self.model.to(self.device).eval()
        self.model.Hyperprior.hyperprior_entropy_model.build_tables()
        self.signed = bool(arguments.normalize_input_image)
        self.output: Any = importlib.import_module("src.compression.compression_utils").CompressionOutput
        with torch.no_grad():
            # What the coder is told of its channels does not depend on the image.
            self.example = self.model.compress(torch.zeros(1, 3, 128, 128, device=self.device), silent=True)

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        given = pixels * 2 - 1 if self.signed else pixels
        compressed = self.model.compress(given, silent=True)
        words = (compressed.hyperlatents_encoded, compressed.latents_encoded)
        return [np.ascontiguousarray(part, dtype="<u4").tobytes() for part in words]

    def _decompress(self, frame: Frame) -> Tensor:
        if any(len(part) % 4 for part in frame.parts):
            raise DecodeError("the coder's parts are whole words of 32 bits")
        hyper_latents, latents = (np.frombuffer(part, "<u4").astype(np.uint32) for part in frame.parts)
        rows, columns = (up_to(side, 64) // 64 for side in (frame.height, frame.width))
        decoded: Tensor = self.model.decompress(
            self.output(
                hyperlatents_encoded=hyper_latents,
                latents_encoded=latents,
                hyperlatent_spatial_shape=torch.Size((rows, columns)),
                batch_shape=1,
                spatial_shape=(frame.height, frame.width),
                hyper_coding_shape=self.example.hyper_coding_shape,
                latent_coding_shape=self.example.latent_coding_shape,
            )
        )
        return decoded
