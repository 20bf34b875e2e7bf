import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from config import ConfigPerco
from hyper_encoder import HyperEncoder
from PIL import Image


class Vae:
    config = SimpleNamespace(scaling_factor=0.5)

    def encode(self, pixels):
        assert -1 <= pixels.min() < 0
        assert pixels.max() <= 1
        means = torch.nn.functional.avg_pool2d(pixels + 1, 8)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: means))


class StableDiffusionPipelinePerco:
    def __init__(self):
        self.vae, self.hyper_enc = Vae(), HyperEncoder()

    @classmethod
    def from_pretrained(cls, path, safety_checker="", requires_safety_checker=True, low_cpu_mem_usage=True):
        assert Path(path, "model_index.json").is_file()
        assert ConfigPerco.target_rate == 0.0313
        assert Path(ConfigPerco.global_path).name == "src"
        assert (safety_checker, requires_safety_checker, low_cpu_mem_usage) == (None, False, False)
        assert {"hyper_encoder", "unet_2d_perco"} <= set(sys.modules)
        return cls()

    def to(self, device):
        return self

    def __call__(
        self, prompt, local_features, height, width, num_inference_steps=50, guidance_scale=7.5, generator=None
    ):
        assert prompt == "a cup of coffee"
        assert (num_inference_steps, guidance_scale) == (20, 3.0)
        assert generator.initial_seed() == ConfigPerco.random_seed
        assert local_features.shape == (1, 3, height // 8, width // 8)
        pixels = (local_features[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return SimpleNamespace(images=[Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)])
