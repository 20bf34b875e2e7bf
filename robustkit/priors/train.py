"""Train the embedded prior: ``python -m robustkit.priors.train DATA_DIR --out DIR``.

``DATA_DIR`` holds photographs in ``train/`` (and ``test/``, used for training too) and ``val/`` (held
out). Run again with the same ``--out`` to resume. The learning rate is constant, then decays over the
last part of ``--iterations``; a checkpoint taken before the decay (``stable/``) lets a later run with more
iterations go on as if it had never decayed.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustkit.priors import load_prior
from robustkit.priors.base import NoiseLevel
from robustkit.priors.blockdiffusion import (
    BLOCK,
    BlockDiffusionPrior,
    BlockTransform,
    WienerDenoiser,
    channels_last,
    make_network,
    save_prior,
)
from robustkit.priors.calibration import error_curve
from robustkit.priors.photographs import (
    Crops,
    Photograph,
    centre_crops,
    read_photographs,
    vary_colours,
)
from robustkit.priors.training import (
    console,
    learning_rate,
    photograph_folders,
    pick_precision,
    training_options,
    training_progress,
    update_average,
)
from robustkit.priors.unet import UNetConfig

LOG_SNR_RANGE = (-7.0, 5.5)
HELD_OUT_CROP = 256
HELD_OUT_IMAGES = 48


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result, kept in the prior's ``config.json``."""

    iterations: int
    batch: int
    crop: int
    scales: tuple[float, ...]
    vary: float
    components: int
    widths: tuple[int, ...]
    blocks: int
    learning_rate: float
    weight_decay: float
    decay: float
    ema: float
    seed: int
    precision: str
    compile: bool


def fit_transform(
    photographs: list[Photograph], components: int, start: BlockDiffusionPrior | None = None
) -> tuple[BlockTransform, Tensor]:
    """Principal components of 8x8 blocks, over the eight symmetries of the square, and their variances.

    With ``start``, its components come first, with its means, variances and scale, and the principal ones of what
    they leave follow.
    """
    if start is not None and len(start.transform.basis) == components:
        return start.transform, start.denoiser.variance.flatten()
    size = 3 * BLOCK * BLOCK
    total, outer, count = np.zeros(size), np.zeros((size, size)), 0
    for photograph in photographs:
        rows, columns = photograph.shape[0] // BLOCK, photograph.shape[1] // BLOCK
        image = photograph[: rows * BLOCK, : columns * BLOCK].astype(np.float32) / 127.5 - 1
        blocks = image.reshape(rows, BLOCK, columns, BLOCK, 3).transpose(0, 2, 4, 1, 3).reshape(-1, size)
        total += blocks.sum(axis=0, dtype=np.float64)
        outer += blocks.T @ blocks
        count += len(blocks)
    places = np.arange(size).reshape(3, BLOCK, BLOCK)
    symmetries = [
        np.rot90(turned, quarter, axes=(1, 2)).ravel()
        for turned in (places, places.transpose(0, 2, 1))
        for quarter in range(4)
    ]
    mean = np.mean([total[s] for s in symmetries], axis=0) / count
    second_moment = np.mean([outer[np.ix_(s, s)] for s in symmetries], axis=0) / count
    covariance = second_moment - np.outer(mean, mean)
    given = np.zeros((0, size)) if start is None else start.transform.basis.flatten(1).double().numpy()
    left = np.eye(size) - given.T @ given
    vectors = np.linalg.eigh(left @ covariance @ left)[1][:, ::-1]
    basis = np.concatenate([given, vectors[:, : components - len(given)].T])
    values = np.einsum("ij,jk,ik->i", basis, covariance, basis)
    scale = float(1 / math.sqrt(values.mean())) if start is None else start.transform.scale
    means = torch.tensor(basis @ mean, dtype=torch.float32)
    variances = torch.tensor(values * scale**2, dtype=torch.float32)
    if start is not None:
        means[: len(given)] = start.transform.mean
        variances[: len(given)] = start.denoiser.variance.flatten()
    transform = BlockTransform(
        torch.tensor(basis.copy(), dtype=torch.float32).view(components, 3, BLOCK, BLOCK), means, scale
    )
    return transform, variances


