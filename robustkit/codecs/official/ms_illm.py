"""MS-ILLM: an adapter to NeuralCompression."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from robustkit.codecs.frame import Frame
from robustkit.codecs.official.base import OfficialCode, stub, up_to


class MsIllm(OfficialCode):
    """MS-ILLM (Muckley et al. 2023, arXiv 2301.11189): ``HiFiCAutoencoder`` of NeuralCompression.

    compressai's coder is beneath, so damage may crash it: see :class:`robustkit.codecs.learned.CompressAI`.
    """

    name: ClassVar[str] = "ms-illm"
    repository: ClassVar[str] = "https://github.com/facebookresearch/NeuralCompression"
    commit: ClassVar[str] = "3f122808"
    files: ClassVar[str] = (
        "msillm_target_{R}bpp.ckpt (about 726 MB) from "
        "https://dl.fbaipublicfiles.com/NeuralCompression/2023-muckley-msillm/, R one of 0.035, 0.07, 0.14, 0.3, 0.45, "
        "0.9 (torch.hub's msillm_quality_1 to _6), 0.00218, 0.00438 (_vlo1, _vlo2)"
    )
    packages: ClassVar[tuple[str, ...]] = ("compressai",)
    parts: ClassVar[tuple[str, ...]] = ("latents", "hyper-latents")
    smallest_side: ClassVar[int] = 33

    def _load(self) -> None:
        # Imported by the package for training and counting, and by no function called here.
        stub("fvcore", "fvcore.nn", "fvcore.nn.jit_handles", "lpips")
        models = importlib.import_module("neuralcompression.models")
        self.output: Any = importlib.import_module("neuralcompression").HyperpriorCompressedOutput
        self.model: Any = models.HiFiCAutoencoder()
        self.model.load_state_dict(self._saved())
        self.model.to(self.device).eval()
        self.model.update()
        self.on_cpu = self.device.type == "cpu"
        if not self.on_cpu:
            self.model.update_tensor_devices("compress")

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        compressed = self.model.compress(pixels, force_cpu=self.on_cpu)
        return compressed.latent_strings[0], compressed.hyper_latent_strings[0]

    def _decompress(self, frame: Frame) -> Tensor:
        latents, hyper_latents = frame.parts
        size = (frame.height, frame.width)
        compressed = self.output(
            latent_strings=[latents],
            hyper_latent_strings=[hyper_latents],
            image_size=size,
            padded_size=tuple(up_to(side, 64) for side in size),
        )
        decoded: Tensor = self.model.decompress(compressed, force_cpu=self.on_cpu)
        return decoded
