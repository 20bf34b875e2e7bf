"""A denoiser's error curve: measured on photographs, kept in a file, and part of what a prior is.

The RCC codecs space their noise levels by it, so encoder and decoder need the same one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustkit.priors.base import NoiseLevel, Prior, PriorError
from robustkit.priors.photographs import Photograph, to_tensor

#: Rising log-SNRs, and the mean squared error of a latent element at each.
Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

KIND = "robustkit-error-curve"
FILE = "robustkit.json"
#: Where photographs still differ from noise, and where a prior's latents say more than 8-bit pixels.
LOG_SNRS = np.arange(-7.0, 7.01, 0.5)
#: What a file may say: outside of this no denoiser is, and the schedule's arithmetic would overflow.
MOST_BYTES = 1 << 16
LOG_SNR_BOUNDS = (-30.0, 30.0)
ERROR_BOUNDS = (1e-9, 1e3)
LEAST_GAP = 0.01


@torch.inference_mode()
def error_curve(
    predict_clean: Callable[[Tensor, NoiseLevel], Tensor], latents: Sequence[Tensor], levels: Iterable[NoiseLevel]
) -> Iterator[tuple[float, float]]:
    """Measure a denoiser, one noise level after another.

    Args:
        predict_clean: as :meth:`robustkit.priors.base.Prior.predict_clean`.
        latents: batches of clean ones, float32 ``(b, c, h, w)``.
        levels: the noise levels.

    Yields:
        log-SNR and mean squared error of a latent element, for each level.
    """
    # On the CPU, so that every device sees the same noise.
    generator = torch.Generator().manual_seed(1)
    for level in levels:
        squares = 0.0
        for clean in latents:
            noise = torch.randn(clean.shape, generator=generator).to(clean.device)
            noisy = math.sqrt(level.alpha_bar) * clean + math.sqrt(1 - level.alpha_bar) * noise
            squares += float((predict_clean(noisy, level) - clean).double().square().sum())
        yield _log_snr(level), squares / sum(clean.numel() for clean in latents)


@torch.inference_mode()
def latents_of(prior: Prior, images: Sequence[Photograph]) -> list[Tensor]:
    """The latents of each image, uint8 ``(H, W, 3)``, less what is over the prior's ``pixel_multiple``."""
    multiple = prior.pixel_multiple
    trimmed = [image[: len(image) // multiple * multiple, : image.shape[1] // multiple * multiple] for image in images]
    return [prior.encode(to_tensor([image])) for image in trimmed]


def levels_to_measure(prior: Prior) -> list[NoiseLevel]:
    """Levels over all of a prior's range, each once."""
    levels: list[NoiseLevel] = []
    for log_snr in LOG_SNRS:
        level = prior.level_at_snr(float(log_snr))
        # Timesteps are few at the ends.
        if not levels or _log_snr(level) - _log_snr(levels[-1]) >= LEAST_GAP:
            levels.append(level)
    return levels


def _log_snr(level: NoiseLevel) -> float:
    return math.log(level.alpha_bar / (1 - level.alpha_bar))


def identity_with_curve(weights: bytes, curve: Curve | None) -> bytes:
    """The SHA-256 of weights and curve; of a prior without a curve, that of its weights."""
    if curve is None:
        return weights
    return hashlib.sha256(weights + b"".join(part.astype(">f8").tobytes() for part in curve)).digest()


def curve_file(name: str, weights: bytes) -> Path:
    """Where the curve of the prior ``name`` is kept: in its folder, or for a hub name in the user's cache."""
    if Path(name).is_dir():
        return Path(name) / FILE
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "robustkit" / "priors" / f"{weights.hex()}.json"


def write_curve(path: Path, weights: bytes, points: Sequence[tuple[float, float]], **notes: Any) -> None:
    """Write a curve beside ``path``, then move it there.

    Args:
        path: its folder is made where it is missing.
        weights: SHA-256 of the prior's config and weights.
        points: log-SNRs and errors, as :func:`error_curve` yields them.
        notes: how it was measured; for people, nobody reads them back.

    Raises:
        PriorError: no denoiser of images has such a curve.
        OSError: it can't be written.
    """
    log_snr, errors = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if problem := _problem(log_snr, errors):
        raise PriorError(f"the curve that was measured can't be used: {problem}")
    content = {"kind": KIND, "prior": weights.hex(), **notes}
    content |= {"log_snr": log_snr.tolist(), "squared_error": errors.tolist()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read_curve(path: Path, weights: bytes) -> Curve | None:
    """Read what :func:`write_curve` wrote; ``None`` where there is no such file.

    Raises:
        PriorError: the file is damaged, or another prior's; the message names it.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise ValueError(f"its kind is not {KIND}")
        if content.get("prior") != weights.hex():
            raise ValueError("it was measured on another prior")
        log_snr, errors = (_numbers(content, key) for key in ("log_snr", "squared_error"))
        if problem := _problem(log_snr, errors):
            raise ValueError(problem)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise PriorError(f"{path} is no error curve of this prior: {error}; remove it") from error
    return log_snr, errors


def _numbers(content: dict[str, Any], key: str) -> npt.NDArray[np.float64]:
    values = content.get(key)
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{key} is not a list of numbers")
    return np.array([float(value) for value in values])


def _problem(log_snr: npt.NDArray[np.float64], errors: npt.NDArray[np.float64]) -> str | None:
    """Why two arrays are no curve, or ``None``."""
    if len(log_snr) != len(errors) or len(log_snr) < 2:
        return f"{len(log_snr)} log-SNRs and {len(errors)} errors: give as many of both, at least 2"
    for name, values, (low, high) in (("log_snr", log_snr, LOG_SNR_BOUNDS), ("squared_error", errors, ERROR_BOUNDS)):
        if not np.all((values >= low) & (values <= high)):
            return f"a {name} is not in {low:g} to {high:g}"
    if np.diff(log_snr).min() < LEAST_GAP:
        return f"log_snr does not rise by at least {LEAST_GAP} everywhere"
    return None
