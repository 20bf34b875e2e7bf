"""3x3 convolutions of batches on a CPU with a quarter of the multiplications, and a U-Net that uses them.

Lavin and Gray 2016, "Fast algorithms for convolutional neural networks": F(4x4, 3x3). Convolutions take four fifths of
the denoiser's time, near the processor's peak, so a batch gains only where it multiplies less. Results differ from
torch's by some 1e-5 of their size, so a decoder may have it, and no encoder, whose choices hang on the last bits.
"""

from __future__ import annotations

import copy
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustkit.priors.unet import ResidualBlock

#: Output numbers on each side of a tile, and the input numbers that they depend on.
TILE, WINDOW = 4, 6
#: Tiles that are worked on at once: what becomes of them fits a core's cache, and their products are large enough.
TILES = 256
#: Shapes whose views are kept: a network has some fifteen, for each size of image and number of images.
VIEWS = 256
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


class Views:
    """What a convolution of some shape reads and writes in a :class:`Workspace`.

    Args:
        workspace: where.
        count, height, width, channels: of the input, channels last.
        made: channels of the output.
    """

    def __init__(self, workspace: Workspace, count: int, height: int, width: int, channels: int, made: int) -> None:
        take = workspace.take
        down, across = -(-height // TILE), -(-width // TILE)
        framed = take("framed", count, down * TILE + 2, across * TILE + 2, channels)
        self.inside = framed[:, 1 : height + 1, 1 : width + 1]
        self.border = (framed[:, 0], framed[:, height + 1 :], framed[:, :, 0], framed[:, :, width + 1 :])
        rows = take("rows", WINDOW, count, down, framed.shape[2], channels)
        self.to_rows = (_windows(framed, 1, down), rows.unbind(), take("spare", 2, *rows.shape[1:]).unbind())
        tiles = take("tiles", WINDOW, WINDOW, count, down, across, channels)
        self.to_tiles = (_windows(rows, 3, across), tiles.unbind(), take("spare", 2, *tiles.shape[1:]).unbind())
        self.tiles = tiles.view(WINDOW * WINDOW, -1, channels)
        self.products = take("products", WINDOW * WINDOW, count * down * across, made)
        self.everywhere = self.products[WINDOW + 1].view(count, -1, made)
        lines = take("rows", WINDOW, count, down, across * TILE, made)
        columns = self.products.view(WINDOW, WINDOW, count, down, across, made)
        self.to_lines = (columns.unbind(), _places(lines, 3), take("spare", 2, *columns.shape[1:]).unbind())
        self.lines, self.spare = lines.unbind(), take("spare", 2, *lines.shape[1:]).unbind()


class Workspace:
    """Memory that is used again and again, a piece for each name; by one at a time."""

    def __init__(self) -> None:
        self._pieces: dict[str, Tensor] = {}
        self._views: dict[tuple[int, ...], Views] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Uninitialised float32 of ``shape``, until somebody asks for this name again."""
        size = torch.Size(shape).numel()
        piece = self._pieces.get(name)
        if piece is None or piece.numel() < size:
            # Memory of inference mode can't be written outside of it.
            with torch.inference_mode(False):
                piece = self._pieces[name] = torch.empty(size)
            # Others are of the memory that was.
            self._views.clear()
        return piece[:size].view(shape)

    def views(self, *shape: int) -> Views:
        """:class:`Views` of ``shape``; to make them takes as long as some of the sums."""
        found = self._views.get(shape)
        if found is None:
            if len(self._views) >= VIEWS:
                self._views.clear()
            # Made twice where the first time takes more memory for one of them.
            Views(self, *shape)
            found = self._views[shape] = Views(self, *shape)
        return found


class Workspaces:
    """As many workspaces as were ever wanted at once."""

    def __init__(self) -> None:
        self._free: list[Workspace] = []

    @contextmanager
    def lent(self) -> Iterator[Workspace]:
        try:
            one = self._free.pop()
        except IndexError:
            one = Workspace()
        try:
            yield one
        finally:
            self._free.append(one)


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 with a border of zeros, float32 on a CPU.

    Args:
        conv: what it computes.
        workspaces: shared by all convolutions of a network.
    """

    products: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, workspaces: Workspaces) -> None:
        super().__init__()
        points = torch.tensor(_OF_KERNEL, dtype=torch.float64)
        # Columns first, as the transform of the input ends with them.
        weight = torch.einsum("ik,ockl,jl->jico", points, conv.weight.double(), points)
        self.register_buffer("products", weight.flatten(0, 1).float().contiguous(), persistent=False)
        self.register_buffer("bias", conv.bias, persistent=False)
        self.workspaces = workspaces

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
        with self.workspaces.lent() as workspace:
            for first in range(0, count, few):
                chunk = slice(first, first + few)
                self._convolve(workspace, x[chunk].permute(0, 2, 3, 1), added[chunk], out[chunk], silu)
        return out[:, :height, :width].permute(0, 3, 1, 2)

    def _convolve(self, workspace: Workspace, x: Tensor, added: Tensor, out: Tensor, silu: bool) -> None:
        views = workspace.views(*x.shape, out.shape[3])
        for side in views.border:
            side.zero_()
        torch.ops.aten.silu.out(x, out=views.inside) if silu else views.inside.copy_(x)
        _spread(*views.to_rows)
        _spread(*views.to_tiles)
        torch.bmm(views.tiles, self.products, out=views.products)
        # What is added at point 1 in both directions is added to every number of the tile.
        views.everywhere.add_(added[:, None])
        _gather(*views.to_lines)
        _gather(views.lines, _places(out, 1), views.spare)


