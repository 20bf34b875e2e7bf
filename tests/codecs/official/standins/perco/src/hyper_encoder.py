from types import SimpleNamespace

import torch


class Quantizer(torch.nn.Module):
    def get_output_from_indices(self, indices):
        assert indices.dtype == torch.int64
        return torch.stack([indices >> 16 & 255, indices >> 8 & 255, indices & 255], dim=-1) / 255


class HyperEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.quantizer = Quantizer()

    def forward(self, latents):
        assert not self.quantizer.training
        red, green, blue = (latents[0] * 255).round().to(torch.int64).clamp(0, 255)
        return SimpleNamespace(indices=(red << 16 | green << 8 | blue)[None])
