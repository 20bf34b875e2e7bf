"""Image quality against a reference: PSNR, SSIM and MS-SSIM here, every other metric through pyiqa.

pyiqa is an extra, ``pip install 'robustkit[metrics]'``, and it and torch load when one of its metrics is asked for. Its
licence is PolyForm Noncommercial: a company may not use it for commercial purposes, nor results that depend on it.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import ImageFile

from robustkit.errors import RobustkitError
from robustkit.pixels import Image, check_image, psnr

#: dB given to identical images, and the most that any pair gets.
PSNR_CAP = 100.0
#: How to get the metrics that are not computed here, and on what terms.
INSTALL = (
    "pip install 'robustkit[metrics]' (pyiqa, PolyForm Noncommercial: neither it nor results that depend on it may be "
    "used for commercial purposes)"
)
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
        metric: "psnr" (dB, RGB, peak 255, at most 100); "ssim" or "ms_ssim" (on luma, 1 for equal images); or a name
            of pyiqa's: "lpips", "dists", ... A no-reference metric ("niqe") looks at ``image`` alone.
        device: where pyiqa computes, as torch names it.

    Raises:
        UnknownMetric: no such metric.
        MetricUnavailable: pyiqa or the metric's weights are not on this machine; nothing is downloaded.
        ValueError: shapes differ, the metric can't take images of this size, or it has no finite value for them.
    """
    for given in (reference, image):
        check_image(given)
    if reference.shape != image.shape:
        raise ValueError(f"the image is {image.shape}, its reference {reference.shape}: they must be the same")
    if metric == "psnr":
        return min(PSNR_CAP, psnr(reference, image))
    known = METRICS[metric]
    known.check_size(image)
    value = _COMPUTED[metric](reference, image) if metric in _COMPUTED else _by_pyiqa(metric, reference, image, device)
    if not math.isfinite(value):
        raise ValueError(f"{metric} can't measure these images, of shape {image.shape}: it came to {value}")
    return value


def check(metric: str, image: Image, *, device: str = "cpu") -> None:
    """Raise what :func:`measure` would for images of this size, so that it is known before anything is decoded.

    By :attr:`Metric.smallest`, or where the metric's authors give none by measuring ``image``'s negative against it.
    """
    known = METRICS[metric]
    known.check_size(image)
    if known.smallest is None:
        measure(metric, image, 255 - image, device=device)


def _luma(image: Image) -> npt.NDArray[np.float64]:
    """H x W, of BT.601, in whole grey levels as the authors' programs have it."""
    return np.asarray(np.round(image @ np.array([0.299, 0.587, 0.114])))


def _similarity(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> tuple[float, float]:
    """SSIM of two planes, and its factor for contrast and structure alone: means over the windows that lie inside.

    Not scikit-image's function, which is without that factor. As in pyiqa, negative structure counts as none.
    """
    from scipy.ndimage import gaussian_filter

    def windowed(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(gaussian_filter(plane, 1.5, radius=5))[5:-5, 5:-5]

    light, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_1, mean_2 = windowed(one), windowed(two)
    variances = (windowed(one * one) - mean_1**2) + (windowed(two * two) - mean_2**2)
    covariance = windowed(one * two) - mean_1 * mean_2
    structure = np.maximum(0, (2 * covariance + contrast) / (variances + contrast))
    similarity = (2 * mean_1 * mean_2 + light) / (mean_1**2 + mean_2**2 + light) * structure
    return float(similarity.mean()), float(structure.mean())


def _ssim(reference: Image, image: Image) -> float:
    """SSIM of the luma: Wang, Bovik, Sheikh and Simoncelli 2004 (doi 10.1109/TIP.2003.819861)."""
    return _similarity(_luma(reference), _luma(image))[0]


def _ms_ssim(reference: Image, image: Image) -> float:
    """MS-SSIM of the luma: Wang, Simoncelli and Bovik 2003 (doi 10.1109/ACSSC.2003.1292216)."""
    planes = _luma(reference), _luma(image)
    product = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        product *= _similarity(*planes)[1] ** weight
        planes = _halved(planes[0]), _halved(planes[1])
    return float(product * _similarity(*planes)[0] ** 0.1333)


def _halved(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means of 2 x 2 pixels; in front of an odd side stands a row of zeros, as in pyiqa."""
    height, width = plane.shape
    even = np.pad(plane, ((height % 2, 0), (width % 2, 0)))
    return np.asarray(even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean((1, 3)))


#: PSNR is computed where it is asked for.
_COMPUTED: Mapping[str, Callable[[Image, Image], float]] = {"ssim": _ssim, "ms_ssim": _ms_ssim}


def _by_pyiqa(metric: str, reference: Image, image: Image, device: str) -> float:
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
        unit: "dB", or nothing where the value is a plain number.
        package: whose code computes it, "robustkit" or "pyiqa".
        smallest: least side in pixels of an image that it takes; ``None`` where its authors give none.
    """

    name: str
    higher_is_better: bool
    unit: str = ""
    package: str = "pyiqa"
    smallest: int | None = None

    def check_size(self, image: Image) -> None:
        """Raise a ValueError if ``image`` has a side below :attr:`smallest`."""
        if self.smallest is not None and min(image.shape[:2]) < self.smallest:
            raise ValueError(
                f"{self.name} can't measure images of shape {image.shape}: give at least {self.smallest} pixels a side"
            )


#: Of the five scales of "ms_ssim", the coarsest must have room for the window of 11 pixels: 161 are halved to 11.
_OWN: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", higher_is_better=True, unit="dB", package="robustkit", smallest=1),
        Metric("ssim", higher_is_better=True, package="robustkit", smallest=11),
        Metric("ms_ssim", higher_is_better=True, package="robustkit", smallest=161),
    )
}


class _Metrics(Mapping[str, Metric]):
    """Metrics by name. pyiqa, and with it torch, loads at the first question about any that is not computed here.

    Without pyiqa these are all; another name is then unknown if it resembles one, and unavailable if it may be pyiqa's.
    """

    def __getitem__(self, name: str) -> Metric:
        if name in _OWN:
            return _OWN[name]
        if not _has_pyiqa():
            own = ", ".join(_OWN)
            if near := difflib.get_close_matches(name.lower(), _OWN, n=3, cutoff=0.8):
                hint = f"did you mean {', '.join(near)}? More come with {INSTALL}"
                raise UnknownMetric(f"no metric is named {name!r}: {hint}")
            raise MetricUnavailable(f"metric {name!r} is not among {own}; all others are pyiqa's: {INSTALL}")
        known = _configs()
        if name not in known:
            near = difflib.get_close_matches(name, self, n=3, cutoff=0.3)
            hint = f"did you mean {', '.join(near)}?" if near else "psnr, ssim, ms_ssim and lpips are usual"
            raise UnknownMetric(f"no metric for single images is named {name!r}: {hint}")
        return Metric(name, higher_is_better=not known[name].get("lower_better", False))

    def __contains__(self, name: object) -> bool:
        return name in _OWN or (_has_pyiqa() and name in _configs())

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*_OWN, *(_configs() if _has_pyiqa() else ())}))

    def __len__(self) -> int:
        return sum(1 for _ in self)


#: Every metric that :func:`measure` takes, by name.
METRICS: Mapping[str, Metric] = _Metrics()


def _has_pyiqa() -> bool:
    return importlib.util.find_spec("pyiqa") is not None


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
