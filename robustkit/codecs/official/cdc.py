"""CDC: an adapter to its authors' model, and the coder that they left to be written."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustkit.codecs.frame import Frame
from robustkit.codecs.learned import GuardedCoder, quietly
from robustkit.codecs.official.base import OfficialCode, up_to

#: Largest magnitude of a hyper-latent with a code of its own; larger ones are escaped.
_Z_RANGE = 64
#: Scales that have a table, as compressai spaces its own.
_SCALES = torch.exp(torch.linspace(math.log(0.1), math.log(256), 64))


class CDC(OfficialCode):
    """CDC (Yang and Mandt 2023, arXiv 2209.06950), x-parametrisation. Its authors wrote no bitstream.

    They report the rate that their entropy model promises. The coder is ours: compressai's rANS, guarded, under
    that entropy model's tables.

    Args:
        steps: of the sampler.
        seed: of the sampler's first noise.
    """

    name: ClassVar[str] = "cdc"
    repository: ClassVar[str] = "https://github.com/buggyyang/CDC_compression"
    commit: ClassVar[str] = "00b10de9"
    files: ClassVar[str] = (
        "x_param/image-l2-use_weight5-vimeo-d64-t8193-b{...}-x-cosine-01-float32-aux{...}_2.pt of "
        "https://huggingface.co/rhyang/CDC_params"
    )
    packages: ClassVar[tuple[str, ...]] = ("compressai", "einops", "lpips")
    roots: ClassVar[tuple[str, ...]] = ("xparam",)
    parts: ClassVar[tuple[str, ...]] = ("y", "z")
    multiple: ClassVar[int] = 64

    def __init__(self, *, steps: int = 65, seed: int = 0, **settings: Any) -> None:
        self.steps, self.seed = steps, seed
        super().__init__(**settings)

    def _load(self) -> None:
        diffusion: Any = importlib.import_module("modules.denoising_diffusion").GaussianDiffusion
        network: Any = importlib.import_module("modules.unet").Unet
        compressor: Any = importlib.import_module("modules.compress_modules").ResnetCompressor
        self.model: Any = diffusion(
            denoise_fn=network(
                dim=64,
                channels=3,
                context_channels=64,
                dim_mults=[1, 2, 3, 4, 5, 6],
                context_dim_mults=[1, 2, 3, 4],
                embd_type="01",
            ),
            context_fn=compressor(
                dim=64,
                dim_mults=[1, 2, 3, 4],
                reverse_dim_mults=[4, 3, 2, 1],
                hyper_dims_mults=[4, 4, 4],
                channels=3,
                out_channels=64,
            ),
            ae_fn=None,
            num_timesteps=8193,
            loss_type="l2",
            lagrangian=0.0032,
            pred_mode="x",
            # Above zero it downloads the perceptual loss's network, which coding does not call.
            aux_loss_weight=0,
            aux_loss_type="lpips",
            var_schedule="cosine",
            use_loss_weight=True,
            loss_weight_min=5,
            use_aux_loss_weight_schedule=False,
        )
        saved = self._saved()["ema"]
        weights = {name.removeprefix("ema_model."): value for name, value in saved.items() if "ema_model." in name}
        self.model.load_state_dict({n: v for n, v in weights.items() if not n.startswith("loss_fn_vgg.")})
        self.model.to(self.device).eval()
        self.hyper = self.model.context_fn
        with torch.no_grad():
            self.z_tables = _tables(*self._z_likelihoods())
            self.y_tables = _tables(*_normal_likelihoods(_SCALES))

    def _z_likelihoods(self) -> tuple[Tensor, Tensor]:
        """Probabilities of the hyper-latent's values around its medians, ``(channels, values)``; the first value."""
        values = torch.arange(-_Z_RANGE, _Z_RANGE + 1, device=self.device, dtype=torch.float32)
        medians = self.hyper.prior.medians
        channels = medians.shape[1]
        grid = values.view(1, 1, 1, -1).expand(1, channels, 1, -1) + medians
        likelihoods = self.hyper.prior.likelihood(grid)[0, :, 0]
        return likelihoods, torch.full((channels,), -_Z_RANGE)

    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        height, width = pixels.shape[2:]
        padded = F.pad(pixels * 2 - 1, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        q, q_hyper, state = self.hyper.encode(padded)
        means, scales = state["latent_distribution"].mean, state["latent_distribution"].scale
        y, z = (q - means).round(), (q_hyper - self.hyper.prior.medians).round()
        return _rans(y, _scale_index(scales), self.y_tables), _rans(z, _channel_index(z.shape), self.z_tables)

    def _decompress(self, frame: Frame) -> Tensor:
        y_part, z_part = frame.parts
        rows, columns = (up_to(side, self.multiple) // self.multiple for side in (frame.height, frame.width))
        medians = self.hyper.prior.medians
        z_index = _channel_index((1, medians.shape[1], rows, columns))
        hyper = _unrans(z_part, z_index, self.z_tables).to(self.device) + medians
        for convolution, activation in self.hyper.hyper_dec:
            hyper = activation(convolution(hyper))
        means, scales = hyper.chunk(2, 1)
        y = _unrans(y_part, _scale_index(scales.clamp(min=0.1)), self.y_tables).to(self.device) + means
        context = self.hyper.decode(y)
        self.model.set_sample_schedule(self.steps, self.device)
        shape = (1, 3, rows * self.multiple, columns * self.multiple)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed)).to(self.device) * 0.8
        decoded: Tensor = self.model.p_sample_loop(shape, context, clip_denoised=True, init=noise)
        return decoded.clamp(-1, 1) / 2 + 0.5


