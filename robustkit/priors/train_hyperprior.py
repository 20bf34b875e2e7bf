"""Train the small learned codec: ``python -m robustkit.priors.train_hyperprior DATA_DIR --out FILE``.

The network is compressai's mean-and-scale hyperprior (Minnen et al. 2018), narrower than the zoo's, trained for
``squared error * lambda * 255^2 + bits per pixel``. ``DATA_DIR`` holds photographs in ``train/`` (and ``test/``, used
for training too) and ``val/`` (held out). Run again with the same ``--out`` to resume.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from robustkit.priors.photographs import Crops, centre_crops, read_photographs
from robustkit.priors.training import (
    console,
    learning_rate,
    photograph_folders,
    pick_precision,
    training_options,
    training_progress,
    update_average,
)

with warnings.catch_warnings():
    # Of torch's future, from what compressai imports.
    warnings.simplefilter("ignore")
    from compressai.models import MeanScaleHyperprior

SCALES = (1.0, 0.75, 0.55)
HELD_OUT_CROP = 256
HELD_OUT_IMAGES = 24


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result, kept in the file's metadata."""

    iterations: int
    batch: int
    crop: int
    widths: tuple[int, int]
    weight: float
    learning_rate: float
    decay: float
    ema: float
    seed: int
    precision: str


