"""Photographs to train on, and how a training run draws from them."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Photograph = npt.NDArray[np.uint8]


def read_photographs(folders: list[Path], scales: tuple[float, ...], least: int) -> list[Photograph]:
    """Every photograph below ``folders``, at each of ``scales``, if no side is below ``least`` pixels."""
    photographs: list[Photograph] = []
    for path in sorted(
        p for folder in folders for p in folder.glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")
    ):
        with Image.open(path) as file:
            image = file.convert("RGB")
        for scale in scales:
            size = (round(image.width * scale), round(image.height * scale))
            if min(size) >= least:
                resized = image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS)
                photographs.append(np.asarray(resized))
    if not photographs:
        raise click.UsageError(f"no photograph of at least {least} pixels a side in {', '.join(map(str, folders))}")
    return photographs


def to_tensor(images: list[Photograph]) -> Tensor:
    """Images of one size to float32 ``(b, 3, H, W)`` in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(images))
    return stacked.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def centre_crops(photographs: list[Photograph], side: int) -> Tensor:
    """The middles of photographs, as :func:`to_tensor` gives them."""
    corners = [((p.shape[0] - side) // 2, (p.shape[1] - side) // 2) for p in photographs]
    return to_tensor([p[y : y + side, x : x + side] for p, (y, x) in zip(photographs, corners, strict=True)])


def draw_crops(photographs: list[Photograph], count: int, side: int, rng: np.random.Generator) -> Tensor:
    """Random square crops, every pixel of the photographs about as likely, each under a random symmetry."""
    areas = np.array([p.shape[0] * p.shape[1] for p in photographs], dtype=np.float64)
    crops: list[Photograph] = []
    for index in rng.choice(len(photographs), size=count, p=areas / areas.sum()):
        photograph = photographs[index]
        y = int(rng.integers(photograph.shape[0] - side + 1))
        x = int(rng.integers(photograph.shape[1] - side + 1))
        crop = np.rot90(photograph[y : y + side, x : x + side], int(rng.integers(4)))
        crops.append(crop[:, ::-1] if rng.integers(2) else crop)
    return to_tensor(crops)


def pick_precision(device: torch.device) -> str:
    """bfloat16 where the hardware multiplies it fast, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"
