"""A Stable Diffusion pipeline small enough for a test: the real classes, random weights, saved to disk."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def save_tiny_pipeline(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write a randomly initialised ``StableDiffusionPipeline`` (under 1 MB) and return its folder.

    The weights depend on their names and the seed alone: golden streams outlive other versions of the libraries.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=3.6,  # of these random weights: photographs' latents have about unit variance
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=4,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=3,
        )
    )
    for part in (unet, vae, text_encoder):
        draw_weights(part, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), model_max_length=8)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        steps_offset=1,
        clip_sample=False,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline", safe_serialization=True)
    return folder / "pipeline"


def draw_weights(network: torch.nn.Module, seed: int) -> None:
    """Set each tensor from a Philox generator keyed by its name: uniform, scaled as torch scales a fresh layer."""
    import torch

    for name, parameter in network.named_parameters():
        key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:16])
        uniform = np.random.Generator(np.random.Philox(key=key)).random(parameter.shape) * 2 - 1
        if parameter.ndim == 1:
            drawn = 0.1 * uniform + (1 if name.endswith("weight") else 0)  # of a norm; or a bias
        else:
            drawn = uniform / math.sqrt(math.prod(parameter.shape[1:]))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(drawn))
