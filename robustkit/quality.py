"""Image quality against a reference: PSNR here, every other metric through pyiqa, loaded when asked for."""

from __future__ import annotations

import difflib
import functools
import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock

from PIL import ImageFile

from robustkit.errors import RobustkitError
from robustkit.pixels import Image, check_image, psnr

#: dB given to identical images, and the most that any pair gets.
PSNR_CAP = 100.0
# They compare sets of images, or need a caption.
_NOT_OF_ONE_PAIR = frozenset({"fid", "sfid", "fid_dinov2", "inception_score", "clipscore"})


class UnknownMetric(RobustkitError, KeyError):
    """No metric has that name; the message lists the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


class MetricUnavailable(RobustkitError, RuntimeError):
    """A metric that can't run here; the message names what is missing and how to get it."""


def measure(metric: str, reference: Image, image: Image, *, device: str = "cpu") -> float:
    """Quality of ``image`` against ``reference``, both uint8, H x W x 3, RGB.

    Args:
        metric: "psnr" (dB, RGB, peak 255, at most 100), or a name of pyiqa's: "ssim", "ms_ssim", "lpips", ...
            A no-reference metric ("niqe") looks at ``image`` alone.
        device: where pyiqa computes, as torch names it.

    Raises:
        UnknownMetric: no such metric.
        MetricUnavailable: its weights are not on this machine; nothing is downloaded.
        ValueError: shapes differ, or the metric can't take images of this size.
    """
    for given in (reference, image):
        check_image(given)
    if reference.shape != image.shape:
        raise ValueError(f"the image is {image.shape}, its reference {reference.shape}: they must be the same")
    if metric == "psnr":
        return min(PSNR_CAP, psnr(reference, image))
    import torch

    def tensor(pixels: Image) -> torch.Tensor:
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div(255)

    model = _model(metric, device)
    try:
        with _pillow_left_alone(), torch.inference_mode():
            return float(model(tensor(image), tensor(reference)))
    except (AssertionError, RuntimeError, ValueError) as problem:
        raise ValueError(f"{metric} can't measure images of shape {image.shape}: {problem}") from problem


@dataclass(frozen=True)
class Metric:
    """A quality metric.

    Attributes:
        name: as :func:`measure` takes it.
        higher_is_better: whether a larger value means a better image.
    """

    name: str
    higher_is_better: bool


class _Metrics(Mapping[str, Metric]):
    """Metrics by name. pyiqa, and with it torch, loads at the first question about any other than "psnr"."""

    def __getitem__(self, name: str) -> Metric:
        if name == "psnr":
            return Metric(name, higher_is_better=True)
        known = _configs()
        if name not in known:
            near = difflib.get_close_matches(name, self, n=3, cutoff=0.3)
            hint = f"did you mean {', '.join(near)}?" if near else "psnr, ssim, ms_ssim and lpips are usual"
            raise UnknownMetric(f"no metric for single images is named {name!r}: {hint}")
        return Metric(name, higher_is_better=not known[name].get("lower_better", False))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({"psnr", *_configs()}))

    def __len__(self) -> int:
        return len({"psnr", *_configs()})


#: Every metric that :func:`measure` takes, by name.
METRICS: Mapping[str, Metric] = _Metrics()


@contextmanager
def _pillow_left_alone() -> Iterator[None]:
    """Modules of pyiqa set Pillow's tolerance of truncated files for the whole process: put it back."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


@functools.cache
def _configs() -> dict[str, dict[str, Any]]:
    with _pillow_left_alone():
        import pyiqa  # noqa: F401 - its side effects belong inside the guard
        from pyiqa.default_model_configs import DEFAULT_CONFIGS
    return {name: config for name, config in DEFAULT_CONFIGS.items() if name not in _NOT_OF_ONE_PAIR}


class _Download(Exception):
    """A metric wanted to download something."""


@functools.lru_cache(maxsize=4)
def _model(metric: str, device: str) -> Any:
    METRICS[metric]  # an unknown name says so before anything else is tried
    import huggingface_hub.constants
    import pyiqa

    def refuse(url: str, destination: str, *_: Any, **__: Any) -> None:
        raise _Download(f"{url} (expected at {destination})")

    try:
        with ExitStack() as stack:
            stack.enter_context(_pillow_left_alone())
            # It prints "Downloading" before it asks, and colourful logs.
            for redirect in (redirect_stdout, redirect_stderr):
                stack.enter_context(redirect(io.StringIO()))
            for module in ("torch.hub", "pyiqa.utils.download_util"):
                stack.enter_context(mock.patch(f"{module}.download_url_to_file", refuse))
            stack.enter_context(mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
            return pyiqa.create_metric(metric, device=device)
    except (_Download, OSError, ImportError) as error:
        raise MetricUnavailable(
            f"metric {metric!r} needs what is not on this machine: {error}. Fetch it once, with a network: "
            f"python -c \"import pyiqa; pyiqa.create_metric('{metric}')\""
        ) from error
