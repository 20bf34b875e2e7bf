"""What the training scripts share: their options, how fast a run learns, the average of its weights, its progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Command = TypeVar("Command", bound=Callable[..., Any])

console = Console(stderr=True)


class Pace(Protocol):
    """The settings that decide how fast a run learns."""

    @property
    def iterations(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def decay(self) -> float: ...


def training_options(
    *, iterations: int, batch: int, multiple: int, learning_rate: float, decay: float
) -> Callable[[Command], Command]:
    """The arguments and options of every training script, with these defaults; a crop's side is a ``multiple``."""
    options = [
        click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path)),
        click.option("--iterations", default=iterations, help="Training steps in all, those of earlier runs included."),
        click.option("--batch", default=batch, help="Crops a step."),
        click.option("--crop", default=128, help=f"Side of a training crop, a multiple of {multiple}."),
        click.option("--learning-rate", default=learning_rate),
        click.option("--decay", default=decay, help="Share of the iterations over which the learning rate falls."),
        click.option("--ema", default=0.999, help="Decay of the running average of the weights."),
        click.option("--seed", default=0),
        click.option("--every", default=500, help="Iterations between checkpoints and held-out measurements."),
        click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu"),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            help="auto: bfloat16 where the hardware has it.",
        ),
    ]

    def take(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return take


def pick_precision(precision: str, device: torch.device) -> str:
    """``precision``, or for ``"auto"`` bfloat16 where the hardware multiplies it fast, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


def photograph_folders(data: Path) -> list[Path]:
    """Where ``data`` keeps what is trained on; ``val`` is held out."""
    return [data / name for name in ("train", "test") if (data / name).is_dir()]


def learning_rate(pace: Pace, iteration: int, *, warm_up: int, least: float = 0.0) -> float:
    """Rise over ``warm_up`` iterations, stay, then fall as a cosine over the last ``decay`` share of them.

    Args:
        pace: the run's settings.
        iteration: from 0.
        warm_up: iterations.
        least: share of the rate that it falls to.
    """
    start = pace.iterations * (1 - pace.decay)
    through = max(0.0, (iteration - start) / max(1.0, pace.iterations - start))
    fallen = max(least, 0.5 * (1 + math.cos(math.pi * min(1.0, through))))
    return pace.learning_rate * min(1.0, (iteration + 1) / warm_up) * fallen


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, ema: float, iteration: int) -> None:
    """Move the running average of a model's weights towards them; the first iterations count for more."""
    keep = min(ema, (iteration + 1) / (iteration + 10))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)


def training_progress() -> Progress:
    """A bar with the task's description, what is done, and how long the rest takes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
