"""3x3 convolutions of batches on a CPU with a quarter of the multiplications, and a U-Net that uses them.

Lavin and Gray 2016, "Fast algorithms for convolutional neural networks": F(4x4, 3x3). Convolutions take four fifths of
the denoiser's time, near the processor's peak, so a batch gains only where it multiplies less. Results differ from
torch's by some 1e-5 of their size, so a decoder may have it, and no encoder, whose choices hang on the last bits.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustkit.priors.unet import ResidualBlock

#: Output numbers on each side of a tile, and the input numbers that they depend on.
TILE, WINDOW = 4, 6
#: Tiles that are worked on at once: what becomes of them fits a core's cache, and their products are large enough.
TILES = 256
Module = TypeVar("Module", bound=nn.Module)

#: Of a kernel's three numbers, at the points 0, 1, -1, 2, -2 and infinity.
_OF_KERNEL = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)


class Workspace(threading.local):
    """Memory that is used again and again, a piece for each name; each thread has its own."""

    def __init__(self) -> None:
        self._pieces: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Uninitialised float32 of ``shape``, until somebody asks for this name again."""
        size = torch.Size(shape).numel()
        piece = self._pieces.get(name)
        if piece is None or piece.numel() < size:
            piece = self._pieces[name] = torch.empty(size)
        return piece[:size].view(shape)


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 with a border of zeros, float32 on a CPU.

    Args:
        conv: what it computes.
        workspace: shared by all that run one after the other.
    """

    products: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, workspace: Workspace) -> None:
        super().__init__()
        points = torch.tensor(_OF_KERNEL, dtype=torch.float64)
        # Columns first, as the transform of the input ends with them.
        weight = torch.einsum("ik,ockl,jl->jico", points, conv.weight.double(), points)
        self.register_buffer("products", weight.flatten(0, 1).float().contiguous(), persistent=False)
        self.register_buffer("bias", conv.bias, persistent=False)
        self.workspace = workspace

    def forward(self, x: Tensor, offset: Tensor | None = None, *, silu: bool = False) -> Tensor:
        """Convolve ``x``.

        Args:
            x: ``(b, c, h, w)``, any layout; channels last is read fastest.
            offset: ``(b, o)``, added to all of a channel, as the bias is.
            silu: convolve ``silu(x)``.

        Returns:
            ``(b, o, h, w)``, channels last.
        """
        count, _, height, width = x.shape
        down, across = -(-height // TILE), -(-width // TILE)
        out = torch.empty(count, down * TILE, across * TILE, self.products.shape[2])
        added = self.bias.expand(count, -1) if offset is None else self.bias + offset
        few = max(1, TILES // (down * across))
        for first in range(0, count, few):
            chunk = slice(first, first + few)
            self._convolve(x[chunk].permute(0, 2, 3, 1), added[chunk], out[chunk], silu)
        return out[:, :height, :width].permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor, added: Tensor, out: Tensor, silu: bool) -> None:
        take = self.workspace.take
        count, height, width, channels = x.shape
        down, across, made = out.shape[1] // TILE, out.shape[2] // TILE, out.shape[3]
        framed = take("framed", count, down * TILE + 2, across * TILE + 2, channels)
        framed[:, 0].zero_()
        framed[:, height + 1 :].zero_()
        framed[:, :, 0].zero_()
        framed[:, :, width + 1 :].zero_()
        inside = framed[:, 1 : height + 1, 1 : width + 1]
        torch.ops.aten.silu.out(x, out=inside) if silu else inside.copy_(x)

        rows = take("rows", WINDOW, count, down, framed.shape[2], channels)
        _spread(_windows(framed, 1, down), rows, take("spare", 2, *rows.shape[1:]))
        tiles = take("tiles", WINDOW, WINDOW, count, down, across, channels)
        _spread(_windows(rows, 3, across), tiles, take("spare", 2, *tiles.shape[1:]))
        products = take("products", WINDOW * WINDOW, count * down * across, made)
        torch.bmm(tiles.view(WINDOW * WINDOW, -1, channels), self.products, out=products)
        # What is added at point 1 in both directions is added to every number of the tile.
        products[WINDOW + 1].view(count, -1, made).add_(added[:, None])
        lines = take("rows", WINDOW, count, down, across * TILE, made)
        of_columns = products.view(WINDOW, WINDOW, count, down, across, made)
        _gather(of_columns, _places(lines, 3), take("spare", 2, *of_columns.shape[1:]))
        _gather(lines, _places(out, 1), take("spare", 2, *lines.shape[1:]))


def _windows(values: Tensor, axis: int, count: int) -> list[Tensor]:
    """The first, second, ... number of every window along ``axis``."""
    span = TILE * (count - 1) + 1
    return [
        values.narrow(axis, start, span)[(slice(None),) * axis + (slice(None, None, TILE),)] for start in range(WINDOW)
    ]


def _places(values: Tensor, axis: int) -> list[Tensor]:
    """The first, second, ... number of every tile along ``axis``."""
    return [values[(slice(None),) * axis + (slice(start, None, TILE),)] for start in range(TILE)]


def _spread(d: Sequence[Tensor], out: Sequence[Tensor] | Tensor, spare: Tensor) -> None:
    """Windows of six numbers to their values at the six points."""
    add, sub, (a, b) = torch.add, torch.sub, spare
    add(d[4], d[2], alpha=-4, out=a)
    add(d[3], d[1], alpha=-4, out=b)
    add(a, b, out=out[1])
    sub(a, b, out=out[2])
    sub(d[4], d[2], out=a)
    sub(d[3], d[1], out=b)
    add(a, b, alpha=2, out=out[3])
    add(a, b, alpha=-2, out=out[4])
    sub(d[0], d[2], out=out[0])
    add(a, out[0], alpha=4, out=out[0])
    sub(d[5], d[3], out=out[5])
    add(out[5], b, alpha=-4, out=out[5])


def _gather(m: Sequence[Tensor] | Tensor, out: Sequence[Tensor], spare: Tensor) -> None:
    """Products at the six points to four numbers of the output."""
    add, sub, (a, b) = torch.add, torch.sub, spare
    add(m[1], m[2], out=a)
    add(m[3], m[4], out=b)
    add(m[0], a, out=out[0])
    out[0].add_(b)
    add(a, b, alpha=4, out=out[2])
    sub(m[1], m[2], out=a)
    sub(m[3], m[4], out=b)
    add(a, b, alpha=2, out=out[1])
    add(m[5], a, out=out[3])
    out[3].add_(b, alpha=8)


class BatchBlock(nn.Module):
    """A residual block by :class:`WinogradConv`."""

    def __init__(self, block: ResidualBlock, workspace: Workspace) -> None:
        super().__init__()
        self.block = block
        self.conv1, self.conv2 = WinogradConv(block.conv1, workspace), WinogradConv(block.conv2, workspace)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        block = self.block
        h: Tensor = self.conv1(block.norm1(x), block.time_emb_proj(embedding), silu=True)
        h = self.conv2(block.norm2(h), silu=True)
        shortcut: Tensor = block.conv_shortcut(x)
        return h.add_(shortcut)


def for_batches(network: Module) -> Module:
    """``network`` with its 3x3 convolutions of stride 1 by :class:`WinogradConv`; all else is shared with it."""
    copied = copy.deepcopy(
        network, {id(tensor): tensor for tensor in itertools.chain(network.parameters(), network.buffers())}
    )
    workspace = Workspace()

    def replace(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, ResidualBlock):
                setattr(module, name, BatchBlock(child, workspace))
            elif isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3) and child.stride == (1, 1):
                setattr(module, name, WinogradConv(child, workspace))
            else:
                replace(child)

    replace(copied)
    return copied
