"""Priors: diffusion models that the RCC codecs share between encoder and decoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robustkit import extras
from robustkit.priors.errors import PriorError, PriorUnavailable

if TYPE_CHECKING:
    from robustkit.priors.base import Prior

#: The prior that comes with robustkit.
EMBEDDED = Path(__file__).parent / "embedded"


def load_prior(name: str, *, device: str = "cpu", dtype: str = "float32") -> Prior:
    """Load a prior.

    Args:
        name: ``"embedded"``, a folder that ``robustkit.priors.train`` wrote, a folder that ``save_pretrained`` of a
            ``StableDiffusionPipeline`` or ``FluxPipeline`` wrote, or a hub name of such a pipeline.
        device: a torch device.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``, of the network.

    Raises:
        PriorError: it can't be loaded; the message says why and what would load.
        PriorUnavailable: a package that it needs is not installed.
    """
    _need(name, "torch", "safetensors")
    import torch

    kinds = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in kinds:
        raise PriorError(f"dtype {dtype!r}: give {', '.join(kinds)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise PriorError(f"device {device!r} can't be used here: {str(error).partition(chr(10))[0]}") from error
    folder = EMBEDDED if name == "embedded" else Path(name)
    if (folder / "model_index.json").is_file() or not folder.exists():
        _need(name, "diffusers", "transformers")
        from robustkit.priors.flux import FluxPrior
        from robustkit.priors.latent import LatentPrior, pipeline_kind
        from robustkit.priors.stable_diffusion import StableDiffusionPrior

        pipelines: dict[str, type[LatentPrior]] = {
            "StableDiffusionPipeline": StableDiffusionPrior,
            "FluxPipeline": FluxPrior,
        }
        found = pipeline_kind(name)
        if found not in pipelines:
            raise PriorError(f"prior {name!r} is a {found}: give a {' or '.join(pipelines)}")
        return pipelines[found](name, device=device, dtype=kinds[dtype])
    if (folder / "config.json").is_file():
        from robustkit.priors.blockdiffusion import BlockDiffusionPrior

        return BlockDiffusionPrior(folder, device=device, dtype=kinds[dtype])
    raise PriorError(
        f"{folder} holds neither config.json (python -m robustkit.priors.train writes one) "
        "nor model_index.json (a diffusers pipeline's)"
    )


def _need(prior: str, *packages: str) -> None:
    for package in packages:
        if lacking := extras.missing(package):
            raise PriorUnavailable(f"prior {prior!r}: {lacking}", name=package)