def _windows(values: Tensor, axis: int, count: int) -> list[Tensor]:
    """The first, second, ... number of every window along ``axis``."""
    span = TILE * (count - 1) + 1
    return [
        values.narrow(axis, start, span)[(slice(None),) * axis + (slice(None, None, TILE),)] for start in range(WINDOW)
    ]


def _places(values: Tensor, axis: int) -> list[Tensor]:
    """The first, second, ... number of every tile along ``axis``."""
    return [values[(slice(None),) * axis + (slice(start, None, TILE),)] for start in range(TILE)]


def _spread(d: Sequence[Tensor], out: Sequence[Tensor], spare: Sequence[Tensor]) -> None:
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


def _gather(m: Sequence[Tensor], out: Sequence[Tensor], spare: Sequence[Tensor]) -> None:
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

    def __init__(self, block: ResidualBlock, workspaces: Workspaces) -> None:
        super().__init__()
        self.block = block
        self.conv1, self.conv2 = WinogradConv(block.conv1, workspaces), WinogradConv(block.conv2, workspaces)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        block = self.block
        h = self.conv1(block.norm1(x), block.time_emb_proj(embedding), silu=True)
        if not isinstance(block.conv_shortcut, nn.Conv2d):
            convolved: Tensor = self.conv2(block.norm2(h), silu=True)
            return convolved.add_(x)
        # A 1x1 convolution is a product of matrices, which adds to what is there.
        weight, bias = block.conv_shortcut.weight.flatten(1), block.conv_shortcut.bias
        assert bias is not None
        h = self.conv2(block.norm2(h), bias.expand(len(x), -1), silu=True)
        made, seen = (values.permute(0, 2, 3, 1) for values in (h, x))
        total = made.reshape(-1, made.shape[3]).addmm_(seen.reshape(-1, seen.shape[3]), weight.T)
        return total.view(made.shape).permute(0, 3, 1, 2)


def for_batches(network: Module) -> Module:
    """``network`` with its 3x3 convolutions of stride 1 by :class:`WinogradConv`; all else is shared with it."""
    copied = copy.deepcopy(
        network, {id(tensor): tensor for tensor in itertools.chain(network.parameters(), network.buffers())}
    )
    workspaces = Workspaces()

    def replace(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, ResidualBlock):
                setattr(module, name, BatchBlock(child, workspaces))
            elif isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3) and child.stride == (1, 1):
                setattr(module, name, WinogradConv(child, workspaces))
            else:
                replace(child)

    replace(copied)
    return copied


#: Parts of a batch at the most: each has some 30 MB of its own to work in.
PARTS = 8


class _Parts:
    """The threads that parts run on, and what is held while torch has fewer threads than it was given.

    The threads stay: what they waited for a processor on a busy machine is known of living threads alone, and a decoder
    is not to be called slow for it (:mod:`robustkit.patience`). A forked process has none of its parent's.
    """

    def __init__(self) -> None:
        self.begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.begin)

    def begin(self) -> None:
        self.held = threading.Lock()
        self.pool = ThreadPoolExecutor(PARTS, "robustkit-part")


_PARTS = _Parts()


def in_parts(network: Callable[[Tensor, Tensor], Tensor], batch: Tensor, level: Tensor, *, least: int) -> Tensor:
    """``network(batch, level)``, a part of the batch on each of torch's threads, or on several where these are many.

    An operation on numbers that fit a core's cache ends sooner than threads meet that share it, and then the next one
    finds half of its numbers in another core's cache. So each thread takes its images through the whole network.

    Args:
        network: what :func:`for_batches` gave.
        batch: ``(b, c, h, w)``.
        level: ``(b,)``.
        least: images in a part.
    """
    with ExitStack() as held:
        held.enter_context(_PARTS.held)
        threads = torch.get_num_threads()
        parts = max(1, min(threads, PARTS, len(batch) // least))
        if parts == 1:
            held.close()
            return network(batch, level)
        unrecorded = torch.is_inference_mode_enabled()

        def estimate(some: Tensor, at: Tensor) -> Tensor:
            # A thread has a number of its own, from when it began.
            torch.set_num_threads(threads // parts)
            with torch.inference_mode(unrecorded):
                return network(some, at)

        shares = zip(batch.tensor_split(parts), level.tensor_split(parts), strict=True)
        working = [_PARTS.pool.submit(estimate, *share) for share in shares]
        try:
            # Where one fails the others are done before torch has its threads again.
            wait(working)
            return torch.cat([part.result() for part in working])
        finally:
            torch.set_num_threads(threads)
