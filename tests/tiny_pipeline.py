"""Diffusers pipelines with random weights, saved to disk: small enough for a test, but for one of the real size."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np


def save_tiny_pipeline(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    seed: int = 0,
    generation: int = 1,
    levels: int = 2,
    vae_levels: int = 3,
    scheduler: str | None = None,
    scheduler_settings: dict[str, Any] | None = None,
    in_channels: int = 4,
) -> Path:
    """Write a randomly initialised ``StableDiffusionPipeline`` (about 1 MB) and return its folder.

    The weights depend on their names and the seed alone: golden streams outlive other versions of the libraries.

    Args:
        generation: 1 or 2, what the U-Net's attention and the text encoder are like.
        levels: resolutions of the U-Net, 4 in the real ones.
        vae_levels: resolutions of the VAE, 4 in the real ones.
        scheduler: class that it is saved with, DDIMScheduler with the settings of today unless given.
        scheduler_settings: of that class, over those of Stable Diffusion.
        in_channels: of the U-Net; 9 is one for inpainting.
    """
    import diffusers

    second = {"use_linear_projection": True, "upcast_attention": True, "attention_head_dim": (4,) * levels}
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, *(16,) * (levels - 1)),
        layers_per_block=1,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=4,
        **({"attention_head_dim": 4} if generation == 1 else second),
    )
    settings: dict[str, Any] = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": prediction_type,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # With these random weights, that factor gives photographs' latents about unit variance.
    vae = _vae(vae_levels, latent_channels=4, scaling_factor=3.6)
    text_encoder = _clip_text_model(hidden_act="quick_gelu" if generation == 1 else "gelu")
    for network in (unet, vae, text_encoder):
        draw_weights(network, seed)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_clip_tokenizer(folder),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(**settings, steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    target = folder / "pipeline"
    pipeline.save_pretrained(target, safe_serialization=True)
    if scheduler is not None:
        # Afterwards, because diffusers warns of what old pipelines have.
        getattr(diffusers, scheduler)(**{**settings, **(scheduler_settings or {})}).save_pretrained(
            target / "scheduler"
        )
    return target


def save_full_size_pipeline(folder: Path, *, device: str) -> Path:
    """Write a ``StableDiffusionPipeline`` of the size of Stable Diffusion 2.1-base, in float16 (2.6 GB).

    The text encoder's vocabulary and the tokenizer are tiny: the empty prompt has 77 tokens all the same.

    Args:
        device: where the weights are drawn.
    """
    import diffusers
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    with torch.device(device):
        unet = diffusers.UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=4,
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                hidden_act="gelu",
                bos_token_id=2,
                eos_token_id=3,
                pad_token_id=3,
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="epsilon",
        steps_offset=1,
        clip_sample=False,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=_clip_tokenizer(folder, length=77),
        unet=unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline", safe_serialization=True)
    return folder / "pipeline"


def save_tiny_flux(folder: Path, *, distilled: bool = True, seed: int = 0, out_channels: int | None = None) -> Path:
    """Write a randomly initialised ``FluxPipeline`` (under 1 MB) and return its folder.

    Args:
        distilled: as FLUX.1-dev, whose transformer is told the guidance; else as FLUX.1-schnell.
        out_channels: of the transformer, if not as many as it takes.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from tokenizers import Tokenizer, models
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        out_channels=out_channels,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=distilled,
        axes_dims_rope=(4, 4, 8),
    )
    t5 = T5EncoderModel(T5Config(vocab_size=4, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -1.0), ("a", -2.0)]
    t5_tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(3, latent_channels=4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=_clip_text_model(),
        tokenizer=_clip_tokenizer(folder),
        text_encoder_2=t5,
        tokenizer_2=T5TokenizerFast(tokenizer_object=t5_tokenizer, extra_ids=0, model_max_length=512),
        transformer=transformer,
    )
    pipeline.save_pretrained(folder / "pipeline", safe_serialization=True)
    return folder / "pipeline"


def _vae(levels: int, **settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(*(8,) * (levels - 1), 16),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=4,
        **settings,
    )


def _clip_text_model(**settings: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
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
            **settings,
        )
    )


def _clip_tokenizer(folder: Path, length: int = 8) -> Any:
    from transformers import CLIPTokenizer

    (folder / "vocab.json").write_text(json.dumps({"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=length)


def draw_weights(network: Any, seed: int) -> None:
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