@dataclass(frozen=True)
class _Tables:
    """Cumulative frequencies as compressai's coder takes them: rows of up to 2**16, their lengths, first values."""

    frequencies: list[list[int]]
    lengths: list[int]
    offsets: list[int]


def _tables(likelihoods: Tensor, offsets: Tensor) -> _Tables:
    """Tables of rows of probabilities; what they leave of 1 goes to an escape."""
    quantised = quietly("compressai._CXX").pmf_to_quantized_cdf
    rows = []
    for row in likelihoods.double().cpu():
        escape = max(1e-9, 1 - float(row.sum()))
        rows.append(quantised([*row.tolist(), escape], 16))
    return _Tables(rows, [len(row) for row in rows], offsets.tolist())


def _normal_likelihoods(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of whole numbers under normal distributions, over a range that the widest still fits."""
    reach = 512
    values = torch.arange(-reach, reach + 1, dtype=torch.float64)
    edges = torch.cat([values - 0.5, values[-1:] + 0.5]) / scales.double().view(-1, 1)
    likelihoods = torch.special.ndtr(edges).diff(dim=1)
    return likelihoods.clamp(min=1e-9), torch.full((len(scales),), -reach)


def _scale_index(scales: Tensor) -> Tensor:
    return torch.bucketize(scales.cpu(), _SCALES).clamp(max=len(_SCALES) - 1)


def _channel_index(shape: Sequence[int]) -> Tensor:
    return torch.arange(shape[1]).view(1, -1, 1, 1).expand(*shape)


def _rans(symbols: Tensor, index: Tensor, tables: _Tables) -> bytes:
    coder = GuardedCoder(quietly("compressai.ans").RansEncoder())
    written: bytes = coder.encode_with_indexes(
        symbols.int().flatten().tolist(), index.flatten().tolist(), tables.frequencies, tables.lengths, tables.offsets
    )
    return written


def _unrans(part: bytes, index: Tensor, tables: _Tables) -> Tensor:
    coder = GuardedCoder(quietly("compressai.ans").RansDecoder())
    found = coder.decode_with_indexes(
        part, index.flatten().tolist(), tables.frequencies, tables.lengths, tables.offsets
    )
    return torch.tensor(found, dtype=torch.float32).view(index.shape)
