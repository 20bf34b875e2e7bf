"""The embedded prior's network: a small U-Net with attention at its coarsest grid.

The architecture and the names of its weights are those of ``diffusers.UNet2DModel``, and a test holds the two to the
same output. It stands on its own because every worker process loads it, and importing diffusers' models takes several
times as long as importing torch.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """The part of a ``UNet2DModel`` config that this network has.

    Attributes:
        in_channels, out_channels: of the latents.
        block_out_channels: channels at each resolution, finest first.
        layers_per_block: residual blocks a resolution on the way down; one more on the way up.
        norm_num_groups: groups of each group normalisation.
        attention_head_dim: channels of an attention head.
    """

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    attention_head_dim: int


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, out)
        self.norm2 = nn.GroupNorm(groups, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h: Tensor = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        shortcut: Tensor = self.conv_shortcut(x)
        return h + shortcut


class Attention(nn.Module):
    def __init__(self, channels: int, head: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // head
        self.group_norm = nn.GroupNorm(groups, channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            project(tokens).view(b, h * w, self.heads, -1).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        out: Tensor = self.to_out[0](mixed)
        return x + out.transpose(1, 2).reshape(b, c, h, w)


class Sampler(nn.Module):
    """Halves the grid with a strided convolution, or doubles it by repetition and a convolution."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)
        return result


class Stage(nn.Module):
    """The residual blocks of one resolution, with attention after each at the coarsest, and its change of grid."""

    def __init__(self, shapes: list[tuple[int, int]], embedding: int, config: UNetConfig, attend: bool) -> None:
        super().__init__()
        groups, out = config.norm_num_groups, shapes[-1][1]
        self.resnets = nn.ModuleList([ResidualBlock(*shape, embedding, groups) for shape in shapes])
        heads = [Attention(out, config.attention_head_dim, groups) for _ in shapes] if attend else []
        self.attentions = nn.ModuleList(heads)

    def blocks(self) -> list[tuple[nn.Module, nn.Module | None]]:
        return list(itertools.zip_longest(self.resnets, self.attentions))


class UNet(nn.Module):
    """Predicts one tensor of latents from another and a position in time."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths, layers = config.block_out_channels, config.layers_per_block
        self.width = widths[0]
        embedding = 4 * widths[0]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(widths[0], embedding), "linear_2": nn.Linear(embedding, embedding)}
        )
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        coarsest = len(widths) - 1
        for level, out in enumerate(widths):
            before = widths[max(0, level - 1)]
            shapes = [(before if layer == 0 else out, out) for layer in range(layers)]
            stage = Stage(shapes, embedding, config, level == coarsest)
            if level < coarsest:
                stage.downsamplers = nn.ModuleList([Sampler(out, up=False)])
            self.down_blocks.append(stage)
        self.mid_block = Stage([(widths[-1], widths[-1])] * 2, embedding, config, attend=False)
        head = Attention(widths[-1], config.attention_head_dim, config.norm_num_groups)
        self.mid_block.attentions.append(head)
        for level in range(coarsest, -1, -1):
            out, finer = widths[level], widths[max(0, level - 1)]
            coarser = widths[min(coarsest, level + 1)]
            skips = [out] * layers + [finer]
            shapes = [((coarser if layer == 0 else out) + skip, out) for layer, skip in enumerate(skips)]
            stage = Stage(shapes, embedding, config, level == coarsest)
            if level > 0:
                stage.upsamplers = nn.ModuleList([Sampler(out, up=True)])
            self.up_blocks.append(stage)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Run the network.

        Args:
            x: ``(b, in_channels, h, w)``; h and w divisible by 2 for each halving of the grid.
            position: ``(b,)``, 0 to 1000.

        Returns:
            ``(b, out_channels, h, w)``.
        """
        half = self.width // 2
        frequencies = torch.exp(torch.arange(half, device=x.device) * (-math.log(10000.0) / half))
        angles = position.to(torch.float32)[:, None] * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype)
        embedded = self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](waves)))
        # Every block wants the embedding through the same nonlinearity.
        embedding = F.silu(embedded)

        h: Tensor = self.conv_in(x)
        skips = [h]
        for stage in self.down_blocks:
            assert isinstance(stage, Stage)
            for block, attention in stage.blocks():
                h = block(h, embedding)
                h = h if attention is None else attention(h)
                skips.append(h)
            for sampler in getattr(stage, "downsamplers", ()):
                h = sampler(h)
                skips.append(h)
        h = self.mid_block.resnets[0](h, embedding)
        h = self.mid_block.resnets[1](self.mid_block.attentions[0](h), embedding)
        for stage in self.up_blocks:
            assert isinstance(stage, Stage)
            for block, attention in stage.blocks():
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
                h = h if attention is None else attention(h)
            for sampler in getattr(stage, "upsamplers", ()):
                h = sampler(h)
        result: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return result