def network_config(components: int, widths: tuple[int, ...], blocks: int) -> dict[str, Any]:
    """What ``config.json`` says of the network."""
    config = UNetConfig(
        in_channels=components,
        out_channels=components,
        block_out_channels=widths,
        layers_per_block=blocks,
        norm_num_groups=16,
        attention_head_dim=16,
    )
    return asdict(config)


def relative_loss(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    variance: Tensor,
    clean: Tensor,
    log_snr: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Squared latent error of each sample over the mean variance that the Wiener estimate leaves."""
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    alpha_bar = torch.sigmoid(log_snr)
    a = alpha_bar.view(-1, 1, 1, 1)
    estimate = denoiser(a.sqrt() * clean + (1 - a).sqrt() * noise, alpha_bar).to(torch.float32)
    posterior = variance * (1 - a) / (a * variance + 1 - a)
    return (estimate - clean).square().mean(dim=(1, 2, 3)) / posterior.mean(dim=(1, 2, 3))


@torch.inference_mode()
def held_out_loss(denoiser: WienerDenoiser, latents: Tensor) -> float:
    """Mean relative loss over held-out crops, at fixed noise and evenly spread noise levels."""
    generator = torch.Generator(latents.device).manual_seed(0)
    low, high = denoiser.log_snr_range
    levels = torch.linspace(low + 0.5, high - 0.5, len(latents), device=latents.device)
    losses = [
        relative_loss(denoiser, denoiser.variance, latents[i : i + 8], levels[i : i + 8], generator).sum()
        for i in range(0, len(latents), 8)
    ]
    return float(torch.stack(losses).sum() / len(latents))


def measure_mmse(denoiser: WienerDenoiser, latents: Tensor, points: int = 26) -> dict[str, list[float]]:
    """The denoiser's mean squared error against log-SNR, over held-out crops.

    Returns:
        ``log_snr``, evenly spread over the trained range, and ``squared_error``, of a latent element.
    """

    def predict_clean(noisy: Tensor, level: NoiseLevel) -> Tensor:
        estimate: Tensor = denoiser(noisy, torch.full((len(noisy),), level.alpha_bar, device=noisy.device))
        return estimate.to(torch.float32)

    log_snrs = np.linspace(*denoiser.log_snr_range, points).tolist()
    levels = [NoiseLevel(alpha_bar=1 / (1 + math.exp(-value)), timestep=value) for value in log_snrs]
    errors = [error for _, error in error_curve(predict_clean, torch.split(latents, 8), levels)]
    return {"log_snr": log_snrs, "squared_error": errors}


class Run:
    """A training run and its checkpoints below one folder."""

    def __init__(
        self, out: Path, settings: Settings, transform: BlockTransform, variance: Tensor, device: torch.device
    ) -> None:
        self.out, self.settings, self.device = out, settings, device
        self.transform = BlockTransform(transform.basis.to(device), transform.mean.to(device), transform.scale)
        self.network = network_config(settings.components, settings.widths, settings.blocks)

        def make() -> WienerDenoiser:
            denoiser = WienerDenoiser(make_network(self.network), variance, LOG_SNR_RANGE)
            return channels_last(denoiser.to(device))

        torch.manual_seed(settings.seed)
        self.model, self.average = make(), make()
        for parameter in self.model.network.conv_out.parameters():
            torch.nn.init.zeros_(parameter)
        self.average.load_state_dict(self.model.state_dict())
        self.average.eval().requires_grad_(False)
        # The same weights, run another way.
        self.trained = torch.compile(self.model) if settings.compile else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=settings.weight_decay,
        )
        self.iteration = 0

    @property
    def decaying(self) -> bool:
        return self.iteration > self.settings.iterations * (1 - self.settings.decay)

    def save(self, folder: Path) -> None:
        """Write a checkpoint beside ``folder``, then move it there: a stop never leaves half of one."""
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{key}.{name}": torch.as_tensor(value) for key, value in state.items()}
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial / "checkpoint.safetensors")
        (partial / "state.json").write_text(
            json.dumps({"iteration": self.iteration, "settings": asdict(self.settings)})
        )
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    def start_from(self, prior: BlockDiffusionPrior) -> None:
        """Take the weights of a trained prior with as many components or fewer; those that it lacks start at zero."""
        given = prior.denoiser.network.state_dict()
        for model in (self.model, self.average):
            weights = model.network.state_dict()
            for name, new in weights.items():
                old = given.get(name)
                extra = [] if old is None else [a - b for a, b in zip(new.shape, old.shape, strict=True)]
                if old is None or any(e and (e < 0 or not name.startswith(("conv_in", "conv_out"))) for e in extra):
                    raise click.UsageError(f"--start-from: {name} does not fit this network's {tuple(new.shape)}")
                weights[name] = torch.nn.functional.pad(old, [n for e in reversed(extra) for n in (0, e)])
            model.network.load_state_dict(weights)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint of the same network."""
        state = json.loads((folder / "state.json").read_text())
        for name in ("components", "blocks", "widths"):
            old, new = state["settings"][name], asdict(self.settings)[name]
            if (tuple(old) if isinstance(old, list) else old) != new:
                raise click.UsageError(f"{folder} was trained with {name} = {old}, not {new}: give another --out")
        tensors = load_file(folder / "checkpoint.safetensors", device=str(self.device))
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.average.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("average.")})
        for name, parameter in self.model.named_parameters():
            moments = {key: tensors[f"optimizer.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {**moments, "step": moments["step"].cpu()}
        self.iteration = int(state["iteration"])

    def step(self, images: Tensor) -> Tensor:
        """One update; returns the loss, still on the device: to read it would make the device wait."""
        low, high = LOG_SNR_RANGE
        clean = self.transform.analyse(images).contiguous(memory_format=torch.channels_last)
        # Evenly spread over the range, and which crop gets which at random.
        order = torch.randperm(len(clean), device=self.device)
        log_snr = low + (high - low) * (order + torch.rand(len(clean), device=self.device)) / len(clean)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.iteration, warm_up=200)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            loss = relative_loss(self.trained, self.model.variance, clean, log_snr, None).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        update_average(self.average, self.model, self.settings.ema, self.iteration)
        self.iteration += 1
        return loss.detach()

    def export(self, held_out: Tensor, loss: float) -> None:
        """Write the averaged weights as a prior, with the error curve of those very weights."""
        config = {
            "network": self.network,
            "log_snr_range": list(LOG_SNR_RANGE),
            "mmse": measure_mmse(self.average, held_out),
            "training": asdict(self.settings) | {"iteration": self.iteration, "held_out_loss": loss},
        }
        save_prior(self.out, self.average, self.transform, config)


def train(run: Run, photographs: Crops, held_out: Tensor, every: int) -> Iterator[tuple[int, Tensor, float | None]]:
    """Train to the end; yields (iteration, training loss, held-out loss or None)."""
    while run.iteration < run.settings.iterations:
        torch.manual_seed(run.settings.seed * 1_000_003 + run.iteration)
        images = photographs.draw(run.settings.batch, run.settings.crop)
        loss = run.step(vary_colours(images, run.settings.vary))
        measured = None
        if run.iteration % every == 0 or run.iteration == run.settings.iterations:
            measured = held_out_loss(run.average, held_out)
            run.save(run.out / "checkpoint")
            if not run.decaying:
                run.save(run.out / "stable")
        yield run.iteration, loss, measured


@click.command(context_settings={"show_default": True})
@training_options(iterations=9000, batch=32, multiple=32, learning_rate=1e-3, decay=0.3)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the prior and its checkpoints go; resumed if it has one.",
)
@click.option("--scales", default="1,0.75,0.55", help="Scales at which the photographs are used, equally often.")
@click.option("--vary", default=0.0, help="How far saturation, contrast and brightness of a crop vary.")
@click.option("--components", default=48, help="Components kept of each 8x8x3 block's 192.")
@click.option("--widths", default="112,144,160", help="Channels at each resolution of the U-Net.")
@click.option("--blocks", default=1, help="Residual blocks a resolution.")
@click.option("--weight-decay", default=0.01)
@click.option("--compile", is_flag=True, help="Compile the network first, which takes a minute; no faster on an H100.")
@click.option(
    "--resume-from",
    type=click.Choice(["checkpoint", "stable"]),
    default="checkpoint",
    help="stable: the last checkpoint before the learning rate fell, to train on for longer.",
)
@click.option("--start-from", help="A trained prior to begin with, of as many components or fewer: embedded, a folder.")
def main(
    data: Path,
    out: Path,
    every: int,
    device: str,
    resume_from: str,
    widths: str,
    scales: str,
    precision: str,
    start_from: str | None,
    **options: Any,
) -> None:
    """Train the embedded prior on the photographs in DATA/train and DATA/test; hold out DATA/val."""
    place = torch.device(device)
    settings = Settings(
        widths=tuple(int(w) for w in widths.split(",")),
        scales=tuple(float(s) for s in scales.split(",")),
        precision=pick_precision(precision, place),
        **options,
    )
    folders = photograph_folders(data)
    by_scale = [read_photographs(folders, (scale,), settings.crop) for scale in settings.scales]
    photographs = [photograph for group in by_scale for photograph in group]
    areas = [np.array([p.shape[0] * p.shape[1] for p in group], dtype=np.float64) for group in by_scale]
    crops = Crops(photographs, place, [float(share) for group in areas for share in group / group.sum()])
    centred = centre_crops(read_photographs([data / "val"], (1.0,), HELD_OUT_CROP)[:HELD_OUT_IMAGES], HELD_OUT_CROP)
    first = None if start_from is None else load_prior(start_from)
    if first is not None and not isinstance(first, BlockDiffusionPrior):
        raise click.UsageError(f"--start-from: {start_from} was not trained by this script")
    transform, variance = fit_transform(photographs, settings.components, first)
    run = Run(out, settings, transform, variance, place)
    if first is not None:
        run.start_from(first)
    source = out / resume_from
    if source.is_dir():
        run.load(source)
        console.print(f"resumed at iteration {run.iteration} from {source}")
    held_out = run.transform.analyse(centred.to(place))
    out.mkdir(parents=True, exist_ok=True)
    parameters = sum(p.numel() for p in run.model.parameters())
    console.print(f"{len(photographs)} photographs, {parameters / 1e6:.1f} M parameters, {place}, {settings.precision}")
    started = time.monotonic()
    recent: deque[Tensor] = deque(maxlen=100)
    with training_progress() as progress, (out / "log.jsonl").open("a", encoding="utf-8") as log:
        task = progress.add_task("training", total=settings.iterations, completed=run.iteration)
        for iteration, loss, measured in train(run, crops, held_out, every):
            recent.append(loss)
            progress.update(task, completed=iteration)
            if iteration % 20 == 0 or measured is not None:
                average = float(torch.stack(list(recent)).mean())
                progress.update(task, description=f"loss {average:.4f}")
            if measured is not None:
                record = {
                    "iteration": iteration,
                    "loss": average,
                    "held_out_loss": measured,
                    "seconds": time.monotonic() - started,
                }
                log.write(json.dumps(record) + "\n")
                log.flush()
                progress.console.print(f"iteration {iteration}: loss {average:.4f}, held out {measured:.4f}")
                run.export(held_out, measured)
    console.print(f"prior written to {out}")


if __name__ == "__main__":
    main()