def forward(model: Any, images: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """One pass with additive-noise quantisation.

    Args:
        images: float32 ``(b, 3, H, W)`` in [0, 1].

    Returns:
        Mean squared error in [0, 1]^2, and bits per pixel.
    """
    fast = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with fast:
        y = model.g_a(images)
        z = model.h_a(y)
    z_hat, z_likelihoods = model.entropy_bottleneck(z.float())
    with fast:
        parameters = model.h_s(z_hat)
    scales, means = parameters.float().chunk(2, 1)
    y_hat, y_likelihoods = model.gaussian_conditional(y.float(), scales, means=means)
    with fast:
        decoded = model.g_s(y_hat)
    pixels = images.shape[0] * images.shape[2] * images.shape[3]
    bits = -(torch.log2(y_likelihoods).sum() + torch.log2(z_likelihoods).sum())
    return (decoded.float() - images).square().mean(), bits / pixels


@torch.inference_mode()
def held_out(model: Any, images: Tensor) -> tuple[float, float]:
    """Mean PSNR in dB and mean rate in bits per pixel, by the model's own likelihoods."""
    model.eval()
    # Training adds noise and needs no medians; they are searched for here, with no loss of their own.
    model.update(force=True, update_quantiles=True)
    measured = [forward(model, image[None], "float32") for image in images]
    psnr = [-10 * math.log10(float(error)) for error, _ in measured]
    return float(np.mean(psnr)), float(np.mean([float(bits) for _, bits in measured]))


class Run:
    """A training run: the model, the running average of its weights, and a checkpoint."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        torch.manual_seed(settings.seed)
        self.model, self.average = (
            MeanScaleHyperprior(*settings.widths).to(device).to(memory_format=torch.channels_last) for _ in range(2)
        )
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.iteration = 0

    def step(self, images: Tensor) -> tuple[float, float]:
        """One update; returns the loss and the rate."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.iteration, warm_up=100, least=0.01)
        prepared = images.contiguous(memory_format=torch.channels_last)
        error, bits = forward(self.model, prepared, self.settings.precision)
        loss = self.settings.weight * 255**2 * error + bits
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        update_average(self.average, self.model, self.settings.ema, self.iteration)
        self.iteration += 1
        return float(loss.detach()), float(bits.detach())

    def save(self, path: Path) -> None:
        """Write a checkpoint; a stop never leaves half of one."""
        state = {
            "iteration": self.iteration,
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_name(path.name + ".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of a network of the same widths."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if tuple(state["settings"]["widths"]) != self.settings.widths:
            raise click.UsageError(f"{path} has widths {state['settings']['widths']}: give another --out")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = int(state["iteration"])

    def export(self, path: Path, psnr: float, bpp: float) -> None:
        """Write the averaged weights in float16, with the coder's tables that belong to exactly these weights."""
        rounded = {n: _rounded(v) for n, v in self.average.state_dict().items()}
        exported = MeanScaleHyperprior(*self.settings.widths)
        exported.load_state_dict({n: v.float() for n, v in rounded.items()})
        # With the tables in the file, every machine codes with the same ones.
        exported.update(force=True, update_quantiles=True)
        tables = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")
        tensors = {n: v if n.endswith(tables) else rounded.get(n, v) for n, v in exported.state_dict().items()}
        about = asdict(self.settings) | {"iteration": self.iteration, "held_out_psnr": psnr, "held_out_bpp": bpp}
        metadata = {"architecture": "mbt2018-mean", "training": json.dumps(about)}
        save_file({n: v.detach().cpu().contiguous() for n, v in tensors.items()}, path, metadata)


def _rounded(values: Tensor) -> Tensor:
    """Float16 where that is exact enough: the weights of convolutions. GDN's parameters and the entropy model stay."""
    return values.half() if values.ndim == 4 and values.is_floating_point() else values


def train(run: Run, photographs: Crops, images: Tensor, every: int) -> Iterator[tuple[int, float, Any]]:
    """Train to the end; yields (iteration, loss, held-out (PSNR, rate) or None)."""
    while run.iteration < run.settings.iterations:
        torch.manual_seed(run.settings.seed * 1_000_003 + run.iteration)
        crops = (photographs.draw(run.settings.batch, run.settings.crop) + 1) / 2
        loss, _ = run.step(crops)
        due = run.iteration % every == 0 or run.iteration == run.settings.iterations
        yield run.iteration, loss, held_out(run.average, images) if due else None


@click.command(context_settings={"show_default": True})
@training_options(iterations=8000, batch=16, multiple=64, learning_rate=6e-4, decay=0.4)
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The weights, .safetensors."
)
@click.option("--widths", default="96,112", help="Channels of the transforms (N) and of the latent (M).")
@click.option("--lambda", "weight", default=0.0067, help="Weight of the squared error in grey levels.")
def main(data: Path, out: Path, every: int, device: str, widths: str, precision: str, **options: Any) -> None:
    """Train the learned codec on the photographs in DATA/train and DATA/test; hold out DATA/val."""
    place = torch.device(device)
    first, second = (int(w) for w in widths.split(","))
    settings = Settings(widths=(first, second), precision=pick_precision(precision, place), **options)
    photographs = read_photographs(photograph_folders(data), SCALES, settings.crop)
    images = centre_crops(read_photographs([data / "val"], (1.0,), HELD_OUT_CROP)[:HELD_OUT_IMAGES], HELD_OUT_CROP)
    images = (images.to(place) + 1) / 2
    run = Run(settings, place)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = out.with_suffix(".checkpoint")
    if checkpoint.is_file():
        run.load(checkpoint)
        console.print(f"resumed at iteration {run.iteration} from {checkpoint}")
    parameters = sum(p.numel() for p in run.model.parameters())
    console.print(f"{len(photographs)} photographs, {parameters / 1e6:.1f} M parameters, {place}, {settings.precision}")
    started = time.monotonic()
    recent: list[float] = []
    with training_progress() as progress:
        task = progress.add_task("training", total=settings.iterations, completed=run.iteration)
        for iteration, loss, measured in train(run, Crops(photographs, place), images, every):
            recent = [*recent[-99:], loss]
            progress.update(task, completed=iteration, description=f"loss {sum(recent) / len(recent):.4f}")
            if measured is not None:
                psnr, bpp = measured
                run.save(checkpoint)
                run.export(out, psnr, bpp)
                spent = time.monotonic() - started
                progress.console.print(f"iteration {iteration}: {psnr:.2f} dB at {bpp:.3f} bpp held out, {spent:.0f} s")
    console.print(f"weights written to {out}")


if __name__ == "__main__":
    main()
