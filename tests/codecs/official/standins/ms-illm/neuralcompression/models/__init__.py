import torch
from block_means import analyse, synthesise

from neuralcompression import HyperpriorCompressedOutput


class HiFiCAutoencoder(torch.nn.Module):
    def __init__(self, in_channels=3, latent_features=220, hyper_features=320, num_residual_blocks=9):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.updated = False

    def update(self, force=False):
        self.updated = True

    def compress(self, image, force_cpu=True):
        assert self.updated
        assert not self.training
        assert not torch.is_grad_enabled()
        assert force_cpu == (image.device.type == "cpu")
        assert image.dtype == torch.float32
        assert image.min() >= 0
        assert image.max() <= 1
        height, width = image.shape[2:]
        padding = (0, -width % 64, 0, -height % 64)
        padded = torch.nn.functional.pad(image, padding, mode="reflect")
        size = tuple(padded.shape[2:])
        return HyperpriorCompressedOutput([analyse(padded)], [b"hyper"], (height, width), size)

    def decompress(self, compressed_data, force_cpu=True):
        (latents,), (hyper,) = compressed_data.latent_strings, compressed_data.hyper_latent_strings
        assert type(latents) is type(hyper) is bytes
        (height, width), padded = compressed_data.image_size, compressed_data.padded_size
        assert [side % 64 for side in padded] == [0, 0]
        return synthesise(latents, *padded)[:, :, :height, :width].clamp(0, 1)
