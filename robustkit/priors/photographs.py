"""Photographs to train on, and how a training run draws from them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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

    def read(path: Path) -> list[Photograph]:
        with Image.open(path) as file:
            image = file.convert("RGB")
        sizes = [(round(image.width * scale), round(image.height * scale)) for scale in scales]
        return [
            np.asarray(image if size == image.size else image.resize(size, Image.Resampling.LANCZOS))
            for size in sizes
            if min(size) >= least
        ]

    paths = sorted(p for folder in folders for p in folder.glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    with ThreadPoolExecutor() as threads:
        photographs = [photograph for found in threads.map(read, paths) for photograph in found]
    if not photographs:
        raise click.UsageError(
            f"no photograph of at least {least} pixels a side at scale {', '.join(map(str, scales))} "
            f"in {', '.join(map(str, folders))}"
        )
    return photographs


def to_tensor(images: list[Photograph]) -> Tensor:
    """Images of one size to float32 ``(b, 3, H, W)`` in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(images))
    return stacked.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def centre_crops(photographs: list[Photograph], side: int) -> Tensor:
    """The middles of photographs, as :func:`to_tensor` gives them."""
    corners = [((p.shape[0] - side) // 2, (p.shape[1] - side) // 2) for p in photographs]
    return to_tensor([p[y : y + side, x : x + side] for p, (y, x) in zip(photographs, corners, strict=True)])


class Crops:
    """Random square crops of photographs, drawn by torch's global generator, all on the device that trains.

    Args:
        photographs: as :func:`read_photographs` gives them, at any number of scales.
        device: where the photographs are kept, 3 bytes a pixel.
        shares: of each photograph, in proportion to how many crops come from it; by default its area.
    """

    def __init__(self, photographs: list[Photograph], device: torch.device, shares: list[float] | None = None) -> None:
        heights, widths = torch.tensor([p.shape[:2] for p in photographs]).T
        areas = heights * widths
        weights = areas.double() if shares is None else torch.tensor(shares, dtype=torch.float64)
        self.device = device
        self._ends = (weights.cumsum(0) / weights.sum()).to(device, torch.float32)
        self._heights, self._widths = heights.to(device), widths.to(device)
        self._starts = (areas.cumsum(0) - areas).to(device)
        self._pixels = torch.from_numpy(np.concatenate([p.reshape(-1, 3) for p in photographs])).to(device)

    def draw(self, count: int, side: int) -> Tensor:
        """``count`` crops, each under a random symmetry of the square, as :func:`to_tensor` gives them."""
        draws = torch.rand(6, count, 1, 1, device=self.device)
        which = torch.bucketize(draws[0], self._ends).clamp(max=len(self._ends) - 1)
        width = self._widths[which]
        top, left = (
            (drawn * (size[which] - side + 1)).long().clamp(max=size[which] - side)
            for drawn, size in zip(draws[1:3], (self._heights, self._widths), strict=True)
        )
        turned, up, right = draws[3:] < 0.5
        ahead = torch.arange(side, device=self.device)
        down, across = ahead.view(1, -1, 1), ahead.view(1, 1, -1)
        rows = torch.where(up, side - 1 - down, down)
        columns = torch.where(right, side - 1 - across, across)
        first = self._starts[which] + top * width + left
        places = first + torch.where(turned, columns * width + rows, rows * width + columns)
        return self._pixels[places].permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def vary_colours(images: Tensor, amount: float) -> Tensor:
    """Change each image's saturation, contrast and brightness by up to ``amount`` of the range."""
    saturation, contrast, brightness = amount * (2 * torch.rand(3, len(images), 1, 1, 1, device=images.device) - 1)
    grey = images.mean(dim=1, keepdim=True)
    saturated = grey + (images - grey) * (1 + saturation)
    varied: Tensor = saturated * (1 + contrast) + brightness
    return varied.clamp(-1, 1)
