"""Stable Diffusion and FLUX as priors, on tiny pipelines with random weights."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_pipeline import save_tiny_flux, save_tiny_pipeline

from robustkit.codecs.rcc.turbo import RobustTurboDDCM
from robustkit.images import photographs
from robustkit.priors import load_prior
from robustkit.priors.base import NoiseLevel, PriorError
from robustkit.priors.flux import FluxPrior, pack, unpack
from robustkit.priors.latent import LatentPrior
from robustkit.priors.stable_diffusion import StableDiffusionPrior

P = TypeVar("P", bound=LatentPrior)


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def flux(flux_folder: Path) -> FluxPrior:
    return loaded(flux_folder, FluxPrior)


def loaded(folder: Path, kind: type[P], **settings: str) -> P:
    prior = load_prior(str(folder), **settings)
    assert isinstance(prior, kind)
    return prior


def noise_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mixed(clean: torch.Tensor, noise: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    return math.sqrt(level.alpha_bar) * clean + math.sqrt(1 - level.alpha_bar) * noise


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file, or take those out that are ``None``."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# -- Stable Diffusion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("generation", [1, 2])
@torch.inference_mode()
def test_stable_diffusion_estimates_what_its_own_pipeline_does(
    prediction: str, generation: int, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    folder = save_tiny_pipeline(tmp_path, prediction_type=prediction, generation=generation)
    prior = loaded(folder, StableDiffusionPrior)
    assert {"text_encoder", "unet", "vae"} <= {path.parent.name for path in prior.weight_files}
    assert all(path.is_file() for path in prior.weight_files)
    whole = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, requires_safety_checker=False)
    prompt = whole.encode_prompt("", "cpu", 1, False)[0]
    whole.scheduler.set_timesteps(1000)
    for timestep in (1, 300, 999):
        noisy = noise_of(2, 4, 8, 8)
        predicted = whole.unet(noisy, timestep, encoder_hidden_states=prompt.expand(2, -1, -1)).sample
        theirs = whole.scheduler.step(predicted, timestep, noisy).pred_original_sample
        ours = prior.predict_clean(noisy, prior.level_at_timestep(timestep))
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perfect_unet_gives_the_clean_latents(
    prediction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = loaded(save_tiny_pipeline(tmp_path, prediction_type=prediction), StableDiffusionPrior)
    clean, noise = noise_of(1, 4, 8, 8, seed=1), noise_of(1, 4, 8, 8, seed=2)
    for timestep in (0, 500, 999):
        level = prior.level_at_timestep(timestep)
        signal, spread = math.sqrt(level.alpha_bar), math.sqrt(1 - level.alpha_bar)
        answer = noise if prediction == "epsilon" else signal * noise - spread * clean
        monkeypatch.setattr(prior, "network", lambda *_, answer=answer, **__: SimpleNamespace(sample=answer))
        assert torch.allclose(prior.predict_clean(mixed(clean, noise, level), level), clean, atol=1e-4)


@pytest.mark.parametrize(
    ("scheduler", "settings", "left_out"),
    [
        ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 0}, ("prediction_type", "steps_offset")),
        ("DDIMScheduler", {"clip_sample": True, "steps_offset": 0}, ("clip_sample",)),
        ("EulerDiscreteScheduler", {}, ()),
        ("DPMSolverMultistepScheduler", {}, ()),
        ("UniPCMultistepScheduler", {}, ()),
    ],
)
def test_the_scheduler_that_a_pipeline_was_saved_with_does_not_matter(
    scheduler: str, settings: dict[str, Any], left_out: tuple[str, ...], tmp_path: Path
) -> None:
    folder = save_tiny_pipeline(tmp_path, scheduler=scheduler, scheduler_settings=settings)
    edit(folder / "scheduler" / "scheduler_config.json", **dict.fromkeys(left_out))
    prior = loaded(folder, StableDiffusionPrior)
    assert prior.kind == "epsilon"
    assert prior.alphas_bar[0] == pytest.approx(1 - 0.00085, abs=1e-6)
    assert prior.alphas_bar[999] == pytest.approx(0.00466, abs=1e-5)


def test_a_schedule_that_ends_in_pure_noise_is_taken(tmp_path: Path) -> None:
    settings = {"rescale_betas_zero_snr": True, "steps_offset": 1}
    folder = save_tiny_pipeline(
        tmp_path, prediction_type="v_prediction", scheduler="DDIMScheduler", scheduler_settings=settings
    )
    codec = RobustTurboDDCM(prior=str(folder), T=4, M=4, K=256)
    image = photographs(crop=64)["astronaut"]
    assert codec.decode(codec.encode(image)).shape == image.shape


@pytest.mark.parametrize("size", [512, 768])
def test_the_latents_are_as_large_as_the_real_ones(size: int, tmp_path: Path) -> None:
    prior = loaded(save_tiny_pipeline(tmp_path, levels=4, vae_levels=4), StableDiffusionPrior)
    assert size % prior.pixel_multiple == 0
    with torch.inference_mode():
        latents = prior.encode(torch.zeros(1, 3, size, size))
        assert latents.shape[1:] == prior.latent_shape(size, size) == (4, size // 8, size // 8)
        assert prior.predict_clean(latents, prior.level_at_timestep(500)).shape == latents.shape
        assert prior.decode(latents).shape == (1, 3, size, size)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("save", [save_tiny_pipeline, save_tiny_flux])
def test_half_precision_comes_close_to_single(save: Any, dtype: str, tmp_path: Path) -> None:
    folder = save(tmp_path)
    single, half = loaded(folder, LatentPrior), loaded(folder, LatentPrior, dtype=dtype)
    assert {p.dtype for p in half.network.parameters()} == {getattr(torch, dtype)}
    assert half.vae.dtype == torch.float32
    assert half.identity == single.identity
    noisy, level = noise_of(1, *single.latent_shape(32, 32)), single.level_at_snr(0.0)
    with torch.inference_mode():
        one, other = single.predict_clean(noisy, level), half.predict_clean(noisy, level)
    assert other.dtype == torch.float32
    assert 0 < (one - other).abs().max() < 0.1


def test_other_variants_of_the_weights_do_not_change_what_the_prior_is(tmp_path: Path) -> None:
    folder = save_tiny_pipeline(tmp_path)
    before = load_prior(str(folder)).identity
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another variant")
    assert load_prior(str(folder)).identity == before
    edit(folder / "unet" / "config.json", sample_size=16)
    assert load_prior(str(folder)).identity != before


def test_what_is_no_prior_is_named(tmp_path: Path) -> None:
    scheduler = Path("scheduler", "scheduler_config.json")
    folder = save_tiny_pipeline(tmp_path / "sample", prediction_type="sample")
    with pytest.raises(PriorError, match="predicts 'sample'"):
        load_prior(str(folder))
    edit(folder / scheduler, _class_name="FlowMatchEulerDiscreteScheduler", beta_schedule=None)
    with pytest.raises(PriorError, match="FlowMatchEulerDiscreteScheduler is no scheduler of Stable Diffusion"):
        load_prior(str(folder))
    (folder / scheduler).unlink()
    with pytest.raises(PriorError, match="scheduler_config"):
        load_prior(str(folder))
    with pytest.raises(PriorError, match="takes 9 channels and gives 4"):
        load_prior(str(save_tiny_pipeline(tmp_path / "inpainting", in_channels=9)))
    with pytest.raises(PriorError, match="takes 16 channels and gives 8"):
        load_prior(str(save_tiny_flux(tmp_path / "control", out_channels=8)))
    edit(folder / "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(
        PriorError, match="is a StableDiffusionXLPipeline: give a StableDiffusionPipeline or FluxPipeline"
    ):
        load_prior(str(folder))
    for text in ("[]", "{}", '{"_class_name": 3}', "{", "\xff"):
        (folder / "model_index.json").write_text(text, encoding="latin-1")
        with pytest.raises(PriorError, match=r"pipeline"):
            load_prior(str(folder))
    with pytest.raises(PriorError, match="device 'abacus'"):
        load_prior("embedded", device="abacus")


@pytest.mark.parametrize("absent", ["diffusers", "transformers"])
def test_a_pipeline_without_its_extra_names_it(absent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").touch()
    monkeypatch.setitem(sys.modules, absent, None)  # as if it were not installed
    for name in (str(tmp_path), "somebody/stable-diffusion"):
        with pytest.raises(PriorError, match=rf"{absent} is missing: pip install 'robustkit\[diffusers\]'") as caught:
            load_prior(name)
        assert repr(name) in str(caught.value)


@pytest.mark.parametrize("save", [save_tiny_pipeline, save_tiny_flux])
@pytest.mark.parametrize("damage", ["cut", "gone", "another model", "one lost"])
def test_damaged_weights_are_a_prior_error(save: Any, damage: str, tmp_path: Path) -> None:
    folder = save(tmp_path)
    (weights,) = [file for part in ("unet", "transformer") for file in (folder / part).glob("*.safetensors")]
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "gone":
        weights.unlink()
    elif damage == "one lost":
        tensors = load_file(weights)
        tensors.pop(min(tensors))
        save_file(tensors, weights, metadata={"format": "pt"})
    else:
        config = weights.parent / "config.json"
        key = "cross_attention_dim" if weights.parent.name == "unet" else "joint_attention_dim"
        edit(config, **{key: 24})
    expected = {
        "cut": "Unable to load weights",
        "gone": "no file",
        "another model": "shape",
        "one lost": "lacks the weights",
    }
    with pytest.raises(PriorError, match=expected[damage]):
        load_prior(str(folder))


# -- FLUX -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distilled", [True, False], ids=["dev", "schnell"])
@torch.inference_mode()
def test_flux_estimates_what_its_own_pipeline_does(distilled: bool, tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    folder = save_tiny_flux(tmp_path, distilled=distilled)
    prior = loaded(folder, FluxPrior)
    whole = FluxPipeline.from_pretrained(folder, use_safetensors=True)
    whole.set_progress_bar_config(disable=True)
    height, width = 32, 48
    for share in (0.2, 0.7):
        level = prior.level_at_timestep(round(1000 * share))
        noisy = noise_of(1, *prior.latent_shape(height, width))
        # On the straight path; one Euler step from there to its end is the estimate.
        straight = pack(noisy * math.hypot(share, 1 - share))
        theirs = whole(
            "",
            height=height,
            width=width,
            num_inference_steps=1,
            sigmas=[share],
            guidance_scale=1.0,
            latents=straight,
            max_sequence_length=512 if distilled else 256,
            output_type="latent",
        ).images
        ours = prior.predict_clean(noisy, level)
        assert torch.allclose(pack(ours), theirs, atol=1e-4)


@given(st.floats(-12, 20), st.integers(1, 3))
def test_a_perfect_velocity_gives_the_clean_latents(flux: FluxPrior, log_snr: float, count: int) -> None:
    clean, noise = noise_of(count, 4, 8, 6, seed=1), noise_of(count, 4, 8, 6, seed=2)
    level = flux.level_at_snr(log_snr)
    share = level.timestep / 1000
    told: dict[str, Any] = {}

    def network(**arguments: Any) -> tuple[torch.Tensor]:
        told.update(arguments)
        return (pack(noise - clean),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flux, "network", network)
        estimate = flux.predict_clean(mixed(clean, noise, level), level)
    assert torch.allclose(estimate, clean, atol=1e-4)
    assert torch.allclose(told["hidden_states"], pack((1 - share) * clean + share * noise), atol=1e-5)
    assert torch.allclose(told["timestep"], torch.full((count,), share))
    assert told["guidance"].tolist() == [1.0] * count


@given(st.floats(-12, 20))
def test_a_level_of_flux_has_the_snr_that_was_asked_for(flux: FluxPrior, log_snr: float) -> None:
    level = flux.level_at_snr(log_snr)
    assert math.log(level.alpha_bar / (1 - level.alpha_bar)) == pytest.approx(log_snr, abs=1e-5)
    share = level.timestep / 1000
    assert 2 * math.log((1 - share) / share) == pytest.approx(log_snr, abs=1e-9)


def test_timesteps_of_flux_are_thousandths_of_noise(flux: FluxPrior) -> None:
    half = flux.level_at_timestep(500)
    assert (half.alpha_bar, half.timestep) == (0.5, 500)
    levels = [flux.level_at_timestep(timestep).alpha_bar for timestep in range(1, 1000)]
    assert all(0 < b < a < 1 for a, b in itertools.pairwise(levels))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_unpack_undoes_pack(count: int, channels: int, rows: int, columns: int) -> None:
    latents = noise_of(count, channels, 2 * rows, 2 * columns)
    tokens = pack(latents)
    assert tokens.shape == (count, rows * columns, 4 * channels)
    assert torch.equal(unpack(tokens, 2 * rows, 2 * columns), latents)


def test_tokens_are_as_diffusers_packs_them() -> None:
    from diffusers import FluxPipeline

    latents = noise_of(2, 3, 4, 6)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 3, 4, 6))


def test_the_latents_of_flux_are_shifted_and_scaled(flux: FluxPrior) -> None:
    assert flux.pixel_multiple == 8
    images = noise_of(2, 3, 16, 24).clamp(-1, 1)
    with torch.inference_mode():
        latents = flux.encode(images)
        raw = flux.vae.encode(images).latent_dist.mode()
        assert latents.shape[1:] == flux.latent_shape(16, 24) == (4, 4, 6)
        assert torch.allclose(latents, (raw - 0.1159) * 0.3611, atol=1e-6)
        assert torch.allclose(flux.decode(latents), flux.vae.decode(raw).sample, atol=1e-4)


def test_the_text_encoders_are_gone_once_the_prompt_is_known(flux: FluxPrior) -> None:
    kept = [name for name, value in vars(flux).items() if isinstance(value, torch.nn.Module)]
    assert sorted(kept) == ["network", "vae"]
    assert flux.prompt.shape == (1, 512, 32)
    assert flux.pooled.shape == (1, 16)


def test_a_photograph_goes_through_flux(flux_folder: Path) -> None:
    image = photographs(crop=64)["astronaut"][:50]
    codec = RobustTurboDDCM(prior=str(flux_folder), T=6, M=8, K=1 << 10, N=2)
    stream = codec.encode(image)
    decoded = codec.decode(stream)
    assert decoded.shape == image.shape
    assert np.array_equal(RobustTurboDDCM(prior=str(flux_folder), T=3, M=1).decode(stream), decoded)
